"""A folder of images; folders inside it are classes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from normsurgery.data.rows import Files
from normsurgery.errors import MissingPackageError, ModelIOError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from normsurgery.data.inputs import Input

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff"})
_WIDE = ("I", "F")  # modes of 16 and 32 bits, of which conversion to 8 keeps 0 … 255 alone


def read(
    folder: Path, inputs: Sequence[Input], size: tuple[int, int] | None
) -> tuple[Files, NDArray[np.int64] | None, tuple[str, ...]]:
    """Return images, labels and the names of the classes, of images below ``folder``.

    Images directly in ``folder`` have no labels. In folders, each folder is a class, numbered in
    the order of their names, as torchvision's ImageFolder does. Each image is resized to the
    input's height and width, or ``size`` (bilinear, with antialiasing), unless neither is given.

    Raises ``UsageError`` if there is no image, or the model does not take one;
    ``MissingPackageError`` without Pillow.
    """
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        shapes = ", ".join(f"{one.name} {one.shape}" for one in inputs)
        raise UsageError(f"images go into one input (N, C, H, W); the model has {shapes}")
    _pillow()
    shape = inputs[0].shape
    channels_last = shape[1] not in {1, 3, 4} and shape[3] in {1, 3, 4}
    channels = shape[3] if channels_last else shape[1]
    height, width = shape[1:3] if channels_last else shape[2:4]
    if height is not None and width is not None:
        size = (height, width)
    load = partial(_load, channels=channels, size=size, channels_last=channels_last)
    flat = _images(folder)
    classes = tuple(sorted(one.name for one in folder.iterdir() if one.is_dir()))
    if flat:
        return Files(flat, load), None, ()
    by_class = [_images(folder / name) for name in classes]
    paths = tuple(path for one in by_class for path in one)
    if not paths:
        raise UsageError(f"{folder} has no images and no .npy files, itself or by class")
    labels = np.repeat(np.arange(len(classes)), [len(one) for one in by_class])
    return Files(paths, load), labels.astype(np.int64), classes


def _images(folder: Path) -> tuple[Path, ...]:
    return tuple(sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES))


def _load(
    path: Path, channels: int | None, size: tuple[int, int] | None, channels_last: bool
) -> NDArray[Any]:
    """Return one image as uint8, (C, H, W), or (H, W, C) for an input with channels last."""
    image_module = _pillow()
    mode = {1: "L", 4: "RGBA"}.get(channels or 3, "RGB")
    try:
        with image_module.open(path) as opened:
            stored_as = opened.mode
            image = opened.convert(mode)
            if size is not None and image.size != (size[1], size[0]):
                image = image.resize((size[1], size[0]), image_module.Resampling.BILINEAR)
            pixels = np.asarray(image, np.uint8)
    except (OSError, ValueError, SyntaxError, image_module.DecompressionBombError) as error:
        raise ModelIOError(f"cannot read image {path}: {error}") from None
    if stored_as.startswith(_WIDE):
        raise UsageError(
            f"{path} has more than 8 bits a channel (mode {stored_as}), which would be cut off; "
            "store the images as .npy or .npz, scaled as the model takes them"
        )
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    return pixels if channels_last else np.moveaxis(pixels, -1, 0)


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise MissingPackageError(
            'images need Pillow; install it with: pip install "normsurgery[images]"'
        ) from None
    return Image
