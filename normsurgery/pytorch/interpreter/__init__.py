"""Any ONNX graph of the CNN operator set as a trainable ``torch.nn.Module``.

``to_module`` turns a graph into a flat list of steps once (``building``), each a closure whose
attributes, constants and paddings are resolved (``operators``, one function per operator, found
by being there), and checks the result against onnxruntime on the spot (``checking``). What runs
at each forward is a loop over that list (``program``).
"""

from __future__ import annotations

from normsurgery.pytorch.interpreter.api import to_module
from normsurgery.pytorch.interpreter.module import GraphModule
from normsurgery.pytorch.interpreter.writing import UpdateReport, UpdateResult, update_weights

__all__ = ["GraphModule", "UpdateReport", "UpdateResult", "to_module", "update_weights"]
