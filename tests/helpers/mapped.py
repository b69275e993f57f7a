"""A slide whose every pixel is known, and predictors that answer with its red channel: for tests of whole slides."""

from __future__ import annotations

import numpy as np
import torch

from helpers.cohort import write_tiff
from vitrail.classes import ARTEFACTS, ArtefactKind
from vitrail.models.spec import ClassifierSpec, SegmenterSpec
from vitrail.quality.artefacts import Artefacts
from vitrail.settings.load import Settings

HEIGHT, WIDTH, MPP = 512, 704, 1.0
SIDE_PX, SIDE_UM = 32, 64
"""A tile of the predictors is 64 pixels of the slide, reduced by 2: 8 by 11 tiles."""

GLASS = 243
TISSUE = (slice(100, 440), slice(90, 600))
PEN = (slice(192, 272), slice(320, 400))
"""Rows and columns of the tissue, and of ink on it, which covers the tile in row 3, column 5 wholly."""

CELL = 8

SPEC = {"encoder": "any", "side_um": SIDE_UM, "side_px": SIDE_PX, "mean": (0.7, 0.5, 0.6), "std": (0.2, 0.2, 0.2)}


def picture():
    """Draw tissue whose red rises from left to right, on glass."""
    rng = np.random.default_rng(3)
    image = rng.integers(GLASS - 1, GLASS + 2, (HEIGHT, WIDTH, 3), np.uint8)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    tissue = np.stack([70 + x // 4, 60 + y // 16, 120 + x // 16], -1) + rng.integers(-9, 10, (HEIGHT, WIDTH, 3))
    image[TISSUE] = tissue.clip(0, 255).astype(np.uint8)[TISSUE]
    return image


def write_slide(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_tiff(path, picture(), mpp=MPP)


def pen_mark(*_, **__):
    """Stand in for `find_artefacts`: a mark of ink on any slide."""
    masks = np.zeros((len(ARTEFACTS), HEIGHT // CELL, WIDTH // CELL), bool)
    masks[ArtefactKind.PEN, *(slice(side.start // CELL, side.stop // CELL) for side in PEN)] = True
    return Artefacts(masks=masks, cell=CELL, cell_um=CELL * MPP)


def settings(**predict):
    """Return settings with blended windows of one tile, which look for no artefacts unless told to."""
    common = {"artefacts": False, "window": 1, "overlap": 0.25, "background": False, "calibrated": True}
    return Settings.model_validate({"predict": common | predict})


class Reds:
    """Stands in for a predictor: tumor probability is the red channel, so that every pixel has a known answer."""

    looks = 1

    device = torch.device("cpu")

    def __init__(self, task="segmenter", patience=10**9, side_um=SIDE_UM):
        make = {"segmenter": SegmenterSpec, "classifier": ClassifierSpec}[task]
        more = {"segmenter": {"decoder": (1,) * 5}, "classifier": {"dense": 1, "dropout": 0}}[task]
        self.spec = make(**SPEC | {"side_um": side_um}, **more)
        self.seen, self.patience = 0, patience

    def streams(self):
        return 1

    def expect(self, images):
        assert images > 0

    def class_probabilities(self, images):
        red = self._seen(images)
        return np.stack([red, 1 - red, 0 * red, 0 * red], 1)

    def tumor_probability(self, images):
        if self.spec.task == "segmenter":
            return (self.class_probabilities(images).argmax(1) == 0).mean((1, 2))
        return self._seen(images).mean((1, 2)).astype(np.float64)

    def _seen(self, images):
        self.seen += len(images)
        if self.seen > self.patience:
            raise KeyboardInterrupt
        return images[..., 0].astype(np.float32) / 255
