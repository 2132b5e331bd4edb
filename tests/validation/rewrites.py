"""Correct rewrites: each takes a reference and gives a candidate that computes the same."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper, version_converter
from validation import nets
from validation.specimens import (
    MODELS,
    biases,
    change,
    clone,
    folded,
    initializer,
    nodes,
    replace_node,
    weights,
)

import normsurgery


def by_fold(model):
    return normsurgery.fold(model).model


def by_onnxruntime(level):
    def rewrite(model):
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder, "source.onnx"), Path(folder, "target.onnx")
            onnx.save(model, source)
            options = onnxruntime.SessionOptions()
            options.graph_optimization_level = level
            options.optimized_model_filepath = str(target)
            options.log_severity_level = 4
            onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
            return onnx.load(target)

    return rewrite


BASIC = by_onnxruntime(onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC)


def renamed(model):
    """Every value but the graph's inputs and outputs, and every node, under another name."""
    model = clone(model)
    kept = {value.name for value in (*model.graph.input, *model.graph.output)}

    def new(name):
        return name if not name or name in kept else f"renamed/{name}"

    for one in model.graph.node:
        one.input[:] = [new(name) for name in one.input]
        one.output[:] = [new(name) for name in one.output]
        one.name = f"node/{one.name}"
    for tensor in model.graph.initializer:
        tensor.name = new(tensor.name)
    del model.graph.value_info[:]
    return model


def reordered(model):
    """Another order of the same nodes, as far from the old one as their operands allow."""
    model = clone(model)
    left, order = list(model.graph.node), []
    made = {name for node in left for name in node.output}
    known = {""}
    while left:
        ready = [n for n in left if all(x in known or x not in made for x in n.input)]
        order.append(ready[-1])
        known.update(ready[-1].output)
        left.remove(ready[-1])
    copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in order]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    return model


def with_identities(model):
    """An Identity behind every node of one output."""
    model = clone(model)
    ends = {value.name for value in model.graph.output}
    made = []
    for one in list(model.graph.node):
        copy = onnx.NodeProto.FromString(one.SerializeToString())
        name = copy.output[0]
        made.append(copy)
        if len(copy.output) == 1 and name not in ends and copy.op_type != "Constant":
            copy.output[0] = f"{name}/before"
            made.append(helper.make_node("Identity", [f"{name}/before"], [name]))
    del model.graph.node[:]
    model.graph.node.extend(made)
    return model


def norms_as_mul_add(model):
    """y = a·x + b with a and b formed in float64 and rounded once."""
    model = clone(model)
    known = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for one in nodes(model, "BatchNormalization"):
        if any(name not in known for name in one.input[1:]):
            continue
        dtype = known[one.input[1]].dtype
        scale, bias, mean, var = (known[name].astype(float) for name in one.input[1:])
        epsilon = next((a.f for a in one.attribute if a.name == "epsilon"), 1e-5)
        a = scale / np.sqrt(var + epsilon)
        shape = (-1, 1, 1) if nodes(model, "Conv") else (-1,)
        stem = one.output[0]
        for part, value in (("a", a), ("b", bias - a * mean)):
            tensor = numpy_helper.from_array(value.astype(dtype).reshape(shape), f"{stem}/{part}")
            model.graph.initializer.append(tensor)
        mul = helper.make_node("Mul", [one.input[0], f"{stem}/a"], [f"{stem}/scaled"])
        add = helper.make_node("Add", [f"{stem}/b", f"{stem}/scaled"], [stem])
        replace_node(model, next(n for n in model.graph.node if stem in n.output), mul, add)
    return model


def constants_as_nodes(model):
    model = clone(model)
    made = [
        helper.make_node("Constant", [], [tensor.name], value=tensor)
        for tensor in model.graph.initializer
    ]
    others = [onnx.NodeProto.FromString(n.SerializeToString()) for n in model.graph.node]
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.node.extend([*made, *others])
    return model


def constants_as_initializers(model):
    model = clone(model)
    for one in nodes(model, "Constant"):
        held = next((a.t for a in one.attribute if a.name == "value"), None)
        if held is not None:
            tensor = TensorProto.FromString(held.SerializeToString())
            tensor.name = one.output[0]
            model.graph.initializer.append(tensor)
            model.graph.node.remove(one)
    return model


def scaled_between_layers(factors):
    """The first layer of the small net times s > 0, what reads its Relu divided by it."""

    def rewrite(model):
        model = nets.fold(model)
        s = np.asarray(factors(8), float)
        model = change(model, "a.w", lambda w: w * s[:, None, None, None])
        model = change(model, "a.b", lambda b: b * s)
        model = change(model, "b.w", lambda w: w / s[:, None, None, None])
        # the shortcut reads the Relu too: it gets what it had
        back = numpy_helper.from_array((1 / s).astype(np.float32).reshape(-1, 1, 1), "back")
        model.graph.initializer.append(back)
        add = nodes(model, "Add")[0]
        mul = helper.make_node("Mul", [add.input[0], "back"], ["r/back"])
        new = helper.make_node("Add", ["r/back", add.input[1]], list(add.output))
        return replace_node(model, add, mul, new)

    return rewrite


def permuted(order):
    """The channels between the last two layers of the MLP in another order."""

    def rewrite(model):
        model = folded(model)
        first, second = weights(model)[-2:]
        old = initializer(model, first)
        size = initializer(model, second).dims[1]
        p = order(size)
        rows = 0 if old.dims[0] == size else 1
        model = change(model, first, lambda w: np.take(w, p, axis=rows))
        model = change(model, biases(model)[-2], lambda b: b[p])
        return change(model, second, lambda w: w[:, p])

    return rewrite


