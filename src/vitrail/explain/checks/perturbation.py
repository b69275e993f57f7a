"""Deletion and insertion: whether the network's score follows what the map points at (Petsiuk et al. 2018).

Source: RISE, arXiv:1806.07421. The tile is cut into blocks. Deletion replaces them one after the other, the most
salient first: the sooner the score falls, the smaller the area under its curve, and the better the map. Insertion
brings them back into the replaced tile: the larger the area, the better. What replaces them is
`vitrail.explain.checks.replacements`; both the score from 0 to 1, which a pathologist reads, and the logit, which
methods explain and which does not saturate, are followed.

Every order works on the same blocks, so that a coarse map loses nothing against a fine one, and all are compared with
two orders that know nothing of the network: a random one, and one that begins in the tile's centre.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import ndimage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    Image = NDArray[np.uint8]
    Floats = NDArray[np.float64]
    Ranks = NDArray[np.int64]

BASELINES = ("random", "blob")
"""Orders that know nothing of the network; the others are methods of explanation."""

FLOORS = (*BASELINES, "edges", "untrained")
"""Maps that no method made, see `vitrail.explain.checks.floors`."""

KINDS = ("deletion", "insertion")

PER_SIDE = 12
"""Blocks along each side of a tile."""


def block_numbers(size: tuple[int, int], per_side: int = PER_SIDE) -> NDArray[np.int64]:
    """Return the number of each pixel's block in an image of a height and width, `[h, w]`.

    Where the sides do not divide, some blocks are one pixel longer than others.
    """
    rows, columns = (np.arange(side) * per_side // side for side in size)
    return rows[:, None] * per_side + columns


def block_ranks(values: Floats, blocks: NDArray[np.int64], rng: np.random.Generator) -> Ranks:
    """Rank blocks by the mean of a map.

    Parameters
    ----------
    values
        The map, at the image's resolution, `[h, w]`.
    blocks
        What `block_numbers` returns.
    rng
        Breaks ties; a constant map gives a random order.

    Returns
    -------
    NDArray[np.int64]
        `[h, w]`: the rank of each pixel's block, 0 for the highest mean.
    """
    means = ndimage.mean(values, blocks, np.arange(blocks.max() + 1))
    order = np.lexsort((rng.random(len(means)), -means))
    ranks = np.empty_like(order)
    ranks[order] = np.arange(len(order))
    return np.asarray(ranks[blocks], np.int64)


def closeness(size: tuple[int, int]) -> Floats:
    """Return the negative squared distance of each pixel from the image's centre, `[h, w]`, in quarters of a pixel."""
    rows, columns = (np.square(2 * np.arange(side) + 1 - side) for side in size)
    return -(rows[:, None] + columns).astype(np.float64)  # whole numbers: blocks equally far away tie exactly


def orders(maps: Mapping[str, Floats], seed: tuple[int, ...]) -> dict[str, Ranks]:
    """Rank the blocks of one image by each method's map, and in each of `BASELINES`.

    Parameters
    ----------
    maps
        By method the map, at the image's resolution, `[h, w]`.
    seed
        Numbers that decide the random order and how ties are broken.

    Returns
    -------
    dict[str, NDArray[np.int64]]
        By order, what `block_ranks` returns.
    """
    height, width = next(iter(maps.values())).shape
    blocks = block_numbers((height, width))
    # the baselines have numbers of their own, so that they are the same orders whatever methods there are
    numbered = list(zip((0, 1, *range(4, 4 + len(maps))), maps.items(), strict=False))
    numbered[2:2] = [(2, ("random", np.zeros((height, width)))), (3, ("blob", closeness((height, width))))]
    return {
        name: block_ranks(values, blocks, np.random.default_rng([*seed, number])) for number, (name, values) in numbered
    }


def curves(
    score: Callable[[Image], Floats],
    image: Image,
    ranked: Mapping[str, Ranks],
    steps: int,
    blanks: Mapping[str, Image],
) -> pd.DataFrame:
    """Delete and insert the blocks of one image, with each replacement.

    Parameters
    ----------
    score
        Maps images `[n, h, w, 3]` to scores and logits, `[n, 2]`.
    image
        `[h, w, 3]`.
    ranked
        By order the rank of each pixel's block, `[h, w]`; what `orders` returns.
    steps
        Equal steps from none to all of the blocks.
    blanks
        By name what takes the place of the image, `[h, w, 3]`; what `replacements` returns.

    Returns
    -------
    pd.DataFrame
        `replacement`, `order`, `kind`, `fraction` (of the blocks deleted or inserted, 0 to 1), `score` and `logit`;
        `steps + 1` rows each.
    """
    count = 1 + max(int(ranks.max()) for ranks in ranked.values())
    cuts = np.rint(np.linspace(0, count, steps + 1)).astype(np.int64)
    scores = np.empty((len(blanks), len(ranked), len(KINDS), steps + 1, 2))
    ends = score(np.stack([image, *blanks.values()]))  # all orders share these, and all replacements the first
    first = np.stack([[ranks < cut for cut in cuts[1:-1]] for ranks in ranked.values()])[..., None]
    # all at once, so that batches are full
    between = np.stack(
        [np.stack([np.where(first, blank, image), np.where(first, image, blank)], 1) for blank in blanks.values()]
    )
    scores[:, :, :, 1:-1] = score(between.reshape(-1, *image.shape)).reshape(scores[:, :, :, 1:-1].shape)
    deleted, inserted = range(len(KINDS))
    scores[:, :, deleted, 0] = scores[:, :, inserted, -1] = ends[0]
    scores[:, :, deleted, -1] = scores[:, :, inserted, 0] = ends[1:, None]
    names = ["replacement", "order", "kind", "fraction"]
    grid = pd.MultiIndex.from_product([list(blanks), list(ranked), KINDS, cuts / count], names=names)
    return pd.DataFrame(scores.reshape(-1, 2), columns=["score", "logit"], index=grid).reset_index()
