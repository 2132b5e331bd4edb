from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from normsurgery.conversion import balance
from normsurgery.conversion.start import BatchNorm, start, unsigned


def length(signs: np.ndarray, V: np.ndarray, groups: int) -> list[float]:
    parts = (signs[:, None] * V).reshape(groups, -1, V.shape[1]).sum(axis=1)
    return [float(np.linalg.norm(part)) for part in parts]


@given(seed=st.integers(0, 1000), groups=st.sampled_from([1, 2, 4]), width=st.integers(1, 6))
def test_no_single_turn_makes_a_group_shorter(seed: int, groups: int, width: int) -> None:
    V = np.random.default_rng(seed).normal(0, 1, (16, width))
    signs = balance.signs(V, groups)
    assert set(signs) <= {-1.0, 1.0}
    found = length(signs, V, groups)
    for i in range(16):
        turned = signs.copy()
        turned[i] = -turned[i]
        group = i * groups // 16
        assert length(turned, V, groups)[group] >= found[group] * (1 - 1e-6)


def test_the_sum_is_a_fraction_of_that_without_signs() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        V = rng.normal(1, 1, (32, 3))
        assert length(balance.signs(V, 1), V, 1)[0] < 0.1 * length(np.ones(32), V, 1)[0]


def test_equal_channels_cancel_in_pairs_and_zeros_do_no_harm() -> None:
    assert balance.signs(np.ones((6, 2)), 1).sum() == 0
    assert set(balance.signs(np.zeros((4, 2)), 2)) == {1.0}


def test_the_mean_of_a_group_moves_less() -> None:
    """A 1×1 convolution whose inputs share a part: that of a sample's brightness."""
    rng = np.random.default_rng(3)
    W = rng.normal(0.2, 1, (32, 12))
    x = 1 + rng.normal(0, 1, (500, 1)) + rng.normal(0, 0.3, (500, 12))  # means of input channels
    c = x @ W.T
    mean, var = c.mean(axis=0), c.var(axis=0)
    bn = BatchNorm(rng.normal(1, 0.3, 32), rng.normal(0, 1, 32), mean, var, 1e-5)
    moved = {}
    for name, begun in (
        ("balance", start(bn, 2, "balance", sums=W)),
        ("unsigned", unsigned(start(bn, 2, "balance", sums=W))),
    ):
        z = begun.before.a * c + begun.before.b
        moved[name] = z.reshape(500, 2, -1).mean(axis=2).std()
    assert moved["balance"] < 0.2 * moved["unsigned"]
