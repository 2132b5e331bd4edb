"""Quantization, sequences, detectors' operators, random numbers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from pytorch.interpreter.nodes import by_module, by_onnxruntime, check, node_model, randoms

from normsurgery.errors import UsageError
from normsurgery.pytorch import to_module


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_quantize_and_dequantize(dtype):
    x = 20 * randoms(0, (2, 3, 4))[0]
    zero = np.array([3, 0, 7], dtype)
    scale = np.array([0.5, 0.25, 1.0])
    check("QuantizeLinear", [x, scale, zero], settings=(1, 2), axis=1, oracle=False)
    check("QuantizeLinear", [x, np.array(0.5), zero[0]], settings=(1, 2), oracle=False)
    q = np.random.default_rng(0).integers(0, 100, (2, 3, 4)).astype(dtype)
    check("DequantizeLinear", [q, scale, zero], settings=(1, 2), axis=1)
    check("DequantizeLinear", [q, np.array(0.5)], settings=(1,))


def test_int32_biases_keep_their_bits():
    q = np.array([[2**30 + 1, -(2**30) - 3]], np.int32)
    check("DequantizeLinear", [q, np.array([1.0, 2.0])], axis=1, onnxruntime=False)


def test_dynamic_quantization():
    check("DynamicQuantizeLinear", [*randoms(0, (3, 4))], outputs=3, oracle=False)
    check("DynamicQuantizeLinear", [np.abs(randoms(1, (3, 4))[0])], outputs=3, oracle=False)


def parse(text: str, opset: int = 17) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> {text}')


def test_sequences():
    model = parse(
        """g (float[2, 6] x, int64 one) => (float[2, 6] y, float[2, 2] last, int64 n) {
            parts = SplitToSequence<axis = 1>(x, two)
            last = SequenceAt(parts, minus)
            n = SequenceLength(parts)
            longer = SequenceInsert(parts, last, one)
            shorter = SequenceErase(longer, one)
            y = ConcatFromSequence<axis = 1>(shorter)
        }"""
    )
    for name, value in (("two", 2), ("minus", -1)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(value), name))
    feeds = {"x": randoms(0, (2, 6))[0].astype(np.float32), "one": np.array(1)}
    for found, expected in zip(
        by_module(to_module(model), feeds), by_onnxruntime(model, feeds), strict=True
    ):
        assert np.array_equal(found, expected)


def test_pieces_without_their_axis():
    model = parse(
        """g (float[3, 2] x) => (float[2, 3] y) {
            s = SplitToSequence<axis = 0, keepdims = 0>(x)
            y = ConcatFromSequence<axis = 1, new_axis = 1>(s)
        }"""
    )
    feeds = {"x": randoms(0, (3, 2))[0].astype(np.float32)}
    assert np.array_equal(by_module(to_module(model), feeds)[0], by_onnxruntime(model, feeds)[0])


@pytest.mark.parametrize("centres", [0, 1])
def test_non_max_suppression(centres):
    rng = np.random.default_rng(0)
    corner, size = rng.uniform(0, 4, (2, 12, 2)), rng.uniform(0.5, 3, (2, 12, 2))
    boxes = np.concatenate([corner, corner + size if not centres else size], -1)
    scores = rng.uniform(0, 1, (2, 3, 12))
    arrays = [boxes, scores, np.array([4]), np.array([0.3]), np.array([0.4])]
    check("NonMaxSuppression", arrays, settings=(2, 3, 4), center_point_box=centres, oracle=False)


@pytest.mark.parametrize("how", ["half_pixel", "output_half_pixel"])
@pytest.mark.parametrize("ratio", [0, 2])
def test_roi_align(how, ratio):
    (x,) = randoms(0, (2, 3, 8, 9))
    rois = np.array([[0.5, 1, 6, 7], [2, 2, 3, 9], [0, 0, 20, 16]])
    check(
        "RoiAlign", [x, rois, np.array([0, 1, 1])], opset=16, output_height=3, output_width=2,
        sampling_ratio=ratio, spatial_scale=0.5, coordinate_transformation_mode=how, oracle=False,
    )  # fmt: skip


def test_col2im():
    arrays = [*randoms(0, (1, 2 * 4, 9)), np.array([4, 4]), np.array([2, 2])]
    check("Col2Im", arrays, settings=(1, 2), opset=18, oracle=False)


def test_random_numbers_cannot_be_checked():
    model = node_model("RandomNormalLike", [np.zeros((400, 50))], mean=1.0, scale=2.0)
    with pytest.raises(UsageError, match="RandomNormalLike `node` is random"):
        to_module(model)
    module = to_module(model, check=False)
    drawn = module(torch.zeros(400, 50))
    assert abs(drawn.mean() - 1) < 0.05
    assert abs(drawn.std() - 2) < 0.05
    assert module.double()(torch.zeros(4, 5)).dtype is torch.float64
