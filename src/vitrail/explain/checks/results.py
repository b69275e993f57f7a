"""The folder `checks/` of a run: whether its explanations are true, on some test tiles; and the verdicts.

- `perturbation.parquet`: the score while blocks of a tile are deleted or inserted. `tile`, its row in the tile table;
  `patient_id`; `network`; `order`, what decides which block comes first (a method, `random` or `blob`); `kind`
  (`deletion`, `insertion`); `fraction` of the blocks, and `score`.
- `randomisation.parquet`: what is left of a map while the network is randomised from the top down. `tile`,
  `patient_id`, `network`, `method`; `number` of the step, 0 for the untouched network, and `step`, the name of what has
  been randomised so far; `draw`; `correlation` with the untouched map, as an absolute value, and `chance`, that with
  the untouched map of another tile. NaN where a map is constant. Of most draws only the last step is there.
- `truth.parquet`: where maps lie on synthetic slides; empty for others. `tile`, `patient_id`, `key`, `region`
  (`atypical_nuclei`, `nuclei`, `stroma`); `weight`, the share of the map's positive part inside, NaN where it has none;
  `others` and `turned`, the mean of that share of maps of other tiles, and of the map turned and mirrored; and `area`,
  the region's share of the tile.
- `summary.json`: what they come to, see `summarise`, and whether each kind of map passes, which is decided here and
  nowhere else, see `verdicts`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from scipy.integrate import trapezoid

from vitrail.core.files import read_json, read_table
from vitrail.errors import RunError
from vitrail.explain.checks.perturbation import BASELINES, KINDS
from vitrail.explain.checks.reliance import Reliance, read_reliance
from vitrail.explain.study.store import split_key
from vitrail.metrics.bootstrap import crossed_estimate, estimate

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    Verdict = Literal["passes", "fails", "undecided"]

_OWNER = {"tile": "int64", "patient_id": "str"}

COLUMNS: dict[str, dict[str, str]] = {
    "perturbation": _OWNER
    | {"network": "str", "order": "str", "kind": "str", "fraction": "float64", "score": "float64"},
    "randomisation": _OWNER
    | {"network": "str", "method": "str", "number": "int64", "step": "str", "draw": "int64"}
    | {"correlation": "float64", "chance": "float64"},
    "truth": _OWNER
    | {"key": "str", "region": "str"}
    | {"weight": "float64", "others": "float64", "turned": "float64", "area": "float64"},
}
"""Tables of the folder, their columns and types."""

SUMMARY = "summary.json"
_SUMMARY_KEYS = ("patients", "perturbation", "ends", "randomisation", "truth", "verdicts")

CASCADES = 2
"""Draws of random weights that are explained step by step; the verdict needs only the last step, of many draws."""

LOST = 0.1
"""A randomised network's map passes as another one while its correlation is above chance by less than this.

The number is a convention, no finding: a correlation that explains one per cent of a map's variance is called lost.
"""

LEAST_FALL = 0.1
"""Where blurring whole tiles lowers a network's mean score by less, its curves say nothing about maps."""

CAUSE = "atypical_nuclei"
"""The region that makes a synthetic tile tumor, on which a map has to lie."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Checked:
    """What the checks of a run found.

    Attributes
    ----------
    perturbation, randomisation, truth
        The content of the tables.
    summary
        The content of `summary.json`.
    reliance
        What the networks rely on, tile by tile; None for checks of before.
    """

    perturbation: pd.DataFrame
    randomisation: pd.DataFrame
    truth: pd.DataFrame
    summary: dict[str, Any]
    reliance: Reliance | None = None


def open_checked(folder: Path) -> Checked:
    """Read the `checks` folder of a run.

    Raises
    ------
    RunError
        A file is missing or not valid.
    """
    try:
        tables = {name: read_table(folder / f"{name}.parquet")[list(columns)] for name, columns in COLUMNS.items()}
    except KeyError as error:
        problem = f"no complete checks ({' '.join(str(error).split())[:200]})"
        raise RunError(folder, problem, f"Remove this folder, and run: vitrail explain {folder.parent}") from None
    return Checked(**tables, summary=read_json(folder / SUMMARY, _SUMMARY_KEYS), reliance=read_reliance(folder))


def as_table(name: str, parts: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Put the parts of one of the folder's tables together; without any rows it still has its columns."""
    filled = [part for part in parts if len(part)]
    table = pd.concat(filled, ignore_index=True) if filled else pd.DataFrame(columns=list(COLUMNS[name]))
    return table[list(COLUMNS[name])].astype(COLUMNS[name])


