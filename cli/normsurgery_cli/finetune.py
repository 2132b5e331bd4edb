"""``normsurgery finetune``."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from normsurgery_cli import files, proving, samples

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from normsurgery.pytorch import FinetuneReport, FinetuneResult, Moment
    from normsurgery.validation import Parity


@click.command("finetune")
@click.argument("model")
@click.option("-d", "--data", required=True, help="Training data: .npz, file.npz:train, a folder.")
@click.option("--val", help="Data for loss and accuracy before and after each epoch.")
@click.option("-b", "--batch-size", default=2, show_default=True, type=click.IntRange(1))
@click.option("-e", "--epochs", default=1, show_default=True, type=click.IntRange(1))
@click.option("--loss", default="cross-entropy", show_default=True, help="Or mse.")
@click.option("--output-name", help="The output that the loss is of, where there are several.")
@click.option("--optimizer", default="sgd", show_default=True, help="Or adamw.")
@click.option("--lr", default=1e-3, show_default=True, help="Learning rate.")
@click.option("--momentum", default=0.9, show_default=True, help="Of sgd.")
@click.option("--weight-decay", default=0.0, show_default=True, help="Not of scales and biases.")
@click.option("--schedule", default="cosine", show_default=True, help="Or constant.")
@click.option("--warmup", default=0, show_default=True, help="Steps of linear rise.")
@click.option(
    "--clip", default=1.0, show_default=True, help="Largest norm of all gradients together; 0: any."
)
@click.option("--freeze", multiple=True, metavar="GLOB", help="Weights not to train; repeatable.")
@click.option(
    "--norms",
    default="train",
    show_default=True,
    help="Or frozen: every BatchNormalization keeps its statistics, scale and bias.",
)
@click.option("--seed", default=0, show_default=True, help="Of order and dropout.")
@click.option("--device", default="auto", show_default=True, help="cpu or cuda.")
@click.option("--threads", type=click.IntRange(1), help="On the CPU; 1 for small batches.")
@click.option("--precision", default="auto", show_default=True, help="float32 or bf16.")
@click.option("--checkpoint", help="File, or a folder for one, to go on from after a kill.")
@click.option("--checkpoint-every", default=500, show_default=True, help="Steps; 0: each epoch.")
@click.option("--resume", is_flag=True, help="Go on from the checkpoint, if it is there.")
@click.option("--no-fold", is_flag=True, help="Leave the norms that could be folded.")
@click.option("--no-validate", is_flag=True, help="Skip the parity check of that fold.")
@samples.options
@click.option("-o", "--output", help="Output file; default MODEL.finetuned.onnx, - for stdout.")
@click.option("-f", "--force", is_flag=True, help="Replace an existing output.")
@click.option("-n", "--dry-run", is_flag=True, help="Check model, data, settings; train nothing.")
@click.option("--external/--inline", default=None, help="Weights in a data file, or inside.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(
    model: str,
    data: str,
    val: str | None,
    output: str | None,
    output_name: str | None,
    arrays: tuple[str, ...],
    mean: str | None,
    std: str | None,
    size: str | None,
    limit: int | None,
    clip: float,
    freeze: tuple[str, ...],
    checkpoint: str | None,
    no_fold: bool,
    no_validate: bool,
    force: bool,
    dry_run: bool,
    external: bool | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Train the weights of MODEL on small batches, and write the same graph with new ones.

    For classification by cross-entropy and regression by mse; the library's
    normsurgery.pytorch.finetune takes any loss and any iterable of batches. MODEL may be - for
    standard input. Runs under torchrun without a change.
    """
    from normsurgery import pytorch
    from normsurgery_cli import render

    taken = as_json or bool(external)
    target = files.checked_output(
        model, output, "finetuned", force=force, dry_run=dry_run, taken=taken
    )
    with files.source_file(model) as source, _progress(quiet=as_json or dry_run) as notify:
        read = (arrays, mean, std, size)
        result = pytorch.finetune(
            source,
            samples.read(source, data, *read, limit),
            val=None if val is None else samples.read(source, val, *read, None),
            output=output_name,
            clip=clip or None,
            freeze=freeze,
            checkpoint=checkpoint,
            fold=not no_fold,
            dry_run=dry_run,
            notify=notify,
            **settings,
        )
    if not result.report.writes:  # another process does
        return
    parity: Parity | str = "not run (dry run)"
    if not dry_run:
        inline = False if target == files.STREAM else external
        with files.target_file(target) as path:
            parity = _save(result, path, force=force, external=inline, no_validate=no_validate)
    shown = None if dry_run else target
    if as_json:
        summary: dict[str, Any] = {"verb": "finetune", "input": model, "output": shown}
        judged = parity if isinstance(parity, str) else parity.to_dict()
        summary |= {"report": result.report.to_dict(), "parity": judged}
        click.echo(render.to_json(summary))
    else:
        _report(model, shown, result.report, parity)


