"""Normalizations: as the graph has them, and BatchNormalization and Dropout in training mode."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from pytorch.interpreter.nodes import by_module, by_oracle, check, feeds_of, node_model, randoms

from normsurgery.errors import UnsupportedModelError
from normsurgery.pytorch import to_module

SHAPES = [(4, 3), (4, 3, 5), (4, 3, 5, 6), (2, 3, 2, 3, 4)]


def bn_arrays(shape, seed=0):
    x, scale, B, mean, var = randoms(seed, shape, *[(shape[1],)] * 4)
    return [2 * x + 1, scale, B, mean, np.abs(var) + 0.1]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("opset", [7, 9, 14, 15])
def test_batch_normalization(shape, opset):
    check("BatchNormalization", bn_arrays(shape), settings=(1, 2, 3, 4), opset=opset, epsilon=1e-3)


def test_batch_normalization_per_activation():
    arrays = [randoms(0, (2, 3, 4))[0], *(np.abs(a) + 0.1 for a in randoms(1, *[(3, 4)] * 4))]
    check("BatchNormalization", arrays, settings=(1, 2, 3, 4), opset=8, spatial=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_training_mode_is_torchs(shape):
    """Outputs, gradients and running statistics of three steps, against torch's own layer."""
    x, scale, B, mean, var = bn_arrays(shape)
    model = node_model(
        "BatchNormalization", [x, scale, B, mean, var], constants=(1, 2, 3, 4), dtype=np.float64,
        momentum=0.75, epsilon=1e-3,
    )  # fmt: skip
    module = to_module(model, check=False).train()
    kinds = {4: torch.nn.BatchNorm2d, 5: torch.nn.BatchNorm3d}
    kind = kinds.get(len(shape), torch.nn.BatchNorm1d)
    layer = kind(3, eps=float(np.float32(1e-3)), momentum=0.25).double()
    values = [torch.from_numpy(a) for a in (scale, B, mean, var)]
    with torch.no_grad():
        for target, value in zip(
            (layer.weight, layer.bias, layer.running_mean, layer.running_var), values, strict=True
        ):
            target.copy_(value)
    for seed in range(3):
        batch = torch.from_numpy(bn_arrays(shape, seed)[0])
        one, other = batch.clone().requires_grad_(), batch.clone().requires_grad_()
        ours, theirs = module(one), layer(other)
        assert torch.equal(ours, theirs)
        for y in (ours, theirs):
            (y * torch.arange(y.numel()).reshape(y.shape)).sum().backward()
        assert torch.equal(one.grad, other.grad)
    assert torch.equal(module.i1.grad, layer.weight.grad)
    assert torch.equal(module.i2.grad, layer.bias.grad)
    assert torch.equal(module.i3, layer.running_mean)
    assert torch.equal(module.i4, layer.running_var)
    assert {k for k, _ in module.named_parameters()} == {"i1", "i2"}
    assert set(module.state_dict()) == {"i1", "i2", "i3", "i4"}


def test_frozen_statistics_stay_in_training_mode():
    arrays = bn_arrays((4, 3, 5))
    model = node_model("BatchNormalization", arrays, constants=(1, 2, 3, 4))
    module = to_module(model, check=False)
    x = torch.from_numpy(arrays[0]).float()
    expected = module(x)
    assert module.batch_norms == ("node",)
    assert module.train().freeze_statistics("no*") == ["node"]
    assert torch.equal(module(x), expected)
    assert torch.equal(module.i3, torch.from_numpy(arrays[3]).float())
    assert module.freeze_statistics("") == []
    assert not torch.equal(module(x), expected)


def test_training_mode_of_the_node_gives_onnx_statistics():
    """Momentum as it is and the biased variance, in evaluation mode too."""
    arrays = bn_arrays((4, 3, 5))
    model = node_model(
        "BatchNormalization", arrays, outputs=3, training_mode=1, momentum=0.6, dtype=np.float64
    )
    feeds = feeds_of(model, arrays, np.float64)
    y, mean, var = by_module(to_module(model, check=False), feeds)
    x, scale, B, old_mean, old_var = arrays
    keep = float(np.float32(0.6))
    now, spread = x.mean((0, 2)), x.var((0, 2))
    normal = (x - now[:, None]) / np.sqrt(spread[:, None] + float(np.float32(1e-5)))
    np.testing.assert_allclose(y, normal * scale[:, None] + B[:, None], atol=1e-12)
    np.testing.assert_allclose(mean, keep * old_mean + (1 - keep) * now, atol=1e-12)
    np.testing.assert_allclose(var, keep * old_var + (1 - keep) * spread, atol=1e-12)
    assert np.allclose(by_oracle(model, feeds)[0], y)


def test_statistics_as_outputs_need_training_mode():
    model = node_model("BatchNormalization", bn_arrays((4, 3, 5)), outputs=3, opset=9)
    with pytest.raises(UnsupportedModelError, match="`node`: its statistics are outputs"):
        to_module(model, check=False)


