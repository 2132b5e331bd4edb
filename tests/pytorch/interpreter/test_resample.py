"""Resize in its modes, Upsample, GridSample; against onnxruntime and the float64 operators."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch.interpreter.nodes import check, randoms

COORDINATES = (
    "half_pixel",
    "asymmetric",
    "align_corners",
    "pytorch_half_pixel",
    "half_pixel_symmetric",
)
ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
SCALES = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0)


@given(
    st.sampled_from(COORDINATES), st.sampled_from(ROUNDINGS),
    st.lists(st.sampled_from(SCALES), min_size=2, max_size=2), st.booleans(),
)  # fmt: skip
@settings(max_examples=60)
def test_nearest(transform, rounding, scales, by_size):
    (x,) = randoms(0, (1, 2, 4, 8))
    how = {"mode": "nearest", "coordinate_transformation_mode": transform, "nearest_mode": rounding}
    sizes = np.array([1, 2, *(int(np.floor(n * s)) for n, s in zip((4, 8), scales, strict=True))])
    scaled = np.array([1, 1, *scales], np.float32)
    arrays = [x, None, None, sizes] if by_size else [x, None, scaled]
    # float32 decides which pixel is nearest: the oracle may pick another at a tie
    opset = 19 if transform == "half_pixel_symmetric" else 13
    check("Resize", arrays, settings=(3,) if by_size else (2,), opset=opset, oracle=False, **how)


@given(
    st.sampled_from(COORDINATES), st.sampled_from(["linear", "cubic"]),
    st.lists(st.sampled_from(SCALES), min_size=2, max_size=2), st.booleans(), st.booleans(),
)  # fmt: skip
@settings(max_examples=60)
def test_linear_and_cubic(transform, mode, scales, by_size, exclude):
    (x,) = randoms(0, (1, 2, 4, 8))
    how = {"mode": mode, "coordinate_transformation_mode": transform}
    if mode == "cubic":
        how |= {"exclude_outside": int(exclude), "cubic_coeff_a": -0.5}
    sizes = np.array([1, 2, *(int(np.floor(n * s)) for n, s in zip((4, 8), scales, strict=True))])
    scaled = np.array([1, 1, *scales], np.float32)
    arrays = [x, None, None, sizes] if by_size else [x, None, scaled]
    opset = 19 if transform == "half_pixel_symmetric" else 13
    check("Resize", arrays, settings=(3,) if by_size else (2,), opset=opset, oracle=False, **how)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("scales", [[1.0, 1.0, 2.0, 2.0], [1.0, 1.0, 0.5, 1.5]])
def test_against_the_oracle(mode, scales):
    arrays = [*randoms(0, (1, 2, 4, 8)), None, np.array(scales, np.float32)]
    check("Resize", arrays, settings=(2,), opset=13, mode=mode, onnxruntime=False)


@pytest.mark.parametrize("shape", [(2, 3, 5), (1, 2, 3, 4, 5)])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_other_ranks(shape, mode):
    scales = np.array([1, 1, *[2] * (len(shape) - 2)], np.float32)
    check("Resize", [*randoms(0, shape), None, scales], settings=(2,), opset=13, mode=mode)


@pytest.mark.parametrize("policy", ["not_larger", "not_smaller"])
def test_aspect_ratio(policy):
    arrays = [*randoms(0, (1, 2, 4, 8)), None, None, np.array([7, 9])]
    check(
        "Resize", arrays, settings=(3,), opset=18, mode="linear", axes=[2, 3],
        keep_aspect_ratio_policy=policy, oracle=False,
    )  # fmt: skip


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_antialias(mode):
    arrays = [*randoms(0, (1, 2, 8, 12)), None, np.array([1, 1, 0.5, 0.4], np.float32)]
    check("Resize", arrays, settings=(2,), opset=18, mode=mode, antialias=1, oracle=False)
    check("Resize", arrays, opset=18, mode=mode, antialias=1, exclude_outside=1, oracle=False)


def test_crop_and_resize():
    roi = np.array([0, 0, 0.1, 0.2, 1, 1, 0.8, 1.2], np.float32)
    arrays = [*randoms(0, (1, 2, 6, 8)), roi, None, np.array([1, 2, 5, 7])]
    check(
        "Resize", arrays, settings=(1, 3), opset=13, mode="linear", extrapolation_value=0.5,
        coordinate_transformation_mode="tf_crop_and_resize", oracle=False,
    )  # fmt: skip


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("factors", [[1, 1, 2, 3], [1, 1, 1.5, 2.5]])
def test_upsample(mode, factors):
    (x,) = randoms(0, (1, 2, 4, 6))
    scales = np.array(factors, np.float32)
    check("Upsample", [x, scales], settings=(1,), opset=9, mode=mode, oracle=False)
    check("Upsample", [x], opset=7, mode=mode, scales=[float(f) for f in factors], oracle=False)
    check("Resize", [x, scales], settings=(1,), opset=10, mode=mode, oracle=False)


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
@pytest.mark.parametrize("corners", [0, 1])
def test_grid_sample(padding, mode, corners):
    (x,) = randoms(0, (1, 2, 5, 6))
    grid = np.random.default_rng(1).uniform(-1.2, 1.2, (1, 3, 4, 2))
    how = {"padding_mode": padding, "mode": mode, "align_corners": corners}
    check("GridSample", [x, grid], opset=16, oracle=False, **how)
