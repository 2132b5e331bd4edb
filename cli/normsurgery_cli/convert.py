"""``normsurgery convert``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from normsurgery_cli import files

if TYPE_CHECKING:
    from normsurgery import ConvertResult

TARGETS = ("group", "instance", "layer", "affine")


@click.command("convert")
@click.argument("model")
@click.option("-t", "--to", type=click.Choice(TARGETS), default="group", help="The new norm.")
@click.option("-o", "--output", help="Output file; default MODEL.converted.onnx, - for stdout.")
@click.option("--groups", type=int, help="Number of groups; one by default.")
@click.option("--channels-per-group", type=int, help="Channels of a group, in place of --groups.")
@click.option("--least", type=int, help="Channels that a group has at least; 8 by default.")
@click.option("--gauge", default="whiten", help="Where the norm starts: whiten, fold or none.")
@click.option("--epsilon", type=float, default=1.0, help="Of an input of unit variance.")
@click.option(
    "--affine",
    type=click.Choice(("auto", "fold", "keep", "none")),
    default="auto",
    help="The map in front: fold it, keep it as a frozen BatchNormalization, or none; "
    "auto folds it, or else keeps it.",
)
@click.option(
    "--encoding",
    type=click.Choice(("auto", "native", "instance", "layer")),
    default="auto",
    help="How the norm is written.",
)
@click.option("--only", multiple=True, help="Norms to convert: a pattern, first, channels>=32 …")
@click.option("--skip", multiple=True, help="Norms to leave: a pattern, first, last:2 …")
@click.option("--plan", help="Decisions per norm, read from this file in place of the options.")
@click.option("--write-plan", help="Write the decisions per norm to this file.")
@click.option("-f", "--force", is_flag=True, help="Replace an existing output.")
@click.option("-n", "--dry-run", is_flag=True, help="Say what would be done; write no model.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--freeze-inputs", is_flag=True, help="Convert norms of overridable weights too.")
@click.option("--external/--inline", default=None, help="Weights in a data file, or inside.")
def command(
    model: str,
    to: str,
    output: str | None,
    plan: str | None,
    write_plan: str | None,
    force: bool,
    dry_run: bool,
    as_json: bool,
    external: bool | None,
    **options: Any,
) -> None:
    """Put another norm in the place of every BatchNormalization of MODEL.

    The new norm starts where the model stood, so that it keeps its accuracy without training, and
    can be trained on small batches. MODEL may be - for standard input.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    import normsurgery
    from normsurgery import io
    from normsurgery.conversion import layers
    from normsurgery_cli import render

    target = files.output_name(model, output, "converted")
    if target == files.STREAM and (as_json or external):
        raise click.UsageError("standard output holds the model: give --output FILE as well.")
    if not dry_run and target != files.STREAM:
        io.check_output(Path(target), force=force)
    with files.source_file(model) as source:
        result = normsurgery.convert(source, to, plan=plan, **options)
        if not dry_run:
            inline = False if target == files.STREAM else external
            with files.target_file(target) as path:
                result.save(path, force=force, external=inline)
    if write_plan is not None:
        layers.write(write_plan, result.plan)
    shown = None if dry_run else target
    if as_json:
        click.echo(render.to_json(summary(model, shown, result)))
    else:
        render.convert_report(model, shown, result)


def summary(source: str, output: str | None, result: ConvertResult) -> dict[str, Any]:
    """Return the result as plain data."""
    return {
        "verb": "convert",
        "input": source,
        "output": output,
        "report": result.report.to_dict(),
        "plan": [vars(layer) for layer in result.plan],
    }
