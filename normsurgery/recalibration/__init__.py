"""recalibrate: population statistics of every BatchNormalization, estimated anew on other data.

``rounds`` says in which order they are measured, ``batch_mode`` runs the network on batch
statistics, ``sums`` shares the work among processes, ``jobs`` and ``shards`` among jobs.
"""

from __future__ import annotations

from normsurgery.recalibration.api import recalibrate
from normsurgery.recalibration.jobs import merge, partial
from normsurgery.recalibration.opening import RecalibrateResult
from normsurgery.recalibration.report import RecalibrateReport
from normsurgery.recalibration.shards import Partial
from normsurgery.recalibration.sums import Alone, Peers

__all__ = [
    "Alone",
    "Partial",
    "Peers",
    "RecalibrateReport",
    "RecalibrateResult",
    "merge",
    "partial",
    "recalibrate",
]
