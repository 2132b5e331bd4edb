"""``normsurgery.pytorch.finetune`` on the sample models and on small graphs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from graphs import parse, weights
from onnx import ModelProto, numpy_helper

import normsurgery
from normsurgery import data, runtime
from normsurgery.errors import OutputExistsError, UsageError
from normsurgery.pytorch import FinetuneResult, finetune, to_module
from normsurgery.pytorch.finetuning import cores

SAMPLES = Path(__file__).parents[2] / "sample_models"
RESNET, DIGITS = SAMPLES / "digits_resnet.onnx", SAMPLES / "digits.npz"
GROUPED = """g (float[N, 1, 8, 8] image) => (float[N, 10] scores) {
  c = Conv <pads = [1, 1, 1, 1]> (image, conv_weight)
  cut = Reshape (c, to_groups)
  plain = InstanceNormalization <epsilon = 1e-3> (cut, ones, zeros)
  shape = Shape (c)
  back = Reshape (plain, shape)
  scaled = Mul (back, gn_scale)
  normal = Add (scaled, gn_bias)
  r = Relu (normal)
  flat = Flatten (r)
  scores = Gemm <transB = 1> (flat, fc_weight, fc_bias)
}"""


def grouped() -> ModelProto:
    """Return a small network with a GroupNorm of 2 groups, written as convert writes it."""
    ones = np.ones((4, 1, 1), np.float32)
    return parse(
        GROUPED,
        conv_weight=weights(4, 1, 3, 3, dtype=np.float32),
        to_groups=np.array([0, 2, -1]),
        ones=np.ones(2, np.float32),
        zeros=np.zeros(2, np.float32),
        gn_scale=ones,
        gn_bias=0.1 * ones,
        fc_weight=0.05 * weights(10, 256, dtype=np.float32),
        fc_bias=np.zeros(10, np.float32),
    )


def digits(part: str = "train", limit: int | None = 60) -> data.Data:
    inputs = data.inputs_of(onnx.load(RESNET, load_external_data=False))
    return data.read(f"{DIGITS}:{part}", inputs, limit=limit)


def tensors(model: ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def changed(before: ModelProto, after: ModelProto) -> set[str]:
    old, new = tensors(before), tensors(after)
    assert old.keys() <= new.keys()
    return {name for name in old if old[name].tobytes() != new[name].tobytes()}


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


def test_frozen_norms_keep_statistics_scale_and_bias() -> None:
    before = onnx.load(RESNET)
    after = finetune(before, digits(), norms="frozen", fold=False).model
    norms = [n for n in before.graph.node if n.op_type == "BatchNormalization"]
    held = {name for n in norms for name in n.input[1:]}
    assert not changed(before, after) & held
    live = finetune(before, digits(), fold=False).model
    assert {name for n in norms for name in n.input[3:]} <= changed(before, live)


WITH_FUNCTION = """<ir_version: 10, opset_import: ["": 20, "own": 1]>
g (float[N, 1, 8, 8] image) => (float[N, 10] scores) {
  c = Conv (image, W)
  n = own.Norm (c, scale, B, mean, var)
  f = Flatten (n)
  scores = Gemm (f, fc)
}
<domain: "own", opset_import: ["": 20]>
Norm (x, s, b, m, v) => (y) { y = BatchNormalization (x, s, b, m, v) }"""


def test_norms_in_functions_freeze_too() -> None:
    model = onnx.parser.parse_model(WITH_FUNCTION)
    values = {
        "W": weights(3, 1, 3, 3),
        "scale": np.ones(3),
        "B": np.zeros(3),
        "mean": np.full(3, 0.1),
        "var": np.full(3, 2.0),
        "fc": 0.1 * weights(108, 10),
    }
    model.graph.initializer.extend(
        numpy_helper.from_array(v.astype(np.float32), name) for name, v in values.items()
    )
    live = finetune(model, digits(limit=20), fold=False).model
    assert changed(model, live) == {"W", "scale", "B", "mean", "var", "fc"}
    frozen = finetune(model, digits(limit=20), norms="frozen", fold=False).model
    assert changed(model, frozen) == {"W", "fc"}


def test_frozen_weights_stay_to_the_bit() -> None:
    before = grouped()
    result = finetune(before, digits(), freeze=["conv*", "fc_bias"], fold=False)
    assert changed(before, result.model) == {"gn_scale", "gn_bias", "fc_weight"}
    assert result.report.trained == ["gn_scale", "gn_bias", "fc_weight"]
    with pytest.raises(UsageError, match=r"--freeze 'cnov\*' matches no parameter"):
        finetune(before, digits(), freeze=["cnov*"])


def test_the_ones_and_zeros_of_a_group_norm_are_no_parameters() -> None:
    before = grouped()
    result = finetune(before, digits(), fold=False)
    assert changed(before, result.model) == {
        "conv_weight",
        "gn_scale",
        "gn_bias",
        "fc_weight",
        "fc_bias",
    }
    assert result.report.frozen == ["ones", "zeros"]


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


def test_a_batch_norm_in_front_of_another_norm_is_a_fixed_map() -> None:
    converted = normsurgery.convert(RESNET, affine="keep").model
    before = [n for n in converted.graph.node if n.op_type == "BatchNormalization"]
    assert len(before) == 11
    result = finetune(converted, digits(limit=20), fold=False)
    assert not changed(converted, result.model) & {x for n in before for x in n.input[1:]}


def test_live_statistics_of_few_samples_are_warned_about() -> None:
    def warned(model: Any, samples: Any = None, **settings: Any) -> list[bool]:
        report = finetune(model, samples or digits(), dry_run=True, **settings).report
        return ["11 BatchNormalization take their statistics" in text for text in report.warnings]

    assert warned(RESNET) == [True]
    assert warned(RESNET, batch_size=15) == [True]
    assert warned(RESNET, batch_size=16) == []
    assert warned(RESNET, norms="frozen") == []
    assert warned(RESNET, [(np.zeros((2, 1, 8, 8), np.float32), np.zeros(2, int))]) == []
    assert warned(normsurgery.convert(RESNET).model) == []
    assert warned(normsurgery.convert(RESNET, affine="keep").model) == []


def test_a_model_without_norms_is_warned_about() -> None:
    result = finetune(SAMPLES / "digits_resnet_folded.onnx", digits(), dry_run=True)
    assert ["unfold" in warning for warning in result.report.warnings] == [True]


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


def test_a_world_size_without_torchrun_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("MASTER_ADDR", "MASTER_PORT", "RANK"):
        monkeypatch.delenv(variable, raising=False)
    for size, what in (("2", "start them with torchrun"), ("two", "'two', which is no number")):
        monkeypatch.setenv("WORLD_SIZE", size)
        with pytest.raises(UsageError, match=what):
            finetune(grouped(), digits())


TWO = """
import os, sys
from pathlib import Path
import onnx
sys.path[:0] = {paths!r}
from test_finetune import digits, grouped
from normsurgery.pytorch import finetune

