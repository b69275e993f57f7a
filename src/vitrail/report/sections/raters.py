"""What the section "What the raters said" of the page holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vitrail.classes import NETWORKS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Triple = Sequence[float | None]

ANSWER_TITLES = {
    "tumor_cells": "on tumor cells",
    "stroma": "on stroma",
    "artefact": "on an artefact",
    "unsure": "cannot tell",
}

ORDER_TITLES = {
    "disagreement": "the networks disagree most",
    "uncertainty": "the networks are least sure",
    "errors": "the networks say what the outlines do not",
    "explanations": "the maps of both networks agree least",
    "labels": "both networks contradict the label",
    "random": "chance has drawn",
}


def raters_section(name: str, summary: Mapping[str, Any], methods: Mapping[str, str]) -> dict[str, Any]:
    """Return what the template needs of one queue.

    Parameters
    ----------
    name
        Of the queue.
    summary
        What `raters_summary` returns.
    methods
        The title of each method, by its name.

    Returns
    -------
    dict[str, Any]
        `name`, `about`, a sentence on what was asked; `rows` with `title`, `who`, `triple` (a value and its interval)
        and `cases`, one a line of the table; `sentences`, what the numbers carry.
    """
    judged = {rater: facts["judged"] for rater, facts in summary["raters"].items()}
    rows = [_row("Agreement with themselves (kappa)", who, triple) for who, triple in summary["own"].items()]
    rows += [_row("Agreement of two raters (Cohen's kappa)", who, triple) for who, triple in summary["pairs"].items()]
    if len(judged) > 1:
        rows.append(_row("Agreement of all raters (Fleiss' kappa)", "all", summary["fleiss"]))
    sentences = []
    if summary["question"] == "class":
        sources = {NETWORKS[task]: by for task, by in summary["networks"].items()} | {"Outlines": summary["labels"]}
        for title, by_rater in sources.items():
            for who, facts in by_rater.items():
                rows.append(_row(f"{title}: equal answers", who, facts["share"], facts["cases"]))
                rows.append(_row(f"{title}: equal answers among tiles drawn by chance", who, facts["random_share"]))
                rows.append(_row(f"{title}: kappa", who, facts["kappa"], facts["cases"]))
        rows.append(_row("Answers changed once the networks were seen", "all", summary["changed"]))
        asked = "what a tile shows"
    else:
        network, method = summary["map"]
        title = methods.get(method, method)
        asked = f"what the strongest places of {title} of the {NETWORKS.get(network, network).lower()} lie on"
        for answer, triple in summary["answers"].items():
            rows.append(_row(f"The map lies {ANSWER_TITLES[answer]}", "all", triple))
        value, low, high = summary["answers"]["tumor_cells"]
        if low is not None:
            spread = f"{value:.0%} of the answers (95 % interval over patients {low:.0%} to {high:.0%})"
            sentences.append(f"Raters saw the strongest places of the map on tumor cells in {spread}.")
    count = "1 rater" if len(judged) == 1 else f"{len(judged)} raters"
    order = ORDER_TITLES[summary["by"]]
    others = "no others" if summary["by"] == "labels" else "one in ten by chance"
    about = f"{count} said {asked}, of {summary['cases']} cases, those first of which {order}; {others}."
    return {"name": name, "about": about, "judged": judged, "rows": rows, "sentences": sentences}


def _row(title: str, who: str, triple: Triple, cases: int | None = None) -> dict[str, Any]:
    return {"title": title, "who": who, "triple": triple, "cases": cases}