@pytest.mark.parametrize("shape", [(2, 4, 5), (2, 4, 5, 6), (2, 4, 2, 3, 4)])
def test_norms_of_the_data(shape):
    x, scale, B = randoms(0, shape, 4, 4)
    check("InstanceNormalization", [x, scale, B], settings=(1, 2), epsilon=1e-2)
    for groups in (1, 2, 4):
        per_group = [x, scale[:groups], B[:groups]]
        check("GroupNormalization", per_group, settings=(1, 2), opset=18, num_groups=groups)
        check("GroupNormalization", [x, scale, B], settings=(1, 2), opset=21, num_groups=groups)


def test_norms_of_the_data_compute_the_same_in_training_mode():
    x, scale, B = randoms(0, (2, 4, 1, 1), 4, 4)
    model = node_model("InstanceNormalization", [x, scale, B], constants=(1, 2))
    module = to_module(model, check=False)
    batch = torch.from_numpy(x).float()
    assert torch.equal(module(batch), module.train()(batch))


@pytest.mark.parametrize("axis", [1, 2, -1])
def test_layer_normalization(axis):
    (x,) = randoms(0, (3, 4, 5))
    scale, B = randoms(1, *[x.shape[axis:]] * 2)
    check("LayerNormalization", [x, scale, B], settings=(1, 2), axis=axis)
    check("LayerNormalization", [x, scale], settings=(1,), axis=axis)
    check("LayerNormalization", [x, scale, B], outputs=3, axis=axis, oracle=False)
    check("RMSNormalization", [x, scale], opset=23, axis=axis, onnxruntime=False)


@pytest.mark.parametrize("p", [1, 2])
def test_lp_normalization(p):
    (x,) = randoms(0, (3, 4))
    x[1] = 0
    # onnx.reference divides by the zero
    check("LpNormalization", [x], axis=1, p=p, oracle=False)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_lrn(size):
    # onnxruntime takes odd sizes alone
    how = {"size": size, "alpha": 0.5, "bias": 2.0}
    check("LRN", randoms(0, (2, 7, 3, 4)), onnxruntime=size % 2 == 1, **how)


def test_mean_variance_normalization():
    check("MeanVarianceNormalization", randoms(0, (2, 3, 4, 5)))
    check("MeanVarianceNormalization", randoms(0, (2, 3, 4, 5)), axes=[2, 3])


@pytest.mark.parametrize("opset", [10, 13])
def test_dropout_drops_in_training_mode_alone(opset):
    arrays = [np.ones((50, 40)), np.array(0.25), np.array(False)]
    if opset < 12:
        model = node_model("Dropout", arrays[:1], opset=opset, ratio=0.25)
    else:
        model = node_model("Dropout", arrays, opset=opset, constants=(1, 2))
    module = to_module(model, check=False)
    x = torch.ones(50, 40)
    assert torch.equal(module(x), x)
    torch.manual_seed(0)
    dropped = module.train()(x)
    kept = dropped != 0
    assert torch.equal(dropped[kept], torch.full_like(dropped[kept], 1 / 0.75))
    assert 0.7 < kept.float().mean() < 0.8
    torch.manual_seed(0)
    assert torch.equal(module(x), dropped)


def test_dropout_gives_its_mask():
    model = node_model("Dropout", [np.ones((30, 30)), np.array(0.5)], outputs=2, constants=(1,))
    module = to_module(model, check=False)
    y, mask = module(torch.ones(30, 30))
    assert mask.all()
    y, mask = module.train()(torch.ones(30, 30))
    assert torch.equal(y, mask * 2.0)


def decomposed():
    """A LayerNorm over channels, as exporters spell it: x (N, 8) → y."""
    text = """g (float[N, 8] x) => (float[N, 8] y) {
        mean = ReduceMean<axes = [-1]>(x)
        centred = Sub(x, mean)
        square = Pow(centred, two)
        var = ReduceMean<axes = [-1]>(square)
        wide = Add(var, epsilon)
        deviation = Sqrt(wide)
        normal = Div(centred, deviation)
        scaled = Mul(normal, gamma)
        y = Add(scaled, beta)
    }"""
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 13]> {text}')
    gamma, beta = randoms(3, 8, 8)
    for name, value in {"two": 2.0, "epsilon": 1e-5, "gamma": gamma, "beta": beta}.items():
        array = np.asarray(value, np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


def test_a_decomposed_norm_keeps_its_scale_and_bias_trainable_and_its_literals_not():
    module = to_module(decomposed())
    assert {k for k, _ in module.named_parameters()} == {"gamma", "beta"}
    module(torch.randn(4, 8)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in module.parameters())


def test_a_literal_is_a_parameter_if_asked_for():
    module = to_module(decomposed(), train=["eps*"])
    assert {k for k, _ in module.named_parameters()} == {"gamma", "beta", "epsilon"}
