"""The training loop on hand-written modules: what it computes; stopping changes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

from normsurgery.errors import DivergedError, ModelIOError, UsageError
from normsurgery.pytorch.finetuning import batches, checkpoints, losses, optimizers, processes
from normsurgery.pytorch.finetuning.loop import Run, evaluate, train
from normsurgery.pytorch.finetuning.progress import Moment, Score

CPU = processes.World(torch.device("cpu"))
Images = tuple[np.ndarray, np.ndarray]


class Interrupt(BaseException):
    """Stops a run as a signal would."""


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Flatten(),
        nn.Linear(4 * 36, 3),
    )


def samples(count: int = 22) -> Images:
    random = np.random.default_rng(0)
    images = random.standard_normal((count, 1, 8, 8)).astype(np.float32)
    return images, random.integers(0, 3, count)


def source(batch_size: int = 4, seed: int = 5, count: int = 22) -> batches.Source:
    images, labels = samples(count)
    return batches.shuffled(count, batch_size, seed, lambda i: (images[i], labels[i]))


def run(module: nn.Module, kind: str = "sgd", **changes: Any) -> Run:
    made = optimizers.make(
        kind, list(module.parameters()), lr=0.05, momentum=0.9, weight_decay=0.01
    )
    usual = Run(
        module,
        made,
        losses.named("cross-entropy"),
        source(),
        CPU,
        epochs=2,
        factor=optimizers.schedule("cosine", 12, 2),
    )
    return replace(usual, **changes)


def weights(module: nn.Module) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in module.state_dict().items()}


def trained(optimizer: str = "sgd", **changes: Any) -> dict[str, bytes]:
    module = network()
    with processes.seeded(1, CPU):
        train(run(module, optimizer, **changes))
    return weights(module)


def test_a_step_is_that_of_plain_torch() -> None:
    module, images = network(), samples(4)
    module[3] = nn.Identity()
    order = np.random.default_rng([5, 0]).permutation(4)
    plain = network()
    plain[3] = nn.Identity()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.05, momentum=0.9)
    loss = nn.functional.cross_entropy(
        plain(torch.from_numpy(images[0][order])), torch.from_numpy(images[1][order])
    )
    loss.backward()
    optimizer.step()
    own = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
    one = run(
        module,
        optimizer=own,
        source=source(4, count=4),
        epochs=1,
        factor=lambda _: 1.0,
    )
    seen = train(one)
    assert weights(module) == weights(plain)
    assert seen.history[0].train.loss == pytest.approx(float(loss.detach()), rel=1e-12)


def test_same_seed_same_weights_and_another_seed_others() -> None:
    assert trained() == trained()
    assert trained() != trained(source=source(seed=6))


def test_the_caller_s_random_state_is_left_alone() -> None:
    torch.manual_seed(8)
    before = torch.get_rng_state()
    with processes.seeded(1, CPU):
        train(run(network()))
    assert torch.equal(before, torch.get_rng_state())


@dataclass
class Stop:
    """Interrupts after a number of steps."""

    after: int

    def __call__(self, moment: Moment) -> None:
        if moment.step == self.after:
            raise Interrupt


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("after", [1, 3, 6, 7, 11])  # an epoch has 6 steps
def test_an_interrupted_run_ends_as_an_unbroken_one(
    tmp_path: Path, optimizer: str, after: int
) -> None:
    file = tmp_path / "run.safetensors"
    kept = {"file": file, "save_every": 1, "val": source(seed=9)}
    first = network()
    with pytest.raises(Interrupt), processes.seeded(1, CPU):
        train(run(first, optimizer, notify=Stop(after), **kept))
    second = network()
    with processes.seeded(77, CPU):  # what it starts from does not count
        seen = train(run(second, optimizer, **kept), resume=True)
    assert weights(second) == trained(optimizer)
    whole = network()
    with processes.seeded(1, CPU):
        unbroken = train(run(whole, optimizer, val=source(seed=9)))
    assert seen == replace(unbroken, resumed_at=after)


class Loader:
    """Draws its order from torch's own generator, as a DataLoader does."""

    def __iter__(self) -> Iterator[Any]:
        images, labels = samples()
        order = torch.randperm(22).numpy()
        for i in range(0, 22, 4):
            yield images[order[i : i + 4]], labels[order[i : i + 4]]


