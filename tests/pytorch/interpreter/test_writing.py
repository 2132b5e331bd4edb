"""``update_weights``: exactly the trained numbers, exactly where they were, rounded once."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from pytorch.interpreter.nodes import by_onnxruntime, node_model, randoms
from pytorch.interpreter.texts import SAMPLES, parse

from normsurgery.errors import OutputExistsError, UsageError
from normsurgery.pytorch import GraphModule, to_module, update_weights


def add_to_all(module: GraphModule, amount: float) -> None:
    with torch.no_grad():
        for p in module.parameters():
            p.add_(amount)


def value(model: onnx.ModelProto, name: str) -> np.ndarray:
    return next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == name)


MUL = "g (float[N, 3] x) => (float[N, 3] y) { y = Mul(x, w) }"
W = np.array([1.0, 2.0, 3.0], np.float32)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("wide", [False, True])
def test_numbers_are_rounded_once_to_the_tensors_own_type(dtype, wide):
    name = {np.float16: "float16", np.float32: "float", np.float64: "double"}[dtype]
    model = parse(MUL.replace("float", name), w=W.astype(dtype))
    module = to_module(model, check=False)
    module = module.double() if wide else module
    exact = torch.tensor([1 + 2**-11 + 2**-30, 1 / 3, -2e-5], dtype=torch.float64)
    with torch.no_grad():
        module.w.copy_(exact)
    held = module.w.detach().double().numpy()
    found = value(update_weights(model, module).model, "w")
    assert found.dtype == dtype
    assert np.array_equal(found, held.astype(dtype))


def test_bfloat16():
    import ml_dtypes

    model = parse(MUL.replace("float", "bfloat16"), w=W.astype(ml_dtypes.bfloat16))
    module = to_module(model, check=False).double()
    with torch.no_grad():
        module.w.fill_(1 + 2**-8 + 2**-40)  # over the middle: up; by way of float32 it goes down
    found = value(update_weights(model, module).model, "w")
    assert found.dtype == ml_dtypes.bfloat16
    assert found.astype(np.float64).tolist() == [1 + 2**-7] * 3


def test_running_statistics_go_back_too():
    x, *rest = randoms(0, (8, 3, 5), 3, 3, 3, 3)
    rest[3] = np.abs(rest[3])
    model = node_model("BatchNormalization", [x, *rest], constants=(1, 2, 3, 4))
    module = to_module(model, check=False).train()
    module(torch.from_numpy(x))
    result = update_weights(model, module)
    assert result.report.written == ["i3", "i4"]
    assert result.report.same == 2
    mean = 0.1 * x.mean((0, 2)) + 0.9 * rest[2]
    np.testing.assert_allclose(value(result.model, "i3"), mean, rtol=1e-5)
    var = 0.1 * x.var((0, 2), ddof=1) + 0.9 * rest[3]
    np.testing.assert_allclose(value(result.model, "i4"), var, rtol=1e-5)


def test_constant_nodes():
    text = """g (float[N, 3] x) => (float[N, 3] y) {
        w = Constant<value = float[3] {1.0, 2.0, 3.0}>() y = Mul(x, w)
    }"""
    model = parse(text)
    module = to_module(model)
    add_to_all(module, 1.0)
    result = update_weights(model, module)
    assert result.report.written == ["w"]
    assert [n.op_type for n in result.model.graph.node] == ["Constant", "Mul"]
    feeds = {"x": np.ones((1, 3), np.float32)}
    assert by_onnxruntime(result.model, feeds)[0].tolist() == [[2.0, 3.0, 4.0]]


def test_through_identity():
    text = "g (float[N, 3] x) => (float[N, 3] y) { same = Identity(w) y = Mul(x, same) }"
    model = parse(text, w=W)
    module = to_module(model)
    add_to_all(module, 1.0)
    result = update_weights(model, module)
    assert (result.report.written, result.report.split) == (["w"], [])
    assert [n.op_type for n in result.model.graph.node] == ["Identity", "Mul"]
    assert value(result.model, "w").tolist() == [2.0, 3.0, 4.0]


COPIED = """g (float[N, 3] x) => (float[N, 3] y) {
    copied = Identity(w) a = Mul(x, w) y = Add(a, copied)
}"""
COPY_FIRST = """g (float[N, 3] x) => (float[N, 3] y) {
    copied = Identity(w) a = Add(x, copied) b = Mul(a, w) y = Sub(b, copied)
}"""


def test_a_copy_that_became_another_is_an_initializer_of_its_own():
    model = parse(COPIED, w=W)
    module = to_module(model)
    with torch.no_grad():
        module.copied.add_(10)
    result = update_weights(model, module)
    assert (result.report.written, result.report.split) == ([], ["copied"])
    assert [n.op_type for n in result.model.graph.node] == ["Mul", "Add"]
    assert value(result.model, "w").tolist() == [1.0, 2.0, 3.0]
    assert value(result.model, "copied").tolist() == [11.0, 12.0, 13.0]
    onnx.checker.check_model(result.model)
    feeds = {"x": np.ones((1, 3), np.float32)}
    assert by_onnxruntime(result.model, feeds)[0].tolist() == [[12.0, 14.0, 16.0]]


@pytest.mark.parametrize("text", [COPIED, COPY_FIRST])
def test_a_copy_stays_what_it_was_when_its_source_changes(text):
    """The Identity would hand on the source's new numbers."""
    model = parse(text, w=W)
    module = to_module(model)
    with torch.no_grad():
        module.w.add_(10)
    result = update_weights(model, module)
    assert (result.report.written, result.report.split) == (["w"], ["copied"])
    x = np.ones((1, 3), np.float32)
    expected = module(torch.from_numpy(x)).tolist()
    assert by_onnxruntime(result.model, {"x": x})[0].tolist() == expected


