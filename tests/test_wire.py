from __future__ import annotations

import contextlib
import struct
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from anymodel import field, key, models, same, unknown_fields, varint
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, SparseTensorProto, TensorProto

from normsurgery import io, tensors, wire
from normsurgery.errors import InvalidModelError, NormSurgeryError, TruncatedModelError

NONCE = bytes(range(100, 116))
SAMPLES = sorted((Path(__file__).parents[1] / "sample_models").glob("*.onnx"))


def reaches_tensor(message: Any, seen: tuple[str, ...] = ()) -> bool:
    if message.name == "TensorProto":
        return True
    return message.name not in seen and any(
        f.message_type is not None and reaches_tensor(f.message_type, (*seen, message.name))
        for f in message.fields
    )


def on_the_way(message: Any, found: dict[str, Any]) -> dict[str, Any]:
    """Return the messages below ``message`` that a tensor can be in, by name."""
    if message.name not in found and reaches_tensor(message):
        found[message.name] = message
        for f in message.fields:
            if f.message_type is not None:
                on_the_way(f.message_type, found)
    return found


MESSAGES = on_the_way(ModelProto.DESCRIPTOR, {})


def repeated(f: Any) -> bool:
    return bool(f.is_repeated if hasattr(f, "is_repeated") else f.label == f.LABEL_REPEATED)


def test_children_are_all_the_ways_to_a_tensor() -> None:
    expected = {
        name: {
            f.number: f.message_type.name
            for f in message.fields
            if f.message_type is not None and reaches_tensor(f.message_type)
        }
        for name, message in MESSAGES.items()
    }
    assert expected == wire.CHILDREN


def test_payload_fields_hold_their_elements_as_they_are() -> None:
    of_tensor = TensorProto.DESCRIPTOR.fields_by_number
    expected = {
        n
        for n, f in of_tensor.items()
        if f.name == "raw_data" or (repeated(f) and f.type in {f.TYPE_FLOAT, f.TYPE_DOUBLE})
    }
    assert expected == set(wire.PAYLOADS)


def test_single_fields_are_the_tensors_that_are_not_repeated() -> None:
    expected = {}
    for name, message in MESSAGES.items():
        numbers = {
            f.number
            for f in message.fields
            if f.message_type is not None
            and f.message_type.name in {"TensorProto", "SparseTensorProto"}
            and not repeated(f)
        }
        if numbers:
            expected[name] = numbers
    assert expected == {name: set(numbers) for name, numbers in wire.SINGLE.items()}


def join(skeleton: bytes, cuts: list[wire.Cut], data: bytes) -> bytes:
    where = {i: (c.field, c.length) for i, c in enumerate(cuts)}
    return b"".join(
        data[cuts[p].offset : cuts[p].offset + cuts[p].length] if isinstance(p, int) else p
        for p in wire.splice(skeleton, NONCE, where)
    )


@given(models(), st.sampled_from([1, 9, 30]))
@settings(max_examples=60)
def test_cut_and_splice_is_the_identity(model: ModelProto, minimum: int) -> None:
    data = model.SerializeToString()
    skeleton, cuts = wire.cut(data, NONCE, minimum)
    assert join(skeleton, cuts, data) == data
    through_protobuf = ModelProto.FromString(skeleton).SerializeToString()
    assert same(ModelProto.FromString(join(through_protobuf, cuts, data)), model)


@given(models())
@settings(max_examples=50)
def test_every_large_payload_is_cut(model: ModelProto) -> None:
    data = model.SerializeToString()
    skeleton, cuts = wire.cut(data, NONCE, 1)
    expected = [
        size
        for t in tensors.tensors_in(model)
        if (size := len(t.raw_data) + 4 * len(t.float_data) + 8 * len(t.double_data))
    ]
    assert sorted(c.length for c in cuts) == sorted(expected)
    for t in tensors.tensors_in(ModelProto.FromString(skeleton)):
        assert not t.float_data
        assert not t.double_data


RAW = TensorProto(name="w", data_type=1, dims=[8], raw_data=bytes(range(32)))


def in_model(tensor: bytes) -> bytes:
    return key(1, 0) + varint(10) + field(7, field(5, tensor))


def in_attribute(*pieces: bytes) -> bytes:
    node = field(4, b"Constant") + field(5, field(1, b"value") + b"".join(pieces))
    return key(1, 0) + varint(10) + field(7, field(1, node))