def bias_as_add(model):
    """The bias of each Conv in an Add behind it."""
    model = folded(model)
    for one in [n for n in nodes(model, "Conv") if len(n.input) > 2]:
        tensor = initializer(model, one.input[2])
        tensor.dims[:] = [*tensor.dims, 1, 1]
        bare = f"{one.output[0]}/bare"
        copy = onnx.NodeProto.FromString(one.SerializeToString())
        del copy.input[2:]
        copy.output[0] = bare
        add = helper.make_node("Add", [bare, one.input[2]], list(one.output))
        replace_node(model, next(n for n in model.graph.node if n.output == one.output), copy, add)
    return model


def gemm_as_matmul(model):
    model = folded(model)
    for one in nodes(model, "Gemm"):
        attributes = {a.name: helper.get_attribute_value(a) for a in one.attribute}
        if attributes.get("transB"):
            model = change_layout(model, one.input[1])
        stem = one.output[0]
        matmul = helper.make_node("MatMul", list(one.input[:2]), [f"{stem}/product"])
        add = helper.make_node("Add", [f"{stem}/product", one.input[2]], [stem])
        replace_node(model, next(n for n in model.graph.node if stem in n.output), matmul, add)
    return model


def change_layout(model, name):
    tensor = initializer(model, name)
    array = np.ascontiguousarray(numpy_helper.to_array(tensor).T)
    tensor.CopyFrom(numpy_helper.from_array(array, name))
    return model


def pool_as_mean(model):
    model = folded(model)
    pool = nodes(model, "GlobalAveragePool")[0]
    mean = helper.make_node("ReduceMean", [pool.input[0]], list(pool.output), axes=[2, 3])
    return replace_node(model, pool, mean)


def relu_as_clip(model):
    model = folded(model)
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0), "nothing"))
    for one in nodes(model, "Relu"):
        clip = helper.make_node("Clip", [one.input[0], "nothing"], list(one.output))
        replace_node(model, next(n for n in model.graph.node if n.output == one.output), clip)
    return model


def newer(model):
    return version_converter.convert_version(model, 21)


def defaults_spelled_out(model):
    model = folded(model)
    for one in nodes(model, "Conv"):
        named = {a.name for a in one.attribute}
        for name, value in (("group", 1), ("dilations", [1, 1]), ("strides", [1, 1])):
            if name not in named:
                one.attribute.append(helper.make_attribute(name, value))
    return model


def stripped(model):
    model = folded(model)
    del model.graph.value_info[:]
    model.graph.doc_string = ""
    model.producer_name = "another"
    for one in model.graph.node:
        one.name = ""
    return model


def more_than_needed(model):
    """An initializer and a node that nobody reads."""
    model = folded(model)
    model.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "unused"))
    model.graph.node.append(helper.make_node("Neg", ["unused"], ["unread"]))
    return model


def powers_of_two(size):
    return 2.0 ** (np.arange(size) % 5 - 2)


def few(size):
    return np.where(np.arange(size) < 2, 4.0, 1.0)


def odd(size):
    return 1 + np.arange(size) / 7


def shuffled(size):
    return np.random.default_rng(0).permutation(size)


def two_swapped(size):
    return np.array([1, 0, *range(2, size)])


FOLDABLE = [name for name in MODELS if name != "saturated"]
REWRITES = {
    **{f"fold {name}": (name, by_fold) for name in MODELS},
    **{f"onnxruntime's basic optimization of {name}": (name, BASIC) for name in FOLDABLE},
    **{
        f"onnxruntime's basic optimization of the folded {name}": (
            name,
            lambda m: BASIC(by_fold(m)),
        )
        for name in ("resnet", "mobilenet", "unet", "net")
    },
    "a plain fold, in place": ("net", nets.fold),
    "a plain fold, in place, float16": ("half", nets.fold),
    "nothing": ("resnet", clone),
    "renamed": ("resnet", renamed),
    "renamed and folded": ("mobilenet", lambda m: renamed(folded(m))),
    "reordered": ("unet", reordered),
    "reordered, renamed and folded": ("unet", lambda m: reordered(renamed(folded(m)))),
    "Identities": ("resnet", with_identities),
    "Identities in the folded": ("resnet", lambda m: with_identities(folded(m))),
    "norms as Mul and Add": ("resnet", norms_as_mul_add),
    "norms as Mul and Add, rank 2": ("mlp", norms_as_mul_add),
    "constants as nodes": ("densenet", lambda m: constants_as_nodes(folded(m))),
    "constants as initializers": ("conv1d", constants_as_initializers),
    "scaled by powers of two between layers": ("net", scaled_between_layers(powers_of_two)),
    "scaled between layers": ("net", scaled_between_layers(odd)),
    "a few channels scaled between layers": ("net", scaled_between_layers(few)),
    "hidden channels in another order": ("mlp", permuted(shuffled)),
    "two hidden channels swapped": ("mlp", permuted(two_swapped)),
    "biases as Add": ("resnet", bias_as_add),
    "Gemm as MatMul and Add": ("resnet", gemm_as_matmul),
    "global pooling as a mean": ("resnet", pool_as_mean),
    "Relu as Clip": ("resnet", relu_as_clip),
    "a newer operator set": ("resnet", newer),
    "defaults spelled out": ("resnet", defaults_spelled_out),
    "names and annotations stripped": ("unet", stripped),
    "more than needed": ("resnet", more_than_needed),
}
