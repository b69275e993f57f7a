"""The section "Why" of the page: what its tables and sentences hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from vitrail.classes import NETWORKS
from vitrail.evaluation.explanations import (
    COMPARISONS,
    PAPER_MODES,
    accuracy_table,
    agreement_table,
    empty_table,
    layers_table,
    metric_ranks,
    shared_by_kind,
    truth_table,
    verdict_table,
)
from vitrail.evaluation.groups import FEWEST_PATIENTS
from vitrail.explain.checks.localisation import CAUSE
from vitrail.explain.checks.ranking import LOST
from vitrail.explain.checks.results import no_tests
from vitrail.report.figures.agreement import pair_titles
from vitrail.report.figures.checks import FLOORS, REGIONS
from vitrail.report.figures.gallery import map_titles
from vitrail.report.sections.reliance import reliance_section
from vitrail.report.select import listed

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

    from vitrail.report.data import Explained

ALIKE = 0.2
"""Where maps of different tiles correlate by more, they are partly one pattern, and losing it proves little."""

FINE = 7
"""Cells along a side, as the paper's own maps have: maps with fewer show hardly more than where on a tile they lie."""

LONG = 8
"""Rows of the table of agreement that stand open; further ones are folded."""

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
        "agreement": papers_first(agreement_table(summary)),
        "beyond": papers_first(agreement_table(summary).dropna(subset=["spearman"])),
        "long": LONG,
        "described": described(summary),
        "represented": represented(summary),
        "coarse": coarse(explained),
        "shared": [],
        "alike": ALIKE,
        "pairs": {pair: title for pair, (_, title) in pair_titles(stored).items()},
        "accuracy": accuracy_table(summary).to_dict("records"),
        "layers": {network: layers[layers["network"] == network].to_dict("records") for network in NETWORKS},
        "empty": empty_table(summary).to_dict("records"),
        "kinds": titles,
        "methods": stored.methods,
        "wrong": bool(explained.examples.wrong),
        "checks": None,
        "reliance": None,
    }
    if checked is not None:
        result["reliance"] = reliance_section(checked.summary)
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
            "rankings": rankings(checked.summary, stored.methods),
            "no_tests": no_test_sentences(checked.summary),
        }
        shared = shared_by_kind(checked.summary)
        result["shared"] = [{"maps": key, "shared": value} for key, value in shared.items() if value is not None]
    return result


def papers_first(agreement: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of the table of agreement, those of the paper's pairs first."""
    order = np.argsort([pair not in PAPER_MODES for pair in agreement["pair"]], kind="stable")
    return [dict(zip(agreement.columns, agreement.iloc[row], strict=True)) for row in order]


def described(summary: dict[str, Any]) -> list[dict[str, str]]:
    """Say of each method what it asks and what it costs; runs of before do not know.

    Parameters
    ----------
    summary
        That of the explanations.

    Returns
    -------
    list[dict[str, str]]
        `title`, `asks` and `costs`, the rest of a sentence each.
    """
    lines = []
    for name, own in summary.get("described", {}).items():
        counts = {"forward": own["passes"], "backward": own["gradients"]}
        costs = [f"{n} {way} {'pass' if n == 1 else 'passes'}" for way, n in counts.items() if n]
        title = summary.get("methods", {}).get(name, name)
        lines.append({"title": title, "asks": own["describes"], "costs": listed(costs) or "no pass of its own"})
    return lines


def represented(summary: dict[str, Any]) -> list[str]:
    """Say of each ensemble which of its networks is explained in its place, and how like the ensemble that one is.

    Parameters
    ----------
    summary
        That of the explanations.

    Returns
    -------
    list[str]
        A sentence for each ensemble.
    """
    sentences = []
    for task, own in summary.get("represented", {}).items():
        r = own["correlation"]
        alike = "" if r is None else f": its logits for the validation tiles correlate with the ensemble's by {r:.3f}"
        title = NETWORKS[task].lower()
        which = f"all explanations are those of one, network {own['member']}"
        sentences.append(f"The {title} is an ensemble of {own['members']} networks; {which}{alike}.")
    return sentences


def coarse(explained: Explained) -> list[str]:
    """Return the kinds of maps that have fewer than `FINE` cells along a side, with how many they have."""
    stored, titles = explained.stored, map_titles(explained.stored)
    sizes = {key: kind.size for key, kind in stored.file.kinds.items()}
    return [f"{titles[key]} ({size[0]} x {size[1]} cells)" for key, size in sizes.items() if min(size) < FINE]


def rankings(summary: dict[str, Any], titles: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return how the metrics rank the methods of each network, for a table each; none in checks of before.

    Parameters
    ----------
    summary
        As in `Checked`.
    titles
        The title of each method, by its name.

    Returns
    -------
    list[dict[str, Any]]
        By network its `title`, `sentence`, `metrics`, Kendall's W as `concordance`, and `rows`, best first: `title`,
        `cells` (value and rank by metric), `mean_rank`, `floor` and `recommended`.
    """
    table, result = metric_ranks(summary), []
    for network, ranked in summary.get("ranking", {}).items():
        own = table[table["network"] == network]
        rows = [
            {
                "title": titles.get(str(method), FLOORS.get(str(method), str(method))),
                "cells": list(zip(cells["value"], cells["rank"], strict=True)),
                **cells[["mean_rank", "floor", "recommended"]].iloc[0],
            }
            for method, cells in own.groupby("method", sort=False)
        ]
        metrics = [metric.replace("_", ", ").capitalize() for metric in ranked["metrics"]]
        result.append(
            {
                "title": NETWORKS[network],
                "sentence": ranked["sentence"],
                "metrics": metrics,
                "rows": rows,
                "concordance": float("nan") if ranked["concordance"] is None else ranked["concordance"],
            }
        )
    return result


def no_test_sentences(summary: dict[str, Any]) -> list[str]:
    """Return why replacements of deleted blocks are no test, a sentence for each network and replacement."""
    return [
        f"{NETWORKS[network]}: {entry['sentence']}."
        for network, entries in summary.get("replacements", {}).items()
        for entry in entries.values()
        if not entry.get("test", True) and entry.get("sentence")
    ]


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
        shared = shared_by_kind(summary)[key]
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
