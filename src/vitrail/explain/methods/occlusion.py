"""Occlusion: how far the score falls when a place is hidden (Zeiler and Fergus 2014, doi:10.1007/978-3-319-10590-1_53).

The paper names it as future work. It asks the network itself, and needs neither gradients nor feature maps. A place is
hidden by the blurred tile, through a window with soft edges: colours stay those of the tissue, and no border appears.

Windows have a size in micrometres, and their number is bounded, coarse to fine: large ones cover the tile, and where
these matter most four small ones follow. What each window takes from the score is a weighted sum of what the cells
below it are worth. So the map is the smooth one that explains all windows' effects at once, by ridge regression, and
not their mean, which would smear every effect over its window.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import torch

from vitrail.classes import TissueClass
from vitrail.explain.hooks import frozen
from vitrail.explain.input_gradients import CELL_PX, ImageScore, blurred
from vitrail.explain.methods.base import ExplanationMethod
from vitrail.explain.saliency import Frame, Maps
from vitrail.explain.target import target_score

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vitrail.explain.dense import DenseNetwork
    from vitrail.explain.methods.base import Head
    from vitrail.explain.target import Pixels

COARSE_UM = 33.0
"""Side of a coarse window: a group of cells. The fine ones have half of it, about a nucleus with its cytoplasm."""

COARSE, REFINED = 6, 15
"""Coarse windows along a side, at most; and how many of them are looked at more closely."""

BATCH = 32
"""Images in one pass."""

RIDGE = 0.5
"""Of the mean variance of the windows' effects under the prior: what is taken for their error."""


class Occlusion(ExplanationMethod):
    """What hiding each place takes from the score, in logits; cells of 4 pixels, which add up what windows take."""

    name, title, colour = "occlusion", "Occlusion", (0, 114, 178)
    passes = 1 + COARSE**2 + 4 * REFINED

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
        """Hide places of images.

        Parameters
        ----------
        network, images, target, head, pixels, dense
            See `ExplanationMethod.explain`.
        mpp
            Micrometres per pixel; without it a tile is cut into `COARSE` windows along a side.

        Returns
        -------
        Maps
            One map an image.
        """
        height, width = images.shape[2:]
        with frozen(network), torch.no_grad():
            score = ImageScore.on(network, images, target, pixels)
            hidden = blurred(images)
            shape = height, width
            counts = tuple(min(COARSE, max(2, round(side * mpp / COARSE_UM))) if mpp else COARSE for side in shape)
            coarse, fine = windows(shape, (counts[0], counts[1]))
            coarse, fine = coarse.to(images), fine.to(images)
            every = torch.arange(len(coarse), device=images.device).expand(len(images), -1)
            first = _falls(score, images, hidden, coarse, every)
            # four small windows lie in each large one
            most = first.abs().topk(min(REFINED, len(coarse)), 1).indices
            inner = (most[:, :, None] * 4 + torch.arange(4, device=images.device)).flatten(1)
            second = _falls(score, images, hidden, fine, inner)
            cells, prior = _cells(shape, (counts[0], counts[1]))
            both = torch.cat([cells, torch.zeros(0, cells.shape[1], dtype=cells.dtype)]).to(images.device)
            values = []
            for falls, more, small in zip(first, second, inner, strict=True):
                seen_by = both[torch.cat([every[0], len(coarse) + small])]
                spread = prior.to(images.device) @ seen_by.T
                effects = seen_by @ spread
                ridge = RIDGE * effects.diagonal().mean() * torch.eye(len(effects), device=images.device)
                values.append(spread @ torch.linalg.solve(effects + ridge.double(), torch.cat([falls, more]).double()))
        high, wide = (-(-side // CELL_PX) for side in shape)
        return Maps(
            method=self.name,
            layers=("pixels",),
            target=target.key,
            values=torch.stack(values).view(-1, high, wide).float(),
            output=score.output,
            frame=Frame(image_px=(height, width), span_px=(CELL_PX * high, CELL_PX * wide)),
        )


METHOD = Occlusion()


def windows(shape: tuple[int, int], counts: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return coarse and fine windows over an image, as the share of each pixel that is hidden.

    Parameters
    ----------
    shape
        Height and width of the image.
    counts
        Coarse windows down and across. Together they hide every pixel once; and so do the fine ones, four to each.

    Returns
    -------
    tuple[Tensor, Tensor]
        `[rows * columns, h, w]` and `[4 * rows * columns, h, w]`, the four of a coarse one beside each other.
    """
    coarse = torch.einsum("ah,bw->abhw", *(_bumps(side, count) for side, count in zip(shape, counts, strict=True)))
    fine = torch.einsum("ah,bw->abhw", *(_bumps(side, 2 * count) for side, count in zip(shape, counts, strict=True)))
    rows, columns = counts
    grouped = fine.view(rows, 2, columns, 2, *shape).permute(0, 2, 1, 3, 4, 5)
    return coarse.reshape(-1, *shape), grouped.reshape(-1, *shape)


def _bumps(side: int, count: int) -> Tensor:
    """Return soft windows along an axis that add up to one everywhere, `[count, side]`."""
    at = (torch.arange(side, dtype=torch.float64) + 0.5) / side * count
    edges = torch.arange(1, count, dtype=torch.float64)
    # each border between two windows is a step with a width of half a window
    steps = torch.sigmoid((at - edges[:, None]) * 12)
    steps = torch.cat([torch.ones(1, side, dtype=torch.float64), steps, torch.zeros(1, side, dtype=torch.float64)])
    return steps[:-1] - steps[1:]


@lru_cache(maxsize=8)
def _cells(shape: tuple[int, int], counts: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return how much of each cell every window hides, and how cells' worths go together before any is known.

    Neighbouring cells are alike: their covariance is a Gaussian with half the side of a fine window.
    """
    both = torch.cat(windows(shape, counts))
    pooled = torch.nn.functional.avg_pool2d(both[:, None], CELL_PX, ceil_mode=True)[:, 0]
    high, wide = pooled.shape[1:]
    axes = []
    for cells, side, count in zip((high, wide), shape, counts, strict=True):
        at, width = torch.arange(cells, dtype=torch.float64) * CELL_PX, side / count / 4
        axes.append(torch.exp(-((at[:, None] - at) ** 2) / (2 * width**2)))
    return pooled.flatten(1), torch.kron(axes[0], axes[1])


def _falls(score: ImageScore, images: Tensor, hidden: Tensor, masks: Tensor, chosen: Tensor) -> Tensor:
    """Return by how much the score falls when each image is hidden by its windows.

    Parameters
    ----------
    score
        Of the images.
    images, hidden
        `[n, c, h, w]`: as they are, and what takes their place.
    masks
        `[windows, h, w]`.
    chosen
        Which of them hide each image, `[n, k]`.

    Returns
    -------
    Tensor
        `[n, k]`, in logits.
    """
    owners = torch.arange(len(images), device=images.device)[:, None].expand_as(chosen).reshape(-1)
    flat, scores = chosen.reshape(-1), []
    for begin in range(0, len(flat), BATCH):
        part = slice(begin, begin + BATCH)
        mine, mask = owners[part], masks[flat[part]][:, None]
        output = score.network(images[mine] + mask * (hidden[mine] - images[mine]))
        inside = None if score.inside is None else score.inside[mine]
        scores.append(target_score(output, score.target, inside))
    return score.values[:, None] - torch.cat(scores).view_as(chosen)
