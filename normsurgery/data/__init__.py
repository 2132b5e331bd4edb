"""Data: a user's arrays and images as batches of feeds for a model.

``read`` takes an ``.npz`` file, a folder of ``.npy`` files or a folder of images, and gives what a
model's inputs want, read when asked for. Labels come along where there are some.
"""

from __future__ import annotations

from normsurgery.data.api import Data, read, take
from normsurgery.data.inputs import Input, inputs_of
from normsurgery.data.pixels import Pixels

__all__ = ["Data", "Input", "Pixels", "inputs_of", "read", "take"]
