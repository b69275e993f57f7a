"""Occlusion: how the score changes when a place is hidden (Zeiler and Fergus 2014, doi:10.1007/978-3-319-10590-1_53).

The paper names it as future work. It asks the network itself, and needs neither gradients nor feature maps. A place is
hidden by the blurred tile, through a window with soft edges: colours stay those of the tissue, and no border appears.

Where a tile has evidence in many places, hiding one of them changes little: a network that is sure stays sure. So every
window is asked twice, at both ends: how far the score falls when it alone is hidden, and how far that of the hidden
tile rises when it alone is shown (removing and including single features, Covert et al. 2021, arXiv:2011.14878; the
first and the last step of a Shapley value). Its effect is the mean of both.

Windows have a size in micrometres, and their number is bounded, coarse to fine: large ones cover the tile, and where
these matter most small ones follow. A window's effect is the sum of what the cells below it are worth. So the map is
the smoothest one that explains all windows' effects at once: the posterior mean of a Gaussian process whose sums over
the windows were measured, a ridge regression. A mean over windows would smear each effect over its window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.special import ndtr

from vitrail.classes import TissueClass
from vitrail.explain.hooks import frozen
from vitrail.explain.input_gradients import CELL_PX, ImageScore, blurred
from vitrail.explain.methods.base import ExplanationMethod
from vitrail.explain.occluding import hidden_scores
from vitrail.explain.saliency import Frame, Maps

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from vitrail.explain.dense import DenseNetwork
    from vitrail.explain.methods.base import Head
    from vitrail.explain.target import Pixels

    Floats = NDArray[np.float64]
    Size = tuple[int, int]

COARSE, FINE = 6, 12
"""Windows along a side, at most: of 66 and 33 um in a tile of 199 um, a nest of cells and a few nuclei."""

COARSE_UM, FINE_UM = 33.0, 16.5
"""Micrometres from the middle of a window to that of the next one, at least."""

REFINED = 12
"""Fine windows that an image is looked at through."""

WIDTH = 2.0
"""Width of a window, in steps from one to the next: each place lies below four of them."""

EDGE = 0.125
"""Standard deviation of a window's soft edge, in steps."""

LENGTH = 0.75
"""How far neighbouring cells are alike: the standard deviation of their covariance, in coarse steps."""

RIDGE = 0.1
"""Error of a window's effect that the map need not explain, in mean variances of the effects. A network is no sum of
places, so that effects of windows which overlap contradict each other."""


class Occlusion(ExplanationMethod):
    """What hiding a place takes from the score and showing it gives, in logits."""

    name, title, colour = "occlusion", "Occlusion", (0, 114, 178)
    describes = "hides places of the tile, and shows them alone, and looks how far the score moves"
    passes = 2 + 2 * (COARSE**2 + REFINED)
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
        """Explain images; see `ExplanationMethod.explain` and `occlusion`."""
        return occlusion(network, images, target=target, pixels=pixels, mpp=mpp)


METHOD = Occlusion()


