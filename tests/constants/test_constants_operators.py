"""What holds for every operator of the table: it is tested, and nothing breaks it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from constants.nodes import arrays, constant, model_of, vector
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto

from normsurgery import io
from normsurgery.constants import Limits, NotConstant, constant_of
from normsurgery.constants.operators import TABLE
from normsurgery.graph import Graph

pytestmark = pytest.mark.usefixtures("short_of_inputs")


def test_every_operator_of_the_table_is_tested() -> None:
    text = "".join(
        Path(__file__).with_name(f"test_constants_{kind}.py").read_text(encoding="utf-8")
        for kind in ("arithmetic", "making", "moving")
    )
    assert [op for op in TABLE if f'"{op}"' not in text] == []


@pytest.mark.parametrize("op", TABLE)
@pytest.mark.parametrize("count", [0, 1])
def test_missing_inputs_are_no_crash(op: str, count: int) -> None:
    constant(model_of(op, [np.ones((2, 2), np.float32)] * count))
    constant(model_of(op, [None] * 2))


@given(
    st.sampled_from(sorted(TABLE)),
    st.lists(st.one_of(arrays, hnp.arrays(np.int64, st.integers(0, 4))), max_size=4),
    st.sampled_from([1, 6, 9, 13, 21]),
    st.dictionaries(
        st.sampled_from(["axis", "axes", "perm", "to", "shape", "keepdims", "broadcast", "end"]),
        st.one_of(st.integers(-9, 9), st.lists(st.integers(-4, 4), max_size=3)),
    ),
)
@settings(max_examples=400)
def test_nonsense_is_no_crash(op: str, inputs: list[Any], opset: int, attributes: Any) -> None:
    attributes = {k: v for k, v in attributes.items() if v != []}
    constant(model_of(op, inputs, opset, **attributes), Limits(1 << 20))


ONES = np.ones(1, np.float32)
WIDE = np.broadcast_to(np.float32(0), (1 << 12, 1))


@pytest.mark.parametrize(
    ("op", "inputs", "attributes"),
    [
        ("ConstantOfShape", [vector([1 << 40])], {}),
        ("ConstantOfShape", [vector([1 << 62, 1 << 62])], {}),
        ("Expand", [ONES, vector([1 << 40])], {}),
        ("Tile", [ONES, vector([1 << 40])], {}),
        ("Range", [vector(0), vector(1 << 40), vector(1)], {}),
        ("Range", [np.float32(0), np.float32(1e12), np.float32(1)], {}),
        ("Concat", [np.zeros(70_000, np.float32)] * 2, {"axis": 0}),
        ("MatMul", [WIDE, WIDE.T], {}),
        ("MatMul", [ONES[None], np.zeros((1 << 12, 1, 64), np.float32)], {}),
        ("Add", [WIDE, WIDE.T], {}),
        ("Max", [WIDE, WIDE.T], {}),
        ("Gather", [WIDE.T, np.zeros(1 << 12, np.int64)], {}),
        # the result is small, an operand in float64 is not
        ("ReduceSum", [np.zeros(1 << 18, np.float32)], {}),
        ("Cast", [np.zeros(1 << 18, np.float32)], {"to": TensorProto.DOUBLE}),
        ("Clip", [np.zeros(1 << 18, np.float32)], {}),
        ("Neg", [np.zeros(1 << 18, np.float32)], {}),
    ],
)
def test_bombs_are_refused_before_they_are_made(op: str, inputs: Any, attributes: Any) -> None:
    import tracemalloc

    model = io.from_proto(model_of(op, inputs, **attributes))
    graph = Graph(model)
    tracemalloc.start()
    found = constant_of(graph.main, "y0", Limits(1 << 20))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(found, NotConstant)
    assert found.kind in {"too-large", "unsupported"}
    assert peak < 1 << 20
