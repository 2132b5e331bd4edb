"""The module itself: its inputs, types and devices, copies and training."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import pytest
import torch
from pytorch.interpreter.nodes import node_model, randoms
from pytorch.interpreter.texts import SAMPLES, parse

import normsurgery.pytorch
from normsurgery.errors import MissingPackageError, UsageError
from normsurgery.pytorch import to_module


def test_state_dict_loads():
    one, other = (to_module(SAMPLES / "digits_resnet.onnx", check=False) for _ in range(2))
    with torch.no_grad():
        for tensor in one.state_dict().values():
            tensor.mul_(1.5)
    other.load_state_dict(one.state_dict())
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(one(x), other(x))


def test_copies_are_apart():
    module = to_module(SAMPLES / "digits_mobilenet.onnx", check=False)
    x = torch.rand(2, 1, 8, 8)
    before = module(x)
    other = copy.deepcopy(module).double().train()
    with torch.no_grad():
        for p in other.parameters():
            p.zero_()
    other(x)
    assert torch.equal(module(x), before)
    assert before.dtype is torch.float32
    assert not module.training


@pytest.mark.parametrize("name", ["digits_mobilenet", "digits_conv1d", "digits_unet"])
def test_double_is_an_oracle(name):
    """As near to the float64 operators of ``validation`` as float64 can be."""
    from normsurgery.validation import oracle

    path = SAMPLES / f"{name}.onnx"
    feeds = {"image": np.load(SAMPLES / "digits.npz")["test_images"][:3]}
    expected = oracle.run(oracle.load(path), feeds)["scores"]
    module = to_module(path, check=False).double()
    found = module(feeds["image"]).detach().numpy()
    assert found.dtype == np.float64
    assert np.abs(found - expected).max() <= 1e-12 * np.abs(expected).max()
    back = module.float()(feeds["image"]).detach().numpy()
    assert back.dtype == np.float32
    assert np.abs(back - expected).max() <= 1e-5 * np.abs(expected).max()


def test_half_and_bfloat16():
    module = to_module(SAMPLES / "digits_resnet.onnx", check=False)
    x = torch.rand(2, 1, 8, 8)
    expected = module(x)
    for dtype in (torch.bfloat16, torch.float16):
        found = copy.deepcopy(module).to(dtype)(x)
        assert found.dtype is dtype
        assert (found.float() - expected).abs().max() < 0.1 * expected.abs().max()


def test_a_float16_model_stays_one():
    x, w, b = (a.astype(np.float16) for a in randoms(0, (1, 3, 6, 6), (4, 3, 3, 3), (4,)))
    model = node_model("Conv", [x, w, b], constants=(1, 2), dtype=np.float16)
    module = to_module(model)
    assert module.i1.dtype is torch.float16
    assert module(torch.from_numpy(x)).dtype is torch.float16
    assert module.double()(torch.from_numpy(x)).dtype is torch.float64


TWO = "g (float[N] a, float[N] b) => (float[N] s, float[N] d) { s = Add(a, b) d = Sub(a, b) }"


def test_several_inputs_and_outputs():
    module = to_module(parse(TWO))
    a, b = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 5.0])
    for made in (module(a, b), module(a, b=b), module(b=b, a=a)):
        assert [y.tolist() for y in made] == [[4.0, 7.0], [-2.0, -3.0]]
    assert list(module.run({"b": b, "a": a})) == ["s", "d"]
    assert module(a.numpy(), b.numpy())[0].tolist() == [4.0, 7.0]


@pytest.mark.parametrize(
    ("args", "named", "message"),
    [
        ((1,), {}, "input 'b' is missing"), ((1, 2, 3), {}, "no further input 'number 3'"),
        ((1,), {"c": 1}, "no further input 'c'"), ((1,), {"a": 2}, "no further input 'a'"),
    ],
)  # fmt: skip
def test_wrong_inputs(args, named, message):
    module = to_module(parse(TWO), check=False)
    with pytest.raises(UsageError, match=message):
        module(*map(torch.tensor, args), **{k: torch.tensor(v) for k, v in named.items()})


def test_an_exception_of_torch_names_the_node():
    module = to_module(SAMPLES / "digits_resnet.onnx", check=False)
    with pytest.raises(RuntimeError) as caught:
        module(torch.zeros(1, 5, 8, 8))
    assert caught.value.__notes__ == ["while running Conv `/0/Conv`"]


@pytest.mark.parametrize("name", sorted(p.name for p in SAMPLES.glob("*.onnx")))
def test_every_step_has_its_values_on_one_device(name):
    """On the meta device, which refuses to work with tensors of the CPU, as a GPU does."""
    module = to_module(SAMPLES / name, check=False).to("meta")
    made = module(torch.empty(3, 1, 8, 8, device="meta"))
    assert made.device.type == "meta"
    assert made.shape[0] == 3


def test_values_of_shapes_are_moved_where_they_meet_data():
    text = """g (float[N, 3] x) => (float[N, 3] y, int64[1] n) {
        shape = Shape(x) zero = Constant<value_ints = [0]>() n = Gather(shape, zero)
        rows = Cast<to = 1>(n) scaled = Mul(x, rows) filled = ConstantOfShape(shape)
        wide = Add(scaled, filled) y = Mul(wide, w)
    }"""
    module = to_module(parse(text, w=np.array([1.0, 2.0, 3.0], np.float32)))
    y, n = module(torch.ones(2, 3))
    assert y.tolist() == [[2.0, 4.0, 6.0]] * 2
    assert n.tolist() == [2]
    y, n = module.double()(torch.ones(2, 3))
    assert y.dtype is torch.float64
    y, n = module.to("meta")(torch.empty(2, 3, device="meta"))
    assert y.device.type == n.device.type == "meta"


@pytest.mark.parametrize("name", ["digits_mobilenet", "digits_unet", "digits_densenet"])
def test_training_under_autocast(name):
    module = to_module(SAMPLES / f"{name}.onnx", check=False).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made = module(torch.rand(3, 1, 8, 8))
    assert made.dtype is torch.bfloat16
    made.float().square().mean().backward()
    assert all(p.grad.dtype is torch.float32 for p in module.parameters())


@pytest.mark.gpu
@pytest.mark.parametrize("name", sorted(p.name for p in SAMPLES.glob("*.onnx")))
def test_on_a_gpu(name):
    module = to_module(SAMPLES / name, check=False).double()
    x = torch.rand(3, 1, 8, 8, dtype=torch.float64)
    expected = module(x)
    found = module.cuda()(x.cuda())
    assert torch.allclose(found.cpu(), expected, atol=1e-10)
    module.train()(x.cuda()).square().mean().backward()


def test_without_torch_the_command_that_mends_it(monkeypatch):
    monkeypatch.setattr(normsurgery.pytorch, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"normsurgery\[torch\]"):
        normsurgery.pytorch.to_module  # noqa: B018  asking for it is what fails


def test_the_callers_model_is_not_changed():
    model = onnx.load(SAMPLES / "digits_repvgg.onnx")
    before = model.SerializeToString(deterministic=True)
    module = to_module(model, check=False)
    with torch.no_grad():
        for p in module.parameters():
            p.zero_()
    assert model.SerializeToString(deterministic=True) == before


def test_onnx_ir_models():
    import onnx_ir

    module = to_module(onnx_ir.load(SAMPLES / "digits_mlp.onnx"))
    assert "scores" in module.output_names


def test_training_learns():
    """Forty steps on the digits, from random weights."""
    data = np.load(SAMPLES / "digits.npz")
    images, labels = (torch.from_numpy(data[f"train_{k}"]) for k in ("images", "labels"))
    module = to_module(SAMPLES / "digits_resnet.onnx", check=False).train()
    torch.manual_seed(0)
    with torch.no_grad():
        for p in module.parameters():
            if p.dim() > 1:
                p.copy_(torch.randn_like(p) * p.std())
    optimizer = torch.optim.SGD(module.parameters(), 0.05, momentum=0.9)
    losses = []
    for step in range(40):
        some = torch.arange(step * 16, step * 16 + 16) % len(images)
        loss = torch.nn.functional.cross_entropy(module(images[some]), labels[some])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:5])
