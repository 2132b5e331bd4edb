"""Weights from a file into a module, without running code that the file brings along."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from normsurgery.errors import InvalidModelError, ModelIOError, UnsafeModelError, UsageError
from normsurgery.pytorch.copying import first_line

if TYPE_CHECKING:
    import os

    from torch import nn

_NESTED = ("state_dict", "model_state_dict", "model")
_COUNTER = "num_batches_tracked"  # counts training steps; evaluation does not read it


def load_weights(module: nn.Module, path: str | os.PathLike[str]) -> None:
    """Load the state dict at ``path`` into ``module``: every tensor, of the right shape.

    path: ``.safetensors``, or a file of ``torch.save`` that is read with ``weights_only=True``; a
    checkpoint may hold the state dict under ``state_dict``, ``model_state_dict`` or ``model``.

    Raises ``UsageError`` where names or shapes differ, ``UnsafeModelError`` for a pickle of more
    than tensors, ``InvalidModelError`` or ``ModelIOError`` where the file cannot be read.
    """
    path = Path(path)
    state = _read(path)
    wanted = module.state_dict()
    missing = [n for n in wanted if n not in state and not n.endswith(_COUNTER)]
    strange = [name for name in state if name not in wanted]
    if missing or strange:
        parts = []
        if missing:
            parts.append(f"{len(missing)} tensors are missing, {missing[0]!r} first")
        if strange:
            parts.append(f"{len(strange)} are of no parameter, {strange[0]!r} first")
        raise UsageError(f"{path} does not fit the module: {'; '.join(parts)}")
    for name, tensor in state.items():
        if tensor.shape != wanted[name].shape:
            raise UsageError(
                f"{path}: {name!r} has shape {tuple(tensor.shape)}, the module's is "
                f"{tuple(wanted[name].shape)}"
            )
    module.load_state_dict(state, strict=False)  # the names were checked above


def _read(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise ModelIOError(f"{path}: no such file of weights")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UnsafeModelError(
            f"{path} holds more than tensors, which could run code; save the state_dict alone, "
            "or as safetensors"
        ) from error
    except OSError as error:
        raise ModelIOError(f"cannot read {path}: {error.strerror or first_line(error)}") from error
    except Exception as error:  # of two readers of arbitrary bytes
        raise InvalidModelError(f"{path} is no file of weights: {first_line(error)}") from error
    inner = next((found[k] for k in _NESTED if isinstance(found, dict) and k in found), found)
    if isinstance(inner, dict) and inner and all(_is_entry(*pair) for pair in inner.items()):
        return dict(inner)
    raise InvalidModelError(f"{path} holds a {type(inner).__name__}, not a state dict of tensors")


def _is_entry(name: object, value: object) -> bool:
    return isinstance(name, str) and isinstance(value, torch.Tensor)
