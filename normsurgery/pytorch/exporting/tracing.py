"""torch's two exporters, told to keep every normalization and to leave the weights as they are."""

from __future__ import annotations

import contextlib
import inspect
import io
from typing import TYPE_CHECKING, Any
from unittest import mock

import onnx
import torch

from normsurgery.errors import MissingPackageError, ModuleError, NormSurgeryError, UsageError
from normsurgery.pytorch.copying import first_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import nn

EXPORTERS = {"dynamo": 18, "legacy": 17}
"""The exporters, and the opset that each writes unless another is asked for."""

Dynamic = dict[str, dict[int, str]]


class ExporterError(ModuleError):
    """torch's exporter refuses the module; the other one may not."""


def trace(
    module: nn.Module,
    args: Sequence[torch.Tensor],
    *,
    exporter: str,
    opset: int,
    input_names: Sequence[str],
    output_names: Sequence[str],
    dynamic: Dynamic,
) -> onnx.ModelProto:
    """Export ``module``, prepared and in evaluation mode.

    dynamic: by input name, the axes that are free, and the names of their dimensions.
    Raises ``ModuleError`` with the first line of what the exporter says, ``MissingPackageError``.
    """
    call = _dynamo if exporter == "dynamo" else _legacy
    try:
        with torch.no_grad(), _silent():
            given = tuple(a.clone() for a in args)  # the module may write into them
            return call(module, given, opset, list(input_names), list(output_names), dynamic)
    except NormSurgeryError:
        raise
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"torch's {exporter} exporter needs {error.name}; "
            f"mend it with: pip install {error.name}"
        ) from error
    except Exception as error:  # the exporter raises whatever the module's own code raises, too
        cause = _cause(error)
        if isinstance(cause, NormSurgeryError):
            raise cause from error
        other = next(name for name in EXPORTERS if name != exporter)
        raise ExporterError(
            f"torch's {exporter} exporter refuses the module: {type(cause).__name__}: "
            f"{first_line(cause)} (try the {other} exporter)"
        ) from error


def _dynamo(
    module: nn.Module,
    args: tuple[torch.Tensor, ...],
    opset: int,
    input_names: list[str],
    output_names: list[str],
    dynamic: Dynamic,
) -> onnx.ModelProto:
    """``optimize=False``: the optimizer folds BatchNormalization away."""
    symbols: dict[str, Any] = {}
    shapes = tuple(
        {
            axis: symbols.setdefault(dim, torch.export.Dim(dim))
            for axis, dim in dynamic.get(name, {}).items()
        }
        for name in input_names
    )
    program = torch.onnx.export(
        module,
        args,
        input_names=input_names,
        output_names=output_names or None,
        dynamic_shapes=_by_argument(module, shapes) if dynamic else None,
        opset_version=opset,
        dynamo=True,
        optimize=False,
        verbose=False,
        external_data=False,
    )
    if program is None:
        raise ModuleError("torch's dynamo exporter made no model")
    model: onnx.ModelProto = program.model_proto
    _part(model.graph, input_names, output_names)
    return model


def _part(graph: onnx.GraphProto, input_names: list[str], output_names: list[str]) -> None:
    """Give an output that is an input, or another output, a name of its own.

    The exporter renames the one value that both are, and loses the other name.
    """
    for value, name in zip(graph.input, input_names, strict=False):
        if value.name != name:
            graph.node.insert(0, onnx.helper.make_node("Identity", [name], [value.name]))
            value.name = name
    for value, name in zip(graph.output, output_names, strict=False):
        if value.name != name:
            graph.node.append(onnx.helper.make_node("Identity", [value.name], [name]))
            value.name = name


def _by_argument(module: nn.Module, shapes: tuple[Mapping[int, Any], ...]) -> Any:
    """Nest the shapes of ``forward(*args)``, which torch.export wants as one tuple by itself."""
    kinds = inspect.signature(module.forward).parameters.values()
    if any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in kinds):
        fixed = sum(p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD for p in kinds)
        return (*shapes[:fixed], shapes[fixed:])
    return shapes


def _legacy(
    module: nn.Module,
    args: tuple[torch.Tensor, ...],
    opset: int,
    input_names: list[str],
    output_names: list[str],
    dynamic: Dynamic,
) -> onnx.ModelProto:
    """``PRESERVE`` and no constant folding: else BatchNormalization is folded away."""
    buffer = io.BytesIO()
    torch.onnx.export(
        module,
        args,
        buffer,  # type: ignore[arg-type]  # the legacy exporter writes to one
        input_names=input_names,
        output_names=output_names or None,
        dynamic_axes={name: dict(axes) for name, axes in dynamic.items()} or None,
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
        opset_version=opset,
        dynamo=False,
    )
    return onnx.load_from_string(buffer.getvalue())


def check_opset(exporter: str, opset: int | None) -> int:
    """Return the opset to write; raise ``UsageError`` for one that the exporter does not have."""
    if exporter not in EXPORTERS:
        raise UsageError(f"exporter={exporter!r} is unknown; it is one of {', '.join(EXPORTERS)}")
    if opset is None:
        return EXPORTERS[exporter]
    lowest, highest = (18, onnx.defs.onnx_opset_version()) if exporter == "dynamo" else (11, 20)
    if not lowest <= opset <= highest:
        raise UsageError(f"opset {opset}: torch's {exporter} exporter writes {lowest} to {highest}")
    return opset


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep what the exporters print about a failure off both streams.

    The legacy one prints the whole graph from C++, past ``sys.stdout``, and has no working switch
    for it (it switches the log on where it means to ask whether it is).
    """
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        mock.patch.object(torch._C, "_jit_onnx_log", create=True),  # noqa: SLF001
    ):
        yield


def _cause(error: BaseException) -> BaseException:
    """Return the exception at the bottom: the exporters wrap it in pages of advice."""
    seen = {id(error)}
    while (deeper := error.__cause__) is not None and id(deeper) not in seen:
        seen.add(id(deeper))
        error = deeper
    return error
