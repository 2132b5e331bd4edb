"""onnxruntime's execution providers: their names, how they are started, and what mends them.

Nothing here imports onnxruntime.
"""

from __future__ import annotations

import importlib.metadata

from normsurgery.errors import MissingPackageError, UsageError

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"

INSTALL = {
    CPU: 'pip install "normsurgery[cpu]"',
    CUDA: 'pip uninstall -y onnxruntime onnxruntime-gpu && pip install "normsurgery[gpu]"',
}
"""The command that mends a missing or broken provider."""


def full_name(name: str) -> str:
    """The full name of a provider: ``cpu`` and ``CPU`` are ``CPUExecutionProvider``.

    Raises ``UsageError`` for one that nobody here knows how to run.
    """
    full = {"cpu": CPU, "cuda": CUDA, CPU.lower(): CPU, CUDA.lower(): CUDA}.get(name.lower())
    if full is None:
        raise UsageError(f"unknown provider {name!r}; choose from cpu and cuda")
    return full


def short_name(provider: str) -> str:
    """``CPU`` of ``CPUExecutionProvider``."""
    return provider.removesuffix("ExecutionProvider")


def options(provider: str, *, tf32: bool = False) -> dict[str, str]:
    """What a provider is started with.

    TensorFloat-32 keeps 10 bits of a product's factors and is on by default. The default search
    for a convolution algorithm times all of them, and so may choose another one at every start.
    """
    if provider != CUDA:
        return {}
    return {"use_tf32": str(int(tf32)), "cudnn_conv_algo_search": "DEFAULT"}


def wheels() -> list[str]:
    """The installed distributions that own ``onnxruntime``; two overwrite each other."""
    return sorted(set(importlib.metadata.packages_distributions().get("onnxruntime", ())))


def why_absent(version: str) -> str:
    """Why the installed onnxruntime of `version` lacks a provider."""
    found = wheels()
    if len(found) > 1:
        return f"{' and '.join(found)} are installed over each other"
    return f"{found[0] if found else 'onnxruntime'} {version} was built without it"


def missing(provider: str, why: str, mend: str = "") -> MissingPackageError:
    """The error for a provider that cannot be used, with the command that mends it."""
    command = mend or INSTALL.get(provider, "use an onnxruntime build that has it")
    return MissingPackageError(f"{provider} cannot be used: {why}; mend it with: {command}")
