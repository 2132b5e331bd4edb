"""The sample models as modules: the numbers of onnxruntime, gradients, training, and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from normsurgery import runtime
from normsurgery.pytorch import to_module, update_weights

ROOT = Path(__file__).parents[3] / "sample_models"
SAMPLES = sorted(p.name for p in ROOT.glob("*.onnx"))


def digits() -> np.ndarray:
    return np.load(ROOT / "digits.npz")["test_images"][:32]


@pytest.mark.parametrize("name", SAMPLES)
def test_imports_and_computes_what_onnxruntime_computes(name: str) -> None:
    module = to_module(ROOT / name)
    (expected,) = runtime.run(runtime.session(ROOT / name), {"image": digits()}).values()
    with torch.no_grad():
        found = module(torch.from_numpy(digits())).numpy()
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("name", SAMPLES)
def test_parameters_are_the_float_initializers_under_their_names(name: str) -> None:
    graph = onnx.load(ROOT / name).graph
    norms = [n for n in graph.node if n.op_type == "BatchNormalization"]
    aliases = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "Identity"}
    statistics = {aliases.get(i, i) for n in norms for i in n.input[3:]}
    floats = {t.name for t in graph.initializer if t.data_type == 1 and np.prod(t.dims) > 1}
    module = to_module(ROOT / name, check=False)
    named = {k for k, _ in module.named_parameters()}
    assert named - set(aliases) == floats - statistics
    assert named & set(aliases) <= set(aliases)
    for key, parameter in module.named_parameters():
        stored = next(t for t in graph.initializer if t.name == aliases.get(key, key))
        assert np.array_equal(parameter.detach().numpy(), numpy_helper.to_array(stored))


@pytest.mark.parametrize("name", SAMPLES)
def test_gradients_reach_every_parameter(name: str) -> None:
    module = to_module(ROOT / name, check=False).double()
    module(torch.from_numpy(digits())).square().mean().backward()
    for key, parameter in module.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
        assert parameter.grad.abs().max() > 0, key


@pytest.mark.parametrize("name", SAMPLES)
def test_untouched_weights_go_back_as_they_were(name: str) -> None:
    source = onnx.load(ROOT / name)
    result = update_weights(ROOT / name, to_module(ROOT / name, check=False))
    assert result.report.written == result.report.split == []
    assert result.model.SerializeToString(deterministic=True) == source.SerializeToString(
        deterministic=True
    )


@pytest.mark.parametrize("name", SAMPLES)
def test_a_training_step_goes_back_into_the_graph_and_changes_nothing_else(
    name: str, tmp_path: Path
) -> None:
    source = onnx.load(ROOT / name)
    module = to_module(ROOT / name, check=False).train()
    optimizer = torch.optim.SGD(module.parameters(), 1e-2)
    module(torch.from_numpy(digits())).square().mean().backward()
    optimizer.step()
    result = update_weights(ROOT / name, module)
    saved = tmp_path / "trained.onnx"
    result.save(saved)
    (expected,) = runtime.run(runtime.session(saved), {"image": digits()}).values()
    with torch.no_grad():
        found = module.eval()(torch.from_numpy(digits())).numpy()
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    before, after = source, onnx.load(saved)
    split, written = set(result.report.split), set(result.report.written)
    assert written
    for model in (before, after):
        keep = [t for t in model.graph.initializer if t.name not in split]
        nodes = [n for n in model.graph.node if n.output[0] not in split]
        for tensor in keep:
            if tensor.name in written:
                tensor.raw_data = b""
        del model.graph.initializer[:], model.graph.node[:]
        model.graph.initializer.extend(keep)
        model.graph.node.extend(nodes)
    assert before == after
