"""``normsurgery doctor``."""

from __future__ import annotations

import click


@click.command("doctor")
@click.option("--require", multiple=True, type=click.Choice(["cpu", "cuda", "torch"]),
              help="What must work besides the CPU; repeat it for several.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def command(require: tuple[str, ...], as_json: bool) -> None:
    """Say what onnxruntime, CUDA and torch can do here, what is wrong, and what mends it.

    Ends with status 0 where onnxruntime runs on the CPU and everything that --require names works,
    else with 6.
    """
    import normsurgery
    from normsurgery.errors import MissingPackageError
    from normsurgery_cli import render

    found = normsurgery.doctor(require)
    if as_json:
        click.echo(render.to_json({"verb": "doctor", **found.to_dict()}))
    else:
        render.diagnosis(found)
    for one in found.missing():
        raise MissingPackageError(f"{one.name}: {one.text}; mend it with: {one.mend}")
