from __future__ import annotations

import io
import math
import os
import tracemalloc
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from normsurgery import dtypes
from normsurgery.payloads import BLOCK, Computed, Slice, blocks_of
from normsurgery.source import OpenFile, Source

if TYPE_CHECKING:
    from pathlib import Path

FLOAT, FLOAT16, BFLOAT16, DOUBLE = dtypes.FLOAT, dtypes.FLOAT16, dtypes.BFLOAT16, dtypes.DOUBLE


class Null(io.RawIOBase):
    """Takes bytes and keeps how many."""

    count = 0

    def write(self, data: Any) -> int:
        self.count += memoryview(data).nbytes
        return memoryview(data).nbytes


def written(tensor: Computed) -> bytes:
    target = io.BytesIO()
    tensor.write(target)
    return target.getvalue()


def random(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(0, 1, shape)


CASES = {
    "axis 0": ((300, 64, 3, 3), [(300, 1, 1, 1)]),
    "axis 1": ((300, 400), [(1, 400)]),
    "both": ((300, 400), [(300, 1), (1, 400)]),
    "grouped ConvTranspose": ((64, 128, 4, 4), [(64, 128, 1, 1)]),
    "vector": ((200_000,), [(200_000,)]),
    "one number": ((200_000,), [(1,)]),
    "all": ((300, 400), [(300, 400)]),
    "huge rows": ((2, 3, 70_000), [(2, 3, 1), (1, 1, 70_000)]),
    "one huge row": ((1, 1, 200_000), [(1, 1, 1), (1, 1, 200_000)]),
    "lower rank": ((300, 400), [(400,)]),
    "small": ((2, 3), [(2, 1)]),
    "no factor": ((300, 400), []),
    "0-d": ((), [()]),
    "empty": ((0, 3), [(1, 3)]),
    "empty inside": ((3, 0, 2), [(3, 1, 1)]),
    "row of one block": ((3, BLOCK), [(3, 1)]),
    "row over one block": ((3, BLOCK + 1), [(3, 1)]),
    "many rows of nothing": ((BLOCK + 1, 1, 1), [(BLOCK + 1, 1, 1)]),
}


@pytest.mark.parametrize("elem_type", [FLOAT, BFLOAT16])
@pytest.mark.parametrize("case", CASES)
def test_blocks_make_the_direct_product(case: str, elem_type: int) -> None:
    shape, factor_shapes = CASES[case]
    base = random(*shape).astype(np.float32)
    factors = tuple(random(*s, seed=9) for s in factor_shapes)
    tensor = Computed(base, factors, elem_type)
    direct = base.astype(np.float64)
    for factor in factors:
        direct = direct * factor
    blocks = list(tensor.blocks())
    assert np.array_equal(np.concatenate([b.ravel() for b in blocks]), direct.ravel())
    assert max(b.size for b in blocks) <= BLOCK
    assert np.array_equal(tensor.float64(), direct)
    expected = dtypes.round_to(direct, elem_type).tobytes()
    assert written(tensor) == expected
    assert tensor.nbytes == len(expected)


@given(
    st.lists(st.integers(0, 6), max_size=4),
    st.data(),
    st.sampled_from([FLOAT, FLOAT16, BFLOAT16, DOUBLE]),
)
def test_any_factor_layout(shape: list[int], data: st.DataObject, elem_type: int) -> None:
    base = random(*shape).astype(np.float16)
    tensor, direct = Computed(base, (), elem_type), base.astype(np.float64)
    for _ in range(data.draw(st.integers(0, 3))):
        factor = random(*[data.draw(st.sampled_from([1, d])) for d in shape], seed=4)
        factor = factor[(0,) * data.draw(st.integers(0, sum(d == 1 for d in factor.shape[:1])))]
        tensor, direct = tensor.scaled(np.asarray(factor)), direct * factor
    assert tensor.float64() == pytest.approx(direct, rel=1e-15)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("normsurgery.payloads.BLOCK", 5)
        blocks = np.concatenate([b.ravel() for b in tensor.blocks()])
    assert np.array_equal(blocks, tensor.float64().ravel())


def test_factors_of_one_layout_become_one() -> None:
    tensor = Computed(random(4, 3), (), FLOAT).scaled(random(4, 1)).scaled(random(4, 1))
    assert len(tensor.factors) == 1
    assert len(tensor.scaled(random(3)).factors) == 2


@pytest.mark.parametrize("order", ["rows", "transposed"])
def test_memory_is_bounded(order: str, tmp_path: Path) -> None:
    shape = (4096, 4096)  # 64 MB
    path = tmp_path / "weights"
    with path.open("wb") as file:
        file.truncate(4 * math.prod(shape))
    base: Any = np.memmap(path, np.float32, "r", shape=shape)
    tensor = Computed(base.T if order == "transposed" else base, (np.ones((4096, 1)),), FLOAT)
    sink = Null()
    tracemalloc.start()
    tensor.write(sink)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sink.count == 4 * math.prod(shape)
    assert peak < 8 << 20


def test_certificate() -> None:
    ulp = 2.0**-10
    tensor = Computed(np.array([1.0, 1 + ulp / 2, 1 + ulp / 4, 1]), (), FLOAT16)
    certificate = tensor.certify()
    assert (certificate.count, certificate.max_ulp) == (4, 0.5)
    assert certificate.mean_ulp == pytest.approx((0.5 + 0.25) / 4)


def test_certificate_of_every_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("normsurgery.payloads.BLOCK", 2)
    tensor = Computed(np.array([1, 1 + 2.0**-24, 1, 1, 1]), (), FLOAT)
    written(tensor)
    assert tensor.certificate is not None
    assert tensor.certificate.max_ulp == 0.5
    assert tensor.certificate.sum_ulp == 0.5
    assert tensor.certificate.count == 5


def test_certificate_is_of_the_last_write() -> None:
    tensor = Computed(random(3), (), FLOAT)
    certificate = tensor.certify()
    assert tensor.certify() is certificate
    assert tensor.scaled(random(1)).certificate is None


@pytest.mark.parametrize("value", [np.inf, np.nan, 1e6])
def test_certificate_of_what_is_not_finite(value: float) -> None:
    assert Computed(np.array([1.0, value]), (), FLOAT16).certify().max_ulp == math.inf


def test_certificate_of_nothing() -> None:
    certificate = Computed(np.zeros((0, 2)), (), FLOAT).certify()
    assert (certificate.count, certificate.max_ulp, certificate.mean_ulp) == (0, 0, 0)


@pytest.mark.parametrize("shape", [(10, 3), (200_000,), (0, 4), (), (3, 0)])
def test_blocks_of(shape: tuple[int, ...]) -> None:
    base = random(*shape)
    parts = list(blocks_of(base))
    joined = np.concatenate(parts) if base.ndim and parts else base
    assert np.array_equal(joined, base)
    assert all(p.base is base or p is base for p in parts)


def data_file(path: Path, data: bytes) -> OpenFile:
    path.write_bytes(data)
    return OpenFile(path.open("rb", buffering=0), path)


DATA = bytes(range(256)) * 100


@pytest.mark.parametrize("kernel", [True, False])
def test_slices_are_copied_between_other_writes(
    kernel: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not kernel:
        monkeypatch.delattr(os, "copy_file_range", raising=False)
    source = data_file(tmp_path / "in", DATA)
    with (tmp_path / "out").open("w+b", buffering=1 << 16) as target:
        target.write(b"head")
        Slice(source, 7, 20_000).write(target)
        assert target.tell() == 20_004
        target.write(b"middle")
        Slice(source, 0, 0).write(target)
        Slice(Source(memoryview(DATA)), 1, 5).write(target)
        Slice(source, 25_000, 600).write(target)
        target.write(b"tail")
    expected = b"head" + DATA[7:20_007] + b"middle" + DATA[1:6] + DATA[25_000:25_600] + b"tail"
    assert (tmp_path / "out").read_bytes() == expected


def test_a_copy_that_the_kernel_gives_up_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the kernel wrote before the error must not be written again."""
    calls = []

    def part(source: int, target: int, count: int, *, offset_src: int) -> int:
        calls.append(count)
        if len(calls) == 3:
            raise OSError(5, "Input/output error")
        return os.write(target, os.pread(source, 1000, offset_src))

    monkeypatch.setattr(os, "copy_file_range", part, raising=False)
    with (tmp_path / "out").open("w+b") as target:
        target.write(b"head")
        Slice(data_file(tmp_path / "in", DATA), 3, 9000).write(target)
        target.write(b"tail")
    assert calls == [9000, 8000, 7000]
    assert (tmp_path / "out").read_bytes() == b"head" + DATA[3:9003] + b"tail"


def test_slices_go_into_memory_and_pipes(tmp_path: Path) -> None:
    one = Slice(data_file(tmp_path / "in", DATA), 5, 300)
    memory = io.BytesIO()
    one.write(memory)
    assert memory.getvalue() == DATA[5:305]
    assert bytes(one.view()) == DATA[5:305]
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb") as target:
        target.write(b"head")
        one.write(target)
    with os.fdopen(reader, "rb") as received:
        assert received.read() == b"head" + DATA[5:305]
