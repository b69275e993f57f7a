"""What trainings minimise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, logsigmoid, one_hot

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from vitrail.settings.schema import ClassifierSettings, SegmenterSettings

    Total = Callable[[Tensor], Tensor]
    """Adds up what each of several processes has of a batch; each then has the loss of the whole batch."""

GAMMA = 2.0
"""Of focal losses (Lin et al. 2017, doi 10.1109/ICCV.2017.324)."""

TRUST = 0.7
"""The exponent q of the generalised cross-entropy (Zhang and Sabuncu 2018, arXiv 1805.07836): 0 is cross-entropy, which
a wrong label pulls without bound, 1 the absolute error, which it pulls no more than a right one."""

SMOOTH = 1e-5
"""As in the paper's library, which divides no 0 by 0 with it."""


def alone(own: Tensor) -> Tensor:
    """Return what this process has of a batch: it has all of it."""
    return own


def tile_loss(own: ClassifierSettings, logits: Tensor, targets: Tensor, total: Total = alone) -> Tensor:
    """Return the classifier's loss.

    Parameters
    ----------
    own
        `loss` and `label_smoothing` matter.
    logits
        `[n]`.
    targets
        Probabilities of tumor, `[n]`.
    total
        Adds up over the processes that share the batch.

    Returns
    -------
    Tensor
        The mean over the tiles.
    """
    if own.label_smoothing:
        targets = targets * (1 - own.label_smoothing) + own.label_smoothing / 2
    if own.loss == "cross_entropy":
        mean = binary_cross_entropy_with_logits(logits, targets)
    else:
        logarithms = torch.stack([logsigmoid(logits), logsigmoid(-logits)])
        shares = torch.stack([targets, 1 - targets])
        if own.loss == "focal":
            each = -shares * (1 - logarithms.exp()) ** GAMMA * logarithms
        else:
            each = shares * (1 - (TRUST * logarithms).exp()) / TRUST
        mean = each.sum(0).mean()
    return mean if total is alone else _mean(mean, logits.new_tensor(float(len(logits))), total)


def _mean(own: Tensor, weight: Tensor, total: Total) -> Tensor:
    """Return the mean over all processes of their own means, which have so much weight; a mean of nothing is NaN."""
    return total(torch.where(weight > 0, own * weight, 0)) / total(weight)


def pixel_loss(own: SegmenterSettings, logits: Tensor, targets: Tensor, total: Total = alone) -> Tensor:
    """Return the segmenter's loss.

    Parameters
    ----------
    own
        `loss`, `class_weights` and `label_smoothing` matter.
    logits
        `[n, 4, h, w]`.
    targets
        The true class of each pixel, `[n, h, w]`.
    total
        Adds up over the processes that share the batch.

    Returns
    -------
    Tensor
        Over all pixels of the batch.
    """
    targets = targets.long()
    equal = len(set(own.class_weights)) == 1
    weights = logits.new_tensor(own.class_weights)
    if own.loss in {"cross_entropy", "focal"}:
        return _cross_entropy(own, logits, targets, weights, total)
    losses = (dice_losses if own.loss == "dice_cross_entropy" else jaccard_losses)(logits, targets, total)
    if own.loss == "jaccard":
        return losses.mean() if equal else (losses * weights).sum() / weights.sum()
    present = total(torch.bincount(targets.flatten(), minlength=len(losses))) > 0
    losses = torch.where(present, losses, 0)
    if own.loss == "jaccard_present":
        return losses.mean() if equal else (losses * weights).sum() / weights.sum()
    overlap = (losses * weights).sum() / (present * weights).sum()
    return overlap + _cross_entropy(own, logits, targets, weights, total)


def _cross_entropy(own: SegmenterSettings, logits: Tensor, targets: Tensor, weights: Tensor, total: Total) -> Tensor:
    """Return the pixels' mean cross-entropy, weighted by class; with the loss `focal` clear pixels count less."""
    if own.loss != "focal":
        mean = cross_entropy(logits, targets, weights, label_smoothing=own.label_smoothing)
        return mean if total is alone else _mean(mean, weights[targets].sum(), total)
    each = cross_entropy(logits, targets, reduction="none")
    weight = weights[targets]
    return total((weight * (1 - (-each).exp()) ** GAMMA * each).sum()) / total(weight.sum())


def jaccard_losses(logits: Tensor, targets: Tensor, total: Total = alone) -> Tensor:
    """Return the Jaccard loss of each class: 1 less shared over joint probability, summed over all pixels of a batch.

    As the library that the paper names computes it. A class that the batch lacks comes out as nearly 1, whatever is
    predicted, and hardly has a gradient.

    Parameters
    ----------
    logits
        `[n, classes, h, w]`.
    targets
        The true class of each pixel, `[n, h, w]`.
    total
        Adds up over the processes that share the batch.

    Returns
    -------
    Tensor
        `[classes]`.
    """
    shared, both = _overlap(logits, targets, total)
    return 1 - (shared + SMOOTH) / (both - shared + SMOOTH)


def dice_losses(logits: Tensor, targets: Tensor, total: Total = alone) -> Tensor:
    """Return the Dice loss of each class: 1 less twice the shared probability over the sum of both.

    Parameters
    ----------
    logits, targets, total
        As of `jaccard_losses`.

    Returns
    -------
    Tensor
        `[classes]`.
    """
    shared, both = _overlap(logits, targets, total)
    return 1 - (2 * shared + SMOOTH) / (both + SMOOTH)


def _overlap(logits: Tensor, targets: Tensor, total: Total) -> tuple[Tensor, Tensor]:
    """Return, of each class, the probability on its own pixels, and all of it plus the number of its pixels."""
    probability = logits.softmax(1)
    truth = one_hot(targets.long(), logits.shape[1]).movedim(3, 1)
    shared = total((probability * truth).sum((0, 2, 3)))
    return shared, total(probability.sum((0, 2, 3)) + truth.sum((0, 2, 3)))
