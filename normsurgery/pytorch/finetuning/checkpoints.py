"""Checkpoints: one safetensors file that holds all a run needs to go on as if never stopped.

Tensors: ``module/NAME`` for every parameter and buffer, ``optimizer/PARAMETER/KEY`` for the
optimizer's state, ``random/RANK/WHEN/DEVICE`` for the random generators of each process. Metadata
``normsurgery.finetune``: JSON with where the run stands, what it has seen, and the settings that
it must be resumed with. The file is written beside its name and renamed (``normsurgery.atomic``),
so a kill at any moment leaves the previous checkpoint whole. Nothing in it is executed on loading.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from normsurgery import atomic
from normsurgery.errors import MissingPackageError, ModelIOError, UsageError

if TYPE_CHECKING:
    import os

    from torch import Tensor, nn
    from torch.optim import Optimizer

KEY = "normsurgery.finetune"
VERSION = 1
DEFAULT_NAME = "finetune.safetensors"


def file_of(checkpoint: str | os.PathLike[str]) -> Path:
    """Return the checkpoint's file: ``checkpoint`` itself, or one of a fixed name in that folder.

    Raises ``ModelIOError`` if the folder that it goes to is not there.
    """
    path = Path(checkpoint)
    path = path / DEFAULT_NAME if path.is_dir() else path
    if not path.parent.is_dir():
        raise ModelIOError(f"{path}: its folder does not exist, so no checkpoint can go there")
    return path


def write(
    path: Path,
    module: nn.Module,
    optimizer: Optimizer,
    randoms: dict[str, Tensor],
    progress: dict[str, Any],
    settings: dict[str, Any],
) -> None:
    """Replace ``path`` by a checkpoint of what is given; raises ``ModelIOError``."""
    tensors = {f"module/{name}": value for name, value in module.state_dict().items()}
    scalars: dict[str, Any] = {}
    for name, parameter in module.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            held = tensors if isinstance(value, torch.Tensor) else scalars
            held[f"optimizer/{name}/{key}"] = value
    tensors |= {f"random/{name}": value for name, value in randoms.items()}
    held = {"version": VERSION, "progress": progress, "settings": settings, "scalars": scalars}
    copies = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    content = _safetensors().torch.save(copies, {KEY: json.dumps(held)})
    try:
        with atomic.temporary(path) as (unfinished, file):
            file.write(content)
            atomic.commit(file, unfinished, path)
    except OSError as error:
        raise ModelIOError(f"{path}: the checkpoint could not be written: {error}") from error


def read(path: Path, settings: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of a checkpoint and its metadata.

    Raises ``ModelIOError`` if it is no checkpoint, and ``UsageError`` if it belongs to a run with
    other settings, naming the first that differs.
    """
    try:
        with _safetensors().safe_open(path, framework="pt") as file:
            held = json.loads((file.metadata() or {}).get(KEY, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, ValueError, _safetensors().SafetensorError) as error:
        raise ModelIOError(f"{path}: not a readable checkpoint: {error}") from error
    if not isinstance(held, dict) or held.get("version") != VERSION:
        raise ModelIOError(f"{path}: no checkpoint of this version of finetune; start anew")
    # through JSON, as the checkpoint's own went: tuples are lists there
    wanted, there = json.loads(json.dumps(settings)), held["settings"]
    for key in sorted({*wanted, *there}):
        if wanted.get(key) != there.get(key):
            raise UsageError(
                f"{path}: that run had {key} = {there.get(key)}, this one has {wanted.get(key)}; "
                "resume with the same settings, or start anew without --resume"
            )
    return tensors, held


def restore(
    module: nn.Module, optimizer: Optimizer, tensors: dict[str, Tensor], scalars: dict[str, Any]
) -> None:
    """Put a checkpoint's tensors where they belong; raises ``UsageError`` if they do not fit."""
    state = {n.removeprefix("module/"): v for n, v in tensors.items() if n.startswith("module/")}
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise UsageError(f"the checkpoint is of another network: {error}") from error
    everything = {**tensors, **scalars}
    for name, parameter in module.named_parameters():
        start = f"optimizer/{name}/"
        own = {n.removeprefix(start): v for n, v in everything.items() if n.startswith(start)}
        if own:  # ``step`` of AdamW stays on the CPU, as torch keeps it
            optimizer.state[parameter] = {
                key: value.to(parameter.device)
                if isinstance(value, torch.Tensor) and value.dim()
                else value
                for key, value in own.items()
            }


def _safetensors() -> Any:
    try:
        import safetensors
        import safetensors.torch
    except ImportError as error:
        raise MissingPackageError(
            "checkpoints need safetensors (pip install safetensors)"
        ) from error
    return safetensors
