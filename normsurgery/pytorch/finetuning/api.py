"""``normsurgery.pytorch.finetune``: ONNX in, trained ONNX out."""

from __future__ import annotations

import contextlib
import time
from os import PathLike
from typing import TYPE_CHECKING, Any

import torch

from normsurgery import data as datasets
from normsurgery import folding, io, models
from normsurgery.errors import OutputExistsError, UsageError
from normsurgery.pytorch.finetuning import (
    checkpoints,
    cores,
    feeding,
    losses,
    optimizers,
    processes,
    selecting,
)
from normsurgery.pytorch.finetuning.loop import Run, check, evaluate, train
from normsurgery.pytorch.finetuning.result import FinetuneReport, FinetuneResult
from normsurgery.pytorch.interpreter import to_module, update_weights
from normsurgery.source import sha256

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from onnx import ModelProto
    from torch import Tensor, nn

    from normsurgery.graph import Graph
    from normsurgery.pytorch.finetuning.feeding import Samples
    from normsurgery.pytorch.finetuning.processes import World
    from normsurgery.pytorch.finetuning.progress import Moment
    from normsurgery.pytorch.interpreter import GraphModule

    LossFunction = Callable[[Any, Any], Tensor]

SIXTEEN_BIT = (torch.float16, torch.bfloat16)


