"""Outcomes of nuclei that know nothing of them: what a feature's coefficient has to be beyond.

Of a map's relevance:

- `shifted`: the map moved over the borders of its tile by at least a quarter of its side, so that it keeps how smooth
  it is and how its values are distributed, but lies elsewhere.
- `turned`: the map in one of the seven other ways in which a square can lie, so that it also keeps its distance from
  the middle and the border.
- `other_tiles`: the map of another tile of the same patient, which looks at the same stain and the same carcinoma.
- `other_patients`: the map of a tile of another patient.
- `untrained`: the map of the same tile by the network with all its weights random. Graziani et al. (2020) and Adebayo
  et al. (2018, arXiv:1810.03292) found class activation maps that were hardly better.

Of the effect of removing a nucleus:

- `similar_area`: the effects of a tile's nuclei, exchanged among those of similar painted area. A larger hole changes
  more by itself, so this keeps what the area does, and says nothing of features that are size (`HELD`).
- `elsewhere`: what painting over the same area changed where there is no nucleus, exchanged in the same way. It says
  what a hole does by itself, and is the null for features that are size.
- `untrained`: the effect on the score of the network with random weights.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from vitrail.explain.checks.localisation import turned

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    from vitrail.explain.saliency import Saliency

    Floats = NDArray[np.float64]
    Values = NDArray[np.float32]
    Labels = NDArray[np.int32]
    Measure = Callable[[Values, Labels], Floats]

DRAWS = 20
"""Of each null that is drawn at random; an interval of 20 draws is 9 % wider than one of very many."""

TITLES: Mapping[str, str] = MappingProxyType(
    {
        "shifted": "maps moved over the tile",
        "turned": "maps turned and mirrored",
        "other_tiles": "maps of other tiles of the same patient",
        "other_patients": "maps of other patients",
        "untrained": "a network with random weights",
        "similar_area": "effects exchanged among nuclei of similar area",
        "elsewhere": "painting over the same area where there is no nucleus",
        "null": "outcomes that know nothing of the nuclei",
    }
)
"""What each null is called in sentences."""

SIZE = frozenset({"area_um2", "perimeter_um", "major_axis_um", "minor_axis_um", "hematoxylin_sum"})
"""Features that are size, or grow with it."""

HELD: Mapping[str, frozenset[str]] = MappingProxyType(
    {name: SIZE if name == "similar_area" else frozenset() for name in TITLES}
)
"""By null the features that it holds as they are, and so cannot judge."""

_NEIGHBOURS = 6  # nuclei of similar area among which effects are exchanged


def map_nulls(
    saliencies: Sequence[Saliency],
    labels: Sequence[Labels],
    patients: ArrayLike,
    measure: Measure,
    *,
    seed: int,
    draws: int = DRAWS,
) -> dict[str, Floats]:
    """Measure nuclei on maps that are not of their place: all nulls that need no network.

    Parameters
    ----------
    saliencies
        The map of each tile, of one network and method; tiles are square.
    labels
        The nuclei of each tile, `[side_px, side_px]`, 1 to n and 0 for none.
    patients
        Whose tile it is, `[tiles]`.
    measure
        Takes a map and labels, `[side_px, side_px]` each, and returns the outcome of nucleus 1 to n, `[n]`; the same
        that measured the outcome itself.
    seed
        Decides all draws.
    draws
        Of each null.

    Returns
    -------
    dict[str, NDArray[np.float64]]
        By null `[draws, nuclei]`, the tiles' nuclei one after the other. NaN for nuclei of tiles that have no other of
        the same, or another, patient; a null that most nuclei would lack is left out.
    """
    rng = np.random.default_rng(seed)
    owners = np.asarray(patients)
    counts = [int(each.max(initial=0)) for each in labels]
    maps = [each.upsample() for each in saliencies]
    result: dict[str, Floats] = {}
    for name in ("shifted", "turned", "other_tiles", "other_patients"):
        rows = []
        for _ in range(draws):
            changed = [_changed(name, maps, tile, owners, rng) for tile in range(len(maps))]
            outcomes = [
                np.full(count, np.nan) if values is None else measure(values, each)
                for values, each, count in zip(changed, labels, counts, strict=True)
            ]
            rows.append(np.concatenate([np.empty(0), *outcomes]))
        drawn = np.stack(rows)
        if np.isfinite(drawn).sum() > drawn.size / 2:
            result[name] = drawn
    return result


def shifted(values: Values, rng: np.random.Generator) -> Values:
    """Return a map `[h, w]` moved over its borders, by at least a quarter of its side in one direction."""
    sides = np.array(values.shape)
    while True:
        by = rng.integers(0, sides)
        if (np.minimum(by, sides - by) >= sides / 4).any():
            return np.roll(values, tuple(by), (0, 1))


def effect_nulls(
    effect: ArrayLike, control: ArrayLike, area: ArrayLike, tiles: ArrayLike, *, seed: int, draws: int = DRAWS
) -> dict[str, Floats]:
    """Exchange effects of nuclei, and what was painted elsewhere, among nuclei of similar area in a tile.

    Parameters
    ----------
    effect
        How far the score fell without the nucleus, `[n]`.
    control
        How far it fell when as much was painted over elsewhere, `[n]`; NaN where that was not done.
    area
        Painted over, `[n]`.
    tiles
        Whose nucleus it is, `[n]`.
    seed, draws
        As in `map_nulls`.

    Returns
    -------
    dict[str, NDArray[np.float64]]
        `similar_area` and `elsewhere`, `[draws, n]`; the second only where most nuclei have a control.
    """
    rng = np.random.default_rng(seed)
    outcomes = {"similar_area": np.asarray(effect, np.float64), "elsewhere": np.asarray(control, np.float64)}
    numbers = np.unique(np.asarray(tiles), return_inverse=True)[1]
    order = np.lexsort((np.asarray(area, np.float64), numbers))
    groups = np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1) if len(order) else []
    result: dict[str, Floats] = {}
    for name, values in outcomes.items():
        drawn = np.full((draws, len(values)), np.nan)
        for row in drawn:
            for rows in groups:
                # groups of neighbours begin elsewhere in each draw, so that each has all its neighbours for partners
                cuts = np.arange(int(rng.integers(1, _NEIGHBOURS + 1)), len(rows), _NEIGHBOURS)
                for near in np.split(rows, cuts):
                    row[near] = values[rng.permutation(near)]
        if np.isfinite(drawn).sum() > drawn.size / 2:
            result[name] = drawn
    return result


def _changed(
    name: str, maps: Sequence[Values], tile: int, owners: NDArray[np.generic], rng: np.random.Generator
) -> Values | None:
    """Return a map that is not of the tile's place; None where no other tile can lend one."""
    match name:
        case "shifted":
            return shifted(maps[tile], rng)
        case "turned":
            ways = [*turned(maps[tile])]
            return np.asarray(ways[int(rng.integers(len(ways)))], np.float32)
    same = owners == owners[tile]
    others = np.flatnonzero(same if name == "other_tiles" else ~same)
    others = others[others != tile]
    return maps[int(rng.choice(others))] if len(others) else None
