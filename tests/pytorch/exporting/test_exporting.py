"""Every kind of norm through both exporters, and the module that comes back untouched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from pytorch import nets
from torch import nn
from torch.nn.utils import parametrizations

import normsurgery.pytorch
from normsurgery import runtime
from normsurgery.errors import ModuleError, ParityError, UsageError
from normsurgery.pytorch import ExportResult, export
from normsurgery.pytorch.exporting import cleaning

EXPORTERS = ("dynamo", "legacy")
LINEAR = {"Conv", "BatchNormalization", "InstanceNormalization", "LayerNormalization"}


def stored(result: ExportResult) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in result.model.graph.initializer}


def operators(result: ExportResult) -> list[str]:
    return [node.op_type for node in result.model.graph.node]


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("kind", nets.KINDS)
def test_kinds(kind: str, exporter: str) -> None:
    """One node a norm, weights by their names in the module, no computed weight, parity."""
    module, x, norms = nets.make(kind)
    result = export(module, x, exporter=exporter, dynamic="batch")
    assert result.report.norms == norms
    assert result.parity is not None
    assert result.parity.ok
    assert result.parity.reason == ""  # the module in double was the truth
    onnx.checker.check_model(result.model, full_check=True)
    tensors = stored(result)
    state = {
        name: value.numpy()
        for name, value in module.state_dict().items()
        if value.is_floating_point()
    }
    plain = {name for name in state if "weight_" not in name and "parametrizations" not in name}
    if kind != "almost frozen":
        assert plain <= tensors.keys()
    for name in plain & tensors.keys():
        np.testing.assert_array_equal(tensors[name].ravel(), state[name].ravel())
    for node in result.model.graph.node:
        if node.op_type in LINEAR:
            assert all(name in tensors for name in node.input[1:]), node.op_type
    assert "Identity" not in operators(result)
    assert "CastLike" not in operators(result)
    assert b"stack_trace" not in result.model.SerializeToString()
    assert str(Path(__file__).parents[1]).encode() not in result.model.SerializeToString()
    (x_info,) = result.model.graph.input
    assert x_info.type.tensor_type.shape.dim[0].dim_param == "batch"
    assert [v.name for v in result.model.graph.output] == ["output"]


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_conv_without_bias_has_none(rank: int, exporter: str) -> None:
    """Dynamo computes one, of rank 2 for Conv3d, which onnxruntime refuses."""
    module, x, _ = nets.make(f"batch{rank}d")
    result = export(module, x, exporter=exporter)
    first, last = (n for n in result.model.graph.node if n.op_type == "Conv")
    assert list(first.input[1:]) == ["conv.weight"]
    assert list(last.input[1:]) == ["last.weight", "last.bias"]
    assert operators(result) == ["Conv", "BatchNormalization", "Relu", "Conv"]


def test_a_stored_bias_of_zeros_stays() -> None:
    module, x, _ = nets.make("batch2d")
    nn.init.zeros_(module.last.bias)
    assert "last.bias" in stored(export(module, x))


@pytest.mark.parametrize(("exporter", "opset"), [("dynamo", 18), ("dynamo", 21), ("legacy", 17)])
def test_group_norm_is_portable(exporter: str, opset: int) -> None:
    """The native operator of opset 21 has no kernel on the CPU, and is off by 3e-2 there."""
    module, x, _ = nets.make("group")
    result = export(module, x, exporter=exporter, opset=opset, dynamic="batch")
    assert result.report.opset == opset
    wanted = ["Conv", "Reshape", "InstanceNormalization", "Shape", "Reshape", "Mul", "Add"]
    assert operators(result) == [*wanted, "Relu", "Conv"]
    tensors = stored(result)
    assert tensors["norm.weight"].shape == tensors["norm.bias"].shape == (8, 1, 1)
    reshape = next(n for n in result.model.graph.node if n.op_type == "Reshape")
    np.testing.assert_array_equal(tensors[reshape.input[1]], [0, 4, -1])


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_chunks_and_colons_are_short(exporter: str) -> None:
    """AdaIN's halves: no sequence, no bounds computed at every run, no slice of everything."""
    module, x, _ = nets.make("adain")
    found = operators(export(module, x, exporter=exporter, dynamic="batch"))
    cut = {"dynamo": ["Split"], "legacy": ["Slice", "Slice"]}[exporter]
    assert [kind for kind in found if kind in {"Split", "Slice"}] == cut
    rest = {"SplitToSequence", "SequenceAt", "Gather", "Shape", "Div"}
    assert not rest & {*found}


