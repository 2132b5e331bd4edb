"""``normsurgery unfold``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from normsurgery_cli import files, proving, samples

if TYPE_CHECKING:
    from normsurgery import UnfoldResult
    from normsurgery.validation import Parity


@click.command("unfold")
@click.argument("model")
@click.option("-d", "--data", required=True, help="Calibration data: .npz, .npy or images.")
@samples.options
@click.option("-o", "--output", help="Output file; default MODEL.unfolded.onnx, - for stdout.")
@click.option("-f", "--force", is_flag=True, help="Replace an existing output.")
@click.option("-n", "--dry-run", is_flag=True, help="Say what would be done; write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option(
    "--sites",
    type=click.Choice(["hidden", "convolutions", "all"]),
    default="hidden",
    show_default=True,
    help="Convolutions with a nonlinearity and a layer behind; all of them; Gemm and MatMul too.",
)
@click.option("--only", multiple=True, metavar="PATTERN", help="Take layers of such names alone.")
@click.option("--skip", multiple=True, metavar="PATTERN", help="Leave layers of such names out.")
@click.option("--samples", "count", type=click.IntRange(1), default=64, show_default=True,
              help="How many to use, spread over the data.")  # fmt: skip
@click.option("--keep-weights", is_flag=True, help="Do not bring the weights' norms to √(2·C).")
@click.option("--external/--inline", default=None, help="Weights in a data file, or inside.")
@click.option("--no-validate", is_flag=True, help="Skip the parity check under onnxruntime.")
@click.option("--keep", is_flag=True, help="Keep the output even if parity failed.")
def command(
    model: str,
    data: str,
    arrays: tuple[str, ...],
    mean: str | None,
    std: str | None,
    size: str | None,
    limit: int | None,
    output: str | None,
    force: bool,
    dry_run: bool,
    as_json: bool,
    sites: Any,
    only: tuple[str, ...],
    skip: tuple[str, ...],
    count: int,
    keep_weights: bool,
    external: bool | None,
    no_validate: bool,
    keep: bool,
) -> None:
    """Put BatchNormalization back behind the layers of MODEL that an exporter folded it into.

    Its statistics are those of the layer's output over the data; eight images are enough. The
    function stays the same to the last bit, and is compared with that of MODEL where onnxruntime
    runs it. MODEL may be - for standard input.
    """
    import normsurgery
    from normsurgery_cli import render

    taken = as_json or bool(external)
    target = files.checked_output(
        model, output, "unfolded", force=force, dry_run=dry_run, taken=taken
    )
    with files.source_file(model) as source:
        given = samples.read(source, data, arrays, mean, std, size, limit)
        result = normsurgery.unfold(
            source,
            given,
            sites=sites,
            only=only,
            skip=skip,
            keep_weights=keep_weights,
            samples=count,
        )
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
        render.unfold_report(model, shown, result, parity)
    proving.tell_kept(parity)


def _summary(
    source: str, output: str | None, result: UnfoldResult, parity: Parity | str
) -> dict[str, Any]:
    return {
        "verb": "unfold",
        "input": source,
        "output": output,
        "report": result.report.to_dict(),
        "parity": parity if isinstance(parity, str) else parity.to_dict(),
    }
