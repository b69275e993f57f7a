"""A slide, drawn block by block: only its layout, at 1/8 of the resolution, is held as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vitrail.synthetic.artefacts import Overlay, Veil, draw_overlay, soil
from vitrail.synthetic.block import cut_block, draw_grids
from vitrail.synthetic.fields import Window, enlarge
from vitrail.synthetic.layout import Layout, Style, draw_layout, draw_style
from vitrail.synthetic.nuclei import nucleus_banks
from vitrail.synthetic.populate import Nuclei, populate
from vitrail.synthetic.stain import Stain, draw_stain, photograph, stamp
from vitrail.synthetic.texture import paint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from vitrail.synthetic.cells import CellGrid
    from vitrail.synthetic.spec import SlideSpec

BLOCK_PX = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A slide that is decided but not yet drawn."""

    spec: SlideSpec
    style: Style
    layout: Layout
    grids: dict[str, CellGrid]
    nuclei: Nuclei
    stain: Stain
    overlay: Overlay | None


def compose(spec: SlideSpec) -> Scene:
    """Decide tissues, nuclei, staining and artefacts of a slide."""
    style = draw_style(spec)
    layout = draw_layout(spec, style)
    grids = draw_grids(spec)
    nuclei = populate(spec, layout, grids)
    stain = draw_stain(spec.rng(5))
    overlay = draw_overlay(spec, layout)
    return Scene(spec=spec, style=style, layout=layout, grids=grids, nuclei=nuclei, stain=stain, overlay=overlay)


def draw_strips(scene: Scene) -> Iterator[NDArray[np.uint8]]:
    """Draw the slide from top to bottom.

    Yields
    ------
    NDArray[np.uint8]
        Strips `[BLOCK_PX or fewer, side, 3]` of level 0.
    """
    side = scene.spec.side_px
    for y in range(0, side, BLOCK_PX):
        yield np.concatenate([draw_block(scene, x, y) for x in range(0, side, BLOCK_PX)], axis=1)


def draw_block(scene: Scene, x: int, y: int) -> NDArray[np.uint8]:
    """Draw one block: its own pixels and a margin that holds every nucleus touching them, which is cut off again.

    Parameters
    ----------
    scene
        The slide.
    x, y
        The block's left and top.

    Returns
    -------
    NDArray[np.uint8]
        `[BLOCK_PX or fewer, BLOCK_PX or fewer, 3]`.
    """
    spec, banks = scene.spec, nucleus_banks(scene.spec.mpp)
    margin = 2 * max(bank.half for bank in banks) + 2
    window = Window(x=x - margin, y=y - margin, side=BLOCK_PX + 2 * margin)
    block = cut_block(window, scene.layout, scene.grids, spec.mpp)
    stains = paint(block)
    stamp(stains, scene.nuclei, window, banks)
    stains *= 1 + enlarge(block.layout.fold, block.frame)  # twice the tissue, twice the stain
    veil = None
    if scene.overlay is not None:
        soil(stains, scene.overlay, block)
        veil = Veil(overlay=scene.overlay, window=window, mpp=spec.mpp)
    picture = photograph(stains, scene.stain, spec.rng(6, x, y), veil)
    width, height = min(BLOCK_PX, spec.side_px - x), min(BLOCK_PX, spec.side_px - y)
    return picture[margin : margin + height, margin : margin + width]
