"""RISE: what random masks do to the score (Petsiuk et al. 2018, arXiv:1806.07421).

Masks are enlarged from coarse grids of zeros and ones, and shifted by chance, as in the source. What is hidden is the
blurred tile instead of black, which no network has seen in tissue. The source's map is the mean of masks, weighted by
the scores under them, its equation 6; its level depends on how sure a network is. Here each pixel's value is the
covariance of score and mask, over the mask's own with all pixels: of a network that adds up its pixels, what these are
worth, smeared over the grid's cells. So maps are signed and in logits.

Each mask is followed by its complement. Then the mean score cancels, and with it whatever does not depend on which half
is hidden: there is less noise in as many passes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from vitrail.classes import TissueClass
from vitrail.explain.hooks import frozen
from vitrail.explain.input_gradients import ImageScore, blurred
from vitrail.explain.methods.base import ExplanationMethod
from vitrail.explain.methods.sampling import image_generators
from vitrail.explain.occluding import hidden_scores

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Generator, Tensor, nn

    from vitrail.explain.dense import DenseNetwork
    from vitrail.explain.methods.base import Head
    from vitrail.explain.saliency import Maps
    from vitrail.explain.target import Pixels

DRAWS = 120
"""Masks drawn for an image, each of which is used with its complement."""

GRID, GRID_UM = 8, 25.0
"""Cells along a side, at most; micrometres along a cell, at least."""


class Rise(ExplanationMethod):
    """The covariance of the score with random masks, in logits."""

    name, title, colour = "rise", "RISE", (230, 159, 0)
    describes = "hides random halves of the tile, and looks which places go with a high score"
    passes = 1 + 2 * DRAWS
    any_network = True

    def explain(
        self,
        network: nn.Module,
        images: Tensor,
        target: TissueClass = TissueClass.TUMOR,
        *,
        head: Head = None,  # noqa: ARG002 - it has none
        pixels: Pixels = "predicted",
        mpp: float | None = None,
        dense: DenseNetwork | None = None,  # noqa: ARG002 - the network is asked as it is
    ) -> Maps:
        """Explain images; see `ExplanationMethod.explain` and `rise`."""
        return rise(network, images, target=target, pixels=pixels, mpp=mpp)


METHOD = Rise()


def rise(
    network: nn.Module,
    images: Tensor,
    blanks: Tensor | None = None,
    target: TissueClass = TissueClass.TUMOR,
    *,
    pixels: Pixels = "predicted",
    mpp: float | None = None,
    draws: int = DRAWS,
) -> Maps:
    """Explain images by random masks.

    Parameters
    ----------
    network
        A classifier or a segmenter, in either mode.
    images
        `[n, 3, h, w]`, standardised.
    blanks
        What takes the place of what is hidden, of their shape or one that expands to it. None takes the blurred images,
        see `blurred`.
    target
        The class.
    pixels
        Of a segmenter: which pixels' class is explained, see `target_pixels`.
    mpp
        Micrometres per pixel. None takes `GRID` cells along a side.
    draws
        Masks of an image, each of which costs two passes.

    Returns
    -------
    Maps
        One map an image, of cells of `CELL_PX`: what the pixels of a cell are worth together.
    """
    images = images.detach()
    blanks = blurred(images) if blanks is None else blanks.to(images).expand_as(images)
    sides = images.shape[2:]
    cells = [GRID if mpp is None else min(max(round(side * mpp / GRID_UM), 2), GRID) for side in sides]
    drawn = [_draw(generator, sides, cells, draws) for generator in image_generators(images)]
    rows, columns, grids = (torch.stack(each).to(images) for each in zip(*drawn, strict=True))

    def masks(own: Tensor, number: Tensor) -> Tensor:
        pair = own, number // 2
        hidden = rows[pair] @ grids[pair] @ columns[pair].mT
        return torch.where((number % 2 == 0)[:, None, None], hidden, 1 - hidden)

    with frozen(network):
        score = ImageScore.on(network, images, target, pixels)
        under = hidden_scores(score, images, blanks, masks, 2 * draws).view(-1, draws, 2)
    falls = (under[..., 1] - under[..., 0]) / 2
    left = rows @ (grids - 0.5) * falls[..., None, None]
    covariance = left.transpose(1, 2).flatten(2) @ columns.mT.flatten(1, 2)
    # a mask's covariance with itself comes from the nodes that two pixels share; a node's own variance is a quarter
    shared = [part @ part.sum(2)[..., None] for part in (rows, columns)]
    with_all = (shared[0].squeeze(3).mT @ shared[1].squeeze(3)) / 4
    return score.maps(METHOD.name, (covariance / with_all)[:, None])


def _draw(generator: Generator, sides: Sequence[int], cells: Sequence[int], count: int) -> tuple[Tensor, ...]:
    """Draw masks of an image: how much each row and each column has of each node of a grid, and the nodes' values.

    Bilinear interpolation of grids that are shifted by chance, by up to a cell.
    """
    axes = []
    for side, parts in zip(sides, cells, strict=True):
        at = (torch.arange(side) + 0.5) * (parts / side) + torch.rand(count, 1, generator=generator)
        axes.append((1 - (at[..., None] - torch.arange(parts + 2)).abs()).clamp(min=0))
    nodes = torch.randint(2, (count, *(parts + 2 for parts in cells)), generator=generator)
    return axes[0], axes[1], nodes
