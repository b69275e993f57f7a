"""Tiles of two stains whose amounts are known."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

VECTORS = np.array([(0.65, 0.70, 0.29), (0.20, 0.88, 0.43)])
VECTORS /= np.linalg.norm(VECTORS, axis=1, keepdims=True)


def stained_tiles(seed=0, tiles=4, side=96, amounts=(0.5, 0.5), vectors=VECTORS):
    """Blobs of hematoxylin on smooth eosin: `[tiles, side, side, 3]`."""
    rng = np.random.default_rng(seed)
    fields = ndimage.gaussian_filter(rng.normal(size=(2, tiles, side, side)), (0, 0, 2, 2))
    fields /= fields.std((1, 2, 3), keepdims=True)
    nuclei = np.clip(1.2 * fields[0], 0, None)
    matrix = np.clip(0.6 + 0.25 * fields[1], 0.05, None) * (nuclei < 1.4)
    density = amounts[0] * nuclei[..., None] * vectors[0] + amounts[1] * matrix[..., None] * vectors[1]
    grain = rng.normal(0, 1.0, density.shape)
    return np.clip(245 * 10**-density + grain, 0, 255).round().astype(np.uint8)
