"""``inspect``: every normalization, its statistics, and what fold does with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from graphs import bn, parse, weights

import normsurgery

SAMPLES = Path(__file__).parents[1] / "sample_models"


def test_nodes_of_one_name_are_kept_apart() -> None:
    model = parse(
        """g (double[N, 3, 8, 8] x) => (double[N, 4, 6, 6] y) {
          c = Conv(x, W)
          d = BatchNormalization(c, scale, B, mean, var)
          r = Sigmoid(d)
          y = BatchNormalization<epsilon=0.25>(r, scale, B, mean, var)
        }""",
        W=weights(4, 3, 3, 3),
        **bn(4),
    )
    for node in model.graph.node:
        node.name = "same"
    first, second = normsurgery.inspect(model).norms
    assert first.outcome == "folds"
    assert first.detail == "into Conv `same`"
    assert second.outcome == "not-linear"
    assert "Sigmoid `same`" in second.detail
    assert second.epsilon == 0.25
    parameters = bn(4)
    assert second.channels == 4
    assert (second.var.low, second.var.high) == (parameters["var"].min(), parameters["var"].max())


def test_dead_channels_are_counted() -> None:
    parameters = bn(4)
    parameters["scale"][[0, 2]] = 0
    model = parse(
        """g (double[N, 4, 8] x) => (double[N, 4, 8] y) {
          y = BatchNormalization(x, scale, B, mean, var)
        }""",
        **parameters,
    )
    assert normsurgery.inspect(model).norms[0].dead == 2


@pytest.mark.parametrize(
    ("node", "kind"),
    [
        ("InstanceNormalization(x, s, s)", "InstanceNormalization"),
        ("LayerNormalization(x, t)", "LayerNormalization"),
        ("GroupNormalization<num_groups=2>(x, s, s)", "GroupNormalization"),
        ("LpNormalization<axis=1>(x)", "LpNormalization"),
        ("LRN<size=3>(x)", "LRN"),
    ],
)
def test_other_kinds_depend_on_the_data(node: str, kind: str) -> None:
    text = f"g (double[N, 4, 6, 8] x) => (double[N, 4, 6, 8] y) {{ y = {node} }}"
    used = {k: v for k, v in {"s": np.ones(4), "t": np.ones(8)}.items() if f" {k}" in node}
    (norm,) = normsurgery.inspect(parse(text, **used)).norms
    assert norm.op_type == kind
    assert norm.outcome == "data-dependent"
    assert bool(norm.warning) == (kind == "GroupNormalization")


def test_the_model_is_not_changed() -> None:
    model = parse(
        """g (double[N, 3, 8, 8] x) => (double[N, 4, 6, 6] y) {
          c = Conv(x, W)
          y = BatchNormalization(c, scale, B, mean, var)
        }""",
        W=weights(4, 3, 3, 3),
        **bn(4),
    )
    before = model.SerializeToString(deterministic=True)
    normsurgery.inspect(model)
    assert model.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize(
    "name", ["digits_resnet", "digits_densenet", "digits_mlp", "digits_repvgg"]
)
def test_agrees_with_fold(name: str) -> None:
    path = SAMPLES / f"{name}.onnx"
    report = normsurgery.fold(path).report
    norms = [n for n in normsurgery.inspect(path).norms if n.op_type == "BatchNormalization"]
    assert len(norms) == report.before
    assert sum(n.outcome != "folds" for n in norms) == report.after
