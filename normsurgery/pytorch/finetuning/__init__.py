"""Fine-tuning: train the weights of an ONNX model on small batches, and write ONNX again.

``api`` puts the parts together; ``loop`` is the training of any module, ``checkpoints`` what
survives a kill, ``processes`` what torchrun started, ``selecting`` which tensors are trained.
"""

from __future__ import annotations

from normsurgery.pytorch.finetuning.api import finetune
from normsurgery.pytorch.finetuning.progress import Epoch, Moment, Score
from normsurgery.pytorch.finetuning.result import FinetuneReport, FinetuneResult

__all__ = ["Epoch", "FinetuneReport", "FinetuneResult", "Moment", "Score", "finetune"]
