"""``normsurgery recalibrate``."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from normsurgery_cli import files, progress, samples
from normsurgery_cli.kinds import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from normsurgery import RecalibrateResult
    from normsurgery.recalibration import Partial, Peers


class Shard(Kind):
    """``3/8``: the third of eight."""

    name = "I/N"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int]:
        """Return the index from 0, and how many there are."""
        if isinstance(value, tuple):
            return value
        index, _, count = str(value).partition("/")
        if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
            self.fail(f"{value!r} is no shard such as 1/4, 2/4, 3/4 or 4/4", param, ctx)
        return int(index) - 1, int(count)


@click.command("recalibrate")
@click.argument("model")
@click.argument("statistics", nargs=-1)
@click.option("-d", "--data", help="The new data: .npz, .npy or images. Labels are not used.")
@samples.options
@click.option("-o", "--output", help="Output file; default MODEL.recalibrated.onnx, - for stdout.")
@click.option("-f", "--force", is_flag=True, help="Replace an existing output.")
@click.option("-n", "--dry-run", is_flag=True, help="Say what would change; write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option(
    "--mode",
    type=click.Choice(["sequential", "batch"]),
    help="sequential (default): norm after norm, exact. batch: one pass, as in training.",
)
@click.option("--batch-size", type=click.IntRange(1), default=64, show_default=True,
              help="Samples that run together; mode batch depends on it.")  # fmt: skip
@click.option("--only", multiple=True, metavar="PATTERN", help="Take norms of such names alone.")
@click.option("--skip", multiple=True, metavar="PATTERN", help="Leave norms of such names out.")
@click.option("--partial", metavar="FILE", help="Write statistics to be merged, and no model.")
@click.option(
    "--shard", type=Shard(), default="1/1", help="With --partial: this share of the data."
)
@click.option("--merge", is_flag=True, help="Take the statistics from the files after MODEL.")
@click.option("--freeze-inputs", is_flag=True, help="Do norms of overridable statistics too.")
@click.option("--external/--inline", default=None, help="Weights in a data file, or inside.")
def command(
    model: str,
    statistics: tuple[str, ...],
    data: str | None,
    arrays: tuple[str, ...],
    mean: str | None,
    std: str | None,
    size: str | None,
    limit: int | None,
    output: str | None,
    force: bool,
    dry_run: bool,
    as_json: bool,
    mode: Any,
    batch_size: int,
    only: tuple[str, ...],
    skip: tuple[str, ...],
    partial: str | None,
    shard: tuple[int, int],
    merge: bool,
    freeze_inputs: bool,
    external: bool | None,
) -> None:
    """Estimate the statistics of every BatchNormalization of MODEL anew, on other data.

    Mean and variance are those of the whole data, by exact merging. To share the work, run
    ``torchrun --nproc-per-node N -m normsurgery_cli.main recalibrate …``, or write --partial
    statistics in several jobs and give the files to --merge. MODEL may be - for standard input.
    """
    import normsurgery
    from normsurgery import io, recalibration
    from normsurgery_cli import render

    _check(statistics, data, mode, partial, shard, merge)
    target = files.output_name(model, output, "recalibrated")
    if partial is not None and output is not None:
        raise click.UsageError("--partial writes statistics and no model: leave --output out.")
    if partial is None and target == files.STREAM and (as_json or external):
        raise click.UsageError("standard output holds the model: give --output FILE as well.")
    with files.source_file(model) as source, _peers() as peers:
        first = peers.index == 0
        written = partial if partial is not None else target
        if first and not dry_run and written != files.STREAM:
            io.check_output(Path(written), force=force)
        options: dict[str, Any] = {"only": only, "skip": skip, "batch_size": batch_size}
        options["freeze_inputs"] = freeze_inputs
        with _steps(first) as step:
            if merge:
                result = recalibration.merge(source, statistics, freeze_inputs=freeze_inputs)
            else:
                given = samples.read(source, data or "", arrays, mean, std, size, limit)
                if partial is not None:
                    found = recalibration.partial(source, given, shard=shard, step=step, **options)
                    _save_partial(found, model, None if dry_run else partial, force, as_json)
                    return
                result = normsurgery.recalibrate(
                    source, given, mode=mode or "sequential", peers=peers, step=step, **options
                )
        if not first:
            return
        if not dry_run:
            inline = False if target == files.STREAM else external
            with files.target_file(target) as path:
                result.save(path, force=force, external=inline)
    shown = None if dry_run else target
    if as_json:
        click.echo(render.to_json(_summary(model, shown, result)))
    else:
        render.recalibrate_report(model, shown, result)


def _check(
    statistics: tuple[str, ...],
    data: str | None,
    mode: str | None,
    partial: str | None,
    shard: tuple[int, int],
    merge: bool,
) -> None:
    """Raise ``click.UsageError`` for options that do not go together."""
    if merge and (data is not None or partial is not None or mode is not None):
        raise click.UsageError("--merge takes files of statistics, and neither data nor a mode.")
    if merge != bool(statistics):
        raise click.UsageError("--merge and the files of statistics after MODEL go together.")
    if not merge and data is None:
        raise click.UsageError("Missing option '-d' / '--data'.")
    if partial is not None and mode == "sequential":
        raise click.UsageError(
            "--partial is of mode batch: mode sequential needs all shards at every depth, which "
            "torchrun gives it."
        )
    if partial is None and shard != (0, 1):
        raise click.UsageError("--shard goes with --partial.")
    if partial == files.STREAM:
        raise click.UsageError("--partial wants a file: standard output is for models.")
    if partial is not None and _world() > 1:
        raise click.UsageError("--partial is for jobs of one process: leave torchrun out.")


def _world() -> int:
    """Return how many processes torchrun started."""
    text = os.environ.get("WORLD_SIZE", "1")
    return int(text) if text.isdecimal() else 1


@contextlib.contextmanager
def _peers() -> Iterator[Peers]:
    """Yield the processes to share with: those of torchrun, or none."""
    from normsurgery.recalibration import Alone

    if _world() < 2:
        yield Alone()
        return
    from normsurgery import pytorch

    with pytorch.processes() as peers:
        yield peers


@contextlib.contextmanager
def _steps(shown: bool) -> Iterator[Callable[[int, int], None] | None]:
    """Yield what shows how many batches are done, on a terminal."""
    if not shown:
        yield None
        return
    from normsurgery.isolation import Step

    with progress.steps("recalibrate") as show:
        if show is None:
            yield None
            return
        yield lambda done, total: show(Step(f"{done} of {total} batches", done=done, total=total))


def _save_partial(
    found: Partial, model: str, target: str | None, force: bool, as_json: bool
) -> None:
    from normsurgery_cli import render

    if target is not None:
        found.save(target, force=force)
    origin = found.origin
    summary = {
        "verb": "recalibrate",
        "input": model,
        "output": target,
        "partial": {"parts": sorted(found.parts), "of": origin.parts, "samples": origin.samples},
    }
    if as_json:
        click.echo(render.to_json(summary))
        return
    click.echo(
        f"{model}: statistics of {len(origin.outputs)} BatchNormalization on {len(found.parts)} of "
        f"{origin.parts} parts of {origin.samples} samples"
    )
    click.echo("nothing written (dry run)" if target is None else f"wrote {target}")


def _summary(source: str, output: str | None, result: RecalibrateResult) -> dict[str, Any]:
    return {
        "verb": "recalibrate",
        "input": source,
        "output": output,
        "report": result.report.to_dict(),
    }
