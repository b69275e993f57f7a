"""What an explanation is: a map of signed values, and where its cells lie on the image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    Size = tuple[int, int]
    Floats = NDArray[np.float32]
    Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """Where a map lies on its image: both begin at the top left corner, but the map may reach further.

    Attributes
    ----------
    image_px
        Height and width of the image.
    span_px
        Height and width that the map's cells cover, in the image's pixels. More than the image where the network
        pads: two cells of stride 32 over an image of 50 pixels cover 64.
    """

    image_px: Size
    span_px: Size

    def matrices(self, cells: Size, size: Size) -> tuple[Matrix, Matrix]:
        """Return the matrices that interpolate a map's rows and columns to `size` (height, width) points."""
        sides = zip(cells, size, self.image_px, self.span_px, strict=True)
        rows, columns = (interpolation(have, want, image / span) for have, want, image, span in sides)
        return rows, columns


def interpolation(cells: int, points: int, share: float = 1.0) -> Matrix:
    """Build the matrix of linear interpolation between cell centres, constant beyond the outermost ones.

    Resizing in two directions is `rows @ values @ columns.T`. It is what torch calls bilinear with
    `align_corners=False`; enlarging by a whole factor keeps the mean.

    Parameters
    ----------
    cells
        Number of values there are.
    points
        Number of values wanted, at the centres of equal parts.
    share
        The part of the cells' span, from its beginning, that the points cover.

    Returns
    -------
    `[points, cells]`; every row adds up to 1.
    """
    at = np.clip((np.arange(points) + 0.5) / points * share * cells - 0.5, 0, cells - 1)
    below = np.minimum(at.astype(np.int64), max(cells - 2, 0))
    matrix, rows = np.zeros((points, cells)), np.arange(points)
    np.add.at(matrix, (rows, below), 1 - (at - below))
    np.add.at(matrix, (rows, np.minimum(below + 1, cells - 1)), at - below)
    return matrix


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Saliency:
    """How much each place of one image speaks for a target.

    Attributes
    ----------
    method
        `gradcam` or `hrcam`.
    layers
        Names of the layers whose feature maps it is made of.
    target
        What the map explains: the key of a class, or the name of a user's score.
    values
        `[h, w]`, at the resolution of the (finest) feature map. Positive speaks for the target, negative against it.
        Never rescaled, so values of two images can be compared.
    frame
        Where the values lie on the image.
    """

    method: str
    layers: tuple[str, ...]
    target: str
    values: Floats
    frame: Frame

    @property
    def relu(self) -> Saliency:
        """The map with what speaks against the target set to 0, as Grad-CAM was first defined."""
        return replace(self, values=np.maximum(self.values, 0))

    @property
    def constant(self) -> bool:
        """Whether all values are equal, so that the map points nowhere."""
        return bool(np.ptp(self.values) == 0)

    def upsample(self, size: Size | None = None) -> Floats:
        """Return the values over the image at `size` (height, width), or at the image's own, interpolated bilinearly.

        Cells beyond the image's edge, which come from padding, are left out.
        """
        rows, columns = self.frame.matrices((self.values.shape[0], self.values.shape[1]), size or self.frame.image_px)
        return (rows @ self.values.astype(np.float64) @ columns.T).astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Maps:
    """The maps of a batch, still on the network's device, and what the network said in the same pass.

    Attributes
    ----------
    method, layers, target, frame
        As in `Saliency`.
    values
        `[n, h, w]`.
    output
        Grad-CAM of the classifier: the logits of tumor `[n]`; of the segmenter: the logits `[n, classes, h, w]`; of
        another network: its output. HR-CAM: the logits of tumor of the auxiliary classifier `[n]`.
    """

    method: str
    layers: tuple[str, ...]
    target: str
    values: Tensor
    output: Tensor
    frame: Frame

    def saliencies(self) -> list[Saliency]:
        """Return the maps one by one, as arrays."""
        return [
            Saliency(method=self.method, layers=self.layers, target=self.target, values=values, frame=self.frame)
            for values in self.values.cpu().numpy()
        ]
