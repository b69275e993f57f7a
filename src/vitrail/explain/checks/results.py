"""The folder `checks/` of a run: whether its explanations are true, on some test tiles; and the verdicts.

- `perturbation.parquet`: the score while blocks of a tile are deleted or inserted. `tile`, its row in the tile table;
  `patient_id`; `network`; `replacement` (`blur`, `tissue`, `donor`; older runs have `blur` alone, and no such column);
  `order`, what decides which block comes first (a method, or one of `FLOORS`); `kind` (`deletion`, `insertion`);
  `fraction` of the blocks; `score`, and `logit`, what methods explain.
- `reference.parquet`: what a network says of test tiles without evidence, which are not tumor and are called so.
  `tile`, `patient_id`, `network`, `score`.
- `randomisation.parquet`: what is left of a map while the network is randomised from the top down. `tile`,
  `patient_id`, `network`, `method`; `number` of the step, 0 for the untouched network, and `step`, the name of what has
  been randomised so far; `draw`; `correlation` with the untouched map, as an absolute value, and `chance`, that with
  the untouched map of another tile. NaN where a map is constant. Of most draws only the last step is there.
- `stability.parquet`: whether a map follows what is done to its tile. `tile`, `patient_id`, `network`, `method`,
  `change` (`stain`, `focus`, `shift`, `turn`); `correlation` with the tile's own map once the change is undone, and
  `chance`, with that of another tile; of methods that are `complete` the `residue` of the changed tile's map and the
  `difference` of scores that it should add up to, else NaN.
- `maps.parquet`: what maps are like. `tile`, `patient_id`, `key`; `gini`, how unevenly the magnitude is spread;
  `shared`, the mean correlation with the maps of the other checked tiles.
- `truth.parquet`: where maps lie on synthetic slides; empty for others. `tile`, `patient_id`, `key`, `region`
  (`atypical_nuclei`, `nuclei`, `stroma`); `weight`, the share of the map's positive part inside, NaN where it has none;
  `others` and `turned`, the mean of that share of maps of other tiles, and of the map turned and mirrored; and `area`,
  the region's share of the tile.
- `summary.json`: what they come to, see `summarise`, and whether each kind of map passes, which is decided here and
  nowhere else, see `verdicts`.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from vitrail.core.files import read_json, read_table
from vitrail.errors import RunError
from vitrail.explain.checks.faithfulness import curve_areas, judge_replacements, mean_areas, rank_agreement
from vitrail.explain.checks.localisation import CAUSE
from vitrail.explain.checks.map_statistics import shared
from vitrail.explain.checks.perturbation import BASELINES, FLOORS, KINDS
from vitrail.explain.checks.ranking import LOST, ranking
from vitrail.explain.checks.reliance import Reliance, read_reliance
from vitrail.explain.study.store import TITLES, split_key
from vitrail.metrics.bootstrap import crossed_estimate, estimate

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    Verdict = Literal["passes", "fails", "undecided"]

_OWNER = {"tile": "int64", "patient_id": "str"}

COLUMNS: dict[str, dict[str, str]] = {
    "perturbation": _OWNER
    | {"network": "str", "replacement": "str", "order": "str", "kind": "str"}
    | {"fraction": "float64", "score": "float64", "logit": "float64"},
    "randomisation": _OWNER
    | {"network": "str", "method": "str", "number": "int64", "step": "str", "draw": "int64"}
    | {"correlation": "float64", "chance": "float64"},
    "truth": _OWNER
    | {"key": "str", "region": "str"}
    | {"weight": "float64", "others": "float64", "turned": "float64", "area": "float64"},
    "reference": _OWNER | {"network": "str", "score": "float64"},
    "stability": _OWNER
    | {"network": "str", "method": "str", "change": "str"}
    | {"correlation": "float64", "chance": "float64", "residue": "float64", "difference": "float64"},
    "maps": _OWNER | {"key": "str", "gini": "float64", "shared": "float64"},
}
"""Tables of the folder, their columns and types."""

_LATER = ("reference", "stability", "maps")
"""Tables that checks of older runs do not have."""

SUMMARY = "summary.json"
_SUMMARY_KEYS = ("patients", "perturbation", "ends", "randomisation", "truth", "verdicts")

CASCADES = 2
"""Draws of random weights that are explained step by step; the verdict needs only the last step, of many draws."""

LEAST_FALL = 0.1
"""Of older runs, which blurred alone: where that lowers the mean score by less, curves say nothing about maps."""

FOLLOWS = 0.5
"""A map is stable where its correlation with itself, after a change, is above chance by more; a convention, too."""

ALIKE = 0.2
"""Where maps of different tiles correlate by more, they are partly one pattern, whatever a tile shows."""

FEWEST_CELLS = 7
"""Along each side of a map: as many as the paper's maps have."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Checked:
    """What the checks of a run found.

    Attributes
    ----------
    perturbation, randomisation, truth, reference, stability, maps
        The content of the tables; of older runs, the last three are empty.
    summary
        The content of `summary.json`.
    reliance
        What the networks rely on, tile by tile; None for checks of before.
    """

    perturbation: pd.DataFrame
    randomisation: pd.DataFrame
    truth: pd.DataFrame
    reference: pd.DataFrame
    stability: pd.DataFrame
    maps: pd.DataFrame
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
        tables = {name: _read(folder, name) for name in COLUMNS}
    except KeyError as error:
        problem = f"no complete checks ({' '.join(str(error).split())[:200]})"
        raise RunError(folder, problem, f"Remove this folder, and run: vitrail explain {folder.parent}") from None
    return Checked(**tables, summary=read_json(folder / SUMMARY, _SUMMARY_KEYS), reliance=read_reliance(folder))