def survives(data: bytes, cut_out: int) -> None:
    skeleton, cuts = wire.cut(data, NONCE, 16)
    assert len(cuts) == cut_out
    through_protobuf = ModelProto.FromString(skeleton).SerializeToString()
    assert same(
        ModelProto.FromString(join(through_protobuf, cuts, data)), ModelProto.FromString(data)
    )


HALF = struct.pack("<4f", 1, 2, 3, 4)


@pytest.mark.parametrize(
    ("data", "cut_out"),
    [
        pytest.param(in_model(field(9, HALF * 2) + key(1, 0) + varint(8)), 1, id="dims last"),
        pytest.param(in_model(field(4, HALF) + field(4, HALF)), 0, id="two packed pieces"),
        pytest.param(in_model(field(4, HALF) + key(4, 5) + HALF[:4]), 0, id="packed and single"),
        pytest.param(in_model(field(9, HALF) + field(9, HALF * 2)), 0, id="raw_data twice"),
        pytest.param(in_model(field(9, HALF) + field(4, HALF)), 0, id="raw_data and float_data"),
        pytest.param(in_model(field(9, b"") + field(10, HALF)), 0, id="empty raw_data too"),
        pytest.param(
            in_attribute(field(5, field(9, HALF)), field(5, field(9, HALF * 2))),
            0,
            id="singular tensor twice",
        ),
        pytest.param(
            in_attribute(field(5, field(4, HALF)), field(5, field(4, HALF[:4]))),
            0,
            id="singular tensor twice, the second small",
        ),
        pytest.param(
            in_attribute(*[field(22, field(1, field(4, HALF)))] * 2), 0, id="sparse tensor twice"
        ),
        pytest.param(
            in_attribute(field(22, field(1, field(4, HALF)) * 2)), 0, id="sparse values twice"
        ),
        pytest.param(
            in_attribute(*[field(10, field(4, HALF))] * 2), 2, id="repeated tensors are two"
        ),
        pytest.param(
            in_model(field(9, HALF)) + field(7, field(5, field(9, HALF))), 2, id="two graph fields"
        ),
        pytest.param(
            in_attribute(*[field(6, field(5, field(9, HALF)))] * 2), 2, id="two body fields"
        ),
        pytest.param(in_model(key(9, 2) + b"\x90\x00" + HALF), 1, id="length of two bytes"),
        pytest.param(in_model(field(13, field(2, HALF * 9))), 0, id="large external entry"),
    ],
)
def test_unusual_encodings(data: bytes, cut_out: int) -> None:
    survives(data, cut_out)


@given(st.lists(unknown_fields, max_size=4).map(b"".join))
def test_fields_of_all_wire_types_are_walked(data: bytes) -> None:
    at = 0
    for _, _, key_at, _, end in wire.fields(data, 0, len(data)):
        assert key_at == at
        at = end
    assert at == len(data)


def small_model() -> bytes:
    model = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 21, "f" : 1]>
        main (float[2] x) => (float[2] y) <float[2] w = {1, 2}, int64[1] i = {1}> {
            c = Constant <value = float[2] {3, 4}> ()
            a = Add (x, c)
            y = f.twice <k = 1> (a)
        }
        <opset_import: ["" : 21], domain: "f">
        twice <k> (a) => (b) { b = Add (a, a) }""")
    model.graph.initializer.append(RAW)
    sparse = SparseTensorProto(values=RAW, indices=RAW, dims=[9])
    model.graph.sparse_initializer.append(sparse)
    model.graph.initializer.add(
        name="e", data_type=1, dims=[2], data_location=TensorProto.EXTERNAL
    ).external_data.add(key="location", value="data.bin")
    model.MergeFromString(key(777, 3) + field(3, b"abc") + key(777, 4))
    return bytes(model.SerializeToString())


def exercise(data: bytes, path: Path | None = None) -> None:
    """Load, read every tensor and write: nothing may come out but a NormSurgeryError."""
    with contextlib.suppress(NormSurgeryError):
        model = io.from_bytes(data, path)
        for tensor in tensors.tensors_in(model.proto):
            with contextlib.suppress(NormSurgeryError):
                model.store.array(tensor)
        io.write(model, BytesIO())


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model path with the data file of ``small_model``; everything over 16 bytes is large."""
    (tmp_path / "data.bin").write_bytes(bytes(8))
    monkeypatch.setattr(tensors, "LARGE", 16)
    return tmp_path / "model.onnx"


