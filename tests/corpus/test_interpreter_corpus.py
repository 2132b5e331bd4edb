"""Imports every model of the corpus as a torch module. ``pytest -m corpus`` runs it."""

from __future__ import annotations

import pytest
from corpus import fetch, interpreting

from normsurgery.errors import InvalidModelError, UnsupportedModelError
from normsurgery.pytorch import to_module, update_weights

pytestmark = pytest.mark.corpus
RUNNABLE = [m for m in fetch.models() if m.runs]


def fetched(model: fetch.Model):
    try:
        return fetch.fetch(model)
    except fetch.UnavailableError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("model", RUNNABLE, ids=lambda m: m.name)
def test_the_module_computes_what_onnxruntime_computes(model: fetch.Model) -> None:
    """All of them today; the bar is 95 % of the float models with a Conv."""
    assert interpreting.attempt(model, fetched(model)).obstacle == ""


@pytest.mark.parametrize("model", RUNNABLE, ids=lambda m: m.name)
def test_untouched_weights_go_back_as_they_were(model: fetch.Model) -> None:
    path = fetched(model)
    result = update_weights(path, to_module(path, check=False))
    assert result.report.written == result.report.split == []


def test_what_cannot_be_imported_is_named() -> None:
    with pytest.raises(UnsupportedModelError, match=r"no operator Quant of 'onnx\.brevitas'"):
        to_module(fetched(fetch.by_name("qonnx-espcn")))
    with pytest.raises(InvalidModelError, match="BatchNormalization"):
        to_module(fetched(fetch.by_name("torch-bn1d")))
