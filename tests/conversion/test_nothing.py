"""A model with nothing to convert: what is said about it, by what it has been through."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from graphs import bn, parse, weights

import normsurgery
from normsurgery import models
from normsurgery.errors import UsageError

SAMPLES = Path(__file__).parents[2] / "sample_models"
TEXT = """g (float[N, 3, 8, 8] x) => (float[N, 16, 6, 6] y) {
  c = Conv(x, W)
  y = NORM
}"""
FLOAT = {"dtype": np.float32}
BATCH = TEXT.replace("NORM", "BatchNormalization(c, scale, B, mean, var)")


def model() -> Any:
    return parse(BATCH, W=weights(16, 3, 3, 3, **FLOAT), **bn(16, **FLOAT))


def note(given: Any, to: str = "group") -> str:
    return normsurgery.convert(given, to).report.note


def test_a_model_that_was_converted() -> None:
    again = note(normsurgery.convert(model()).model)
    assert again.startswith("already converted (normsurgery.history: convert): ")
    assert "convert the model that it was made from" in again
    assert "`--to batch --data DATA` takes its norms back" in again
    assert "unfold" not in again


def test_a_frozen_map_has_no_norms_to_take_back() -> None:
    frozen = normsurgery.convert(model(), "affine").model
    for to in ("group", "affine"):
        again = note(frozen, to)
        assert again.startswith("already converted (normsurgery.history: convert): ")
        assert "--to batch" not in again


def test_the_whole_history_is_told() -> None:
    once = normsurgery.convert(model()).model
    folded = normsurgery.fold(once).model
    assert models.history(models.take(folded)[0]) == ("convert", "fold")
    assert "(normsurgery.history: convert,fold)" in note(folded)


def test_a_norm_that_stays_in_front_of_the_new_one() -> None:
    """The affine map that a conversion kept is left, with its reason, and the note beside it."""
    kept = normsurgery.convert(model(), affine="keep").model
    report = normsurgery.convert(kept).report
    assert [left.slug for left in report.left] == ["in-front-of-norm"]
    assert report.note.startswith("already converted")


def test_a_model_that_was_folded_here() -> None:
    folded = normsurgery.fold(model()).model
    assert note(folded).startswith("no norm to convert, it was folded (normsurgery.history: fold)")
    assert "`normsurgery unfold --data DATA` puts norms back" in note(folded)


@pytest.mark.parametrize("norm", ["InstanceNormalization(c, scale, B)",
                                  "GroupNormalization<num_groups = 2>(c, scale, B)"])  # fmt: skip
def test_norms_that_an_exporter_wrote(norm: str) -> None:
    p = bn(16, **FLOAT)
    given = parse(TEXT.replace("NORM", norm), W=weights(16, 3, 3, 3, **FLOAT),
                  scale=p["scale"], B=p["B"])  # fmt: skip
    assert note(given) == (
        "no norm to convert: it has 1 norm of each sample; "
        "`--to batch --data DATA` takes its norms back"
    )


def test_a_model_without_norms() -> None:
    given = parse(TEXT.replace("NORM", "Relu(c)"), W=weights(16, 3, 3, 3, **FLOAT))
    assert "`normsurgery unfold` helps" in note(given)


def test_nothing_is_said_where_norms_were_converted_or_tell_their_reasons() -> None:
    assert note(model()) == ""
    assert normsurgery.convert(model(), skip=["first"]).report.note == ""
    unfolded = SAMPLES / "digits_resnet.onnx"
    assert normsurgery.convert(unfolded).report.note == ""


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("to", "group"), ("to", "instance"), ("groups", 2), ("groups", "auto"),
        ("channels_per_group", 8), ("least", 4), ("gauge", "whiten"), ("affine", "keep"),
        ("epsilon", 1.0), ("encoding", "native"), ("only", ["y"]), ("skip", ["y"]),
    ],
)  # fmt: skip
def test_a_plan_and_what_it_decides(option: str, value: Any, tmp_path: Path) -> None:
    """Each was ignored without a word; so was ``--to``."""
    result = normsurgery.convert(model())
    with pytest.raises(UsageError) as raised:
        normsurgery.convert(model(), plan=result.plan, **{option: value})
    name = option.replace("_", "-")
    assert str(raised.value).endswith(f"of each norm: leave out --{name}, or the plan")
    assert normsurgery.convert(model(), plan=result.plan).report == result.report


def test_batch_has_no_use_for_a_plan() -> None:
    result = normsurgery.convert(model())
    with pytest.raises(UsageError, match="--to batch has no use for plan; leave it out"):
        normsurgery.convert(model(), "batch", plan=result.plan, data={"x": np.zeros((2, 3, 8, 8))})
