"""Glass against pictures whose light is known."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.sections import GLASS, section
from vitrail.quality.background import find_glass, local_std, optical_density


def test_density_is_the_logarithm_of_the_light_that_is_missing():
    levels = np.arange(256, dtype=np.uint8)
    rgb = np.stack([levels, levels, levels], axis=-1)
    light = np.array([240.0, 255.0, 200.0])
    np.testing.assert_allclose(optical_density(rgb)[1:], -np.log10(rgb[1:] / 255), atol=1e-6)
    np.testing.assert_allclose(optical_density(rgb, light)[1:], -np.log10(rgb[1:] / light), atol=1e-6)
    np.testing.assert_allclose(optical_density(rgb, light, dark=1), -np.log10((rgb + 1.0) / (light + 1)), atol=1e-6)
    assert np.array_equal(optical_density(rgb)[0], optical_density(rgb)[1])
    assert optical_density(rgb[None, :, :]).shape == (1, 256, 3)


def test_glass_is_measured_on_glass():
    rgb, truth = section(noise=2.0)
    density = optical_density(rgb)
    glass = find_glass(rgb, density, local_std(density.mean(-1)))
    assert glass.noise == pytest.approx(2.0 / 239 / np.log(10), rel=0.5)
    assert glass.share == pytest.approx(1 - truth.mean(), abs=0.1)
    assert np.ptp(glass.shade) < 0.002


def test_local_std_is_the_textbook_one():
    plane = np.random.default_rng(0).normal(0.2, 0.1, (9, 8)).astype(np.float32)
    assert local_std(plane)[4, 3] == pytest.approx(plane[3:6, 2:5].std(), rel=1e-3)


@pytest.mark.parametrize("glass", [(250, 240, 205), (190, 190, 190)])
def test_tinted_and_dim_glass_is_glass(glass):
    rgb, _ = section(glass=glass)
    density = optical_density(rgb)
    assert find_glass(rgb, density, local_std(density.mean(-1))).rgb == pytest.approx(glass, abs=1.5)
    imposed = find_glass(rgb, density, local_std(density.mean(-1)), GLASS)
    assert imposed.rgb == pytest.approx(GLASS)
