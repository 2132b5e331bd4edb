"""``normsurgery.pytorch.to_module``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onnx import GraphProto, inliner

from normsurgery import models
from normsurgery.errors import GraphError
from normsurgery.graph import Graph
from normsurgery.pytorch.interpreter.building import Builder
from normsurgery.pytorch.interpreter.checking import check as check_module
from normsurgery.pytorch.interpreter.module import GraphModule
from normsurgery.pytorch.interpreter.stored import collect, held
from normsurgery.shapes import elem_type

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from onnx import ModelProto


def to_module(
    model: str | os.PathLike[str] | ModelProto | Any,
    *,
    train: Sequence[str] = (),
    check: bool = True,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> GraphModule:
    """Return an ONNX graph as a trainable module, in evaluation mode.

    model: a path, an ``onnx.ModelProto`` or an ``onnx_ir.Model``; it is never changed.
    train: glob patterns of float tensors to make parameters although the rules take them for
    constants (``interpreter/stored.py`` has the rules; one-element literals are the usual case).
    check: run the model under onnxruntime on made inputs and refuse the import if it differs.
    shapes: of the inputs to check with, by name, where the model does not run in made ones.

    Raises ``UnsupportedModelError`` for an operator that the interpreter lacks, ``ParityError``
    where the module computes something else than onnxruntime, ``MissingPackageError`` where
    onnxruntime is not there to check against, and what loading a model raises.
    """
    content, form = models.take(model)
    source = content.path if form is models.Form.PATH else None
    original = Graph(content)
    writable = {name for scope in original.scopes for name in held(scope)}
    graph = original
    if content.proto.functions:
        try:
            content.proto = inliner.inline_local_functions(content.proto)
        except (RuntimeError, ValueError) as failure:
            line = next(iter(str(failure).splitlines()), "")
            raise GraphError(f"the model's functions cannot be inlined: {line}") from None
        graph = Graph(content)
    main = graph.main
    assert isinstance(main.proto, GraphProto)  # noqa: S101  functions are never the main graph
    if main.sparse:
        raise GraphError(f"initializer {min(main.sparse)!r} is sparse; make it dense first")
    stored = {id(scope): collect(scope, train, writable) for scope in graph.scopes}
    wanted = [i.name for i in main.proto.input if i.name not in main.initializers]
    outputs = [o.name for o in main.proto.output]
    program = Builder(main, stored).build(wanted, outputs)
    module = GraphModule(
        program,
        stored,
        content.store,
        [(name, elem_type(main, name)) for name in wanted],
        outputs,
        [
            n.name or n.output[0]
            for s in graph.scopes
            for n in s.nodes
            if n.op_type == "BatchNormalization"
        ],
    )
    module.eval()
    if check:
        check_module(module, content, source, shapes)
    return module
