"""What methods on an image's pixels share: the score as a function of images, references, and sums over cells.

Such methods give every pixel and channel a relevance. What is stored are its sums over cells of 4 x 4 pixels: a map's
sum stays what it was, single pixels say nothing to a reader, and files are a sixteenth of the size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional

from vitrail.explain.saliency import Frame, Maps
from vitrail.explain.target import target_pixels, target_score

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from vitrail.classes import TissueClass
    from vitrail.explain.target import Pixels

CELL_PX = 4
"""Pixels along the side of a cell."""

BLURS_PER_SIDE = 12
"""The side of an image over the standard deviation of the blur that makes its reference, as in deletion's checks."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageScore:
    """The number that is explained, as a function of images that take the places of those it was made on.

    Attributes
    ----------
    network
        In eval mode, its parameters without gradients, see `frozen`.
    target
        The class.
    output
        The network's output for the images as they are.
    inside
        Of a segmenter the pixels whose class is explained, `[n, h, w]`, chosen on the images as they are: they stay
        the same whatever is done to the images. None of a classifier.
    """

    network: nn.Module
    target: TissueClass
    output: Tensor
    inside: Tensor | None

    @classmethod
    def on(cls, network: nn.Module, images: Tensor, target: TissueClass, pixels: Pixels) -> ImageScore:
        """Run a network once on images as they are, and choose what is explained.

        Parameters
        ----------
        network
            See the class.
        images
            `[n, 3, h, w]`, standardised.
        target
            The class.
        pixels
            See `target_pixels`.

        Returns
        -------
        ImageScore
            Of these images.
        """
        with torch.no_grad():
            output = network(images)
        inside = None if output.ndim == 1 else target_pixels(output, target, pixels)
        return cls(network=network, target=target, output=output, inside=inside)

    @property
    def values(self) -> Tensor:
        """The scores of the images as they are, `[n]`."""
        return self.of(self.output)

    def of(self, output: Tensor) -> Tensor:
        """Reduce the network's output for `n` images to their scores, `[n]`."""
        return target_score(output, self.target, self.inside)

    def at(self, images: Tensor) -> Tensor:
        """Return the scores of other images in the places of these, `[n]`, without a gradient."""
        with torch.no_grad():
            return self.of(self.network(images))

    def gradient(self, images: Tensor) -> Tensor:
        """Return the gradient of each score at other images `[n, 3, h, w]` in the places of these, of their shape."""
        leaf = images.detach().requires_grad_()
        score = self.of(self.network(leaf.clone()))  # a first layer that works in place may not do so on a leaf
        (gradient,) = torch.autograd.grad(score.sum(), leaf)
        return gradient

    def maps(self, method: str, relevance: Tensor, references: Tensor | None = None) -> Maps:
        """Put a relevance of pixels and channels together as maps of cells.

        Parameters
        ----------
        method
            Its name.
        relevance
            `[n, 3, h, w]`.
        references
            Where a map's sum claims to be the score's difference to that of a reference: the reference's, `[n]`.

        Returns
        -------
        Maps
            One map an image; its residue is there where references are.
        """
        height, width = relevance.shape[2:]
        values = cell_sums(relevance.sum(1))
        span = CELL_PX * values.shape[1], CELL_PX * values.shape[2]
        return Maps(
            method=method,
            layers=("pixels",),
            target=self.target.key,
            values=values,
            output=self.output,
            frame=Frame(image_px=(height, width), span_px=span),
            residue=None if references is None else relevance.sum((1, 2, 3)) - (self.values - references),
        )


def cell_sums(relevance: Tensor) -> Tensor:
    """Add up values of pixels `[n, h, w]` over cells of `CELL_PX`, the last ones smaller where sides do not divide."""
    return functional.avg_pool2d(relevance[:, None], CELL_PX, ceil_mode=True, divisor_override=1)[:, 0]


def blurred(images: Tensor) -> Tensor:
    """Blur images so strongly that nuclei are gone, while stain and the parts of a tile stay.

    It is the reference that showed most in insertion and deletion, see `docs/why.md`: unlike one colour, it does not
    make the tissue's own colour relevant.

    Parameters
    ----------
    images
        `[n, c, h, w]`.

    Returns
    -------
    Tensor
        Of the same shape: convolved with a Gaussian of a twelfth of the height, mirrored beyond the border.
    """
    sigma = images.shape[2] / BLURS_PER_SIDE
    rows, columns = (
        torch.from_numpy(ndimage.gaussian_filter1d(np.eye(side), sigma, axis=0, mode="reflect")).to(images)
        for side in images.shape[2:]
    )
    return rows @ images @ columns.T


def white_glass(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return what glass without tissue, of intensity 1, is to a network.

    Parameters
    ----------
    images
        `[n, 3, h, w]`: of this shape and on this device.
    mean, std
        What the network's images are standardised with: `model.spec.mean` and `model.spec.std`.

    Returns
    -------
    Tensor
        `[n, 3, h, w]`, standardised.
    """
    white = [(1 - m) / s for m, s in zip(mean, std, strict=True)]
    return torch.tensor(white).to(images).view(1, 3, 1, 1).expand_as(images)
