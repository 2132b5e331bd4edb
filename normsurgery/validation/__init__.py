"""Parity: whether two models compute the same, judged by an error budget against float64.

A fixed tolerance passes broken models and fails good ones. Here a candidate may be as far from a
float64 oracle as the reference itself is, times a small bound (``verdict``).
"""

from __future__ import annotations

from normsurgery.validation.api import validate
from normsurgery.validation.certificate import LocalCertificate, certify
from normsurgery.validation.coverage import Coverage, coverage
from normsurgery.validation.diverging import Course
from normsurgery.validation.drift import Drift, drift
from normsurgery.validation.isolated import check
from normsurgery.validation.plan import Plan
from normsurgery.validation.report import ProviderRun, Validation
from normsurgery.validation.result import Parity
from normsurgery.validation.sweep import course
from normsurgery.validation.verdict import parity

__all__ = [
    "Course",
    "Coverage",
    "Drift",
    "LocalCertificate",
    "Parity",
    "Plan",
    "ProviderRun",
    "Validation",
    "certify",
    "check",
    "course",
    "coverage",
    "drift",
    "parity",
    "validate",
]
