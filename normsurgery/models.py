"""The forms in which the library takes a model and gives one back."""

from __future__ import annotations

import os
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnx import ModelProto

import normsurgery
from normsurgery import io
from normsurgery.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable


SOURCE = "normsurgery.source_sha256"
VERB = "normsurgery.verb"
HISTORY = "normsurgery.history"  # all verbs from the first to the last, with commas


class Form(Enum):
    """How the caller's model came in."""

    PATH = "path"
    PROTO = "onnx.ModelProto"
    IR = "onnx_ir.Model"


def take(model: str | os.PathLike[str] | ModelProto | io.Model | Any) -> tuple[io.Model, Form]:
    """Load a copy of ``model``: a path, a ModelProto, an ``onnx_ir.Model`` or a loaded Model."""
    if isinstance(model, (str, os.PathLike)):
        return io.load(model), Form.PATH
    if isinstance(model, ModelProto):
        return io.from_proto(model), Form.PROTO
    if isinstance(model, io.Model):
        return replace(model, proto=_copy(model.proto)), Form.PATH
    if type(model).__module__.split(".")[0] == "onnx_ir":
        return _from_ir(model), Form.IR
    raise UsageError(
        f"a {type(model).__name__} is no model; pass a path, onnx.ModelProto or onnx_ir.Model"
    )


def give_back(model: io.Model, form: Form) -> Any:
    """Return the model as an ``onnx_ir.Model`` if it came as one, else as a ModelProto."""
    proto = io.to_proto(model)
    if form is Form.IR:
        import onnx_ir

        return onnx_ir.from_proto(proto)
    return proto


def stamp(model: io.Model, verb: str, source_hash: Callable[[], str]) -> None:
    """Record in ``metadata_props`` what made the model: version, verbs and source.

    source_hash: gives the SHA-256 of the source file, without its external data, or of the
    serialized model if it came as an object. It is asked when the model is written.
    """
    ours = {
        "normsurgery.version": normsurgery.__version__,
        VERB: verb,
        HISTORY: ",".join((*history(model), verb)),
    }
    props = model.proto.metadata_props
    for i in range(len(props) - 1, -1, -1):
        if props[i].key in {*ours, SOURCE}:
            del props[i]
    for key, value in ours.items():
        props.add(key=key, value=value)

    def trailer() -> bytes:
        last = ModelProto()
        last.metadata_props.add(key=SOURCE, value=source_hash())
        return last.SerializeToString()

    model.trailer = trailer


def verb(model: io.Model) -> str:
    """Return which verb of normsurgery made the model last, as ``stamp`` recorded it, or ""."""
    return _prop(model, VERB)


def history(model: io.Model) -> tuple[str, ...]:
    """Return every verb of normsurgery that the model has been through, the first one first."""
    return tuple(one for one in (_prop(model, HISTORY) or verb(model)).split(",") if one)


def since(model: io.Model, older: io.Model) -> tuple[str, ...]:
    """Return the verbs that ``model`` has been through since both were one, as far as recorded."""
    ours, theirs = history(model), history(older)
    shared = next(
        (i for i, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), None
    )
    return ours[min(len(ours), len(theirs)) if shared is None else shared :]


def _prop(model: io.Model, key: str) -> str:
    return next((prop.value for prop in model.proto.metadata_props if prop.key == key), "")


def _copy(proto: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(proto)
    return copy


def _from_ir(model: Any) -> io.Model:
    """Serialize an ``onnx_ir.Model``; external tensors stay in their files."""
    import onnx_ir

    folders = {
        Path(tensor.base_dir)
        for value in model.graph.initializers.values()
        if isinstance(tensor := value.const_value, onnx_ir.ExternalTensor)
    }
    if len(folders) > 1:
        raise UsageError("the onnx_ir.Model has external data in several folders; save it first")
    path = next((folder / "model.onnx" for folder in folders), None)
    return io.from_proto(onnx_ir.to_proto(model), path)
