"""Which parameters are trained, and what is said of the model before."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from graphs import weights
from onnx import numpy_helper
from pytorch.learners import RESNET, SAMPLES, changed, digits, grouped, tensors

import normsurgery
from normsurgery.errors import UsageError
from normsurgery.pytorch import finetune


def test_frozen_norms_keep_statistics_scale_and_bias() -> None:
    before = onnx.load(RESNET)
    after = finetune(before, digits(), norms="frozen", fold=False).model
    norms = [n for n in before.graph.node if n.op_type == "BatchNormalization"]
    held = {name for n in norms for name in n.input[1:]}
    assert not changed(before, after) & held
    live = finetune(before, digits(), fold=False).model
    assert {name for n in norms for name in n.input[3:]} <= changed(before, live)


WITH_FUNCTION = """<ir_version: 10, opset_import: ["": 20, "own": 1]>
g (float[N, 1, 8, 8] image) => (float[N, 10] scores) {
  c = Conv (image, W)
  n = own.Norm (c, scale, B, mean, var)
  f = Flatten (n)
  scores = Gemm (f, fc)
}
<domain: "own", opset_import: ["": 20]>
Norm (x, s, b, m, v) => (y) { y = BatchNormalization (x, s, b, m, v) }"""


def test_norms_in_functions_freeze_too() -> None:
    model = onnx.parser.parse_model(WITH_FUNCTION)
    values = {
        "W": weights(3, 1, 3, 3),
        "scale": np.ones(3),
        "B": np.zeros(3),
        "mean": np.full(3, 0.1),
        "var": np.full(3, 2.0),
        "fc": 0.1 * weights(108, 10),
    }
    model.graph.initializer.extend(
        numpy_helper.from_array(v.astype(np.float32), name) for name, v in values.items()
    )
    live = finetune(model, digits(limit=20), fold=False).model
    assert changed(model, live) == {"W", "scale", "B", "mean", "var", "fc"}
    frozen = finetune(model, digits(limit=20), norms="frozen", fold=False).model
    assert changed(model, frozen) == {"W", "fc"}


def test_frozen_weights_stay_to_the_bit() -> None:
    before = grouped()
    result = finetune(before, digits(), freeze=["conv*", "fc_bias"], fold=False)
    assert changed(before, result.model) == {"gn_scale", "gn_bias", "fc_weight"}
    assert result.report.trained == ["gn_scale", "gn_bias", "fc_weight"]
    with pytest.raises(UsageError, match=r"--freeze 'cnov\*' matches no parameter"):
        finetune(before, digits(), freeze=["cnov*"])


def test_the_ones_and_zeros_of_a_group_norm_are_no_parameters() -> None:
    before = grouped()
    result = finetune(before, digits(), fold=False)
    assert changed(before, result.model) == {
        "conv_weight",
        "gn_scale",
        "gn_bias",
        "fc_weight",
        "fc_bias",
    }
    assert result.report.frozen == ["ones", "zeros"]


def test_a_batch_norm_in_front_of_another_norm_is_a_fixed_map() -> None:
    converted = normsurgery.convert(RESNET, affine="keep").model
    before = [n for n in converted.graph.node if n.op_type == "BatchNormalization"]
    assert len(before) == 11
    result = finetune(converted, digits(limit=20), fold=False)
    assert not changed(converted, result.model) & {x for n in before for x in n.input[1:]}


def test_live_statistics_of_few_samples_are_warned_about() -> None:
    def warned(model: Any, samples: Any = None, **settings: Any) -> list[bool]:
        report = finetune(model, samples or digits(), dry_run=True, **settings).report
        return ["11 BatchNormalization take their statistics" in text for text in report.warnings]

    assert warned(RESNET) == [True]
    assert warned(RESNET, batch_size=15) == [True]
    assert warned(RESNET, batch_size=16) == []
    assert warned(RESNET, norms="frozen") == []
    assert warned(RESNET, [(np.zeros((2, 1, 8, 8), np.float32), np.zeros(2, int))]) == []
    assert warned(normsurgery.convert(RESNET).model) == []
    assert warned(normsurgery.convert(RESNET, affine="keep").model) == []


def test_a_model_without_norms_is_warned_about() -> None:
    result = finetune(SAMPLES / "digits_resnet_folded.onnx", digits(), dry_run=True)
    assert ["unfold" in warning for warning in result.report.warnings] == [True]


def test_weight_decay_spares_scales_of_more_axes() -> None:
    """One step of plain SGD: w − lr·(g + λ·w), and w − lr·g for GroupNorm's (C, 1, 1)."""
    batch = [(np.random.default_rng(0).random((4, 1, 8, 8), np.float32), np.arange(4))]
    usual: dict[str, Any] = {"momentum": 0.0, "lr": 0.5, "clip": None, "schedule": "constant"}
    plain = tensors(finetune(grouped(), batch, **usual, fold=False).model)
    decayed = tensors(finetune(grouped(), batch, **usual, weight_decay=0.25, fold=False).model)
    before = tensors(grouped())
    for name in ("gn_scale", "gn_bias", "fc_bias"):
        assert (plain[name] != before[name]).any()
        np.testing.assert_array_equal(decayed[name], plain[name])
    for name in ("conv_weight", "fc_weight"):
        expected = plain[name] - 0.5 * 0.25 * before[name]
        np.testing.assert_allclose(decayed[name], expected, rtol=0, atol=1e-6)
