"""Small networks, a float64 fold of them, and bugs to plant."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, parser

OPSET = 17


def graph(text, opset=OPSET, ir=8, **initializers):
    """A model from the body of an onnx.parser graph, with arrays as initializers."""
    domains = '"": %d, "local": 1, "ai.onnx.ml": 3' % opset  # noqa: UP031 - braces in the text
    model = parser.parse_model(f"<ir_version: {ir}, opset_import: [{domains}]> {text}")
    for name, array in initializers.items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


def conv_bn_net(dtype=np.float32, seed=0, batch="N", size=16):
    """conv-bn-relu, depthwise conv-bn, conv-bn, add, pool, gemm: x (N, 3, S, S) → scores (N, 5)."""
    rng = np.random.default_rng(seed)
    nodes, inits = [], []

    def init(name, array):
        inits.append(numpy_helper.from_array(np.asarray(array).astype(dtype), name))
        return name

    def conv_bn(name, x, fan_in, out, kernel, group=1):
        w = rng.normal(size=(out, fan_in // group, kernel, kernel))
        w = init(f"{name}.w", w / np.sqrt(fan_in // group * kernel**2))
        nodes.append(
            helper.make_node(
                "Conv", [x, w], [f"{name}.c"], name=name, group=group, pads=[kernel // 2] * 4
            )
        )
        parts = {
            "scale": rng.uniform(0.5, 1.5, out),
            "bias": rng.normal(size=out) * 0.3,
            "mean": rng.normal(size=out) * 0.3,
            "var": rng.uniform(0.3, 1.5, out),
        }
        inputs = [f"{name}.c", *(init(f"{name}.{part}", v) for part, v in parts.items())]
        nodes.append(helper.make_node("BatchNormalization", inputs, [f"{name}.y"], epsilon=1e-3))
        return f"{name}.y"

    x = conv_bn("a", "x", 3, 8, 3)
    nodes.append(helper.make_node("Relu", [x], ["r"]))
    y = conv_bn("b", "r", 8, 8, 3, group=8)
    y = conv_bn("c", y, 8, 8, 1)
    nodes.append(helper.make_node("Add", ["r", y], ["s"]))
    nodes.append(helper.make_node("GlobalAveragePool", ["s"], ["p"]))
    nodes.append(helper.make_node("Flatten", ["p"], ["f"]))
    init("fc.w", rng.normal(size=(8, 5)))
    init("fc.b", rng.normal(size=5))
    nodes.append(helper.make_node("Gemm", ["f", "fc.w", "fc.b"], ["scores"]))
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    made = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", kind, [batch, 3, size, size])],
        [helper.make_tensor_value_info("scores", kind, [batch, 5])],
        inits,
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)


def weights(model):
    return {t.name: t for t in model.graph.initializer}


def edit(model, name, change):
    """A copy of the model in which an initializer went through `change`."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    tensor = weights(copy)[name]
    array = numpy_helper.to_array(tensor)
    new = np.asarray(change(array.astype(np.float64))).astype(array.dtype)
    tensor.CopyFrom(numpy_helper.from_array(new, name))
    return copy


def fold(model):
    """Every Conv + BatchNormalization as one Conv, in float64 and rounded once."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    known = weights(copy)
    made = {node.output[0]: node for node in copy.graph.node}
    for node in list(copy.graph.node):
        if node.op_type != "BatchNormalization":
            continue
        conv = made[node.input[0]]
        arrays = [numpy_helper.to_array(known[name]) for name in node.input[1:]]
        dtype = arrays[0].dtype
        scale, bias, mean, var = (array.astype(np.float64) for array in arrays)
        epsilon = next(a.f for a in node.attribute if a.name == "epsilon")
        a = scale / np.sqrt(var + epsilon)
        w = numpy_helper.to_array(known[conv.input[1]]).astype(np.float64) * a[:, None, None, None]
        folded = numpy_helper.from_array(w.astype(dtype), conv.input[1])
        known[conv.input[1]].CopyFrom(folded)
        name = f"{conv.name}.b"
        copy.graph.initializer.append(
            numpy_helper.from_array((bias - a * mean).astype(dtype), name)
        )
        conv.input.append(name)
        conv.output[0] = node.output[0]
        copy.graph.node.remove(node)
    return copy


def epsilon_times_ten(model):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    node = [n for n in copy.graph.node if n.op_type == "BatchNormalization"][1]
    attribute = next(a for a in node.attribute if a.name == "epsilon")
    attribute.f = attribute.f * 10
    return copy


def swapped_mean_and_variance(model):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    node = next(n for n in copy.graph.node if n.op_type == "BatchNormalization")
    mean = node.input[3]
    node.input[3], node.input[4] = node.input[4], mean
    return edit(copy, mean, np.abs)


def zero_first(array):
    array[0] = 0
    return array


BUGS = {
    "epsilon ×10": epsilon_times_ten,
    "channel zeroed": lambda m: edit(m, "b.w", zero_first),
    "bias dropped": lambda m: edit(m, "c.bias", lambda b: 0 * b),
    "weight ×1.001": lambda m: edit(m, "a.w", lambda w: w * 1.001),
    "mean and variance swapped": swapped_mean_and_variance,
    "one bias off by 1e-4": lambda m: edit(m, "a.bias", lambda b: b + 1e-4 * (np.arange(8) == 3)),
}

__all__ = ["BUGS", "OPSET", "TensorProto", "conv_bn_net", "edit", "fold", "graph", "weights"]
