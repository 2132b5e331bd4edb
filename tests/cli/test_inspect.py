"""``normsurgery inspect`` as a user meets it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import onnx
from graphs import parse

if TYPE_CHECKING:
    from pathlib import Path

    from cli.conftest import Run

TEXT = """g (float[N, 4, 5, 6] x) => (float[N, 4, 5, 6] y) {
  k = BatchNormalization(x, c, c, c, c)
  g = Reshape(k, apart)
  i = InstanceNormalization(g, one, zero)
  h = Shape(k)
  r = Reshape(i, h)
  a = Mul(r, s)
  y = Add(a, s)
}"""


def test_what_was_taken_apart_is_counted_apart(cli: Run, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    s = np.arange(1, 5, dtype=np.float32).reshape(4, 1, 1)
    one, apart = np.ones(2, np.float32), np.array([0, 2, -1])
    onnx.save(parse(TEXT, c=s.ravel(), s=s, one=one, zero=0 * one, apart=apart), path)
    outcome = cli("inspect", path)
    assert outcome.status == 0
    text = outcome.out.decode()
    assert "decomposed GroupNormalization, 2 groups  4  1 … 4" in text
    assert "; 5 nodes from `g`" in text
    assert "1 normalizations and 1 taken apart, " in text
    found = json.loads(cli("inspect", path, "--json").out)
    assert (found["whole"], found["decomposed"]) == (1, 1)
    whole, group = found["norms"]
    assert (whole["op_type"], whole["parts"]) == ("BatchNormalization", None)
    assert group["num_groups"] == 2
    assert group["channels"] == 4
    assert group["axes"] == [1, 2, 3]
    assert group["scale_constant"] is group["bias_constant"] is True
    assert group["bias"] == {"low": 1, "high": 4}
    assert group["parts"] == {"first": "g", "last": "y", "count": 5}
