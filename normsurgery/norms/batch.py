"""BatchNormalization in inference mode, https://arxiv.org/abs/1502.03167."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from normsurgery.norms.table import Encoding, Norm, target

if TYPE_CHECKING:
    from normsurgery.norms.writing import Writer


@target("batch", {"native": 7}, grouped=lambda _: 1)
def batch(writer: Writer, value: str, norm: Norm, encoding: Encoding) -> str:
    """``y = scale·(x − mean)/√(var + epsilon) + B`` with constants ``mean`` and ``var``.

    Without them, mean 0 and variance 1.
    """
    mean = np.zeros(norm.channels) if norm.mean is None else norm.mean
    var = np.ones(norm.channels) if norm.var is None else norm.var
    vectors = {"scale": norm.scale, "bias": norm.B, "mean": mean, "var": var}
    names = [writer.floats(what, values) for what, values in vectors.items()]
    return writer.add("BatchNormalization", value, *names, epsilon=norm.epsilon)
