"""``normsurgery fold``."""

from __future__ import annotations

import os
import tempfile
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
@click.option(
    "--fix",
    multiple=True,
    metavar="INPUT=FILE",
    help="Fix an input to the array of a .npy file; may be repeated. Bakes AdaIN styles.",
)
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
    fix: tuple[str, ...],
    external: bool | None,
    no_validate: bool,
    keep: bool,
) -> None:
    """Fold every BatchNormalization of MODEL that algebra allows into the layer before it.

    The function stays the same: coefficients are computed in float64 and rounded once, and where
    onnxruntime is installed the outputs are compared with those of MODEL. MODEL may be - for
    standard input. With --fix, what MODEL computes of an input alone becomes constant, such as the
    scale and bias of AdaIN from a style.
    """
    if no_validate or dry_run:  # nothing will multiply matrices: no threads for it, 50 ms less
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    import normsurgery
    from normsurgery import fixing, io
    from normsurgery_cli import render

    taken = as_json or bool(external)
    target = files.checked_output(
        model, output, "folded", force=force, dry_run=dry_run, taken=taken
    )
    files_of = dict(map(_named, fix))
    if len(files_of) < len(fix):
        raise click.UsageError("--fix names an input twice.")
    fixed = {name: fixing.read(name, path) for name, path in files_of.items()}
    with files.source_file(model) as source, tempfile.TemporaryDirectory() as folder:
        result = normsurgery.fold(source, fixed=fixed, freeze_inputs=freeze_inputs)
        reference = source
        if fixed and not (dry_run or no_validate):  # what the output has to equal
            reference = Path(folder) / "fixed.onnx"
            io.save(fixing.bound(source, fixed), reference)
        parity: Parity | str = "not run (dry run)"
        if not dry_run:
            inline = False if target == files.STREAM else external
            with files.target_file(target) as path:
                parity = proving.save(
                    result,
                    reference,
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
    proving.tell_kept(parity)


def _named(text: str) -> tuple[str, str]:
    """Return the name and the file of ``INPUT=FILE``."""
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise click.UsageError(f"--fix takes INPUT=FILE, not {text!r}.")
    return name, path


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
