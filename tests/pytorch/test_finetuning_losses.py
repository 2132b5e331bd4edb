"""Losses by name: their values, and labels that do not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from normsurgery.errors import UsageError
from normsurgery.pytorch.finetuning import losses

SCORES = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 3.0]])


def cross_entropy(scores: np.ndarray, labels: list[int]) -> float:
    e = np.exp(scores.astype(np.float64))
    p = e / e.sum(1, keepdims=True)
    return float(-np.log(p[np.arange(len(labels)), labels]).mean())


def test_cross_entropy_and_right_answers() -> None:
    loss, labels = losses.named("cross-entropy"), torch.tensor([0, 1])
    expected = cross_entropy(SCORES.numpy(), [0, 1])
    assert float(loss.function(SCORES, labels)) == pytest.approx(expected, rel=1e-6)
    assert loss.right is not None
    assert loss.right(SCORES, labels) == (1, 2)


def test_probabilities_give_the_loss_and_the_gradient_of_their_scores() -> None:
    of_p, of_scores = (
        losses.named("cross-entropy", probabilities=True),
        losses.named("cross-entropy"),
    )
    labels = torch.tensor([0, 1])
    gradients = []
    for loss, ending in ((of_p, torch.nn.Softmax(1)), (of_scores, torch.nn.Identity())):
        scores = SCORES.clone().requires_grad_()
        loss.function(ending(scores), labels).backward()
        gradients.append(scores.grad)
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-7)


def test_a_probability_of_zero_is_a_finite_loss() -> None:
    loss = losses.named("cross-entropy", probabilities=True)
    assert np.isfinite(float(loss.function(torch.tensor([[1.0, 0.0]]), torch.tensor([1]))))


def test_scores_per_pixel_and_scores_with_empty_axes() -> None:
    loss = losses.named("cross-entropy")
    pixels = torch.randn(2, 3, 4, 5)
    assert loss.right is not None
    assert loss.right(pixels, pixels.argmax(1)) == (40, 40)
    assert loss.right(SCORES[:, :, None, None], torch.tensor([0, 1])) == (1, 2)
    assert loss.right(SCORES, torch.tensor([[0], [1]])) == (1, 2)


@pytest.mark.parametrize(
    ("outputs", "targets", "what"),
    [
        (SCORES, torch.tensor([0, 3]), "label 3 is in the data, but .* classes 0 to 2"),
        (SCORES, torch.tensor([-1, 2]), "label -1 is in the data"),
        (SCORES, torch.tensor([0.0, 1.0]), "wants whole numbers as labels, not torch.float32"),
        (SCORES, "cat", "wants whole numbers as labels, not str"),
        (SCORES, torch.tensor([0, 1, 2]), "but the output is .2, 3. and the labels .3,"),
        ((SCORES, SCORES), torch.tensor([0, 1]), "the model has 2 outputs"),
    ],
)
def test_labels_that_do_not_fit(outputs: Any, targets: Any, what: str) -> None:
    with pytest.raises(UsageError, match=what):
        losses.named("cross-entropy").function(outputs, targets)


def test_mse_of_equal_shapes_but_for_axes_of_one() -> None:
    loss = losses.named("mse")
    targets = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 3.0]])
    assert float(loss.function(SCORES, targets)) == pytest.approx((1 + 0 + 1 + 0.5) / 6)
    assert float(loss.function(SCORES[:, :1], torch.tensor([2.0, 1.5]))) == pytest.approx(0.5)


@pytest.mark.parametrize("targets", [torch.zeros(3), torch.zeros(2, 2), torch.zeros(2, 1)])
def test_mse_never_broadcasts(targets: torch.Tensor) -> None:
    with pytest.raises(UsageError, match="mse wants targets of the output's shape"):
        losses.named("mse").function(SCORES, targets)


def test_other_names_and_other_functions() -> None:
    with pytest.raises(UsageError, match="there is no loss 'hinge'"):
        losses.named("hinge")
    assert losses.named(torch.nn.functional.l1_loss).name == "l1_loss"
    assert losses.named(torch.nn.L1Loss()).name == "L1Loss"
