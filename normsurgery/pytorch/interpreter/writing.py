"""``normsurgery.pytorch.update_weights``: trained numbers back into the graph they came from.

Numbers are rounded once, from the module's type to the tensor's own. A tensor whose numbers are
the same as before is not touched, so that an untrained module gives back the same bytes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import GraphProto, TensorProto

from normsurgery import dtypes, models
from normsurgery.errors import UsageError
from normsurgery.graph import Graph
from normsurgery.outcome import Outcome
from normsurgery.payloads import Computed
from normsurgery.pytorch.interpreter.stored import held

if TYPE_CHECKING:
    import os

    import torch
    from onnx import ModelProto

    from normsurgery.graph import Scope
    from normsurgery.pytorch.interpreter.module import GraphModule


@dataclass
class UpdateReport:
    """What ``update_weights`` wrote.

    written: names of the tensors with new numbers. same: how many kept theirs. split: outputs of
    Identity nodes that are initializers of their own now, since they no longer equal their source.
    """

    written: list[str] = field(default_factory=list)
    same: int = 0
    split: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data, ready for JSON."""
        return asdict(self)


@dataclass
class UpdateResult(Outcome):
    """The model with its new numbers, and what was written."""

    report: UpdateReport


def update_weights(
    model: str | os.PathLike[str] | ModelProto | Any, module: GraphModule
) -> UpdateResult:
    """Write a module's parameters and running statistics into the model that it was made from.

    model: what ``to_module`` was given; it is not changed. module: of any float type.

    Nothing else changes: the same nodes, names, types and shapes. The one exception is an Identity
    that stood for a copy of a parameter and now would not: it is replaced by an initializer of the
    same name. Numbers of initializers that callers may override are written as well: they are the
    defaults.

    Raises ``UsageError`` where the module is of another model, or holds numbers that are not
    finite or too large for the tensor's type; and what loading a model raises.
    """
    content, form = models.take(model)
    graph = Graph(content)
    homes = {
        name: (scope, tensor) for scope in graph.scopes for name, tensor in held(scope).items()
    }
    report = UpdateReport()
    # copies last: whether one equals its source is asked of the source's new numbers
    for name, origin, value in sorted(module.written(), key=lambda one: one[0] != one[1]):
        if origin not in homes:
            raise UsageError(f"the model has no tensor {origin!r}; it is not the module's model")
        scope, tensor = homes[origin]
        new = _rounded(name, value, tensor)
        old = graph.store.array(tensor)
        if new.tobytes() == np.asarray(old).tobytes():
            report.same += 1
        elif name == origin:
            graph.store.put(tensor, Computed(new, (), tensor.data_type))
            report.written.append(name)
        else:
            _split(scope, name, new, tensor)
            report.split.append(name)
    return UpdateResult(content, form, report)


def _rounded(name: str, value: torch.Tensor, tensor: TensorProto) -> dtypes.Array:
    """Return ``value`` in the type of ``tensor``."""
    if list(value.shape) != list(tensor.dims):
        raise UsageError(
            f"tensor {name!r} has shape {list(tensor.dims)}, the module's {list(value.shape)}; "
            "it is not the module's model"
        )
    exact = value.detach().double().cpu().numpy()
    if not np.isfinite(exact).all():
        raise UsageError(f"tensor {name!r} is not finite: training diverged; lower its rate")
    new = dtypes.round_to(exact, tensor.data_type)
    if not np.isfinite(new.astype(np.float64)).all():
        raise UsageError(f"tensor {name!r} overflows {dtypes.name_of(tensor.data_type)}")
    return new


def _split(scope: Scope, name: str, new: dtypes.Array, like: TensorProto) -> None:
    """Replace the Identity that makes ``name`` by an initializer of that name."""
    assert isinstance(scope.proto, GraphProto)  # noqa: S101  functions hold no initializers
    place = next(i for i, node in enumerate(scope.proto.node) if name in node.output)
    del scope.proto.node[place]
    tensor = TensorProto(name=name, data_type=like.data_type, dims=like.dims)
    scope.graph.store.put(tensor, Computed(new, (), like.data_type))
    scope.proto.initializer.append(tensor)
