"""The layers of two models, as float64 maps, against each other: whoever folded, and how far."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from normsurgery.dtypes import FLOATS, half_ulp, tiny
from normsurgery.errors import NormSurgeryError
from normsurgery.validation.blocks import Block, Effective, blocks, effective
from normsurgery.validation.coefficients import TensorCertificate, summed_up

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from normsurgery.dtypes import Array
    from normsurgery.graph import Graph

NO_LAYERS = "the reference has no linear layer with constant weights"


@dataclass(frozen=True)
class Layers:
    """The layers that agree, those that fail, and why some have no certificate."""

    tensors: tuple[TensorCertificate, ...]
    failures: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class _Wrong:
    """A layer of which some channels are off; what they are times, if they are multiples at all."""

    label: str
    text: str
    factors: tuple[float, ...]

    @property
    def moved(self) -> bool:
        return bool(self.factors)


def compare(reference: Graph, candidate: Graph, bound: float, *, folded: bool = False) -> Layers:
    """Compare the layers of the main graphs in float64, one pair at a time.

    bound: ULP of a weight, and of the sum of the terms of a bias, that rounding explains.
    folded: the reference is one already, so that nobody knows what its biases were summed from.
    What a norm subtracts is a few times what the layer makes of inputs of size 1: 4·‖W‖ per channel
    stands in for it.
    """
    ours, theirs = blocks(reference.main), blocks(candidate.main)
    if not ours:
        return Layers((), (), NO_LAYERS)
    tensors: list[TensorCertificate] = []
    wrong: list[_Wrong] = []
    other: list[str] = []
    pairs = list(_pairs(ours, theirs))
    for one, twin in pairs:
        found = _compare(one, twin, bound, folded=folded)
        if found is None:
            other.append(twin.label)
        elif isinstance(found, _Wrong):
            wrong.append(found)
        else:
            tensors.append(found)
    # Channels that were scaled or changed places are right if another layer makes up for it.
    excused = [one.label for one in wrong if one.moved and (other or _made_up_for(one, wrong))]
    failures = [one.text for one in wrong if one.label not in excused]
    other += excused
    lost = len(ours) - len(pairs)
    reasons = []
    if lost:
        reasons.append(f"{lost} of {len(ours)} layers have no counterpart")
    if other:
        reasons.append(f"{len(other)} of {len(ours)} layers are not those of a fold ({other[0]})")
    return Layers(tuple(tensors), tuple(failures), ", ".join(reasons))


def _pairs(ours: list[Block], theirs: list[Block]) -> Iterator[tuple[Block, Block]]:
    """Pair layers of one signature: by what they make, else in order if they are as many."""
    made = {block.output: block for block in theirs}
    left: dict[tuple[object, ...], list[Block]] = defaultdict(list)
    taken = set()
    for block in ours:
        twin = made.get(block.output)
        if twin is not None and twin.signature == block.signature:
            taken.add(id(twin))
            yield block, twin
        else:
            left[block.signature].append(block)
    right: dict[tuple[object, ...], list[Block]] = defaultdict(list)
    for block in theirs:
        if id(block) not in taken:
            right[block.signature].append(block)
    for signature, some in left.items():
        if len(right[signature]) == len(some):
            yield from zip(some, right[signature], strict=True)


def _compare(
    one: Block, twin: Block, bound: float, *, folded: bool
) -> TensorCertificate | _Wrong | None:
    """Return the certificate of a layer, what is wrong with it, or None if it is another one."""
    if twin.elem_type != one.elem_type or one.elem_type not in FLOATS:
        return None
    try:
        with np.errstate(all="ignore"):
            exact, found = effective(one), effective(twin)
    except (NormSurgeryError, ValueError):  # a constant that is no tensor, or does not broadcast
        return None
    if folded:
        norms = np.linalg.norm(exact.W.reshape(len(exact.W), -1), axis=1)
        exact = replace(exact, size=exact.size + 4 * norms)
    # an ulp of x as 2⁻²³·|x| for float32: a correct rounding is within half of it
    unit, least = 4 * half_ulp(one.elem_type), tiny(one.elem_type)
    with np.errstate(all="ignore"):
        weights = np.abs(found.W - exact.W) / (unit * np.maximum(np.abs(exact.W), least))
        biases = np.abs(found.b - exact.b) / (unit * np.maximum(exact.size, least))
    channels = len(biases)
    errors = np.concatenate([weights.reshape(channels, -1), biases[:, None]], axis=1)
    errors = np.where(np.isnan(errors), np.inf, errors)
    wide = [
        np.concatenate([m.W.reshape(channels, -1), m.b[:, None]], axis=1) for m in (exact, found)
    ]
    entry = summed_up(twin.label, errors, *wide)
    wrong = np.flatnonzero(~(errors.max(axis=1) <= bound))
    if not len(wrong):
        return replace(entry, worst=entry.worst[:1])
    if len(wrong) > channels / 2:
        return None
    what = "bias" if entry.worst[1] == errors.shape[1] - 1 else "weights"
    some = ", ".join(map(str, wrong[:5])) + (", …" if len(wrong) > 5 else "")
    text = (
        f"{twin.label}: {what} of channel {entry.worst[0]} are off by {entry.max_ulp:.3g} ulp "
        f"({entry.found:.6g} in place of {entry.expected:.6g}); "
        f"wrong channels: {some}, of {channels}"
    )
    return _Wrong(twin.label, text, _factors(exact, found, wrong))


def _factors(exact: Effective, found: Effective, wrong: Array) -> tuple[float, ...]:
    """Return what the wrong channels are times, in ascending order.

    A channel's weights may be a positive multiple of those of any wrong channel; its bias is then
    scaled too (the layer's output was), or is as it was (its input was). Empty if they are not.
    """
    ours, theirs = (m.W.reshape(len(m.W), -1)[wrong] for m in (exact, found))
    with np.errstate(all="ignore"):
        sizes = [np.linalg.norm(rows, axis=1) for rows in (ours, theirs)]
        cosines = (theirs / sizes[1][:, None]) @ (ours / sizes[0][:, None]).T
    if not (np.nan_to_num(cosines).max(axis=1) > 1 - 1e-6).all():
        return ()
    from_ = cosines.argmax(axis=1)
    factors = sizes[1] / sizes[0][from_]
    b, old = found.b[wrong], exact.b[wrong][from_]
    near = 1e-5 * (np.abs(old) + exact.size[wrong][from_])
    right = (np.abs(b - factors * old) <= factors * near) | (np.abs(b - old) <= near)
    return tuple(sorted(float(f) for f in factors)) if right.all() else ()


def _made_up_for(one: _Wrong, wrong: Sequence[_Wrong]) -> bool:
    """Whether another layer has the reciprocal factors."""
    back = sorted(1 / factor for factor in one.factors)
    return any(
        len(other.factors) == len(back) and np.allclose(other.factors, back, rtol=1e-5)
        for other in wrong
        if other is not one
    )
