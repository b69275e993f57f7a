"""Expected gradients: integrated gradients averaged over training tiles as references (Erion et al. 2021).

Source: doi:10.1038/s42256-021-00343-w, equation 3. No single reference has to stand for "no evidence": each training
tile is one, as probable as such a tile is. Each step draws a training tile and a place on the way from it to the image;
the places are stratified, one in each of as many equal parts of the way as there are steps, in an order of chance.

A map's sum is the image's score minus the mean score of its references, up to what so few draws leave, its residue.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from vitrail.classes import TissueClass
from vitrail.core.files import regular_file
from vitrail.errors import ModelError
from vitrail.explain.hooks import frozen
from vitrail.explain.input_gradients import ImageScore
from vitrail.explain.methods.base import ExplanationMethod, HeadTiles
from vitrail.explain.methods.sampling import image_generators
from vitrail.models.preprocessing import intensities
from vitrail.models.store import save_tensors

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from vitrail.explain.dense import DenseNetwork
    from vitrail.explain.saliency import Maps
    from vitrail.explain.target import Pixels

STEPS = 32
"""References drawn for an image, and places on the way from them."""

TILES = 64
"""Training tiles that references are drawn from."""

_FILE = "expected_gradients.safetensors"
_DRAW = 0x4547  # keeps this draw apart from the others of the same seed


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BaselineTiles:
    """Training tiles that are references.

    Attributes
    ----------
    tiles
        Bytes, `[m, h, w, 3]`.
    black, white
        `[3]`: what the network's standardisation makes of the intensities 0 and 1.
    fitted_on
        The digest of the model that they are for, see `model_digest`; empty where nobody knows.
    """

    tiles: Tensor
    black: Tensor
    white: Tensor
    fitted_on: str = ""

    def standardised(self, images: Tensor) -> Tensor:
        """Return the tiles as the network takes them, `[m, 3, h, w]`, of the size and on the device of images.

        Where images are larger than the tiles, tiles go on mirrored.
        """
        rows, columns = (
            _mirrored(want, side) for want, side in zip(images.shape[2:], self.tiles.shape[1:3], strict=True)
        )
        shares = intensities(self.tiles[:, rows][:, :, columns].to(images.device))
        black, white = (each.to(images).view(1, 3, 1, 1) for each in (self.black, self.white))
        return torch.lerp(black, white, shares)


class ExpectedGradients(ExplanationMethod):
    """Expected gradients; its head is a sample of training tiles."""

    name, title, colour = "expected_gradients", "Expected gradients", (0, 158, 115)
    passes, gradients = 2 * STEPS + 1, STEPS  # in a batch, images share the passes of their references
    complete = needs_head = True

    def explain(
        self,
        network: nn.Module,
        images: Tensor,
        target: TissueClass = TissueClass.TUMOR,
        *,
        head: BaselineTiles | None = None,
        pixels: Pixels = "predicted",
        mpp: float | None = None,  # noqa: ARG002 - pixels have no size here
        dense: DenseNetwork | None = None,  # noqa: ARG002 - nor has a pixel other cells
    ) -> Maps:
        """Explain images; see `ExplanationMethod.explain` and `expected_gradients`.

        Parameters
        ----------
        network, images, target, pixels, mpp, dense
            As there.
        head
            The training tiles.

        Returns
        -------
        Maps
            One map an image.

        Raises
        ------
        ModelError
            There is no head.
        """
        if head is None:
            raise ModelError("Expected gradients", "has no training tiles", "Fit it, or leave it out")
        return expected_gradients(network, images, head.standardised(images), target, pixels=pixels)

    def fit(self, tiles: HeadTiles) -> tuple[BaselineTiles, dict[str, Any]]:
        """Draw training tiles, the same ones for both networks.

        Parameters
        ----------
        tiles
            The network and its training tiles.

        Returns
        -------
        tuple[BaselineTiles, dict[str, Any]]
            The references, and how many there are.
        """
        rng = np.random.default_rng([tiles.settings.seed, _DRAW])
        rows = np.sort(rng.choice(tiles.rows, min(TILES, len(tiles.rows)), replace=False))
        black, white = tiles.network.batches.standardise(torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 1, 1))
        head = BaselineTiles(tiles=torch.from_numpy(tiles.images[rows]), black=black.flatten(), white=white.flatten())
        return head, {"baselines": len(rows)}

    def save(self, folder: Path, head: BaselineTiles) -> None:
        """Write the tiles into a folder, as `expected_gradients.safetensors`."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {"tiles": head.tiles, "black": head.black, "white": head.white}
        save_tensors(folder / _FILE, tensors, {"fitted_on": head.fitted_on})

    def load(self, folder: Path) -> BaselineTiles:
        """Read the tiles; see `ExplanationMethod.load`."""
        cure = "Fit expected gradients again"
        path = regular_file(folder / _FILE, ModelError, cure)
        try:
            with safe_open(path, "pt") as file:
                fitted_on = (file.metadata() or {}).get("fitted_on", "")
                tiles, black, white = (file.get_tensor(name) for name in ("tiles", "black", "white"))
        except (SafetensorError, KeyError):
            raise ModelError(path, "not a readable file of training tiles", cure) from None
        fits = tiles.dtype == torch.uint8 and tiles.ndim == 4 and tiles.shape[3] == 3 and tiles.numel()
        if not fits or black.shape != (3,) or white.shape != (3,):
            raise ModelError(path, "holds no training tiles", cure)
        return BaselineTiles(tiles=tiles, black=black, white=white, fitted_on=fitted_on)