def test_resuming_draws_the_same_order_from_the_caller_s_loader(tmp_path: Path) -> None:
    one = {"source": batches.repeated(Loader(), 2), "file": tmp_path / "c", "save_every": 1}
    first, module = network(), network()
    with pytest.raises(Interrupt), processes.seeded(1, CPU):
        train(run(first, notify=Stop(9), **one))
    with processes.seeded(77, CPU):
        train(run(module, **one), resume=True)
    assert weights(module) == trained(source=batches.repeated(Loader(), 2))


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    one = {"file": tmp_path / "c"}
    done = trained(**one)
    module, steps = network(), list[Moment]()
    train(run(module, notify=steps.append, **one), resume=True)
    assert weights(module) == done
    assert steps == []


def test_a_checkpoint_of_other_settings_is_refused_by_name(tmp_path: Path) -> None:
    trained(file=tmp_path / "c", settings={"lr": 0.1, "seed": 4})
    with pytest.raises(UsageError, match=r"that run had seed = 4, this one has 5"):
        train(run(network(), file=tmp_path / "c", settings={"lr": 0.1, "seed": 5}), resume=True)


@pytest.mark.parametrize("content", [b"", b"not safetensors", b"\x02\0\0\0\0\0\0\0{}"])
def test_what_is_no_checkpoint_is_said(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c").write_bytes(content)
    with pytest.raises(ModelIOError, match="checkpoint"):
        train(run(network(), file=tmp_path / "c"), resume=True)


def test_a_checkpoint_is_plain_safetensors_with_its_place(tmp_path: Path) -> None:
    trained(file=tmp_path / "c")
    with safe_open(tmp_path / "c", framework="np") as file:
        names = set(file.keys())
        held = json.loads(file.metadata()["normsurgery.finetune"])
    assert {"module/0.weight", "module/1.running_var", "optimizer/5.bias/momentum_buffer"} <= names
    assert held["progress"]["epoch"] == 2
    assert list(tmp_path.iterdir()) == [tmp_path / "c"]


def test_a_folder_gets_a_file_of_a_fixed_name(tmp_path: Path) -> None:
    assert checkpoints.file_of(tmp_path) == tmp_path / "finetune.safetensors"
    assert checkpoints.file_of(tmp_path / "x.safetensors") == tmp_path / "x.safetensors"
    with pytest.raises(ModelIOError, match="folder does not exist"):
        checkpoints.file_of(tmp_path / "none" / "x")


def test_clipping_bounds_the_norm_of_a_step() -> None:
    module = network()
    before = [p.detach().clone() for p in module.parameters()]
    own = torch.optim.SGD(module.parameters(), lr=1.0)
    with processes.seeded(1, CPU):
        train(
            run(module, optimizer=own, clip=0.25, source=source(22), epochs=1, factor=lambda _: 1.0)
        )
    moved = [p.detach() - b for p, b in zip(module.parameters(), before, strict=True)]
    norm = torch.linalg.vector_norm(torch.cat([m.flatten() for m in moved]))
    assert float(norm) == pytest.approx(0.25, rel=1e-4)


def test_a_loss_that_is_not_finite_stops_the_run_with_its_step(tmp_path: Path) -> None:
    module = network()
    own = torch.optim.SGD(module.parameters(), lr=1e30)
    with pytest.raises(
        DivergedError, match=r"the loss is (nan|inf) at step \d+; lower --lr or set --clip 1"
    ):
        train(run(module, optimizer=own, file=tmp_path / "c"))


def test_data_that_are_not_finite_are_blamed_and_not_the_rate() -> None:
    bad = list(Loader())
    bad[2][0][0, 0] = float("inf")
    with pytest.raises(UsageError, match=r"at step 3, and that batch of the data holds numbers"):
        train(run(network(), source=batches.repeated(bad, 1)))


def test_an_iterator_serves_one_epoch_only() -> None:
    once = iter(list(Loader()))
    assert len(list(batches.repeated(once, 1)(0, 0))) == 6
    with pytest.raises(UsageError, match="an iterator, gone after one epoch of 2"):
        batches.repeated(iter([]), 2)


def test_no_batch_at_all_is_said() -> None:
    with pytest.raises(UsageError, match="epoch 1 had no batch"):
        train(run(network(), source=batches.repeated([], 2)))


@pytest.mark.parametrize(
    ("item", "what"),
    [
        (np.zeros((2, 1, 8, 8)), r"a batch is \(inputs, targets\)"),
        ((np.zeros((0, 1, 8, 8)), np.zeros(0)), "a batch without a sample"),
        (((), np.zeros(0)), "a batch without a sample"),
        ((np.zeros((2, 1, 9, 9), np.float32), np.zeros(2, int)), "the model cannot run this batch"),
    ],
)
def test_batches_that_make_no_sense(item: Any, what: str) -> None:
    with pytest.raises(UsageError, match=what):
        train(run(network(), source=batches.repeated([item], 2)))


def test_processes_share_every_group_of_batches_and_weigh_by_samples() -> None:
    def sizes(rank: int) -> list[tuple[int, float]]:
        items = ((np.zeros((n, 1)), np.zeros(n)) for n in (4, 4, 4, 2, 3))
        return [(b.size, b.weight) for b in batches.shared(items, rank, 2)]

    assert sizes(0) == [(4, 1.0), (4, 4 / 3), (3, 2.0)]
    assert sizes(1) == [(4, 1.0), (2, 2 / 3), (0, 0.0)]


def test_schedules_at_their_ends() -> None:
    factor = optimizers.schedule("cosine", 12, 2)
    assert [factor(0), factor(1), factor(2)] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert factor(7) == pytest.approx(0.5)
    assert factor(12) == pytest.approx(0.0)
    assert optimizers.schedule("constant", None, 0)(99) == 1.0
    with pytest.raises(UsageError, match="number of steps"):
        optimizers.schedule("cosine", None, 0)


def test_weight_decay_leaves_scales_and_biases_alone() -> None:
    made = optimizers.make(
        "adamw", list(network().parameters()), lr=1e-3, momentum=0.9, weight_decay=0.1
    )
    groups = [
        (group["weight_decay"], {p.dim() for p in group["params"]}) for group in made.param_groups
    ]
    assert groups == [(0.1, {2, 4}), (0.0, {1})]


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"lr": 0.0}, "learning rate"),
        ({"lr": float("nan")}, "learning rate"),
        ({"momentum": 1.0}, "momentum"),
        ({"weight_decay": -1.0}, "weight decay"),
        ({"optimizer": "lion"}, "there is no optimizer 'lion'"),
        ({"parameters": []}, "every parameter is frozen"),
    ],
)
def test_settings_of_the_optimizer_that_make_no_sense(changes: dict[str, Any], what: str) -> None:
    usual = {"optimizer": "sgd", "parameters": list(network().parameters())}
    with pytest.raises(UsageError, match=what):
        optimizers.make(**{**usual, "lr": 1e-3, "momentum": 0.9, "weight_decay": 0.0, **changes})


def test_accuracy_and_loss_of_a_validation() -> None:
    module = nn.Flatten()
    scores = np.array([[1.0, 0.0], [0.0, 3.0], [0.0, 1.0]], np.float32)
    items = [(scores[:2], np.array([0, 0])), (scores[2:], np.array([1]))]
    one = replace(run(network(), source=batches.repeated(items, 1)), module=module)
    e = np.exp(scores.astype(np.float64))
    p = e / e.sum(1, keepdims=True)
    expected = -np.log([p[0, 0], p[1, 0], p[2, 1]]).mean()
    seen = evaluate(one, one.source)
    assert seen == Score(pytest.approx(expected, rel=1e-6), pytest.approx(2 / 3))
