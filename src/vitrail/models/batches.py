"""The one batch loop over networks: standardise images, work on batches, halve them where memory is too small."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from vitrail.classes import TissueClass
from vitrail.errors import ModelError
from vitrail.models.preprocessing import Normalizer, intensities

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from vitrail.models.spec import Colours, ModelSpec

T = TypeVar("T")


class Batches:
    """Images on their way through a network on a device.

    Where the device's memory is too small, batches are halved, from then on and down to single images.

    Parameters
    ----------
    spec
        Of the network: how its images are standardised.
    device
        Where it is.
    size
        Images at once, where the memory allows it.
    purpose
        What is done, for the error that says that it cannot be, such as `"classifier prediction"`.
    """

    def __init__(self, spec: ModelSpec | Colours, device: torch.device, size: int, purpose: str) -> None:
        self.device, self.size, self.purpose = device, size, purpose
        self.standardise = Normalizer(spec, device)

    def run(self, images: NDArray[np.uint8] | Tensor, work: Callable[[slice, Tensor], T]) -> Iterator[T]:
        """Do work on standardised images, batch by batch.

        Parameters
        ----------
        images
            Bytes `[n, h, w, 3]`; or a tensor of intensities from 0 to 1, `[n, 3, h, w]`.
        work
            Called with the rows of a batch among the images, and the batch, `[k, 3, h, w]` on the device.

        Yields
        ------
        T
            What `work` returns, in the order of the images.

        Raises
        ------
        ModelError
            The memory is too small even for one image.
        """
        start = 0
        while start < len(images):
            # torch keeps memory for each number of images that it has ever seen at once, and powers of two are few
            count = min(self.size, 1 << ((len(images) - start).bit_length() - 1))
            rows = slice(start, start + count)
            try:
                batch = images[rows]
                if not isinstance(batch, torch.Tensor):
                    batch = intensities(torch.tensor(np.ascontiguousarray(batch), device=self.device))
                result = work(rows, self.standardise(batch.to(self.device)))
            except torch.cuda.OutOfMemoryError:
                pass  # dealt with below: the error's traceback keeps this batch's tensors alive
            else:
                start = rows.stop
                yield result
                continue
            if count == 1:
                problem = f"{self.device.type} has too little memory for a single tile"
                raise ModelError(self.purpose, problem, 'Free its memory, or set compute.device = "cpu" in study.toml')
            self.size = count // 2
            torch.cuda.empty_cache()  # does nothing where CUDA is not in use


def tumor_score(logits: Tensor, sharpness: float = 1.0, *, soft: bool = False) -> NDArray[np.float64]:
    """Return the tumor score of tiles, 0 to 1.

    Of a classifier the probability of tumor; of a segmenter, as in the paper, the share of the pixels that it calls
    tumor.

    Parameters
    ----------
    logits
        `[n]` of a classifier, `[n, classes, h, w]` of a segmenter.
    sharpness
        One over the temperature by which logits are divided; no pixel's class depends on it.
    soft
        Take the mean of the pixels' tumor probabilities instead of the share of those called tumor: it moves with every
        pixel, which checks of explanations need.

    Returns
    -------
    NDArray[np.float64]
        `[n]`.
    """
    if logits.ndim != 4:
        return torch.sigmoid(logits.cpu().double() * sharpness).numpy()
    if soft:
        return torch.softmax(logits.cpu().double() * sharpness, 1)[:, TissueClass.TUMOR].mean((1, 2)).numpy()
    return np.asarray((logits.argmax(1) == TissueClass.TUMOR).cpu().numpy().mean((1, 2)))
