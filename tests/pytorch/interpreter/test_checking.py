"""An import that is wrong is found by holding it against onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pytorch.interpreter.texts import SAMPLES, parse

from normsurgery import runtime
from normsurgery.errors import MissingPackageError, NormSurgeryError, ParityError
from normsurgery.pytorch import to_module
from normsurgery.pytorch.interpreter import table


class TestCheck:
    @pytest.fixture
    def wrong_relu(self, monkeypatch):
        """A planted bug: Relu computes something slightly else."""
        entries = dict(table.load())
        entries["", "Relu"] = lambda _: lambda x: torch.relu(x) * (1 + 2e-5)
        monkeypatch.setattr(table, "load", lambda: entries)

    @pytest.mark.usefixtures("wrong_relu")
    @pytest.mark.parametrize("name", ["digits_resnet", "digits_mlp", "digits_unet"])
    def test_a_wrong_operator_is_caught_and_named(self, name):
        with pytest.raises(ParityError, match="differs from onnxruntime at Relu `") as caught:
            to_module(SAMPLES / f"{name}.onnx")
        assert "\n" not in str(caught.value)

    def test_a_saturated_output_is_no_difference(self):
        """onnxruntime's Sigmoid is off by 1e-8, which is everything at sigmoid(−20)."""
        text = "g (float[N, 8] x) => (float[N, 8] y) { a = Sub(x, far) y = Sigmoid(a) }"
        model = parse(text, far=np.full(8, 19.0, np.float32))
        to_module(model)

    def test_a_wrong_epsilon_is_caught(self, monkeypatch):
        from normsurgery.pytorch.interpreter import call

        monkeypatch.setattr(call.Call, "real", lambda self, name, default: 2e-5 + 0 * len(name))
        monkeypatch.setattr(call.Call, "unknown_attribute", lambda self: None)
        with pytest.raises(ParityError, match="BatchNormalization"):
            to_module(SAMPLES / "digits_mlp.onnx")

    def test_it_needs_onnxruntime_and_says_how_to_do_without(self, monkeypatch):
        monkeypatch.setattr(runtime, "available", lambda: False)
        with pytest.raises(MissingPackageError, match="check=False") as caught:
            to_module(SAMPLES / "digits_mlp.onnx")
        assert caught.value.exit_status == 6
        to_module(SAMPLES / "digits_mlp.onnx", check=False)

    def test_shapes_to_check_with(self):
        text = "g (float[1, A] x) => (float[1, 2, 7] y) { y = Reshape(x, s) }"
        model = parse(text, s=np.array([1, 2, 7]))
        with pytest.raises(NormSurgeryError):
            to_module(model)
        to_module(model, shapes={"x": (1, 14)})
