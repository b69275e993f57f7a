from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from vitrail.training.jpeg import compress


def picture(side=48, seed=0):
    """Smooth colours with some texture, and white glass at the right."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    image = np.stack([200 - 80 * x, 120 + 60 * np.sin(9 * y), 170 - 40 * x * y], 2) + rng.normal(0, 8, (side, side, 1))
    image[:, -16:] = 255
    return image.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("quality", [30, 50, 75, 95])
@pytest.mark.parametrize("side", [48, 50])
def test_it_is_what_libjpeg_does(quality, side):
    image, buffer = picture(side), io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality, subsampling=2)
    expected = np.asarray(Image.open(buffer)).astype(float)
    values = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    own = compress(values, torch.tensor([float(quality)]))[0].permute(1, 2, 0).numpy() * 255
    lost = np.abs(expected - image).mean()
    assert np.abs(own - expected).mean() < max(0.25 * lost, 1.0)
    assert np.abs(own - image).mean() == pytest.approx(lost, rel=0.1)


def test_each_image_has_its_own_quality():
    images = torch.from_numpy(np.stack([picture(), picture()])).permute(0, 3, 1, 2).float() / 255
    both = compress(images, torch.tensor([30.0, 95.0]))
    for at, quality in enumerate((30.0, 95.0)):
        torch.testing.assert_close(both[at], compress(images[at : at + 1], torch.tensor([quality]))[0])
