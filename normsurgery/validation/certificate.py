"""The local certificate: coefficients against their float64 values, no input needed.

A verdict sees what the inputs excite. A bug behind a channel that never fires, or behind an output
that saturates, shows in the coefficients alone. Two ways, the first that applies:

- **exact**: the candidate is, node by node, what ``fold`` makes of the reference (or the reference
  itself). The fold is made again, in memory, and each stored coefficient is compared with its
  unrounded float64 value: within 0.5 ulp. What fold does not touch is equal, byte by byte.
- **layers**: another tool folded, or nobody says who did. Each linear layer of both models, with
  the affine chain behind it (`blocks`), is one float64 map, computed from scratch. Within 8 ulp of
  the weight itself, and for a bias, of the sum of its terms: float32 arithmetic is off by 3 ulp of
  a weight, and by any number of ulp of a bias that cancelled.

Where some layers of the reference are gone, and the candidate has the nodes of a fold, its layers
are compared with those of the fold made again. By layers there is no telling a bug from a rewrite
that moves scales between layers, if all channels of a layer differ; that layer then has no
certificate, and the verdict alone judges. One where most channels agree and some do not is a
failure.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from normsurgery import folding, io, models
from normsurgery.errors import NormSurgeryError
from normsurgery.graph import Graph
from normsurgery.source import sha256
from normsurgery.validation import coefficients, layers
from normsurgery.validation.comparison import Status
from normsurgery.validation.pairing import pair

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from normsurgery.validation.coefficients import TensorCertificate

EXACT = 0.5
"""ULP from float64 that a coefficient rounded once may be away."""
ARITHMETIC = 8.0
"""ULP that float32 arithmetic of a fold explains: a few roundings; a bug is 1000 or more."""


@dataclass(frozen=True)
class LocalCertificate:
    """What the coefficients alone say.

    Attributes:
        status: passed; failed; or inconclusive where some or all have no certificate.
        how: ``fold``, ``unchanged``, ``layers``, or ``none``.
        bound: ULP up to which a coefficient is right.
        tensors: each compared tensor or layer, in the order of the graph.
        equal: how many more tensors are equal byte by byte.
        failures: what is wrong, one line each.
        reason: why there is no (or no whole) certificate.

    """

    status: Status
    how: str
    bound: float = EXACT
    tensors: tuple[TensorCertificate, ...] = ()
    equal: int = 0
    failures: tuple[str, ...] = ()
    reason: str = ""

    @property
    def ok(self) -> bool:
        """Nothing is wrong; a certificate that does not exist speaks neither for nor against."""
        return self.status is not Status.FAILED

    @property
    def count(self) -> int:
        """How many coefficients were compared with their float64 value."""
        return sum(one.count for one in self.tensors)

    @property
    def worst(self) -> TensorCertificate | None:
        """The tensor with the largest error."""
        return max(self.tensors, key=lambda one: one.max_ulp, default=None)

    @property
    def mean_ulp(self) -> float:
        """The mean error over all coefficients."""
        return sum(one.mean_ulp * one.count for one in self.tensors) / max(self.count, 1)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: plain types only."""
        return {"ok": self.ok, "mean_ulp": self.mean_ulp, **asdict(self)}

    def line(self) -> str:
        """One line for a terminal."""
        if self.status is Status.FAILED:
            more = f" (and {len(self.failures) - 1} more)" if len(self.failures) > 1 else ""
            return f"certificate: FAILED: {self.failures[0]}{more}"
        if self.how == "none":
            return f"no certificate: {self.reason}"
        if not self.tensors:
            return f"certificate: all {self.equal} tensors are those of the reference"
        line = f"certificate: {self.count} coefficients in {len(self.tensors)} "
        line += "tensors" if self.how == "fold" else "layers"
        if self.worst is not None:
            line += f", {self.worst.max_ulp:.3f} ulp from float64 at most"
            line += f" ({self.worst.place}), {self.mean_ulp:.3f} on average"
        if self.equal:
            line += f"; {self.equal} more tensors equal"
        return f"{line}; {self.reason}" if self.reason else line


def certify(
    reference: str | os.PathLike[str], candidate: str | os.PathLike[str]
) -> LocalCertificate:
    """Compare the coefficients of two model files; neither is run.

    Raises:
        NormSurgeryError: the *reference* cannot be read. Of a candidate that cannot, there is no
            certificate.

    """
    ours = io.load(reference)
    try:
        theirs = io.load(candidate)
        found = Graph(theirs)
        claimed = _claims(ours, theirs)
        loose: list[str] = []
        nearest: io.Model | None = None
        for how, model in _expected(ours, claimed=claimed):
            pairing = pair(Graph(model), found)
            if pairing.mismatch:
                continue
            compared = coefficients.compare(pairing.leaves, model.store, theirs.store)
            failures = compared.failures(EXACT)
            if claimed or not failures:
                return LocalCertificate(
                    Status.FAILED if failures else Status.PASSED,
                    how,
                    EXACT,
                    compared.tensors,
                    compared.equal,
                    tuple(failures),
                )
            nearest, loose = model, compared.few(ARITHMETIC)
        certificate = _by_layers(Graph(ours), found, loose)
        if certificate.reason and certificate.ok and nearest is not None:
            return _by_layers(Graph(nearest), found, loose, folded=True)
        return certificate
    except NormSurgeryError as failure:
        return LocalCertificate(Status.INCONCLUSIVE, "none", reason=str(failure))


def _claims(reference: io.Model, candidate: io.Model) -> bool:
    """Whether the candidate's metadata says that fold made it of this very reference."""
    props = {entry.key: entry.value for entry in candidate.proto.metadata_props}
    if props.get("normsurgery.verb") != "fold" or reference.source is None:
        return False
    return props.get(models.SOURCE) == sha256(reference.source)()


def _expected(reference: io.Model, *, claimed: bool) -> Iterator[tuple[str, io.Model]]:
    """Yield the models that the candidate may be, the likeliest first."""
    # Without its source nothing hashes the file beside the fold, and after this has returned.
    source = replace(reference, source=None)
    if not claimed:
        yield "unchanged", reference
    yield "fold", folding.fold(source).content
    fed = {value.name for value in reference.proto.graph.input}
    if any(tensor.name in fed for tensor in reference.proto.graph.initializer):
        yield "fold", folding.fold(source, freeze_inputs=True).content
    if claimed:
        yield "unchanged", reference


def _by_layers(
    reference: Graph, candidate: Graph, loose: list[str], *, folded: bool = False
) -> LocalCertificate:
    found = layers.compare(reference, candidate, ARITHMETIC, folded=folded)
    # where layers were rewritten, the constants between them may have been too
    rewritten = found.reason and found.reason != layers.NO_LAYERS
    failures = tuple(dict.fromkeys([*found.failures, *([] if rewritten else loose)]))
    how = "layers" if found.tensors else "none"
    status = Status.PASSED if found.tensors and not found.reason else Status.INCONCLUSIVE
    return LocalCertificate(
        Status.FAILED if failures else status,
        how,
        ARITHMETIC,
        found.tensors,
        0,
        failures,
        found.reason,
    )
