"""What the stage `nuclei` works on: a run's networks and explanations, and tiles with their nuclei."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from vitrail.explain.checks.stage import compiled_outputs
from vitrail.explain.explainer import Explainer
from vitrail.explain.methods.base import fitted_heads, methods_named
from vitrail.explain.study.store import split_key
from vitrail.models.openvino import Compiled, use_openvino
from vitrail.models.preprocessing import FromBytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    import torch
    from numpy.typing import NDArray

    from vitrail.core.resume import Parts
    from vitrail.explain.checks.stage import Outputs
    from vitrail.explain.methods.base import Head
    from vitrail.explain.study.store import Stored
    from vitrail.models.store import Model
    from vitrail.settings.load import Settings
    from vitrail.slides.slide import Slide
    from vitrail.stage import Work


MANY = 1000
"""Images that a network is shown, at most, from which on compiling it pays."""

_WEIGHTS = 0x2ADE  # keeps draws of the same seed apart


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Study:
    """The stage at work.

    Attributes
    ----------
    work
        What the stage was given.
    parts
        Of the tables.
    stored
        The run's explanations.
    models
        The networks, by name.
    images
        Of all of the run's tiles.
    slides
        By name, of the tiles that are looked at.
    tiles
        Those: rows of the explanations, and `row`, which ones.
    device
        Where to run.
    """

    work: Work
    parts: Parts
    stored: Stored
    models: Mapping[str, Model]
    images: NDArray[np.uint8]
    slides: Mapping[str, Slide]
    tiles: pd.DataFrame
    device: torch.device

    @property
    def settings(self) -> Settings:
        """The run's settings."""
        return self.work.run.settings

    def methods(self, network: str) -> list[str]:
        """Return the methods that explained a network."""
        return [method for own, method in map(split_key, self.stored.keys) if own == network]

    def heads(self, network: str) -> dict[str, Head]:
        """Return what was fitted for the methods of a network."""
        return fitted_heads(self.work.run.folder / network, methods_named(self.methods(network)))

    def explaining(self, model: Model) -> Explainer:
        """Return what explains a model as the study's maps were made."""
        return Explainer(model, self.device, engine="torch", **self.stored.dense)

    def weights_seed(self, draw: int) -> int:
        """Return what draws the weights of a network with random ones."""
        return int(np.random.default_rng([self.settings.seed, _WEIGHTS, draw]).integers(2**31))

    def outputs(self, model: Model) -> Outputs:
        """Return what runs a network on images, compiled where that is faster: removals are most of the work."""
        many = len(self.tiles) * self.settings.nuclei.removals >= MANY
        if many and use_openvino(self.settings.compute.engine, self.device):
            return partial(compiled_outputs, Compiled(FromBytes(model.module, model.spec)))
        return Explainer(model, self.device, engine="torch").outputs

    def seen(self, tiles: list[int]) -> NDArray[np.uint8]:
        """Return what the networks see of tiles, `[n, side_px, side_px, 3]`."""
        return np.asarray(self.images[tiles])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Field:
    """A tile with its nuclei.

    Attributes
    ----------
    tile, position
        Its rows in the tile table and in the explanations.
    patient
        Whose it is.
    image, labels
        At the scale of nuclei, `[h, w, 3]` and `[h, w]`: the number of the nucleus, 0 for none.
    mpp
        Micrometres per pixel of both.
    row, nuclei
        Of the tables `tiles` and `nuclei`.
    """

    tile: int
    position: int
    patient: str
    image: NDArray[np.uint8]
    labels: NDArray[np.int32]
    mpp: float
    row: pd.DataFrame
    nuclei: pd.DataFrame

    @property
    def owner(self) -> dict[str, Any]:
        """Whose rows these are, in every table."""
        return {"tile": self.tile, "patient_id": self.patient}
