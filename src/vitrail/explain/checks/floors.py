"""Maps that no method made: what any method has to beat, treated as methods by every check.

- `random`: noise, drawn anew for each image.
- `blob`: the middle of the tile, whatever it shows.
- `edges`: where the tile's brightness changes (Sobel): it shows the image, and knows no network.
- `untrained`: the first method's maps of the network with all weights random (Adebayo et al. 2018, arXiv:1810.03292).
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import ndimage

from vitrail.explain.checks.perturbation import PER_SIDE, closeness
from vitrail.explain.checks.randomisation import reinitialise, settle, steps_of
from vitrail.explain.methods.base import METHODS
from vitrail.explain.saliency import Frame, Saliency
from vitrail.models.store import Model

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from vitrail.explain.explainer import Explainer
    from vitrail.explain.methods.base import Head
    from vitrail.explain.target import Pixels

    Image = NDArray[np.uint8]
    Maps = NDArray[np.float32]

_LUMINANCE = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


def edges(image: Image) -> Maps:
    """Return the magnitude of the Sobel gradient of an image's luminance, `[h, w]`."""
    luminance = image @ _LUMINANCE
    along = [ndimage.sobel(luminance, axis=axis, mode="reflect") for axis in (0, 1)]
    return np.hypot(*along).astype(np.float32)


def blind_maps(image: Image, seed: tuple[int, ...]) -> dict[str, Saliency]:
    """Make the maps of an image that no network has to be run for.

    Parameters
    ----------
    image
        `[h, w, 3]`.
    seed
        Numbers that decide the random map.

    Returns
    -------
    dict[str, Saliency]
        `random`, `blob` and `edges`.
    """
    size = image.shape[0], image.shape[1]
    near = closeness((PER_SIDE, PER_SIDE))
    values = {
        "random": np.random.default_rng(seed).random((PER_SIDE, PER_SIDE)).astype(np.float32),
        "blob": (near - near.min()).astype(np.float32),
        "edges": edges(image),
    }
    frame = Frame(image_px=size, span_px=size)
    return {
        name: Saliency(method=name, layers=(), target="tumor", values=each, frame=frame)
        for name, each in values.items()
    }


class Untrained:
    """A network with all weights random, explained.

    Parameters
    ----------
    model
        The trained model; it is copied and stays as it is.
    images
        Tiles for the running statistics of its batch normalisation, `[n, h, w, 3]`, few enough for one pass.
    method
        What explains it.
    heads
        By method what was fitted for it; it is drawn anew.
    explaining
        Makes what explains a model as the study's maps were made.
    seed
        Draws the weights.
    """

    def __init__(
        self,
        model: Model,
        images: Image,
        method: str,
        heads: Mapping[str, Head],
        explaining: Callable[[Model], Explainer],
        seed: int,
    ) -> None:
        model = Model(spec=model.spec, module=copy.deepcopy(model.module).cpu().eval())
        # where cells look is measured once and kept: as in the cascade, while the weights are still the trained
        next(explaining(model).maps(images[:1], [method], heads))
        steps = steps_of(model.module.cpu(), torch.zeros(1, 3, *images.shape[1:3]))
        for number, step in enumerate(steps, 1):
            reinitialise(model.module, step, seed + number)
        settle(model, steps, images, explaining(model).device)
        self.method = method
        self._heads = {name: METHODS[name].redraw(head, seed) for name, head in heads.items() if name == method}
        self._explainer = explaining(model)

    def maps(self, images: Image, pixels: Pixels) -> Maps:
        """Explain images `[n, h, w, 3]`; `pixels` as for `Explainer.maps`. Returns `[n, h', w']`."""
        batches = self._explainer.maps(images, [self.method], self._heads, pixels=pixels)
        return torch.cat([maps.values for (maps,) in batches]).cpu().numpy()
