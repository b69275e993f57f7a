from __future__ import annotations

import colorsys
import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from vitrail.settings.schema import AugmentSettings
from vitrail.training.augment import Augmenter, blur, recolour, rigid, warp

STILL = AugmentSettings(rotation_step_deg=0, mirror=0, hue=0, saturation=0, brightness=0, contrast=0)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(n=4, side=32, seed=1):
    return torch.rand(n, 3, side, side, generator=generator(seed))


def flips(*, left_right=False, top_bottom=False, n=4):
    return torch.tensor([[left_right, top_bottom]]).expand(n, 2)


def colour(n=4, **values):
    standard = {"hue": 0.0, "saturation": 1.0, "brightness": 1.0, "contrast": 1.0} | values
    return {name: torch.full((n,), value) for name, value in standard.items()}


@pytest.mark.parametrize("quarters", [-1, 0, 1, 2])
@pytest.mark.parametrize("side", [32, 33])
def test_quarter_turns_are_rot90(quarters, side):
    images = pictures(side=side)
    masks = (images[:, 0] * 4).byte()
    moved, moved_masks = warp(images, masks, rigid(torch.full((4,), quarters * math.pi / 2), flips()))
    torch.testing.assert_close(moved, torch.rot90(images, quarters, (2, 3)), atol=1e-4, rtol=0)
    assert torch.equal(moved_masks, torch.rot90(masks, quarters, (1, 2)))
    assert moved_masks.dtype == torch.uint8


@pytest.mark.parametrize(
    ("left_right", "top_bottom", "axes"), [(True, False, [3]), (False, True, [2]), (True, True, [2, 3])]
)
def test_mirroring_is_flip(left_right, top_bottom, axes):
    images = pictures()
    moved, _ = warp(images, None, rigid(torch.zeros(4), flips(left_right=left_right, top_bottom=top_bottom)))
    torch.testing.assert_close(moved, images.flip(axes), atol=1e-5, rtol=0)