class Chunks(nn.Module):
    """Five channels in chunks of two, of which the last is shorter, taken from both ends."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        first, second, last = x.split(2, 1)
        return first * 2, last, second + last


def test_uneven_chunks() -> None:
    result = export(Chunks(), torch.randn(3, 5), dynamic="batch")
    assert "Split" in operators(result)
    assert result.parity is not None
    assert result.parity.ok


@pytest.mark.parametrize("kind", [k for k in nets.KINDS if "norm" in k])
def test_baked_weights_are_rounded_once(kind: str) -> None:
    module, x, _ = nets.make(kind)
    result = export(module, x, exporter="legacy")
    assert result.report.baked == ["conv.weight"]
    exact: Any = nets.make(kind)[0].double()
    exact(x.double())  # the hooks of the first styles compute the weight in a forward
    expected = exact.conv.weight.detach().float().numpy()
    np.testing.assert_array_equal(stored(result)["conv.weight"], expected)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_tied_weights_and_equal_ones(exporter: str) -> None:
    """One tensor of two names is written once; fresh norms of equal content are written each."""
    module = nets.Tied().eval()
    result = export(module, torch.randn(1, 4, 5, 5), exporter=exporter)
    tensors = stored(result)
    assert "first.weight" in tensors
    assert "second.weight" not in tensors
    for norm in ("norm", "other"):
        for name in ("weight", "bias", "running_mean", "running_var"):
            assert tensors[f"{norm}.{name}"].shape == (4,)


def snapshot(module: nn.Module) -> dict[str, Any]:
    return {
        "state": {k: v.clone() for k, v in module.state_dict().items()},
        "modes": [m.training for m in module.modules()],
        "grads": [None if p.grad is None else p.grad.clone() for p in module.parameters()],
        "wants": [p.requires_grad for p in module.parameters()],
        "hooks": [[list(m._forward_hooks), list(m._forward_pre_hooks)] for m in module.modules()],
        "classes": [type(m) for m in module.modules()],
        "random": torch.random.get_rng_state(),
    }


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("kind", ["spectral norm", "weight norm", "weight norm, hook", "frozen"])
def test_the_module_is_not_changed(kind: str, exporter: str) -> None:
    module, x, _ = nets.make(kind)
    module.train()
    module.norm.eval()
    module.register_forward_hook(lambda *_: None)
    module(x).sum().backward()
    before = snapshot(module)
    export(module, x, exporter=exporter)
    after = snapshot(module)
    for key, value in before.items():
        if key == "state":
            assert value.keys() == after[key].keys()
            assert all(torch.equal(v, after[key][k]) for k, v in value.items())
        elif key == "grads":
            assert all(
                a is b is None or torch.equal(a, b) for a, b in zip(value, after[key], strict=True)
            )
        elif key == "random":
            assert torch.equal(value, after[key])
        else:
            assert value == after[key], key
    module(x).sum().backward()  # and still works: parametrizations are properties of the class


def test_training_mode_is_left_and_told() -> None:
    module, x, _ = nets.make("batch2d")
    result = export(module.train(), x)
    assert result.report.was_training
    assert result.report.norms == nets.BN
    assert module.training


def test_fold() -> None:
    module, x, _ = nets.make("batch2d")
    result = export(module, x, norms="fold", dynamic="batch")
    assert operators(result) == ["Conv", "Relu", "Conv"]
    assert result.report.folded is not None
    assert (result.report.folded.before, result.report.folded.after) == (1, 0)
    assert result.parity is not None
    assert result.parity.ok
    props = {p.key: p.value for p in result.model.metadata_props}
    assert props["normsurgery.verb"] == "export"


class Both(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.norm = nn.Embedding(5, 6), nn.BatchNorm2d(3)

    def forward(self, image: torch.Tensor, index: torch.Tensor) -> dict[str, torch.Tensor]:
        row = self.table(index)
        return {"sum": self.norm(image) + row[:, None, None, :], "row": row}


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_several_inputs_and_outputs(exporter: str) -> None:
    args = {"index": torch.tensor([3, 4]), "image": torch.randn(2, 3, 4, 6)}
    free = {"image": {0: "batch", 2: "height"}, "index": {0: "batch"}}
    result = export(nets.stir(Both()), args, exporter=exporter, dynamic=free)
    graph = result.model.graph
    assert [v.name for v in graph.input] == ["image", "index"]
    assert [v.name for v in graph.output] == ["sum", "row"]
    dims = graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in dims] == ["batch", 3, "height", 6]
    assert result.parity is not None
    assert "image (3, 3, 8, 6)" in result.parity.sets[1]


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(dtype: torch.dtype, exporter: str) -> None:
    module, x, _ = nets.make("batch2d")
    result = export(module.to(dtype), x.to(dtype), exporter=exporter)
    assert result.parity is not None
    assert result.parity.ok
    assert stored(result)["norm.running_var"].dtype.name == str(dtype).split(".")[1]
    without_kernels = dtype is not torch.float16
    assert ("float64 evaluator" in result.parity.runtime) == without_kernels


def test_without_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "available", lambda: False)
    module, x, _ = nets.make("batch2d")
    result = export(module, x, exporter="legacy")
    assert result.parity is not None
    assert result.parity.ok
    assert "onnxruntime is not installed" in result.parity.runtime


def test_a_batch_of_one_can_be_dynamic() -> None:
    module, x, _ = nets.make("batch2d")
    result = export(module, x[:1], dynamic="batch")
    assert result.model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


class Stubborn(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.float() * torch.tensor(1.5)


def test_a_module_that_will_not_run_in_double() -> None:
    result = export(Stubborn(), torch.randn(2, 3), exporter="legacy")
    assert result.parity is not None
    assert result.parity.ok
    assert "does not run in double" in result.parity.reason


# What is refused, by name.


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_no_running_statistics(exporter: str) -> None:
    module = nets.Net(nn.BatchNorm2d(8, track_running_stats=False))
    with pytest.raises(ModuleError, match=r"BatchNorm2d `norm` has no running statistics"):
        export(module, torch.randn(2, 3, 6, 6), exporter=exporter)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_functional_batch_statistics(exporter: str) -> None:
    module = nets.Net(nets.BatchStatistics()).eval()
    with pytest.raises(ModuleError, match=r"batch at hand|exporter refuses the module"):
        export(module, torch.randn(2, 3, 6, 6), exporter=exporter)


class NeverEval(nn.BatchNorm2d):
    def train(self, mode: bool = True) -> nn.BatchNorm2d:
        return super().train(True)


def test_a_module_that_stays_in_training_mode() -> None:
    with pytest.raises(ModuleError, match="NeverEval `norm` stays in training mode"):
        export(nets.Net(NeverEval(8)), torch.randn(2, 3, 6, 6))


class Broken(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("first line\nsecond line")


def test_a_module_that_does_not_run() -> None:
    with pytest.raises(ModuleError, match=r"does not run on its inputs: first line$"):
        export(Broken(), torch.randn(2, 3))


class Unexportable(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.svdvals(x)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_an_operator_that_the_exporter_lacks(exporter: str) -> None:
    with pytest.raises(ModuleError, match=f"torch's {exporter} exporter refuses the module") as e:
        export(Unexportable(), torch.randn(3, 3), exporter=exporter)
    assert "\n" not in str(e.value)


class Specialised(nn.Module):
    """Takes the number of images it is traced with for a constant."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * int(x.shape[0])


