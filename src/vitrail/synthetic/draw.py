"""A slide, drawn block by block: only its layout, at 1/8 of the resolution, is held as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from vitrail.synthetic.artefacts import Overlay, Veil, draw_overlay, soil
from vitrail.synthetic.block import cut_block, draw_grids
from vitrail.synthetic.fields import Window, enlarge
from vitrail.synthetic.layout import Layout, Style, draw_layout, draw_style
from vitrail.synthetic.nuclei import Bank, nucleus_banks
from vitrail.synthetic.populate import Nuclei, populate
from vitrail.synthetic.shortcuts import Planted, plant
from vitrail.synthetic.spec import CAUSES, LAYOUT_STEP
from vitrail.synthetic.stain import Stain, camera_noise, draw_stain, photograph, stamp
from vitrail.synthetic.texture import paint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from vitrail.geometry import Region
    from vitrail.synthetic.cells import CellGrid
    from vitrail.synthetic.spec import SlideSpec

BLOCK_PX = 1024

Box: TypeAlias = tuple[int, int, int, int]


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
    planted: Planted | None

    @property
    def banks(self) -> tuple[Bank, ...]:
        """The drawings of its nuclei."""
        return nucleus_banks(self.spec.mpp, tuple(name for name in self.spec.without if name in CAUSES["atypia"]))


def compose(spec: SlideSpec) -> Scene:
    """Decide tissues, nuclei, staining, artefacts and shortcuts of a slide."""
    style = draw_style(spec)
    layout = draw_layout(spec, style)
    grids = draw_grids(spec)
    nuclei = populate(spec, layout, grids)
    stain = draw_stain(spec.rng(5))
    return Scene(
        spec=spec,
        style=style,
        layout=layout,
        grids=grids,
        nuclei=nuclei,
        stain=stain,
        overlay=draw_overlay(spec, layout),
        planted=plant(spec, layout),
    )


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


def draw_block(scene: Scene, x: int, y: int, part: Box | None = None) -> NDArray[np.uint8]:
    """Draw one block, or a part of it.

    Its own pixels are drawn with a margin that holds every nucleus touching them, which is cut off again. The camera's
    noise is the block's, so that the pixels of a part are those of the block.

    Parameters
    ----------
    scene
        The slide.
    x, y
        The block's left and top.
    part
        Left, top, right and bottom of what to draw of it, on the slide; by default all of it.

    Returns
    -------
    NDArray[np.uint8]
        `[height, width, 3]`.
    """
    spec, banks = scene.spec, scene.banks
    left, top, right, bottom = part or (x, y, min(x + BLOCK_PX, spec.side_px), min(y + BLOCK_PX, spec.side_px))
    margin = 2 * max(bank.half for bank in banks) + 2
    block_window = Window(x=x - margin, y=y - margin, side=BLOCK_PX + 2 * margin)
    window = block_window if part is None else _enclose(block_window, (left, top, right, bottom), margin)
    block = cut_block(block_window, scene.layout, scene.grids, spec.mpp, window)
    stains = paint(block, spec.without)
    stamp(stains, scene.nuclei, window, banks)
    stains *= 1 + enlarge(block.layout.fold, block.frame)  # twice the tissue, twice the stain
    veils = []
    if scene.overlay is not None:
        soil(stains, scene.overlay, block)
        veils.append(Veil(overlay=scene.overlay, window=window, mpp=spec.mpp))
    if scene.planted is not None:
        scene.planted.restain(stains, window)
        veils.append(Veil(overlay=scene.planted.overlay, window=window, mpp=spec.mpp))
    noise = _noise_of(camera_noise(spec.rng(6, x, y), block_window.side), block_window, window)
    picture = photograph(stains, scene.stain, noise, veils)
    return picture[top - window.y : bottom - window.y, left - window.x : right - window.x]


def _enclose(block: Window, box: Box, margin: int) -> Window:
    """Return a square that holds a box of a block and its margin, whole steps of the layout from the block's corner."""
    left, top, right, bottom = box
    x, y = (
        origin + (edge - margin - origin) // LAYOUT_STEP * LAYOUT_STEP
        for origin, edge in ((block.x, left), (block.y, top))
    )
    side = max(right - x, bottom - y) + margin
    return Window(x=x, y=y, side=side + side % 2)


def _noise_of(noise: NDArray[np.uint8], block: Window, window: Window) -> NDArray[np.uint8]:
    """Cut out of a block's noise that of a window, which may reach beyond the block where nothing is looked at."""
    part = noise[window.y - block.y :, window.x - block.x :][: window.side, : window.side]
    return np.pad(part, ((0, window.side - part.shape[0]), (0, window.side - part.shape[1]), (0, 0)))


def draw_region(slide: SlideSpec | Scene, region: Region) -> NDArray[np.uint8]:
    """Draw a part of a slide without the slide: the very pixels of level 0 before JPEG has compressed them.

    Parameters
    ----------
    slide
        What to draw; a scene saves composing it, for several regions of one slide.
    region
        Which part; every pixel that it touches is drawn.

    Returns
    -------
    NDArray[np.uint8]
        `[height, width, 3]`, white beyond the slide.
    """
    scene = slide if isinstance(slide, Scene) else compose(slide)
    left, top, right, bottom = pixel_box(region)
    picture = np.full((bottom - top, right - left, 3), 255, np.uint8)
    side = scene.spec.side_px
    for y in range(max(top, 0) // BLOCK_PX * BLOCK_PX, min(bottom, side), BLOCK_PX):
        for x in range(max(left, 0) // BLOCK_PX * BLOCK_PX, min(right, side), BLOCK_PX):
            part = max(left, x), max(top, y), min(right, x + BLOCK_PX, side), min(bottom, y + BLOCK_PX, side)
            picture[part[1] - top : part[3] - top, part[0] - left : part[2] - left] = draw_block(scene, x, y, part)
    return picture


def pixel_box(region: Region) -> Box:
    """Return left, top, right and bottom of the pixels that a region touches."""
    return floor(region.x), floor(region.y), ceil(region.right), ceil(region.bottom)
