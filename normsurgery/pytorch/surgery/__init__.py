"""``normsurgery.pytorch.convert`` and ``fold``: the same surgery on an ``nn.Module``.

One algorithm, two front doors. The module is exported (``opening``), the graph is converted or
folded by the code that does it for files (``converting``, ``folding``), and what changed there is
carried back: constants into parameters (``places``), norms into modules (``building``). So
converting first and exporting then gives what exporting first and converting then gives. What the
module cannot express (a weight that is read in two places) keeps its affine map in front of the
norm, or its norm, and the report says so.
"""

from __future__ import annotations

from normsurgery.pytorch.surgery.converting import convert
from normsurgery.pytorch.surgery.folding import fold
from normsurgery.pytorch.surgery.result import ModuleResult

__all__ = ["ModuleResult", "convert", "fold"]
