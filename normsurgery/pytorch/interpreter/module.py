"""The module that ``to_module`` gives: the tensors of a graph, and the program over them."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from normsurgery.errors import UsageError
from normsurgery.pytorch.interpreter import program
from normsurgery.pytorch.interpreter.elements import FLOATS, TORCH, from_proto
from normsurgery.pytorch.interpreter.program import CONTEXT, NATIVE, Context
from normsurgery.pytorch.interpreter.stored import CONSTANT, PARAMETER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from normsurgery.pytorch.interpreter.program import Program, Step
    from normsurgery.pytorch.interpreter.stored import Stored
    from normsurgery.tensors import TensorStore


class Branch(nn.Module):
    """A level of the names of parameters: ``layer1.conv.weight`` lies in two of them."""


class GraphModule(nn.Module):
    """An ONNX graph as a module; made by ``to_module``.

    Parameters have the names of the float initializers (``layer1.0.conv1.weight``); ``names``
    maps each ONNX name to the module's, which differ only where torch could not have the name.
    Running statistics are persistent buffers, all other constants buffers that ``state_dict``
    leaves out. ``eval()`` computes what the graph computes; ``train()`` makes BatchNormalization
    use and record batch statistics, as torch's own does, and Dropout drop.

    input_names, output_names: of the graph. batch_norms: names of its BatchNormalization nodes.
    random: a node whose result is another one at each run, in evaluation mode too.
    """

    def __init__(
        self,
        made: Program,
        stored: Mapping[int, Mapping[str, Stored]],
        store: TensorStore,
        inputs: Sequence[tuple[str, int | None]],
        outputs: Sequence[str],
        batch_norms: Sequence[str],
    ) -> None:
        super().__init__()
        self.input_names = tuple(name for name, _ in inputs)
        self.output_names = tuple(outputs)
        self.batch_norms = tuple(batch_norms)
        self.random = made.random
        self.names: dict[str, str] = {}
        self._types = [TORCH.get(elem_type or 0) for _, elem_type in inputs]
        self._program = made
        self._native = Context()
        self._context = Context(dtypes={dtype: dtype for dtype in FLOATS})
        self._origins: list[tuple[str, str]] = []
        self._slots: list[tuple[int, nn.Module, str]] = []
        self._kept: list[tuple[int, Any]] = []
        for (scope, name), index in made.stored.items():
            one = stored[scope][name]
            owner, key = self._place(name)
            value = from_proto(one.tensor, store)
            if one.kind == PARAMETER:
                owner.register_parameter(key, nn.Parameter(value))
            else:
                owner.register_buffer(key, value, persistent=one.kind != CONSTANT)
            self._slots.append((index, owner, key))
            if one.kind != CONSTANT:
                self._origins.append((name, one.origin))
        self._run_prelude()

    def forward(self, *args: Any, **named: Any) -> Any:
        """Return the graph's output, or a tuple of them all in the graph's order.

        Inputs are tensors (or NumPy arrays) in the graph's order, or by name. Floats are taken to
        the type that the module has now. Raises ``UsageError`` where they are too few or unknown.
        """
        values = self._values(self._given(args, named))
        del args, named
        program.run(self._program.steps, values)
        made = [values[i] for i in self._program.outputs]
        return made[0] if len(made) == 1 else tuple(made)

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Return every output by name for inputs by name."""
        made = self(*self._given((), feeds))
        outputs = (made,) if len(self.output_names) == 1 else made
        return dict(zip(self.output_names, outputs, strict=True))

    def freeze_statistics(self, *patterns: str) -> list[str]:
        """Make BatchNormalizations use their running statistics in training mode too.

        patterns: globs of node names, ``*`` if there are none; return the names that matched.
        ``freeze_statistics("")`` thaws all.
        """
        wanted = patterns or ("*",)
        chosen = {n for n in self.batch_norms if any(fnmatchcase(n, p) for p in wanted)}
        self._context.frozen = chosen
        return sorted(chosen)

    def steps(self) -> list[Step]:
        """Return what runs at each forward."""
        return self._program.steps

    def value_names(self) -> dict[int, str]:
        """Return the names of the values that nodes make, by their place in the list."""
        return self._program.names

    def values_for(self, feeds: Mapping[str, Any]) -> list[Any]:
        """Return the list of values that steps begin with, for inputs by name."""
        return self._values(self._given((), feeds))

    def taken(self, value: torch.Tensor) -> torch.Tensor:
        """Return a tensor of the model where the module is, and in its types."""
        return value.to(self._context.device, self._context.real(value.dtype))

    def _values(self, inputs: Sequence[Any]) -> list[Any]:
        """Return the values that steps begin with."""
        values: list[Any] = [None] * self._program.size
        values[CONTEXT], values[NATIVE] = self._context, self._native
        self._context.training = self._native.training = self.training
        for i, owner, key in self._slots:
            values[i] = getattr(owner, key)
        for i, value in self._kept:
            values[i] = value
        for i, value, dtype in zip(self._program.inputs, inputs, self._types, strict=True):
            values[i] = self._taken(value, dtype)
        return values

    def written(self) -> Iterator[tuple[str, str, torch.Tensor]]:
        """Yield parameters and statistics: name, name of the tensor that held them, numbers."""
        for name, origin in self._origins:
            path, _, key = self.names[name].rpartition(".")
            yield name, origin, getattr(self.get_submodule(path), key)

    def _given(self, args: Sequence[Any], named: Mapping[str, Any]) -> Sequence[Any]:
        names = self.input_names
        if not named and len(args) == len(names):
            return args
        unknown = [name for name in named if name not in names[len(args) :]]
        if unknown or len(args) > len(names):
            extra = unknown[0] if unknown else f"number {len(args)}"
            raise UsageError(f"the model has no further input {extra!r}; it has {list(names)}")
        missing = [name for name in names[len(args) :] if name not in named]
        if missing:
            raise UsageError(f"input {missing[0]!r} is missing; the model takes {list(names)}")
        return [*args, *(named[name] for name in names[len(args) :])]

    def _taken(self, value: Any, dtype: torch.dtype | None) -> Any:
        if not isinstance(value, torch.Tensor):
            if isinstance(value, (list, tuple)):
                return [self._taken(one, dtype) for one in value]
            value = torch.as_tensor(value, device=self._context.device)
        wanted = self._context.real(dtype) if dtype is not None else value.dtype
        return value if value.dtype is wanted else value.to(wanted)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        """Follow a change of type or device: see ``nn.Module._apply``."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        context = self._context
        like = {
            of: fn(torch.empty(0, dtype=now, device=context.device))
            for of, now in context.dtypes.items()
        }
        context.dtypes = {of: one.dtype for of, one in like.items()}
        context.device = like[torch.float32].device
        self._run_prelude()
        return self

    def _run_prelude(self) -> None:
        """Compute what depends on constants alone, once, in the module's types and place."""
        self._kept = []
        values: list[Any] = [None] * self._program.size
        values[CONTEXT], values[NATIVE] = self._context, self._native
        for i, owner, key in self._slots:
            values[i] = getattr(owner, key)
        with torch.inference_mode(mode=False), torch.no_grad():
            program.run(self._program.prelude, values)
        self._kept = list(self._program.known.items())
        for step in self._program.prelude:
            writes = (step[2],) if isinstance(step[2], int) else step[2]
            self._kept += ((i, values[i]) for i in writes if values[i] is not None)

    def _place(self, name: str) -> tuple[nn.Module, str]:
        """Return the module and key for a tensor; make the levels of its name.

        A part of the name that torch or its attributes have taken gets underscores.
        """
        owner: nn.Module = self
        *levels, key = name.split(".")
        path = []
        for level in levels:
            while not _fits(owner, level, branch=True):
                level += "_"  # noqa: PLW2901  the same level under another name
            if level not in dict(owner.named_children()):
                owner.add_module(level, Branch())
            owner = owner.get_submodule(level)
            path.append(level)
        while not _fits(owner, key, branch=False):
            key += "_"
        self.names[name] = ".".join([*path, key])
        return owner, key


def _fits(owner: nn.Module, key: str, *, branch: bool) -> bool:
    """Whether ``owner`` can have a child or tensor called ``key``."""
    if branch and key in dict(owner.named_children()):
        return True
    return bool(key) and not hasattr(owner, key)
