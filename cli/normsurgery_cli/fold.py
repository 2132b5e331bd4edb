"""``normsurgery fold``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from normsurgery_cli import files, proving

if TYPE_CHECKING:
    from normsurgery import FoldResult
    from normsurgery.validation import Parity


@click.command("fold")
@click.argument("model")
@click.option("-o", "--output", help="Output file; default MODEL.folded.onnx, - for stdout.")
@click.option("-f", "--force", is_flag=True, help="Replace an existing output.")
@click.option("-n", "--dry-run", is_flag=True, help="Say what would be done; write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--freeze-inputs", is_flag=True, help="Fold initializers that are graph inputs too.")
@click.option("--external/--inline", default=None, help="Weights in a data file, or inside.")
@click.option("--no-validate", is_flag=True, help="Skip the parity check under onnxruntime.")
@click.option("--keep", is_flag=True, help="Keep the output even if parity failed.")
def command(
    model: str,
    output: str | None,
    force: bool,
    dry_run: bool,
    as_json: bool,
    freeze_inputs: bool,
    external: bool | None,
    no_validate: bool,
    keep: bool,
) -> None:
    """Fold every BatchNormalization of MODEL that algebra allows into the layer before it.

    The function stays the same: coefficients are computed in float64 and rounded once, and where
    onnxruntime is installed the outputs are compared with those of MODEL. MODEL may be - for
    standard input.
    """
    if no_validate or dry_run:  # nothing will multiply matrices: no threads for it, 50 ms less
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    import normsurgery
    from normsurgery import io
    from normsurgery.errors import ParityError
    from normsurgery_cli import render

    target = files.output_name(model, output, "folded")
    if target == files.STREAM and (as_json or external):
        raise click.UsageError("standard output holds the model: give --output FILE as well.")
    if not dry_run and target != files.STREAM:
        io.check_output(Path(target), force=force)
    with files.source_file(model) as source:
        result = normsurgery.fold(source, freeze_inputs=freeze_inputs)
        parity: Parity | str = "not run (dry run)"
        if not dry_run:
            inline = False if target == files.STREAM else external
            with files.target_file(target) as path:
                parity = proving.save(
                    result,
                    source,
                    path,
                    force=force,
                    external=inline,
                    no_validate=no_validate,
                    keep=keep,
                )
    shown = None if dry_run else target
    if as_json:
        click.echo(render.to_json(_summary(model, shown, result, parity)))
    else:
        render.fold_report(model, shown, result, parity)
    if not isinstance(parity, str) and parity.status == "failed":
        raise ParityError(f"{parity.line()}; the output was kept all the same (--keep)")


def _summary(
    source: str, output: str | None, result: FoldResult, parity: Parity | str
) -> dict[str, Any]:
    return {
        "verb": "fold",
        "input": source,
        "output": output,
        "report": result.report.to_dict(),
        "certificates": [vars(c) for c in result.certificates()],
        "parity": parity if isinstance(parity, str) else parity.to_dict(),
    }
