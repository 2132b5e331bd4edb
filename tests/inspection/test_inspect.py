"""``inspect``: every normalization, its statistics, and what fold does with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import bn, parse, weights

import normsurgery

SAMPLES = Path(__file__).parents[2] / "sample_models"


def test_nodes_of_one_name_are_kept_apart() -> None:
    model = parse(
        """g (double[N, 3, 8, 8] x) => (double[N, 4, 6, 6] y) {
          c = Conv(x, W)
          d = BatchNormalization(c, scale, B, mean, var)
          r = Sigmoid(d)
          y = BatchNormalization<epsilon=0.25>(r, scale, B, mean, var)
        }""",
        W=weights(4, 3, 3, 3),
        **bn(4),
    )
    for node in model.graph.node:
        node.name = "same"
    first, second = normsurgery.inspect(model).norms
    assert first.outcome == "folds"
    assert first.detail == "into Conv `same`"
    assert second.outcome == "not-linear"
    assert "Sigmoid `same`" in second.detail
    assert second.epsilon == 0.25
    parameters = bn(4)
    assert second.channels == 4
    assert (second.var.low, second.var.high) == (parameters["var"].min(), parameters["var"].max())


def test_dead_channels_are_counted() -> None:
    parameters = bn(4)
    parameters["scale"][[0, 2]] = 0
    model = parse(
        """g (double[N, 4, 8] x) => (double[N, 4, 8] y) {
          y = BatchNormalization(x, scale, B, mean, var)
        }""",
        **parameters,
    )
    assert normsurgery.inspect(model).norms[0].dead == 2


@pytest.mark.parametrize(
    ("node", "kind"),
    [
        ("InstanceNormalization(x, s, s)", "InstanceNormalization"),
        ("LayerNormalization(x, t)", "LayerNormalization"),
        ("GroupNormalization<num_groups=2>(x, s, s)", "GroupNormalization"),
        ("LpNormalization<axis=1>(x)", "LpNormalization"),
        ("LRN<size=3>(x)", "LRN"),
    ],
)
def test_other_kinds_depend_on_the_data(node: str, kind: str) -> None:
    text = f"g (double[N, 4, 6, 8] x) => (double[N, 4, 6, 8] y) {{ y = {node} }}"
    used = {k: v for k, v in {"s": np.ones(4), "t": np.ones(8)}.items() if f" {k}" in node}
    (norm,) = normsurgery.inspect(parse(text, **used)).norms
    assert norm.op_type == kind
    assert norm.outcome == "data-dependent"
    assert bool(norm.warning) == (kind == "GroupNormalization")


def test_the_model_is_not_changed() -> None:
    model = parse(
        """g (double[N, 3, 8, 8] x) => (double[N, 4, 6, 6] y) {
          c = Conv(x, W)
          y = BatchNormalization(c, scale, B, mean, var)
        }""",
        W=weights(4, 3, 3, 3),
        **bn(4),
    )
    before = model.SerializeToString(deterministic=True)
    normsurgery.inspect(model)
    assert model.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize(
    "name", ["digits_resnet", "digits_densenet", "digits_mlp", "digits_repvgg"]
)
def test_agrees_with_fold(name: str) -> None:
    path = SAMPLES / f"{name}.onnx"
    report = normsurgery.fold(path).report
    norms = [n for n in normsurgery.inspect(path).norms if n.op_type == "BatchNormalization"]
    assert len(norms) == report.before
    assert sum(n.outcome != "folds" for n in norms) == report.after


@pytest.mark.parametrize(
    "name",
    ["digits_resnet", "digits_densenet", "digits_mlp", "digits_repvgg", "digits_resnet_folded"],
)
def test_agrees_with_convert(name: str) -> None:
    path = SAMPLES / f"{name}.onnx"
    report = normsurgery.convert(path).report
    norms = normsurgery.inspect(path).norms
    told = [(n.node, n.convert_detail) for n in norms if n.convert == "converts"]
    assert told == [
        (c.node, f"group, {c.groups} of {c.channels // c.groups}") for c in report.converted
    ]
    assert [n.convert for n in norms if n.convert != "converts"] == [k.slug for k in report.left]


@pytest.mark.parametrize(
    ("node", "outcome"),
    [
        ("BatchNormalization(x, s, s, s, s)", "converts"),
        ("BatchNormalization<training_mode=1>(x, s, s, s, s)", "training-mode"),
        ("BatchNormalization(x, s, s, s, m)", "not-constant"),
        ("InstanceNormalization(x, s, s)", "sample-norm"),
        ("GroupNormalization<num_groups=2>(x, s, s)", "sample-norm"),
        ("LayerNormalization<axis=1>(x, t)", "sample-norm"),
        ("LayerNormalization(x, u)", "no-target"),
        ("LRN<size=3>(x)", "no-target"),
    ],
)
def test_what_convert_does_or_why_not(node: str, outcome: str) -> None:
    text = f"g (double[N, 4, 6, 8] x, double[4] m) => (double[N, 4, 6, 8] y) {{ y = {node} }}"
    tensors = {"s": np.ones(4), "t": np.ones((4, 6, 8)), "u": np.ones(8)}
    used = {k: v for k, v in tensors.items() if f" {k}" in node}
    (norm,) = normsurgery.inspect(parse(text, **used)).norms
    assert norm.convert == outcome
    assert norm.convert_detail == "group, 1 of 4" or outcome != "converts"
    assert norm.convert_detail


def test_one_channel_of_one_element_stays() -> None:
    text = "g (double[N, 1] x) => (double[N, 1] y) { y = BatchNormalization(x, s, s, s, s) }"
    model = parse(text, s=np.ones(1))
    (norm,) = normsurgery.inspect(model).norms
    assert norm.convert == "one-element"
    assert "erase" in norm.convert_detail
    (left,) = normsurgery.convert(model).report.left
    assert (left.slug, left.reason) == (norm.convert, norm.convert_detail)


def test_an_old_operator_set_is_raised() -> None:
    text = "g (double[N, 4, 6, 8] x) => (double[N, 4, 6, 8] y) { y = BatchNormalization"
    model = parse(text + "<is_test=1, consumed_inputs=[0,0,0,1,1]>(x, s, s, s, s) }",
                  opset=5, ir=3, s=np.ones(4))  # fmt: skip
    (norm,) = normsurgery.inspect(model).norms
    assert norm.convert == "converts"
    assert norm.convert_detail == "group, 1 of 4; the operator set has to be raised to 7"


def test_one_that_was_taken_apart_is_listed_with_its_statistics() -> None:
    p = bn(4)
    model = parse(
        """g (double[N, 3, 8, 8] x) => (double[N, 4, 8, 8] y) {
          c = Conv(x, W)
          a = Sub(c, mean)
          f = Div(a, sigma)
          s = Mul(f, scale)
          y = Add(s, B)
        }""",
        W=weights(4, 3, 1, 1),
        sigma=np.sqrt(p["var"]).reshape(4, 1, 1),
        **{name: p[name].reshape(4, 1, 1) for name in ("mean", "scale", "B")},
    )
    (norm,) = normsurgery.inspect(model).norms
    assert (norm.node, norm.op_type, norm.channels) == ("y", "decomposed BatchNormalization", 4)
    assert norm.scale is not None
    assert norm.var is not None
    assert (norm.scale.low, norm.scale.high) == (p["scale"].min(), p["scale"].max())
    assert norm.var.high == pytest.approx(p["var"].max(), rel=1e-14)
    assert norm.outcome == "folds"
    assert norm.convert_detail == "group, 1 of 4"


def test_functions_are_listed_at_each_call() -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 21, "local" : 1]>
        g (double[N, 2, 8] x) => (double[N, 2, 8] y)
          <double[2, 2, 1] W = {1, 2, 3, 4}, double[2] s = {1, 2}, double[2] t = {3, 4}> {
            h = local.block(x, W, s)
            y = local.block(h, W, t)
        }
        <domain: "local", opset_import: ["" : 21]>
        block (x, W, s) => (y) { c = Conv(x, W)
            r = Sigmoid(c)
            y = BatchNormalization(r, s, s, s, s) }""")
    found = normsurgery.inspect(model)
    assert found.inlined == ["block"]
    assert [n.scale and n.scale.high for n in found.norms] == [2, 4]
    assert {n.outcome for n in found.norms} == {"not-linear", "folds"}
    assert [n.convert for n in found.norms] == ["converts", "converts"]


def test_nothing_runs_a_model() -> None:
    code = "import sys, normsurgery; print(len(normsurgery.inspect(sys.argv[1]).norms))\n"
    code += "assert not {'onnxruntime', 'torch', 'onnx.reference'} & set(sys.modules)"
    model = str(SAMPLES / "digits_resnet.onnx")
    subprocess.run([sys.executable, "-c", code, model], check=True)
