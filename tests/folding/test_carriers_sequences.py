"""SplitToSequence and SequenceAt, as the legacy exporter writes chunk and split."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from crossings import assert_stays, backwards, forwards, ints, slug_of
from graphs import assert_folds, assert_kept, bn, parse, weights

ONE = np.int64(1)


@pytest.mark.parametrize("split", [ints(1, 3), ints(2, 2), np.int64(3)])
@pytest.mark.parametrize("position", [0, 1, -1, -2])
def test_one_part_backwards(split: np.ndarray, position: int) -> None:
    sizes = [3, 1] if split.ndim == 0 else split.tolist()
    model = backwards(
        "s = SplitToSequence<axis=1>(c, parts)\n d = SequenceAt(s, i)", channels=sizes[position],
        parts=split, i=np.int64(position),
    )  # fmt: skip
    assert_folds(model, ["Conv", "SplitToSequence", "SequenceAt"])


def test_other_parts_are_left_alone() -> None:
    between = """
      s = SplitToSequence<axis=1>(c, parts)
      z = SequenceAt(s, zero)
      d = SequenceAt(s, one)"""
    model = backwards(
        between, channels=3, parts=ints(1, 3), zero=np.int64(0), one=ONE,
        outputs=", double[N, 1, 6, 6] z",
    )  # fmt: skip
    assert_folds(model, ["Conv", "SplitToSequence", "SequenceAt", "SequenceAt"])


def test_all_parts_forwards() -> None:
    """Channel 0 to one Conv and the others to another: each gets its part of the map."""
    model = parse(
        """g (double[N, 4, 6, 6] x) => (double[N, 5, 6, 6] y, double[N, 5, 6, 6] z) {
          u = Sigmoid(x)
          b = BatchNormalization(u, scale, B, mean, var)
          s = SplitToSequence<axis=1>(b, parts)
          p = SequenceAt(s, zero)
          q = SequenceAt(s, one)
          y = Conv(p, U)
          z = Conv(q, V)
        }""",
        parts=ints(1, 3), zero=np.int64(0), one=ONE, U=weights(5, 1, 1, 1), V=weights(5, 3, 1, 1),
        **bn(4),
    )  # fmt: skip
    expected = ["Sigmoid", "SplitToSequence", "SequenceAt", "SequenceAt", "Conv", "Conv"]
    assert_folds(model, expected)


def test_parts_of_another_axis() -> None:
    between = "s = SplitToSequence<axis=2>(IN, parts)\n d = SequenceAt(s, i)"
    extra = {"parts": ints(2, 4), "i": ONE}
    model = backwards(between.replace("IN", "c"), **extra)
    assert_folds(model, ["Conv", "SplitToSequence", "SequenceAt"])
    model = forwards(between.replace("IN", "b"), **extra)
    assert_folds(model, ["Sigmoid", "SplitToSequence", "SequenceAt", "Conv"])


def test_parts_of_another_axis_that_are_read_too() -> None:
    between = "s = SplitToSequence<axis=2>(c, parts)\n d = SequenceAt(s, i)\n z = SequenceAt(s, j)"
    model = backwards(
        between, parts=ints(2, 4), i=ONE, j=np.int64(0), outputs=", double[N, 4, 2, 6] z"
    )
    assert_kept(model, "fan-out")


@pytest.mark.parametrize(
    ("more", "given"),
    [
        ("z = SequenceAt(s, j)", {"j": np.int64(-1)}),  # the same part
        ("z = SequenceAt(s, k)", {}),  # any part
        ("z = ConcatFromSequence<axis=1>(s)", {}),  # all parts
        ("z = Identity(x)", {}),  # and the sequence itself
    ],
)
def test_part_that_others_read(more: str, given: dict[str, Any]) -> None:
    between = f"s = SplitToSequence<axis=1>(c, parts)\n d = SequenceAt(s, i)\n {more}"
    inputs = ", int64 k" if "k)" in more else ""
    model = backwards(
        between, channels=3, parts=ints(1, 3), i=ONE, inputs=inputs,
        outputs=", double[N, P, 6, 6] z", **given,
    )  # fmt: skip
    if "Identity" in more:
        sequence = onnx.helper.make_tensor_sequence_value_info("s", onnx.TensorProto.DOUBLE, None)
        model.graph.output.append(sequence)
    assert_kept(model, "fan-out")


def test_conditions() -> None:
    """Each broken alone: a position or parts of run time, parts without their axis, a sequence."""
    between = "s = SplitToSequence<axis=1>(c, parts)\n d = SequenceAt(s, i)"
    model = backwards(between, channels=3, parts=ints(1, 3), inputs=", int64 i")
    assert_kept(model, "not-constant")
    model = backwards(between, channels=3, i=ONE, inputs=", int64[2] parts")
    assert_kept(model, "not-constant")
    model = backwards(between, channels=3, parts=ints(1, 2), i=ONE)
    assert slug_of(model, "SequenceAt", forwards=False) == "unknown-shape"
    model = backwards(between, channels=3, parts=ints(1, 3), i=ints(0, 1))
    assert slug_of(model, "SequenceAt", forwards=False) == "unknown-shape"
    apart = between.replace("axis=1>(c, parts)", "axis=1, keepdims=0>(c)")
    model = backwards(apart, rank=3, channels=6, i=ONE)
    assert_kept(model, "mixed-channels")
    model = backwards("s = SequenceConstruct(c, x)\n d = SequenceAt(s, i)", i=np.int64(0))
    assert_kept(model, "not-linear")
    whole = "s = SplitToSequence<axis=1>(b, parts)\n d = ConcatFromSequence<axis=1>(s)"
    model = forwards(whole, parts=ints(1, 3))
    assert slug_of(model, "SplitToSequence") == "not-linear"
    assert_stays(model)


def test_each_channel_for_itself() -> None:
    """Without sizes each part is one channel."""
    between = "s = SplitToSequence<axis=1>(c)\n d = SequenceAt(s, i)"
    model = backwards(between, channels=1, i=np.int64(2))
    assert_folds(model, ["Conv", "SplitToSequence", "SequenceAt"])
