"""What trainings minimise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, logsigmoid, one_hot

if TYPE_CHECKING:
    from torch import Tensor

    from vitrail.settings.schema import ClassifierSettings, SegmenterSettings

GAMMA = 2.0
"""Of focal losses (Lin et al. 2017, doi 10.1109/ICCV.2017.324)."""

TRUST = 0.7
"""The exponent q of the generalised cross-entropy (Zhang and Sabuncu 2018, arXiv 1805.07836): 0 is cross-entropy, which
a wrong label pulls without bound, 1 the absolute error, which it pulls no more than a right one."""

SMOOTH = 1e-5
"""As in the paper's library, which divides no 0 by 0 with it."""


def tile_loss(own: ClassifierSettings, logits: Tensor, targets: Tensor) -> Tensor:
    """Return the classifier's loss.

    Parameters
    ----------
    own
        `loss` and `label_smoothing` matter.
    logits
        `[n]`.
    targets
        Probabilities of tumor, `[n]`.

    Returns
    -------
    Tensor
        The mean over the tiles.
    """
    if own.label_smoothing:
        targets = targets * (1 - own.label_smoothing) + own.label_smoothing / 2
    if own.loss == "cross_entropy":
        return binary_cross_entropy_with_logits(logits, targets)
    logarithms = torch.stack([logsigmoid(logits), logsigmoid(-logits)])
    shares = torch.stack([targets, 1 - targets])
    if own.loss == "focal":
        return -(shares * (1 - logarithms.exp()) ** GAMMA * logarithms).sum(0).mean()
    return (shares * (1 - (TRUST * logarithms).exp()) / TRUST).sum(0).mean()


def pixel_loss(own: SegmenterSettings, logits: Tensor, targets: Tensor) -> Tensor:
    """Return the segmenter's loss.

    Parameters
    ----------
    own
        `loss`, `class_weights` and `label_smoothing` matter.
    logits
        `[n, 4, h, w]`.
    targets
        The true class of each pixel, `[n, h, w]`.

    Returns
    -------
    Tensor
        Over all pixels of the batch.
    """
    targets = targets.long()
    equal = len(set(own.class_weights)) == 1
    weights = logits.new_tensor(own.class_weights)
    if own.loss in {"cross_entropy", "focal"}:
        return _cross_entropy(own, logits, targets, weights)
    losses = dice_losses(logits, targets) if own.loss == "dice_cross_entropy" else jaccard_losses(logits, targets)
    if own.loss == "jaccard":
        return losses.mean() if equal else (losses * weights).sum() / weights.sum()
    present = torch.bincount(targets.flatten(), minlength=len(losses)) > 0
    losses = torch.where(present, losses, 0)
    if own.loss == "jaccard_present":
        return losses.mean() if equal else (losses * weights).sum() / weights.sum()
    overlap = (losses * weights).sum() / (present * weights).sum()
    return overlap + _cross_entropy(own, logits, targets, weights)


def _cross_entropy(own: SegmenterSettings, logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Return the pixels' mean cross-entropy, weighted by class; with the loss `focal` clear pixels count less."""
    if own.loss != "focal":
        return cross_entropy(logits, targets, weights, label_smoothing=own.label_smoothing)
    each = cross_entropy(logits, targets, reduction="none")
    weight = weights[targets]
    return (weight * (1 - (-each).exp()) ** GAMMA * each).sum() / weight.sum()


def jaccard_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the Jaccard loss of each class: 1 less shared over joint probability, summed over all pixels of a batch.

    As the library that the paper names computes it. A class that the batch lacks comes out as nearly 1, whatever is
    predicted, and hardly has a gradient.

    Parameters
    ----------
    logits
        `[n, classes, h, w]`.
    targets
        The true class of each pixel, `[n, h, w]`.

    Returns
    -------
    Tensor
        `[classes]`.
    """
    shared, both = _overlap(logits, targets)
    return 1 - (shared + SMOOTH) / (both - shared + SMOOTH)


def dice_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the Dice loss of each class: 1 less twice the shared probability over the sum of both.

    Parameters
    ----------
    logits, targets
        As of `jaccard_losses`.

    Returns
    -------
    Tensor
        `[classes]`.
    """
    shared, both = _overlap(logits, targets)
    return 1 - (2 * shared + SMOOTH) / (both + SMOOTH)


def _overlap(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return, of each class, the probability on its own pixels, and all of it plus the number of its pixels."""
    probability = logits.softmax(1)
    truth = one_hot(targets.long(), logits.shape[1]).movedim(3, 1)
    shared = (probability * truth).sum((0, 2, 3))
    return shared, probability.sum((0, 2, 3)) + truth.sum((0, 2, 3))