def test_the_small_model_loads(beside: Path) -> None:
    model = io.from_bytes(small_model(), beside)
    assert len(model.store.payloads) == 3


def test_truncated_anywhere(beside: Path) -> None:
    data = small_model()
    for end in range(len(data)):
        exercise(data[:end], beside)
    with pytest.raises(TruncatedModelError, match="fetch the file again"):
        io.from_bytes(data[:-14], beside)


def test_every_byte_changed(beside: Path) -> None:
    data = small_model()
    for at in range(len(data)):
        for flip in (0x01, 0x80, 0xFF):
            exercise(data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :], beside)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda p: p.stem)
def test_mutated_real_models(path: Path) -> None:
    data = path.read_bytes()
    rng = np.random.default_rng(len(data))
    for _ in range(200):
        damaged = bytearray(data)
        where = int(rng.integers(len(data)))
        match rng.integers(5):
            case 0:
                del damaged[where:]
            case 1:
                del damaged[where : where + int(rng.integers(1, 9))]
            case 2:
                damaged[where:where] = rng.bytes(int(rng.integers(1, 9)))
            case 3:  # where the structure is, not the weights
                for at in rng.integers(0, 4000, 4):
                    damaged[at] = int(rng.integers(256))
            case _:
                for at in rng.integers(0, len(data), 40):
                    damaged[at] = int(rng.integers(256))
        exercise(bytes(damaged))


@given(st.binary(max_size=200))
def test_random_bytes(data: bytes) -> None:
    exercise(data)


def nested(depth: int, size: int) -> bytes:
    body = field(5, field(9, bytes(size)))
    for _ in range(depth):
        body = field(1, field(5, field(6, body)))
    return key(1, 0) + varint(10) + field(7, body)


@pytest.mark.parametrize("size", [8, 1 << 15])
def test_deep_nesting(size: int) -> None:
    io.from_bytes(in_model(RAW.SerializeToString()))
    with pytest.raises(InvalidModelError):
        io.from_bytes(nested(2000, size))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(key(777, 3) * 50_000, id="groups never end"),
        pytest.param(key(777, 3) + key(776, 4), id="another group ends"),
        pytest.param(key(777, 4), id="no group ends"),
        pytest.param(b"\xff" * 12, id="key over 64 bits"),
        pytest.param(key(9, 0) + b"\x80" * 10 + b"\x01", id="number over 64 bits"),
        pytest.param(key(9, 2) + b"\xff" * 11, id="length over 64 bits"),
        pytest.param(key(9, 6), id="wire type 6"),
        pytest.param(key(9, 7), id="wire type 7"),
        pytest.param(b"\x02\x00", id="field number 0"),
    ],
)
def test_not_protobuf(data: bytes) -> None:
    with pytest.raises(InvalidModelError) as caught:
        wire.cut(data, NONCE, 16)
    assert not isinstance(caught.value, TruncatedModelError)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(key(9, 2) + varint(5) + b"1234", id="string"),
        pytest.param(key(9, 2) + varint(2**63), id="huge string"),
        pytest.param(key(9, 5) + b"123", id="4 bytes"),
        pytest.param(key(9, 1) + b"1234567", id="8 bytes"),
        pytest.param(key(9, 0) + b"\x80", id="number"),
        pytest.param(b"\x80", id="key"),
    ],
)
def test_truncated_field(data: bytes) -> None:
    with pytest.raises(TruncatedModelError):
        wire.cut(data, NONCE, 16)


def test_walking_a_million_fields_takes_no_memory() -> None:
    import tracemalloc

    data = in_model((key(4, 5) + bytes(4)) * 300_000)
    tracemalloc.start()
    wire.cut(data, NONCE, 1 << 14)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * len(data)


def test_tokens() -> None:
    assert wire.token_index(wire.token(NONCE, 70_000), NONCE) == 70_000
    assert wire.token_index(wire.token(NONCE, 7), NONCE[::-1]) is None
    assert wire.token_index(wire.token(NONCE, 7) + b"x", NONCE) is None
    assert wire.token_index(b"", NONCE) is None


def test_a_token_that_nobody_knows_is_kept() -> None:
    data = in_model(field(9, wire.token(NONCE, 3)))
    assert b"".join(p for p in wire.splice(data, NONCE, {}) if isinstance(p, bytes)) == data