def _read(folder: Path, name: str) -> pd.DataFrame:
    path = folder / f"{name}.parquet"
    if name in _LATER and not path.is_file():
        return as_table(name, [])
    table = read_table(path)
    if name == "perturbation" and "replacement" not in table:
        table = table.assign(replacement="blur", logit=np.nan)
    return table[list(COLUMNS[name])]


def as_table(name: str, parts: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Put the parts of one of the folder's tables together; without any rows it still has its columns."""
    filled = [part for part in parts if len(part)]
    table = pd.concat(filled, ignore_index=True) if filled else pd.DataFrame(columns=list(COLUMNS[name]))
    return table[list(COLUMNS[name])].astype(COLUMNS[name])


def summarise(
    tables: Mapping[str, pd.DataFrame],
    seed: int,
    keys: Sequence[str],
    titles: Mapping[str, str] = MappingProxyType(TITLES),
    cells: Mapping[str, tuple[int, int]] = MappingProxyType({}),
) -> dict[str, Any]:
    """Sum up the tables, and decide; means and differences are over tiles, intervals 95 % ones over patients.

    Parameters
    ----------
    tables
        By the names of `COLUMNS`.
    seed
        Draws the patients of the intervals.
    keys
        The kinds of maps that were checked.
    titles
        The title of each method, by its name.
    cells
        Height and width of the maps of each kind.

    Returns
    -------
    dict[str, Any]
        As JSON, null for what is undefined:

        - `replacements`: by network and replacement whether it is a test, see `judge_replacements`; and
          `rank_agreement`: by network how far they rank alike, see that function.
        - `perturbation`: by key of a map, and by `deletion` and `insertion`, the mean `area` under the map's curve and
          those of the orders `random` and `blob`; `over_random` and `over_blob`, how much better the map's area is, as
          `[mean, low, high]`: positive speaks for the map in both kinds. All are means over the `replacements` that are
          a test for the network, or over all where none is.
        - `ends`: by network the mean score of the tiles as they are and wholly blurred.
        - `randomisation`: by key, with all weights randomised, the mean `correlation` and `chance`, and their
          difference `excess` as `[mean, low, high]`, an interval over patients and `draws`. `shared` is the mean
          `chance` of the untouched network: where maps of all tiles resemble each other, there is little to lose, and
          passing tells little.
        - `stability`: by key, floors included, the mean `correlation` of maps with those of changed tiles, once the
          change is undone, and `chance`; `excess`, their difference as `[mean, low, high]`; `changes`, the mean
          difference by change; and the number of `tiles`.
        - `completeness`: by key of methods that claim that a map adds up to a difference of scores, the `median` and
          the `largest` of what is missing, as a share of it, over so many `maps`.
        - `sparseness` and `shared`: by key, floors included, the Gini index and the mean correlation of maps of
          different tiles, as `[mean, low, high]`; `cells`, the height and width of each kind's maps.
        - `warnings`: by key, what makes maps say little, as sentences.
        - `truth`: null without synthetic slides; by key and region `ratio`, the maps' share inside over what the area
          alone would give, and its `interval`; `others` and `turned`, the same of maps of other tiles, and of maps
          turned and mirrored, which is what chance gives; `over_others` and `over_turned`, what the maps have beyond
          these, as `[value, low, high]`; and the number of `tiles` whose map points anywhere.
        - `floors`: `randomisation` and `truth` as above, of maps that no method made.
        - `patients`: how many the curves are of.
        - `verdicts`: see `verdicts`.
        - `ranking`: by network, see `vitrail.explain.checks.ranking.ranking`.
    """
    perturbation, truth, maps = tables["perturbation"], tables["truth"], tables["maps"]
    areas, logits = (curve_areas(perturbation, value) for value in ("score", "logit"))
    judged = judge_replacements(perturbation, tables["reference"], seed)
    networks = list(dict.fromkeys(split_key(key)[0] for key in keys))
    floors = [f"{network}_{floor}" for network in networks for floor in FLOORS]
    located = {key: _located(truth[truth["key"] == key], seed) for key in (*keys, *floors)} if len(truth) else None
    forgotten = {key: _randomisation(tables["randomisation"], key, seed) for key in (*keys, *floors)}
    of_maps = {key: maps[maps["key"] == key] for key in (*keys, *floors)}
    summary: dict[str, Any] = {
        "patients": int(perturbation["patient_id"].nunique()),
        "replacements": judged,
        "rank_agreement": {network: rank_agreement(areas, logits, network, judged[network]) for network in judged},
        "perturbation": {key: _area(areas, key, judged, seed) for key in keys},
        "ends": {
            network: {"tile": entry["blur"]["tile"], "blurred": entry["blur"]["replaced"]}
            for network, entry in sorted(judged.items())
            if "blur" in entry
        },
        "randomisation": {key: forgotten[key] for key in keys},
        "stability": {key: _stability(tables["stability"], key, seed) for key in (*keys, *floors)},
        "completeness": _completeness(tables["stability"], keys),
        "sparseness": {
            key: estimate(rows["gini"].dropna(), 1, rows["patient_id"][rows["gini"].notna()], seed).json
            for key, rows in of_maps.items()
        },
        "shared": {key: shared(rows["shared"], rows["patient_id"], seed).json for key, rows in of_maps.items()},
        "cells": {key: list(size) for key, size in cells.items()},
        "truth": {key: located[key] for key in keys} if located else None,
        "floors": {
            "randomisation": {key: forgotten[key] for key in floors},
            "truth": {key: located[key] for key in floors} if located else None,
        },
    }
    summary |= {"warnings": {key: warnings_of(summary, key) for key in keys}, "verdicts": verdicts(summary)}
    own = {
        network: {name: titles.get(name, name) for each, name in map(split_key, keys) if each == network}
        for network in networks
    }
    ranks = {network: ranking(network, areas, logits, summary, own[network], seed) for network in networks}
    return summary | {"ranking": ranks}


def _area(areas: pd.DataFrame, key: str, judged: Mapping[str, Any], seed: int) -> dict[str, Any]:
    network, method = split_key(key)
    entries = judged.get(network, {})
    used = [name for name, entry in entries.items() if entry["test"]] or list(entries)
    by_kind = mean_areas(areas, network, used) if used else dict.fromkeys(KINDS, pd.DataFrame(index=areas.index))
    patients, result = areas.index.get_level_values("patient_id"), dict[str, Any]()
    for kind, table in by_kind.items():
        own, *others = (table.get(order, pd.Series(dtype=float)).to_numpy(np.float64) for order in (method, *BASELINES))
        sign = -1 if kind == "deletion" else 1  # a good map deletes fast and inserts fast
        result[kind] = {
            "area": _mean(own),
            **{order: _mean(other) for order, other in zip(BASELINES, others, strict=True)},
            **{
                f"over_{order}": estimate(sign * (own - other), 1, patients, seed).json
                for order, other in zip(BASELINES, others, strict=True)
            },
            "replacements": used,
        }
    return result


def _stability(table: pd.DataFrame, key: str, seed: int) -> dict[str, Any]:
    network, method = split_key(key)
    rows = table[(table["network"] == network) & (table["method"] == method)].dropna(subset=["correlation", "chance"])
    excess = rows["correlation"] - rows["chance"]
    return {
        "correlation": _mean(rows["correlation"]),
        "chance": _mean(rows["chance"]),
        "excess": estimate(excess, 1, rows["patient_id"], seed).json,
        "changes": {str(change): float(each.mean()) for change, each in excess.groupby(rows["change"], sort=True)},
        "tiles": int(rows["tile"].nunique()),
    }


def _completeness(table: pd.DataFrame, keys: Sequence[str]) -> dict[str, Any]:
    result = {}
    for network, method in map(split_key, keys):
        own = table[(table["network"] == network) & (table["method"] == method)].dropna(subset=["residue"])
        missing = (own["residue"] / own["difference"].where(own["difference"] != 0)).abs().dropna()
        if len(missing):
            result[f"{network}_{method}"] = {
                "median": float(missing.median()), "largest": float(missing.max()), "maps": len(missing),
            }  # fmt: skip
    return result


def warnings_of(summary: Mapping[str, Any], key: str) -> list[str]:
    """Say what makes maps of a kind say little, whatever the checks decide.

    Parameters
    ----------
    summary
        With `shared` and `cells`; older ones have neither, and nothing is said.
    key
        The kind of maps.
    """
    correlation = summary.get("shared", {}).get(key, [None])[0]
    size, sentences = summary.get("cells", {}).get(key), []
    if correlation is not None and correlation > ALIKE:
        sentences.append(f"maps of different tiles correlate at {correlation:.2f}: they are partly one pattern")
    if size is not None and min(size) < FEWEST_CELLS:
        sentences.append(f"a map has {size[0]} x {size[1]} cells, too few to show structures")
    return sentences


def _randomisation(table: pd.DataFrame, key: str, seed: int) -> dict[str, Any]:
    network, method = split_key(key)
    rows = table[(table["network"] == network) & (table["method"] == method)].dropna()
    last = rows[rows["number"] == table.loc[table["network"] == network, "number"].max()]  # all weights are random
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

        - `deletion` and `insertion`: passes where the map beats both the random order and the centred blob, over the
          replacements that are a test; undecided, too, where none is.
        - `randomisation`: passes where less than `LOST` beyond chance is left with all weights randomised.
        - `stability`: passes where the correlation after a change is undone is more than `FOLLOWS` above chance.
        - `localisation`, on synthetic slides alone: passes where the map has more of its weight on the cause of tumor
          than both the maps of other tiles and itself turned and mirrored. These are what chance gives; the area is
          not.
    """
    decided: dict[str, dict[str, Verdict]] = {}
    for key, curves in summary["perturbation"].items():
        judged = summary["replacements"].get(split_key(key)[0], {})
        tested = any(entry["test"] for entry in judged.values())
        decided[key] = {
            kind: verdict(*(curves[kind][f"over_{order}"] for order in BASELINES)) if tested else "undecided"
            for kind in KINDS
        }
        excess = [None if end is None else -end for end in summary["randomisation"][key]["excess"]]
        decided[key]["randomisation"] = verdict(excess, limit=-LOST)
        decided[key]["stability"] = verdict(summary["stability"][key]["excess"], limit=FOLLOWS)
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


def no_tests(summary: Mapping[str, Any], key: str) -> list[str]:
    """Say which replacements are no test for the network of a kind of maps, and why; of older runs, whether blur is.

    Parameters
    ----------
    summary
        The content of `summary.json`.
    key
        The kind of maps.
    """
    network = split_key(key)[0]
    if "replacements" in summary:
        judged = summary["replacements"].get(network, {})
        sentences = [entry["sentence"] for entry in judged.values() if entry["sentence"]]
        none = ["so that its curves say nothing about maps"] if judged and len(sentences) == len(judged) else []
        return sentences + none
    ends = summary["ends"].get(network)
    if ends is None or ends["tile"] - ends["blurred"] >= LEAST_FALL:
        return []
    fall = f"from {ends['tile']:.2f} to only {ends['blurred']:.2f}"
    return [f"blurring whole tiles moves the network's mean score {fall}, so that its curves say nothing about maps"]
