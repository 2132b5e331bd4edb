"""An embedding absorbs a map into its table."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from graphs import assert_kept, bn, ops, parse, run, weights

import normsurgery


def embedded(after: str, *, table: Any, axis: int = 0, **tensors: Any) -> Any:
    return parse(
        f"""g (int64[N, T] i) => (double[A, B, C] y) {{
          e = Gather<axis={axis}>(table, i)
          {after}
        }}""",
        table=table, **tensors,
    )  # fmt: skip


def check(model: Any, expected: list[str]) -> normsurgery.FoldResult:
    result = normsurgery.fold(model)
    assert ops(result.model) == expected
    feeds = {"i": np.array([[0, 2, 1], [4, 4, 3]])}
    for x, y in zip(run(model, feeds), run(result.model, feeds), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-12)
    assert all(c.max_ulp <= 0.5 for c in result.certificates())
    return result


def test_scale_and_shift_go_into_the_table() -> None:
    """Transformers multiply their embedding by √d and add a type to it."""
    model = embedded(
        "p = Mul(e, d)\n q = Mul(p, m)\n y = Add(q, k)", table=weights(5, 4), d=np.array(2.0),
        m=weights(4), k=weights(4, seed=8),
    )  # fmt: skip
    check(model, ["Gather"])


def test_channels_before_the_positions() -> None:
    model = embedded("y = Mul(e, m)", table=weights(3, 5), axis=1, m=weights(3, 1, 1))
    check(model, ["Gather"])


def test_norm_behind_an_embedding() -> None:
    model = embedded(
        "t = Transpose<perm=[0, 2, 1]>(e)\n y = BatchNormalization(t, scale, B, mean, var)",
        table=weights(5, 4), **bn(4),
    )  # fmt: skip
    check(model, ["Gather", "Transpose"])


def test_large_table() -> None:
    constants = {"m": weights(16), "k": weights(16, seed=8)}
    model = embedded("p = Mul(e, m)\n y = Add(p, k)", table=weights(5000, 16), **constants)
    check(model, ["Gather"])


@pytest.mark.parametrize("shape", [(3,), (2, 1, 1)])
def test_map_of_a_position(shape: tuple[int, ...]) -> None:
    """Along the indices there is no axis of the table."""
    model = parse(
        """g (int64[2, 3] i) => (double[2, 3, 4] y) {
          e = Gather<axis=0>(table, i)
          y = Mul(e, m)
        }""",
        table=weights(5, 4), m=weights(*shape) if len(shape) == 3 else weights(3, 1),
    )  # fmt: skip
    check(model, ["Gather", "Mul"])


def test_table_with_another_reader() -> None:
    model = embedded(
        "t = Transpose<perm=[0, 2, 1]>(e)\n b = BatchNormalization(t, scale, B, mean, var)\n"
        "u = Transpose<perm=[0, 2, 1]>(b)\n y = MatMul(u, W)\n z = Mul(table, two)",
        table=weights(5, 4), W=weights(4, 3), two=np.array(2.0), **bn(4),
    )  # fmt: skip
    model.graph.output.append(model.graph.output[0])
    model.graph.output[1].name = "z"
    del model.graph.output[1].type.tensor_type.shape.dim[2:]
    assert_kept(model, "fan-out")


def test_table_of_integers() -> None:
    model = parse(
        """g (int64[N] i) => (int64[N, 2] y) {
          e = Gather<axis=0>(table, i)
          y = Mul(e, two)
        }""",
        table=np.arange(10).reshape(5, 2), two=np.array(2),
    )  # fmt: skip
    assert ops(normsurgery.fold(model).model) == ["Gather", "Mul"]


def test_table_that_is_an_input() -> None:
    model = parse(
        """g (int64[N] i, double[5, 4] table) => (double[N, 4] y) {
          e = Gather<axis=0>(table, i)
          y = BatchNormalization(e, scale, B, mean, var)
        }""",
        **bn(4),
    )  # fmt: skip
    assert_kept(model, "graph-input")


def test_indices_of_unknown_rank() -> None:
    model = embedded("y = BatchNormalization(e, scale, B, mean, var)", table=weights(5, 4), **bn(4))
    model.graph.input[0].type.tensor_type.ClearField("shape")
    assert_kept(model, "unknown-rank")
