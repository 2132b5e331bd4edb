"""``normsurgery.doctor``: what is installed, what runs, what is wrong, and what mends it.

Versions come from the packages' metadata. Whether onnxruntime, CUDA and torch really start is tried
out in child processes, since a broken installation can take the process with it.
"""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

import normsurgery
from normsurgery import isolation, probing, providers
from normsurgery.errors import NormSurgeryError, UsageError
from normsurgery.isolation import Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from normsurgery.probing import Nvidia

PACKAGES = ("numpy", "onnx", "onnx-ir", "onnxscript", "torch", "safetensors", "pillow")
"""What is listed besides onnxruntime; all but the first two are optional."""

NEEDS = ("cpu", "cuda", "torch")
"""What can be asked for."""

_INSTALL_TORCH = 'pip install "normsurgery[torch]"'
_INSTALL_DRIVER = (
    "install NVIDIA's driver (nvidia-smi must work); a container is started with --gpus all"
)
_RECORDS = (1, 24)
_SECONDS = 120.0


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: ``cpu``, ``cuda``, ``torch``, or what else was looked at.
        ok: whether it works.
        text: what was found.
        mend: the command, or the deed, that mends it; empty where nothing is wrong.

    """

    name: str
    ok: bool
    text: str
    mend: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """The state of this environment.

    Attributes:
        system: versions of Python, of the system, and free memory.
        packages: versions by distribution; None for what is not installed.
        onnxruntime: the distributions that own it, with versions; one, if all is well.
        providers: the execution providers that it was built with.
        nvidia: driver, devices and libraries, as far as they are there.
        findings: what works and what does not.
        required: of the findings, those that must work.

    """

    system: dict[str, str]
    packages: dict[str, str | None]
    onnxruntime: dict[str, str]
    providers: tuple[str, ...]
    nvidia: Nvidia
    findings: tuple[Finding, ...]
    required: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Everything that is required works."""
        return not self.missing()

    def missing(self) -> tuple[Finding, ...]:
        """What is required and does not work."""
        return tuple(f for f in self.findings if f.name in self.required and not f.ok)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: plain types only."""
        return {"ok": self.ok, **asdict(self)}


def doctor(require: Sequence[str] = ()) -> Diagnosis:
    """Look at onnxruntime, CUDA and torch, and say what is wrong and what mends it.

    require: of ``cpu``, ``cuda`` and ``torch``, what must work besides the CPU. It decides
    ``ok``; a thing that is missing is no error.

    Raises ``UsageError`` for a name that is none of these.
    """
    unknown = [name for name in require if name not in NEEDS]
    if unknown:
        raise UsageError(f"nothing is called {unknown[0]!r}; choose from {', '.join(NEEDS)}")
    wheels, built, nvidia, trouble = _looked()
    torch = _version("torch")
    findings = (
        _cpu(trouble),
        _wheels(wheels),
        _cuda(wheels, built, nvidia, trouble),
        _record(wheels),
        _torch(torch),
    )
    return Diagnosis(
        {
            "normsurgery": normsurgery.__version__,
            "python": platform.python_version(),
            "system": platform.platform(),
            "free_memory": f"{isolation.free_memory() / 1e9:.3g} GB",
        },
        {name: _version(name) for name in PACKAGES},
        wheels,
        built,
        nvidia,
        tuple(finding for finding in findings if finding is not None),
        tuple(dict.fromkeys(("cpu", *require))),
    )


def cuda() -> Finding:
    """What ``doctor`` finds of CUDA alone."""
    wheels, built, nvidia, trouble = _looked()
    return _cuda(wheels, built, nvidia, trouble)


def _looked() -> tuple[dict[str, str], tuple[str, ...], Nvidia, str]:
    """The wheels of onnxruntime, its providers, what of NVIDIA is there; and why it has none."""
    wheels = {name: _version(name) or "?" for name in providers.wheels()}
    nvidia: Nvidia = _tried(probing.nvidia) or probing.Nvidia()
    if not wheels:
        return wheels, (), nvidia, "onnxruntime is not installed"
    found = _try(probing.built_with)
    if isinstance(found, str):
        return wheels, (), nvidia, found
    return wheels, tuple(found), nvidia, ""


def _cpu(trouble: str) -> Finding:
    """A session on the CPU gives the right numbers."""
    trouble = trouble or _try(probing.starts, provider=providers.CPU)
    if trouble:
        return Finding("cpu", False, trouble, providers.INSTALL[providers.CPU])
    return Finding("cpu", True, "onnxruntime runs on the CPU")


def _wheels(wheels: dict[str, str]) -> Finding | None:
    if len(wheels) < 2:
        return None
    names = " and ".join(wheels)
    keep = "normsurgery[gpu]" if any("gpu" in name for name in wheels) else "normsurgery[cpu]"
    mend = f'pip uninstall -y {" ".join(wheels)} && pip install "{keep}"'
    return Finding("wheels", False, f"{names} are installed over each other", mend)


def _cuda(wheels: dict[str, str], built: tuple[str, ...], nvidia: Nvidia, trouble: str) -> Finding:
    """A session on CUDA starts, runs its nodes there and gives the right numbers."""
    mend = providers.INSTALL[providers.CUDA]
    if trouble or len(wheels) > 1:
        text = trouble or f"{' and '.join(wheels)} are installed over each other"
        return Finding("cuda", False, text, mend)
    if providers.CUDA not in built:
        text = f"{next(iter(wheels))} was built without CUDA"
        if not nvidia.driver:
            text += ", and no NVIDIA driver is there"
            return Finding("cuda", False, text, f"{_INSTALL_DRIVER}; then {mend}")
        return Finding("cuda", False, f"{text}, though an NVIDIA driver is there", mend)
    if not nvidia.driver:
        return Finding("cuda", False, "no NVIDIA driver is there", _INSTALL_DRIVER)
    trouble = _try(probing.starts, provider=providers.CUDA)
    if not trouble:
        return Finding("cuda", True, f"onnxruntime runs on CUDA, driver {nvidia.driver}")
    if nvidia.lacks:
        text = f"libraries are missing: {nvidia.lacks}"
        return Finding("cuda", False, text, 'pip install "onnxruntime-gpu[cuda,cudnn]"')
    return Finding("cuda", False, trouble, mend)


def _record(wheels: dict[str, str]) -> Finding | None:
    """Whether onnxruntime says where nodes run: what proves a CUDA verdict."""
    for name, version in wheels.items():
        parts = version.split(".")[:2]
        if all(part.isdigit() for part in parts) and tuple(map(int, parts)) < _RECORDS:
            text = f"{name} {version} does not record where nodes run: no verdict on CUDA"
            return Finding("placement", False, text, f'pip install -U "{name}>=1.24"')
    return None


def _torch(version: str | None) -> Finding:
    if version is None:
        return Finding("torch", False, "torch is not installed", _INSTALL_TORCH)
    found = _try(probing.torch)
    if isinstance(found, str):
        return Finding("torch", False, found, _INSTALL_TORCH)
    return Finding("torch", True, f"torch {version} {'with' if found else 'without'} CUDA")


def _try(probe: Callable[..., Any], **arguments: Any) -> Any:
    """What a probe finds, or the line of what it died of."""
    try:
        return isolation.call(probe, arguments, limits=Limits(_SECONDS, isolation.NO_CAP))
    except NormSurgeryError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001  # a broken installation raises what it likes
        return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


def _tried(probe: Callable[..., Any]) -> Any:
    found = _try(probe)
    return None if isinstance(found, str) else found


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
