"""What an explanation is: a map of values, signed where it has a zero, and where its cells lie on the image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from vitrail.core.shown import Shown

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    Size = tuple[int, int]
    Floats = NDArray[np.float32]
    Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """Where the cells of a map lie on its image.

    A map divides `span_px` into equal rectangles, beginning at the top left corner of the image. But a cell speaks for
    the place that it looks at, and padding moves that off the centre of its rectangle. `shift_px` says how far, and
    all that places a map on its image heeds it.

    Attributes
    ----------
    image_px
        Height and width of the image.
    span_px
        Height and width that the map's cells cover, in the image's pixels. More than the image where the network
        pads: two cells of stride 32 over an image of 50 pixels cover 64. Less where its convolutions do not.
    shift_px
        Rows and columns by which the place that a cell looks at lies below, and right of, its rectangle's centre;
        see `vitrail.explain.receptive_field`.
    """

    image_px: Size
    span_px: Size
    shift_px: tuple[float, float] = (0.0, 0.0)

    def matrices(self, cells: Size, size: Size) -> tuple[Matrix, Matrix]:
        """Return the matrices that interpolate a map's rows and columns to `size` (height, width) points.

        The points are the centres of equal parts of the image. A map `[h, w]` is resized by `rows @ map @ columns.T`.
        """
        return self.onto(cells, *(_middles(want, side) for want, side in zip(size, self.image_px, strict=True)))

    def onto(self, cells: Size, rows: Matrix, columns: Matrix) -> tuple[Matrix, Matrix]:
        """Return the matrices that interpolate a map to places given in pixels; a pixel's centre is at its middle."""
        sides = zip(cells, (rows, columns), self.span_px, self.shift_px, strict=True)
        first, second = (interpolation(have, (at - shift) * (have / span) - 0.5) for have, at, span, shift in sides)
        return first, second

    def centres(self, cells: Size) -> tuple[Matrix, Matrix]:
        """Return the rows and the columns, in pixels, that the cells look at."""
        sides = zip(cells, self.span_px, self.shift_px, strict=True)
        rows, columns = (_middles(have, span) + shift for have, span, shift in sides)
        return rows, columns


def _middles(parts: int, length: float) -> Matrix:
    """Return the middles of equal parts of a length."""
    return (np.arange(parts, dtype=np.float64) + 0.5) * (length / parts)


def interpolation(cells: int, at: Matrix) -> Matrix:
    """Build the matrix of linear interpolation between cells, constant beyond the outermost ones.

    At the centres of equal parts it is what torch calls bilinear with `align_corners=False`.

    Parameters
    ----------
    cells
        Number of values there are.
    at
        Places, `[points]`: the first cell is at 0, the next at 1.

    Returns
    -------
    NDArray[np.float64]
        `[points, cells]`; every row adds up to 1.
    """
    within, rows = np.clip(at, 0, cells - 1), np.arange(len(at))
    below = np.minimum(within.astype(np.int64), max(cells - 2, 0))
    matrix = np.zeros((len(at), cells))
    np.add.at(matrix, (rows, below), 1 - (within - below))
    np.add.at(matrix, (rows, np.minimum(below + 1, cells - 1)), within - below)
    return matrix


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Saliency(Shown):
    """How much each place of one image speaks for a target.

    Attributes
    ----------
    method
        The method's name, such as `gradcam`.
    layers
        Names of the layers whose feature maps it is made of.
    target
        What the map explains: the key of a class, or the name of a user's score.
    values
        `[h, w]`, at the resolution of the (finest) feature map. Positive speaks for the target, negative against it, if
        the map is signed. Never rescaled, so values of two images can be compared.
    frame
        Where the values lie on the image.
    signed
        Whether 0 parts what speaks for the target from what speaks against it. Not where a map weighs features that
        have no zero of their own, such as linear projections: then only differences mean something, between places
        and between images.
    image
        What it explains, `[height, width, 3]`, bytes, where it is at hand: a notebook shows the map over it.
    """

    method: str
    layers: tuple[str, ...]
    target: str
    values: Floats
    frame: Frame
    signed: bool = True
    image: NDArray[np.uint8] | None = None

    def __repr__(self) -> str:
        height, width = self.values.shape
        low, high = self.values.min(), self.values.max()
        layers = f", from {', '.join(self.layers)}" if self.layers else ""
        return f"<Saliency {self.method} for {self.target}: {height} x {width} from {low:.3g} to {high:.3g}{layers}>"

    def over(self, image: NDArray[np.uint8]) -> Saliency:
        """Return the map with the image that it explains, `[height, width, 3]`, bytes, for a notebook to show."""
        return replace(self, image=image)

    @property
    def relu(self) -> Saliency:
        """The map with what speaks against the target set to 0, as Grad-CAM was first defined; for signed maps."""
        return replace(self, values=np.maximum(self.values, 0))

    @property
    def constant(self) -> bool:
        """Whether all values are equal, so that the map points nowhere."""
        return bool(np.ptp(self.values) == 0)

    def upsample(self, size: Size | None = None) -> Floats:
        """Return the values over the image, interpolated bilinearly.

        Every value lies where its cell looks; beyond the outermost ones the map goes on unchanged.

        Parameters
        ----------
        size
            Height and width; None takes the image's own.

        Returns
        -------
        NDArray[np.float32]
            `[height, width]`.
        """
        rows, columns = self.frame.matrices((self.values.shape[0], self.values.shape[1]), size or self.frame.image_px)
        return (rows @ self.values.astype(np.float64) @ columns.T).astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Maps:
    """The maps of a batch, still on the network's device, and what the network said in the same pass.

    Attributes
    ----------
    method, layers, target, frame, signed
        As in `Saliency`.
    values
        `[n, h, w]`.
    output
        The network's, where it ran to its end: of a classifier the logits of tumor `[n]`, of a segmenter the logits
        `[n, classes, h, w]`.
    head_logits
        Of a method that has fitted a head: the head's logits of tumor, `[n]`.
    residue
        Of a method that is `complete`: the map's sum minus the difference of the scores that it claims to be, `[n]`,
        in logits.
    """

    method: str
    layers: tuple[str, ...]
    target: str
    values: Tensor
    output: Tensor | None
    frame: Frame
    signed: bool = True
    head_logits: Tensor | None = None
    residue: Tensor | None = None

    def saliencies(self) -> list[Saliency]:
        """Return the maps one by one, as arrays."""
        return [
            Saliency(
                method=self.method,
                layers=self.layers,
                target=self.target,
                values=values,
                frame=self.frame,
                signed=self.signed,
            )
            for values in self.values.cpu().numpy()
        ]
