"""Raise a model's operator set, where an encoding needs a newer one."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from onnx import TensorProto, defs, numpy_helper, version_converter

from normsurgery import io
from normsurgery.errors import UsageError
from normsurgery.graph import ONNX_DOMAINS
from normsurgery.nodes import bodies, label

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from onnx import ModelProto, NodeProto
    from onnx.defs import OpSchema

PER_CHANNEL = 21  # from here on, GroupNormalization has a scale per channel
# Least IR version of an operator set (onnx/helper.py: OP_SET_ID_VERSION_MAP, its column of IR).
IR_OF = {7: 3, 17: 8, 21: 10}


def version_of(proto: ModelProto) -> int:
    """Return the version of the ONNX operator set; models before IR 3 had version 1."""
    return max((o.version for o in proto.opset_import if o.domain in ONNX_DOMAINS), default=1)


def raised(model: io.Model, least: int) -> tuple[io.Model, str]:
    """Return ``model`` with operator set ``least`` or higher, and what was done, if anything.

    By onnx's version converter; where that cannot, by hand, which is right where every operator in
    use has kept its inputs and attributes: then the number alone changes. The whole model is read.

    Raises ``UsageError`` if neither can.
    """
    have = version_of(model.proto)
    if have >= least:
        return model, ""
    try:
        proto = io.to_proto(model)
    except UsageError:
        raise UsageError(
            f"opset {have} cannot be raised to {least}: the model is over 2 GiB; "
            "choose the encoding `instance`, which needs 7"
        ) from None
    reason = _old_group_normalization(proto) if have < PER_CHANNEL <= least else ""
    how = ""
    if proto.functions or proto.graph.sparse_initializer:
        how = "onnx's converter loses functions and sparse tensors"
    elif not reason:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                converted = version_converter.convert_version(proto, least)
        except Exception as error:  # noqa: BLE001  a C++ library on an arbitrary model
            how = f"onnx's converter: {next(iter(str(error).splitlines()), '')}"
        else:
            if _same_names(proto, converted):
                _restore(proto, converted)
                return _taken(converted, model, least), f"opset {have} → {least}, by onnx"
            how = "onnx's converter renames an input or output"
    reason = reason or _changed_operator(proto, have, least)
    if reason:
        how = f" ({how})" if how else ""
        raise UsageError(
            f"opset {have} cannot be raised to {least}: {reason}{how}; "
            "choose the encoding `instance`, which needs 7"
        )
    for opset in proto.opset_import:
        if opset.domain in ONNX_DOMAINS:
            opset.version = least
    for function in proto.functions:
        for opset in function.opset_import:
            if opset.domain in ONNX_DOMAINS:
                opset.version = least
    return _taken(proto, model, least), f"opset {have} → {least}, by hand"


def _taken(proto: ModelProto, model: io.Model, least: int) -> io.Model:
    """Return a loaded model of ``proto`` that is saved as ``model`` would be.

    Before IR 4 an initializer had to be listed as an input and was none; from then on, one that is
    listed may be overridden by the caller, so those are listed no more.
    """
    proto.ir_version = max(proto.ir_version, IR_OF.get(least, 0), 3)
    if model.proto.ir_version < 4 <= proto.ir_version:
        weights = {tensor.name for tensor in proto.graph.initializer}
        for i in range(len(proto.graph.input) - 1, -1, -1):
            if proto.graph.input[i].name in weights:
                del proto.graph.input[i]
    made = io.from_proto(proto, model.path)
    made.external, made.checksum = model.external, model.checksum
    return made


def _restore(before: ModelProto, after: ModelProto) -> None:
    """Put back what onnx's converter loses of a model that it converts."""
    for field in ("metadata_props", "training_info"):
        if not getattr(after, field):
            getattr(after, field).extend(getattr(before, field))
    if not after.graph.quantization_annotation:
        after.graph.quantization_annotation.extend(before.graph.quantization_annotation)
    after.doc_string = before.doc_string
    after.producer_name, after.producer_version = before.producer_name, before.producer_version
    after.ir_version = max(before.ir_version, after.ir_version)


def _same_names(before: ModelProto, after: ModelProto) -> bool:
    """Whether inputs and outputs are called as they were."""

    def names(proto: ModelProto) -> tuple[list[str], list[str]]:
        weights = {t.name for t in proto.graph.initializer}
        inputs = [v.name for v in proto.graph.input if v.name not in weights]
        return inputs, [v.name for v in proto.graph.output]

    return names(before) == names(after)


def _nodes(proto: ModelProto) -> Iterator[NodeProto]:
    waiting: list[Iterable[NodeProto]] = [proto.graph.node, *(f.node for f in proto.functions)]
    while waiting:
        for node in waiting.pop():
            yield node
            waiting += [body.node for body in bodies(node)]


def _changed_operator(proto: ModelProto, have: int, least: int) -> str:
    """Return the first operator whose inputs or attributes are not the same in both sets."""
    for node in _nodes(proto):
        if node.domain not in ONNX_DOMAINS:
            continue
        try:
            old, new = (defs.get_schema(node.op_type, v) for v in (have, least))
        except defs.SchemaError:
            return f"{label(node)} is no operator of both"
        if old.since_version != new.since_version and not _compatible(old, new):
            return f"{label(node)} is another operator since {new.since_version}"
    return ""


def _compatible(old: OpSchema, new: OpSchema) -> bool:
    """Whether a node of the old schema means the same under the new one, as far as they tell."""
    if old.name == "GroupNormalization":  # looked after by itself
        return True
    same = all(
        name in new.attributes
        and new.attributes[name].default_value == attribute.default_value
        and new.attributes[name].required == attribute.required
        for name, attribute in old.attributes.items()
    )
    names = [[one.name for one in schema.inputs] for schema in (old, new)]
    return same and len(names[0]) <= len(names[1]) and old.min_input == new.min_input


def _old_group_normalization(proto: ModelProto) -> str:
    """Give GroupNormalization of opset 18 its scale per channel; return what is in the way.

    onnx's converter leaves the scale per group, which is wrong.
    """
    tensors = {t.name: t for t in proto.graph.initializer}
    shapes = {v.name: v.type.tensor_type.shape.dim for v in proto.graph.value_info}
    shapes |= {v.name: v.type.tensor_type.shape.dim for v in proto.graph.input}
    for node in _nodes(proto):
        if node.op_type != "GroupNormalization" or node.domain not in ONNX_DOMAINS:
            continue
        dims = list(shapes.get(node.input[0], ()))
        channels = dims[1].dim_value if len(dims) > 1 else 0
        for slot in (1, 2):
            tensor = tensors.get(node.input[slot])
            if tensor is None or not channels:
                return f"{label(node)} has a scale per group, of an unknown tensor or width"
            node.input[slot] = _repeated(proto, tensor, channels)
    return ""


def _repeated(proto: ModelProto, tensor: TensorProto, channels: int) -> str:
    values = numpy_helper.to_array(tensor)
    if values.size == channels:
        return tensor.name
    name = f"{tensor.name}_per_channel"
    if all(t.name != name for t in proto.graph.initializer):
        made = numpy_helper.from_array(values.repeat(channels // values.size), name)
        proto.graph.initializer.append(made)
    return name
