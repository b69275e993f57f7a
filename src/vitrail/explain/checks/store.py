"""The folder `checks/` of a run: whether its explanations are true, on some test tiles.

- `perturbation.parquet`: the score while blocks of a tile are deleted or inserted. `tile`, its row in the tile table;
  `patient_id`; `network`; `order`, what decides which block comes first (`gradcam`, `hrcam`, `random`, `blob`); `kind`
  (`deletion`, `insertion`); `fraction` of the blocks, and `score`.
- `randomisation.parquet`: what is left of a map while the network is randomised from the top down. `tile`,
  `patient_id`, `network`, `method`; `number` of the step, 0 for the untouched network, and `step`, the name of what has
  been randomised so far; `draw`; `correlation` with the untouched map, as an absolute value, and `chance`, that with
  the untouched map of another tile. NaN where a map is constant. Of most draws only the last step is there.
- `truth.parquet`: where a map's weight lies on synthetic slides; empty for others. `tile`, `patient_id`, `key`,
  `region` (`atypical_nuclei`, `nuclei`, `stroma`); `weight`, the share of the map's positive part inside, NaN where it
  has none; `others` and `turned`, the mean of that share of maps of other tiles, and of the map turned and mirrored;
  and `area`, the region's share of the tile.
- `summary.json`: what they come to, see `summarise`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.integrate import trapezoid

from vitrail.core.files import read_json, read_table
from vitrail.errors import RunError
from vitrail.explain.checks.verdicts import verdicts
from vitrail.explain.study.store import KEYS
from vitrail.metrics.bootstrap import crossed_estimate, estimate

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

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

CASCADES = 2
"""Draws of random weights that are explained step by step; the verdict needs only the last step, of many draws."""

SUMMARY = "summary.json"
_SIGNS = {"deletion": -1, "insertion": 1}  # a good map deletes fast and inserts fast


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Checked:
    """What the checks of a run found.

    Attributes
    ----------
    perturbation, randomisation, truth
        The content of the tables.
    summary
        The content of `summary.json`.
    """

    perturbation: pd.DataFrame
    randomisation: pd.DataFrame
    truth: pd.DataFrame
    summary: dict[str, Any]


def open_checked(folder: Path) -> Checked:
    """Read the `checks` folder of a run.

    Raises
    ------
    RunError
        A file is missing or not valid.
    """
    try:
        perturbation, randomisation, truth = (_read(folder, name) for name in COLUMNS)
        summary = read_json(folder / SUMMARY)
    except KeyError as error:
        problem = f"no complete checks ({' '.join(str(error).split())[:200]})"
        raise RunError(folder, problem, f"Remove this folder, and run: vitrail explain {folder.parent}") from None
    return Checked(perturbation=perturbation, randomisation=randomisation, truth=truth, summary=summary)


def as_table(name: str, parts: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Put the parts of one of the folder's tables together; without any rows it still has its columns."""
    filled = [part for part in parts if len(part)]
    table = pd.concat(filled, ignore_index=True) if filled else pd.DataFrame(columns=list(COLUMNS[name]))
    return table[list(COLUMNS[name])].astype(COLUMNS[name])


def _read(folder: Path, name: str) -> pd.DataFrame:
    return read_table(folder / f"{name}.parquet")[list(COLUMNS[name])]


def summarise(tables: dict[str, pd.DataFrame], seed: int) -> dict[str, Any]:
    """Sum up the tables, and decide; means and differences are over tiles, intervals 95 % ones over patients.

    Returns
    -------
    As JSON, null for what is undefined:

    `perturbation`: by key of a map, and by `deletion` and `insertion`, the mean `area` under the map's curve and those
    of the orders `random` and `blob`; `over_random` and `over_blob`, how much better the map's area is, as `[mean,
    low, high]`: positive speaks for the map in both kinds.

    `ends`: by network the mean score of the tiles as they are and wholly blurred. Where these do not differ, blurring
    deletes nothing, and the curves tell little.

    `randomisation`: by key, with all weights randomised, the mean `correlation` and `chance`, and their difference
    `excess` as `[mean, low, high]`, an interval over patients and `draws`. `shared` is the mean `chance` of the
    untouched network: where maps of all tiles resemble each other, there is little to lose, and passing tells little.

    `truth`: null without synthetic slides; by key and region `ratio`, the maps' weight inside over what the area alone
    would give, and its `interval`; `others` and `turned`, the same of maps of other tiles, and of maps turned and
    mirrored, which is what chance gives; `over_others` and `over_turned`, what the maps have beyond these, as `[value,
    low, high]`; and the number of `tiles` whose map points anywhere.

    `patients`: how many the curves are of.

    `verdicts`: see `verdicts`.
    """
    perturbation, randomisation, truth = (tables[name] for name in COLUMNS)
    areas = curve_areas(perturbation)
    summary = {
        "patients": int(perturbation["patient_id"].nunique()),
        "perturbation": {key: _perturbation(areas, key, seed) for key in KEYS},
        "ends": _ends(perturbation),
        "randomisation": {key: _randomisation(randomisation, key, seed) for key in KEYS},
        "truth": {key: _located(truth[truth["key"] == key], seed) for key in KEYS} if len(truth) else None,
    }
    return {**summary, "verdicts": verdicts(summary)}