result = finetune(grouped(), digits(limit=61), batch_size={size}, epochs=2, lr=0.01, device="cpu")
if result.report.writes:
    onnx.save(result.model, {out!r})
    assert result.report.processes == 2
    print(result.report.epochs[-1].train.loss)
"""


def test_two_processes_do_the_steps_of_one_with_the_double_batch(tmp_path: Path) -> None:
    """61 samples in batches of 4 and 2×2: the last group is 1 sample and none."""
    out, script = tmp_path / "two.onnx", tmp_path / "two.py"
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    script.write_text(TWO.format(paths=paths, size=2, out=str(out)))
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    done = subprocess.run(
        [sys.executable, *launcher, str(script)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    one: FinetuneResult = finetune(grouped(), digits(limit=61), batch_size=4, epochs=2, lr=0.01)
    before, two = tensors(grouped()), tensors(onnx.load(out))
    for name, array in tensors(one.model).items():
        if array.dtype == np.float32:
            moved = np.abs(array - before[name]).max()
            assert np.abs(two[name] - array).max() <= 1e-4 * max(moved, 1e-3), name
    assert float(done.stdout.split()[-1]) == pytest.approx(
        one.report.epochs[-1].train.loss, rel=1e-4
    )


def test_weight_decay_spares_scales_of_more_axes() -> None:
    """One step of plain SGD: w − lr·(g + λ·w), and w − lr·g for GroupNorm's (C, 1, 1)."""
    batch = [(np.random.default_rng(0).random((4, 1, 8, 8), np.float32), np.arange(4))]
    usual: dict[str, Any] = {"momentum": 0.0, "lr": 0.5, "clip": None, "schedule": "constant"}
    plain = tensors(finetune(grouped(), batch, **usual, fold=False).model)
    decayed = tensors(finetune(grouped(), batch, **usual, weight_decay=0.25, fold=False).model)
    before = tensors(grouped())
    for name in ("gn_scale", "gn_bias", "fc_bias"):
        assert (plain[name] != before[name]).any()
        np.testing.assert_array_equal(decayed[name], plain[name])
    for name in ("conv_weight", "fc_weight"):
        expected = plain[name] - 0.5 * 0.25 * before[name]
        np.testing.assert_allclose(decayed[name], expected, rtol=0, atol=1e-6)


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


BROKEN = """
import sys
sys.path[:0] = {paths!r}
import numpy as np
from test_finetune import grouped
from normsurgery.errors import NormSurgeryError
from normsurgery.pytorch import finetune

images = np.ones((4, 1, 8, 8), np.float32)
bad = images.copy()
bad[2] = np.nan
labels = np.zeros(4, np.int64)
batches = [(images, labels)] * 5 + [(bad, labels)] + [(images, labels)] * 4  # the second one's
try:
    finetune(grouped(), batches, device="cpu")
except NormSurgeryError as error:
    sys.stdout.write(str(error) + chr(10))
    sys.stdout.flush()
    sys.exit(error.exit_status)
"""


def test_a_process_whose_peer_stopped_says_so(tmp_path: Path) -> None:
    script = tmp_path / "broken.py"
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    script.write_text(BROKEN.format(paths=paths))
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    done = subprocess.run(
        [sys.executable, *launcher, str(script)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    said = sorted(line for line in done.stdout.splitlines() if line)
    assert said[-1].startswith("the loss is nan at step 3, and that batch of the data holds")
    # the launcher may stop the other one before it says anything
    assert all(line.startswith("another of the processes stopped") for line in said[:-1])
    assert "Traceback" not in done.stderr.split("ChildFailedError")[0].split("failed (exitcode")[0]
