"""Deletion and insertion: whether the network's score follows what the map points at (Petsiuk et al. 2018).

Source: RISE, arXiv:1806.07421. The tile is cut into blocks. Deletion blurs them one after the other, the most salient
first: the sooner the score falls, the smaller the area under its curve, and the better the map. Insertion brings them
back into the blurred tile: the larger the area, the better.

Every order works on the same blocks, so that a coarse map loses nothing against a fine one, and both are compared with
two orders that know nothing of the network: a random one, and one that begins in the tile's centre.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from scipy import ndimage

from vitrail.classes import TissueClass
from vitrail.errors import ModelError
from vitrail.models.classifier import Classifier
from vitrail.models.preprocessing import Normalizer, intensities

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray
    from torch import Tensor

    from vitrail.models.store import Model

    Image = NDArray[np.uint8]
    Floats = NDArray[np.float64]
    Places = NDArray[np.int64]
    Score = Callable[[Image], Floats]

ORDERS = ("gradcam", "hrcam", "random", "blob")
"""What decides which blocks come first; the last two know nothing of the network."""

KINDS = ("deletion", "insertion")

PER_SIDE = 12
"""Blocks along each side of a tile."""

_BATCH = 32


class Scorer:
    """Asks a network how much tumor there is, in float32.

    Parameters
    ----------
    model
        What `load_model` returns; it is moved to the device.
    device
        Where to run.
    """

    def __init__(self, model: Model, device: torch.device) -> None:
        self._device = device
        self._network = model.module.to(device).to(memory_format=torch.channels_last).eval()
        self._standardise = Normalizer(model.spec, device)

    @torch.inference_mode()
    def outputs(self, images: Image) -> Tensor:
        """Return the logits for images `[n, h, w, 3]`: `[n]` of a classifier, `[n, classes, h, w]` of a segmenter.

        Raises
        ------
        ModelError
            The device's memory is too small.
        """
        try:
            return torch.cat([self._pass(images[at : at + _BATCH]) for at in range(0, len(images), _BATCH)])
        except torch.cuda.OutOfMemoryError:
            problem = f"{self._device.type} has too little memory for {_BATCH} tiles at once"
            raise ModelError("check", problem, 'Free its memory, or set compute.device = "cpu" in study.toml') from None

    def _pass(self, images: Image) -> Tensor:
        batch = torch.tensor(np.asarray(images), device=self._device)
        output: Tensor = self._network(self._standardise(intensities(batch)))
        return output.float().cpu()

    def __call__(self, images: Image) -> Floats:
        """Return each image's score, `[n]`, 0 to 1.

        Of a classifier the probability of tumor; of a segmenter the mean of the pixels' probabilities of tumor.
        """
        outputs = self.outputs(images).double()
        if isinstance(self._network, Classifier):
            scores: Floats = torch.sigmoid(outputs).numpy()
        else:
            scores = torch.softmax(outputs, 1)[:, TissueClass.TUMOR].mean((1, 2)).numpy()
        return scores


def block_numbers(size: tuple[int, int], per_side: int = PER_SIDE) -> Places:
    """Return the number of each pixel's block in an image of a height and width, `[h, w]`.

    Where the sides do not divide, some blocks are one pixel longer than others.
    """
    rows, columns = (np.arange(side) * per_side // side for side in size)
    return rows[:, None] * per_side + columns


def places(values: Floats, blocks: Places, rng: np.random.Generator) -> Places:
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
    `[h, w]`: the place of each pixel's block, 0 for the highest mean.
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


def orders(gradcam: Floats, hrcam: Floats, seed: tuple[int, ...]) -> dict[str, Places]:
    """Rank the blocks of one image in each of `ORDERS`.

    Parameters
    ----------
    gradcam, hrcam
        The maps, at the image's resolution, `[h, w]`.
    seed
        Numbers that decide the random order and how ties are broken.
    """
    size = gradcam.shape[0], gradcam.shape[1]
    blocks, maps = block_numbers(size), (gradcam, hrcam, np.zeros(size), closeness(size))
    return {
        name: places(values, blocks, np.random.default_rng([*seed, number]))
        for number, (name, values) in enumerate(zip(ORDERS, maps, strict=True))
    }


def blurred(image: Image) -> Image:
    """Blur an image `[h, w, 3]` until no nucleus is left, mirrored beyond its edges.

    The standard deviation is one block, 17 um of a tile of 199 um: colours stay those of the tissue, so that the
    network is shown nothing that it has never seen, such as a black hole.
    """
    sigma = image.shape[0] / PER_SIDE
    soft = ndimage.gaussian_filter(image.astype(np.float32), (sigma, sigma, 0), mode="reflect")
    return np.rint(soft).astype(np.uint8)


def curves(score: Score, image: Image, ranked: Mapping[str, Places], steps: int) -> pd.DataFrame:
    """Delete and insert the blocks of one image.

    Parameters
    ----------
    score
        Maps images `[n, h, w, 3]` to scores `[n]`.
    image
        `[h, w, 3]`.
    ranked
        By order the place of each pixel's block, `[h, w]`; what `orders` returns.
    steps
        Equal steps from none to all of the blocks.

    Returns
    -------
    `order`, `kind`, `fraction` (of the blocks deleted or inserted, 0 to 1) and `score`; `steps + 1` rows each.
    """
    count = 1 + max(int(each.max()) for each in ranked.values())
    cuts = np.rint(np.linspace(0, count, steps + 1)).astype(np.int64)
    blank = blurred(image)
    ends = score(np.stack([image, blank]))
    scores = np.empty((len(ranked), len(KINDS), steps + 1))
    scores[..., 0], scores[..., -1] = ends, ends[::-1]  # all orders share these
    scores[..., 1:-1] = score(_variants(image, blank, list(ranked.values()), cuts[1:-1])).reshape(
        scores[..., 1:-1].shape
    )
    grid = pd.MultiIndex.from_product([list(ranked), KINDS, cuts / count], names=["order", "kind", "fraction"])
    return pd.DataFrame({"score": scores.ravel()}, index=grid).reset_index()


def _variants(image: Image, blank: Image, ranked: list[Places], cuts: Places) -> Image:
    """Return the images between the ends, `[orders * kinds * cuts, h, w, 3]`."""
    first = np.stack([[each < cut for cut in cuts] for each in ranked])[..., None]
    both = np.stack([np.where(first, blank, image), np.where(first, image, blank)], 1)
    return both.reshape(-1, *image.shape)
