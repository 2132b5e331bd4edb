"""Maps with coefficients that are 0, infinite or no number."""

from __future__ import annotations

import numpy as np
import pytest
from crossings import assert_stays
from graphs import assert_folds, parse, weights


@pytest.mark.parametrize("value", [np.inf, np.nan, -np.inf])
@pytest.mark.parametrize("op", ["Mul", "Add", "Div"])
def test_maps_that_are_not_finite(op: str, value: float) -> None:
    k = weights(4, 1, 1)
    k[2] = value
    model = parse(
        f"""g (double[N, 4, 6, 6] x) => (double[N, 5, 6, 6] y) {{
          s = Sigmoid(x)
          b = {op}(s, k)
          y = Conv(b, V)
        }}""",
        k=k, V=weights(5, 4, 1, 1),
    )  # fmt: skip
    if op != "Div" or np.isnan(value):  # 1/∞ is 0
        assert_stays(model)


def test_division_by_0() -> None:
    text = """g (double[N, 4, 6, 6] x) => (double[N, 5, 6, 6] y) {
      c = Conv(x, V)
      y = Div(c, k)
    }"""
    k = weights(5, 1, 1)
    k[1] = 0
    assert_stays(parse(text, k=k, V=weights(5, 4, 1, 1)))


def test_scale_of_0_is_absorbed() -> None:
    m = weights(4, 1, 1)
    m[1] = 0
    model = parse(
        """g (double[N, 4, 6, 6] x) => (double[N, 5, 6, 6] y) {
          s = Sigmoid(x)
          b = Mul(s, m)
          y = Conv(b, V)
        }""",
        m=m, V=weights(5, 4, 1, 1),
    )  # fmt: skip
    assert_folds(model, ["Sigmoid", "Conv"])
