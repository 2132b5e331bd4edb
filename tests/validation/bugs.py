"""Planted bugs: each takes a reference and gives a candidate that is wrong.

Most are what a faulty fold would write; none says in its metadata who made it, so nothing but the
numbers can give it away.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
from onnx import TensorProto, helper, numpy_helper
from validation import nets
from validation.specimens import (
    biases,
    change,
    clone,
    folded,
    initializer,
    nodes,
    replace_node,
    weights,
)

CLASS = 3  # that the made inputs are in


def norm(slot, how, index=0):
    """A fold that takes another scale (1), bias (2), mean (3) or variance (4) for one norm."""

    def bug(model):
        name = nodes(model, "BatchNormalization")[index].input[slot]
        return folded(change(model, name, how))

    return bug


def weight(how, index=0):
    def bug(model):
        model = folded(model)
        return change(model, weights(model)[index], how)

    return bug


def bias(how, index=0):
    def bug(model):
        model = folded(model)
        return change(model, biases(model)[index], how)

    return bug


def node(kind, how, index=0, fold_first=True):
    """Change one node of that kind in place."""

    def bug(model):
        model = folded(model) if fold_first else clone(model)
        how(model, nodes(model, kind)[index])
        return model

    return bug


def epsilon(value, index=0):
    def bug(model):
        model = clone(model)
        chosen = nodes(model, "BatchNormalization")[index]
        kept = [a for a in chosen.attribute if a.name != "epsilon"]
        del chosen.attribute[:]
        chosen.attribute.extend([*kept, helper.make_attribute("epsilon", value)])
        return folded(model)

    return bug


def swapped(slot, other, index=0):
    """Two parameters of one norm in each other's place; a variance stays positive."""

    def bug(model):
        model = clone(model)
        chosen = nodes(model, "BatchNormalization")[index]
        one, two = chosen.input[slot], chosen.input[other]
        chosen.input[slot], chosen.input[other] = two, one
        return folded(change(model, chosen.input[4], np.abs))

    return bug


def swapped_between(first, second, slot=2):
    def bug(model):
        model = clone(model)
        one, two = (nodes(model, "BatchNormalization")[i] for i in (first, second))
        one.input[slot], two.input[slot] = two.input[slot], one.input[slot]
        return folded(model)

    return bug


def at(index, how):
    """Change one channel only."""

    def change_one(array):
        array[index] = how(array[index])
        return array

    return change_one


def through(dtype):
    return lambda w: w.astype(dtype)


def pass_through(model, node):
    """The node does nothing any more."""
    replace_node(model, node, helper.make_node("Identity", [node.input[0]], list(node.output)))


def wrong_shift_at_the_border(model):
    """The shift in front of a padding Conv goes into its bias, as if the padding had it too."""
    known = {t.name: numpy_helper.to_array(t).astype(float) for t in model.graph.initializer}
    a = known["scale"] / np.sqrt(known["var"] + 1e-5)
    shift = known["bias"] - a * known["mean"]
    wrong = change(model, "W", lambda w: w * a[None, :, None, None])
    wrong = change(wrong, "b", lambda b: b + (known["W"].sum((2, 3)) * shift).sum(1))
    _, norm_node, conv = wrong.graph.node
    conv.input[0] = norm_node.input[0]
    wrong.graph.node.remove(norm_node)
    return wrong


def scale_on_inputs(model):
    """A square weight scaled along its input channels in place of its output channels."""
    right = folded(model)
    before = [n for n in weights(model) if n.endswith("c.w") or n in weights(model)]
    for name in before:
        array = numpy_helper.to_array(initializer(model, name))
        if array.ndim == 4 and array.shape[0] == array.shape[1]:
            break
    conv = next(n for n in model.graph.node if name in n.input)
    chosen = next(n for n in nodes(model, "BatchNormalization") if n.input[0] in conv.output)
    scale, var = (numpy_helper.to_array(initializer(model, chosen.input[i])) for i in (1, 4))
    eps = next((a.f for a in chosen.attribute if a.name == "epsilon"), 1e-5)
    a = scale.astype(float) / np.sqrt(var.astype(float) + eps)
    twin = next(n for n in right.graph.node if chosen.output[0] in n.output)
    return change(right, twin.input[1], lambda _: array.astype(float) * a[None, :, None, None])


