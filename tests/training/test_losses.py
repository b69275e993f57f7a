from __future__ import annotations

import pytest
import segmentation_models_pytorch as smp
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from vitrail.settings.schema import ClassifierSettings, SegmenterSettings
from vitrail.training.losses import dice_losses, jaccard_losses, pixel_loss, tile_loss


def logits(*shape, seed=0):
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


LABELS = torch.tensor([0.0, 1, 1, 0, 1, 0], dtype=torch.float64)
MASKS = torch.randint(0, 4, (3, 8, 8), generator=torch.Generator().manual_seed(1))


def test_tile_losses_are_what_the_papers_write():
    values = logits(6)
    right = torch.sigmoid(torch.where(LABELS > 0, values, -values))
    plain, focal, robust = (
        tile_loss(ClassifierSettings(loss=name), values, LABELS)
        for name in ("cross_entropy", "focal", "generalised_cross_entropy")
    )
    torch.testing.assert_close(plain, -right.log().mean())
    torch.testing.assert_close(focal, -((1 - right) ** 2 * right.log()).mean())
    torch.testing.assert_close(robust, ((1 - right**0.7) / 0.7).mean())


def test_smoothing_deals_a_share_of_the_label():
    values = logits(6)
    smoothed = tile_loss(ClassifierSettings(label_smoothing=0.2), values, LABELS)
    torch.testing.assert_close(smoothed, binary_cross_entropy_with_logits(values, LABELS * 0.8 + 0.1))


def test_a_wrong_label_pulls_the_robust_loss_without_growing():
    """At a logit of -20 a tile labelled tumor costs the cross-entropy 20; the robust loss has nearly no slope there."""
    values = torch.tensor([-20.0], requires_grad=True)
    for name, slope in (("cross_entropy", -1.0), ("generalised_cross_entropy", 0.0)):
        (gradient,) = torch.autograd.grad(tile_loss(ClassifierSettings(loss=name), values, torch.ones(1)), values)
        assert gradient.item() == pytest.approx(slope, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "library"),
    [
        ("jaccard", smp.losses.JaccardLoss("multiclass", smooth=1e-5)),
        ("dice_cross_entropy", smp.losses.DiceLoss("multiclass", smooth=1e-5)),
        ("focal", smp.losses.FocalLoss("multiclass", gamma=2.0)),
    ],
)
def test_pixel_losses_are_the_librarys(name, library):
    values = logits(3, 4, 8, 8)
    own = pixel_loss(SegmenterSettings(loss=name), values, MASKS)
    if "cross_entropy" in name:
        own = own - cross_entropy(values, MASKS)
    expected = library(values, MASKS)
    if name == "focal":  # the library adds up the classes, and of each one pixel in four is a hit
        each = cross_entropy(values, MASKS, reduction="none")
        expected = ((1 - (-each).exp()) ** 2 * each).mean()
    torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-6)


def test_classes_that_are_not_there_do_not_count_beside_cross_entropy():
    values, masks = logits(3, 4, 8, 8), MASKS.clamp_max(1)
    own = pixel_loss(SegmenterSettings(loss="dice_cross_entropy"), values, masks) - cross_entropy(values, masks)
    torch.testing.assert_close(own, dice_losses(values, masks)[:2].mean())


@pytest.mark.parametrize("name", ["jaccard", "jaccard_present", "cross_entropy", "focal"])
def test_a_class_with_all_the_weight_decides_alone(name):
    values, own = logits(2, 4, 8, 8), MASKS[:2] == 2
    heavy = SegmenterSettings(loss=name, class_weights=(1e-9, 1e-9, 1.0, 1e-9))
    each = cross_entropy(values, MASKS[:2], reduction="none")[own]
    expected = {
        "cross_entropy": each.mean(),
        "focal": ((1 - (-each).exp()) ** 2 * each).mean(),
    }.get(name, jaccard_losses(values, MASKS[:2])[2])
    torch.testing.assert_close(pixel_loss(heavy, values, MASKS[:2]), expected)
