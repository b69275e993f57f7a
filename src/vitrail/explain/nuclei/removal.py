"""What the score loses when nuclei are taken away: each alone, groups of one kind, and all at once.

An effect is the score before minus after. Positive: the nuclei spoke for tumor. Beside it stands what painting does
by itself: the same shapes on tissue without nuclei, the control. And a group of nuclei may count for no more than its
number or its area: as many others, drawn at random, of about the same area, are taken away beside it.

The cost is bounded: a network sees at most `MOST` images for a tile, and a tile is painted once for all networks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vitrail.explain.nuclei.painting import paint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import ArrayLike, NDArray

    from vitrail.explain.nuclei.painting import Painting

    Image = NDArray[np.uint8]
    Labels = NDArray[np.int32]
    Mask = NDArray[np.bool_]
    Floats = NDArray[np.float64]
    Score = Callable[[Image], Floats]
    """Maps images `[n, h, w, 3]` to scores and logits, `[n, 2]`."""

MOST = 128
"""Passes of a network for one tile, at most."""

DRAWS = 8
"""Random groups beside each group."""

ALL = "all"
"""The group of all nuclei of a tile."""

LYMPHOCYTE_UM2, LYMPHOCYTE_CIRCULARITY = 50.0, 0.8
"""A lymphocyte's nucleus is about as large as a red cell, 7 um across (38 um2), and round; a convention."""

_SINGLE_CONTROLS = 16
"""Moved shapes that are painted over alone, at most a fifth of the passes that are left for single nuclei."""

_CANDIDATES, _NEAR = 32, 0.1
"""Random groups that each one taken is the best of; and by how much of its area it may differ from the group."""