def bias_not_scaled(model):
    """b' = B − a·mean + b, where a·b was due."""
    model = clone(model)
    known = {t.name: numpy_helper.to_array(t).astype(float) for t in model.graph.initializer}
    made = {n.output[0]: n for n in model.graph.node}
    chosen = next(
        n
        for n in nodes(model, "BatchNormalization")
        if len(made[n.input[0]].input) > 2 and made[n.input[0]].input[2] in known
    )
    b = known[made[chosen.input[0]].input[2]]
    scale, var = known[chosen.input[1]], known[chosen.input[4]]
    a = scale / np.sqrt(var + 1e-5)
    return folded(change(model, chosen.input[2], lambda B: B + b - a * b))


def label_moved(model, chosen=CLASS):
    """Whoever is in one class is said to be in the next; the scores are right."""
    model = folded(model)
    for name, value in (("one", chosen), ("next", chosen + 1)):
        model.graph.initializer.append(numpy_helper.from_array(np.array(value), name))
    last = nodes(model, "ArgMax")[0]
    last.output[0] = "vote"
    model.graph.node.append(helper.make_node("Equal", ["vote", "one"], ["is_one"]))
    model.graph.node.append(helper.make_node("Where", ["is_one", "next", "vote"], ["label"]))
    return model


def mean_over_the_batch(model):
    """The pooling takes the batch along: right for one image, wrong for two."""
    model = folded(model)
    pool = nodes(model, "GlobalAveragePool")[0]
    made = helper.make_node("ReduceMean", [pool.input[0]], ["over_all"], axes=[0, 2, 3])
    zero = helper.make_node("Mul", [pool.input[0], "nil"], ["nothing"])
    flat = helper.make_node("GlobalMaxPool", ["nothing"], ["zeros"])
    total = helper.make_node("Add", ["over_all", "zeros"], list(pool.output))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0), "nil"))
    return replace_node(model, pool, made, zero, flat, total)


def through_half(model):
    """The output goes through float16."""
    model = folded(model)
    model.graph.node[-1].output[0] = "wide"
    last = [
        helper.make_node("Cast", ["wide"], ["narrow"], to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["narrow"], ["scores"], to=TensorProto.FLOAT),
    ]
    model.graph.node.extend(last)
    return model


def corner_kernel(model):
    """RepVGG's 1×1 branch lands in a corner of the 3×3 kernel."""
    model = folded(model)
    name = next(n for n in weights(model) if initializer(model, n).dims[2:] == [3, 3])

    def move(w):
        w[:, :, 0, 0] += 0.25 * w[:, :, 1, 1]
        w[:, :, 1, 1] *= 0.75
        return w

    return change(model, name, move)


def no_identity_branch(model):
    """RepVGG without its identity branch: a norm that reads what two Convs read too."""
    model = clone(model)
    made = {n.output[0]: n for n in model.graph.node}
    chosen = next(
        n
        for n in nodes(model, "BatchNormalization")
        if made[n.input[0]].op_type not in {"Conv", "Identity"}
    )
    width = numpy_helper.to_array(initializer(model, source(model, chosen.input[1]))).size
    nothing = numpy_helper.from_array(np.zeros(width, np.float32), "nothing")
    model.graph.initializer.append(nothing)
    chosen.input[1] = chosen.input[2] = "nothing"
    return folded(model)


def source(model, name):
    """The initializer behind Identities."""
    made = {n.output[0]: n for n in model.graph.node}
    while name in made:
        name = made[name].input[0]
    return name


def other_way_round(model, chosen):
    chosen.input[0], chosen.input[1] = chosen.input[1], chosen.input[0]


def drop_top(model, chosen):
    """Relu6 becomes Relu."""
    del chosen.input[2:]


def to_average(model, chosen):
    chosen.op_type = "AveragePool"


def set_attribute(name, value):
    def bug(model, chosen):
        kept = [a for a in chosen.attribute if a.name != name]
        del chosen.attribute[:]
        chosen.attribute.extend([*kept, helper.make_attribute(name, value)])

    return bug


def wrong_axis(model):
    """A grouped ConvTranspose scaled as if its weights were (C_out/group, C_in, …)."""
    right = folded(model)
    known = {t.name: numpy_helper.to_array(t).astype(float) for t in model.graph.initializer}
    a = known["scale"] / np.sqrt(known["var"] + 1e-5)
    name = weights(right)[0]
    return change(right, name, lambda _: known["W"] * a[:, None, None, None])


def roll(array):
    return np.roll(array, 1, axis=0)


def swap_two(array):
    array[[1, 2]] = array[[2, 1]]
    return array


def add_1e4(array):
    array[3] += 1e-4
    return array


