"""Group normalization, https://arxiv.org/abs/1803.08494, and how runtimes like it written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from normsurgery import dtypes
from normsurgery.norms.table import Encoding, Norm, target

if TYPE_CHECKING:
    from normsurgery.norms.writing import Writer

# Below 7, Mul and Add do not broadcast; LayerNormalization is of 17, GroupNormalization with a
# scale per channel of 21 (its form of 18 has one per group, and is deprecated).
ENCODINGS = {"instance": 7, "layer": 17, "native": 21}


@target("group", ENCODINGS)
def group(writer: Writer, value: str, norm: Norm, encoding: Encoding) -> str:
    """Normalize each group of C/G channels of a sample over channels and positions.

    *instance*: ``Reshape (N, G, M) → InstanceNormalization → Reshape → Mul → Add``: a group is one
    channel of M = C/G·H·W elements. *layer*: the same with LayerNormalization over the last axis.
    *native*: GroupNormalization, which onnxruntime's CPU provider takes apart with E[x²] − E[x]²:
    it is slower there and less exact. *auto* is *instance*, but *layer* for float64, for which
    onnxruntime has no InstanceNormalization, and for bfloat16, which that does not take before 22.
    """
    if encoding == "auto":
        encoding = automatic(writer)
    if encoding == "native":
        scale, B = writer.floats("scale", norm.scale), writer.floats("bias", norm.B)
        # statistics are computed in float32 by default, which would cost float64 its precision
        stash = {"stash_type": dtypes.DOUBLE} if writer.elem_type == dtypes.DOUBLE else {}
        return writer.add(
            "GroupNormalization", value, scale, B,
            num_groups=norm.groups, epsilon=norm.epsilon, **stash,
        )  # fmt: skip
    if encoding == "instance" and norm.groups == norm.channels and writer.rank > 2:
        return instance_normalization(writer, value, norm.scale, norm.B, norm.epsilon)
    shape = writer.integers("groups", [0, norm.groups, -1])
    grouped = writer.add("Reshape", value, shape)
    if encoding == "instance":
        one = np.ones(norm.groups)
        normalized = instance_normalization(writer, grouped, one, 0 * one, norm.epsilon)
    else:
        normalized = over_last_axis(writer, grouped, norm)
    back = writer.add("Reshape", normalized, writer.add("Shape", value))
    return scaled(writer, back, norm)


def automatic(writer: Writer) -> Encoding:
    """Return the encoding of the value's type that onnxruntime's CPU provider runs best."""
    wide = writer.elem_type in {dtypes.DOUBLE, dtypes.BFLOAT16}
    return "layer" if wide and writer.opset >= ENCODINGS["layer"] else "instance"


def instance_normalization(
    writer: Writer, value: str, scale: dtypes.Float64, B: dtypes.Float64, epsilon: float
) -> str:
    """Write InstanceNormalization; in float32 where it does not take bfloat16 (before 22)."""
    cast = writer.elem_type == dtypes.BFLOAT16 and writer.opset < 22
    elem_type = dtypes.FLOAT if cast else writer.elem_type
    if cast:
        value = writer.add("Cast", value, to=dtypes.FLOAT)
    names = (writer.floats("scale", scale, elem_type), writer.floats("bias", B, elem_type))
    made = writer.add("InstanceNormalization", value, *names, epsilon=epsilon)
    return writer.add("Cast", made, to=writer.elem_type) if cast else made


def over_last_axis(writer: Writer, grouped: str, norm: Norm) -> str:
    """Write LayerNormalization over the last axis of (N, G, M), with a scale of ones.

    The scale has M elements: runtimes differ in whether one element broadcasts. M is computed at
    run time where it is not known before.
    """
    positions = writer.dims[2:]
    if all(size is not None for size in positions):
        count = norm.channels // norm.groups * int(np.prod([size or 0 for size in positions]))
        ones = writer.floats("ones", np.ones(count))
    else:
        sizes = writer.add("Shape", grouped)
        two, three, axis = (writer.integers(f"at{i}", [i]) for i in (2, 3, 0))
        last = writer.add("Slice", sizes, two, three, axis)
        ones = writer.add("Expand", writer.floats("one", np.ones(1)), last)
    return writer.add("LayerNormalization", grouped, ones, axis=-1, epsilon=norm.epsilon)


def scaled(writer: Writer, value: str, norm: Norm) -> str:
    """Write ``scale·x + B`` per channel."""
    product = writer.add("Mul", value, writer.per_channel("scale", norm.scale))
    return writer.add("Add", product, writer.per_channel("bias", norm.B))
