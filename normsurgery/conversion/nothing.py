"""What to do about a model in which there was nothing to convert."""

from __future__ import annotations

from typing import TYPE_CHECKING

from normsurgery import models
from normsurgery.conversion import sample_norms
from normsurgery.conversion.sample_norms import SampleNorm
from normsurgery.graph import Graph

if TYPE_CHECKING:
    from normsurgery import io
    from normsurgery.conversion.report import ConvertReport

AGAIN = "convert the model that it was made from"


def why(original: io.Model, content: io.Model, report: ConvertReport) -> str:
    """Return a line on a model of which no norm was converted.

    original: as it was, with the verbs that it has been through; content: as it is now. Empty where
    the reasons why its norms stay say it all.
    """
    verbs = models.history(original)
    told = f"normsurgery.history: {','.join(verbs)}"
    there = [one for one in sample_norms.find(Graph(content)) if isinstance(one, SampleNorm)]
    back = "`--to batch --data DATA` takes its norms back" if there else ""
    if "convert" in verbs:
        return f"already converted ({told}): {AGAIN}" + (f", or {back}" if back else "")
    if report.left:
        return ""
    if "fold" in verbs:
        unfold = "`normsurgery unfold --data DATA` puts norms back"
        return f"no norm to convert, it was folded ({told}): {AGAIN}, or {unfold}"
    if there:
        count = f"{len(there)} norm{'' if len(there) == 1 else 's'}"
        return f"no norm to convert: it has {count} of each sample; {back}"
    return "no norm to convert: if its exporter folded them, `normsurgery unfold` helps"