BUGS = {
    **{
        f"small net: {name}": ("net", lambda m, bug=bug: folded(bug(m)))
        for name, bug in nets.BUGS.items()
    },
    "epsilon 1e-3 in the last norm": ("resnet", epsilon(1e-3, -1)),
    "epsilon 1e-5 where 1e-3 was": ("net", epsilon(1e-5)),
    "mean left out": ("resnet", norm(3, lambda m: 0 * m, 5)),
    "mean with the wrong sign": ("unet", norm(3, lambda m: -m, 2)),
    "scale left out": ("mobilenet", norm(1, lambda s: s / s, 7)),
    "variance for its root": ("unet", norm(4, np.square, 1)),
    "scale and bias swapped": ("mobilenet", swapped(1, 2, 4)),
    "mean and variance swapped, last norm": ("densenet", swapped(3, 4, -1)),
    "biases of two norms swapped": ("resnet", swapped_between(0, 1)),
    "scale of one channel negated": ("densenet", norm(1, at(2, lambda s: -s), 3)),
    "scales one channel further": ("densenet", norm(1, roll, 6)),
    "one weight tensor through float16": ("resnet", weight(through(np.float16), 5)),
    "one weight tensor through bfloat16": ("mobilenet", weight(through(ml_dtypes.bfloat16), 3)),
    "one bias through float16": ("resnet", bias(through(np.float16), 4)),
    "weight ×1.0001": ("mobilenet", weight(lambda w: w * 1.0001)),
    "kernel transposed": ("resnet", weight(lambda w: w.swapaxes(2, 3), 2)),
    "kernel flipped": ("unet", weight(lambda w: w[:, :, ::-1, ::-1], 1)),
    "two output channels swapped": ("resnet", weight(swap_two, 3)),
    "depthwise channels one further": ("mobilenet", weight(roll, 1)),
    "scale along the input channels": ("resnet", scale_on_inputs),
    "grouped transpose scaled along the wrong axis": ("grouped", wrong_axis),
    "one weight with the wrong sign": ("unet", weight(at((0, 0, 0, 0), lambda w: -w), -1)),
    "last bias left out": ("resnet", bias(lambda b: 0 * b, -1)),
    "bias added twice": ("conv1d", bias(lambda b: 2 * b, 1)),
    "bias of the layer not scaled": ("conv1d", bias_not_scaled),
    "shortcut left out": ("resnet", node("Add", pass_through, 1)),
    "a Relu left out": ("resnet", node("Relu", pass_through, 3)),
    "Relu6 without its 6": ("mobilenet", node("Clip", drop_top)),
    "Concat the other way round": ("unet", node("Concat", other_way_round)),
    "maximum pooling averages": ("unet", node("MaxPool", to_average)),
    "Gemm times 1.001": ("mlp", node("Gemm", set_attribute("alpha", 1.001))),
    "dilation 2 with the padding for it": (
        "resnet",
        node(
            "Conv",
            lambda m, n: (
                set_attribute("dilations", [2, 2])(m, n),
                set_attribute("pads", [2] * 4)(m, n),
            ),
        ),
    ),
    "1×1 branch in a corner": ("repvgg", corner_kernel),
    "identity branch left out": ("repvgg", no_identity_branch),
    "float16: one channel ×1.05": ("half", weight(at(2, lambda w: 1.05 * w))),
    "float16: mean and variance swapped": ("half", swapped(3, 4)),
    "padded border: shift in the bias": ("border", wrong_shift_at_the_border),
    "an integer output moved": ("labels", label_moved),
    "mean over the batch": ("net", mean_over_the_batch),
    "output through float16": ("net", through_half),
    "dead channel: weights doubled": ("dead", weight(at(3, lambda w: 2 * w))),
    "dead channel: weights zeroed": ("dead", weight(at(3, lambda w: 0 * w))),
    "dead channel: bias off by 1 %": ("dead", bias(at(3, lambda b: 1.01 * b))),
    "behind a saturated Softmax: weights ×1.001": (
        "saturated",
        weight(lambda w: np.stack([w[:, 0] * 1.001, *w.T[1:]], axis=1), -1),
    ),
    "a row of a table that no input looks up": (
        "table",
        lambda m: change(folded(m), "rows", at(4321, lambda r: -r)),
    ),
}

# Nothing that the made inputs reach is wrong, and the coefficients are right too.
BLIND = {
    "an integer output moved, in a class that no input is in": (
        "labels",
        lambda m: label_moved(m, CLASS - 1),
        "output 'label' is discrete",
    ),
    "Relu6 without its 6, which nothing reaches": (
        "mobilenet",
        node("Clip", drop_top, -1),
        "no channel reaches its maximum",
    ),
}
