"""Whether the explanations are true, in tables and in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vitrail.explain.checks.results import CAUSE, LEAST_FALL, fall
from vitrail.explain.study.store import KEYS

if TYPE_CHECKING:
    from vitrail.explain.checks.results import Checked

KINDS = {"deletion": "Deletion", "insertion": "Insertion"}
"""The two curves of a perturbation."""

REGIONS = {"atypical_nuclei": "Atypical nuclei", "nuclei": "All nuclei", "stroma": "Stroma"}
"""Where the cause of tumor is known on synthetic slides."""

RIVALS = {
    "deletion": ("over_random", "over_blob"),
    "insertion": ("over_random", "over_blob"),
    "randomisation": ("excess",),
    "localisation": ("over_others", "over_turned"),
}
"""By check, what its verdict rests on: names of estimates in the summary."""

_WORDS = {"passes": "passes", "fails": "fails", "undecided": "undecided on"}

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
    """Return by kind of map and region the weight over the area, what chance gives, and the differences."""
    rows = [
        {"maps": key, "region": region, "ratio": found["ratio"]} | _ends("", found["interval"])
        | {"others": found["others"], "turned": found["turned"]}
        | {"over_others": found["over_others"][0]} | _ends("over_others_", found["over_others"][1:])
        | {"over_turned": found["over_turned"][0]} | _ends("over_turned_", found["over_turned"][1:])
        | {"tiles": found["tiles"]}
        for key, regions in (summary["truth"] or {}).items()
        for region, found in regions.items()
    ]  # fmt: skip
    nulls = [f"{name}{end}" for name in ("over_others", "over_turned") for end in ("", "_low", "_high")]
    names = ["maps", "region", "ratio", "low", "high", "others", "turned", *nulls, "tiles"]
    types = dict.fromkeys(names, float) | {"maps": str, "region": str, "tiles": int}
    return pd.DataFrame(rows, columns=names).astype(types)


def _ends(name: str, interval: list[float | None]) -> dict[str, float | None]:
    return {f"{name}low": interval[0], f"{name}high": interval[1]}


def verdict_table(summary: dict[str, Any]) -> pd.DataFrame:
    """Return one row a kind of map, check and comparison: by how much, and the check's verdict."""
    rows = [
        (key, check, name, *(np.nan if value is None else float(value) for value in numbers), verdict)
        for key in KEYS
        for check, verdict in summary["verdicts"][key].items()
        for name, numbers in _compared(summary, key, check)
    ]
    return pd.DataFrame(rows, columns=["maps", "check", "compared", "difference", "low", "high", "verdict"])


def _compared(summary: dict[str, Any], key: str, check: str) -> list[tuple[str, list[float | None]]]:
    """Return what a check's verdict rests on."""
    if check == "localisation":
        found = summary["truth"][key].get(CAUSE, {})
    else:
        found = summary["perturbation"][key][check] if check in KINDS else summary["randomisation"][key]
    return [(name, found.get(name, [None] * 3)) for name in RIVALS[check]]


def sentences(summary: dict[str, Any], titles: dict[str, str]) -> list[str]:
    """Say for each kind of map which checks it passes, which it fails, and what is undecided.

    Parameters
    ----------
    summary
        As in `Checked`.
    titles
        The name of each kind of map.
    """
    return [f"{titles[key]}: {_said(summary, key)}." for key in KEYS]


def _said(summary: dict[str, Any], key: str) -> str:
    said = summary["verdicts"][key]
    named = {verdict: [check for check, found in said.items() if found == verdict] for verdict in _WORDS}
    parts = [f"{_WORDS[verdict]} {_listed(checks)}" for verdict, checks in named.items() if checks]
    truth = (summary["truth"] or {}).get(key, {}).get(CAUSE)
    return "; ".join([*parts, *_doubts(summary, key), *([_about_truth(truth)] if truth else [])])


def _doubts(summary: dict[str, Any], key: str) -> list[str]:
    """Say what makes a check weak."""
    doubts, shared = [], summary["randomisation"][key]["shared"]
    if fall(summary, key) < LEAST_FALL:
        ends = summary["ends"][key.partition("_")[0]]
        doubts.append(
            f"blurring whole tiles moves the network's mean score from {ends['tile']:.2f} to only "
            f"{ends['blurred']:.2f}, so that its curves say nothing about maps"
        )
    if shared is not None and shared > ALIKE:
        doubts.append(f"maps of different tiles correlate at {shared:.2f}, so that randomisation says little")
    return doubts


def _about_truth(found: dict[str, Any]) -> str:
    if found["ratio"] is None:
        return "no checked tile holds atypical nuclei"
    return (
        f"puts {found['ratio']:.2f} times as much weight on atypical nuclei as their area would give, where maps of "
        f"other tiles put {found['others']:.2f} and the map turned and mirrored {found['turned']:.2f}"
    )


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
