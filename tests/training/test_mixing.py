from __future__ import annotations

import torch

from vitrail.training.mixing import Mixing


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def flat(n=6, side=16):
    """Each image has one value, which is also its label and the class of its pixels."""
    values = torch.arange(n, dtype=torch.float32)
    return values.view(n, 1, 1, 1).expand(n, 3, side, side).clone(), values


def test_without_alpha_nothing_is_drawn():
    images, labels = flat()
    state = generator()
    before = state.get_state()
    mixed, targets = Mixing(mixup=0, cutmix=0)(images, labels, state)
    assert mixed is images
    assert targets == ((1.0, labels),)
    assert torch.equal(state.get_state(), before)


def test_mixup_mixes_labels_as_it_mixes_images():
    images, labels = flat()
    mixed, targets = Mixing(mixup=1.0, cutmix=0)(images, labels, generator(3))
    expected = sum(weight * label for weight, label in targets)
    torch.testing.assert_close(mixed, expected.view(-1, 1, 1, 1).expand_as(mixed))
    assert sum(weight for weight, _ in targets) == 1
    assert 0 < targets[0][0] < 1


def test_cutmix_weighs_labels_by_area():
    for seed in range(8):
        images, labels = flat()
        mixed, targets = Mixing(mixup=0, cutmix=1.0)(images, labels, generator(seed))
        expected = sum(weight * label for weight, label in targets)
        torch.testing.assert_close(mixed.mean((1, 2, 3)), expected, atol=1e-5, rtol=0)
        for image, label, other in zip(mixed, labels, targets[-1][1], strict=True):
            assert set(image.unique().tolist()) <= {label.item(), other.item()}


def test_cutmix_of_masks_takes_the_same_rectangle():
    images, labels = flat()
    masks = labels.view(-1, 1, 1).expand(-1, 16, 16).clone().byte()
    mixed, ((weight, moved),) = Mixing(mixup=0, cutmix=1.0)(images, masks, generator(2))
    assert weight == 1
    assert torch.equal(mixed[:, 0].byte(), moved)
    assert len(moved[0].unique()) == 2


def test_with_both_each_batch_draws_one():
    kinds = set()
    for seed in range(12):
        images, labels = flat()
        mixed, _ = Mixing(mixup=1.0, cutmix=1.0)(images, labels, generator(seed))
        kinds.add(bool((mixed.amax((1, 2, 3)) > mixed.amin((1, 2, 3))).any()))
    assert kinds == {True, False}
