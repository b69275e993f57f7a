"""A square of a slide with what its pixels need to know before they can be stained."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from vitrail.synthetic.cells import CellGrid
from vitrail.synthetic.fields import TEXTURE_PX, Plane, Window, enlarge, periodic_noise
from vitrail.synthetic.layout import Layout
from vitrail.synthetic.spec import LAYOUT_STEP, SlideSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PITCH_UM = {
    "tumor": (10.4, 0.36),
    "spinous": (8.9, 0.29),
    "fat": (58.0, 0.34),
    "gland": (37.0, 0.24),
    "blood": (6.6, 0.36),
}
"""Distance of the centres, and their jitter in pitches, of the tissues that are made of visible cells."""

_TEXTURES_UM = {
    "fibre": (0.5, 9.0),
    "bundle": (1.7, 24.0),
    "cord": (4.5, 70.0),
    "grain": (0.45, 0.45),
    "mottle": (2.4, 2.4),
    "cloud": (14.0, 14.0),
}
"""Standard deviations (across, along) of the periodic textures."""

_CUT_MARGIN = 4


@lru_cache(maxsize=2)
def textures(mpp: float) -> dict[str, Plane]:
    """Return the periodic textures, the same for every slide of this resolution."""
    rng = np.random.default_rng(99)
    return {name: periodic_noise(rng, across / mpp, along / mpp) for name, (across, along) in _TEXTURES_UM.items()}


def draw_grids(spec: SlideSpec) -> dict[str, CellGrid]:
    """Draw the cell grids of a slide."""
    return {name: CellGrid.draw(spec, k, *pitch) for k, (name, pitch) in enumerate(_PITCH_UM.items())}


@dataclass(frozen=True, kw_only=True)
class Block:
    """A square of the slide to be drawn; its planes are worked out once, when first asked for.

    Attributes
    ----------
    window
        Where it lies on the slide.
    frame
        Where it lies on its own cut of the layout.
    layout
        The part of the layout that it needs.
    grids
        The slide's cell grids.
    mpp
        Micrometres per level-0 pixel.
    codes
        The tissue types that may occur; of a part of a block all of the block's, so that it looks the same.
    """

    window: Window
    frame: Window
    layout: Layout
    grids: dict[str, CellGrid]
    mpp: float
    codes: tuple[int, ...]

    @cached_property
    def types(self) -> NDArray[np.uint8]:
        """The tissue type of every pixel: the layout with its stairs smoothed and its borders slightly ragged."""
        ragged = 0.1 * self.texture("mottle")
        best = np.full(ragged.shape, -np.inf, np.float32)
        types = np.zeros(ragged.shape, np.uint8)
        for code in self.codes:
            soft = ndimage.gaussian_filter((self.layout.types == code).astype(np.float32), 0.8)
            score = enlarge(soft, self.frame)
            score += ragged if code % 2 else -ragged
            np.copyto(types, code, where=score > best)
            np.maximum(best, score, out=best)
        return types

    def texture(self, name: str) -> Plane:
        """Return a texture lying still on the slide, for every pixel; it may not be changed."""
        x, y = self.window.x % TEXTURE_PX, self.window.y % TEXTURE_PX
        return _cover(name, self.mpp, Window(x=x, y=y, side=self.window.side))


@lru_cache(maxsize=2 * len(_TEXTURES_UM))
def _cover(name: str, mpp: float, window: Window) -> Plane:
    """Cover a window with a texture; whole blocks all lie alike on it, so this is done once for all of them."""
    rows = textures(mpp)[name][np.arange(window.y, window.y + window.side) % TEXTURE_PX]
    pieces = [rows[:, window.x :], *[rows] * (window.side // TEXTURE_PX + 1)]
    cover = np.concatenate(pieces, axis=1)[:, : window.side].copy()
    cover.flags.writeable = False
    return cover


def cut_block(
    window: Window, layout: Layout, grids: dict[str, CellGrid], mpp: float, part: Window | None = None
) -> Block:
    """Prepare a block, or a part of it: cut out what it needs of the layout.

    Parameters
    ----------
    window
        The block.
    layout, grids, mpp
        Of the slide.
    part
        A square within the block; it begins a multiple of `LAYOUT_STEP` from the block's corner.

    Returns
    -------
    Block
        Away from its edges, the part's pixels are the block's.
    """
    codes = tuple(np.unique(layout.types[_span(window.y, window.side), _span(window.x, window.side)]).tolist())
    inner = part or window
    rows, columns = _span(inner.y, inner.side), _span(inner.x, inner.side)
    cut = Layout(**{field.name: getattr(layout, field.name)[rows, columns] for field in fields(Layout)})
    frame = Window(x=inner.x - columns.start * LAYOUT_STEP, y=inner.y - rows.start * LAYOUT_STEP, side=inner.side)
    return Block(window=inner, frame=frame, layout=cut, grids=grids, mpp=mpp, codes=codes)


def _span(origin: int, side: int) -> slice:
    """Return which rows or columns of the layout pixels of a window need."""
    first = max(origin // LAYOUT_STEP - _CUT_MARGIN, 0)
    return slice(first, first + side // LAYOUT_STEP + 2 * _CUT_MARGIN + 1)
