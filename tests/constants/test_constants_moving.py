"""Operators that move values about."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from constants.nodes import arrays, check, computed, floats, model_of, refused, vector
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from normsurgery import io
from normsurgery.constants import Constant, constant_of
from normsurgery.graph import Graph

pytestmark = pytest.mark.usefixtures("short_of_inputs")


@given(arrays, st.data())
def test_reshape(x: Any, data: st.DataObject) -> None:
    shape = list(data.draw(st.permutations(x.shape)))
    if shape and x.size:
        shape[data.draw(st.integers(0, len(shape) - 1))] = -1
    check("Reshape", [x, vector(shape)], allowzero=int(not x.size))
    check("Identity", [x])


def test_reshape_details() -> None:
    x = np.zeros((2, 3, 4), np.float32)
    check("Reshape", [x, vector([0, -1])])
    assert computed("Reshape", [x], opset=4, shape=[4, 6]).shape == (4, 6)
    for shape in ([5, 5], [-1, -1], [0, 0, 0, 0], [7, -1], [2**62, 8]):
        refused("Reshape", [x, vector(shape)])
    refused("Reshape", [x, np.float32([24])])
    refused("Reshape", [x])


@given(arrays, st.data())
def test_flatten(x: Any, data: st.DataObject) -> None:
    assume(x.size)  # the reference fails
    check("Flatten", [x], axis=data.draw(st.integers(-x.ndim, x.ndim)))


def test_flatten_by_a_negative_axis() -> None:
    assert computed("Flatten", [np.zeros((2, 3, 4), np.float32)], axis=-1).shape == (6, 4)
    assert computed("Flatten", [np.zeros((0, 3, 4), np.float32)]).shape == (0, 12)
    refused("Flatten", [np.zeros((2, 3), np.float32)], axis=3)


@given(arrays, st.data())
def test_transpose(x: Any, data: st.DataObject) -> None:
    if x.ndim:
        check("Transpose", [x], perm=data.draw(st.permutations(range(x.ndim))))
    check("Transpose", [x])


@given(arrays, st.data())
def test_squeeze_and_unsqueeze(x: Any, data: st.DataObject) -> None:
    rank = x.ndim + data.draw(st.integers(0, 2))
    axes = data.draw(st.permutations(range(rank)))[: rank - x.ndim]
    axes = [a - data.draw(st.sampled_from([0, rank])) for a in axes]
    check("Unsqueeze", [x, vector(axes)])
    y = np.expand_dims(x, tuple(axes))
    if axes:
        check("Squeeze", [y, vector(axes)])
        assert computed("Squeeze", [y], opset=11, axes=axes).shape == x.shape
        assert computed("Unsqueeze", [x], opset=11, axes=axes).shape == y.shape
    check("Squeeze", [y])


@given(st.data())
def test_expand(data: st.DataObject) -> None:
    both = data.draw(hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=4, max_side=4))
    x = data.draw(hnp.arrays(np.float32, both.input_shapes[0], elements=floats()))
    check("Expand", [x, vector(both.input_shapes[1])])


@given(arrays, st.data())
def test_tile(x: Any, data: st.DataObject) -> None:
    repeats = data.draw(st.lists(st.integers(0, 3), min_size=x.ndim, max_size=x.ndim))
    check("Tile", [x, vector(repeats)])


@given(st.data())
def test_concat(data: st.DataObject) -> None:
    shape = data.draw(hnp.array_shapes(max_dims=3, max_side=3, min_side=0))
    axis = data.draw(st.integers(0, len(shape) - 1))
    parts = []
    for size in data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=4)):
        part = (*shape[:axis], size, *shape[axis + 1 :])
        parts.append(data.draw(hnp.arrays(np.float32, part, elements=floats())))
    check("Concat", parts, axis=axis - data.draw(st.sampled_from([0, len(shape)])))


@given(st.data())
def test_gather(data: st.DataObject) -> None:
    x = data.draw(
        hnp.arrays(np.float32, hnp.array_shapes(min_dims=1, max_side=4), elements=floats())
    )
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    size = x.shape[axis]
    wanted = hnp.array_shapes(min_dims=0, max_dims=2)
    picked = data.draw(hnp.arrays(np.int64, wanted, elements=st.integers(-size, size - 1)))
    check("Gather", [x, picked], axis=axis)


def test_gather_out_of_bounds() -> None:
    refused("Gather", [np.zeros(3, np.float32), vector([3])])
    refused("Gather", [np.zeros(3, np.float32), vector([0])], axis=1)
    refused("Gather", [np.zeros(3, np.float32), np.float32([1])])


@given(hnp.arrays(np.int64, hnp.array_shapes(max_side=5)), st.data())
def test_slice(x: Any, data: st.DataObject) -> None:
    axes = data.draw(st.lists(st.integers(0, x.ndim - 1), unique=True, min_size=1))
    starts, ends, steps = [], [], []
    for axis in axes:
        size = x.shape[axis]
        steps.append(data.draw(st.sampled_from([1, 2, 3, -1, -2])))
        # a start below the first element: Python takes nothing, the spec the first element
        starts.append(data.draw(st.integers(-size, size + 2)))
        ends.append(data.draw(st.sampled_from([0, 1, -1, size, -size - 1, 2**63 - 1, -(2**63)])))
    check("Slice", [x, *map(vector, (starts, ends, axes, steps))])


def test_slice_details() -> None:
    x = np.arange(24).reshape(4, 6)
    check("Slice", [x, vector([1, 2]), vector([3, 5])])
    found = computed("Slice", [x], opset=9, starts=[1], ends=[2**63 - 1], axes=[1])
    assert np.array_equal(found.tensor.base, x[:, 1:])
    assert computed("Slice", [x, *map(vector, ([-9], [-10], [0], [-1]))]).shape == (1, 6)
    assert computed("Slice", [x[:0], *map(vector, ([3], [0], [0], [-1]))]).shape == (0, 6)
    for bad in (([0], [1], [0], [0]), ([0], [1], [2], [1]), ([0, 0], [1], [0], [1])):
        refused("Slice", [x, *map(vector, bad)])
    refused("Slice", [x])


def test_what_only_moves_is_a_view() -> None:
    x = np.zeros((200, 300), np.float32)
    model = io.from_proto(model_of("Transpose", [x]))
    found = constant_of(Graph(model).main, "y0")
    assert isinstance(found, Constant)
    assert np.shares_memory(found.tensor.base, model.store.array(model.proto.graph.initializer[0]))
