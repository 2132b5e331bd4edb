"""Every planted bug is caught, and no correct rewrite is flagged."""

from __future__ import annotations

from functools import cache, partial

import onnx
import pytest
from validation.bugs import BLIND, BUGS
from validation.rewrites import REWRITES
from validation.specimens import MODELS

from normsurgery import runtime
from normsurgery.validation.certificate import certify
from normsurgery.validation.coverage import coverage
from normsurgery.validation.saturation import settled, unsaturated
from normsurgery.validation.sets import input_sets
from normsurgery.validation.verdict import parity

SETS = 6  # one of each distribution


@cache
def reference(name):
    return MODELS[name]()


def judge(folder, name, rewrite):
    paths = folder / "reference.onnx", folder / "candidate.onnx"
    model = reference(name)
    onnx.save(model, paths[0])
    onnx.save(rewrite(model), paths[1])
    with unsaturated(*paths) as (ours, theirs):
        verdict = settled(parity(ours, theirs, sets=SETS, threads=1))
    return verdict, certify(*paths)


def test_there_are_enough():
    assert len(BUGS) >= 30
    assert len(REWRITES) >= 30
    assert len({model for model, _ in BUGS.values()}) >= 4


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_is_caught(tmp_path, bug):
    verdict, certificate = judge(tmp_path, *BUGS[bug])
    assert not verdict.ok or not certificate.ok, (verdict.line(), certificate.line())


@pytest.mark.parametrize("rewrite", REWRITES)
def test_a_correct_rewrite_is_not_flagged(tmp_path, rewrite):
    verdict, certificate = judge(tmp_path, *REWRITES[rewrite])
    assert verdict.ok, verdict.line()
    assert certificate.ok, certificate.line()


@pytest.mark.parametrize("bug", BLIND)
def test_what_no_input_reaches_is_warned_of(tmp_path, bug):
    """Neither the verdict nor the coefficients can tell; the coverage says what was not tested."""
    name, rewrite, warning = BLIND[bug]
    verdict, certificate = judge(tmp_path, name, rewrite)
    assert verdict.ok
    assert certificate.ok
    session = runtime.session(tmp_path / "reference.onnx")
    sets = input_sets(reference(name), partial(runtime.run, session), SETS, 0)
    found = coverage(tmp_path / "reference.onnx", (one.make() for one in sets))
    assert [line for line in found.warnings() if warning in line], found.warnings()
