"""How much of a model its inputs reach: the channels of rectified activations that they excite.

A bug in front of a channel that never fires cannot change an output, and a verdict on outputs that
are integers sees only what flips them. Neither makes a verdict wrong, but the reader has to know.

A channel of an activation counts as excited once it leaves the flat part of the function on some
input: for Relu its output is above 0 somewhere, for Clip above its minimum and below its maximum.
LeakyRelu, PRelu, Elu and the like have no flat part, but two; there it is the positive one. A
bound that nothing reaches is told as well: nobody would miss it.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass, replace
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import ModelProto

from normsurgery import io, runtime
from normsurgery.graph import Graph
from normsurgery.nodes import label
from normsurgery.validation.extremes import Probe, probed

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping

    from normsurgery.graph import Scope

    Feeds = Mapping[str, np.ndarray]

DISCRETE = frozenset(
    {"ArgMax", "ArgMin", "Ceil", "Equal", "Floor", "Greater", "GreaterOrEqual", "Less",
     "LessOrEqual", "NonMaxSuppression", "NonZero", "Round", "Sign", "TopK"}
)  # fmt: skip
_UNMOVED = frozenset(
    {"Cast", "Concat", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
)
LOW = 0.5
"""An activation of which less than this share is excited is named."""


@dataclass(frozen=True)
class Activation:
    """One rectified activation.

    Attributes:
        node: the node, and `output` what it makes.
        channels: how many it has; `excited` of them some input excited, the `silent` ones none.
        idle: the sides that no channel reaches on any input, ``minimum`` or ``maximum``: without
            that bound the model would compute the same there.

    """

    node: str
    output: str
    channels: int
    excited: int
    silent: tuple[int, ...]
    idle: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """The share of channels that are excited."""
        return self.excited / self.channels if self.channels else 1.0


@dataclass(frozen=True)
class Coverage:
    """What the input sets of a comparison reach.

    Attributes:
        activations: in the order of the graph.
        shares: the share of all channels excited after the first set, the first two, …
        discrete: outputs that are integers or steps: only what flips them is seen.
        unmeasured: activations of which nothing is known, and why.

    """

    activations: tuple[Activation, ...] = ()
    shares: tuple[float, ...] = ()
    discrete: tuple[str, ...] = ()
    unmeasured: tuple[str, ...] = ()

    @property
    def channels(self) -> int:
        """Channels of all activations."""
        return sum(one.channels for one in self.activations)

    @property
    def share(self) -> float | None:
        """The share of them that is excited; None where there are none."""
        excited = sum(one.excited for one in self.activations)
        return excited / self.channels if self.channels else None

    def warnings(self) -> list[str]:
        """What a verdict on these inputs cannot see, one line each."""
        low = [one for one in self.activations if one.share < LOW]
        lines = [
            f"{one.node}: {one.channels - one.excited} of {one.channels} channels never fire"
            for one in sorted(low, key=lambda one: one.share)
        ]
        idle = [(one.node, side) for one in self.activations for side in one.idle]
        lines += [f"{node}: no channel reaches its {side}" for node, side in idle]
        lines += [
            f"output {name!r} is discrete: only what flips it shows" for name in self.discrete
        ]
        return lines + [f"{what}: not measured" for what in self.unmeasured]

    def line(self) -> str:
        """One line for a terminal."""
        if self.share is None:
            line = "coverage: no rectified activations"
        else:
            line = f"coverage: {100 * self.share:.1f} % of {self.channels} channels of "
            line += f"{len(self.activations)} rectified activations are excited"
        found = self.warnings()
        return (
            f"{line}; {found[0]}" + (f" (and {len(found) - 1} more)" if found[1:] else "")
            if (found)
            else line
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON: plain types only."""
        return {"share": self.share, **asdict(self)}


def coverage(
    model: str | os.PathLike[str], sets: Iterable[Feeds], *, threads: int | None = None
) -> Coverage:
    """Run the model file on `sets`, one at a time, and say which channels they excite.

    Raises:
        NormSurgeryError: onnxruntime is not there, or does not run the model.

    """
    content = io.load(model)
    proto = ModelProto()
    proto.CopyFrom(content.proto)
    content = replace(content, proto=proto)
    graph = Graph(content)
    discrete = tuple(v.name for v in proto.graph.output if _is_discrete(graph.main, v.name))
    probes, unmeasured = probed(graph.main)
    if not probes:
        return Coverage((), (), discrete, tuple(unmeasured))
    shares = []
    with tempfile.TemporaryDirectory(prefix="normsurgery-") as folder:
        path = Path(folder, "probed.onnx")
        io.save(content, path)
        session = runtime.session(path, threads=threads, in_order=True)
        wanted = {one.name for one in session.get_inputs()}
        for feeds in sets:
            given = {name: array for name, array in feeds.items() if name in wanted}
            results = runtime.run(session, given)
            for probe in probes:
                probe.see(results)
            found = [probe.excited for probe in probes if probe.excited is not None]
            shares.append(float(np.mean(np.concatenate(found))))
    return Coverage(
        tuple(_activation(probe) for probe in probes),
        tuple(shares),
        discrete,
        tuple(unmeasured),
    )


def _activation(probe: Probe) -> Activation:
    excited = np.zeros(0, bool) if probe.excited is None else probe.excited.reshape(-1)
    silent = tuple(int(i) for i in np.flatnonzero(~excited))
    ends = {"minimum": bool((probe.lowest <= probe.low).any()), "maximum": probe.high == inf}
    ends["maximum"] |= bool((probe.highest >= probe.high).any())
    idle = tuple(side for side, reached in ends.items() if not reached and excited.size)
    name = probe.node.output[0]
    return Activation(label(probe.node), name, excited.size, int(excited.sum()), silent, idle)


def _is_discrete(main: Scope, name: str) -> bool:
    """Whether an output holds integers, truth values or steps that a computation decided."""
    for _ in range(64):
        maker = main.producer.get(name)
        if maker is None or not main.is_onnx(maker):
            return False
        if maker.op_type in DISCRETE:
            return maker.op_type != "TopK" or name != maker.output[0]
        if maker.op_type not in _UNMOVED:
            return False
        name = maker.input[0]
    return False
