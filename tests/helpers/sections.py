"""A disk of stained tissue on glass: a picture with its truth."""

from __future__ import annotations

import numpy as np

GLASS = (238, 240, 239)
STAIN = np.array([0.16, 0.30, 0.18])
"""Mean optical density of a stained section."""


def section(side=200, density=1.0, *, glass=GLASS, radius=0.32, noise=0.8, seed=0):
    """A disk of tissue with uneven stain on flat glass: picture and truth."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-0.5 : 0.5 : side * 1j, -0.5 : 0.5 : side * 1j]
    truth = x * x + y * y < radius**2
    uneven = 1 + 0.35 * rng.standard_normal(truth.shape)
    light = np.asarray(glass) * 10 ** -((truth * uneven.clip(0.3) * density)[..., None] * STAIN)
    return (light + rng.normal(0, noise, light.shape)).round().clip(0, 255).astype(np.uint8), truth
