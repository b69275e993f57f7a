"""Deletion and insertion: whether the network's score follows what the map points at (Petsiuk et al. 2018).

Source: RISE, arXiv:1806.07421. The tile is cut into blocks. Deletion blurs them one after the other, the most salient
first: the sooner the score falls, the smaller the area under its curve, and the better the map. Insertion brings them
back into the blurred tile: the larger the area, the better.

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


def blurred(image: Image) -> Image:
    """Blur an image `[h, w, 3]` until no nucleus is left, mirrored beyond its edges.

    The standard deviation is one block, 17 um of a tile of 199 um: colours stay those of the tissue, so that the
    network is shown nothing that it has never seen, such as a black hole.
    """
    sigma = image.shape[0] / PER_SIDE
    soft = ndimage.gaussian_filter(image.astype(np.float32), (sigma, sigma, 0), mode="reflect")
    return np.rint(soft).astype(np.uint8)


def curves(score: Callable[[Image], Floats], image: Image, ranked: Mapping[str, Ranks], steps: int) -> pd.DataFrame:
    """Delete and insert the blocks of one image.

    Parameters
    ----------
    score
        Maps images `[n, h, w, 3]` to scores `[n]`.
    image
        `[h, w, 3]`.
    ranked
        By order the rank of each pixel's block, `[h, w]`; what `orders` returns.
    steps
        Equal steps from none to all of the blocks.

    Returns
    -------
    pd.DataFrame
        `order`, `kind`, `fraction` (of the blocks deleted or inserted, 0 to 1) and `score`; `steps + 1` rows each.
    """
    count = 1 + max(int(ranks.max()) for ranks in ranked.values())
    cuts = np.rint(np.linspace(0, count, steps + 1)).astype(np.int64)
    blank = blurred(image)
    scores = np.empty((len(ranked), len(KINDS), steps + 1))
    ends = score(np.stack([image, blank]))
    scores[..., 0], scores[..., -1] = ends, ends[::-1]  # all orders share these
    first = np.stack([[ranks < cut for cut in cuts[1:-1]] for ranks in ranked.values()])[..., None]
    between = np.stack([np.where(first, blank, image), np.where(first, image, blank)], 1)
    scores[..., 1:-1] = score(between.reshape(-1, *image.shape)).reshape(scores[..., 1:-1].shape)
    grid = pd.MultiIndex.from_product([list(ranked), KINDS, cuts / count], names=["order", "kind", "fraction"])
    return pd.DataFrame({"score": scores.ravel()}, index=grid).reset_index()
