"""A small dense network in double precision, and what each mode makes of it, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
from graphs import bn, parse, weights
from onnx import ModelProto, numpy_helper

TEXT = """g (double[N, 3] x) => (double[N, 2] y) {
  [one] n = BatchNormalization <epsilon = 0.01> (x, scale1, B1, mean1, var1)
  r = Relu(n)
  c = MatMul(r, W)
  [two] m = BatchNormalization(c, scale2, B2, mean2, var2)
  [beside] k = BatchNormalization(c, scale2, B2, mean2, var2)
  s = Relu(m)
  t = Tanh(k)
  z = Add(s, t)
  d = MatMul(z, V)
  [three] y = BatchNormalization(d, scale3, B3, mean3, var3)
}"""
EPSILON = {"one": float(np.float32(0.01))}
USUAL = float(np.float32(1e-5))
CHANNELS = {"1": 3, "2": 4, "3": 2}


def tensors() -> dict[str, Any]:
    made = {"W": weights(3, 4), "V": weights(4, 2, seed=8)}
    for i, channels in CHANNELS.items():
        made.update({f"{k}{i}": v for k, v in bn(channels, seed=int(i)).items()})
    return made


def model(text: str = TEXT, opset: int = 21) -> ModelProto:
    wanted = {k: v for k, v in tensors().items() if k in text}
    return parse(text, opset=opset, **wanted)


def rows(count: int = 50, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {"x": rng.normal([1, -5, 100], [0.5, 2, 1], (count, 3))}


def sequential(x: Any) -> dict[str, tuple[Any, Any]]:
    """Return (mean, var) by norm: each measured behind those that have their new ones already."""
    return _run(x, [(0, len(x))], fresh=True)


def batch(x: Any, blocks: list[tuple[int, int]]) -> dict[str, tuple[Any, Any]]:
    """Return (mean, var) by norm over all of ``x``, each block normalized by itself."""
    return _run(x, blocks, fresh=True)


def stale(x: Any) -> dict[str, tuple[Any, Any]]:
    """Return (mean, var) by norm in the model as it is."""
    return _run(x, [(0, len(x))], fresh=False)


def _run(x: Any, blocks: list[tuple[int, int]], *, fresh: bool) -> dict[str, tuple[Any, Any]]:
    seen: dict[str, list[Any]] = {"one": [], "two": [], "beside": [], "three": []}
    t = tensors()

    def norm(name: str, values: Any, i: str) -> Any:
        seen[name].append(values)
        mean, var = t[f"mean{i}"], t[f"var{i}"]
        if fresh:
            mean, var = values.mean(0), values.var(0)
        root = np.sqrt(var + EPSILON.get(name, USUAL))
        return t[f"scale{i}"] * (values - mean) / root + t[f"B{i}"]

    for first, last in blocks:
        c = np.maximum(norm("one", x[first:last], "1"), 0) @ t["W"]
        z = np.maximum(norm("two", c, "2"), 0) + np.tanh(norm("beside", c, "2"))
        norm("three", z @ t["V"], "3")
    whole = {name: np.concatenate(parts) for name, parts in seen.items()}
    return {name: (values.mean(0), values.var(0)) for name, values in whole.items()}


def stored(proto: ModelProto) -> dict[str, tuple[Any, Any]]:
    """Return (mean, var) of each norm of a model by name."""
    known = {one.name: numpy_helper.to_array(one) for one in proto.graph.initializer}
    return {
        node.name: (known[node.input[3]], known[node.input[4]])
        for node in proto.graph.node
        if node.op_type == "BatchNormalization"
    }


def assert_statistics(
    found: dict[str, tuple[Any, Any]], wanted: dict[str, tuple[Any, Any]], tolerance: float = 1e-11
) -> None:
    assert found.keys() == wanted.keys()
    for name, (mean, var) in wanted.items():
        deviation = np.sqrt(var)
        assert np.all(np.abs(found[name][0] - mean) <= tolerance * (np.abs(mean) + deviation)), name
        np.testing.assert_allclose(found[name][1], var, rtol=tolerance, err_msg=name)
