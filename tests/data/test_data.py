"""A user's data become the feeds that a model takes, or one line says why not."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from PIL import Image

from normsurgery import data
from normsurgery.data import Input, Pixels
from normsurgery.errors import MissingDataError, ModelIOError, UsageError

F32 = np.dtype(np.float32)
IMAGE = Input("image", F32, (None, 3, 4, 6))
PLAIN = Input("x", F32, (None, 5))


def pixels(count: int = 7) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 4, 6, 3)).astype(np.uint8)


def save(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


def test_inputs_of_leaves_out_defaults() -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT16, ["N", 3, None])
    w = helper.make_tensor_value_info("w", TensorProto.FLOAT, [2])
    weight = helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, 2.0])
    graph = helper.make_graph([], "g", [x, w], [], [weight])
    assert data.inputs_of(helper.make_model(graph)) == (
        Input("x", np.dtype(np.float16), (None, 3, None)),
    )


def test_inputs_of_refuses_strings() -> None:
    x = helper.make_tensor_value_info("x", TensorProto.STRING, [1])
    with pytest.raises(UsageError, match="'x' is not a tensor of numbers"):
        data.inputs_of(helper.make_model(helper.make_graph([], "g", [x], [])))


def test_bytes_channels_last_become_normalised_channels_first(tmp_path: Path) -> None:
    stored = pixels()
    path = save(tmp_path / "a.npz", images=stored, labels=np.arange(7))
    found = data.read(path, [IMAGE], pixels=Pixels((0.1, 0.2, 0.3), (0.5, 0.6, 0.7)))
    assert len(found) == 7
    feeds = found.feeds(slice(2, 5))
    scaled = stored[2:5].transpose(0, 3, 1, 2) / 255.0
    mean, std = (np.array(v).reshape(3, 1, 1) for v in ((0.1, 0.2, 0.3), (0.5, 0.6, 0.7)))
    np.testing.assert_array_equal(feeds["image"], ((scaled - mean) / std).astype(np.float32))
    assert feeds["image"].dtype == F32
    np.testing.assert_array_equal(found.targets(slice(2, 5)), [2, 3, 4])


def test_floats_stay_as_they_are_without_mean_and_std(tmp_path: Path) -> None:
    x = np.random.default_rng(1).standard_normal((4, 5)).astype(np.float32)
    found = data.read(save(tmp_path / "a.npz", x=x), [PLAIN])
    np.testing.assert_array_equal(found.feeds(np.array([3, 1]))["x"], x[[3, 1]])
    assert found.labels is None
    with pytest.raises(UsageError, match="no labels"):
        found.targets(slice(None))


def test_batches_cover_every_sample_once(tmp_path: Path) -> None:
    x = np.arange(35, dtype=np.float32).reshape(7, 5)
    found = data.read(save(tmp_path / "a.npz", x=x), [PLAIN])
    sizes = [len(b["x"]) for b in found.batches(3)]
    assert sizes == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate([b["x"] for b in found.batches(3)]), x)
    assert [len(b["x"]) for b in found.batches(2, first=1, last=4)] == [2, 1]
    limited = data.read(tmp_path / "a.npz", [PLAIN], limit=4)
    assert [len(b["x"]) for b in limited.batches(3)] == [3, 1]
    with pytest.raises(UsageError, match="a batch of 0"):
        list(found.batches(0))


def test_prefix_chooses_a_part(tmp_path: Path) -> None:
    x = np.zeros((3, 5), np.float32)
    stored = {"train_images": x, "test_images": x[:2] + 1, "test_labels": np.array([1, 0])}
    path = save(tmp_path / "a b.npz", **stored)
    found = data.read(f"{path}:test", [PLAIN])
    assert len(found) == 2
    assert found.feeds(slice(None))["x"].min() == 1
    with pytest.raises(UsageError, match="no arrays that begin with val_"):
        data.read(f"{path}:val", [PLAIN])
    with pytest.raises(UsageError, match="no array for input 'x'; it has test_images"):
        data.read(path, [PLAIN])


def test_names_say_which(tmp_path: Path) -> None:
    a, b = np.zeros((2, 5), np.float32), np.ones((2, 5), np.float32)
    path = save(tmp_path / "a.npz", a=a, b=b, who=np.array([4, 5]))
    found = data.read(path, [PLAIN], names={"x": "b", "labels": "who"})
    assert found.feeds(slice(0, 1))["x"].max() == 1
    np.testing.assert_array_equal(found.targets(slice(None)), [4, 5])
    with pytest.raises(UsageError, match="no array 'c' for input 'x'"):
        data.read(path, [PLAIN], names={"x": "c"})
    with pytest.raises(UsageError, match="no array 'c' for the labels"):
        data.read(path, [PLAIN], names={"x": "b", "labels": "c"})


def test_two_inputs_are_matched_by_name_alone(tmp_path: Path) -> None:
    other = Input("z", F32, (None, 2))
    path = save(tmp_path / "a.npz", x=np.zeros((3, 5)), z=np.zeros((3, 2)))
    assert set(data.read(path, [PLAIN, other]).feeds(slice(0, 2))) == {"x", "z"}
    save(path, images=np.zeros((3, 5)), z=np.zeros((3, 2)))
    with pytest.raises(UsageError, match="no array for input 'x'"):
        data.read(path, [PLAIN, other])
    save(path, x=np.zeros((3, 5)), z=np.zeros((4, 2)))
    with pytest.raises(UsageError, match="number of samples: x 3, z 4"):
        data.read(path, [PLAIN, other])


def test_folder_of_npy(tmp_path: Path) -> None:
    x = np.random.default_rng(1).standard_normal((4, 5)).astype(np.float32)
    for i, row in enumerate(x):
        np.save(tmp_path / f"sample{i}.npy", row)
    np.testing.assert_array_equal(data.read(tmp_path, [PLAIN]).feeds(slice(1, 4))["x"], x[1:4])
    np.save(tmp_path / "x.npy", x + 1)  # one file with all samples, by the input's name
    np.testing.assert_array_equal(data.read(tmp_path, [PLAIN]).feeds(slice(None))["x"], x + 1)


def test_samples_of_different_shapes_are_named(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros(5))
    np.save(tmp_path / "b.npy", np.zeros(6))
    found = data.read(tmp_path, [Input("x", F32, (None, None))])
    with pytest.raises(UsageError, match="samples must be alike"):
        found.feeds(slice(0, 2))


def test_folder_of_images_by_class(tmp_path: Path) -> None:
    stored = pixels(3)
    for folder, index in (("cat", 0), ("cat", 1), ("dog", 2)):
        (tmp_path / folder).mkdir(exist_ok=True)
        Image.fromarray(stored[index]).save(tmp_path / folder / f"{index}.png")
    found = data.read(tmp_path, [IMAGE])
    assert found.classes == ("cat", "dog")
    np.testing.assert_array_equal(found.targets(slice(None)), [0, 0, 1])
    expected = (stored.transpose(0, 3, 1, 2) / 255.0).astype(np.float32)
    np.testing.assert_array_equal(found.feeds(slice(None))["image"], expected)


def test_images_are_resized_and_grey_ones_stay_grey(tmp_path: Path) -> None:
    Image.fromarray(pixels(1)[0]).save(tmp_path / "one.png")
    grey = Input("x", F32, (None, 1, 8, 8))
    assert data.read(tmp_path, [grey]).feeds(slice(None))["x"].shape == (1, 1, 8, 8)
    free = Input("x", F32, (None, 3, None, None))
    assert data.read(tmp_path, [free], size=(2, 3)).feeds(slice(None))["x"].shape == (1, 3, 2, 3)
    last = Input("x", F32, (None, 8, 8, 3))
    assert data.read(tmp_path, [last]).feeds(slice(None))["x"].shape == (1, 8, 8, 3)


def test_one_value_of_mean_is_for_all_channels(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", x=np.full((2, 3, 4, 6), 0.5, np.float32))
    found = data.read(path, [IMAGE], pixels=Pixels((0.25,), (0.5,)))
    assert np.all(found.feeds(slice(None))["image"] == 0.5)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 3, 4, 7)), "data of shape 3×4×7 does not fit input 'image'"),
        (np.zeros((2, 3)), "takes 3: 3×4×6"),
        (np.zeros((0, 3, 4, 6)), "no samples"),
    ],
)
def test_what_does_not_fit_is_refused_at_once(
    tmp_path: Path, array: np.ndarray, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        data.read(save(tmp_path / "a.npz", image=array), [IMAGE])


def test_more_refusals(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", x=np.zeros((2, 5)), i=np.zeros((2, 5)))
    with pytest.raises(MissingDataError, match=r"nowhere\.npz: no such data"):
        data.read(tmp_path / "nowhere.npz", [PLAIN])
    with pytest.raises(UsageError, match="takes int64"):
        data.read(path, [Input("i", np.dtype(np.int64), (None, 5))])
    with pytest.raises(UsageError, match="std"):
        Pixels((), (0.0,))
    with pytest.raises(UsageError, match="mean has 2 values"):
        data.read(path, [PLAIN], pixels=Pixels((0.1, 0.2)))
    with pytest.raises(UsageError, match="limit of 0"):
        data.read(path, [PLAIN], limit=0)
    with pytest.raises(UsageError, match="no images"):
        (tmp_path / "empty").mkdir()
        data.read(tmp_path / "empty", [IMAGE])
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(ModelIOError, match="cannot read"):
        data.read(tmp_path / "bad.npz", [PLAIN])
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"no image")
    with pytest.raises(ModelIOError, match="cannot read image"):
        data.read(tmp_path / "bad", [IMAGE])


@pytest.mark.parametrize("kind", ["U1", "c8", "M8[s]", "V4", [("a", "f4")]])
def test_what_are_no_numbers_is_refused(tmp_path: Path, kind: Any) -> None:
    path = save(tmp_path / "a.npz", x=np.zeros((2, 5), np.dtype(kind)))
    with pytest.raises(UsageError, match="takes numbers, the data are"):
        data.read(path, [PLAIN])


@pytest.mark.parametrize(
    ("values", "kind"),
    [([[1e6]], "f2"), ([[1e300]], "f4"), ([[300]], "u1"), ([[-1]], "u4"), ([[1 << 40]], "i4")],
)
def test_numbers_that_the_input_cannot_hold_are_refused(values: Any, kind: str) -> None:
    wanted = Input("x", np.dtype(kind), (None, 1))
    with pytest.raises(UsageError, match="cannot hold"):
        data.take({"x": np.array(values)}, [wanted])
    assert len(data.take({"x": np.array([[100], [0]])}, [wanted])) == 2


def test_infinities_are_no_overflow() -> None:
    x = np.array([[np.inf, np.nan, -np.inf, 1.0, 2.0]])
    feeds = data.take({"x": x}, [PLAIN]).feeds(slice(1))
    np.testing.assert_array_equal(feeds["x"], x.astype(np.float32))


def test_labels_are_one_for_each_sample(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the labels are one value"):
        data.read(save(tmp_path / "a.npz", x=np.zeros((2, 5)), labels=np.int64(3)), [PLAIN])


def test_labels_are_numbers(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", rows=np.zeros((2, 5)), labels=np.array(["cat", "dog"]))
    assert data.read(path, [PLAIN]).labels is None
    with pytest.raises(UsageError, match="the labels 'labels' are <U3"):
        data.read(path, [PLAIN], names={"labels": "labels"})


def test_an_array_for_no_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no input 'y' to take an array for; it has x"):
        data.read(save(tmp_path / "a.npz", x=np.zeros((2, 5))), [PLAIN], names={"y": "x"})


def test_an_input_called_as_labels_are_has_no_labels(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", y=np.zeros((2, 5)))
    assert data.read(path, [Input("y", F32, (None, 5))]).labels is None


def test_a_folder_with_all_samples_under_a_usual_name(tmp_path: Path) -> None:
    x = np.arange(15.0).reshape(3, 5)
    np.save(tmp_path / "images.npy", x)
    np.save(tmp_path / "labels.npy", np.arange(3))
    found = data.read(tmp_path, [PLAIN])
    np.testing.assert_array_equal(found.feeds(slice(3))["x"], x)
    assert found.labels is not None
    np.testing.assert_array_equal(found.labels, np.arange(3))
    (tmp_path / "images.npy").unlink()
    for i in range(3):  # one a sample, one of which is called so
        np.save(tmp_path / ["a.npy", "data.npy", "z.npy"][i], x[i])
    np.testing.assert_array_equal(data.read(tmp_path, [PLAIN]).feeds(slice(3))["x"], x)


@pytest.mark.parametrize(
    ("stored", "wanted", "axis"),
    [
        ((2, 3, 7, 3), (None, None, None, 3), 3),  # a height of 3 is no channels
        ((2, 8, 8, 3), (None, 8, 8, 3), 3),
        ((2, 3, 8, 3), (None, 3, 8, 3), 1),
        ((2, 5, 6, 3), (None, None, None, None), 3),
        ((2, 3, 6, 5), (None, None, None, None), 1),
        ((2, 3, 4), (None, 3, 4), 1),
    ],
)
def test_mean_is_of_channels(
    stored: tuple[int, ...], wanted: tuple[int | None, ...], axis: int
) -> None:
    given = data.take({"x": np.zeros(stored)}, [Input("x", F32, wanted)], pixels=Pixels((1, 2, 3)))
    shape = [1] * len(stored)
    shape[axis] = 3
    want = np.broadcast_to(-np.array([1, 2, 3], np.float32).reshape(shape), stored)
    np.testing.assert_array_equal(given.feeds(slice(2))["x"], want)


def test_mean_is_not_of_columns() -> None:
    given = {"x": np.zeros((2, 4, 6, 5))}
    with pytest.raises(UsageError, match="mean has 5 values, input 'x' has 4 channels"):
        data.take(given, [Input("x", F32, (None, 4, 6, 5))], pixels=Pixels((1, 2, 3, 4, 5)))


@pytest.mark.parametrize(
    ("count", "batch", "most", "taken"),
    [(99, 3, 64, 63), (100, None, 64, 64), (99, 3, 2, 3), (99, 3, None, 99), (8, 4, 64, 8),
     (100, 30, 64, 60), (20, 30, 10, 20)],
)  # fmt: skip
def test_a_part_of_the_data_fills_batches(
    count: int, batch: int | None, most: int | None, taken: int
) -> None:
    inputs = [Input("x", F32, (None, 5)), Input("z", F32, (batch, 1))]
    given = data.take({"x": np.zeros((count, 5)), "z": np.zeros((count, 1))}, inputs)
    assert given.batch == batch
    found = given.spread(most)
    assert len(found) == taken
    assert found[0] == 0
    assert np.all(np.diff(found) >= 1)
    assert found[-1] < count


def test_images_of_more_than_8_bits_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 6), 1000, np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(UsageError, match="more than 8 bits a channel"):
        data.read(tmp_path, [IMAGE])
    Image.fromarray(np.full((4, 6), 0.5, np.float32)).save(tmp_path / "a.tiff")
    (tmp_path / "a.png").unlink()
    with pytest.raises(UsageError, match="more than 8 bits a channel"):
        data.read(tmp_path, [IMAGE])


def test_pixels_are_finite() -> None:
    for values in ((float("nan"),), (float("inf"),)):
        with pytest.raises(UsageError, match=r"mean .* not finite"):
            Pixels(values)
        with pytest.raises(UsageError, match=r"std .* not finite"):
            Pixels((), values)


def test_damaged_archives(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=np.zeros((2, 5)))
    whole = path.read_bytes()
    entry = whole.rfind(b"PK\x01\x02")
    for at, bits in ((8, 99), (6, 1)):  # an unknown compression; encrypted
        damaged = bytearray(whole)
        damaged[at] = damaged[entry + at + 2] = bits
        path.write_bytes(damaged)
        with pytest.raises(ModelIOError, match="cannot read"):
            data.read(path, [PLAIN])
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("README.txt", "no array")
    with pytest.raises(UsageError, match="has no arrays"):
        data.read(path, [PLAIN])
    header = tmp_path / "x.npy"
    header.write_bytes(b"\x93NUMPY\x01\x00v\x00{" + b"(" * 5000)
    with pytest.raises(ModelIOError, match="cannot read"):
        data.read(header, [PLAIN])


def test_no_code_runs_out_of_an_archive(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([print, print], object))
    with pytest.raises(ModelIOError, match="pickle"):
        data.read(tmp_path / "a.npz", [PLAIN])


def test_take_gives_data_back_and_arrays_as_data() -> None:
    inputs = (data.Input("x", np.dtype(np.float32), (None, 3)),)
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    taken = data.take({"x": rows, "more": rows}, inputs)
    np.testing.assert_array_equal(taken.feeds(slice(1, 3))["x"], rows[1:3])
    assert data.take(taken, inputs) is taken
    assert len(data.take(taken, inputs, limit=2)) == 2


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"z": np.zeros((2, 3))}, "nothing for input 'x'"),
        ({"x": np.zeros((0, 3))}, "1 or more"),
        ({"x": np.array(3.0)}, "one number, without samples.*--fix x=FILE"),
        ({"x": np.zeros((2, 4))}, "does not fit"),
    ],
)
def test_take_refuses_what_does_not_fit(arrays: dict[str, np.ndarray], message: str) -> None:
    inputs = (data.Input("x", np.dtype(np.float32), (None, 3)),)
    with pytest.raises(UsageError, match=message):
        data.take(arrays, inputs)


def test_take_wants_names() -> None:
    with pytest.raises(UsageError, match="arrays by input name, not ndarray"):
        data.take(np.zeros((2, 5)), [PLAIN])  # type: ignore[arg-type]


def test_a_stored_number_has_no_samples(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.float32(3))
    with pytest.raises(UsageError, match="one number, without samples"):
        data.read(tmp_path / "a.npz", [data.Input("x", np.dtype(np.float32), ())])
