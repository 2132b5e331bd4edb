"""``normsurgery export``."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from normsurgery_cli import files

if TYPE_CHECKING:
    from normsurgery.pytorch import ExportResult


@click.command("export")
@click.argument("factory")
@click.option(
    "-i", "--input", "inputs", multiple=True, required=True, metavar="NAME=SHAPE[:TYPE]",
    help="An input of forward, as x=1x3x224x224 or ids=1x16:int64; once for each.",
)  # fmt: skip
@click.option("-o", "--output", help="Output file; default FACTORY.onnx here, - for stdout.")
@click.option(
    "--dynamic", multiple=True, metavar="DIM",
    help="batch: the first axis of every input is free; or x:0=batch,2=height.",
)  # fmt: skip
@click.option("--opset", type=int, help="Operator set; default 18 (dynamo) or 17 (legacy).")
@click.option("--norms", type=click.Choice(["keep", "fold"]), default="keep", show_default=True)
@click.option(
    "--exporter", type=click.Choice(["dynamo", "legacy"]), default="dynamo", show_default=True,
    help="torch.export, or TorchScript.",
)  # fmt: skip
@click.option("--weights", help="State dict to load: .safetensors, or a torch.save of tensors.")
@click.option("-f", "--force", is_flag=True, help="Replace an existing output.")
@click.option("-n", "--dry-run", is_flag=True, help="Export and check, but write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--external/--inline", default=None, help="Weights in a data file, or inside.")
@click.option("--no-validate", is_flag=True, help="Skip the comparison with the module.")
@click.option("--keep", is_flag=True, help="Keep the output even if parity failed.")
def command(
    factory: str,
    inputs: tuple[str, ...],
    output: str | None,
    dynamic: tuple[str, ...],
    opset: int | None,
    norms: str,
    exporter: str,
    weights: str | None,
    force: bool,
    dry_run: bool,
    as_json: bool,
    external: bool | None,
    no_validate: bool,
    keep: bool,
) -> None:
    """Export the PyTorch module that FACTORY makes, with every normalization kept.

    FACTORY is package.module:function (called without arguments), or package.module:object. It is
    imported from the current folder or PYTHONPATH, and that RUNS ITS CODE: export only what you
    would run. The file takes its name only after onnxruntime computed what the module computes.
    """
    from normsurgery import io, pytorch
    from normsurgery.errors import ParityError
    from normsurgery_cli import render

    target = output or f"{factory.rpartition(':')[2] or 'model'}.onnx"
    if target == files.STREAM and (as_json or external):
        raise click.UsageError("standard output holds the model: give --output FILE as well.")
    if not dry_run and target != files.STREAM:
        io.check_output(Path(target), force=force)
    sys.path.insert(0, os.getcwd())  # noqa: PTH109  as python -m does
    with contextlib.redirect_stdout(sys.stderr):  # what the factory prints is no result
        module = pytorch.build(factory)
        if weights is not None:
            pytorch.load_weights(module, weights)
        result = pytorch.export(
            module,
            pytorch.examples(inputs),
            opset=opset,
            norms=norms,
            dynamic=pytorch.dynamic(dynamic),
            exporter=exporter,
            validate=not no_validate,
            keep=keep,
        )
    if not dry_run:
        with files.target_file(target) as path:
            result.save(path, force=force, external=False if target == files.STREAM else external)
    shown = None if dry_run else target
    if as_json:
        click.echo(render.to_json(_summary(factory, shown, result)))
    else:
        for line in _lines(factory, shown, result):
            click.echo(line, err=target == files.STREAM)
    if result.parity is not None and not result.parity.ok:
        raise ParityError(f"{result.parity.line()}; the output was kept all the same (--keep)")


def _lines(factory: str, output: str | None, result: ExportResult) -> list[str]:
    report = result.report
    norms = ", ".join(f"{count} {kind}" for kind, count in report.norms.items()) or "no norms"
    lines = [f"{factory}: {norms}; opset {report.opset}, {report.exporter} exporter"]
    if report.was_training:
        lines.append("the module was in training mode; exported in evaluation mode")
    if report.baked:
        lines.append(f"parametrized weights made plain: {', '.join(report.baked)}")
    if report.frozen:
        lines.append(f"BatchNorms written by hand: {', '.join(report.frozen)}")
    if report.folded is not None:
        lines.append(
            f"folded: {report.folded.before} BatchNormalization, {report.folded.after} left"
        )
        lines += [f"  kept {one.node}: {one.reason}" for one in report.folded.kept]
    parity = result.parity
    lines.append("parity: not run (--no-validate)" if parity is None else parity.line())
    lines.append("nothing written (dry run)" if output is None else f"wrote {output}")
    return lines


def _summary(factory: str, output: str | None, result: ExportResult) -> dict[str, Any]:
    return {
        "verb": "export",
        "input": factory,
        "output": output,
        "report": result.report.to_dict(),
        "parity": None if result.parity is None else result.parity.to_dict(),
    }
