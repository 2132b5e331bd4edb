"""Pad, Resize, Upsample, DepthToSpace and SpaceToDepth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from crossings import assert_stays, backwards, forwards, ints, slug_of
from graphs import assert_folds, assert_kept, ops, parse, weights

import normsurgery

# -- Pad -----------------------------------------------------------------------------------------

AROUND = {"p": ints(0, 0, 1, 2, 0, 0, 0, 1)}


@pytest.mark.parametrize("mode", ["reflect", "edge", "wrap"])
def test_pad_with_the_images_own(mode: str) -> None:
    model = backwards(f'd = Pad<mode="{mode}">(c, p)', **AROUND)
    assert_folds(model, ["Conv", "Pad"])
    model = forwards(f'd = Pad<mode="{mode}">(b, p)', **AROUND)
    assert_folds(model, ["Sigmoid", "Pad", "Conv"])


ZERO: list[tuple[str, int, dict[str, Any]]] = [
    ("Pad({}, p)", 21, AROUND),
    ("Pad({}, p, v)", 13, {**AROUND, "v": np.float64(0)}),
    ("Pad({}, p, , a)", 18, {"p": ints(1, 2, 0, 1), "a": ints(2, -1)}),
    ("Pad<pads=[0, 0, 1, 2, 0, 0, 0, 1]>({})", 10, {}),
]


@pytest.mark.parametrize(("call", "opset", "extra"), ZERO)
def test_pad_with_zero(call: str, opset: int, extra: Any) -> None:
    model = backwards(f"d = {call.format('c')}", shift=False, opset=opset, **extra)
    assert_folds(model, ["Conv", "Pad"])
    assert_kept(backwards(f"d = {call.format('c')}", opset=opset, **extra), "shift-across")
    model = forwards(f"d = {call.format('b')}", shift=False, opset=opset, **extra)
    assert_folds(model, ["Sigmoid", "Pad", "Conv"])
    model = forwards(f"d = {call.format('b')}", opset=opset, **extra)
    assert slug_of(model, "Pad") == "shift-across"
    assert_stays(model)


@pytest.mark.parametrize(
    ("call", "opset", "extra"),
    [
        ("Pad(c, p, v)", 21, {**AROUND, "v": np.float64(1)}),
        ("Pad<pads=[0, 0, 1, 2, 0, 0, 0, 1], value=1.0>(c)", 10, {}),
    ],
)
def test_pad_with_a_value(call: str, opset: int, extra: Any) -> None:
    model = backwards(f"d = {call}", shift=False, opset=opset, **extra)
    assert_kept(model, "shift-across")


def test_pad_with_a_value_of_run_time() -> None:
    model = backwards("d = Pad(c, p, v)", shift=False, inputs=", double v", **AROUND)
    assert_kept(model, "shift-across")
    model = forwards("d = Pad(b, p, v)", shift=False, inputs=", double v", **AROUND)
    assert slug_of(model, "Pad") == "shift-across"


def test_map_of_the_value_that_is_padded_with() -> None:
    model = forwards("d = Pad(x, p, b)", **AROUND)
    assert slug_of(model, "Pad", slot=2) == "not-linear"


def test_pad_of_the_channels() -> None:
    extra = {"p": ints(0, 1, 0, 0, 0, 0, 0, 0)}
    assert_kept(backwards("d = Pad(c, p)", shift=False, channels=5, **extra), "mixed-channels")
    model = forwards("d = Pad(b, p)", shift=False, V=(5, 5, 1, 1), **extra)
    assert slug_of(model, "Pad") == "mixed-channels"
    assert_stays(model)


def test_pad_by_nothing() -> None:
    model = backwards("d = Pad(c, p)", p=ints(0, 0, 0, 0, 0, 0, 0, 0))
    assert_folds(model, ["Conv", "Pad"])


def test_pad_by_a_size_of_run_time() -> None:
    model = backwards("d = Pad(c, p)", shift=False, inputs=", int64[8] p")
    assert slug_of(model, "Pad", forwards=False) == "not-constant"


def test_pad_that_crops() -> None:
    extra = {"p": ints(0, 0, -1, 0, 0, 0, 0, -2)}
    result = normsurgery.fold(backwards("d = Pad(c, p)", shift=False, **extra))
    assert ops(result.model) == ["Conv", "Pad"]


# -- Resize --------------------------------------------------------------------------------------

TWICE = {"s": np.array([1, 1, 2, 3], np.float32)}


@pytest.mark.parametrize(
    "attributes",
    [
        'mode="nearest"',
        'mode="linear"',
        'mode="cubic"',
        'mode="cubic", exclude_outside=1, cubic_coeff_a=-0.5',
        'mode="linear", coordinate_transformation_mode="align_corners"',
        'mode="linear", coordinate_transformation_mode="asymmetric"',
        'mode="linear", coordinate_transformation_mode="pytorch_half_pixel"',
        'mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"',
    ],
)
def test_resize_by_scales(attributes: str) -> None:
    model = backwards(f"d = Resize<{attributes}>(c, , s)", **TWICE)
    assert_folds(model, ["Conv", "Resize"])
    model = forwards(f"d = Resize<{attributes}>(b, , s)", **TWICE)
    assert_folds(model, ["Sigmoid", "Resize", "Conv"])


def test_resize_that_shrinks_with_antialiasing() -> None:
    extra = {"s": np.array([1, 1, 0.5, 0.5], np.float32)}
    model = backwards('d = Resize<mode="linear", antialias=1>(c, , s)', **extra)
    assert_folds(model, ["Conv", "Resize"])


def test_resize_to_sizes() -> None:
    extra = {"n": ints(2, 4, 12, 9)}
    model = backwards("d = Resize(c, , , n)", x="2, 3, 6, 6", **extra)
    assert_folds(model, ["Conv", "Resize"])
    model = forwards("d = Resize(b, , , n)", x="2, 4, 6, 6", **extra)
    assert_folds(model, ["Sigmoid", "Resize", "Conv"])


def test_resize_of_named_axes() -> None:
    extra = {"n": ints(12, 9)}
    model = backwards("d = Resize<axes=[2, 3]>(c, , , n)", **extra)
    result = normsurgery.fold(model)
    assert ops(result.model) == ["Conv", "Resize"]
    extra = {"s": np.array([2, 1], np.float32)}
    result = normsurgery.fold(backwards("d = Resize<axes=[-1, 1]>(c, , s)", **extra))
    assert ops(result.model) == ["Conv", "Resize"]


def test_resize_of_the_channels() -> None:
    extra = {"s": np.array([1, 2, 1, 1], np.float32)}
    assert_kept(backwards("d = Resize(c, , s)", channels=8, **extra), "mixed-channels")
    model = forwards("d = Resize(b, , s)", V=(5, 8, 1, 1), **extra)
    assert slug_of(model, "Resize") == "mixed-channels"
    assert_stays(model)
    extra = {"n": ints(2, 8, 6, 6)}
    model = backwards("d = Resize(c, , , n)", channels=8, x="2, 3, 6, 6", **extra)
    assert_kept(model, "unknown-shape")


def test_resize_that_moves_channels_and_keeps_their_number() -> None:
    """⌊4·1.2⌋ = 4 channels, of which the fourth is made of the third one."""
    attributes = 'coordinate_transformation_mode="asymmetric", nearest_mode="floor"'
    extra = {"s": np.array([1, 1.2, 1, 1], np.float32)}
    assert_kept(backwards(f"d = Resize<{attributes}>(c, , s)", **extra), "mixed-channels")


def test_resize_with_one_scale_for_all_axes() -> None:
    attributes = 'keep_aspect_ratio_policy="not_larger"'
    model = backwards(f"d = Resize<{attributes}>(c, , , n)", x="2, 3, 6, 6", n=ints(2, 4, 7, 7))
    assert slug_of(model, "Resize", forwards=False) == "unknown-shape"


@pytest.mark.parametrize(
    ("mode", "slug"),
    [
        ('nearest_mode="floor"', None),
        ('nearest_mode="ceil"', "mixed-channels"),
        ('mode="linear"', "mixed-channels"),
    ],
)
def test_resize_half_a_pixel_off(mode: str, slug: str | None) -> None:
    attributes = f'coordinate_transformation_mode="tf_half_pixel_for_nn", {mode}'
    extra = {"r": np.zeros(0, np.float32), **TWICE}
    model = backwards(f"d = Resize<{attributes}>(c, r, s)", opset=11, **extra)
    assert slug_of(model, "Resize", forwards=False) == slug


def test_resize_with_a_value_from_outside() -> None:
    attributes = 'coordinate_transformation_mode="tf_crop_and_resize", extrapolation_value=1.0'
    extra = {"r": np.array([0, 0, 0, 0, 1, 1, 2, 2], np.float64), **TWICE}
    model = backwards(f'd = Resize<{attributes}, mode="linear">(c, r, s)', **extra)
    assert_kept(model, "shift-across")


def test_resize_by_scales_of_run_time() -> None:
    model = backwards("d = Resize(c, , s)", inputs=", float[4] s")
    assert_kept(model, "unknown-shape")
    model = forwards("d = Resize(b, , s)", inputs=", float[4] s")
    assert slug_of(model, "Resize") == "unknown-shape"


def test_map_of_the_region_is_no_map_of_the_image() -> None:
    model = forwards("d = Resize(x, b, s)", **TWICE)
    assert slug_of(model, "Resize", slot=1) == "not-linear"


@pytest.mark.parametrize(
    ("call", "opset"),
    [
        ("Upsample<scales=[1.0, 1.0, 2.0, 3.0]>({})", 7),
        ('Upsample<mode="linear">({}, s)', 9),
        ("Resize({}, s)", 10),
    ],
)
def test_old_resize(call: str, opset: int) -> None:
    extra: dict[str, Any] = TWICE if "s)" in call else {}
    op = call.partition("<")[0].partition("(")[0]
    model = backwards(f"d = {call.format('c')}", opset=opset, **extra)
    result = normsurgery.fold(model)
    assert ops(result.model) == ["Conv", op]
    model = forwards(f"d = {call.format('b')}", opset=opset, **extra)
    result = normsurgery.fold(model)
    assert ops(result.model) == ["Sigmoid", op, "Conv"]
    if op == "Upsample":
        assert_folds(model, ["Sigmoid", op, "Conv"])


# -- DepthToSpace and SpaceToDepth ---------------------------------------------------------------

DEPTHS = [
    "DepthToSpace<blocksize=2>",
    'DepthToSpace<blocksize=2, mode="DCR">',
    'DepthToSpace<blocksize=2, mode="CRD">',
]


@pytest.mark.parametrize("call", DEPTHS)
def test_depth_to_space_backwards(call: str) -> None:
    model = backwards(f"d = {call}(c)", W=(12, 3, 1, 1), channels=3)
    assert_folds(model, ["Conv", "DepthToSpace"])


@pytest.mark.parametrize("call", DEPTHS)
def test_depth_to_space_forwards(call: str) -> None:
    model = forwards(f"d = {call}(b)", x="N, 12, 6, 6", channels=12, V=(5, 3, 1, 1))
    assert slug_of(model, "DepthToSpace") == "mixed-channels"
    assert_stays(model)
    alike = np.tile(weights(3), 4) if "CRD" not in call else np.repeat(weights(3), 4)
    text = f"""g (double[N, 12, 6, 6] x) => (double[N, 5, 12, 12] y) {{
      s = Sigmoid(x)
      b = Mul(s, m)
      d = {call}(b)
      y = Conv(d, V)
    }}"""
    m = alike.reshape(12, 1, 1)
    assert_folds(parse(text, m=m, V=weights(5, 3, 1, 1)), ["Sigmoid", "DepthToSpace", "Conv"])
    wrong = (np.repeat(weights(3), 4) if "CRD" not in call else np.tile(weights(3), 4))[:, None]
    assert_stays(parse(text, m=wrong.reshape(12, 1, 1), V=weights(5, 3, 1, 1)))


def test_space_to_depth_forwards() -> None:
    model = forwards("d = SpaceToDepth<blocksize=2>(b)", V=(5, 16, 1, 1))
    assert_folds(model, ["Sigmoid", "SpaceToDepth", "Conv"])


def test_space_to_depth_backwards() -> None:
    between = "d = SpaceToDepth<blocksize=2>(c)"
    assert_kept(backwards(between, channels=16), "mixed-channels")
    text = """g (double[N, 3, 6, 6] x) => (double[N, 16, 3, 3] y) {
      c = Conv(x, W)
      d = SpaceToDepth<blocksize=2>(c)
      y = Mul(d, m)
    }"""
    m = np.tile(weights(4), 4).reshape(16, 1, 1)
    assert_folds(parse(text, m=m, W=weights(4, 3, 1, 1)), ["Conv", "SpaceToDepth"])


def test_channels_that_are_no_multiple_of_the_block() -> None:
    model = backwards("d = SpaceToDepth<blocksize=2>(c)", channels=6)
    assert slug_of(model, "SpaceToDepth", forwards=False) == "mixed-channels"


def test_map_along_positions_that_are_shuffled() -> None:
    model = backwards("d = DepthToSpace<blocksize=2>(c)", channels=1)
    assert slug_of(model, "DepthToSpace", forwards=False, axis=2) == "mixed-channels"