@pytest.fixture
def wrong_epsilon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plant a bug: cleaning writes another epsilon into each BatchNormalization."""
    right = cleaning.clean

    def wrong(model: onnx.ModelProto, *rest: Any) -> Any:
        for node in model.graph.node:
            for attribute in node.attribute:
                if attribute.name == "epsilon":
                    attribute.f = 1e-3
        return right(model, *rest)

    monkeypatch.setattr(cleaning, "clean", wrong)


@pytest.mark.usefixtures("wrong_epsilon")
def test_a_wrong_graph_is_found() -> None:
    module, x, _ = nets.make("batch2d")
    with pytest.raises(ParityError, match="output: the error is"):
        export(module, x, exporter="legacy")
    result = export(module, x, exporter="legacy", keep=True)
    assert result.parity is not None
    assert not result.parity.ok


def test_a_batch_size_that_was_traced_as_a_constant_is_found() -> None:
    with pytest.raises(ParityError):
        export(Specialised(), torch.randn(2, 3), exporter="legacy", dynamic="batch")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"exporter": "onnx"}, "exporter='onnx' is unknown"),
        ({"norms": "drop"}, "norms='drop' is unknown"),
        ({"opset": 9}, "writes 18 to"),
        ({"opset": 22, "exporter": "legacy"}, "writes 11 to 20"),
        ({"dynamic": {"y": {0: "n"}}}, "no input 'y'"),
        ({"dynamic": {"x": {4: "n"}}}, "input 'x' has no axis 4"),
        ({"input_names": ["a", "b"]}, "1 inputs need as many different names"),
        ({"output_names": ["a", "b"]}, "1 outputs need as many different output_names"),
    ],
)
def test_usage(change: dict[str, Any], words: str) -> None:
    module, x, _ = nets.make("batch2d")
    with pytest.raises(UsageError, match=words):
        export(module, x, **change)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "at least one; got none"),
        ([3], "got int"),
        ({"image": torch.zeros(2, 3, 4, 6), "other": torch.zeros(2)}, "no parameter 'other'"),
        ({"index": torch.zeros(2).long()}, "takes 'image' before 'index'"),
    ],
)
def test_arguments(args: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        export(Both(), args)


def test_not_a_module() -> None:
    with pytest.raises(UsageError, match="a function is no torch"):
        export(lambda x: x, torch.zeros(1))  # type: ignore[arg-type]


def test_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(normsurgery.pytorch, "find_spec", lambda _: None)
    with pytest.raises(normsurgery.pytorch.MissingPackageError, match=r"normsurgery\[torch\]"):
        _ = normsurgery.pytorch.export


def test_parametrized_copies_share_no_class_with_the_caller() -> None:
    """``remove_parametrizations`` on a copy would delete the property of the original's class."""
    module = nets.Net(nn.BatchNorm2d(8), conv=parametrizations.weight_norm(nets.conv()))
    export(module, torch.randn(2, 3, 6, 6), exporter="legacy", validate=False)
    assert module.conv.weight.shape == (8, 3, 3, 3)


