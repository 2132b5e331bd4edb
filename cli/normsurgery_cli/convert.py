"""``normsurgery convert``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from normsurgery_cli import files, progress, proving, samples

if TYPE_CHECKING:
    from collections.abc import Callable

    from normsurgery import ConvertResult
    from normsurgery.isolation import Step
    from normsurgery.validation import Parity

TARGETS = ("group", "instance", "layer", "affine", "batch")
GAUGES = ("auto", "balance", "whiten", "fold", "none")


class Groups(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A number, or ``auto``."""

    name = "N|auto"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        """Return what was given. Fails as every parameter does."""
        if value == "auto" or isinstance(value, int):
            return cast("int | str", value)
        if not str(value).isdecimal() or len(str(value)) > MOST_DIGITS:
            self.fail(f"{value!r} is no number, nor auto.", param, ctx)
        return int(value)


GROUPS = Groups()
MOST_DIGITS = 9  # of a number of groups; Python converts no more than some thousands


@click.command("convert")
@click.argument("model")
@click.option("-t", "--to", type=click.Choice(TARGETS), help="The new norm; group by default.")
@click.option("-o", "--output", help="Output file; default MODEL.converted.onnx, - for stdout.")
@click.option("--groups", type=GROUPS, help="Number of groups, or auto; one by default.")
@click.option("--channels-per-group", type=int, help="Channels of a group, in place of --groups.")
@click.option("--least", type=int, help="Channels that a group has at least; 8 by default.")
@click.option(
    "--gauge",
    type=click.Choice(GAUGES),
    default="auto",
    help="Where the norm starts; auto is balance, or what agrees best on --data.",
)
@click.option("--epsilon", type=float, help="Of an input of unit variance.")
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
@click.option("-d", "--data", help="Samples to choose by and to tell the drift: .npz, images …")
@samples.options
@click.option(
    "--distill",
    type=click.IntRange(1),
    metavar="STEPS",
    help="Train the new norms' scale and bias to give MODEL's outputs on --data; needs torch.",
)
@click.option("--html", help="Write the report, with a plot of the drift, to this file.")
@click.option("--cost", is_flag=True, help="Measure time and memory before and after.")
@click.option("--no-validate", is_flag=True, help="Skip the parity check of a frozen map.")
@click.option("-f", "--force", is_flag=True, help="Replace an existing output.")
@click.option("-n", "--dry-run", is_flag=True, help="Say what would be done; write no model.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--freeze-inputs", is_flag=True, help="Convert norms of overridable weights too.")
@click.option("--external/--inline", default=None, help="Weights in a data file, or inside.")
def command(
    model: str,
    to: str | None,
    output: str | None,
    plan: str | None,
    write_plan: str | None,
    force: bool,
    dry_run: bool,
    as_json: bool,
    external: bool | None,
    data: str | None,
    arrays: tuple[str, ...],
    mean: str | None,
    std: str | None,
    size: str | None,
    limit: int | None,
    html: str | None,
    cost: bool,
    no_validate: bool,
    epsilon: float | None,
    distill: int | None,
    **options: Any,
) -> None:
    """Put another norm in the place of every BatchNormalization of MODEL.

    The new norm starts where the model stood, so that it keeps its accuracy without training, and
    can be trained on small batches. With --data, the drift of every layer and of the outputs is
    measured. A frozen map (--to affine) is no change: its outputs are compared with those of MODEL.
    MODEL may be - for standard input.
    """
    if data is None:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    import normsurgery
    from normsurgery import pytorch
    from normsurgery.conversion import layers
    from normsurgery_cli import conversion_page, render

    holds = as_json or bool(external)
    target = files.checked_output(
        model, output, "converted", force=force, dry_run=dry_run, taken=holds
    )
    taken = [model, target, *([data, data.rpartition(":")[0]] if data else [])]
    _check_reports([name for name in (html, write_plan) if name is not None], taken, force=force)
    if distill is not None:
        if data is None:
            raise click.UsageError("--distill needs --data: samples to learn on, without labels.")
        teach = pytorch.distill  # without torch this is an error, before any work
    if epsilon is not None:
        options["epsilon"] = epsilon
    with files.source_file(model) as source:
        if data is not None:
            options["data"] = samples.read(source, data, arrays, mean, std, size, limit)
        with progress.steps("convert") as show:
            result = normsurgery.convert(source, to, plan=plan, cost=cost, progress=show, **options)
            taught = None
            if distill is not None:
                taught = teach(
                    source, result.content, options["data"], steps=distill, step=_distilling(show)
                )
                result.content = taught.content
        parity: Parity | str | None = None
        if not dry_run:
            inline = False if target == files.STREAM else external
            with files.target_file(target) as path:
                if all(one.to == "affine" for one in result.report.converted):
                    parity = proving.save(
                        result, source, path,
                        force=force, external=inline, no_validate=no_validate, keep=False,
                    )  # fmt: skip
                else:
                    result.save(path, force=force, external=inline)
    shown = None if dry_run else target
    if write_plan is not None:
        layers.write(write_plan, result.plan)
    if html is not None:
        files.write_page(html, conversion_page.page(model, shown, result), force=force)
    if as_json:
        found = summary(model, shown, result, parity)
        if taught is not None:
            found["distilled"] = taught.report.to_dict()
        click.echo(render.to_json(found))
    else:
        distilled = taught.report.line() if taught else None
        render.convert_report(model, shown, result, parity, distilled)


def _check_reports(reports: list[str], taken: list[str], *, force: bool) -> None:
    """Fail where a report cannot be written, or would replace an input or another output."""
    from normsurgery import io

    paths = {Path(name).resolve() for name in taken}
    for name in reports:
        if name == files.STREAM:
            raise click.UsageError("- is for the model alone; name a file for a report or a plan.")
        io.check_output(Path(name), force=force)
        path = Path(name).resolve()
        if path in paths:
            raise click.UsageError(f"{name} is another file of this call; name one for itself.")
        paths.add(path)


def _distilling(show: Callable[[Step], None] | None) -> Callable[[int, int], None] | None:
    """Return what shows the steps of a distillation, if anything does."""
    if show is None:
        return None
    from normsurgery.isolation import Step

    return lambda done, of: show(Step("distilling", done=done, total=of))


def summary(
    source: str, output: str | None, result: ConvertResult, parity: Parity | str | None
) -> dict[str, Any]:
    """Return the result as plain data; parity: of a conversion that changes nothing, else None."""
    return {
        "verb": "convert",
        "input": source,
        "output": output,
        "report": result.report.to_dict(),
        "plan": [vars(layer) for layer in result.plan],
        "parity": parity if parity is None or isinstance(parity, str) else parity.to_dict(),
    }
