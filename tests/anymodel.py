"""Hypothesis strategies for models that use every place a tensor can be in, and unknown fields."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper

from normsurgery.wire import header

if TYPE_CHECKING:
    from collections.abc import Callable


def field(number: int, body: bytes) -> bytes:
    """Return a length-delimited field as it is on the wire."""
    return header(number, len(body)) + body


def key(number: int, wire_type: int) -> bytes:
    """Return the key of a field as it is on the wire."""
    return varint(number << 3 | wire_type)


def varint(value: int) -> bytes:
    """Return a base-128 number as it is on the wire."""
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def _group(inner: bytes) -> bytes:
    return key(777, 3) + inner + key(777, 4)


unknown_fields: st.SearchStrategy[bytes] = st.recursive(
    st.one_of(
        st.binary(max_size=40).map(lambda b: field(999, b)),
        st.integers(0, 2**64 - 1).map(lambda n: key(998, 0) + varint(n)),
        st.integers(0, 2**32 - 1).map(lambda n: key(997, 5) + struct.pack("<I", n)),
        st.integers(0, 2**64 - 1).map(lambda n: key(996, 1) + struct.pack("<Q", n)),
    ),
    lambda inner: st.lists(inner, max_size=3).map(lambda parts: _group(b"".join(parts))),
    max_leaves=4,
)

Types = TensorProto
# Each way to store n elements, made of as many random bytes as the widest needs.
STORED: list[Callable[[int, bytes], TensorProto]] = [
    lambda n, raw: Types(data_type=Types.FLOAT, raw_data=raw[: 4 * n]),
    lambda n, raw: Types(data_type=Types.FLOAT16, raw_data=raw[: 2 * n]),
    lambda n, raw: Types(data_type=Types.COMPLEX128, raw_data=raw[: 16 * n]),
    lambda n, raw: Types(data_type=Types.INT8, raw_data=raw[:n]),
    lambda n, raw: Types(data_type=Types.INT4, raw_data=raw[: (n + 1) // 2]),
    lambda n, raw: Types(data_type=Types.FLOAT, float_data=[b / 7 for b in raw[:n]]),
    lambda n, raw: Types(data_type=Types.COMPLEX64, float_data=raw[: 2 * n]),
    lambda n, raw: Types(data_type=Types.DOUBLE, double_data=[b / 7 for b in raw[:n]]),
    lambda n, raw: Types(data_type=Types.INT32, int32_data=raw[:n]),
    lambda n, raw: Types(data_type=Types.BFLOAT16, int32_data=raw[:n]),
    lambda n, raw: Types(data_type=Types.INT64, int64_data=[b << 40 for b in raw[:n]]),
    lambda n, raw: Types(data_type=Types.UINT64, uint64_data=raw[:n]),
    lambda n, raw: Types(data_type=Types.STRING, string_data=[raw[:3].hex().encode()] * n),
]


@st.composite
def tensors(draw: Any) -> TensorProto:
    n, how = draw(st.tuples(st.integers(0, 12), st.sampled_from(STORED)))
    tensor = how(n, draw(st.randoms(use_true_random=False)).randbytes(16 * n))
    name = draw(st.sampled_from(["w", "weight/λ", ""]))
    tensor.name = name
    tensor.dims.extend([n] if n % 2 else [2, n // 2])
    if draw(st.booleans()):
        tensor.doc_string = "about"
    tensor.MergeFromString(draw(unknown_fields))
    return tensor


@st.composite
def nodes(draw: Any, depth: int) -> NodeProto:
    node = helper.make_node("Some", ["x"], ["y"], name="n", domain="somewhere")
    if draw(st.booleans()):
        node.attribute.add(name="t", type=AttributeProto.TENSOR, t=draw(tensors()))
    if draw(st.booleans()):
        node.attribute.add(name="ts", type=AttributeProto.TENSORS, tensors=[draw(tensors())] * 2)
    if draw(st.booleans()):
        sparse = node.attribute.add(name="s", type=AttributeProto.SPARSE_TENSOR).sparse_tensor
        sparse.values.CopyFrom(draw(tensors()))
        sparse.indices.CopyFrom(draw(tensors()))
    if depth and draw(st.booleans()):
        node.attribute.add(name="g", type=AttributeProto.GRAPH, g=draw(graphs(depth - 1)))
    node.MergeFromString(draw(unknown_fields))
    return node


@st.composite
def graphs(draw: Any, depth: int = 2) -> GraphProto:
    graph = GraphProto(name="g")
    graph.node.extend(draw(st.lists(nodes(depth), max_size=2)))
    graph.initializer.extend(draw(st.lists(tensors(), max_size=3)))
    if draw(st.booleans()):
        sparse = graph.sparse_initializer.add(dims=[7])
        sparse.values.CopyFrom(draw(tensors()))
        sparse.indices.CopyFrom(draw(tensors()))
    if draw(st.booleans()):
        note = graph.quantization_annotation.add(tensor_name="w")
        note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="s")
    graph.MergeFromString(draw(unknown_fields))
    return graph


@st.composite
def models(draw: Any) -> ModelProto:
    model = ModelProto(ir_version=10, producer_name="tests", doc_string="a model")
    model.graph.CopyFrom(draw(graphs()))
    if draw(st.booleans()):
        info = model.training_info.add()
        info.initialization.CopyFrom(draw(graphs(0)))
        info.algorithm.CopyFrom(draw(graphs(0)))
        info.update_binding.add(key="a", value="b")
    if draw(st.booleans()):
        function = model.functions.add(name="f", domain="somewhere")
        function.node.add().CopyFrom(draw(nodes(1)))
        function.attribute_proto.add(name="a", type=AttributeProto.TENSOR, t=draw(tensors()))
    model.metadata_props.add(key="k", value="v")
    model.MergeFromString(draw(unknown_fields))
    return model


def same(a: ModelProto, b: ModelProto) -> bool:
    """Whether two models are equal, NaN and unknown fields included."""
    return bool(a.SerializeToString(deterministic=True) == b.SerializeToString(deterministic=True))
