"""Whether the explanations are true, in tables and in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vitrail.explain.stored import KEYS

if TYPE_CHECKING:
    from vitrail.explain.checked import Checked

KINDS = {"deletion": "Deletion", "insertion": "Insertion"}
"""The two curves of a perturbation."""

REGIONS = {"atypical_nuclei": "Atypical nuclei", "nuclei": "All nuclei", "stroma": "Stroma"}
"""Where the cause of tumor is known on synthetic slides."""

_CHANCE = 1.0
_WORDS = {"passes": "passes", "fails": "fails", "undecided": "undecided on"}

LEAST_FALL = 0.1
"""Where blurring whole tiles lowers a network's mean score by less, its curves say nothing about maps."""

ALIKE = 0.6
"""Where maps of different tiles correlate by this much, they are mostly one pattern, and losing it proves little."""


def check_tables(checked: Checked) -> dict[str, pd.DataFrame]:
    """Return the tables about checks by the name of their file."""
    tables = {
        "checks": verdict_table(checked.summary),
        "checks_perturbation": perturbation_curves(checked.perturbation),
        "checks_randomisation": randomisation_curves(checked.randomisation),
    }
    return tables | ({"checks_truth": truth_table(checked.summary)} if checked.summary["truth"] else {})


def perturbation_curves(table: pd.DataFrame) -> pd.DataFrame:
    """Return the mean score over the tiles by `network`, `kind`, `order` and `fraction`."""
    return table.groupby(["network", "kind", "order", "fraction"], sort=True, as_index=False)[["score"]].mean()


def randomisation_curves(table: pd.DataFrame) -> pd.DataFrame:
    """Return the mean magnitude of the correlation by `network`, `method`, `number` and `step`, and that of chance.

    Tiles and draws count alike; those where a map is constant are left out.
    """
    sizes = table.assign(correlation=table["correlation"].abs(), chance=table["chance"].abs())
    by = ["network", "method", "number", "step"]
    return sizes.groupby(by, sort=True, as_index=False)[["correlation", "chance"]].mean()


def truth_table(summary: dict[str, Any]) -> pd.DataFrame:
    """Return by kind of map and region the share of weight over the share of area."""
    rows = [
        {"maps": key, "region": region, "ratio": found["ratio"], "low": found["interval"][0],
         "high": found["interval"][1], "tiles": found["tiles"]}
        for key, regions in (summary["truth"] or {}).items()
        for region, found in regions.items()
    ]  # fmt: skip
    columns = {"maps": str, "region": str, "ratio": float, "low": float, "high": float, "tiles": int}
    return pd.DataFrame(rows, columns=list(columns)).astype(columns)


def verdict_table(summary: dict[str, Any]) -> pd.DataFrame:
    """Return one row a kind of map and check: what was compared, by how much, and whether it passes."""
    rows = []
    for key in KEYS:
        said = outcomes(summary, key)
        for kind in KINDS:
            found = summary["perturbation"][key][kind]
            rows += [
                _verdict((key, kind, f"over {rival}"), found[f"over_{rival}"], said[kind])
                for rival in ("random", "blob")
            ]
        excess = summary["randomisation"][key]["excess"]
        rows.append(_verdict((key, "randomisation", "over chance"), excess, said["randomisation"]))
    columns = ["maps", "check", "compared", "difference", "low", "high", "outcome"]
    return pd.DataFrame(rows, columns=columns)


def _verdict(names: tuple[str, str, str], found: list[float | None], outcome: str) -> tuple[Any, ...]:
    return (*names, *(np.nan if value is None else float(value) for value in found), outcome)


def outcomes(summary: dict[str, Any], key: str) -> dict[str, str]:
    """Return by check whether a kind of map `passes` or `fails`.

    It is `undecided` for want of tiles or patients, and on curves of a network that blurring does not disturb.
    """
    curves = summary["perturbation"][key]
    intervals = {kind: [*curves[kind]["over_random"], *curves[kind]["over_blob"]] for kind in KINDS}
    intervals["randomisation"] = summary["randomisation"][key]["excess"]
    passes = {kind: curves[kind]["passes"] for kind in KINDS}
    passes["randomisation"] = summary["randomisation"][key]["passes"]
    deaf = _fall(summary, key) < LEAST_FALL
    unknown = {check for check, found in intervals.items() if None in found or (deaf and check in KINDS)}
    return {
        check: "undecided" if check in unknown else "passes" if passed else "fails" for check, passed in passes.items()
    }


def _fall(summary: dict[str, Any], key: str) -> float:
    """Return by how much blurring whole tiles lowers the mean score; infinite where that is not known."""
    ends = summary.get("ends", {}).get(key.partition("_")[0], {})
    tile, blurred = ends.get("tile"), ends.get("blurred")
    return float("inf") if tile is None or blurred is None else float(tile - blurred)


def sentences(summary: dict[str, Any], titles: dict[str, str]) -> list[str]:
    """Say for each kind of map which checks it passes and which it fails.

    Parameters
    ----------
    summary
        As in `Checked`.
    titles
        The name of each kind of map.
    """
    return [f"{titles[key]}: {_said(summary, key)}." for key in KEYS]


def _said(summary: dict[str, Any], key: str) -> str:
    said = outcomes(summary, key)
    named = {outcome: [check for check, found in said.items() if found == outcome] for outcome in _WORDS}
    parts = [f"{_WORDS[outcome]} {_listed(checks)}" for outcome, checks in named.items() if checks]
    truth = (summary["truth"] or {}).get(key, {}).get("atypical_nuclei")
    return "; ".join([*parts, *_doubts(summary, key), *([_about_truth(truth)] if truth else [])])


def _doubts(summary: dict[str, Any], key: str) -> list[str]:
    """Say what makes a check weak."""
    doubts, shared = [], summary["randomisation"][key].get("shared")
    if _fall(summary, key) < LEAST_FALL:
        ends = summary["ends"][key.partition("_")[0]]
        doubts.append(
            f"blurring whole tiles moves the network's mean score from {ends['tile']:.2f} to only "
            f"{ends['blurred']:.2f}, so that its curves say nothing about maps"
        )
    if shared is not None and shared > ALIKE:
        doubts.append(f"maps of different tiles correlate at {shared:.2f}, so that randomisation says little")
    return doubts


def _about_truth(found: dict[str, Any]) -> str:
    ratio, (low, high) = found["ratio"], found["interval"]
    if ratio is None or low is None or high is None:
        return "no weight on atypical nuclei could be measured"
    where = "more than" if low > _CHANCE else "less than" if high < _CHANCE else "no more than"
    return f"puts {ratio:.2f} times as much weight on atypical nuclei as their area would give, {where} chance"


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