METHOD = ExpectedGradients()


def expected_gradients(
    network: nn.Module,
    images: Tensor,
    baselines: Tensor,
    target: TissueClass = TissueClass.TUMOR,
    *,
    pixels: Pixels = "predicted",
    steps: int = STEPS,
) -> Maps:
    """Explain images by what adds up on ways from training tiles to them.

    Parameters
    ----------
    network
        A classifier or a segmenter, in either mode.
    images
        `[n, 3, h, w]`, standardised.
    baselines
        Training tiles, `[m, 3, h, w]`, standardised.
    target
        The class.
    pixels
        Of a segmenter: which pixels' class is explained, see `target_pixels`.
    steps
        Draws, each of which costs a forward and a backward pass, and a forward pass of the reference.

    Returns
    -------
    Maps
        One map an image. A map's sum is the score of the image minus the mean score of its references, up to its
        residue.
    """
    images, baselines = images.detach(), baselines.to(images)
    draws = [_draw(generator, len(baselines), steps) for generator in image_generators(images)]
    chosen, at = (torch.stack(each, 1) for each in zip(*draws, strict=True))  # `[steps, n]`
    relevance = torch.zeros_like(images)
    with frozen(network):
        score = ImageScore.on(network, images, target, pixels)
        for rows, alpha in zip(chosen, at.to(images), strict=True):
            start = baselines[rows]
            gradient = score.gradient(torch.lerp(start, images, alpha.view(-1, 1, 1, 1)))
            relevance += gradient * (images - start) / steps
        return score.maps(METHOD.name, relevance, _mean_score(score, baselines, chosen))


def _draw(generator: torch.Generator, tiles: int, steps: int) -> tuple[Tensor, Tensor]:
    """Draw references, each as often as any other up to one, and a place on the way from each, `[steps]` each."""
    rounds = [torch.randperm(tiles, generator=generator) for _ in range(-(-steps // tiles))]
    parts = torch.randperm(steps, generator=generator) + torch.rand(steps, generator=generator)
    return torch.cat(rounds)[:steps], parts / steps


def _mean_score(score: ImageScore, baselines: Tensor, chosen: Tensor) -> Tensor:
    """Return the mean score of the references of each image, `[n]`; each runs once for all images."""
    used, position = torch.unique(chosen, return_inverse=True)
    with torch.no_grad():
        outputs = torch.cat([score.network(baselines[part]) for part in used.split(len(score.output))])
    return torch.stack([score.of(outputs[rows]) for rows in position]).mean(0)


def _mirrored(want: int, side: int) -> Tensor:
    """Return the numbers of `want` rows of a tile with `side` rows that goes on mirrored."""
    around = torch.arange(want) % (2 * side)
    return torch.minimum(around, 2 * side - 1 - around)