class WritesIntoItsInput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.norm(x.sub_(0.5).mul_(4.0))
        return y


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_module_that_writes_into_its_input(dtype: torch.dtype) -> None:
    """The caller's example stays as it is; module and graph are compared on the same numbers."""
    x = torch.randn(2, 3, 4, 4, dtype=dtype)
    before = x.clone()
    for exporter in EXPORTERS:
        parity = export(WritesIntoItsInput().to(dtype), x, exporter=exporter).parity
        assert parity is not None
        assert parity.ok
        assert torch.equal(x, before)
    normsurgery.pytorch.convert(WritesIntoItsInput().to(dtype), to="group", groups=1, args=x)
    assert torch.equal(x, before)


def test_torchscript_is_refused() -> None:
    with pytest.raises(ModuleError, match="pass the module that it was made from"):
        export(torch.jit.script(nn.Sequential(nn.BatchNorm2d(3))), torch.randn(2, 3, 4, 4))


def test_nothing_is_printed_where_the_legacy_exporter_fails(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """It prints the graph from C++; in a pipe that would be part of the result."""
    with pytest.raises(ModuleError, match="rms_norm"):
        export(nn.RMSNorm(6), torch.randn(2, 6), exporter="legacy")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("module", "what"),
    [
        (nn.Sequential(nn.LazyConv2d(4, 3)), "'0.weight' has no shape yet; call the module once"),
        (nn.Sequential(nn.BatchNorm2d(3, device="meta")), "'0.weight' is on the meta device"),
    ],
)
def test_tensors_without_numbers(module: nn.Module, what: str) -> None:
    for call in (export, normsurgery.pytorch.convert, normsurgery.pytorch.fold):
        with pytest.raises(ModuleError, match=what):
            call(module, args=torch.randn(2, 3, 4, 4))  # type: ignore[operator]


class ThreeArguments(nn.Module):
    def forward(self, a: torch.Tensor, b: Any = 1.0, c: Any = 2.0) -> torch.Tensor:
        return a * b + c


def test_an_argument_that_is_skipped_is_named() -> None:
    x = torch.randn(2, 3)
    with pytest.raises(UsageError, match="forward takes 'b' before 'c': give that as well"):
        export(ThreeArguments(), {"a": x, "c": x})
    with pytest.raises(UsageError, match="forward takes 'a' before 'b': give that as well"):
        export(ThreeArguments(), {"b": x})


class PassesOn(nn.Module):
    """Returns its input, and one tensor twice."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = self.norm(x)
        return y, x, y


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_an_output_that_is_an_input_or_another_output(exporter: str, tmp_path: Path) -> None:
    x = torch.randn(2, 3, 4, 4)
    result = export(PassesOn(), x, exporter=exporter, output_names=["a", "b", "c"])
    onnx.checker.check_model(result.model, full_check=True)
    assert [value.name for value in result.model.graph.input] == ["x"]
    result.save(tmp_path / "model.onnx")
    found = runtime.run(runtime.session(tmp_path / "model.onnx"), {"x": x.numpy()})
    for name, wanted in zip("abc", PassesOn().eval()(x), strict=True):
        np.testing.assert_allclose(found[name], wanted.detach().numpy(), rtol=1e-6)
