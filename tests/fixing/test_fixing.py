"""Inputs fixed to values: what they lead to is constant, and AdaIN one InstanceNormalization."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from adain.networks import ARITHMETIC, FLAT, NATIVE, SCALED_FIRST, UNBIASED, adain
from graphs import assert_folds, bn, ops, parse, run, weights

import normsurgery
from normsurgery import fixing, io
from normsurgery.errors import ModelIOError, UsageError

BAKED = ["Conv", "InstanceNormalization", "Relu"]
BIASED = FLAT.replace("COUNT\n  e = Add(u,", "e = Add(v2,")
RNG = np.random.default_rng(11)


def assert_bakes(
    model: Any, expected: list[str], content: tuple[int, ...] = (2, 4, 6, 5), **fixed: Any
) -> normsurgery.FoldResult:
    """Assert that the folded model does what ``model`` does with the inputs in ``fixed``."""
    before = model.SerializeToString(deterministic=True)
    result = normsurgery.fold(model, fixed=fixed)
    assert model.SerializeToString(deterministic=True) == before
    after = result.model
    assert ops(after) == expected
    onnx.checker.check_model(after, full_check=True)
    assert not {i.name for i in after.graph.input} & fixed.keys()
    assert result.report.fixed == sorted(fixed)
    for _ in range(3):
        feeds = {"content": RNG.normal(1, 2, content)}
        for x, y in zip(run(model, feeds | fixed), run(after, feeds), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-10)
    assert all(c.max_ulp <= 0.5 for c in result.certificates())
    return result


def style(*shape: int) -> Any:
    return RNG.normal(0, 1, shape or (1, 2, 5, 5))


@pytest.mark.parametrize("how", [NATIVE, ARITHMETIC, SCALED_FIRST, BIASED])
def test_style_is_baked_at_any_size_of_the_content(how: str) -> None:
    result = assert_bakes(adain(how), BAKED, style=style())
    assert len(result.report.restored) == (how is not NATIVE)


def test_unbiased_variance_of_a_fixed_size() -> None:
    """f = n/(n − 1) goes into the scale, and divides epsilon, which the attribute rounds."""
    model = adain(FLAT.replace("COUNT", UNBIASED), content="2, 4, 6, 5")
    value = style()
    result = normsurgery.fold(model, fixed={"style": value})
    assert ops(result.model) == BAKED
    feeds = {"content": RNG.normal(1, 2, (2, 4, 6, 5))}
    (x,), (y,) = run(model, feeds | {"style": value}), run(result.model, feeds)
    np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-9)  # float32 epsilon: 6e-8 of 1e-3


def test_unbiased_variance_of_another_size_at_every_run_stays() -> None:
    model = adain(FLAT.replace("COUNT", UNBIASED))
    value = style()
    result = normsurgery.fold(model, fixed={"style": value})
    assert [k.op_type for k in result.report.kept] == ["AdaIN"]
    assert "n - 1" in result.report.kept[0].reason
    feeds = {"content": RNG.normal(1, 2, (2, 4, 6, 5))}
    (x,), (y,) = run(model, feeds | {"style": value}), run(result.model, feeds)
    np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-10)
    assert "Sqrt" in ops(result.model)


def test_a_style_for_each_sample_is_no_map() -> None:
    """Scale and bias of two samples: constants along the batch stay beside the norm."""
    model = adain(ARITHMETIC, style="2, 2, 5, 5")
    assert_bakes(
        model, ["Conv", "InstanceNormalization", "Mul", "Add", "Relu"], style=style(2, 2, 5, 5)
    )


def test_what_reads_a_fixed_input_beside_run_time_values() -> None:
    model = parse(
        """g (double[N, 3, 4, 4] content, double[4, 1, 1] style) => (double[N, 4, 4, 4] y) {
          c = Conv(content, W)
          d = Mul(c, style)
          y = Add(style, d)
        }""",
        W=weights(4, 3, 1, 1),
    )  # fmt: skip
    assert_bakes(model, ["Conv"], (2, 3, 4, 4), style=style(4, 1, 1))


def test_parameters_of_a_batch_norm() -> None:
    """A scale that is an input is not constant; fixed, it folds."""
    parameters = bn(4)
    value = parameters.pop("scale")
    model = parse(
        """g (double[N, 3, 4, 4] content, double[4] scale) => (double[N, 4, 4, 4] y) {
          c = Conv(content, W)
          y = BatchNormalization(c, scale, B, mean, var)
        }""",
        W=weights(4, 3, 1, 1), **parameters,
    )  # fmt: skip
    assert_bakes(model, ["Conv"], (2, 3, 4, 4), scale=value)


def test_value_that_a_body_reads_is_computed_as_before() -> None:
    model = parse(
        """g (double[N, 4] content, double[4] style, bool flag) => (double[N, 4] y) {
          s = Exp(style)
          y = If (flag) <
            then_branch = one () => (double[N, 4] u) { u = Mul(content, s) },
            else_branch = two () => (double[N, 4] v) { v = Add(content, s) }>
          }""",
    )  # fmt: skip
    value = style(4)
    result = normsurgery.fold(model, fixed={"style": value})
    for flag in (True, False):
        feeds = {"content": RNG.normal(size=(3, 4)), "flag": np.array(flag)}
        (x,), (y,) = run(model, feeds | {"style": value}), run(result.model, feeds)
        np.testing.assert_allclose(x, y, rtol=1e-12)


def test_output_of_the_style_alone_stays() -> None:
    model = adain(ARITHMETIC)
    model.graph.output.append(onnx.helper.make_tensor_value_info("s", 11, [1, 4, 1, 1]))
    value = style()
    result = normsurgery.fold(model, fixed={"style": value})
    feeds = {"content": RNG.normal(1, 2, (2, 4, 6, 5))}
    for x, y in zip(run(model, feeds | {"style": value}), run(result.model, feeds), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-10)


def test_random_values_are_not_fixed() -> None:
    model = parse(
        """g (double[N, 4] content, double[1, 4] style) => (double[N, 4] y) {
          r = RandomNormalLike(style)
          s = Add(r, style)
          y = Mul(content, s)
        }""",
    )  # fmt: skip
    result = normsurgery.fold(model, fixed={"style": style(1, 4)})
    assert ops(result.model) == ["RandomNormalLike", "Add", "Mul"]


def test_narrow_types_round_once() -> None:
    """In float32 the style's constants are within half a unit of their float64 values."""
    model = adain(ARITHMETIC)
    single = onnx.ModelProto()
    single.CopyFrom(model)
    for tensor in single.graph.initializer:
        if tensor.data_type == onnx.TensorProto.DOUBLE:
            values = onnx.numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    for info in (*single.graph.input, *single.graph.output):
        info.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    result = normsurgery.fold(single, fixed={"style": style()})  # float64 is rounded to the input's
    assert ops(result.model) == BAKED
    assert all(c.max_ulp <= 0.5 for c in result.certificates())


