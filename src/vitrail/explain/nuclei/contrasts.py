"""How nuclei that matter most differ from those that matter least, in their own units, and sentences that say so.

A coefficient in standard deviations tells whether; a contrast tells how much: in each tile the tenth of its nuclei with
the highest outcome is set against the tenth with the lowest. So tiles, patients and stains meet only themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vitrail.explain.nuclei.nulls import TITLES
from vitrail.explain.nuclei.regression import LOGARITHMS
from vitrail.metrics.bootstrap import estimate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike

SHARE, FEWEST = 0.1, 5
"""Of a tile's nuclei that are compared at either end; and how many it must have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """How a difference of a feature is put.

    Attributes
    ----------
    more, less
        What nuclei are that have more, or less, of it.
    times
        What follows "1.8 times as", of features that are compared as ratios.
    """

    more: str = ""
    less: str = ""
    times: str = ""


WORDINGS: Mapping[str, Wording] = MappingProxyType(
    {
        "area_um2": Wording(times="large"),
        "perimeter_um": Wording(times="long around"),
        "major_axis_um": Wording(times="long"),
        "minor_axis_um": Wording(times="wide"),
        "hematoxylin_sum": Wording(times="rich in hematoxylin"),
        "hematoxylin_std": Wording(times="uneven in hematoxylin"),
        "texture_contrast": Wording(times="coarse in chromatin"),
        "nearest_um": Wording(times="far from the next nucleus"),
        "edge_um": Wording(times="far from the tissue's edge"),
        "hematoxylin_mean": Wording(more="darker", less="paler"),
        "eccentricity": Wording(more="more elongated", less="rounder"),
        "solidity": Wording(more="more regular in outline", less="more irregular in outline"),
        "circularity": Wording(more="more circular", less="less circular"),
    }
)
"""By feature; others are called by their name, higher or lower."""


def contrasts(
    features: pd.DataFrame, outcome: ArrayLike, tiles: ArrayLike, patients: ArrayLike, *, seed: int = 0
) -> pd.DataFrame:
    """Compare the nuclei of the highest tenth of an outcome with those of the lowest, tile by tile.

    Parameters
    ----------
    features, outcome, tiles, patients, seed
        As in `associate`.

    Returns
    -------
    pd.DataFrame
        A row a feature: `feature`; `kind`, `ratio` (of geometric means, of those of `LOGARITHMS` whose values are all
        positive) or `difference` (of means); `value`, `low`, `high`, its 95 % interval over patients; `nuclei`, how
        many there were at either end; `patients`.
    """
    values, names = np.asarray(outcome, np.float64), [str(name) for name in features]
    numbers, owners = np.unique(np.asarray(tiles), return_inverse=True)[1], np.asarray(patients)
    table = np.array(features, np.float64)
    ratios = [name in LOGARITHMS and bool((column[np.isfinite(column)] > 0).all())
              for name, column in zip(names, table.T, strict=True)]  # fmt: skip
    table[:, ratios] = np.log(table[:, ratios])
    gaps, counts, whose = [np.empty((0, len(names)))], [0], []
    for tile in range(numbers.max(initial=-1) + 1):
        rows = np.flatnonzero((numbers == tile) & np.isfinite(values))
        if len(rows) < FEWEST or np.ptp(values[rows]) == 0:
            continue
        most, order = max(1, round(SHARE * len(rows))), rows[np.argsort(values[rows], kind="stable")]
        low, high = (np.ma.masked_invalid(table[end]).mean(0).filled(np.nan) for end in (order[:most], order[-most:]))
        gaps.append((high - low)[None])
        counts.append(most)
        whose.append(owners[rows[0]])
    gap, count, owner = np.concatenate(gaps), np.array(counts[1:], np.float64), np.array(whose)
    results: list[dict[str, Any]] = []
    for name, ratio, column in zip(names, ratios, gap.T, strict=True):
        defined = np.isfinite(column)
        three = np.array(estimate((column * count)[defined], count[defined], owner[defined], seed))
        three = np.exp(three) if ratio else three
        numbers_of = {"nuclei": int(count[defined].sum()), "patients": len(np.unique(owner[defined]))}
        interval = dict(zip(("value", "low", "high"), three.tolist(), strict=True))
        results.append({"feature": name, "kind": "ratio" if ratio else "difference"} | interval | numbers_of)
    columns = ["feature", "kind", "value", "low", "high", "nuclei", "patients"]
    return pd.DataFrame(results, columns=columns)


def sentences(
    table: pd.DataFrame, contrast: pd.DataFrame, *, network: str, outcome: str, titles: Mapping[str, str] | None = None
) -> list[str]:
    """Say what a network looks for, as far as the numbers carry it.

    Parameters
    ----------
    table
        What `associate` returns.
    contrast
        What `contrasts` returns, of the same nuclei.
    network
        What it is called in a sentence, such as `"the classifier"`.
    outcome
        What the outcome is called, such as `"effect"` or `"relevance (Grad-CAM)"`.
    titles
        By feature what it is called; others by their name.

    Returns
    -------
    list[str]
        How nuclei differ by features that are findings by themselves, whose contrast has an interval clear of none;
        what remains of each beside all others; what nulls do as well. Or that nothing was found.
    """
    called = {name: (titles or {}).get(name, name) for name in table["feature"]}
    if not len(table) or (table["marginal_verdict"] == "undefined").all():
        return [f"Of {network}, nothing can be said of nuclei by {outcome}: it takes two patients with nuclei."]
    gaps = {row["feature"]: row for row in contrast.to_dict("records")}
    patients, lines = int(table["patients"].iloc[0]), []
    alone = table[table["marginal_verdict"].isin(["more", "less"])]
    phrases, nulls = [], []
    for row in alone.to_dict("records"):
        gap = gaps.get(row["feature"])
        even = 1.0 if gap and gap["kind"] == "ratio" else 0.0
        up = row["marginal_verdict"] == "more"
        if gap and (gap["low"] > even if up else gap["high"] < even):
            phrases.append(_phrase(row["feature"], gap, called[row["feature"]]))
            nulls.append(TITLES.get(row["marginal_null"], row["marginal_null"]))
    if phrases:
        beyond = " and than ".join(dict.fromkeys(nulls))
        lines.append(
            f"Of {network}, the tenth of nuclei with the highest {outcome} differs from the tenth with the lowest in "
            f"the same tiles: {_joined(phrases)} ({patients} patients). This is more than {beyond} would give."
        )
    own = table[table["verdict"].isin(["more", "less"])]
    if len(own):
        each = [
            f"{called[row['feature']]} ({row['coefficient']:+.2f}, {row['low']:+.2f} to {row['high']:+.2f})"
            for row in own.to_dict("records")
        ]
        lines.append(
            f"With all other features held, the {outcome} goes with {_joined(each)}, in standard deviations for one of "
            "the feature."
        )
    same = table[(table["marginal_verdict"] == "as_null") | (table["verdict"] == "as_null")]
    for null, rows in same.groupby(same["marginal_null"].where(same["marginal_verdict"] == "as_null", same["null"])):
        names = _joined([called[name] for name in rows["feature"]])
        lines.append(
            f"The {outcome} also goes with {names}, but no more than {TITLES.get(str(null), null)} would give."
        )
    untested = table[(table["marginal_verdict"] == "untested") | (table["verdict"] == "untested")]
    if len(untested):
        names = _joined([called[name] for name in untested["feature"]])
        lines.append(f"The {outcome} goes with {names}; no null was there to say whether that means anything.")
    if not lines:
        lines.append(
            f"Of {network}, none of {len(table)} features of nuclei was found to go with the {outcome} "
            f"({patients} patients)."
        )
    return lines


def _phrase(feature: str, gap: Mapping[Any, Any], title: str) -> str:
    """Put a contrast into words, such as "1.8 times as large (95 % interval 1.4 to 2.3)"."""
    value, low, high = gap["value"], gap["low"], gap["high"]
    wording = WORDINGS.get(feature, Wording())
    if gap["kind"] == "ratio":
        what = f"{value:.2g} times as {wording.times}" if wording.times else f"{title} {value:.2g} times as high"
        return f"{what} (95 % interval {low:.2g} to {high:.2g})"
    if value < 0:
        value, low, high, direction = -value, -high, -low, wording.less or f"lower in {title}"
    else:
        direction = wording.more or f"higher in {title}"
    return f"{value:.2g} {direction} (95 % interval {low:.2g} to {high:.2g})"


def _joined(parts: list[str]) -> str:
    """Return "a", "a and b", or "a, b and c"."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
