from __future__ import annotations

import numpy as np
import torch
from skimage.color import lab2rgb, rgb2lab

from vitrail.quality.rules import EOSIN, HEMATOXYLIN
from vitrail.training.stain_augment import StainTemplates, lab_to_rgb, restain, rgb_to_lab


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def tissue(n=4, side=32, seed=0, shift=0.0):
    """Images stained by amounts of hematoxylin and eosin that vary from pixel to pixel."""
    amounts = torch.rand(n, 2, side * side, generator=generator(seed)) * 0.6 + 0.2 + shift
    vectors = torch.tensor([HEMATOXYLIN, EOSIN]) / torch.tensor([HEMATOXYLIN, EOSIN]).norm(dim=1, keepdim=True)
    return (-vectors.T @ amounts).exp().view(n, 3, side, side), amounts


def test_no_strength_changes_nothing():
    images, _ = tissue()
    torch.testing.assert_close(restain(images, 0.0, generator()), images, atol=1e-5, rtol=0)


def test_amounts_are_scaled_and_shifted_one_by_one():
    """Densities of the result are of the same two stains, and straight lines of the amounts before."""
    images, amounts = tissue()
    moved = -restain(images, 0.3, generator(1)).log()
    third = np.cross(HEMATOXYLIN, EOSIN)
    vectors = np.array([HEMATOXYLIN, EOSIN, third]) / np.linalg.norm([HEMATOXYLIN, EOSIN, third], axis=1)[:, None]
    after = np.einsum("ncp,ck->nkp", moved.flatten(2).numpy(), np.linalg.inv(vectors))
    slopes = []
    for image in range(len(images)):
        for stain in range(2):
            slope, offset = np.polyfit(amounts[image, stain].numpy(), after[image, stain], 1)
            fitted = slope * amounts[image, stain].numpy() + offset
            np.testing.assert_allclose(fitted, after[image, stain], atol=2e-3)
            assert 0.7 <= slope <= 1.3
            assert abs(offset) <= 0.3 / 8
            slopes.append(slope)
    assert np.ptp(slopes) > 0.1


def test_lab_is_scikit_images():
    images = torch.rand(2, 3, 16, 16, generator=generator(4))
    pixels = images.permute(0, 2, 3, 1).numpy()
    lab = rgb_to_lab(images)
    np.testing.assert_allclose(lab.permute(0, 2, 3, 1), rgb2lab(pixels), atol=1e-3)
    np.testing.assert_allclose(lab_to_rgb(lab).permute(0, 2, 3, 1), lab2rgb(rgb2lab(pixels)), atol=1e-4)


def test_a_virtual_slide_has_the_wished_mean_and_spread():
    images, _ = tissue(side=64)
    wished = torch.tensor([55.0, 25.0, -12.0, 6.0, 5.0, 4.0])
    templates = StainTemplates(centre=wished, spread=torch.zeros(6))
    lab = rgb_to_lab(templates.dress(images, torch.randn(len(images), 6, generator=generator()))).flatten(2)
    torch.testing.assert_close(lab.mean(2), wished[:3].expand(4, 3), atol=0.6, rtol=0)
    torch.testing.assert_close(lab.std(2), wished[3:].expand(4, 3), atol=0.6, rtol=0)


def test_glass_stays_glass():
    images = torch.full((2, 3, 16, 16), 0.97)
    templates = StainTemplates(centre=torch.tensor([40.0, 30, -20, 5, 5, 5]), spread=torch.ones(6))
    torch.testing.assert_close(
        templates.dress(images, torch.randn(len(images), 6, generator=generator())), images, atol=1e-3, rtol=0
    )


def test_templates_vary_as_slides_do_not_as_tiles():
    """Two slides of many tiles each: the spread is that between both."""
    pale, dark = tissue(20, 16, 1)[0], tissue(20, 16, 2, shift=0.5)[0]
    images = (torch.cat([pale, dark]).permute(0, 2, 3, 1).numpy() * 255).round().astype(np.uint8)
    slides = np.repeat(["a", "b"], 20)
    templates = StainTemplates.of(images, np.arange(40), slides)
    lightness = [rgb2lab(images[slides == name])[..., 0].mean() for name in "ab"]
    assert abs(templates.centre[0] - np.mean(lightness)) < 0.6
    assert abs(templates.spread[0] - np.std(lightness)) < 0.6
