"""Shards measured apart and merged give the bits of one process; what does not fit is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from recalibration import dense

import normsurgery
from normsurgery import blocks, recalibration
from normsurgery.errors import MissingDataError, OutputExistsError, UsageError
from normsurgery.recalibration.shards import load

pytest.importorskip("onnxruntime")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(dense.model(), path)
    return path


def shards(model: Path, count: int, **options: Any) -> list[recalibration.Partial]:
    given = dense.rows()
    return [
        recalibration.partial(model, given, shard=(i, count), batch_size=5, **options)
        for i in range(count)
    ]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_any_sharding_gives_the_same_bits(model: Path, count: int, tmp_path: Path) -> None:
    whole = normsurgery.recalibrate(model, dense.rows(), mode="batch", batch_size=5)
    files = []
    for i, one in enumerate(shards(model, count)):
        files.append(tmp_path / f"{i}.npz")
        one.save(files[-1])
    merged = recalibration.merge(model, files[::-1])
    wanted, found = dense.stored(whole.model), dense.stored(merged.model)
    for name, (mean, var) in wanted.items():
        np.testing.assert_array_equal(found[name][0], mean)
        np.testing.assert_array_equal(found[name][1], var)
    dense.assert_statistics(found, dense.batch(dense.rows()["x"], blocks.cut(50, 5)))
    assert merged.report.samples == 50


def test_more_shards_than_parts(model: Path) -> None:
    found = shards(model, 13)
    assert [len(one.parts) for one in found] == [1] * 10 + [0] * 3
    assert recalibration.merge(model, found).report.samples == 50


def test_sets_of_data_that_lie_apart(model: Path) -> None:
    """Each job measures its own data, whole; the moments are those of all rows together."""
    sets = [dense.rows(20, seed=1), dense.rows(33, seed=2)]
    found = [recalibration.partial(model, one, batch_size=100) for one in sets]
    merged = recalibration.merge(model, found)
    assert merged.report.samples == 53
    together = np.concatenate([one["x"] for one in sets])
    mean, var = dense.stored(merged.model)["one"]
    np.testing.assert_allclose(mean, together.mean(0), rtol=1e-13)
    np.testing.assert_allclose(var, together.var(0), rtol=1e-12)


def test_a_selection(model: Path) -> None:
    merged = recalibration.merge(model, shards(model, 2, only=["two"]))
    old, new = dense.stored(dense.model()), dense.stored(merged.model)
    np.testing.assert_array_equal(old["one"][0], new["one"][0])
    assert [one.node for one in merged.report.recalibrated] == ["two"]


def test_a_missing_shard(model: Path) -> None:
    with pytest.raises(UsageError, match=r"part 1 of 10 is in none of the files \(3 are missing\)"):
        recalibration.merge(model, [*shards(model, 3)[::2]])


def test_a_shard_twice(model: Path) -> None:
    one, two = shards(model, 2)
    with pytest.raises(UsageError, match=r"part 0 is in statistics and in again"):
        recalibration.merge(model, [one, two, replace(one, name="again")])


def test_the_same_data_twice(model: Path) -> None:
    (one,) = shards(model, 1)
    with pytest.raises(UsageError, match="statistics and again are statistics of the same data"):
        recalibration.merge(model, [one, replace(one, name="again")])


def test_shards_of_other_data(model: Path) -> None:
    other = recalibration.partial(model, dense.rows(60), shard=(1, 2), batch_size=5)
    with pytest.raises(UsageError, match="a shard of 50 samples, statistics of 60"):
        recalibration.merge(model, [shards(model, 2)[0], other])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "0"}, "different models"),
        ({"outputs": ("n",)}, "different norms"),
        ({"batch_size": 6}, "different batch sizes"),
    ],
)
def test_statistics_that_do_not_belong_together(
    model: Path, change: dict[str, Any], message: str
) -> None:
    one, two = shards(model, 2)
    with pytest.raises(UsageError, match=message):
        recalibration.merge(model, [one, replace(two, origin=replace(two.origin, **change))])


def test_statistics_of_another_model(model: Path, tmp_path: Path) -> None:
    other = dense.model()
    other.graph.doc_string = "another"
    onnx.save(other, tmp_path / "other.onnx")
    with pytest.raises(UsageError, match="statistics of another model"):
        recalibration.merge(tmp_path / "other.onnx", shards(model, 2))


def test_nothing_to_merge(model: Path) -> None:
    with pytest.raises(UsageError, match="no partial statistics"):
        recalibration.merge(model, [])


def test_a_file_is_kept_without_force(model: Path, tmp_path: Path) -> None:
    (one,) = shards(model, 1)
    one.save(tmp_path / "a.npz")
    with pytest.raises(OutputExistsError):
        one.save(tmp_path / "a.npz")
    one.save(tmp_path / "a.npz", force=True)
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "a.npz"}


def test_files_that_are_something_else(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with pytest.raises(MissingDataError, match="no such file"):
        load(path)
    path.write_bytes(b"nothing")
    with pytest.raises(UsageError, match="no partial statistics"):
        load(path)
    np.savez(path, x=np.zeros(3))
    with pytest.raises(UsageError, match="no partial statistics"):
        load(path)
    np.savez(path, header=np.array(json.dumps({"format": "of tomorrow"})))
    with pytest.raises(UsageError, match="another version"):
        load(path)


def test_a_file_with_a_column_cut_off(model: Path, tmp_path: Path) -> None:
    (one,) = shards(model, 1)
    one.save(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as archive:
        arrays = dict(archive)
    arrays["0_mean"] = arrays["0_mean"][:, :2]
    np.savez(tmp_path / "b.npz", **arrays)
    with pytest.raises(UsageError, match="these are no moments"):
        load(tmp_path / "b.npz")
    del arrays["1_M2"]
    np.savez(tmp_path / "c.npz", **arrays)
    with pytest.raises(UsageError, match="no partial statistics"):
        load(tmp_path / "c.npz")


@pytest.mark.parametrize(
    ("header", "arrays", "message"),
    [
        ({"numbers": list(range(99))}, {}, "no partial statistics: index"),
        ({"outputs": [["a"], ["b"], ["c"]]}, {}, "no partial statistics: unhashable"),
        ({}, {"0_M2": -1e9}, "M2 has a value below 0"),
        ({}, {"0_mean": 1j}, "these are no moments"),
    ],
)
def test_files_that_were_changed(
    model: Path, tmp_path: Path, header: dict[str, Any], arrays: dict[str, Any], message: str
) -> None:
    (one,) = shards(model, 1)
    path = tmp_path / "a.npz"
    one.save(path)
    with np.load(path) as archive:
        stored = dict(archive)
    head = {**json.loads(str(stored["header"])), **header}
    changed = {key: stored[key] + value for key, value in arrays.items()}
    np.savez(path, **{**stored, **changed, "header": np.array(json.dumps(head))})
    with pytest.raises(UsageError, match=message):
        load(path)
