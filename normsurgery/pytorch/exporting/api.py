"""``normsurgery.pytorch.export``: a PyTorch module as ONNX with its norms kept, and proved."""

from __future__ import annotations

import inspect
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from normsurgery import folding, io, models
from normsurgery.errors import ModuleError, NormSurgeryError, ParityError, UsageError
from normsurgery.nodes import bodies, int_attribute, label
from normsurgery.pytorch import checking, running
from normsurgery.pytorch.copying import eval_copy, first_line, undisturbed
from normsurgery.pytorch.exporting import cleaning, tracing
from normsurgery.pytorch.preparing import prepare

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from onnx import GraphProto, ModelProto, NodeProto

    from normsurgery.pytorch.exporting.tracing import Dynamic
    from normsurgery.report import FoldReport
    from normsurgery.validation import Parity

NORMS = frozenset(
    {
        "BatchNormalization", "GroupNormalization", "InstanceNormalization",
        "LayerNormalization", "RMSNormalization",
    }
)  # fmt: skip


@dataclass
class ExportReport:
    """The outcome of ``export``.

    norms: how many of each normalization the model has, GroupNormalization in its portable form
    included (``groups``). was_training: the module was in
    training mode, and was exported in evaluation mode. baked: weights that parametrizations
    (weight_norm, spectral_norm) computed. frozen: modules that were a BatchNorm written by hand.
    folded: the report of folding, with ``norms="fold"``.
    """

    exporter: str
    opset: int
    norms: dict[str, int] = field(default_factory=dict)
    was_training: bool = False
    baked: list[str] = field(default_factory=list)
    frozen: list[str] = field(default_factory=list)
    folded: FoldReport | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data, ready for JSON."""
        return asdict(self)


@dataclass
class ExportResult:
    """An exported model, the report, and the verdict of parity (None if it was not asked for)."""

    report: ExportReport
    content: io.Model
    parity: Parity | None

    @property
    def model(self) -> ModelProto:
        """The exported model."""
        return io.to_proto(self.content)

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        force: bool = False,
        external: bool | None = None,
        check: Callable[[Path], None] | None = None,
    ) -> Path | None:
        """Save the model; return the external data file beside it, if there is one.

        Arguments and errors are those of ``normsurgery.io.save``.
        """
        return io.save(self.content, path, force=force, external=external, check=check)


def export(
    module: nn.Module,
    args: torch.Tensor | Sequence[torch.Tensor] | Mapping[str, torch.Tensor],
    *,
    opset: int | None = None,
    norms: str = "keep",
    dynamic: str | Mapping[str, Mapping[int, str]] = "",
    exporter: str = "dynamo",
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    validate: bool = True,
    keep: bool = False,
) -> ExportResult:
    """Export ``module`` in evaluation mode, each normalization as one node, and prove it.

    Args:
        module: any ``nn.Module``; it is not changed: neither mode, weights, gradients, hooks nor
            the state of the random generators.
        args: the arguments of ``forward``, tensors: one, several, or by name: of its parameters,
            or, where no name is one of a parameter, of the graph's inputs in the order given.
        opset: of ONNX; 18 for dynamo and 17 for legacy unless given.
        norms: ``keep``, or ``fold`` them into the linear layers (``normsurgery.fold``).
        dynamic: a name, such as ``batch``: the first axis of every input is free and has it; or
            by input, the names of its free axes: ``{"x": {0: "batch", 2: "height"}}``.
        exporter: ``dynamo`` (torch.export) or ``legacy`` (TorchScript).
        input_names: of the graph; those of ``forward``'s parameters unless given.
        output_names: of the graph; ``output`` or ``output_0`` … unless given, and the keys
            where ``forward`` returns a dict of tensors.
        validate: compare with the module (``checking``); needs no onnxruntime, but uses it.
        keep: return the result though parity failed; ``result.parity`` has the verdict.

    Raises:
        ModuleError: what the module holds cannot be exported; the message names it.
        ParityError: the graph does not compute what the module computes.
        UsageError: the call itself makes no sense.
        MissingPackageError: torch's exporter needs a package that is not there.

    """
    opset = tracing.check_opset(exporter, opset)
    if norms not in {"keep", "fold"}:
        raise UsageError(f"norms={norms!r} is unknown; it is keep or fold")
    if not isinstance(module, nn.Module):
        raise UsageError(f"a {type(module).__name__} is no torch.nn.Module")
    names, tensors = arguments(module, args, input_names)
    free = _dynamic(dynamic, names, tensors)
    with undisturbed():
        original = eval_copy(module)
        example = _example(tensors, names, free)
        prepared, done = prepare(eval_copy(original))
        traced = tracing.trace(
            prepared,
            example,
            exporter=exporter,
            opset=opset,
            input_names=names,
            output_names=_output_names(original, example, output_names),
            dynamic=free,
        )
        content = cleaning.clean(traced, _first_names(prepared))
        _refuse_batch_statistics(content.proto.graph)
        report = ExportReport(exporter, _opset(content), baked=done.baked, frozen=done.frozen)
        report.was_training = module.training
        if norms == "fold":
            folded = folding.fold(content)
            content, report.folded = io.from_proto(folded.model), folded.report
        report.norms = _count_norms(content.proto.graph)
        models.stamp(content, "export", str)
        content.trailer = bytes  # there is no source file to name
        verdict = None
        if validate:
            verdict = checking.check(content, original, example, names, free)
            if not verdict.ok and not keep:
                raise ParityError(f"{verdict.line()}; the graph is not what the module computes")
    return ExportResult(report, content, verdict)


def arguments(
    module: nn.Module,
    args: torch.Tensor | Sequence[torch.Tensor] | Mapping[str, torch.Tensor],
    wanted: Sequence[str] | None,
) -> tuple[list[str], list[torch.Tensor]]:
    """Return the graph's input names and the positional arguments of ``forward``."""
    parameters = [
        p for p in inspect.signature(module.forward).parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]  # fmt: skip
    known = [p.name for p in parameters]
    if isinstance(args, torch.Tensor):
        tensors = [args]
    elif hasattr(args, "keys"):
        given = dict(args)
        order = [name for name in known if name in given]
        if not order:
            order = known = list(given)
        elif len(order) < len(given):
            strange = next(name for name in given if name not in known)
            raise UsageError(
                f"forward has no parameter {strange!r}; it has {', '.join(known) or 'none'}"
            )
        if order != known[: len(order)]:
            raise UsageError(f"forward takes {known[0]!r} first: give that input as well")
        tensors, wanted = [given[name] for name in order], wanted or order
    else:
        tensors = list(args)
    strange = next((type(t).__name__ for t in tensors if not isinstance(t, torch.Tensor)), None)
    if strange is not None or not tensors:
        raise UsageError(f"args are tensors, at least one; got {strange or 'none'}")
    names = list(wanted) if wanted is not None else known[: len(tensors)]
    names += [f"input_{i}" for i in range(len(names), len(tensors))] if wanted is None else []
    if len(names) != len(tensors) or len(set(names)) < len(names):
        raise UsageError(f"{len(tensors)} inputs need as many different names: {', '.join(names)}")
    return names, [tensor.detach().cpu() for tensor in tensors]


