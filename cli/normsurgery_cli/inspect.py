"""``normsurgery inspect``."""

from __future__ import annotations

import click

from normsurgery_cli import files


@click.command("inspect")
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
@click.option("--freeze-inputs", is_flag=True, help="Treat overridable initializers as constants.")
def command(model: str, as_json: bool, freeze_inputs: bool) -> None:
    """List every normalization of MODEL: kind, statistics, what becomes of it, or why not.

    That is what fold does with it, and what convert does by default: the target, the number of
    groups and the channels of one, or the name of the reason why it stays (in full with --json).
    Norms that an exporter took apart are listed at their last node, as decomposed.
    MODEL may be - for standard input.
    """
    import normsurgery
    from normsurgery_cli import render

    with files.source_file(model) as source:
        found = normsurgery.inspect(source, freeze_inputs=freeze_inputs)
    if as_json:
        click.echo(render.to_json({"verb": "inspect", "input": model, **found.to_dict()}))
    else:
        render.inspection(model, found)
