"""The symmetries of a square, in which a network sees an image: test-time augmentation.

What a network says of an image's mirror image or of the image turned, turned back, is another answer to the same
question; networks without such a symmetry of their own give another one each time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from vitrail.settings.schema import Symmetries


@dataclass(frozen=True, slots=True)
class Symmetry:
    """Mirrorings, and then a transpose.

    Attributes
    ----------
    down, across
        1; or -1, where rows or columns come in reverse order.
    transposed
        Whether rows and columns change places behind that; of an image that is no square the sides do, too.
    """

    down: int
    across: int
    transposed: bool = False

    def apply(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return images `[n, h, w, 3]` as this symmetry shows them."""
        shown = images[:, :: self.down, :: self.across]
        return np.ascontiguousarray(shown.swapaxes(1, 2) if self.transposed else shown)

    def undo(self, answers: Tensor) -> Tensor:
        """Turn answers about such images back: those of pixels, `[..., h, w]`."""
        back = answers.transpose(-1, -2) if self.transposed else answers
        reversed_axes = [axis for axis, step in ((-2, self.down), (-1, self.across)) if step < 0]
        return back.flip(reversed_axes) if reversed_axes else back


MIRRORINGS = (Symmetry(1, 1), Symmetry(1, -1), Symmetry(-1, 1), Symmetry(-1, -1))
"""The image, both its mirror images and its half turn."""


def symmetries(count: Symmetries) -> tuple[Symmetry, ...]:
    """Return so many symmetries of a square: the image alone, `MIRRORINGS`, or with quarter turns all eight."""
    every = (*MIRRORINGS, *(Symmetry(each.down, each.across, transposed=True) for each in MIRRORINGS))
    return every[:count]
