"""The models that bugs are planted into and that are rewritten, and the tools to do it with."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from validation.nets import conv_bn_net, edit, graph

import normsurgery

SAMPLES = Path(__file__).parents[2] / "sample_models"


def sample(name):
    return onnx.load(SAMPLES / f"digits_{name}.onnx")


def dead_channel():
    """Channel 3 of the first layer is far below zero in front of its Relu, whatever comes in."""
    return edit(conv_bn_net(), "a.bias", lambda b: np.where(np.arange(8) == 3, -1e4, b))


def border():
    """A BatchNormalization with shifts in front of a Conv that pads with zeros."""
    rng = np.random.default_rng(1)
    return graph(
        """border (float[N, 4, 8, 8] x) => (float[N, 6, 8, 8] y) {
            r = Relu(x)
            n = BatchNormalization(r, scale, bias, mean, var)
            y = Conv<pads=[1, 1, 1, 1]>(n, W, b)
        }""",
        scale=rng.uniform(0.5, 1.5, 4).astype(np.float32),
        bias=rng.normal(size=4).astype(np.float32),
        mean=rng.normal(size=4).astype(np.float32),
        var=rng.uniform(0.5, 1.5, 4).astype(np.float32),
        W=rng.normal(size=(6, 4, 3, 3)).astype(np.float32),
        b=rng.normal(size=6).astype(np.float32),
    )


def labels():
    """Scores, and the class that they vote for."""
    model = conv_bn_net()
    model.graph.node.append(helper.make_node("ArgMax", ["scores"], ["label"], axis=1, keepdims=0))
    model.graph.output.append(helper.make_tensor_value_info("label", TensorProto.INT64, ["N"]))
    return model


def saturated():
    """A classifier so sure of itself that its Softmax gives 1 and zeros."""
    model = edit(conv_bn_net(), "fc.w", lambda w: 300 * w)
    model.graph.node[-1].output[0] = "logits"
    model.graph.node.append(helper.make_node("Softmax", ["logits"], ["scores"], axis=-1))
    return model


def grouped():
    rng = np.random.default_rng(2)
    return graph(
        """grouped (float[N, 4, 5, 5] x) => (float[N, 4, 10, 10] y) {
            c = ConvTranspose<group=2, strides=[2, 2]>(x, W)
            n = BatchNormalization(c, scale, bias, mean, var)
            y = Relu(n)
        }""",
        scale=rng.uniform(0.5, 1.5, 4).astype(np.float32),
        bias=rng.normal(size=4).astype(np.float32),
        mean=rng.normal(size=4).astype(np.float32),
        var=rng.uniform(0.5, 1.5, 4).astype(np.float32),
        W=rng.normal(size=(4, 2, 2, 2)).astype(np.float32),
    )


def table():
    """An embedding of 5000 rows, of which a few are ever looked up."""
    rng = np.random.default_rng(3)
    return graph(
        """table (int64[N, 6] ids) => (float[N, 5] y) {
            e = Gather(rows, ids)
            m = ReduceMean<axes=[1], keepdims=0>(e)
            g = Gemm(m, W, b)
            y = BatchNormalization(g, scale, bias, mean, var)
        }""",
        rows=rng.normal(size=(5000, 8)).astype(np.float32),
        W=rng.normal(size=(8, 5)).astype(np.float32),
        b=rng.normal(size=5).astype(np.float32),
        scale=rng.uniform(0.5, 1.5, 5).astype(np.float32),
        bias=rng.normal(size=5).astype(np.float32),
        mean=rng.normal(size=5).astype(np.float32),
        var=rng.uniform(0.5, 1.5, 5).astype(np.float32),
    )


MODELS = {
    **{
        name: functools.partial(sample, name)
        for name in ("conv1d", "densenet", "mlp", "mobilenet", "repvgg", "resnet", "unet")
    },
    "net": conv_bn_net,
    "half": functools.partial(conv_bn_net, np.float16),
    "dead": dead_channel,
    "border": border,
    "labels": labels,
    "saturated": saturated,
    "grouped": grouped,
    "table": table,
}


def clone(model):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def folded(model):
    """What fold makes of a model, without the record that fold made it."""
    result = normsurgery.fold(model).model
    del result.metadata_props[:]
    return result


def nodes(model, *kinds):
    return [node for node in model.graph.node if node.op_type in kinds]


def initializer(model, name):
    return next(t for t in model.graph.initializer if t.name == name)


def change(model, name, how):
    """A copy in which an initializer went through `how`, in float64, and was rounded."""
    copy = clone(model)
    tensor = initializer(copy, name)
    array = numpy_helper.to_array(tensor)
    new = np.asarray(how(array.astype(np.float64).copy())).astype(array.dtype)
    tensor.CopyFrom(numpy_helper.from_array(new, name))
    return copy


def weights(model):
    """Names of the stored weights of linear layers, in order."""
    stored = {tensor.name for tensor in model.graph.initializer}
    layers = nodes(model, "Conv", "ConvTranspose", "Gemm", "MatMul")
    return [node.input[1] for node in layers if node.input[1] in stored]


def biases(model):
    stored = {tensor.name for tensor in model.graph.initializer}
    layers = nodes(model, "Conv", "ConvTranspose", "Gemm")
    return [n.input[2] for n in layers if len(n.input) > 2 and n.input[2] in stored]


def replace_node(model, node, *others):
    """Put other nodes in the place of one, in a model that is ours to change."""
    index = list(model.graph.node).index(node)
    kept = list(model.graph.node)
    kept[index : index + 1] = others
    copies = [type(node).FromString(one.SerializeToString()) for one in kept]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    return model