def curve_areas(perturbation: pd.DataFrame) -> pd.DataFrame:
    """Return the area under each curve, by trapezoids.

    Returns
    -------
    One row a tile; index `tile`, `patient_id`; columns `(network, order, kind)`.
    """
    names = ["tile", "patient_id", "network", "order", "kind"]
    table = perturbation.sort_values([*names, "fraction"], kind="stable")
    curves = table.groupby(names, sort=True)[["score", "fraction"]]
    areas = [(*name, float(trapezoid(curve["score"], curve["fraction"]))) for name, curve in curves]
    return pd.DataFrame(areas, columns=[*names, "area"]).pivot_table("area", names[:2], names[2:])


def _perturbation(areas: pd.DataFrame, key: str, seed: int) -> dict[str, Any]:
    return {kind: _area(areas, key, kind, seed) for kind in _SIGNS}


def _area(areas: pd.DataFrame, key: str, kind: str, seed: int) -> dict[str, Any]:
    network, method = key.split("_")
    own, random, blob = (
        areas.get((network, order, kind), pd.Series(dtype=float)).to_numpy(np.float64)
        for order in (method, "random", "blob")
    )
    patients = areas.index.get_level_values("patient_id") if len(areas) else np.empty(0, np.str_)
    return {
        "area": _mean(own),
        "random": _mean(random),
        "blob": _mean(blob),
        "over_random": estimate(_SIGNS[kind] * (own - random), 1, patients, seed).json,
        "over_blob": estimate(_SIGNS[kind] * (own - blob), 1, patients, seed).json,
    }


def _ends(perturbation: pd.DataFrame) -> dict[str, Any]:
    # deletion begins with the tile as it is, insertion with the blurred one; all orders share these
    begun = perturbation[perturbation["fraction"] == 0]
    means = begun.groupby(["network", "kind"], sort=True)["score"].mean()
    names = {"deletion": "tile", "insertion": "blurred"}
    networks = sorted(set(begun["network"]))
    return {network: {name: float(means[network, kind]) for kind, name in names.items()} for network in networks}


def _randomisation(table: pd.DataFrame, key: str, seed: int) -> dict[str, Any]:
    network, method = key.split("_")
    rows = table[(table["network"] == network) & (table["method"] == method)].dropna()
    last = rows[rows["number"] == table.loc[table["network"] == network, "number"].max()]
    same, chance = (last[name].to_numpy(np.float64) for name in ("correlation", "chance"))
    return {
        "correlation": _mean(same),
        "chance": _mean(chance),
        "shared": _mean(rows.loc[rows["number"] == 0, "chance"].to_numpy(np.float64)),
        "excess": crossed_estimate(same - chance, last["patient_id"], last["draw"], seed).json,
        "draws": int(last["draw"].nunique()),
    }


def _located(table: pd.DataFrame, seed: int) -> dict[str, Any]:
    known = table.dropna(subset=["weight", "others", "turned"])
    return {str(region): _ratio(rows, seed) for region, rows in known.groupby("region", sort=True)}


def _ratio(rows: pd.DataFrame, seed: int) -> dict[str, Any]:
    def over_area(values: pd.Series[float]) -> list[float | None]:
        return estimate(values, rows["area"], rows["patient_id"], seed).json

    ratio, *interval = over_area(rows["weight"])
    return {
        "ratio": ratio,
        "interval": interval,
        "others": over_area(rows["others"])[0],
        "turned": over_area(rows["turned"])[0],
        "over_others": over_area(rows["weight"] - rows["others"]),
        "over_turned": over_area(rows["weight"] - rows["turned"]),
        "tiles": len(rows),
    }


def _mean(values: Floats) -> float | None:
    return float(values.mean()) if len(values) else None
