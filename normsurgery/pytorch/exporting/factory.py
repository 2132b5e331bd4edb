"""A module by its name, ``package.module:factory``, and example inputs by their shapes.

Importing and calling a factory runs its author's code.
"""

from __future__ import annotations

import importlib
import math
import re
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from normsurgery.errors import MissingPackageError, NormSurgeryError, UsageError
from normsurgery.pytorch.copying import first_line

if TYPE_CHECKING:
    from collections.abc import Sequence

DTYPES = {
    name: getattr(torch, name)
    for name in (
        "float32", "float64", "float16", "bfloat16", "int64", "int32", "int8", "uint8", "bool",
    )
}  # fmt: skip
_INPUT = re.compile(r"(?P<name>[^=]+)=(?P<shape>\d+(x\d+)*|scalar)(:(?P<dtype>\w+))?")
_AXIS = re.compile(r"(\d+)=([A-Za-z_]\w*)")
MOST_ELEMENTS = 1 << 31


def build(spec: str) -> nn.Module:
    """Import ``package.module:factory`` and return the module it is, or that it returns.

    Raises ``UsageError`` where that fails, with the first line of what the code says, and
    ``MissingPackageError`` where a package of its own is not there.
    """
    place, colon, attribute = spec.partition(":")
    if not (place and colon and attribute):
        raise UsageError(f"{spec!r} names no factory; write package.module:factory")
    try:
        found: Any = importlib.import_module(place)
        for part in attribute.split("."):
            found = getattr(found, part)
        made = found if isinstance(found, nn.Module) else found()
    except NormSurgeryError:
        raise
    except ModuleNotFoundError as error:
        missing = error.name or place
        if place == missing or place.startswith(f"{missing}."):
            raise UsageError(
                f"{spec}: there is no module {missing!r} here or on PYTHONPATH"
            ) from error
        raise MissingPackageError(
            f"{spec} imports {missing}, which is not installed; install the package that has it"
        ) from error
    except (Exception, SystemExit) as error:  # it is somebody's code
        raise UsageError(f"{spec}: {type(error).__name__}: {first_line(error)}") from error
    if not isinstance(made, nn.Module):
        raise UsageError(f"{spec} gives a {type(made).__name__}, not a torch.nn.Module")
    return made


def examples(texts: Sequence[str], seed: int = 0) -> dict[str, torch.Tensor]:
    """Return a tensor for each ``name=1x3x224x224[:dtype]``: normal floats, integers of 0 and 1.

    Raises ``UsageError`` for a text that says something else.
    """
    generator = torch.Generator().manual_seed(seed)
    made: dict[str, torch.Tensor] = {}
    for text in texts:
        match = _INPUT.fullmatch(text)
        dtype = DTYPES.get((match["dtype"] or "float32") if match else "")
        if match is None or dtype is None:
            raise UsageError(
                f"--input {text!r} is not understood; write x=1x3x224x224 or x=1x16:int64, "
                f"with a type of {', '.join(DTYPES)}"
            )
        shape = [] if match["shape"] == "scalar" else [int(n) for n in match["shape"].split("x")]
        if match["name"] in made:
            raise UsageError(f"--input {match['name']} is given twice")
        if 0 in shape or math.prod(shape) > MOST_ELEMENTS:
            raise UsageError(f"--input {text!r} has no elements, or over {MOST_ELEMENTS}")
        if dtype.is_floating_point:
            made[match["name"]] = torch.randn(shape, generator=generator).to(dtype)
        else:
            made[match["name"]] = torch.randint(0, 2, shape, generator=generator).to(dtype)
    return made


def dynamic(texts: Sequence[str]) -> str | dict[str, dict[int, str]]:
    """Read ``batch``, or several of ``x:0=batch,2=height``; see ``export``'s ``dynamic``.

    Raises ``UsageError`` for a text that says something else.
    """
    if len(texts) == 1 and texts[0].isidentifier():
        return texts[0]
    axes: dict[str, dict[int, str]] = {}
    for text in texts:
        name, _, rest = text.rpartition(":")
        parts = [_AXIS.fullmatch(part) for part in rest.split(",")]
        if not name or not all(parts):
            raise UsageError(
                f"--dynamic {text!r} is not understood; write batch, or x:0=batch,2=height"
            )
        axes.setdefault(name, {}).update({int(m[1]): m[2] for m in parts if m is not None})
    return axes
