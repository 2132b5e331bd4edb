"""Arguments of a wrong type are one line that names them, for every verb of the library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import normsurgery
from normsurgery import arguments
from normsurgery.errors import UsageError

SAMPLES = Path(__file__).parents[1] / "sample_models"
RESNET = SAMPLES / "digits_resnet.onnx"
IMAGES = {"image": np.zeros((4, 1, 8, 8), np.float32)}
CALLS: dict[str, Any] = {
    "fold": lambda **k: normsurgery.fold(RESNET, **k),
    "inspect": lambda **k: normsurgery.inspect(RESNET, **k),
    "convert": lambda **k: normsurgery.convert(RESNET, **k),
    "unfold": lambda **k: normsurgery.unfold(
        SAMPLES / "digits_resnet_folded.onnx", **{"data": IMAGES, **k}
    ),
    "recalibrate": lambda **k: normsurgery.recalibrate(RESNET, **{"data": IMAGES, **k}),
    "validate": lambda **k: normsurgery.validate(RESNET, RESNET, **k),
}
WHOLE = "is no whole number: "
WRONG: list[tuple[str, str, Any, str]] = [
    ("fold", "fixed", "x=1", "fixed is no mapping: 'x=1'"),
    ("fold", "max_constant_bytes", "1e9", f"max_constant_bytes {WHOLE}'1e9'"),
    ("fold", "max_inlined_nodes", 1.5, f"max_inlined_nodes {WHOLE}1.5"),
    ("inspect", "max_constant_bytes", None, f"max_constant_bytes {WHOLE}None"),
    ("convert", "to", ["group"], "to is no string: ['group']"),
    ("convert", "groups", 1.5, f"groups {WHOLE}1.5"),
    ("convert", "groups", True, f"groups {WHOLE}True"),
    ("convert", "groups", "2", "groups '2' is no number, nor auto"),
    ("convert", "channels_per_group", "16", f"channels_per_group {WHOLE}'16'"),
    ("convert", "least", 8.0, f"least {WHOLE}8.0"),
    ("convert", "gauge", None, "gauge is no string: None"),
    ("convert", "epsilon", "1e-5", "epsilon is no number: '1e-5'"),
    ("convert", "epsilon", None, "epsilon is no number: None"),
    ("convert", "only", 3, "only is a list of patterns, not 3"),
    ("convert", "skip", [3], "skip is a list of patterns, not [3]"),
    ("convert", "plan", 3, "plan is a file, or a list of normsurgery.conversion.Layer"),
    ("convert", "plan", [{"to": "group"}], "plan is a file, or a list of"),
    ("convert", "samples", "8", f"samples {WHOLE}'8'"),
    ("convert", "threads", 1.5, f"threads {WHOLE}1.5"),
    ("convert", "progress", True, "progress is no function: True"),
    ("convert", "data", 3, "data are a path, Data or arrays by input name, not int"),
    ("unfold", "sites", ["all"], "sites is no string: ['all']"),
    ("unfold", "only", "conv1", "only is a list of patterns, not 'conv1'"),
    ("unfold", "skip", None, "skip is a list of patterns, not None"),
    ("unfold", "samples", 1.5, f"samples {WHOLE}1.5"),
    ("unfold", "batch_size", None, f"batch_size {WHOLE}None"),
    ("unfold", "threads", "2", f"threads {WHOLE}'2'"),
    ("unfold", "pixels", (0.5, 0.2), "pixels are `normsurgery.data.Pixels(mean, std)`, not tuple"),
    ("recalibrate", "mode", 1, "mode is no string: 1"),
    ("recalibrate", "only", "norm", "only is a list of patterns, not 'norm'"),
    ("recalibrate", "outputs", "y", "outputs is a list of names, not 'y'"),
    ("recalibrate", "batch_size", "32", f"batch_size {WHOLE}'32'"),
    ("recalibrate", "threads", 1.5, f"threads {WHOLE}1.5"),
    ("recalibrate", "pixels", "imagenet", "pixels are `normsurgery.data.Pixels"),
    ("recalibrate", "step", 3, "step is no function: 3"),
    ("validate", "sets", 1.5, f"sets {WHOLE}1.5"),
    ("validate", "sets", "3", f"sets {WHOLE}'3'"),
    ("validate", "samples", "64", f"samples {WHOLE}'64'"),
    ("validate", "batch", 2.0, f"batch {WHOLE}2.0"),
    ("validate", "seed", None, f"seed {WHOLE}None"),
    ("validate", "seed", -1, "seed must be 0 or more, not -1"),
    ("validate", "bound", "2", "bound is no number: '2'"),
    ("validate", "bound", 0, "bound must be above 0, not 0"),
    ("validate", "multiply_adds", "1e9", "multiply_adds is no number: '1e9'"),
    ("validate", "timeout", "300", "timeout is no number: '300'"),
    ("validate", "memory", "4GB", f"memory {WHOLE}'4GB'"),
    ("validate", "threads", "2", f"threads {WHOLE}'2'"),
    ("validate", "kind", ["parity"], "kind is no string: ['parity']"),
    ("validate", "shapes", (1, 3, 8, 8), "shapes is no mapping: (1, 3, 8, 8)"),
    ("validate", "arrays", "x", "arrays is no mapping: 'x'"),
    ("validate", "providers", None, "providers is a list of names, not None"),
    ("validate", "allow_fallback", "Conv", "allow_fallback is a list of names, not 'Conv'"),
    ("validate", "progress", 1, "progress is no function: 1"),
    ("validate", "data", IMAGES, "put the mapping into a list"),
    ("validate", "data", [IMAGES["image"]], "a list of mappings, one of arrays for each set"),
    ("validate", "data", 3, "a list of mappings, one of arrays for each set"),
]


@pytest.mark.parametrize(
    ("verb", "name", "value", "message"),
    WRONG,
    ids=[f"{v}-{n}-{i}" for i, (v, n, *_) in enumerate(WRONG)],
)
def test_a_wrong_type_is_named(verb: str, name: str, value: Any, message: str) -> None:
    with pytest.raises(UsageError) as raised:
        CALLS[verb](**{name: value})
    assert message in str(raised.value)


def test_numbers_of_numpy_are_numbers() -> None:
    arguments.whole({"a": np.int64(3), "b": np.uint8(1), "c": 0}, least=0)
    arguments.real({"a": np.float32(1.5), "b": np.float64(2), "c": 1})
    arguments.patterns({"a": [], "b": ("x*",), "c": {"y"}})
    result = normsurgery.convert(RESNET, groups=np.int64(2), epsilon=np.float32(1))
    assert {one.groups for one in result.report.converted} <= {1, 2}


def test_a_timeout_of_numpy() -> None:
    found = normsurgery.validate(RESNET, RESNET, sets=1, timeout=np.float32(299.5))
    assert found.ok


def test_a_long_value_is_cut() -> None:
    with pytest.raises(UsageError, match=r"sets is no whole number: 'x{38}…$"):
        arguments.whole({"sets": "x" * 1000})


def test_none_is_left_out_where_it_may_be_given() -> None:
    assert arguments.given(threads=None, samples=3) == {"samples": 3}