def occlusion(
    network: nn.Module,
    images: Tensor,
    blanks: Tensor | None = None,
    target: TissueClass = TissueClass.TUMOR,
    *,
    pixels: Pixels = "predicted",
    mpp: float | None = None,
) -> Maps:
    """Explain images by hiding and showing their places.

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
        Micrometres per pixel. None takes `COARSE` and `FINE` windows along a side.

    Returns
    -------
    Maps
        One map an image, of cells of `CELL_PX`: those below a window add up to its effect.
    """
    images = images.detach()
    blanks = blurred(images) if blanks is None else blanks.to(images).expand_as(images)
    sides = images.shape[2], images.shape[3]
    coarse = Windows.over(sides, counts_along(sides, mpp, COARSE_UM, COARSE))
    windows = coarse.and_also(Windows.over(sides, counts_along(sides, mpp, FINE_UM, FINE)))
    prior = windows.prior(coarse.step_px, images.device)
    first = torch.arange(len(coarse.rows), device=images.device).expand(len(images), -1)
    with frozen(network):
        score = ImageScore.on(network, images, target, pixels)
        blank = score.at(blanks)
        measured = window_effects(score, blank, images, blanks, windows, first)
        guess = prior.infer(first, measured) @ prior.weights[len(coarse.rows) :].T
        # the order of cells is decided where effects differ from what is usual, in either direction
        unusual = (guess - guess.median(1, keepdim=True).values).abs()
        second = unusual.argsort(dim=1, descending=True, stable=True)[:, :REFINED] + len(coarse.rows)
        measured = torch.cat([measured, window_effects(score, blank, images, blanks, windows, second)], 1)
    worth = prior.infer(torch.cat([first, second], 1), measured)
    high, wide = (-(-side // CELL_PX) for side in sides)
    return Maps(
        method=METHOD.name,
        layers=("pixels",),
        target=target.key,
        values=worth.view(-1, high, wide).to(images),
        output=score.output,
        frame=Frame(image_px=sides, span_px=(CELL_PX * high, CELL_PX * wide)),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Prior:
    """What there is to know of cells and windows before anything is measured.

    Attributes
    ----------
    weights
        How much of each cell a window hides, `[windows, cells]`: its effect is the cells' worth, summed up with these.
    spread
        Covariances of effects and the worth of cells, `[windows, cells]`.
    effects
        Covariances of effects, `[windows, windows]`.
    """

    weights: Tensor
    spread: Tensor
    effects: Tensor

    def infer(self, chosen: Tensor, measured: Tensor) -> Tensor:
        """Infer the worth of cells from the effects of some windows.

        Parameters
        ----------
        chosen
            Numbers of windows, `[n, k]`.
        measured
            Their effects, `[n, k]`.

        Returns
        -------
        Tensor
            `[n, cells]`, float64.
        """
        measured, sizes = measured.to(self.effects), self.weights.sum(1)[chosen]
        # what is not measured is worth as much as the mean, not 0: then a map's sum is not too small
        level = (measured.sum(1) / sizes.sum(1))[:, None]
        own = self.effects[chosen[:, :, None], chosen[:, None]]
        error = RIDGE * own.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] * torch.eye(chosen.shape[1]).to(own)
        solved = torch.linalg.solve(own + error, measured - level * sizes)
        return level + torch.zeros(len(chosen), len(self.effects)).to(own).scatter_(1, chosen, solved) @ self.spread


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Windows:
    """Windows over an image: the product of a profile down and one across.

    Attributes
    ----------
    rows, columns
        The share of each row and column that a window hides, `[windows, h]` and `[windows, w]`.
    step_px
        Down and across, from one window to the next.
    """

    rows: Floats
    columns: Floats
    step_px: tuple[float, float]

    @classmethod
    def over(cls, sides: Size, counts: Size) -> Windows:
        """Cover an image of a height and width by as many windows down and across."""
        steps = sides[0] / counts[0], sides[1] / counts[1]
        down, across = (_profiles(*axis) for axis in zip(sides, counts, steps, strict=True))
        return cls(rows=np.repeat(down, counts[1], axis=0), columns=np.tile(across, (counts[0], 1)), step_px=steps)

    def and_also(self, other: Windows) -> Windows:
        """Return these windows and then others, over the same image."""
        rows, columns = np.concatenate([self.rows, other.rows]), np.concatenate([self.columns, other.columns])
        return Windows(rows=rows, columns=columns, step_px=self.step_px)

    def prior(self, step_px: tuple[float, float], device: torch.device) -> Prior:
        """Return how the windows' effects and the worth of cells go together, before anything is measured.

        Parameters
        ----------
        step_px
            In which cells are alike, down and across: their covariance is a Gaussian of `LENGTH` of it.
        device
            Where to put it.

        Returns
        -------
        Prior
            In the order of the windows.
        """
        shares, spreads, effects = [], [], []
        for profiles, step in zip((self.rows, self.columns), step_px, strict=True):
            at = np.arange(0, profiles.shape[1], CELL_PX)
            shares.append(np.add.reduceat(profiles, at, axis=1) / CELL_PX)
            alike = np.exp(-np.square((at[:, None] - at) / (LENGTH * step)) / 2)
            spreads.append(shares[-1] @ alike)
            effects.append(spreads[-1] @ shares[-1].T)
        weights, spread = (
            (down[:, :, None] * across[:, None]).reshape(len(down), -1) for down, across in (shares, spreads)
        )
        every = (torch.from_numpy(matrix).to(device) for matrix in (weights, spread, effects[0] * effects[1]))
        return Prior(*every)


def counts_along(sides: Size, mpp: float | None, step_um: float, most: int) -> Size:
    """Return how many windows go down and across an image: one each `step_um`, from 2 to `most`."""
    if mpp is None:
        return most, most
    rows, columns = (min(max(round(side * mpp / step_um), 2), most) for side in sides)
    return rows, columns


def window_effects(
    score: ImageScore, blank: Tensor, images: Tensor, blanks: Tensor, windows: Windows, chosen: Tensor
) -> Tensor:
    """Measure what windows do: the mean of what hiding one takes from the score and what showing it alone gives.

    Parameters
    ----------
    score
        Of the images.
    blank
        The scores of the blanks, `[n]`.
    images, blanks
        `[n, c, h, w]`.
    windows
        Of all of them.
    chosen
        Numbers of windows, `[n, k]`.

    Returns
    -------
    Tensor
        `[n, k]`, in logits.
    """
    count = chosen.shape[1]
    rows, columns = (torch.from_numpy(profiles).to(images) for profiles in (windows.rows, windows.columns))

    def masks(own: Tensor, number: Tensor) -> Tensor:
        window = chosen[own, number % count]
        hidden = rows[window][:, :, None] * columns[window][:, None]
        return torch.where((number < count)[:, None, None], hidden, 1 - hidden)

    scores = hidden_scores(score, images, blanks, masks, 2 * count)
    return ((score.values[:, None] - scores[:, :count]) + (scores[:, count:] - blank[:, None])) / 2


def _profiles(side: int, count: int, step: float) -> Floats:
    """Return the share of each pixel along an axis that soft windows hide, `[count, side]`."""
    away = np.arange(side) + 0.5 - (np.arange(count)[:, None] + 0.5) * step
    half, edge = WIDTH * step / 2, EDGE * step
    return np.asarray(ndtr((away + half) / edge) - ndtr((away - half) / edge))