@pytest.mark.parametrize(
    ("fixed", "message"),
    [
        ({"styl": style()}, "no input 'styl'"),
        ({"W": style()}, "no input 'W'"),
        ({"style": style(1, 3, 5, 5)}, r"is \[1, 2, 5, 5\], the value to fix is \[1, 3, 5, 5\]"),
        ({"style": style(2, 5)}, r"the value to fix is \[2, 5\]"),
        ({"style": np.array(["a"])}, "is float64, the value to fix is <U1"),
        ({"style": style() + 1j}, "is float64, the value to fix is complex128"),
        ({"style": style() * np.nan}, "'style' to holds NaN"),
    ],
)
def test_values_that_fit_no_input(fixed: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        normsurgery.fold(adain(NATIVE), fixed=fixed)


def test_a_value_that_overflows_the_type_of_the_input() -> None:
    model = parse("g (float[2] x, float[2] s) => (float[2] y) { y = Mul(x, s) }")
    with pytest.raises(UsageError, match="'s' to overflows float32"):
        normsurgery.fold(model, fixed={"s": np.array([1.0, 1e39])})
    made = normsurgery.fold(model, fixed={"s": np.array([1.0, -np.inf])}).model  # as masks have it
    assert onnx.numpy_helper.to_array(made.graph.initializer[0]).tolist() == [1.0, -np.inf]


def test_integers_have_to_be_the_same_numbers() -> None:
    model = parse(
        """g (double[5, 4] content, int64[N] style) => (double[N, 4] y) {
          y = Gather(content, style)
        }""",
    )
    result = normsurgery.fold(model, fixed={"style": np.array([0, 3], np.int32)})
    assert [t.data_type for t in result.model.graph.initializer] == [onnx.TensorProto.INT64]
    with pytest.raises(UsageError, match="is int64, the value to fix is float64"):
        normsurgery.fold(model, fixed={"style": np.array([0.5])})


def test_what_cannot_be_computed_is_named() -> None:
    how = "\n s = custom.Thing(style)\n b = Neg(style)" + NATIVE
    model = adain(how, encoder="", style="1, 4, 1, 1")
    result = normsurgery.fold(model, fixed={"style": style(1, 4, 1, 1)})
    assert "Thing" in ops(result.model)
    how = "\n s = GridSample(style, grid)\n b = Neg(s)" + NATIVE
    model = adain(how, encoder="", style="1, 4, 3, 3")
    grid = onnx.numpy_helper.from_array(np.zeros((1, 1, 1, 2)), "grid")
    model.graph.initializer.append(grid)
    with pytest.raises(UsageError, match="GridSample"):
        normsurgery.fold(model, fixed={"style": style(1, 4, 3, 3)})


def test_large_values_are_refused() -> None:
    model = parse(
        """g (double[N] content, double[4] style) => (double[K] y) {
          s = Tile(style, k)
          y = Mul(content, s)
        }""",
        k=np.array([1000]),
    )
    with pytest.raises(UsageError, match="over 0 MiB"):
        normsurgery.fold(model, fixed={"style": style(4)}, max_constant_bytes=1000)


def test_reference_with_the_input_bound(tmp_path: Path) -> None:
    """What a baked model is compared with: an input less, the same nodes."""
    model, value = adain(ARITHMETIC), style()
    io.save(fixing.bound(model, {"style": value}), tmp_path / "bound.onnx")
    bound = onnx.load(tmp_path / "bound.onnx")
    assert ops(bound) == ops(model)
    assert [i.name for i in bound.graph.input] == ["content"]
    feeds = {"content": RNG.normal(1, 2, (2, 4, 6, 5))}
    (x,), (y,) = run(model, feeds | {"style": value}), run(bound, feeds)
    np.testing.assert_array_equal(x, y)


def test_files_of_values(tmp_path: Path) -> None:
    value = style()
    np.save(tmp_path / "style.npy", value)
    np.savez(tmp_path / "both.npz", style=value, other=value)
    for name in ("style.npy", "both.npz"):
        np.testing.assert_array_equal(fixing.read("style", tmp_path / name), value)
    with pytest.raises(UsageError, match="has no array 'content'"):
        fixing.read("content", tmp_path / "both.npz")
    (tmp_path / "text.npy").write_text("no array")
    with pytest.raises(UsageError, match=r"is no \.npy"):
        fixing.read("style", tmp_path / "text.npy")
    with pytest.raises(ModelIOError, match="cannot read"):
        fixing.read("style", tmp_path / "none.npy")


def test_nothing_fixed_is_a_plain_fold() -> None:
    model = parse(
        """g (double[N, 3, 8, 8] x) => (double[N, 4, 8, 8] y) {
          c = Conv(x, W)
          y = BatchNormalization(c, scale, B, mean, var)
        }""",
        W=weights(4, 3, 1, 1), **bn(4),
    )  # fmt: skip
    assert_folds(model, ["Conv"], options={"fixed": {}})
