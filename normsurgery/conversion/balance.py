"""Signs of channels with which the mean of a group hardly moves from sample to sample.

A norm over a group subtracts the mean of the group, which BN did not: the mean of one sample is off
the running one, and all channels of the group are shifted by as much. The norm does not care about
signs, since each channel's own scale takes its sign back: so channels may be handed over with signs
for which their deviations cancel.

Which deviate together, the weights tell. The mean of a convolution's channel c over positions is
``Σ_i W̄_ci·x̄_i`` (borders aside), W̄ summed over the kernel, x̄_i the mean of input channel i. The
mean of ``s_c·u_c·x_c/σ_c`` over a group of n is off by ``Σ_i δx̄_i·Σ_c s_c·u_c·W̄_ci/σ_c / n``. If
the δx̄_i have a common part (a brighter image) and parts of their own, all of one size, then its
expected square is in proportion to ``‖Σ_c s_c·V_c‖²``, ``V_c = (u_c/σ_c)·(Σ_i W̄_ci, W̄_c1, …)``:
that is made small here. No data are needed. NumPy only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from normsurgery.dtypes import Float64

_PASSES = 20  # over all channels of a group; a few are enough


def with_common_part(sums: Float64) -> Float64:
    """Return ``(Σ_i W̄_ci, W̄_c1, …)``, (C, I + 1), of the sums over kernels (C, I)."""
    return np.concatenate([sums.sum(axis=1, keepdims=True), sums], axis=1)


def signs(responses: Float64, groups: int) -> Float64:
    """Return ±1 for each channel, (C,), such that ``Σ s_c·V_c`` over each group is short.

    responses: V, (C, K). Largest first, each with the sign that makes the sum shorter; then single
    signs are turned while that makes it shorter still. Deterministic.
    """
    found = np.ones(len(responses))
    size = len(responses) // groups
    squares = np.square(responses).sum(axis=1)
    for first in range(0, len(responses), size):
        members = np.arange(first, first + size)
        total = np.zeros(responses.shape[1])
        for i in members[np.argsort(-squares[members], kind="stable")]:
            found[i] = -1.0 if total @ responses[i] > 0 else 1.0
            total += found[i] * responses[i]
        for _ in range(_PASSES):
            turned = False
            for i in members:
                # ‖total − 2·s·V‖² < ‖total‖²; the margin keeps rounding from turning for ever
                if found[i] * (total @ responses[i]) > squares[i] * (1 + 1e-9):
                    total -= 2 * found[i] * responses[i]
                    found[i] = -found[i]
                    turned = True
            if not turned:
                break
    return found
