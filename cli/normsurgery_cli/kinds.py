"""What the types of options derive from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    Kind = click.ParamType[Any]
else:  # older clicks have no type arguments
    Kind = click.ParamType
