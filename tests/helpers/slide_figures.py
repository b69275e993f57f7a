"""A slide with its tiles, and a slide beneath its maps, for figures."""

from __future__ import annotations

import numpy as np

from vitrail.classes import TissueClass
from vitrail.report.data import CutExample, Overlaid
from vitrail.report.figures.predictions_over_slide import choose_sections


def cut_example(maps, labels):
    """Tiles in a row along the top of a slide; the masks of the shown ones are half tumor, half non-tumor."""
    n, shown = len(labels), tuple(range(min(len(labels), 4)))
    masks = np.zeros((len(shown), 12, 12), np.uint8)
    masks[:, :6] = TissueClass.NON_TUMOR
    return CutExample(
        slide_id=maps.slide_id,
        patient_id=maps.patient_id,
        thumbnail=maps.thumbnail,
        width_um=maps.width_um,
        outlines=maps.outlines,
        squares=np.stack([np.arange(n) * maps.tile_side, np.zeros(n), np.full(n, maps.tile_side)], 1),
        labels=labels,
        side_um=199.1,
        shown=shown,
        pictures=np.full((len(shown), 12, 12, 3), 200, np.uint8),
        masks=masks,
    )


def laid(maps):
    sections = choose_sections(maps)
    return Overlaid(maps=maps, sections=sections, pictures=(np.full((24, 24, 3), 200, np.uint8),) * len(sections))
