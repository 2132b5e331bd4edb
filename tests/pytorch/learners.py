"""Small networks to fine-tune, digits to do it with, and what of a model was changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from graphs import parse, weights
from onnx import ModelProto, numpy_helper

from normsurgery import data

SAMPLES = Path(__file__).parents[2] / "sample_models"
RESNET, DIGITS = SAMPLES / "digits_resnet.onnx", SAMPLES / "digits.npz"
GROUPED = """g (float[N, 1, 8, 8] image) => (float[N, 10] scores) {
  c = Conv <pads = [1, 1, 1, 1]> (image, conv_weight)
  cut = Reshape (c, to_groups)
  plain = InstanceNormalization <epsilon = 1e-3> (cut, ones, zeros)
  shape = Shape (c)
  back = Reshape (plain, shape)
  scaled = Mul (back, gn_scale)
  normal = Add (scaled, gn_bias)
  r = Relu (normal)
  flat = Flatten (r)
  scores = Gemm <transB = 1> (flat, fc_weight, fc_bias)
}"""


def grouped() -> ModelProto:
    """Return a small network with a GroupNorm of 2 groups, written as convert writes it."""
    ones = np.ones((4, 1, 1), np.float32)
    return parse(
        GROUPED,
        conv_weight=weights(4, 1, 3, 3, dtype=np.float32),
        to_groups=np.array([0, 2, -1]),
        ones=np.ones(2, np.float32),
        zeros=np.zeros(2, np.float32),
        gn_scale=ones,
        gn_bias=0.1 * ones,
        fc_weight=0.05 * weights(10, 256, dtype=np.float32),
        fc_bias=np.zeros(10, np.float32),
    )


def digits(part: str = "train", limit: int | None = 60) -> data.Data:
    inputs = data.inputs_of(onnx.load(RESNET, load_external_data=False))
    return data.read(f"{DIGITS}:{part}", inputs, limit=limit)


def tensors(model: ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def changed(before: ModelProto, after: ModelProto) -> set[str]:
    old, new = tensors(before), tensors(after)
    assert old.keys() <= new.keys()
    return {name for name in old if old[name].tobytes() != new[name].tobytes()}
