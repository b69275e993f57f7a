"""Nuclei that are drawn, and stand-ins for what finds them: dark pixels that hang together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from helpers.cohort import write_tiff
from vitrail.slides.slide import open_slide, read_region

MPP = 0.5


def draw_nuclei(side_px=(500, 620), count=110, seed=0, radius_px=(4, 11)):
    """Draw dark ellipses that do not touch on pink tissue, with glass to the right and below.

    Returns the picture and the label of every pixel.
    """
    rng = np.random.default_rng(seed)
    height, width = side_px
    image = np.full((height, width, 3), 243, np.uint8) + rng.integers(-1, 2, (height, width, 3)).astype(np.uint8)
    tissue = slice(0, height - 120), slice(0, width - 150)
    image[tissue] = (225, 160, 200)
    labels = np.zeros((height, width), np.int32)
    y, x = np.mgrid[:height, :width]
    number = 0
    for _ in range(count * 5):
        radius = rng.uniform(*radius_px, 2)
        center = rng.uniform(0, height - 135), rng.uniform(0, width - 165)
        turn = rng.uniform(0, np.pi)
        box = tuple(slice(max(int(c) - 24, 0), int(c) + 25) for c in center)
        dy, dx = y[box] - center[0], x[box] - center[1]
        along, across = dx * np.cos(turn) + dy * np.sin(turn), dy * np.cos(turn) - dx * np.sin(turn)
        form = (along / radius[0]) ** 2 + (across / radius[1]) ** 2 <= 1
        if form.sum() < 20 or labels[box][ndimage.binary_dilation(form, iterations=2)].any():
            continue
        number += 1
        labels[box][form] = number
        shade = np.array([90, 60, 140]) + rng.integers(-15, 16) + rng.integers(-12, 13, (form.sum(), 1))
        image[box][form] = shade.clip(0, 120).astype(np.uint8)
        if number == count:
            break
    return image, labels


def write_nuclei_slide(path, **drawing):
    """Write such a slide; return it, and the label of every pixel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image, labels = draw_nuclei(**drawing)
    write_tiff(path, image, MPP)
    return open_slide(path), labels


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenRegion:
    image: np.ndarray
    labels: np.ndarray
    mpp: float
    region: object


class DarkPixels:
    """An engine: what is dark and hangs together is a nucleus; it counts its calls."""

    name, margin_um = "dark pixels", 0.0

    def __init__(self, patience=10**9, *, restless=False):
        self.calls, self.patience, self.restless = 0, patience, restless

    def __call__(self, image, mpp):  # noqa: ARG002 - the protocol's arguments
        self.calls += 1
        if self.calls > self.patience:
            raise KeyboardInterrupt
        dark = image[..., 1] < 120
        if self.restless:  # its outlines are another in each window: moved, and wider or narrower
            dark = np.roll(dark, (self.calls % 3, -(self.calls % 4)), (0, 1))
            dark = (ndimage.binary_erosion, ndimage.binary_dilation)[self.calls % 2](dark)
        labels, _ = ndimage.label(dark)
        return labels.astype(np.int32)


def segment_region(slide, region, engine, *, mpp=None):
    """Stand in for `nuclei.regions.segment_region`."""
    mpp = mpp or max(slide.mpp, MPP)
    size = round(region.width * slide.mpp / mpp), round(region.height * slide.mpp / mpp)
    image = read_region(slide, region, size)
    return SeenRegion(image=image, labels=engine(image, mpp), mpp=mpp, region=region)
