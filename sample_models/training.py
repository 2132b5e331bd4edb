"""The data and the training: scikit-learn's digits, seeded, one thread, a few seconds a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Mapping

SEED = 20_240_917
Arrays = dict[str, np.ndarray]


def digits() -> Arrays:
    """Images (N, 1, 8, 8) float32 in 0…1 with int64 labels, and the same as a segmentation task.

    `*_noisy` are the images darkened (×0.4…1), lit by a slope along a random direction, and
    noisy, in steps of 1/255; `*_masks` (N, 8, 8) is 1 where the clean image has ink (> 0.25).
    """
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    split = train_test_split(
        images, labels.astype(np.int64), test_size=450, random_state=SEED, stratify=labels
    )
    arrays: Arrays = {}
    generator = np.random.default_rng(SEED)
    for part, x, y in (("train", split[0], split[2]), ("test", split[1], split[3])):
        arrays |= {f"{part}_images": x, f"{part}_labels": y}
        arrays[f"{part}_noisy"] = _spoil(x, generator)
        arrays[f"{part}_masks"] = (x[:, 0] > 0.25).astype(np.int64)
    return arrays


def _spoil(images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    shape = (len(images), 1, 1, 1)
    rows, columns = np.mgrid[-1:1:8j, -1:1:8j]
    angle = generator.uniform(0, 2 * np.pi, shape)
    slope = 0.15 * (np.cos(angle) * rows + np.sin(angle) * columns)
    noise = generator.normal(0, 0.12, images.shape)
    spoilt = images * generator.uniform(0.4, 1, shape) + slope + noise
    return (np.round(spoilt.clip(0, 1) * 255) / 255).astype(np.float32)


def train(network: nn.Module, x: np.ndarray, y: np.ndarray, epochs: int) -> None:
    """AdamW under a one-cycle rate, batches of 64; `network` comes back in eval mode.

    `y` holds class indices: (N,) for a classifier, (N, H, W) for a segmenter.
    """
    images, targets = torch.from_numpy(x), torch.from_numpy(y)
    steps = len(x) // 64
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, epochs * steps)
    network.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(x))[: steps * 64].split(64):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(network(images[batch]), targets[batch])
            loss.backward()
            optimizer.step()
            schedule.step()
    network.eval()


def scores(network: nn.Module, x: np.ndarray) -> np.ndarray:
    """The network's outputs for all of `x`, in one batch."""
    with torch.inference_mode():
        return network(torch.from_numpy(x)).numpy()


def accuracy(outputs: np.ndarray, arrays: Mapping[str, np.ndarray], targets: str) -> float:
    """Share of images (or pixels) of the test part whose highest score is the right class."""
    return float((outputs.argmax(1) == arrays[f"test_{targets}"]).mean())
