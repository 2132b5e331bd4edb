"""``normsurgery.pytorch.finetune`` on the sample models and on small graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from graphs import parse
from onnx import ModelProto, numpy_helper
from pytorch.learners import DIGITS, RESNET, SAMPLES, changed, digits, grouped, tensors

import normsurgery
from normsurgery import runtime
from normsurgery.errors import OutputExistsError, UsageError
from normsurgery.pytorch import finetune, to_module
from normsurgery.pytorch.finetuning import cores


def nodes(model: ModelProto) -> list[bytes]:
    """Return the nodes, but for the Identity by which the exporter made equal parameters one."""
    return [n.SerializeToString() for n in model.graph.node if n.op_type != "Identity"]


def accuracy(path: Path) -> float:
    """Return the share of digits of the test part that onnxruntime gets right."""
    with np.load(DIGITS) as arrays:
        images, labels = arrays["test_images"], arrays["test_labels"]
    scores = runtime.run(runtime.session(path), {"image": images})["scores"]
    return float((scores.argmax(1) == labels).mean())


def test_onnx_in_and_onnx_out_with_nothing_but_weights_changed(tmp_path: Path) -> None:
    before = onnx.load(RESNET)
    result = finetune(before, digits(), val=digits("test", None), lr=1e-3, fold=False)
    after = result.model
    assert nodes(after) == nodes(before)
    report = result.report
    assert changed(before, after) >= set(report.trained) & set(tensors(before))
    assert report.before is not None
    assert report.before.accuracy == pytest.approx(0.9933, abs=1e-4)
    seen = report.epochs[0].val
    assert seen is not None
    result.save(tmp_path / "tuned.onnx")
    assert accuracy(tmp_path / "tuned.onnx") == pytest.approx(seen.accuracy)
    assert report.steps == 30
    assert before == onnx.load(RESNET)


def test_what_is_left_of_the_norms_is_folded_at_the_end() -> None:
    result = finetune(RESNET, digits(), lr=1e-3)
    assert not [n for n in result.model.graph.node if n.op_type == "BatchNormalization"]
    assert result.report.fold is not None
    assert result.report.fold.before == 11
    props = {p.key: p.value for p in result.model.metadata_props}
    assert props["normsurgery.verb"] == "finetune"


def test_a_seed_gives_the_same_bytes_and_another_one_others() -> None:
    first, second, other = (
        finetune(RESNET, digits(), seed=seed, fold=False).model for seed in (1, 1, 2)
    )
    assert first == second
    assert changed(first, other)


def test_converted_weights_have_the_norm_and_so_the_step_size_of_their_source() -> None:
    """In front of a norm, a step of SGD changes W by a share that goes with 1/‖W‖²."""
    source = to_module(RESNET)
    converted = normsurgery.convert(RESNET)
    module = to_module(converted.model)
    old, new = (dict(m.named_parameters()) for m in (source, module))
    kept = [name for name in old if old[name].dim() == 4 and f"{name}_folded" in new]
    assert len(kept) == len(converted.report.converted) == 11
    for name in kept:
        norms = [
            float(p[key].detach().double().norm())
            for p, key in ((old, name), (new, f"{name}_folded"))
        ]
        assert norms[1] == pytest.approx(norms[0], rel=1e-6)


def test_a_converted_model_learns_and_keeps_its_graph() -> None:
    converted = normsurgery.convert(SAMPLES / "digits_mobilenet.onnx").model
    result = finetune(
        converted, digits(limit=200), val=digits("test", None), lr=3e-3, clip=1.0, fold=False
    )
    assert nodes(result.model) == nodes(converted)
    after = result.report.epochs[0].val
    assert after is not None
    assert after.accuracy is not None
    assert after.accuracy > 0.98
    trivial = [n for n in result.report.frozen if not n.endswith(("scale", "bias"))]
    assert trivial == []


def test_a_dry_run_changes_nothing() -> None:
    before = onnx.load(RESNET)
    result = finetune(before, digits(), dry_run=True, fold=False)
    assert not changed(before, result.model)
    assert result.report.steps == 0


def test_any_loss_and_any_iterable_of_batches() -> None:
    with np.load(DIGITS) as arrays:
        images, labels = arrays["train_images"], arrays["train_labels"]
    items = [
        ({"image": images[i : i + 8]}, torch.from_numpy(labels[i : i + 8])) for i in (0, 8, 16)
    ]

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.multi_margin_loss(outputs, targets)

    report = finetune(grouped(), items, loss=loss, epochs=2).report
    assert report.steps == 6
    assert report.epochs[1].train.loss < report.epochs[0].train.loss
    assert report.epochs[0].train.accuracy is None


def test_regression_by_mse(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    x = random.standard_normal((64, 3)).astype(np.float32)
    np.savez(tmp_path / "train.npz", x=x, targets=x @ np.float32([[1], [2], [3]]) - 1)
    line = parse(
        "g (float[N, 3] x) => (float[N, 1] y) { y = Gemm (x, w, b) }",
        w=np.zeros((3, 1), np.float32),
        b=np.zeros(1, np.float32),
    )
    model = finetune(line, tmp_path / "train.npz", loss="mse", epochs=20, lr=0.02, fold=False).model
    np.testing.assert_allclose(tensors(model)["w"][:, 0], [1, 2, 3], atol=1e-3)
    np.testing.assert_allclose(tensors(model)["b"], [-1], atol=1e-3)


def test_a_model_that_ends_in_softmax_learns_what_its_scores_would() -> None:
    plain, ending = grouped(), grouped()
    ending.graph.node[-1].output[0] = "logits"
    ending.graph.node.append(onnx.helper.make_node("Softmax", ["logits"], ["scores"], axis=1))
    first, second = (tensors(finetune(m, digits(), fold=False).model) for m in (plain, ending))
    for name in first:
        np.testing.assert_allclose(first[name], second[name], rtol=1e-4, atol=1e-6)


def test_sixteen_bit_weights_are_trained_in_32_and_rounded_once() -> None:
    wide, narrow = grouped(), grouped()
    for model in (wide, narrow):  # the same values in both
        for tensor in model.graph.initializer:
            array = numpy_helper.to_array(tensor)
            if array.dtype == np.float32:
                held = array.astype(np.float16)
                kept = held if model is narrow else held.astype(np.float32)
                tensor.CopyFrom(numpy_helper.from_array(kept, tensor.name))
    for value in (narrow.graph.input[0], narrow.graph.output[0]):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    images, labels = digits().feeds(slice(0, 8))["image"], digits().targets(slice(0, 8))
    images = images.astype(np.float16).astype(np.float32)
    first = tensors(finetune(wide, [(images, labels)] * 4, fold=False).model)
    second = tensors(finetune(narrow, [(images, labels)] * 4, fold=False).model)
    for name, array in first.items():
        if array.dtype == np.float32:
            assert second[name].tobytes() == array.astype(np.float16).tobytes(), name


def test_autocast_keeps_the_weights_in_float32() -> None:
    report = finetune(grouped(), digits(limit=20), precision="float32").report
    result = finetune(grouped(), digits(limit=20), precision="bf16", fold=False)
    assert (report.bf16, result.report.bf16) == (False, True)
    assert {a.dtype.name for a in tensors(result.model).values()} == {"float32", "int64"}
    loss = result.report.epochs[0].train.loss
    assert loss == pytest.approx(report.epochs[0].train.loss, rel=0.05)
    assert loss != report.epochs[0].train.loss


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"epochs": 0}, "0 epochs train nothing"),
        ({"batch_size": 0}, "a batch of 0 samples"),
        ({"clip": 0.0}, "clipping at 0"),
        ({"threads": 0}, "0 threads"),
        ({"norms": "frozen"}, "no BatchNormalization in the model"),
        ({"norms": "thawed"}, "train or frozen, not 'thawed'"),
        ({"loss": "hinge"}, "there is no loss 'hinge'"),
        ({"optimizer": "lion"}, "there is no optimizer"),
        ({"schedule": "step"}, "there is no schedule"),
        ({"precision": "fp8"}, "there is no precision"),
        ({"device": "tpu"}, "there is no device|not supported"),
        ({"output": "logits"}, "the model has no output 'logits'; it has scores"),
        ({"resume": True}, "nothing to resume from"),
        ({"freeze": ["*"]}, "every parameter is frozen"),
        ({"checkpoint_every": -1}, "a checkpoint every -1 steps"),
        ({"seed": -1}, "the seed -1 is below 0"),
        ({"seed": 1 << 64}, "more than 62 bits"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], what: str) -> None:
    with pytest.raises(UsageError, match=what):
        finetune(grouped(), digits(), **settings)


@pytest.mark.parametrize(
    ("threads", "batch_size", "expected"),
    [(None, 1023, 1), (None, 1024, 3), (2, 1023, 2), (1, 1024, 1)],  # an image has 64 numbers
)
def test_small_batches_take_one_thread_and_torch_gets_its_own_back(
    threads: int | None, batch_size: int, expected: int
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with cores.limited(threads, digits(limit=2), batch_size) as found:
            assert (found, torch.get_num_threads()) == (expected, expected)
        assert torch.get_num_threads() == 3
        with cores.limited(None, [], 1) as found:  # of what is not known, nothing is
            assert found == 3
    finally:
        torch.set_num_threads(before)


def test_gradients_are_clipped_unless_asked_not_to() -> None:
    clipped = finetune(grouped(), digits(limit=20), lr=1e-2, fold=False)
    asked = finetune(grouped(), digits(limit=20), lr=1e-2, clip=1.0, fold=False)
    free = finetune(grouped(), digits(limit=20), lr=1e-2, clip=None, fold=False)
    tight = finetune(grouped(), digits(limit=20), lr=1e-2, clip=1e-4, fold=False)
    assert tensors(clipped.model).keys() == tensors(free.model).keys()
    assert not changed(clipped.model, asked.model)
    assert changed(tight.model, free.model)


def test_labels_beyond_the_classes_are_said_before_the_first_step(tmp_path: Path) -> None:
    images = np.zeros((4, 1, 8, 8), np.float32)
    np.savez(tmp_path / "bad.npz", images=images, labels=np.array([0, 1, 10, 2]))
    with pytest.raises(UsageError, match=r"label 10 is in the data, but .* classes 0 to 9"):
        finetune(grouped(), tmp_path / "bad.npz", batch_size=4)
    np.savez(tmp_path / "none.npz", images=images)
    with pytest.raises(UsageError, match="no labels"):
        finetune(grouped(), tmp_path / "none.npz")


def test_a_checkpoint_in_the_way_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "c").write_bytes(b"precious")
    with pytest.raises(OutputExistsError, match="--resume goes on from it"):
        finetune(grouped(), digits(), checkpoint=tmp_path / "c")
    assert (tmp_path / "c").read_bytes() == b"precious"


def test_more_epochs_of_a_constant_rate_go_on_where_the_first_ended(tmp_path: Path) -> None:
    usual: dict[str, Any] = {"schedule": "constant", "fold": False, "optimizer": "adamw"}
    whole = finetune(grouped(), digits(), epochs=3, **usual)
    finetune(grouped(), digits(), epochs=1, checkpoint=tmp_path, **usual)
    more = finetune(grouped(), digits(), epochs=3, checkpoint=tmp_path, resume=True, **usual)
    assert more.report.resumed_at == 30
    assert more.model == whole.model


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    finetune(grouped(), digits(), checkpoint=tmp_path)
    with pytest.raises(UsageError, match="that run had model = "):
        finetune(RESNET, digits(), checkpoint=tmp_path, resume=True)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_it_trains_where_the_caller_has_gradients_off(context: Any) -> None:
    with context():
        report = finetune(grouped(), digits(limit=4)).report
    assert report.steps == 2


@pytest.mark.parametrize(
    "loss", [lambda _y, _t: 3.0, lambda y, _t: y.sum(1), lambda _y, _t: torch.ones(())]
)
def test_a_loss_that_is_none_is_said(loss: Any) -> None:
    with pytest.raises(UsageError, match="no tensor of one number"):
        finetune(grouped(), digits(limit=4), loss=loss)