def summarise(tables: Mapping[str, pd.DataFrame], seed: int, keys: Sequence[str]) -> dict[str, Any]:
    """Sum up the tables, and decide; means and differences are over tiles, intervals 95 % ones over patients.

    Parameters
    ----------
    tables
        By the names of `COLUMNS`.
    seed
        Draws the patients of the intervals.
    keys
        The kinds of maps that were checked.

    Returns
    -------
    dict[str, Any]
        As JSON, null for what is undefined:

        - `perturbation`: by key of a map, and by `deletion` and `insertion`, the mean `area` under the map's curve and
          those of the orders `random` and `blob`; `over_random` and `over_blob`, how much better the map's area is, as
          `[mean, low, high]`: positive speaks for the map in both kinds.
        - `ends`: by network the mean score of the tiles as they are and wholly blurred. Where these do not differ,
          blurring deletes nothing, and the curves tell little.
        - `randomisation`: by key, with all weights randomised, the mean `correlation` and `chance`, and their
          difference `excess` as `[mean, low, high]`, an interval over patients and `draws`. `shared` is the mean
          `chance` of the untouched network: where maps of all tiles resemble each other, there is little to lose, and
          passing tells little.
        - `truth`: null without synthetic slides; by key and region `ratio`, the maps' share inside over what the area
          alone would give, and its `interval`; `others` and `turned`, the same of maps of other tiles, and of maps
          turned and mirrored, which is what chance gives; `over_others` and `over_turned`, what the maps have beyond
          these, as `[value, low, high]`; and the number of `tiles` whose map points anywhere.
        - `patients`: how many the curves are of.
        - `verdicts`: see `verdicts`.
    """
    perturbation, truth = tables["perturbation"], tables["truth"]
    areas = curve_areas(perturbation)
    # deletion begins with the tile as it is, insertion with the blurred one; all orders share these
    begun = perturbation[perturbation["fraction"] == 0]
    means = begun.groupby(["network", "kind"], sort=True)["score"].mean()
    summary = {
        "patients": int(perturbation["patient_id"].nunique()),
        "perturbation": {key: {kind: _area(areas, key, kind, seed) for kind in KINDS} for key in keys},
        "ends": {
            network: {"tile": float(means[network, "deletion"]), "blurred": float(means[network, "insertion"])}
            for network in sorted(set(begun["network"]))
        },
        "randomisation": {key: _randomisation(tables["randomisation"], key, seed) for key in keys},
        "truth": {key: _located(truth[truth["key"] == key], seed) for key in keys} if len(truth) else None,
    }
    return {**summary, "verdicts": verdicts(summary)}


def curve_areas(perturbation: pd.DataFrame) -> pd.DataFrame:
    """Return the area under each curve, by trapezoids.

    Parameters
    ----------
    perturbation
        The table.

    Returns
    -------
    pd.DataFrame
        One row a tile; index `tile`, `patient_id`; columns `(network, order, kind)`.
    """
    names = ["tile", "patient_id", "network", "order", "kind"]
    table = perturbation.sort_values([*names, "fraction"], kind="stable")
    curves = table.groupby(names, sort=True)[["score", "fraction"]]
    areas = [(*name, float(trapezoid(curve["score"], curve["fraction"]))) for name, curve in curves]
    return pd.DataFrame(areas, columns=[*names, "area"]).pivot_table("area", names[:2], names[2:])


def _area(areas: pd.DataFrame, key: str, kind: str, seed: int) -> dict[str, Any]:
    network, method = split_key(key)
    patients = areas.index.get_level_values("patient_id") if len(areas) else np.empty(0, np.str_)
    own, *others = (
        areas.get((network, order, kind), pd.Series(dtype=float)).to_numpy(np.float64) for order in (method, *BASELINES)
    )
    sign = -1 if kind == "deletion" else 1  # a good map deletes fast and inserts fast
    return {
        "area": _mean(own),
        **{order: _mean(other) for order, other in zip(BASELINES, others, strict=True)},
        **{
            f"over_{order}": estimate(sign * (own - other), 1, patients, seed).json
            for order, other in zip(BASELINES, others, strict=True)
        },
    }