def _dynamic(
    dynamic: str | Mapping[str, Mapping[int, str]],
    names: Sequence[str],
    tensors: Sequence[torch.Tensor],
) -> Dynamic:
    if isinstance(dynamic, str):
        with_axes = [n for n, t in zip(names, tensors, strict=True) if t.dim()]
        return {name: {0: dynamic} for name in with_axes} if dynamic else {}
    ranks = {name: tensor.dim() for name, tensor in zip(names, tensors, strict=True)}
    for name, axes in dynamic.items():
        if name not in ranks:
            raise UsageError(f"dynamic: there is no input {name!r}; there is {', '.join(names)}")
        bad = next((axis for axis in axes if not 0 <= axis < ranks[name]), None)
        if bad is not None:
            raise UsageError(f"dynamic: input {name!r} has no axis {bad}, it has {ranks[name]}")
    return {name: dict(axes) for name, axes in dynamic.items() if axes}


def _example(
    tensors: Sequence[torch.Tensor], names: Sequence[str], free: Dynamic
) -> tuple[torch.Tensor, ...]:
    """Repeat what has one element along a free axis: torch.export takes a 1 for a constant."""
    made = []
    for name, tensor in zip(names, tensors, strict=True):
        for axis in free.get(name, {}):
            if tensor.shape[axis] == 1:
                tensor = torch.cat([tensor, tensor], axis)  # noqa: PLW2901
        made.append(tensor)
    return tuple(made)


def _output_names(
    module: nn.Module, args: Sequence[torch.Tensor], wanted: Sequence[str] | None
) -> list[str]:
    """Run the module once to see what it gives; raise ``ModuleError`` where it does not run."""
    try:
        with torch.no_grad():
            value = module(*args)
    except NormSurgeryError:
        raise
    except Exception as error:  # whatever the module raises
        raise ModuleError(f"the module does not run on its inputs: {first_line(error)}") from error
    count = len(list(running.flat(value)))
    if not count:
        raise ModuleError(f"forward returns a {type(value).__name__} without tensors")
    if wanted is not None:
        if len(wanted) != count or len(set(wanted)) < count:
            raise UsageError(f"{count} outputs need as many different output_names")
        return list(wanted)
    if isinstance(value, dict) and all(isinstance(v, torch.Tensor) for v in value.values()):
        return [str(key) for key in value]
    return ["output"] if count == 1 else [f"output_{i}" for i in range(count)]


def _first_names(module: nn.Module) -> dict[str, str]:
    """Return for each parameter and buffer the first name of the tensor that it is."""
    first: dict[tuple[int, tuple[int, ...]], str] = {}
    names = {}
    state = (
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    )
    for name, tensor in state:
        key = (tensor.data_ptr() or id(tensor), tuple(tensor.shape))
        names[name] = first.setdefault(key, name)
    return names


def _refuse_batch_statistics(graph: GraphProto) -> None:
    """Raise for a BatchNormalization of run-time statistics: ``F.batch_norm`` in training mode."""
    stored = {tensor.name for tensor in graph.initializer}
    for node in _all(graph):
        if node.op_type != "BatchNormalization":
            continue
        computed = any(name not in stored for name in node.input[3:5])
        if computed or int_attribute(node, "training_mode", 0) or len(node.output) > 1:
            raise ModuleError(
                f"{label(node)}: it normalizes with statistics of the batch at hand "
                "(F.batch_norm in training mode, or without running statistics), so that an "
                "output depends on the rest of its batch; give it stored statistics"
            )


def _count_norms(graph: GraphProto) -> dict[str, int]:
    makers = {name: node.op_type for node in _all(graph) for name in node.output}
    kinds = [
        "GroupNormalization"
        if node.op_type == "InstanceNormalization" and makers.get(node.input[0]) == "Reshape"
        else node.op_type
        for node in _all(graph)
        if node.op_type in NORMS
    ]
    return dict(sorted(Counter(kinds).items()))


def _all(graph: GraphProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for body in bodies(node):
            yield from _all(body)


def _opset(content: io.Model) -> int:
    return next(o.version for o in content.proto.opset_import if o.domain in {"", "ai.onnx"})
