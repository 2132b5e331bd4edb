"""``normsurgery validate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from normsurgery_cli import files
from normsurgery_cli.kinds import Kind

if TYPE_CHECKING:
    from normsurgery import Validation


class Shape(Kind):
    """``input=1x3x224x224``."""

    name = "NAME=AxBxC"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return the name and the sizes; the name may hold an equals sign."""
        name, equals, sizes = str(value).rpartition("=")
        parts = sizes.lower().replace(",", "x").split("x")
        if not equals or not all(part.isascii() and part.isdigit() for part in parts):
            self.fail(f"{value!r} is no shape such as input=1x3x224x224", param, ctx)
        return name, tuple(int(part) for part in parts)


class Named(Kind):
    """``input=images``."""

    name = "NAME=ARRAY"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return the two names."""
        name, equals, array = str(value).rpartition("=")
        if not equals or not name or not array:
            self.fail(f"{value!r} is no pair such as input=images", param, ctx)
        return name, array


class Numbers(Kind):
    """``0.485,0.456,0.406``."""

    name = "A,B,C"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return the numbers."""
        try:
            return tuple(float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is no list of numbers such as 0.5,0.5,0.5", param, ctx)


class Memory(Kind):
    """``8G``."""

    name = "SIZE"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return bytes; K, M, G and T are powers of 1024."""
        text = str(value).upper().removesuffix("B").removesuffix("I")
        scale = 1 << 10 * (" KMGT".find(text[-1:]) if text[-1:] in "KMGT" else 0)
        try:
            size = int(float(text.rstrip("KMGT")) * scale)
        except (ValueError, OverflowError):
            size = 0
        if size < 1:
            self.fail(f"{value!r} is no size such as 8G", param, ctx)
        return size


@click.command("validate")
@click.argument("reference")
@click.argument("candidate")
@click.option("--providers", default="cpu", show_default=True, help="cpu, cuda, or cpu,cuda.")
@click.option("--data", help="Inputs to use: .npz, folder of .npy files, or of images.")
@click.option("--samples", type=click.IntRange(1), default=64, show_default=True,
              help="How many of the data to use.")  # fmt: skip
@click.option("--array", "arrays", type=Named(), multiple=True,
              help="Which of the arrays is for which input.")  # fmt: skip
@click.option("--mean", type=Numbers(), help="Of the images, per channel.")
@click.option("--std", type=Numbers(), help="Of the images, per channel.")
@click.option("--shape", "shapes", type=Shape(), multiple=True, help="Of an input that is dynamic.")
@click.option("--batch", type=click.IntRange(1), default=4, show_default=True,
              help="Batch of every second input set.")  # fmt: skip
@click.option("--sets", type=click.IntRange(1), default=12, show_default=True,
              help="How many input sets to make.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--bound", type=click.FloatRange(1), default=2.0, show_default=True,
              help="Largest ratio of the errors that passes.")  # fmt: skip
@click.option(
    "--parity", "kind", flag_value="parity", help="Judge parity, whatever made CANDIDATE."
)
@click.option("--drift", "kind", flag_value="drift", help="Measure drift, whatever made CANDIDATE.")
@click.option("--allow-fallback", multiple=True, metavar="NAME",
              help="A node or operator that may run on the CPU.")  # fmt: skip
@click.option("--timeout", type=click.FloatRange(0, min_open=True), default=300.0,
              show_default=True, help="Seconds for one step.")  # fmt: skip
@click.option(
    "--memory", type=Memory(), help="Cap, such as 8G; default 9/10 of what is free, none on CUDA."
)
@click.option("--threads", type=click.IntRange(1), help="For onnxruntime; default every core.")
@click.option("--html", "html_file", type=click.Path(dir_okay=False),
              help="Write the report as a page, errors through depth included.")  # fmt: skip
@click.option("-f", "--force", is_flag=True, help="Replace an existing page.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(
    reference: str,
    candidate: str,
    providers: str,
    data: str | None,
    samples: int,
    arrays: tuple[tuple[str, str], ...],
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    shapes: tuple[tuple[str, tuple[int, ...]], ...],
    batch: int,
    sets: int,
    seed: int,
    bound: float,
    kind: str | None,
    allow_fallback: tuple[str, ...],
    timeout: float,
    memory: int | None,
    threads: int | None,
    html_file: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Prove that CANDIDATE computes what REFERENCE computes, up to rounding.

    Both run under onnxruntime, graph optimizations off, on inputs of several distributions or on
    --data, and are held against REFERENCE in float64: CANDIDATE's error may be --bound times
    REFERENCE's own, per output and input set. One that failed, or that nothing could be said of,
    ends with status 1. A converted model computes something else: its drift is reported instead.
    REFERENCE or CANDIDATE may be - for standard input.
    """
    if reference == candidate == files.STREAM:
        raise click.UsageError("only one of the two models can come from standard input.")
    import normsurgery
    from normsurgery import io
    from normsurgery.data import Pixels
    from normsurgery.errors import ParityError
    from normsurgery_cli import progress, render

    if html_file is not None:
        io.check_output(Path(html_file), force=force)
    with (
        files.source_file(reference) as ours,
        files.source_file(candidate) as theirs,
        progress.steps("validate") as tell,
    ):
        found = normsurgery.validate(
            ours,
            theirs,
            providers=providers.split(","),
            data=data,
            pixels=Pixels(mean or (), std or ()),
            arrays=dict(arrays) or None,
            samples=samples,
            shapes=dict(shapes) or None,
            batch=batch,
            sets=sets,
            seed=seed,
            bound=bound,
            kind=kind or "auto",
            depth=html_file is not None,
            allow_fallback=allow_fallback,
            timeout=timeout,
            memory=memory,
            threads=threads,
            progress=tell,
        )
    if html_file is not None:
        from normsurgery_cli import html, validation_page

        html.save(validation_page.page(reference, candidate, found), html_file)
    if as_json:
        told = found.to_dict() | {"reference": reference, "candidate": candidate}
        click.echo(render.to_json({"verb": "validate", **told}))
    else:
        render.validation(reference, candidate, found)
    if found.drift is None and not found.ok:
        raise ParityError(_why(found))


def _why(found: Validation) -> str:
    """The first provider's line that is not in order, or else the certificate's."""
    run = next((run for run in found.runs if not run.verdict.ok), None)
    if run is None:
        return "" if found.certificate is None else found.certificate.line()
    placement = run.verdict.placement
    if placement is not None and not placement.ok:
        return placement.line()
    return run.verdict.line()
