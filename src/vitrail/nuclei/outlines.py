"""From a label image to the outline of each nucleus, exactly along the pixels' edges."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import shapely

from vitrail.slides.polygonize import outline_classes

if TYPE_CHECKING:
    from numpy.typing import NDArray


def outline_nuclei(labels: NDArray[np.int32]) -> NDArray[np.object_]:
    """Outline every nucleus.

    Parameters
    ----------
    labels
        `[h, w]`, 0 for none, and 1 to n, each at least once.

    Returns
    -------
    NDArray[np.object_]
        `[n]` polygons in pixels from the image's top left corner; of a nucleus in several pieces, which no edge of a
        pixel joins, the largest.
    """
    count = int(labels.max(initial=0))
    outlines = np.empty(count, np.object_)
    if not count:
        return outlines
    colours = _colours(labels)
    painted = np.append(np.uint8(0), colours)[labels]
    polygons = outline_classes([painted], tuple(range(1, int(colours.max()) + 1)))
    pieces = np.array([piece for same in polygons.values() for piece in same], np.object_)
    corners, piece = shapely.get_coordinates(pieces, return_index=True)
    order = np.lexsort((corners[:, 0], corners[:, 1], piece))
    first = order[np.append(True, piece[order][1:] != piece[order][:-1])]
    x, y = corners[first].astype(np.intp).T  # the topmost corner, of these the leftmost: its pixel is the nucleus'
    by_size = np.argsort(shapely.area(pieces), kind="stable")
    outlines[labels[y, x][by_size] - 1] = pieces[by_size]  # the last to be written, the largest, stays
    return outlines


def _colours(labels: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Give each label a small number from 1 on that no label beside it has, so that few maps hold all outlines."""
    borders = []
    for first, second in ((labels[:, :-1], labels[:, 1:]), (labels[:-1], labels[1:])):
        touch = (first != second) & (first > 0) & (second > 0)
        borders.append(np.stack([first[touch], second[touch]], axis=1))
    beside: dict[int, set[int]] = {}
    for one, other in np.unique(np.sort(np.concatenate(borders), axis=1), axis=0).tolist():
        beside.setdefault(other, set()).add(one)
    colours = np.ones(int(labels.max()), np.uint8)
    for label in sorted(beside):  # each looks at those before it
        taken = {int(colours[other - 1]) for other in beside[label]}
        colours[label - 1] = next(colour for colour in range(1, len(taken) + 2) if colour not in taken)
    return colours
