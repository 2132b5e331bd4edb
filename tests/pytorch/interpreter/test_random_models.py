"""Random graphs of every opset, in double precision: the module against the float64 operators."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from pytorch.interpreter.nodes import by_module
from random_graphs import models

from normsurgery.pytorch import to_module, update_weights
from normsurgery.validation.budget import Budget
from normsurgery.validation.evaluator import evaluator


def compare(case) -> None:
    model, feeds = case
    before = model.SerializeToString(deterministic=True)
    module = to_module(model, check=False)
    expected = evaluator(model, Budget()).run(None, feeds)
    for found, wanted in zip(by_module(module, feeds), expected, strict=True):
        assert found.shape == wanted.shape
        assert found.dtype == wanted.dtype
        scale = max(1.0, float(np.abs(wanted).max(initial=0)))
        assert np.abs(found - wanted).max(initial=0) <= 1e-10 * scale
    again = update_weights(model, module)
    assert again.report.written == again.report.split == []
    assert again.model.SerializeToString(deterministic=True) == before
    outputs = module(*(torch.from_numpy(feeds[name]) for name in module.input_names))
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    trained = [y.square().mean() for y in outputs if y.requires_grad and y.numel()]
    if trained:
        torch.stack(trained).sum().backward()


@given(models())
@settings(max_examples=150)
def test_random_models(case):
    compare(case)


@pytest.mark.nightly
@given(models())
@settings(max_examples=5000)
def test_many_random_models(case):
    compare(case)