def test_each_image_gets_its_own_turn():
    images = pictures(2)
    moved, _ = warp(images, None, rigid(torch.tensor([0.0, math.pi]), flips(n=2)))
    torch.testing.assert_close(moved[0], images[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(moved[1], images[1].flip((1, 2)), atol=1e-4, rtol=0)


def test_mask_follows_the_image_at_any_angle():
    """A mask painted into the image too: away from its own edges both say the same after any turn."""
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    mask = ((x // 16 + y // 16) % 2).byte().expand(16, 64, 64)
    images = mask.float().unsqueeze(1).expand(16, 3, 64, 64)
    settings = STILL.model_copy(update={"rotation_step_deg": 1.0, "mirror": 0.5})
    moved, moved_mask = Augmenter(settings, generator())(images, mask)
    sure = (moved[:, 0] < 0.4) | (moved[:, 0] > 0.6)
    assert sure.float().mean() > 0.8
    assert torch.equal(moved[:, 0][sure].round().byte(), moved_mask[sure])
    assert not torch.equal(moved_mask, mask)


def test_zero_settings_change_nothing():
    images = pictures()
    masks = (images[:, 0] * 4).byte()
    moved, moved_masks = Augmenter(STILL, generator())(images, masks)
    assert torch.equal(moved, images)
    assert torch.equal(moved_masks, masks)


def test_neutral_colour_changes_nothing():
    torch.testing.assert_close(recolour(pictures(), **colour()), pictures())


def test_hue_keeps_greys_and_moves_colours():
    grey = torch.rand(4, 1, 8, 8, generator=generator()).expand(4, 3, 8, 8)
    torch.testing.assert_close(recolour(grey, **colour(hue=0.2)), grey)
    third = recolour(pictures(), **colour(hue=1 / 3))
    torch.testing.assert_close(third, pictures().roll(1, 1), atol=1e-5, rtol=0)  # red becomes green


def test_hue_turns_the_way_of_the_colour_circle():
    pixel = (0.6, 0.5, 0.4)
    turned = recolour(torch.tensor(pixel).view(1, 3, 1, 1), **colour(1, hue=0.05)).flatten().tolist()
    assert colorsys.rgb_to_hsv(*turned)[0] - colorsys.rgb_to_hsv(*pixel)[0] == pytest.approx(0.05, abs=0.01)


def test_no_saturation_is_luma():
    images = pictures()
    luma = (images * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    torch.testing.assert_close(recolour(images, **colour(saturation=0.0)), luma.expand(4, 3, 32, 32))


def test_brightness_scales_and_contrast_turns_about_the_mean_luma():
    images = pictures()
    torch.testing.assert_close(recolour(images, **colour(brightness=0.8)), images * 0.8)
    flat = recolour(images, **colour(contrast=0.0))
    luma = (images.mean((2, 3)) * torch.tensor([0.299, 0.587, 0.114])).sum(1)
    torch.testing.assert_close(flat, luma.view(4, 1, 1, 1).expand_as(flat))


def test_blur_is_scipys():
    images = pictures()
    sigma = torch.tensor([0.0, 0.5, 1.0, 2.0])
    blurred = blur(images, sigma, 6)
    for image, result, s in zip(images, blurred, sigma.tolist(), strict=True):
        expected = gaussian_filter(image.double().numpy(), (0, s, s), mode="mirror", radius=6) if s else image.numpy()
        np.testing.assert_allclose(result.numpy(), expected, atol=1e-5)


def test_noise_has_the_drawn_strength():
    grey = torch.full((64, 3, 64, 64), 0.5)
    noisy, _ = Augmenter(STILL, generator(), noise=0.04)(grey)
    strengths = (noisy - grey).std((1, 2, 3))
    assert 0 < strengths.min() < 0.01
    assert 0.03 < strengths.max() < 0.041
    assert abs((noisy - grey).mean()) < 1e-3


def test_same_generator_same_result_and_everything_within_bounds():
    strong = AugmentSettings(hue=0.5, saturation=0.9, brightness=0.9, contrast=0.9)
    images = pictures()
    first, again, other = (Augmenter(strong, generator(seed), blur_px=2, noise=0.3)(images)[0] for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.min() >= 0
    assert first.max() <= 1


def test_quarter_turns_keep_every_pixel():
    generator = torch.Generator().manual_seed(0)
    images, masks = torch.rand(16, 3, 9, 9, generator=generator), torch.randint(0, 4, (16, 9, 9), generator=generator)
    moved, turned = Augmenter(STILL.model_copy(update={"rotation_step_deg": 90.0, "mirror": 0.5}), generator)(
        images, masks
    )
    torch.testing.assert_close(moved.flatten(2).sort(2).values, images.flatten(2).sort(2).values, rtol=0, atol=1e-5)
    eight = [torch.rot90(view, turns, (2, 3)) for view in (images, images.flip(3)) for turns in range(4)]
    fits = torch.stack([(moved - view).abs().amax((1, 2, 3)) < 1e-5 for view in eight])
    assert fits.any(0).all()
    assert fits.any(1).sum() > 4
    assert not torch.equal(turned, masks)


def test_later_changes_leave_the_draws_of_the_papers_alone():
    """What the paper names is drawn as if there were nothing else."""
    strong = AugmentSettings(hue=0.1)
    later = strong.model_copy(update={"jpeg": 1.0, "stain": 0.3})
    drawn = []
    for settings in (strong, later):
        state = generator(4)
        Augmenter(settings, state)(pictures())
        drawn.append(torch.rand(3, generator=state))
    assert torch.equal(*drawn)


def test_scale_enlarges_and_shrinks_about_the_middle():
    disc = torch.zeros(64, 3, 33, 33)
    y, x = torch.meshgrid(torch.arange(33) - 16, torch.arange(33) - 16, indexing="ij")
    disc[:, :, (x**2 + y**2).sqrt() < 8] = 1.0
    moved, _ = Augmenter(STILL.model_copy(update={"scale": 0.25}), generator())(disc)
    radii = (moved[:, 0].sum((1, 2)) / math.pi).sqrt()
    assert 8 / 1.27 < radii.min() < 7.2
    assert 8.8 < radii.max() < 8 * 1.27
    assert torch.equal(moved[:, :, 16, 16], torch.ones(64, 3))