def _randomisation(table: pd.DataFrame, key: str, seed: int) -> dict[str, Any]:
    network, method = split_key(key)
    rows = table[(table["network"] == network) & (table["method"] == method)].dropna()
    last = rows[rows["number"] == table.loc[table["network"] == network, "number"].max()]
    return {
        "correlation": _mean(last["correlation"]),
        "chance": _mean(last["chance"]),
        "shared": _mean(rows.loc[rows["number"] == 0, "chance"]),
        "excess": crossed_estimate(last["correlation"] - last["chance"], last["patient_id"], last["draw"], seed).json,
        "draws": int(last["draw"].nunique()),
    }


def _located(table: pd.DataFrame, seed: int) -> dict[str, Any]:
    summary = {}
    for region, rows in table.dropna(subset=["weight", "others", "turned"]).groupby("region", sort=True):
        compared = {
            "weight": rows["weight"],
            "others": rows["others"],
            "turned": rows["turned"],
            "over_others": rows["weight"] - rows["others"],
            "over_turned": rows["weight"] - rows["turned"],
        }
        over_area = {
            name: estimate(mass, rows["area"], rows["patient_id"], seed).json for name, mass in compared.items()
        }
        summary[str(region)] = {
            "ratio": over_area["weight"][0],
            "interval": over_area["weight"][1:],
            "others": over_area["others"][0],
            "turned": over_area["turned"][0],
            "over_others": over_area["over_others"],
            "over_turned": over_area["over_turned"],
            "tiles": len(rows),
        }
    return summary


def _mean(values: Any) -> float | None:
    return float(np.mean(np.asarray(values, np.float64))) if len(values) else None


def verdicts(summary: Mapping[str, Any]) -> dict[str, dict[str, Verdict]]:
    """Decide every check of every kind of map; see `verdict` for the rule.

    Parameters
    ----------
    summary
        The other content of `summary.json`.

    Returns
    -------
    dict[str, dict[str, Verdict]]
        By key of a map, the verdict on:

        - `deletion` and `insertion`: passes where the map beats both the random order and the centred blob; undecided,
          too, where blurring does not disturb the network.
        - `randomisation`: passes where less than `LOST` beyond chance is left with all weights randomised.
        - `localisation`, on synthetic slides alone: passes where the map has more of its weight on the cause of tumor
          than both the maps of other tiles and itself turned and mirrored. These are what chance gives; the area is
          not.
    """
    decided: dict[str, dict[str, Verdict]] = {}
    for key, curves in summary["perturbation"].items():
        disturbed = fall(summary, key) >= LEAST_FALL
        decided[key] = {
            kind: verdict(*(curves[kind][f"over_{order}"] for order in BASELINES)) if disturbed else "undecided"
            for kind in KINDS
        }
        excess = [None if end is None else -end for end in summary["randomisation"][key]["excess"]]
        decided[key]["randomisation"] = verdict(excess, limit=-LOST)
        if summary["truth"] is not None:
            cause = summary["truth"][key].get(CAUSE)
            over = [cause["over_others"], cause["over_turned"]] if cause else [[None] * 3]
            decided[key]["localisation"] = verdict(*over)
    return decided


def verdict(*estimates: Sequence[float | None], limit: float = 0.0) -> Verdict:
    """Decide whether statistics are all above a limit.

    A map passes where the whole 95 % interval of each comparison says so, fails where that of any says the contrary,
    and is undecided else: where patients, tiles or draws are too few to tell, it has not failed. Simulated maps that
    know nothing of their tile pass the localisation check in less than 1 % of cohorts of 2 to 15 patients, and fail it
    in 2 to 5 %.

    Parameters
    ----------
    estimates
        Each as value and both ends of its interval; an end that is None decides nothing.
    limit
        The limit.

    Returns
    -------
    Verdict
        `passes`, `fails` or `undecided`.
    """
    ends = [[end for end in numbers[1:] if end is not None] for numbers in estimates]
    if not all(ends):
        return "undecided"
    if all(min(pair) > limit for pair in ends):
        return "passes"
    return "fails" if any(max(pair) < limit for pair in ends) else "undecided"


def fall(summary: Mapping[str, Any], key: str) -> float:
    """Return by how much blurring whole tiles lowers the mean score of a map's network; infinite where undefined."""
    ends = summary["ends"].get(split_key(key)[0])
    return float("inf") if ends is None else float(ends["tile"] - ends["blurred"])
