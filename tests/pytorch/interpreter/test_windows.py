"""Convolutions and pools: strides, pads, auto_pad, dilations, groups, ceil_mode."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch.interpreter.nodes import check, randoms

AUTO_PADS = ("NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")


@st.composite
def layers(draw):
    """Sizes, kernel and attributes that Conv, ConvTranspose and pools have in common."""
    rank = draw(st.integers(1, 3))
    group = draw(st.sampled_from([1, 1, 2, 3]))
    kernel = draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank))
    sizes = draw(st.lists(st.integers(6, 8), min_size=rank, max_size=rank))
    strides = draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank))
    dilations = draw(st.lists(st.integers(1, 2), min_size=rank, max_size=rank))
    pads = draw(st.lists(st.integers(0, 2), min_size=2 * rank, max_size=2 * rank))
    if draw(st.booleans()):
        pads = pads[:rank] * 2
    return group, kernel, sizes, strides, dilations, pads


@given(layers(), st.sampled_from(AUTO_PADS), st.integers(1, 2), st.booleans())
@settings(max_examples=60)
def test_conv(case, auto_pad, per_group, bias):
    group, kernel, sizes, strides, dilations, pads = case
    how = {"pads": pads} if auto_pad == "NOTSET" else {"auto_pad": auto_pad}
    if auto_pad.startswith("SAME"):
        dilations = [1] * len(kernel)  # onnxruntime refuses others
    arrays = randoms(
        0, (2, per_group * group, *sizes), (2 * group, per_group, *kernel), (2 * group,)
    )
    check(
        "Conv", arrays if bias else arrays[:2], settings=(1, 2) if bias else (1,),
        group=group, strides=strides, dilations=dilations, **how,
    )  # fmt: skip


@given(layers(), st.integers(1, 2), st.data())
@settings(max_examples=50)
def test_conv_transpose(case, per_group, data):
    group, kernel, sizes, strides, dilations, pads = case
    rank = len(kernel)
    extents = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
    pads = [min(p, e - 1) for p, e in zip(pads, extents * 2, strict=True)]
    extra = [data.draw(st.integers(0, s - 1)) for s in strides]
    arrays = randoms(
        0, (2, 2 * group, *sizes), (2 * group, per_group, *kernel), (per_group * group,)
    )
    check(
        "ConvTranspose", arrays, settings=(1, 2), group=group, strides=strides,
        dilations=dilations, pads=pads, output_padding=extra[:rank],
    )  # fmt: skip


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"strides": [2, 2], "output_shape": [11, 12]},
        {"strides": [2, 2], "output_shape": [9, 11]},
        {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
        {"strides": [2, 2], "auto_pad": "SAME_LOWER"},
        {"strides": [2, 2], "auto_pad": "VALID"},
    ],
)
def test_conv_transpose_to_a_size(attributes):
    check("ConvTranspose", randoms(0, (2, 4, 5, 6), (4, 3, 3, 2), 3), **attributes)


@given(layers(), st.sampled_from(AUTO_PADS), st.integers(0, 1), st.integers(0, 1))
@settings(max_examples=60)
def test_max_pool(case, auto_pad, ceil_mode, storage_order):
    _, kernel, sizes, strides, dilations, pads = case
    pads = [min(p, k - 1) for p, k in zip(pads, kernel * 2, strict=True)]
    how = {"pads": pads} if auto_pad == "NOTSET" else {"auto_pad": auto_pad}
    if auto_pad.startswith("SAME"):  # onnxruntime takes no windows that skip pixels then
        dilations, strides = [1] * len(kernel), [min(p) for p in zip(strides, kernel, strict=True)]
    common = {"kernel_shape": kernel, "strides": strides, "dilations": dilations, **how}
    arrays = randoms(0, (2, 3, *sizes))
    ceil_mode = ceil_mode if auto_pad == "NOTSET" else 0
    check("MaxPool", arrays, ceil_mode=ceil_mode, **common)
    check("MaxPool", arrays, outputs=2, ceil_mode=ceil_mode, storage_order=storage_order, **common)


@given(layers(), st.sampled_from(AUTO_PADS), st.integers(0, 1), st.integers(0, 1))
@settings(max_examples=60)
def test_average_pool(case, auto_pad, ceil_mode, include):
    _, kernel, sizes, strides, dilations, pads = case
    pads = [min(p, k - 1) for p, k in zip(pads, kernel * 2, strict=True)]
    how = {"pads": pads} if auto_pad == "NOTSET" else {"auto_pad": auto_pad}
    if auto_pad.startswith("SAME"):
        strides = [min(p) for p in zip(strides, kernel, strict=True)]
    common = {"kernel_shape": kernel, "strides": strides, "count_include_pad": include, **how}
    ceil_mode = ceil_mode if auto_pad == "NOTSET" else 0
    check("AveragePool", randoms(0, (2, 3, *sizes)), ceil_mode=ceil_mode, **common)
    if not auto_pad.startswith("SAME"):
        wide = {**common, "dilations": dilations, "opset": 19}
        # onnxruntime counts the padding of dilated windows wrongly: held to the oracle alone
        check("AveragePool", randoms(0, (2, 3, *sizes)), onnxruntime=False, **wide)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_max_pool_of_bytes(dtype):
    x = np.random.default_rng(0).integers(-100 if dtype is np.int8 else 0, 100, (1, 2, 6, 6))
    check("MaxPool", [x.astype(dtype)], kernel_shape=[3, 3], pads=[1, 1, 1, 1])


@pytest.mark.parametrize("op_type", ["GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"])
@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 3, 4, 5), (1, 2, 3, 4, 5)])
def test_global_pools(op_type, shape):
    # onnx.reference's GlobalMaxPool drops axes, and it has no GlobalLpPool
    check(op_type, randoms(0, shape), oracle=op_type == "GlobalAveragePool")


@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize("pads", [[0, 0, 0, 0], [1, 0, 0, 1]])
def test_lp_pool(p, pads):
    check(
        "LpPool",
        randoms(0, (2, 3, 6, 7)),
        p=p,
        kernel_shape=[3, 2],
        strides=[2, 1],
        pads=pads,
        oracle=False,
    )


def test_max_unpool():
    x = np.array([[[[1.0, 2.0], [3.0, 4.0]]]])
    at = np.array([[[[5, 7], [13, 15]]]])
    check("MaxUnpool", [x, at], kernel_shape=[2, 2], strides=[2, 2])
    # onnx.reference takes the places for those of the size without output_shape
    arrays = [x, at, np.array([1, 1, 5, 5])]
    check("MaxUnpool", arrays, settings=(2,), kernel_shape=[2, 2], strides=[2, 2], oracle=False)