@torch.inference_mode(mode=False)
@torch.enable_grad()
def finetune(
    model: str | os.PathLike[str] | ModelProto | Any,
    data: Samples,
    *,
    val: Samples | None = None,
    loss: str | LossFunction = "cross-entropy",
    output: str | None = None,
    epochs: int = 1,
    batch_size: int = 2,
    optimizer: str | Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] = "sgd",
    lr: float = 1e-3,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    schedule: str = "cosine",
    warmup: int = 0,
    clip: float | None = 1.0,
    freeze: Sequence[str] = (),
    norms: str = "train",
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    precision: str = "auto",
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 500,
    resume: bool = False,
    fold: bool = True,
    dry_run: bool = False,
    notify: Callable[[Moment], None] | None = None,
) -> FinetuneResult:
    """Train the weights of an ONNX model and return the same graph with new ones.

    model: a path, an ``onnx.ModelProto`` or an ``onnx_ir.Model``; it is never changed.
    data: what ``normsurgery.data.read`` takes or gives, with labels, in an order drawn by ``seed``;
    or any iterable of batches (inputs, targets): inputs an array or tensor, a tuple in the order of
    the model's inputs, or a mapping by name. It is gone through once an epoch.
    val: likewise, never shuffled: loss and accuracy before the first epoch and after each.
    loss: ``cross-entropy`` of labels 0…C−1 (of probabilities where the model ends in a Softmax),
    ``mse``, or a function (outputs, targets) → scalar tensor, the mean over the batch.
    output: the output that the loss is of, where the model has several; a function that is given
    no ``output`` gets them all as a tuple.
    optimizer: ``sgd``, ``adamw``, or a function of the parameters. schedule: ``cosine`` to 0 at the
    last step, or ``constant``, each after ``warmup`` steps of linear rise.
    clip: the largest norm that all gradients together may have; None for any. Batches of two have
    gradients a hundred times their median now and then, which end a run without it.
    freeze: globs of initializer names that are not trained.
    norms: ``train``, or ``frozen``: every BatchNormalization keeps its statistics, scale and bias.
    device: ``auto``, ``cpu``, ``cuda``. threads: of a step on the CPU; by default one for batches
    of known data under ``cores.SMALL`` numbers, else torch's own.
    precision: ``float32``, ``bf16`` (autocast; the weights stay float32), or ``auto``: bf16 on a
    GPU that has it. 16-bit weights are trained in float32 and rounded at the end.
    checkpoint: a file, or a folder for one, written every ``checkpoint_every`` steps and after
    each epoch. resume: go on from it if it is there; on one CPU with the same threads the result is
    the same to the bit as without the interruption.
    fold: fold what is left to fold of the trained model.
    dry_run: run the first batch forward and train nothing; no checkpoint is read or written.
    notify: called after each step, in the first process.

    Started by ``torchrun``, every process takes its batch of each ``WORLD_SIZE`` in a row, so n
    processes with ``batch_size`` b do the steps of one with n·b; all return the same weights, and
    ``report.writes`` is True in the one that should save them.

    Raises ``UsageError`` for settings or data that do not fit, ``DivergedError`` when the loss is
    not finite though the data are, ``OutputExistsError`` for a checkpoint that is there without
    ``resume``, ``ModelIOError`` where another process is gone, and what ``to_module`` and
    ``normsurgery.fold`` raise.
    """
    if epochs < 1:
        raise UsageError(f"{epochs} epochs train nothing; --epochs is 1 or more")
    if clip is not None and not clip > 0:
        raise UsageError(f"clipping at {clip} stops all training; give a norm above 0, or None")
    if threads is not None and threads < 1:
        raise UsageError(f"{threads} threads compute nothing; --threads is 1 or more")
    if not 0 <= seed < 1 << 62:
        raise UsageError(f"the seed {seed} is below 0 or has more than 62 bits")
    if checkpoint_every < 0:
        raise UsageError(f"a checkpoint every {checkpoint_every} steps is none; 0 is: each epoch")
    content, form = models.take(model)
    hashed = sha256(content.source) if content.source is not None else str
    module = to_module(content)
    graph = selecting.flat(content)
    report = FinetuneReport()
    parameters = _parameters(module)
    fixed, live = selecting.hold(module, graph, norms)
    known = batch_size if isinstance(data, (str, PathLike, datasets.Data)) else None
    report.warnings = selecting.warnings(graph, live, known)
    report.trained = selecting.freeze(parameters, freeze, fixed)
    report.frozen = sorted({*parameters} - {*report.trained})
    if any(p.dtype in SIXTEEN_BIT for p in parameters.values()):
        module.float()
    file = _checkpoint(checkpoint, resume=resume)
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(processes.world(device))
        stack.enter_context(processes.seeded(seed, place))
        report.device, report.processes, report.writes = str(place.device), place.size, place.first
        report.bf16 = _bf16(precision, place)
        module.to(place.device)
        inputs = datasets.inputs_of(content.proto)
        data = datasets.read(data, inputs) if isinstance(data, (str, PathLike)) else data
        report.threads = stack.enter_context(cores.limited(threads, data, batch_size))
        source, batch_count = feeding.training(data, epochs, batch_size, seed)
        steps = None if batch_count is None else epochs * -(-batch_count // place.size)
        spared = selecting.scales(graph)
        made = optimizers.make(
            optimizer,
            [parameters[name] for name in report.trained],
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            scales=[parameters[name] for name in report.trained if name in spared],
        )
        chosen = _loss(loss, module, graph, output)
        run = Run(
            module,
            made,
            chosen,
            source,
            place,
            epochs,
            optimizers.schedule(schedule, steps, warmup),
            val=None if val is None else feeding.validation(val, inputs, epochs),
            clip=clip,
            bf16=report.bf16,
            file=file,
            save_every=checkpoint_every,
            steps=steps,
            notify=notify,
            settings={
                "model": hashed(),
                "loss": chosen.name,
                "output": output,
                "optimizer": optimizer if isinstance(optimizer, str) else type(made).__name__,
                "lr": lr,
                "momentum": momentum,
                "weight_decay": weight_decay,
                "schedule": schedule,
                "warmup": warmup,
                "clip": clip,
                "trained": report.trained,
                "norms": norms,
                "seed": seed,
                "batch_size": batch_size,
                "batches": batch_count,
                "epochs": epochs if schedule == "cosine" else None,  # more may be added
                "processes": place.size,
                "bf16": report.bf16,
            },
        )
        if run.val is not None and place.first:
            report.before = evaluate(run, run.val)
        started = time.perf_counter()
        progress = check(run) if dry_run else train(run, resume=resume)
        report.seconds = time.perf_counter() - started
    report.epochs, report.steps = progress.history, progress.step
    report.resumed_at = progress.resumed_at
    tuned, result = _finished(content, module, report, fold=fold)
    for one in (tuned, result):
        models.stamp(one, "finetune", hashed)
    return FinetuneResult(result, form, report, tuned)


def _parameters(module: GraphModule) -> dict[str, nn.Parameter]:
    """Return the module's parameters by their names in the graph."""
    own = dict(module.named_parameters())
    return {name: own[key] for name, key in module.names.items() if key in own}


def _checkpoint(path: str | os.PathLike[str] | None, *, resume: bool) -> Path | None:
    if path is None:
        if resume:
            raise UsageError("nothing to resume from; say where the checkpoint is (--checkpoint)")
        return None
    file = checkpoints.file_of(path)
    if file.exists() and not resume:
        raise OutputExistsError(f"{file} exists; --resume goes on from it, or remove it")
    return file


def _loss(
    loss: str | LossFunction, module: GraphModule, graph: Graph, output: str | None
) -> losses.Loss:
    """Return the loss, of one output where there are several."""
    names = module.output_names
    if output is not None and output not in names:
        raise UsageError(f"the model has no output {output!r}; it has {', '.join(names)}")
    if output is None and len(names) > 1 and not callable(loss):
        raise UsageError(f"the model has outputs {', '.join(names)}; say which with --output")
    one = output if output is not None else names[0]
    chosen = losses.named(loss, probabilities=selecting.last_softmax(graph, one))
    return losses.of_one(chosen, names.index(one)) if output and len(names) > 1 else chosen


def _bf16(precision: str, place: World) -> bool:
    if precision not in {"auto", "float32", "bf16"}:
        raise UsageError(f"there is no precision {precision!r}; choose auto, float32 or bf16")
    if precision == "auto":
        return place.device.type == "cuda" and torch.cuda.is_bf16_supported()
    return precision == "bf16"


def _finished(
    content: io.Model, module: GraphModule, report: FinetuneReport, *, fold: bool
) -> tuple[io.Model, io.Model]:
    """Return the graph with the trained weights, and the same with nothing left to fold."""
    tuned = update_weights(content, module).content
    if not fold:
        return tuned, tuned
    folded = folding.fold(tuned)
    report.fold = folded.report
    return tuned, folded.content