def _save(
    result: FinetuneResult, path: Path, *, force: bool, external: bool | None, no_validate: bool
) -> Parity | str:
    """Save; where the fold at the end changed the outputs, save the trained model without it.

    Hours of training are never lost to that check.
    """
    from normsurgery import io
    from normsurgery.errors import ParityError

    report = result.report.fold
    if report is None or not (report.folded or report.merged):
        result.save(path, force=force, external=external)
        return "nothing was folded"
    with tempfile.TemporaryDirectory(prefix="normsurgery-") as folder:
        tuned = Path(folder) / "tuned.onnx"
        io.save(result.tuned, tuned)
        options: dict[str, Any] = {"force": force, "external": external}
        try:
            return proving.save(result, tuned, path, no_validate=no_validate, keep=False, **options)
        except ParityError as error:
            io.save(result.tuned, path, **options)
            return f"failed, so the norms were left in the output: {error}"


@contextlib.contextmanager
def _progress(*, quiet: bool) -> Iterator[Callable[[Moment], None] | None]:
    """Yield what shows each step on a terminal; None where there is none."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("epoch {task.fields[epoch]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[score]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None, epoch=1, score="")

        def notify(moment: Moment) -> None:
            score = _score(moment.running)
            bar.update(task, completed=moment.step, total=moment.steps)
            bar.update(task, epoch=moment.epoch + 1, score=score)

        yield notify


def _score(score: Any) -> str:
    accuracy = "" if score.accuracy is None else f", {100 * score.accuracy:.2f} % right"
    return f"loss {score.loss:.4f}{accuracy}"


def _report(source: str, output: str | None, report: FinetuneReport, parity: Parity | str) -> None:
    """Print the loss and accuracy of each epoch, and what was done besides."""
    from normsurgery_cli import render

    lines = [f"warning: {warning}" for warning in report.warnings]
    if report.before is not None:
        lines.append(f"before: validation {_score(report.before)}")
    for number, epoch in enumerate(report.epochs, 1):
        seen = "" if epoch.val is None else f"; validation {_score(epoch.val)}"
        lines.append(f"epoch {number}: {_score(epoch.train)}{seen}")
    count = f"{len(report.trained)} tensors trained, {len(report.frozen)} frozen"
    kind = " in bf16" if report.bf16 else ""
    many = f", {report.processes} processes" if report.processes > 1 else ""
    lines.append(f"{source}: {count}; {report.steps} steps on {report.device}{kind}{many}")
    if report.resumed_at is not None:
        lines.append(f"resumed at step {report.resumed_at}")
    if report.fold is not None:
        folded = len(report.fold.folded) + len(report.fold.merged)
        lines.append(f"{folded} maps folded at the end")
        lines.append(f"parity of that: {parity}" if isinstance(parity, str) else parity.line())
    lines.append("nothing written (dry run)" if output is None else f"wrote {output}")
    render.lines(lines, to_stderr=output == "-")
