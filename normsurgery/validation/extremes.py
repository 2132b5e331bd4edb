"""The highest and lowest value per channel of rectified activations, reduced inside the graph.

No activation leaves onnxruntime: a copy of the graph gets reductions behind each of them, and gives
their results as its only outputs.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import inf
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from normsurgery import shapes
from normsurgery.constants import Constant, constant_of
from normsurgery.dtypes import DOUBLE, FLOAT
from normsurgery.nodes import attribute, float_attribute, label

if TYPE_CHECKING:
    from collections.abc import Mapping

    from normsurgery.graph import Scope

RECTIFIERS = frozenset(
    {
        "Celu",
        "Clip",
        "Elu",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
        "LeakyRelu",
        "Mish",
        "PRelu",
        "Relu",
        "Selu",
        "Softplus",
        "Swish",
        "ThresholdedRelu",
    }
)
_BESIDE_MATMUL = frozenset({"Add", "Cast", "Div", "Dropout", "Identity", "Mul", "Sub"})
_RESHAPES = 5  # operator set from which on Reshape takes its shape as an input
_AXES_ARE_INPUT = 18


@dataclass
class Probe:
    """An activation, the two graph outputs that tell of it, and its flat values."""

    node: NodeProto
    most: str
    least: str
    low: float
    high: float
    excited: np.ndarray | None = None
    highest: np.ndarray = field(default_factory=lambda: np.array(-inf))
    lowest: np.ndarray = field(default_factory=lambda: np.array(inf))

    def see(self, results: Mapping[str, np.ndarray]) -> None:
        """Merge what one input set gave."""
        self.highest = np.fmax(self.highest, results[self.most].astype(np.float64))
        self.lowest = np.fmin(self.lowest, results[self.least].astype(np.float64))
        self.excited = (self.highest > self.low) & (self.lowest < self.high)


def probed(main: Scope) -> tuple[list[Probe], list[str]]:
    """Add reductions behind each activation, and make them the only outputs of the graph."""
    probes, unmeasured, nodes = [], [], []
    tensors: list[TensorProto] = []
    for node in list(main.nodes):
        nodes.append(_copy(node))
        if node.op_type not in RECTIFIERS or not main.is_onnx(node):
            continue
        bounds = _flat(main, node)
        rank = shapes.rank(main, node.output[0])
        vector = rank is not None and rank < 2 and not _is_last(main, node)
        if bounds is None or main.opset < _RESHAPES or vector:
            unmeasured.append(label(node))
            continue
        made, constants, (most, least) = _reductions(main, node)
        nodes += made
        tensors += constants
        probes.append(Probe(node, most, least, *bounds))
    inner = [scope for scope in main.graph.scopes if scope is not main]
    unmeasured += [label(node) for s in inner for node in s.nodes if node.op_type in RECTIFIERS]
    graph = main.graph.proto.graph
    probes = [replace(one, node=_copy(one.node)) for one in probes]
    del graph.node[:], graph.output[:], graph.value_info[:]
    del main.graph.proto.training_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend(tensors)
    for one in probes:
        graph.output.add(name=one.most)  # onnxruntime infers the types
        graph.output.add(name=one.least)
    return probes, unmeasured


def _flat(main: Scope, node: NodeProto) -> tuple[float, float] | None:
    """Return the values at and beyond which the output of an activation is stuck."""
    if node.op_type == "HardSigmoid":
        return 0.0, 1.0
    if node.op_type != "Clip":
        return 0.0, inf
    if main.opset < 11:
        return tuple(
            float_attribute(node, name, other) if attribute(node, name) else other
            for name, other in (("min", -inf), ("max", inf))
        )  # type: ignore[return-value]
    bounds = []
    for slot, other in ((1, -inf), (2, inf)):
        given = node.input[slot] if slot < len(node.input) else ""
        found = constant_of(main, given) if given else None
        if given and not isinstance(found, Constant):
            return None
        bounds.append(float(found.float64().reshape(())) if isinstance(found, Constant) else other)
    return bounds[0], bounds[1]


def _reductions(
    main: Scope, node: NodeProto
) -> tuple[list[NodeProto], list[TensorProto], tuple[str, str]]:
    """Return nodes that reduce an activation to its highest and lowest value per channel.

    Channels are on axis 1, or on the last behind a MatMul. Any rank is taken as (N, C, M), or as
    (M, C).
    """
    new, name = main.graph.unique_name, node.output[0]
    flat, most, least = (new(f"{name}_{part}") for part in ("flat", "highest", "lowest"))
    nodes, tensors = [], []
    if _is_last(main, node):
        nodes.append(helper.make_node("Flatten", [name], [flat], axis=-1))
        axes = [0]
    else:
        to = new(f"{name}_shape")
        tensors.append(numpy_helper.from_array(np.array([0, 0, -1]), to))
        nodes.append(helper.make_node("Reshape", [name, to], [flat]))
        axes = [0, 2]
    if shapes.elem_type(main, name) not in {FLOAT, DOUBLE}:  # few types have kernels
        wide = new(f"{name}_float32")
        nodes.append(helper.make_node("Cast", [flat], [wide], to=TensorProto.FLOAT))
        flat = wide
    over: list[str] = []
    attributes: dict[str, Any] = {"axes": axes, "keepdims": 0}
    if main.opset >= _AXES_ARE_INPUT:
        over = [new(f"{name}_axes")]
        tensors.append(numpy_helper.from_array(np.array(axes, np.int64), over[0]))
        del attributes["axes"]
    for kind, made in (("ReduceMax", most), ("ReduceMin", least)):
        nodes.append(helper.make_node(kind, [flat, *over], [made], **attributes))
    return nodes, tensors, (most, least)


def _is_last(main: Scope, node: NodeProto) -> bool:
    """Whether channels are on the last axis: a MatMul is behind it, by elementwise nodes alone."""
    if main.opset < 11:  # Flatten takes no negative axis
        return False
    name = node.input[0]
    for _ in range(16):
        maker = main.producer.get(name)
        if maker is None or not main.is_onnx(maker):
            return False
        if maker.op_type == "MatMul":
            return True
        if maker.op_type not in _BESIDE_MATMUL:
            return False
        name = next((x for x in maker.input if x in main.producer), "")
    return False


def _copy(node: NodeProto) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(node)
    return copy