def feature_groups(features: pd.DataFrame) -> dict[str, Mask]:
    """Group the nuclei of one tile by their features.

    Parameters
    ----------
    features
        One row a nucleus, 1 to n, with `area_um2`, `hematoxylin_mean`, `solidity` and `circularity`; what
        `vitrail.nuclei.features.measure` returns.

    Returns
    -------
    dict[str, NDArray[np.bool_]]
        `darkest`, `largest` and `irregular`: the tenth with most hematoxylin a pixel, with the largest area and with
        the least solidity; `lymphocytes`: round and small ones that are darker than half of the tile's nuclei. Those
        without any, or all of them, are left out.
    """
    area, dark = features["area_um2"].to_numpy(), features["hematoxylin_mean"].to_numpy()
    tenths = {"darkest": dark, "largest": area, "irregular": -features["solidity"].to_numpy()}
    groups = {name: _top(values, len(features) // 10) for name, values in tenths.items()}
    round_ones = features["circularity"].to_numpy() >= LYMPHOCYTE_CIRCULARITY
    groups["lymphocytes"] = (area <= LYMPHOCYTE_UM2) & round_ones & (dark > np.median(dark) if len(dark) else False)
    return {name: mask for name, mask in groups.items() if mask.any() and not mask.all()}


def _top(values: Floats, count: int) -> Mask:
    mask = np.zeros(len(values), np.bool_)
    mask[np.argsort(-values, kind="stable")[:count]] = True
    return mask


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Effects:
    """What the score of one tile loses.

    Every effect is given as `effect`, of the score from 0 to 1, and `effect_logit`, of what methods explain.

    Attributes
    ----------
    before
        Score and logit of the tile as it is.
    nuclei
        One row a nucleus that was taken away alone: `label`, `area_um2` (painted over), its effect, how it was
        `sampled` (`all`; or of too many, `relevance` for the most relevant ones, `random` for others), and `weight`,
        how many nuclei it stands for: one over the chance that it was sampled.
    controls
        The same of moved shapes: `label`, `area_um2` and the effect.
    groups
        One row a group, `all` first: `group`, number of `nuclei`, `area_um2`, its effect; of the control
        `control_area_um2`, `control` and `control_logit`; of the random groups (means over the draws)
        `random_nuclei`, `random_area_um2`, `random`, `random_logit`, and `beaten`, the share of them whose logit
        moves less in the group's direction. NaN where there was no place or nucleus for them.
    passes
        How many images the network saw.
    """

    before: tuple[float, float]
    nuclei: pd.DataFrame
    controls: pd.DataFrame
    groups: pd.DataFrame
    passes: int


def removal_effects(
    score: Score,
    image: Image,
    labels: Labels,
    groups: Mapping[str, Mask],
    *,
    mpp: float = 0.5,
    tile: Image | None = None,
    relevance: ArrayLike | None = None,
    seed: tuple[int, ...] = (0,),
) -> Effects:
    """Take nuclei away from one tile; `paint` and `effects_of` in one, for a single network.

    Parameters
    ----------
    score
        Maps images `[n, height, width, 3]` to scores and logits, `[n, 2]`.
    image, labels, mpp, tile
        As for `paint`.
    groups, relevance, seed
        As for `effects_of`.

    Returns
    -------
    Effects
        What the score loses.
    """
    painting = paint(image, labels, mpp=mpp, tile=tile, seed=seed)
    return effects_of(score, painting, groups, relevance=relevance, seed=seed)


def effects_of(
    score: Score,
    painting: Painting,
    groups: Mapping[str, Mask],
    *,
    relevance: ArrayLike | None = None,
    most: int = MOST,
    draws: int = DRAWS,
    seed: tuple[int, ...] = (0,),
) -> Effects:
    """Take nuclei away from one tile that is painted already, for one of several networks.

    Parameters
    ----------
    score
        Maps images `[n, height, width, 3]` to scores and logits, `[n, 2]`; all are asked for at once.
    painting
        The tile.
    groups
        By name which nuclei belong to it, `[n]`; what `feature_groups` returns.
    relevance
        Of each nucleus, `[n]`: of more nuclei than there are passes for, half are the most relevant ones, and half are
        drawn from the others. None draws all.
    most
        Images that the network sees, at most.
    draws
        Random groups beside each group.
    seed
        Numbers that decide what is drawn.

    Returns
    -------
    Effects
        What the score loses.

    Raises
    ------
    ValueError
        There are too few passes for the groups, or numbers of nuclei differ.
    """
    count, rng = painting.count, np.random.default_rng([*seed, 2])
    wrong = [name for name, mask in groups.items() if len(mask) != count]
    if wrong or (relevance is not None and len(np.asarray(relevance)) != count):
        raise ValueError(f"a tile of {count} nuclei has others in {', '.join(wrong) or 'relevance'}")
    shared = 3 + len(groups) * (2 + draws)
    if most < shared + 2:
        raise ValueError(f"{most} passes are too few for {len(groups)} groups: they take {shared}")
    sets = {ALL: np.ones(count, np.bool_), **groups} if count else {}
    drawn = {name: _alike(painting.areas_um2, mask, draws, rng) for name, mask in sets.items()}
    there = np.flatnonzero(painting.moved_areas_um2 > 0)
    few = np.sort(rng.permutation(there)[: min(_SINGLE_CONTROLS, (most - shared) // 5)])
    chosen, sampled, weight = _sample(count, most - shared - len(few), relevance, rng)

    one = np.eye(count, dtype=np.bool_)
    jobs = [(mask, moved) for mask in sets.values() for moved in (False, True)]
    jobs += [(mask, False) for masks in drawn.values() for mask in masks]
    jobs += [(one[i], False) for i in chosen] + [(one[i], True) for i in few]
    scores = score(np.stack([painting.tile, *(painting.without(mask, moved=moved) for mask, moved in jobs)]))
    before, effects = scores[0], scores[0] - scores[1:]
    pairs, rest = effects[: 2 * len(sets)], effects[2 * len(sets) :]
    rows: list[dict[str, Any]] = []
    for number, (name, mask) in enumerate(sets.items()):
        others, rest = rest[: len(drawn[name])], rest[len(drawn[name]) :]
        rows.append(_group(painting, name, mask, drawn[name], (*pairs[2 * number : 2 * number + 2], others)))
    nuclei = _singles(chosen, painting.areas_um2, rest[: len(chosen)]).assign(sampled=sampled, weight=weight)
    return Effects(
        before=(float(before[0]), float(before[1])),
        nuclei=nuclei,
        controls=_singles(few, painting.moved_areas_um2, rest[len(chosen) :]),
        groups=pd.DataFrame(rows, columns=list(_GROUP_COLUMNS)),
        passes=len(scores),
    )


_GROUP_COLUMNS = (
    "group", "nuclei", "area_um2", "effect", "effect_logit", "control_area_um2", "control", "control_logit",
    "random_nuclei", "random_area_um2", "random", "random_logit", "beaten",
)  # fmt: skip


def _singles(chosen: NDArray[np.int64], areas_um2: Floats, effects: Floats) -> pd.DataFrame:
    columns = {"label": chosen + 1, "area_um2": areas_um2[chosen]}
    return pd.DataFrame(columns | {"effect": effects[:, 0], "effect_logit": effects[:, 1]})


def _group(
    painting: Painting, name: str, mask: Mask, drawn: list[Mask], effects: tuple[Floats, Floats, Floats]
) -> dict[str, Any]:
    own, control, others = effects
    areas, control_area = painting.areas_um2, float(painting.moved_areas_um2[mask].sum())
    if not control_area:
        control = np.full(2, np.nan)
    random, beaten = (
        (others.mean(0), _share_beaten(own[1], others[:, 1])) if len(drawn) else (np.full(2, np.nan), np.nan)
    )
    numbers = [np.mean([each.sum() for each in drawn]), np.mean([areas[each].sum() for each in drawn])] if drawn else []
    values = (
        name, int(mask.sum()), float(areas[mask].sum()), *own.tolist(), control_area, *control.tolist(),
        *(numbers or [np.nan, np.nan]), *random.tolist(), beaten,
    )  # fmt: skip
    return dict(zip(_GROUP_COLUMNS, values, strict=True))


def _share_beaten(own: float, others: Floats) -> float:
    towards = 1 if own >= 0 else -1
    return float(np.mean(towards * others < towards * own))


def _alike(areas_um2: Floats, mask: Mask, draws: int, rng: np.random.Generator) -> list[Mask]:
    """Draw groups of the other nuclei: as many, of about the same area; or where there are none, of that area."""
    others, count, area = np.flatnonzero(~mask), int(mask.sum()), float(areas_um2[mask].sum())
    groups: list[Mask] = []
    for _ in range(draws if 0 < area <= areas_um2[others].sum() else 0):
        orders = [rng.permutation(others) for _ in range(_CANDIDATES)]
        sums = np.array([areas_um2[order[:count]].sum() for order in orders])
        best = int(np.abs(sums - area).argmin())
        group = orders[best][:count]
        if len(others) < count or abs(sums[best] - area) > _NEAR * area:  # no chance has as many of that area
            grown = np.cumsum(areas_um2[orders[0]])
            group = orders[0][: int(np.abs(grown - area).argmin()) + 1]
        groups.append(np.isin(np.arange(len(mask)), group))
    return groups


def _sample(
    count: int, room: int, relevance: ArrayLike | None, rng: np.random.Generator
) -> tuple[NDArray[np.int64], list[str], Floats]:
    """Choose the nuclei that are taken away alone; returns them rising, how each came in, and what it stands for."""
    if count <= room:
        return np.arange(count), ["all"] * count, np.ones(count)
    values = None if relevance is None else np.nan_to_num(np.asarray(relevance, np.float64), nan=-np.inf)
    first = np.empty(0, np.int64) if values is None else np.argsort(-values, kind="stable")[: room // 2]
    rest = np.setdiff1d(np.arange(count), first)
    second = rng.permutation(rest)[: room - len(first)]
    chosen = np.sort(np.concatenate([first, second]))
    top = np.isin(chosen, first)
    return chosen, np.where(top, "relevance", "random").tolist(), np.where(top, 1.0, len(rest) / max(len(second), 1))
