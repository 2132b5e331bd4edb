"""One node as an entry of the table sees it: attributes, and what is known of its inputs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from normsurgery.errors import UnsupportedModelError
from normsurgery.nodes import attribute, label
from normsurgery.pytorch.interpreter.table import Kernel

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from onnx import AttributeProto, GraphProto, NodeProto

    from normsurgery.pytorch.interpreter.program import Function

# Of opsets that are gone, without meaning for the result.
_IGNORED = frozenset({"consumed_inputs"})


@dataclass(frozen=True)
class Operand:
    """A value of the graph, before anything runs.

    index: where it will be. const: its value if that is known now, on the CPU, in the model's own
    type. host: it comes of shapes, and stays on the CPU. stored: the name of the stored tensor
    that it is, if it is one.
    """

    index: int
    const: torch.Tensor | None = None
    host: bool = False
    dims: tuple[int | None, ...] | None = None
    elem_type: int | None = None
    stored: str | None = None


@dataclass(frozen=True)
class Call:
    """One node with its operands; None for an input left out.

    opset: of the domain that the node is from. build: makes a program of a body, see ``bodies``.
    """

    node: NodeProto
    opset: int
    operands: tuple[Operand | None, ...]
    read: Callable[[Any], torch.Tensor]
    build: Callable[[GraphProto], Any]
    asked: set[str] = field(default_factory=set)

    def has(self, slot: int) -> bool:
        """Whether input ``slot`` is there."""
        return slot < len(self.operands) and self.operands[slot] is not None

    def operand(self, slot: int) -> Operand | None:
        """Return input ``slot``, if it is there."""
        return self.operands[slot] if slot < len(self.operands) else None

    def const(self, slot: int) -> torch.Tensor | None:
        """Return the value of input ``slot``, if it is known before the model runs."""
        found = self.operand(slot)
        return None if found is None else found.const

    def dims(self, slot: int) -> tuple[int | None, ...] | None:
        """Return the dimensions of input ``slot``, None for those not fixed, if they are known."""
        found = self.operand(slot)
        return None if found is None else found.dims

    def rank(self, slot: int) -> int | None:
        """Return the number of dimensions of input ``slot``, if it is known."""
        dims = self.dims(slot)
        return None if dims is None else len(dims)

    def outputs(self) -> int:
        """Return how many outputs the node names, up to the last."""
        return max((i + 1 for i, name in enumerate(self.node.output) if name), default=0)

    def attribute(self, name: str) -> AttributeProto | None:
        """Return an attribute; those that no entry asks for are refused."""
        self.asked.add(name)
        return attribute(self.node, name)

    def integer(self, name: str, default: int) -> int:
        """Return an integer attribute."""
        found = self.attribute(name)
        return default if found is None else found.i

    def real(self, name: str, default: float) -> float:
        """Return a float attribute as the float32 that it is, or ``default`` rounded to one."""
        found = self.attribute(name)
        return float(np.float32(default if found is None else found.f))

    def text(self, name: str, default: str) -> str:
        """Return a string attribute."""
        found = self.attribute(name)
        return default if found is None else found.s.decode(errors="replace")

    def ints(self, name: str) -> list[int] | None:
        """Return a list of integers, if the attribute is there."""
        found = self.attribute(name)
        return None if found is None else list(found.ints)

    def floats(self, name: str) -> list[float] | None:
        """Return a list of floats as the float32 that they are, if the attribute is there."""
        found = self.attribute(name)
        return None if found is None else [float(np.float32(f)) for f in found.floats]

    def choice(self, name: str, default: str, *known: str) -> str:
        """Return a string attribute that is one of ``known``; refuse any other."""
        text = self.text(name, default)
        if text not in known:
            raise self.refuse(f"{name} {text!r} is not known")
        return text

    def listed(self, slot: int) -> Any:
        """Return input ``slot`` as Python numbers if it is known, else None."""
        const = self.const(slot)
        return None if const is None else const.tolist()

    def bound(
        self, function: Function, tensors: tuple[int, ...], lists: tuple[int, ...], **more: Any
    ) -> Kernel:
        """Return a kernel that calls ``function(*tensors, *lists)``; both are input slots.

        Those of ``lists`` arrive as Python numbers, None where left out: read here once if they
        are constant, else from the tensor at each run. more: attributes of the kernel.
        """
        given = tuple(slot for slot in lists if self.has(slot))
        late = tuple(slot for slot in given if self.const(slot) is None)
        known = [self.listed(slot) if slot in given else None for slot in lists]
        count = len(tensors) + bool(more.get("context"))
        if not late:

            def early(*values: Any) -> Any:
                return function(*values, *known)

            return Kernel(early, tensors, **more)
        places = [lists.index(slot) for slot in late]

        def run(*values: Any) -> Any:
            numbers = list(known)
            for place, value in zip(places, values[count:], strict=True):
                numbers[place] = value.tolist()
            return function(*values[:count], *numbers)

        return Kernel(run, (*tensors, *late), lists=late, **more)

    def moved(
        self, function: Function, name: str, slot: int, tensors: tuple[int, ...] = (0,)
    ) -> Kernel:
        """Like ``bound`` for one list that is attribute ``name`` in older opsets, else an input."""
        old = self.ints(name)
        if old is None:
            return self.bound(function, tensors, (slot,))
        return Kernel(lambda *values: function(*values, old), tensors)

    def refuse(self, why: str) -> UnsupportedModelError:
        """Return the error that says why this node cannot be imported."""
        return UnsupportedModelError(f"{label(self.node)}: {why}")

    def unknown_attribute(self) -> str | None:
        """Return an attribute that the entry did not ask for."""
        names = (a.name for a in self.node.attribute)
        return next((n for n in names if n not in self.asked and n not in _IGNORED), None)
