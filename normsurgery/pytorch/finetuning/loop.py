"""The training loop: any module, any source of batches, any loss."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from normsurgery.errors import DivergedError, UsageError
from normsurgery.pytorch.finetuning import batches, checkpoints, processes
from normsurgery.pytorch.finetuning.progress import Epoch, Moment, Progress, Score, Totals

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor, nn
    from torch.optim import Optimizer

    from normsurgery.pytorch.finetuning.batches import Batch, Source
    from normsurgery.pytorch.finetuning.losses import Loss
    from normsurgery.pytorch.finetuning.processes import World

CANNOT_RUN = (RuntimeError, ValueError, TypeError, IndexError, KeyError)


@dataclass(frozen=True)
class Run:
    """All that a run needs; what a checkpoint must be resumed with is in ``settings``.

    factor: of the learning rate, by step. clip: largest norm of all gradients together. bf16: run
    the forward pass under autocast. save_every: steps between checkpoints; one is written at the
    end of each epoch besides.
    """

    module: nn.Module
    optimizer: Optimizer
    loss: Loss
    source: Source
    place: World
    epochs: int
    factor: Callable[[int], float]
    val: Source | None = None
    clip: float | None = None
    bf16: bool = False
    file: Path | None = None
    save_every: int = 0
    steps: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    notify: Callable[[Moment], None] | None = None


def train(run: Run, *, resume: bool = False) -> Progress:
    """Train ``run.module`` in place to the end of the last epoch; return what was seen.

    resume: go on from ``run.file`` if it is there. With the same settings and batches the weights
    end up the same as without the interruption, to the bit on a CPU with the same threads.

    Raises ``DivergedError`` when the loss is no longer finite; the last checkpoint stays. Raises
    ``UsageError`` if the module or the loss cannot take the batches, or they are not finite.
    """
    progress, epoch_random = Progress(), None
    if resume and run.file is not None and run.file.exists():
        progress, epoch_random = _resume(run, run.file)
    rates = [group["lr"] for group in run.optimizer.param_groups]
    wrapped = run.place.wrap(run.module)
    while progress.epoch < run.epochs:
        run.module.train()
        if progress.position == 0 or epoch_random is None:
            epoch_random = processes.randoms(run.place)
            items = run.source(progress.epoch, 0)
        else:  # the batches' order may come from torch's generator: draw it again, then go on
            here = processes.randoms(run.place)
            processes.set_randoms(run.place, epoch_random)
            items = run.source(progress.epoch, progress.position * run.place.size)
            processes.set_randoms(run.place, here)
        for batch in batches.shared(items, run.place.rank, run.place.size):
            for group, rate in zip(run.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * run.factor(progress.step)
            _step(run, wrapped, batch, progress)
            if run.save_every and progress.step % run.save_every == 0:
                _save(run, progress, epoch_random)
            if run.notify is not None and run.place.first:
                where = (progress.step, run.steps, progress.epoch)
                run.notify(Moment(*where, progress.totals.mean()))
        if progress.position == 0:
            raise UsageError(f"epoch {progress.epoch + 1} had no batch to train on")
        sums = Totals(*run.place.total(list(asdict(progress.totals).values())))
        seen = evaluate(run, run.val) if run.val is not None and run.place.first else None
        progress.history.append(Epoch(sums.mean(), seen))
        progress.epoch, progress.position, progress.totals = progress.epoch + 1, 0, Totals()
        _save(run, progress, epoch_random)
    return progress


def check(run: Run) -> Progress:
    """Run the first batch forward, and raise what training on it would; nothing is changed."""
    run.module.eval()
    batch = next(batches.shared(run.source(0, 0), 0, 1), None)
    if batch is None:
        raise UsageError("there is no batch to train on")
    with torch.no_grad():
        run.loss.function(*_forward(run, run.module, batch))
    return Progress()


def evaluate(run: Run, source: Source) -> Score:
    """Return the mean loss and the accuracy over a source, in eval mode, without gradients."""
    run.module.eval()
    totals = Totals()
    with torch.no_grad():
        for batch in batches.shared(source(0, 0), 0, 1):
            outputs, targets = _forward(run, run.module, batch)
            right = run.loss.right(outputs, targets) if run.loss.right else (0, 0)
            totals.add(float(run.loss.function(outputs, targets)), batch.size, right)
    return totals.mean()


def _step(run: Run, module: nn.Module, batch: Batch, progress: Progress) -> None:
    run.optimizer.zero_grad(set_to_none=True)
    outputs, targets = _forward(run, module, batch)
    loss = run.loss.function(outputs, targets)
    if not (isinstance(loss, torch.Tensor) and loss.numel() == 1 and loss.requires_grad):
        raise UsageError("the loss is no tensor of one number that depends on trained weights")
    value = float(loss.detach())
    if not math.isfinite(value):
        if not (batches.finite(batch.inputs) and batches.finite(batch.targets)):
            raise UsageError(
                f"the loss is {value} at step {progress.step + 1}, and that batch of the data "
                "holds numbers that are not finite; leave such samples out"
            )
        also = " or set --clip 1" if run.clip is None else ""
        raise DivergedError(f"the loss is {value} at step {progress.step + 1}; lower --lr{also}")
    torch.autograd.backward(loss * batch.weight if run.place.size > 1 else loss)
    if run.clip is not None:
        parameters = [p for group in run.optimizer.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, run.clip)
    run.optimizer.step()
    right = (0, 0)
    if run.loss.right is not None and batch.size:
        with torch.no_grad():
            right = run.loss.right(outputs, targets)
    progress.totals.add(value, batch.size, right)
    progress.step += 1
    progress.position += 1


def _forward(run: Run, module: nn.Module, batch: Batch) -> tuple[Any, Any]:
    device = run.place.device
    inputs, targets = batches.to(batch.inputs, device), batches.to(batch.targets, device)
    with torch.autocast(device.type, torch.bfloat16, enabled=run.bf16):
        try:
            outputs = module(**inputs) if isinstance(inputs, dict) else module(*inputs)
        except CANNOT_RUN as error:
            if processes.lost(error):
                raise
            where = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
            raise UsageError(f"the model cannot run this batch: {error}{where}") from error
    return outputs, targets


def _save(run: Run, progress: Progress, epoch_random: dict[str, Tensor]) -> None:
    if run.file is None:
        return
    own = {"now": processes.randoms(run.place), "epoch": epoch_random}
    totals = run.place.gathered(asdict(progress.totals))
    states = run.place.gathered(own)
    if run.place.first:
        randoms = {
            f"{rank}/{when}/{device}": state
            for rank, whens in enumerate(states)
            for when, devices in whens.items()
            for device, state in devices.items()
        }
        plain = {**asdict(progress), "totals": totals}
        checkpoints.write(run.file, run.module, run.optimizer, randoms, plain, run.settings)


def _resume(run: Run, file: Path) -> tuple[Progress, dict[str, Tensor] | None]:
    tensors, held = checkpoints.read(file, run.settings)
    checkpoints.restore(run.module, run.optimizer, tensors, held["scalars"])
    plain, start = held["progress"], f"random/{run.place.rank}/"
    states: dict[str, dict[str, Tensor]] = {"now": {}, "epoch": {}}
    for name, value in tensors.items():
        if name.startswith(start):
            when, device = name.removeprefix(start).split("/")
            states[when][device] = value
    processes.set_randoms(run.place, states["now"])
    return Progress.of({**plain, "totals": plain["totals"][run.place.rank]}), states["epoch"]