def test_a_copy_that_changed_alike_stays_an_identity():
    model = parse(COPIED, w=W)
    module = to_module(model)
    add_to_all(module, 1.0)
    result = update_weights(model, module)
    assert (result.report.written, result.report.split) == (["w"], [])
    assert "Identity" in [n.op_type for n in result.model.graph.node]


def test_shared_initializers_are_written_once():
    text = "g (float[N, 3] x) => (float[N, 3] y) { a = Mul(x, w) y = Add(a, w) }"
    model = parse(text, w=W)
    module = to_module(model)
    add_to_all(module, 1.0)
    result = update_weights(model, module)
    assert result.report.written == ["w"]
    assert len(result.model.graph.initializer) == 1


def test_ir_3_and_initializers_that_are_inputs():
    model = parse(MUL, opset=8, ir=3, w=W)
    model.graph.input.append(helper.make_tensor_value_info("w", 1, [3]))
    module = to_module(model)
    add_to_all(module, 1.0)
    after = update_weights(model, module).model
    assert value(after, "w").tolist() == [2.0, 3.0, 4.0]
    assert [i.name for i in after.graph.input] == ["x", "w"]


def test_external_data(tmp_path):
    path = tmp_path / "model.onnx"
    model = parse(
        "g (float[N, 200] x) => (float[N, 100] y) { a = MatMul(x, w) y = Mul(a, s) }",
        w=np.ones((200, 100), np.float32), s=np.ones(100, np.float32),
    )  # fmt: skip
    onnx.save(model, path, save_as_external_data=True, location="weights", size_threshold=0)
    module = to_module(path)
    with torch.no_grad():
        module.s.fill_(3)
    result = update_weights(path, module)
    result.save(tmp_path / "trained.onnx")
    after = onnx.load(tmp_path / "trained.onnx")
    assert (value(after, "s") == 3).all()
    assert (value(after, "w") == 1).all()
    with pytest.raises(OutputExistsError):
        result.save(tmp_path / "trained.onnx")


def test_computed_weights_train_through_what_computes_them():
    """weight_norm: direction and length are the parameters, and both go back."""
    text = """g (float[N, 3] x) => (float[N, 2] y) {
        norm = ReduceL2<axes = [0], keepdims = 1>(v) unit = Div(v, norm) w = Mul(unit, length)
        y = MatMul(x, w)
    }"""
    v, length = randoms(0, (3, 2), (1, 2))
    model = parse(text, v=v.astype(np.float32), length=length.astype(np.float32))
    module = to_module(model)
    assert {k for k, _ in module.named_parameters()} == {"v", "length"}
    module(torch.ones(1, 3)).sum().backward()
    assert all(p.grad.abs().max() > 0 for p in module.parameters())
    add_to_all(module, 0.5)
    result = update_weights(model, module)
    assert sorted(result.report.written) == ["length", "v"]
    x = np.ones((2, 3), np.float32)
    expected = module(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(by_onnxruntime(result.model, {"x": x})[0], expected, rtol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(bad):
    model = parse(MUL, w=W)
    module = to_module(model)
    with torch.no_grad():
        module.w[1] = bad
    with pytest.raises(UsageError, match="'w' is not finite: training diverged"):
        update_weights(model, module)


def test_overflow_of_a_narrow_type_is_refused():
    model = parse(MUL.replace("float", "float16"), w=W.astype(np.float16))
    module = to_module(model).float()
    with torch.no_grad():
        module.w[1] = 1e6
    with pytest.raises(UsageError, match="'w' overflows float16"):
        update_weights(model, module)


def test_a_module_of_another_model_is_refused():
    module = to_module(parse(MUL, w=W))
    with pytest.raises(UsageError, match="has no tensor 'w'"):
        update_weights(parse(MUL.replace("w", "v"), v=W), module)
    with pytest.raises(UsageError, match=r"'w' has shape \[1\], the module's \[3\]"):
        update_weights(parse(MUL, w=W[:1]), module)


def test_the_callers_model_is_not_changed():
    model = onnx.load(SAMPLES / "digits_resnet.onnx")
    before = model.SerializeToString(deterministic=True)
    module = to_module(model, check=False)
    add_to_all(module, 0.1)
    result = update_weights(model, module)
    assert model.SerializeToString(deterministic=True) == before
    assert result.report.to_dict()["written"]


def test_a_copy_of_the_module_in_double_goes_back_alike():
    module = to_module(SAMPLES / "digits_mlp.onnx", check=False)
    result = update_weights(SAMPLES / "digits_mlp.onnx", module.double())
    assert result.report.written == []
