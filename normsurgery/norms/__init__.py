"""The norms that ``convert`` writes: one module a target, each with its encodings.

A target is a function marked ``@target``, in any module of this folder; it is registered by being
there. It says what the norm computes and writes it as ONNX nodes.
"""

from __future__ import annotations

from normsurgery.norms.table import Encoding, Norm, Target, load
from normsurgery.norms.writing import Writer

__all__ = ["Encoding", "Norm", "Target", "Writer", "load"]
