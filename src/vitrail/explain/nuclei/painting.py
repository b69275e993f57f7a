"""A tile of which any of its nuclei can be left out, and the same shapes beside them as a control.

The nuclei are painted over on the slide's own pixels (`vitrail.explain.nuclei.inpainting`), and the change is averaged
onto the tile's: what a network sees is its tile, to the last bit, but for the places of the nuclei that are gone.

Painting itself may move a score. So the same shapes are moved onto tissue without nuclei of the same tile, and can be
painted over there in the same way. In crowded tiles little such tissue is left: shapes are cut to it, and some find
no place.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from vitrail.explain.checks.replacements import GLASS, density
from vitrail.explain.nuclei.inpainting import inpaint, with_halo

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Image = NDArray[np.uint8]
    Labels = NDArray[np.int32]
    Mask = NDArray[np.bool_]
    Floats = NDArray[np.float64]

_TRIES, _FREE, _WHOLE = 64, 0.5, 0.5
"""Places tried for each moved shape; the share of the free tissue that all may take, for the rest is painted from; and
how much of a shape has to lie on free tissue."""

_GLASS_PX = 5
"""Over this many pixels optical density is averaged, to tell tissue from glass."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Painting:
    """A tile of which any nuclei can be left out.

    Attributes
    ----------
    tile
        As the network sees it, `[height, width, 3]`.
    labels
        The nuclei with their halos on the slide's finer pixels, `[h, w]`: 1 to n, 0 none.
    moved
        The same shapes on tissue without nuclei, `[h, w]`; those that found no place are missing.
    change, moved_change
        What painting adds to the finer pixels, in grey levels, `[h, w, 3]`.
    mpp
        Micrometres per finer pixel.
    """

    tile: Image
    labels: Labels
    moved: Labels
    change: NDArray[np.float32]
    moved_change: NDArray[np.float32]
    mpp: float

    @cached_property
    def count(self) -> int:
        """Number of nuclei."""
        return int(self.labels.max(initial=0))

    @cached_property
    def areas_um2(self) -> Floats:
        """What is painted over for each nucleus, `[n]`."""
        return _areas_px(self.labels, self.count) * self.mpp**2

    @cached_property
    def moved_areas_um2(self) -> Floats:
        """The same of the moved shapes, 0 of those that found no place."""
        return _areas_px(self.moved, self.count) * self.mpp**2

    @cached_property
    def _onto_tile(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        rows, columns = (coverage(*sides) for sides in zip(self.tile.shape[:2], self.labels.shape, strict=True))
        return rows, columns

    def without(self, chosen: Mask, *, moved: bool = False) -> Image:
        """Return the tile without some nuclei.

        Parameters
        ----------
        chosen
            Which, `[n]`.
        moved
            Paint over their moved shapes instead.

        Returns
        -------
        NDArray[np.uint8]
            `[height, width, 3]`; pixels that no chosen nucleus reaches are those of the tile.
        """
        labels, change = (self.moved, self.moved_change) if moved else (self.labels, self.change)
        inside = np.append(False, chosen)[labels]
        rows, columns = (np.flatnonzero(inside.any(axis)) for axis in (1, 0))
        if not len(rows):
            return self.tile.copy()
        box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        down, right = (matrix[:, part] for matrix, part in zip(self._onto_tile, box, strict=True))
        reached = tuple(slice(at[0], at[-1] + 1) for at in (np.flatnonzero(each.any(1)) for each in (down, right)))
        part = np.where(inside[box][..., None], change[box], 0)
        added = np.einsum("ah,hwc,bw->abc", down[reached[0]], part, right[reached[1]], optimize=True)
        result = self.tile.copy()
        result[reached] = np.clip(np.rint(result[reached] + added), 0, 255)
        return result


def _areas_px(labels: Labels, count: int) -> Floats:
    return np.bincount(labels.ravel(), minlength=count + 1)[1:].astype(np.float64)


def coverage(parts: int, length: int) -> NDArray[np.float32]:
    """Return the matrix that averages pixels over equal parts of their span, by the area that each covers.

    Parameters
    ----------
    parts
        How many there are.
    length
        Number of pixels.

    Returns
    -------
    NDArray[np.float32]
        `[parts, length]`; every row adds up to 1.
    """
    edges, pixels = np.linspace(0, length, parts + 1), np.arange(length)
    over = np.minimum(pixels + 1, edges[1:, None]) - np.maximum(pixels, edges[:-1, None])
    shares: NDArray[np.float32] = (np.maximum(over, 0) * (parts / length)).astype(np.float32)
    return shares


def paint(
    image: Image, labels: Labels, *, mpp: float = 0.5, tile: Image | None = None, seed: tuple[int, ...] = (0,)
) -> Painting:
    """Paint over all nuclei of a tile, and as many of the same shapes beside them as find place.

    Parameters
    ----------
    image
        The tile's region of the slide, finely, `[h, w, 3]`.
    labels
        Its nuclei, `[h, w]`: 1 to n, 0 none.
    mpp
        Micrometres per pixel of `image`.
    tile
        What the network sees of the same region, `[height, width, 3]`; None takes `image`.
    seed
        Numbers that decide where grain comes from and shapes are moved.

    Returns
    -------
    Painting
        Of it nuclei can be left out.

    Raises
    ------
    ValueError
        Image and labels differ in size.
    """
    if image.shape[:2] != labels.shape:
        raise ValueError(f"labels of {labels.shape} pixels do not fit an image of {image.shape[:2]}")
    own = with_halo(labels, mpp)
    tissue = ndimage.uniform_filter(density(image).mean(2), _GLASS_PX) > GLASS
    moved = move_shapes(own, (own == 0) & tissue, np.random.default_rng([*seed, 1]))
    grey = image.astype(np.float32)
    return Painting(
        tile=image if tile is None else tile,
        labels=own,
        moved=moved,
        change=inpaint(image, own, mpp=mpp, seed=(*seed, 0)) - grey,
        moved_change=inpaint(image, moved, mpp=mpp, barred=own > 0, seed=(*seed, 0)) - grey,
        mpp=mpp,
    )


def move_shapes(labels: Labels, free: Mask, rng: np.random.Generator) -> Labels:
    """Move shapes onto free places, none over another; in random order, until half of what is free is taken.

    Parameters
    ----------
    labels
        The shapes, `[h, w]`: 1 to n, 0 none.
    free
        Where they may lie, `[h, w]`.
    rng
        Draws the places.

    Returns
    -------
    NDArray[np.int32]
        `[h, w]`: the same numbers, cut to free places; those that found none are missing.
    """
    taken, moved, spots, sides = ~free, np.zeros_like(labels), np.argwhere(free), labels.shape
    boxes, used = ndimage.find_objects(labels), 0
    for number in rng.permutation(len(boxes)).tolist() if len(spots) else ():
        if boxes[number] is None:
            continue
        own = np.argwhere(labels[boxes[number]] == number + 1)
        if used + len(own) > _FREE * len(spots):
            continue
        own -= np.rint(own.mean(0)).astype(np.int64)
        places = own + spots[rng.integers(len(spots), size=_TRIES), None]
        within = ((places >= 0) & (places < sides)).all(2)
        rows, columns = (np.where(within, places[..., axis], 0) for axis in (0, 1))
        fits = within & ~taken[rows, columns]
        best = int(fits.sum(1).argmax())
        if (part := fits[best]).mean() >= _WHOLE:
            at = rows[best, part], columns[best, part]
            moved[at], taken[at] = number + 1, True
            used += int(part.sum())
    return moved
