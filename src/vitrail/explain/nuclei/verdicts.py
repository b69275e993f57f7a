"""Whether taking nuclei away says something: beyond what painting does by itself, and beyond other nuclei.

All intervals are over patients (`vitrail.metrics.bootstrap`), of differences within each tile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from vitrail.classes import TissueClass
from vitrail.explain.nuclei.removal import ALL
from vitrail.metrics.bootstrap import RESAMPLES, Drawn, Estimate, by_patient, estimate, interval, ratio, sample
from vitrail.metrics.scores import divided

if TYPE_CHECKING:
    from typing import Any, Literal

    Value = Literal["effect", "effect_logit"]

HARMLESS = 0.1
"""Painting leaves tumor-free tiles alone where their mean score moves by less than this share of what tiles of tumor
score above them, with the whole interval; a convention."""

FOR, AGAINST, PAINTING, UNDECIDED = "for tumor", "against tumor", "no more than painting", "undecided"


def judge_removals(table: pd.DataFrame, seed: int, value: Value = "effect_logit") -> pd.DataFrame:
    """Say of each group of nuclei what it does to the score.

    A group speaks where its mean effect, and what it has beyond the control, both have 0 outside their 95 % intervals,
    on the same side. The control of a tile is scaled to the group's area; tiles without one do not count for it.

    Parameters
    ----------
    table
        The rows of `Effects.groups` of all tiles, with `patient_id`, and `network`.
    seed
        Draws the patients of the intervals.
    value
        Which effect.

    Returns
    -------
    pd.DataFrame
        One row a network and group: `network`, `group`, number of `tiles` and `patients`; `effect`, `control`,
        `beyond_control` and `beyond_random`, each with `_low` and `_high`, NaN where undefined; and `verdict`: `for
        tumor`, `against tumor`; `no more than painting`, where there is an effect but not beyond the control's; or
        `undecided`.
    """
    other = value.removeprefix("effect")
    control = table[f"control{other}"] * table["area_um2"] / table["control_area_um2"].where(lambda area: area > 0)
    parts = {
        "effect": table[value],
        "control": control,
        "beyond_control": table[value] - control,
        "beyond_random": table[value] - table[f"random{other}"],
    }
    rows: list[dict[str, Any]] = []
    for (network, group), own in table.groupby(["network", "group"], sort=False):
        row = {"network": network, "group": group, "tiles": len(own), "patients": own["patient_id"].nunique()}
        estimates = {}
        for name, values in parts.items():
            defined = values.loc[own.index].dropna()
            estimates[name] = _mean(defined, own.loc[defined.index, "patient_id"], seed)
            row |= {f"{name}{end}": number for end, number in zip(("", "_low", "_high"), estimates[name], strict=True)}
        rows.append(row | {"verdict": _verdict(estimates["effect"], estimates["beyond_control"])})
    return pd.DataFrame(rows)


def _mean(values: pd.Series[float], patients: pd.Series[str], seed: int) -> Estimate:
    return estimate(values, 1.0, patients, seed) if len(values) else Estimate(np.nan, np.nan, np.nan)


def _verdict(effect: Estimate, beyond: Estimate) -> str:
    if effect.low > 0 and beyond.low > 0:
        return FOR
    if effect.high < 0 and beyond.high < 0:
        return AGAINST
    moved = effect.low > 0 or effect.high < 0
    return PAINTING if moved and beyond.low <= 0 <= beyond.high else UNDECIDED


def change_of_tumor_free(table: pd.DataFrame, seed: int, value: Value = "effect") -> pd.DataFrame:
    """Say whether taking all nuclei away leaves the score of tumor-free tiles as it is.

    Parameters
    ----------
    table
        The rows of `Effects.groups` of all tiles, with `patient_id`, `network`, `label`, and the score of the tile as
        it is: `before`, and `before_logit`.
    seed
        Draws the patients of the intervals.
    value
        Which effect.

    Returns
    -------
    pd.DataFrame
        One row a network: number of tumor-free `tiles`; the mean `effect` on them with `_low` and `_high`; `share`, the
        same over what tiles of tumor score above them, with `_low` and `_high`; and `harmless`, whether that is below
        `HARMLESS` either way, with the whole interval. NaN where there are no tiles of a label.
    """
    before = "before" + value.removeprefix("effect")
    rows: list[dict[str, Any]] = []
    for network, own in table[table["group"] == ALL].groupby("network", sort=False):
        tumor = (own["label"] == TissueClass.TUMOR.key).to_numpy(np.float64)
        free, scores, effect = 1 - tumor, own[before].to_numpy(), own[value].to_numpy()
        sums = by_patient(
            own["patient_id"], np.column_stack([effect * free, scores * tumor, scores * free, tumor, free])
        )
        weights = sample(len(sums), RESAMPLES, seed)
        moved, high, low = (
            ratio(sums[:, top], sums[:, bottom], weights, "plain") for top, bottom in ((0, 4), (1, 3), (2, 4))
        )
        gap = high - low
        share = divided(moved.value, np.where(gap.value > 0, gap.value, 0))
        influence = divided(moved.influence - share[:, None] * gap.influence, gap.value[:, None])
        drawn = {"effect": moved, "share": Drawn(value=share, influence=influence)}
        row: dict[str, Any] = {"network": network, "tiles": int(free.sum())}
        for name, each in drawn.items():
            ends = (float(each), *interval(each, weights))
            row |= {f"{name}{end}": number for end, number in zip(("", "_low", "_high"), ends, strict=True)}
        rows.append(row | {"harmless": bool(row["share_low"] > -HARMLESS and row["share_high"] < HARMLESS)})
    return pd.DataFrame(rows)
