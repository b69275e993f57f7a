"""What a search consists of: combinations of size and resolution, and cells, each named by all that decides it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vitrail.core.digest import json_digest
from vitrail.settings.load import KEYWORDS
from vitrail.slides.cohort import content_digest
from vitrail.tiles.cohort import slide_digest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vitrail.settings.load import Settings
    from vitrail.slides.cohort import CohortSlide

VERSION = 1
"""Raised when the same cell comes to give another score."""

Pair = tuple[float, int]
"""A tile size in um and a resolution in pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One training: a size, a resolution, and the fold that it is validated on.

    Attributes
    ----------
    side_um, side_px
        Side of the tiles.
    iteration, fold
        Numbers from 0.
    digest
        Of all that the score depends on; the name of the cell's file.
    """

    side_um: float
    side_px: int
    iteration: int
    fold: int
    digest: str

    @property
    def pair(self) -> Pair:
        """Its combination."""
        return self.side_um, self.side_px

    def __str__(self) -> str:
        return f"{self.side_um:g} um, {self.side_px} px, iteration {self.iteration + 1}, fold {self.fold + 1}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A search made ready.

    Attributes
    ----------
    settings
        Of the study; the path of the encoder's weights is absolute.
    entries
        The slides of the patients who take part.
    """

    settings: Settings
    entries: tuple[CohortSlide, ...]

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """All combinations, sorted by size, then resolution."""
        search = self.settings.search
        return tuple((um, px) for um in sorted(set(search.side_um)) for px in sorted(set(search.side_px)))

    def cells(self, pairs: Iterable[Pair], iterations: Iterable[int]) -> list[Cell]:
        """Return the cells of some combinations and iterations, iteration by iteration, fold by fold.

        Within a fold the costly ones come first, so that workers end at about the same time and what is done so far
        tells how long the rest takes.
        """
        ordered = sorted(pairs, key=lambda pair: (-pair[1], pair[0]))
        folds, precision = self.settings.search.folds, self.settings.compute.named_precision
        recipes = {}
        for pair in ordered:
            settings = cell_settings(self.settings, pair)
            values, weights = settings.digest_values(), settings.encoder.weights
            branches = {name: values[name] for name in ("seed", "tiles", "encoder", "augment", "classifier")}
            start = None if weights in KEYWORDS else content_digest(Path(weights))
            branches["encoder"]["weights"] = start or weights  # what the file holds counts, not where it lies
            recipe = [VERSION, self.tiles_digest(pair[0]), branches, start, folds]
            recipes[pair] = [*recipe, precision] if precision else recipe
        return [
            Cell(
                side_um=pair[0], side_px=pair[1], iteration=i, fold=fold, digest=json_digest([*recipes[pair], i, fold])
            )
            for i in iterations
            for fold in range(folds)
            for pair in ordered
        ]

    def tiles_digest(self, side_um: float) -> str:
        """Digest all that decides the tiles of a size: of every slide the files, the settings and the seed."""
        settings = cut_settings(self.settings, side_um)
        return json_digest([slide_digest(entry, settings) for entry in self.entries])


def cut_settings(settings: Settings, side_um: float) -> Settings:
    """Return the settings that a size is cut with."""
    return _with_tiles(settings, (side_um, settings.search.cut_px))


def cell_settings(settings: Settings, pair: Pair) -> Settings:
    """Return the settings that a combination is trained with."""
    epochs = settings.search.epochs or settings.classifier.epochs
    changed = {"classifier": settings.classifier.model_copy(update={"epochs": epochs})}
    return _with_tiles(settings.model_copy(update=changed), pair)


def survivors(accuracy: dict[Pair, float], keep: float) -> tuple[Pair, ...]:
    """Return the share `keep` of the combinations, rounded up, with the highest accuracy, sorted.

    Of equal ones those with fewer pixels stay. Successive halving: Jamieson and Talwalkar 2016, arXiv:1502.07943.
    """
    ranked = sorted(accuracy, key=lambda pair: (-accuracy[pair], pair[1], pair[0]))
    return tuple(sorted(ranked[: math.ceil(keep * len(ranked) - 1e-9)]))


def _with_tiles(settings: Settings, pair: Pair) -> Settings:
    tiles = settings.tiles.model_copy(update={"side_um": pair[0], "side_px": pair[1]})
    return settings.model_copy(update={"tiles": tiles})
