"""``normsurgery.pytorch.export``: a PyTorch module as ONNX with its norms kept, and proved."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from normsurgery import folding, io, models
from normsurgery.errors import ParityError, UsageError
from normsurgery.pytorch.copying import eval_copy, undisturbed
from normsurgery.pytorch.exporting import arguments, checking, cleaning, kept, tracing
from normsurgery.pytorch.exporting.result import ExportReport, ExportResult
from normsurgery.pytorch.preparing import prepare

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


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
    names, tensors = arguments.positional(module, args, input_names)
    free = arguments.free_axes(dynamic, names, tensors)
    with undisturbed():
        original = eval_copy(module)
        example = arguments.example(tensors, names, free)
        prepared, done = prepare(eval_copy(original))
        traced = tracing.trace(
            prepared,
            example,
            exporter=exporter,
            opset=opset,
            input_names=names,
            output_names=arguments.outputs(original, example, output_names),
            dynamic=free,
        )
        content = cleaning.clean(traced, _first_names(prepared))
        kept.refuse_batch_statistics(content.proto.graph)
        report = ExportReport(exporter, _opset(content), baked=done.baked, frozen=done.frozen)
        report.was_training = module.training
        if norms == "fold":
            folded = folding.fold(content)
            content, report.folded = io.from_proto(folded.model), folded.report
        report.norms = kept.count(content.proto.graph)
        models.stamp(content, "export", str)
        content.trailer = bytes  # there is no source file to name
        verdict = None
        if validate:
            verdict = checking.check(content, original, example, names, free)
            if not verdict.ok and not keep:
                raise ParityError(f"{verdict.line()}; the graph is not what the module computes")
    return ExportResult(content, models.Form.PATH, report, verdict)


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


def _opset(content: io.Model) -> int:
    return next(o.version for o in content.proto.opset_import if o.domain in {"", "ai.onnx"})
