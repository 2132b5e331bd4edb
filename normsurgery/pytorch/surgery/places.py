"""Where the constants of an exported graph lie in the module that it was exported from.

The graph's names are the module's own, so a change of a node's constant is a change of a parameter:
found here, refused where it would change something else as well, and carried out.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from onnx import numpy_helper, shape_inference
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
from torch.nn.modules.conv import _ConvNd as Conv
from torch.nn.modules.instancenorm import _InstanceNorm as InstanceNorm

from normsurgery.nodes import bodies, int_attribute
from normsurgery.pytorch.frozen import frozen_epsilon

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from onnx import GraphProto, ModelProto, NodeProto

_NORMAL = (BatchNorm.forward, nn.SyncBatchNorm.forward, InstanceNorm.forward)


@dataclass(frozen=True)
class Change:
    """Input ``slot`` of the node called ``node`` is ``values`` from now on; None: it is gone."""

    node: str
    slot: int
    values: np.ndarray | None


class Places:
    """The exported graph as it was, and the module whose parameters its constants are."""

    def __init__(self, module: nn.Module, before: ModelProto) -> None:
        """Name the nodes of ``before`` after their modules, in place, and index it."""
        self.module, self.graph = module, before.graph
        state = [
            *module.named_parameters(remove_duplicate=False),
            *module.named_buffers(remove_duplicate=False),
        ]
        self.state = dict(state)
        self.sharing = Counter((tensor.data_ptr(), tuple(tensor.shape)) for _, tensor in state)
        self.readers = Counter(_reads(before.graph))
        self.stored = {t.name: numpy_helper.to_array(t) for t in before.graph.initializer}
        typed = shape_inference.infer_shapes(before).graph
        infos = (*typed.value_info, *typed.input)
        self.ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in infos}
        self._name_nodes()
        self.nodes = {node.name: node for node in before.graph.node if node.name}

    def _name_nodes(self) -> None:
        taken = {node.name for node in self.graph.node}
        for node in self.graph.node:
            path = self.owner(node)
            if node.op_type == "BatchNormalization" and node.input[4] in self.state:
                path = node.input[4].rpartition(".")[0]
            if path and path not in taken:
                taken.add(path)
                node.name = path

    def owner(self, node: NodeProto) -> str | None:
        """Return the path of the module whose ``weight`` the node reads, in slot 1."""
        name = node.input[1] if len(node.input) > 1 else ""
        path, _, last = name.rpartition(".")
        return path if last == "weight" and name in self.state else None

    def norm(self, node: NodeProto) -> tuple[nn.Module, list[nn.Module]] | str:
        """Return the module that is the BatchNormalization ``node``, and what it does besides.

        That is: the activation of timm's BatchNormAct2d. A text says why there is none: a
        functional call, a module called twice, or one that does something else.
        """
        name = node.name or node.output[0]
        var = node.input[4] if node.op_type == "BatchNormalization" else ""
        path, _, last = var.rpartition(".")
        if last != "running_var" or var not in self.state:
            return f"`{name}` is a functional F.batch_norm; make it a BatchNorm module"
        found = self.module.get_submodule(path)
        if self.readers[var] > 1:
            kind = type(found).__name__
            return f"{kind} `{path}` is called more than once; give each call one of its own"
        rest = _rest(found)
        if rest is None:
            kind = type(found).__name__
            return (
                f"{kind} `{path}` does more than a BatchNorm in its forward; "
                "make the rest a module of its own"
            )
        return found, rest

    def rank(self, name: str) -> int | None:
        """Return the rank of the first input of the node called ``name``, if the export tells."""
        value = self.nodes[name].input[0]
        return self.ranks.get(value)

    def refusal(self, change: Change) -> str:
        """Return why a change cannot be made in the module, or an empty string."""
        node = self.nodes.get(change.node)
        if node is None:
            return f"`{change.node}` is no node of the export"
        if len(node.input) <= change.slot or not node.input[change.slot]:
            owner = self._owner_of_weight(node)
            if isinstance(owner, (Conv, nn.Linear)) and owner.bias is None and change.slot == 2:
                return ""
            return f"`{change.node}` is no module that could have a bias"
        name = node.input[change.slot]
        tensor = self.state.get(name)
        if tensor is None:
            return f"`{name}` is no plain parameter of the module"
        if self.readers[name] > 1 or self.sharing[tensor.data_ptr(), tuple(tensor.shape)] > 1:
            return f"`{name}` is read in several places"
        if change.values is not None and self._layout(name) is None:
            return f"`{name}` has another layout in the module"
        return ""

    def carry_out(self, change: Change) -> None:
        """Change the module. ``refusal`` had nothing against it."""
        node = self.nodes[change.node]
        if len(node.input) <= change.slot or not node.input[change.slot]:
            owner = self._owner_of_weight(node)
            assert owner is not None  # noqa: S101  refusal looked
            assert change.values is not None  # noqa: S101
            like = owner.weight
            assert isinstance(like, torch.Tensor)  # noqa: S101
            values = torch.from_numpy(change.values.astype(np.float64)).to(like)
            owner.bias = nn.Parameter(values, requires_grad=like.requires_grad)
            return
        name = node.input[change.slot]
        path, _, last = name.rpartition(".")
        if change.values is None:
            setattr(self.module.get_submodule(path), last, None)
            return
        flipped = self._layout(name) == "transposed"
        new = change.values.T if flipped else change.values
        tensor = self.state[name]
        with torch.no_grad():
            wide = torch.from_numpy(np.ascontiguousarray(new, np.float64))
            tensor.copy_(wide.reshape(tensor.shape))

    def _owner_of_weight(self, node: NodeProto) -> nn.Module | None:
        path = self.owner(node)
        return None if path is None else self.module.get_submodule(path)

    def _layout(self, name: str) -> str | None:
        """Return how the graph has the elements of a parameter: ``plain``, ``transposed``."""
        mine: np.ndarray = self.state[name].detach().float().cpu().numpy()
        theirs = self.stored.get(name)
        if theirs is None or theirs.size != mine.size:
            return None
        theirs = theirs.astype(np.float32)
        if np.array_equal(theirs.ravel(), mine.ravel(), equal_nan=True):
            return "plain"
        return "transposed" if np.array_equal(theirs.T, mine, equal_nan=True) else None


def changes(before: Places, after: ModelProto, norms: Collection[str]) -> Iterator[Change]:
    """Yield each constant of a node of ``before`` that is another one, or gone, in ``after``.

    norms: names of nodes not to look at, since their modules are replaced as a whole.
    """
    stored = {t.name: t for t in after.graph.initializer}
    for new in after.graph.node:
        old = before.nodes.get(new.name)
        if old is None or new.name in norms:
            continue
        flipped = int_attribute(old, "transB", 0) != int_attribute(new, "transB", 0)
        for slot in range(1, max(len(old.input), len(new.input))):
            was, now = (n.input[slot] if slot < len(n.input) else "" for n in (old, new))
            if now in stored:
                values = numpy_helper.to_array(stored[now])
                values = values.T if flipped and slot == 1 else values
                same = was in before.stored and np.array_equal(
                    values, before.stored[was], equal_nan=True
                )
                if not same:
                    yield Change(new.name, slot, values)
            elif was in before.stored and not now:
                yield Change(new.name, slot, None)


def _rest(norm: nn.Module) -> list[nn.Module] | None:
    """Return the modules that a norm applies after itself; None if it is not known.

    timm's BatchNormAct2d has ``drop`` and ``act``; that it does nothing else is tried out, on
    random numbers in float64.
    """
    if isinstance(norm, (BatchNorm, InstanceNorm)) and type(norm).forward in _NORMAL:
        return []
    if not isinstance(norm, BatchNorm):
        return None if frozen_epsilon(norm) is None else []
    names = [n for n in ("drop", "act") if isinstance(getattr(norm, n, None), nn.Module)]
    if frozen_epsilon(norm, names) is None:
        return None
    rest = [norm.get_submodule(name) for name in names]
    return [one for one in rest if not isinstance(one, nn.Identity)]


def _reads(graph: GraphProto) -> Iterator[str]:
    for node in graph.node:
        yield from node.input
        for body in bodies(node):
            yield from _reads(body)
