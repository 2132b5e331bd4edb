"""Operators that move, take, put, join, cut, make and reduce; lists as attributes and as inputs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch.interpreter.nodes import check, randoms

INT = np.int64


def ints(*values):
    return np.array(values, INT)


@pytest.mark.parametrize("shape", [(6, 4), (-1, 2), (0, -1), (2, 0, 2, 2), (24,), (1, -1, 1, 1)])
def test_reshape(shape):
    check("Reshape", [*randoms(0, (2, 3, 4)), ints(*shape)], settings=(1,))


def test_reshape_of_nothing():
    x = np.zeros((0, 3))
    check("Reshape", [x, ints(3, 0)], settings=(1,), opset=14, allowzero=1)
    check("Reshape", [x, ints(0, 3)], settings=(1,))


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1])
def test_flatten(axis):
    check("Flatten", randoms(0, (2, 3, 4)), axis=axis)


@pytest.mark.parametrize("perm", [None, [2, 0, 1], [0, 2, 1]])
def test_transpose(perm):
    check("Transpose", randoms(0, (2, 3, 4)), **({} if perm is None else {"perm": perm}))


@pytest.mark.parametrize("axes", [None, [0], [0, 2], [-1]])
def test_squeeze(axes):
    (x,) = randoms(0, (1, 3, 1, 4, 1))
    check(
        "Squeeze", [x] if axes is None else [x, ints(*axes)], settings=() if axes is None else (1,)
    )
    check("Squeeze", [x], opset=11, **({} if axes is None else {"axes": axes}))


@pytest.mark.parametrize("axes", [[0], [1, 3], [-1], [-1, 0]])
def test_unsqueeze(axes):
    (x,) = randoms(0, (3, 4))
    check("Unsqueeze", [x, ints(*axes)], settings=(1,))
    check("Unsqueeze", [x], opset=11, axes=axes)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_concat(axis):
    check("Concat", randoms(0, (2, 3), (2, 3), (2, 3)), axis=axis)


@pytest.mark.parametrize("axis", [1, -2])
def test_split(axis):
    (x,) = randoms(0, (2, 5, 3))
    check("Split", [x, ints(2, 3)], settings=(1,), outputs=2, axis=axis)
    check("Split", [x], opset=11, outputs=2, axis=axis, split=[4, 1])
    check("Split", randoms(0, (2, 6)), outputs=3, axis=1)
    check("Split", randoms(0, (2, 5)), outputs=3, axis=1, opset=18, num_outputs=3)


@given(st.data())
@settings(max_examples=30)
def test_slice(data):
    shape = (4, 5, 6)
    axes = data.draw(
        st.lists(
            st.sampled_from([0, 1, 2, -1, -2]), min_size=1, max_size=2, unique_by=lambda a: a % 3
        )
    )
    steps = [data.draw(st.sampled_from([1, 2, 3, -1, -2])) for _ in axes]
    near = st.integers(-8, 8)
    starts = [data.draw(near) for _ in axes]
    # a far end in the wrong direction means something of its own to onnxruntime
    ends = [data.draw(near | st.just(2**31 - 1 if s > 0 else -(2**31))) for s in steps]
    arrays = [*randoms(0, shape), ints(*starts), ints(*ends), ints(*axes), ints(*steps)]
    # onnx.reference slices as Python does, which takes nothing where the spec clamps the start
    check("Slice", arrays, settings=(1, 2, 3, 4), oracle=min(steps) > 0)


def test_slice_of_old_opsets_and_without_axes():
    (x,) = randoms(0, (4, 5, 6))
    check("Slice", [x], opset=9, starts=[1, -3], ends=[100, -1], axes=[0, 2])
    check("Slice", [x], opset=9, starts=[1], ends=[3])
    check("Slice", [x, ints(1, 2), ints(3, 5)], settings=(1, 2))
    check("Slice", [x, ints(1, 2), ints(3, 5), None, ints(2, 1)], settings=(1, 2, 4))


def test_expand_and_tile():
    check("Expand", [*randoms(0, (3, 1)), ints(2, 1, 4)], settings=(1,))
    check("Expand", [*randoms(0, (3, 4)), ints(1, 1)], settings=(1,))
    check("Tile", [*randoms(0, (2, 3)), ints(2, 3)], settings=(1,))


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
@pytest.mark.parametrize(
    "pads", [[0, 0, 1, 2, 0, 0, 2, 1], [1, 0, 0, 1, 0, 1, 3, 0], [0, 0, -1, 1, 0, 0, 1, -2]]
)
def test_pad(mode, pads):
    (x,) = randoms(0, (2, 3, 4, 5))
    # onnx.reference pads with numpy, which takes no negative pads
    oracle = min(pads) >= 0
    if mode == "reflect":
        pads = [min(p, 1) for p in pads]
    check("Pad", [x, ints(*pads)], settings=(1,), opset=19, mode=mode, oracle=oracle)
    if mode == "constant":
        arrays = [x, ints(*pads), np.array(0.7)]
        check("Pad", arrays, settings=(1, 2), opset=13, mode=mode, oracle=oracle)
    if mode != "wrap":
        check("Pad", [x], opset=10, pads=pads, mode=mode, value=0.5, oracle=False)


def test_pad_of_some_axes():
    arrays = [*randoms(0, (2, 3, 4)), ints(1, 2, 0, 1), None, ints(-1, 1)]
    check("Pad", arrays, settings=(1, 3), opset=18)


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space_and_back(mode):
    check("DepthToSpace", randoms(0, (2, 12, 2, 3)), blocksize=2, mode=mode)
    check("SpaceToDepth", randoms(0, (2, 3, 4, 6)), blocksize=2)


@pytest.mark.parametrize("upper", [0, 1])
def test_trilu(upper):
    check("Trilu", randoms(0, (2, 4, 5)), upper=upper)
    check("Trilu", [*randoms(0, (4, 5)), np.array(1)], settings=(1,), upper=upper)


@pytest.mark.parametrize("axes", [(0, 1), (1, 0)])
def test_reverse_sequence(axes):
    time, batch = axes
    x = randoms(0, (4, 3, 2) if time == 0 else (3, 4, 2))[0]
    check("ReverseSequence", [x, ints(1, 4, 2)], time_axis=time, batch_axis=batch)


def test_center_crop_pad():
    check("CenterCropPad", [*randoms(0, (5, 4)), ints(3, 7)], settings=(1,), opset=18, oracle=False)
    check(
        "CenterCropPad",
        [*randoms(0, (5, 4)), ints(2)],
        settings=(1,),
        opset=18,
        axes=[-1],
        oracle=False,
    )


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("indices", [[2, 0, -1], [[0, 1], [-1, -2]], 1, -1])
def test_gather(axis, indices):
    check("Gather", [*randoms(0, (3, 4, 5)), np.array(indices)], settings=(1,), axis=axis)


@pytest.mark.parametrize("axis", [0, 1])
def test_gather_and_scatter_elements(axis):
    x, updates = randoms(0, (3, 4), (2, 3))
    at = np.array([[0, 2, -1], [1, 0, 2]]) if axis == 0 else np.array([[0, 3, -1], [1, 0, 2]])
    check("GatherElements", [x, at[:, :3] if axis == 1 else at], axis=axis, oracle=False)
    check("ScatterElements", [x, np.abs(at), updates], axis=axis)
    check("Scatter", [x, np.abs(at), updates], axis=axis, opset=10, oracle=False)
    for how in ("add", "mul", "max", "min"):
        check("ScatterElements", [x, at, updates], axis=axis, opset=18, reduction=how)


def test_gather_and_scatter_nd():
    x, updates, rows = randoms(0, (2, 3, 4), (2, 4), (2,))
    at = np.array([[0, -1], [1, 0]])
    check("GatherND", [x, at])
    check("GatherND", [x, np.array([[1], [2]])], batch_dims=1)
    check("ScatterND", [x, np.abs(at), updates])
    check("ScatterND", [x, np.array([[0, 1, 2], [1, 2, 3]]), rows], opset=18, reduction="add")


def test_where_what_is():
    x = np.round(randoms(0, (3, 4))[0])
    check("NonZero", [x])
    check("Compress", [x, np.array([True, False, True])], axis=0)
    check("Compress", [x, np.array([True, False, True])])
    for in_order in (0, 1):
        check("Unique", [np.array([2, 1, 1, 3, 2])], outputs=4, sorted=in_order)


def test_one_hot():
    values = np.array([0.5, 2.0])
    for axis in (-1, 0, 1):
        arrays = [np.array([[0, 2], [-1, 1]]), np.array(4), values]
        check("OneHot", arrays, settings=(1, 2), axis=axis)


@pytest.mark.parametrize("bounds", [(0, 5, 1), (5, -2, -2), (0, 5, 2)])
def test_range(bounds):
    check("Range", [np.array(b) for b in bounds], settings=(0, 1, 2))
    check("Range", [np.array(float(b)) for b in bounds], settings=(0, 1, 2))


def test_making_of_shapes():
    import onnx

    fill = onnx.numpy_helper.from_array(np.array([3], np.int64))
    check("ConstantOfShape", [ints(2, 3)], settings=(0,), value=fill)
    check("Shape", randoms(0, (2, 3, 4)))
    check("Shape", randoms(0, (2, 3, 4)), start=1, end=-1)
    check("Size", randoms(0, (2, 3, 4)))
    check("EyeLike", [np.zeros((3, 4))], k=1)


@pytest.mark.parametrize("to", [1, 6, 7, 9, 11])
def test_cast(to):
    check("Cast", [np.array([-1.7, 0.0, 2.5])], to=to, oracle=False)
    check("CastLike", [np.array([1.0, 2.0]), ints(1)])


REDUCTIONS = ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSum", "LogSumExp")


@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize("axes", [None, [1], [0, -1]])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_reductions(name, axes, keepdims):
    x = np.abs(randoms(0, (2, 3, 4))[0]) + 0.1
    with_input = [x] if axes is None else [x, ints(*axes)]
    settings = () if axes is None else (1,)
    check(f"Reduce{name}", with_input, settings=settings, opset=18, keepdims=keepdims)
    if axes is not None:
        check(f"Reduce{name}", [x], opset=11, axes=axes, keepdims=keepdims)


def test_reductions_of_nothing_and_of_integers():
    check("ReduceSum", [*randoms(0, (2, 3)), ints()], settings=(1,), noop_with_empty_axes=1)
    check("ReduceSum", [np.arange(6).reshape(2, 3), ints(0)], settings=(1,))
    check("ReduceMax", [np.arange(6).reshape(2, 3)], opset=13)


@pytest.mark.parametrize("op_type", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("last", [0, 1])
def test_arg_max(op_type, last):
    x = np.round(randoms(0, (3, 6))[0])
    for axis, keepdims in ((0, 1), (1, 0), (-1, 1)):
        check(op_type, [x], axis=axis, keepdims=keepdims, select_last_index=last)


@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("reverse", [0, 1])
def test_cum_sum(exclusive, reverse):
    arrays = [*randoms(0, (3, 5)), np.array(1, np.int32)]
    check("CumSum", arrays, settings=(1,), exclusive=exclusive, reverse=reverse)


@pytest.mark.parametrize("largest", [0, 1])
def test_top_k(largest):
    (x,) = randoms(0, (3, 6))
    check("TopK", [x, ints(3)], settings=(1,), outputs=2, largest=largest, axis=1)
    check("TopK", [x], opset=9, outputs=2, k=2, axis=0, oracle=False)
