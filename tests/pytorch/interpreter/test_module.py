"""The module itself: names, types, inputs, copies, what is refused, and the check."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from pytorch.interpreter.nodes import node_model, randoms

import normsurgery.pytorch
from normsurgery import runtime
from normsurgery.errors import (
    GraphError,
    MissingPackageError,
    NormSurgeryError,
    ParityError,
    UnsafeModelError,
    UnsupportedModelError,
    UsageError,
)
from normsurgery.pytorch import to_module
from normsurgery.pytorch.interpreter import table
from normsurgery.pytorch.interpreter.operators import activation

SAMPLES = Path(__file__).parents[3] / "sample_models"


def parse(text: str, opset: int = 17, ir: int = 8, **tensors) -> onnx.ModelProto:
    header = f'<ir_version: {ir}, opset_import: ["" : {opset}, "local" : 1, "custom" : 1]>'
    model = onnx.parser.parse_model(f"{header} {text}")
    for name, values in tensors.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
    return model


def affine(*names: str) -> onnx.ModelProto:
    """x · w₁ + w₂ + …, with tensors called ``names``."""
    nodes, value = [], "x"
    for n, name in enumerate(names):
        nodes.append(helper.make_node("Add" if n else "Mul", [value, name], [f"v{n}"]))
        value = f"v{n}"
    tensors = [
        numpy_helper.from_array(np.arange(3, dtype=np.float32) + n, name)
        for n, name in enumerate(names)
    ]
    info = [helper.make_tensor_value_info("x", 1, ["N", 3])]
    out = [helper.make_tensor_value_info(value, 1, ["N", 3])]
    graph = helper.make_graph(nodes, "g", info, out, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_names_read_as_in_the_graph():
    names = ["layer1.0.conv.weight", "layer1.0.conv.bias", "onnx::Mul_12", "/head/w"]
    module = to_module(affine(*names))
    assert {k for k, _ in module.named_parameters()} == set(names) == set(module.state_dict())
    assert module.names == {name: name for name in names}
    assert module.get_parameter("layer1.0.conv.bias") is module.layer1.get_submodule("0").conv.bias


@pytest.mark.parametrize(
    "names",
    [("a", "a.b"), ("a.b", "a"), ("a.b", "a.b.c"), ("a..b", "a._.b"), (".a", "a"), ("a.", "a"),
     ("forward", "x.type"), ("training", "names"), ("x.half", "double.w"), ("a.b.", "a.b._")],
)  # fmt: skip
def test_names_that_torch_cannot_have_get_others(names):
    module = to_module(affine(*names))
    assert set(module.names) == set(names)
    found = dict(module.named_parameters())
    assert len(found) == 2
    assert set(module.state_dict()) == set(found) == set(module.names.values())
    for n, name in enumerate(names):
        assert found[module.names[name]].tolist() == [n, n + 1, n + 2]
    assert module(torch.ones(1, 3)).tolist() == [[1.0, 3.0, 5.0]]
    assert {name for name, _, _ in module.written()} == set(names)


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


def test_bfloat16_weights():
    import ml_dtypes

    w = np.arange(3).astype(ml_dtypes.bfloat16)
    text = "g (bfloat16[N, 3] x) => (bfloat16[N, 3] y) { y = Mul(x, w) }"
    model = parse(text)
    model.graph.initializer.append(numpy_helper.from_array(w, "w"))
    module = to_module(model, check=False)
    assert module.w.dtype is torch.bfloat16
    assert module(torch.ones(1, 3)).tolist() == [[0.0, 1.0, 2.0]]


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


REFUSED = {
    "custom": ("y = custom.Magic(x)", "Magic .*no operator Magic of 'custom'"),
    "unknown": ("y = Det(x)", "no operator Det$"),
    "attribute": ("y = Relu<wider = 1>(x)", "Relu .*attribute 'wider' is not known"),
    "mode": ('y = Pad<mode = "other">(x, two)', "Pad .*mode 'other' is not known"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_known_is_refused_by_name(case):
    node, message = REFUSED[case]
    model = parse(f"g (float[2, 2] x) => (float[2, 2] y) {{ {node} }}", two=np.zeros(4, np.int64))
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        to_module(model, check=False)
    assert "\n" not in str(caught.value)
    assert caught.value.code == "NS-E306"


def test_what_no_output_needs_is_left_out():
    model = parse("g (float[2, 2] x) => (float[2, 2] y) { z = custom.Magic(x) y = Relu(x) }")
    assert to_module(model, check=False)(-torch.ones(2, 2)).sum() == 0


def test_a_tensor_of_absurd_size_is_refused():
    text = "g (float[1] x) => (float[N] y) { big = ConstantOfShape(shape) y = Add(x, big) }"
    with pytest.raises(UnsafeModelError, match="too large"):
        to_module(parse(text, shape=np.array([2**40])), check=False)


def test_constant_inputs_that_do_not_fit_are_an_error_of_the_graph():
    text = "g (float[1] x) => (float[N] y) { c = Concat<axis = 0>(a, b) y = Add(x, c) }"
    model = parse(text, a=np.zeros((1, 1), np.int64), b=np.zeros(2, np.int64))
    with pytest.raises(GraphError, match=r"Concat .*fails on its constant inputs"):
        to_module(model, check=False)


def test_local_functions_are_inlined():
    model = parse(
        "g (float[2, 3] x) => (float[2, 3] y) { y = local.scaled(x, w) }",
        w=np.array([1.0, 2.0, 3.0], np.float32),
    )
    body = onnx.parser.parse_function(
        '<domain: "local", opset_import: ["" : 17]> scaled (a, b) => (c) '
        "{ k = Constant<value = float[2] {2.0, 2.0}>() s = ReduceSum<keepdims = 0>(k) "
        "m = Mul(a, b) c = Mul(m, s) }"
    )
    model.functions.append(body)
    module = to_module(model)
    assert {k for k, _ in module.named_parameters()} == {"w"}
    assert module(torch.ones(2, 3))[0].tolist() == [4.0, 8.0, 12.0]


def test_shared_and_copied_weights():
    """Read twice it is one parameter; an Identity of it is a parameter of its own."""
    text = """g (float[N, 3] x) => (float[N, 3] y) {
        copied = Identity(w)
        a = Mul(x, w) b = Mul(a, w) y = Add(b, copied)
    }"""
    module = to_module(parse(text, w=np.array([1.0, 2.0, 3.0], np.float32)))
    assert [k for k, _ in module.named_parameters()] == ["w", "copied"]
    module(torch.ones(1, 3)).sum().backward()
    assert module.w.grad.tolist() == [2.0, 4.0, 6.0]
    assert module.copied.grad.tolist() == [1.0, 1.0, 1.0]


def test_an_identity_between_a_weight_and_its_only_reader_is_the_weight():
    text = "g (float[N, 3] x) => (float[N, 3] y) { same = Identity(w) y = Mul(x, same) }"
    module = to_module(parse(text, w=np.array([1.0, 2.0, 3.0], np.float32)))
    assert [k for k, _ in module.named_parameters()] == ["w"]


def test_constants_of_all_kinds():
    """Weights in Constant nodes train (paddle2onnx keeps them there); masks and settings do not."""
    text = """g (float[N, 3] x) => (float[N, 3] y) {
        w = Constant<value = float[3] {1.0, 2.0, 3.0}>()
        low = Constant<value_float = -1.0>()
        a = Mul(x, w) b = Clip(a, low, high) c = Add(b, mask) d = Mul(c, one)
        y = Add(d, shift)
    }"""
    module = to_module(
        parse(
            text, high=np.float32(9), mask=np.array([0, -np.inf, 0], np.float32),
            one=np.array([2.0], np.float32), shift=np.array([[1.0, 1, 1]], np.float32),
        )
    )  # fmt: skip
    assert {k for k, _ in module.named_parameters()} == {"w", "shift"}
    assert {k for k, _ in module.named_buffers()} == {"mask", "one"}
    assert set(module.state_dict()) == {"w", "shift"}


def test_overridable_initializers_are_parameters_and_no_inputs():
    model = affine("w", "b")
    model.graph.input.append(helper.make_tensor_value_info("w", 1, [3]))
    module = to_module(model)
    assert module.input_names == ("x",)
    assert {k for k, _ in module.named_parameters()} == {"w", "b"}


def test_a_batch_of_another_size_goes_through_computed_shapes():
    text = """g (float[N, 2, 3] x) => (float[N, M] y) {
        shape = Shape(x) zero = Constant<value_int = 0>() n = Gather(shape, zero)
        axis = Constant<value_ints = [0]>() row = Unsqueeze(n, axis)
        rest = Constant<value_ints = [-1]>() both = Concat<axis = 0>(row, rest)
        y = Reshape(x, both)
    }"""
    module = to_module(parse(text))
    for n in (1, 5):
        assert module(torch.zeros(n, 2, 3)).shape == (n, 6)


def test_shapes_are_computed_in_the_models_own_types_in_float64_too():
    """floor(7 · 1.4) from a float32 scale; the module's doubles do not come in."""
    text = """g (float[1, 1, H] x) => (float[1, 1, M] y) {
        shape = Shape(x) wide = Cast<to = 1>(shape) scaled = Mul(wide, factor)
        sizes = Cast<to = 7>(scaled) y = Resize<mode = "nearest">(x, , , sizes)
    }"""
    model = parse(text, factor=np.array([1, 1, 1.4], np.float32))
    x = torch.arange(7.0).reshape(1, 1, 7)
    module = to_module(model, shapes={"x": (1, 1, 7)})
    expected = module(x)
    assert torch.equal(module.double()(x).float(), expected)


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


def test_every_operator_family_is_found_by_being_there():
    entries = table.load()
    assert len(entries) > 160
    assert entries["", "LeakyRelu"] is activation.leaky_relu
    with pytest.raises(ValueError, match="two entries for Relu"):
        table.operator("Relu")(lambda _: torch.relu)
