"""The section "Why" of the page: what its tables and sentences hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vitrail.classes import NETWORKS
from vitrail.evaluation.explanations import (
    COMPARISONS,
    accuracy_table,
    agreement_table,
    empty_table,
    layers_table,
    truth_table,
    verdict_table,
)
from vitrail.evaluation.groups import FEWEST_PATIENTS
from vitrail.explain.checks.localisation import CAUSE
from vitrail.explain.checks.ranking import LOST
from vitrail.explain.checks.results import no_tests
from vitrail.report.figures.agreement import pair_titles
from vitrail.report.figures.checks import REGIONS
from vitrail.report.figures.gallery import map_titles
from vitrail.report.select import listed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vitrail.report.data import Explained

ALIKE = 0.6
"""Where maps of different tiles correlate by this much, they are mostly one pattern, and losing it proves little."""

_WORDS = {"passes": "passes", "fails": "fails", "undecided": "undecided on"}


def section(explained: Explained) -> dict[str, Any]:
    """Return what the template of the section needs besides figures."""
    stored, checked = explained.stored, explained.checked
    summary, titles, layers = stored.summary, map_titles(stored), layers_table(stored.summary)
    result = {
        "tiles": summary["tiles"],
        "patients": summary["patients"],
        "fewest": FEWEST_PATIENTS,
        "min_share": summary["min_share"],
        "agreement": agreement_table(summary).to_dict("records"),
        "pairs": {pair: title for pair, (_, title) in pair_titles(stored).items()},
        "accuracy": accuracy_table(summary).to_dict("records"),
        "layers": {network: layers[layers["network"] == network].to_dict("records") for network in NETWORKS},
        "empty": empty_table(summary).to_dict("records"),
        "kinds": titles,
        "methods": stored.methods,
        "wrong": bool(explained.examples.wrong),
        "checks": None,
    }
    if checked is not None:
        # a row for each kind of map and check, with what decides side by side
        verdicts = [
            {"maps": maps, "check": check, "verdict": rows["verdict"].iloc[0], "against": rows.to_dict("records")}
            for (maps, check), rows in verdict_table(checked.summary).groupby(["maps", "check"], sort=False)
        ]
        result["checks"] = {
            "tiles": checked.perturbation["tile"].nunique(),
            "patients": checked.summary["patients"],
            "draws": max(measured["draws"] for measured in checked.summary["randomisation"].values()),
            "lost": LOST,
            "sentences": sentences(checked.summary, titles),
            "verdicts": verdicts,
            "names": {name: name.capitalize() for name in COMPARISONS},
            "truth": truth_table(checked.summary).to_dict("records"),
            "regions": REGIONS,
        }
    return result


def sentences(summary: dict[str, Any], titles: Mapping[str, str]) -> list[str]:
    """Say for each kind of map which checks it passes, which it fails, what is undecided, and what makes a check weak.

    Parameters
    ----------
    summary
        As in `Checked`.
    titles
        The name of each kind of map.
    """
    lines = []
    for key, verdicts in summary["verdicts"].items():
        parts = []
        for verdict, words in _WORDS.items():
            checks = [check for check, result in verdicts.items() if result == verdict]
            if checks:
                parts.append(f"{words} {listed(checks)}")
        parts += no_tests(summary, key)
        shared = summary["randomisation"][key]["shared"]
        if shared is not None and shared > ALIKE:
            parts.append(f"maps of different tiles correlate at {shared:.2f}, so that randomisation says little")
        truth = (summary["truth"] or {}).get(key, {}).get(CAUSE)
        if truth and truth["ratio"] is None:
            parts.append("no checked tile holds atypical nuclei")
        elif truth:
            parts.append(
                f"puts {truth['ratio']:.2f} times as much weight on atypical nuclei as their area would give, where "
                f"maps of other tiles put {truth['others']:.2f} and the map turned and mirrored {truth['turned']:.2f}"
            )
        lines.append(f"{titles[key]}: {'; '.join(parts)}.")
    return lines
