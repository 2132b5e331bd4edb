"""normsurgery: normalization surgery on ONNX models.

``fold(model)`` absorbs BatchNormalization into the linear layers around it; ``inspect(model)``
says what it would do and why not; ``convert(model, to)`` puts group, instance or layer
normalization in the place of BN; ``validate(reference, candidate)`` proves that two models compute
the same. Errors: ``normsurgery.errors``. Loading and saving without
reading weights: ``normsurgery.io``. Nothing heavy is imported before it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from normsurgery.conversion import ConvertResult, convert
    from normsurgery.diagnosis import Diagnosis, doctor
    from normsurgery.errors import NormSurgeryError
    from normsurgery.fixing import fold
    from normsurgery.folding import FoldResult
    from normsurgery.inspection import Inspection, inspect
    from normsurgery.recalibration import RecalibrateResult, recalibrate
    from normsurgery.unfolding import UnfoldResult, unfold
    from normsurgery.validation import Validation, validate

_WHERE = {
    "ConvertResult": "normsurgery.conversion",
    "Diagnosis": "normsurgery.diagnosis",
    "FoldResult": "normsurgery.folding",
    "Inspection": "normsurgery.inspection",
    "NormSurgeryError": "normsurgery.errors",
    "Validation": "normsurgery.validation",
    "convert": "normsurgery.conversion",
    "doctor": "normsurgery.diagnosis",
    "fold": "normsurgery.fixing",
    "inspect": "normsurgery.inspection",
    "validate": "normsurgery.validation",
    "RecalibrateResult": "normsurgery.recalibration",
    "recalibrate": "normsurgery.recalibration",
    "UnfoldResult": "normsurgery.unfolding",
    "unfold": "normsurgery.unfolding",
}
__all__ = [
    "ConvertResult",
    "Diagnosis",
    "FoldResult",
    "Inspection",
    "NormSurgeryError",
    "RecalibrateResult",
    "UnfoldResult",
    "Validation",
    "__version__",
    "convert",
    "doctor",
    "fold",
    "inspect",
    "recalibrate",
    "unfold",
    "validate",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
