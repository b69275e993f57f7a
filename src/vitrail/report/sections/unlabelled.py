"""What the section "Tissue outside the outlines" of the page holds but for figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from vitrail.report.data import ReportData

MOST_ROWS = 10
"""Slides in the table of the page."""


def unlabelled_section(data: ReportData) -> dict[str, Any]:
    """Return what the template says of tissue outside the outlines.

    Parameters
    ----------
    data
        Of a run whose tissue outside the outlines counted as non-tumor.

    Returns
    -------
    dict[str, Any]
        `sentences`, and the `rows` of the table: the slides of which networks call most tumor.
    """
    own, table = data.evaluation.metrics["unlabelled"], data.evaluation.tables["unlabelled_tissue"]
    asked = table[table["asked"] > 0]
    if not own["asked"]:
        return {"sentences": ["No network was asked about a tile that it had not learned from."], "rows": []}
    low, high = own["interval"]["share"]
    ends = f"; 95 % interval over patients {low:.1%} to {high:.1%}" if np.isfinite(low) else ""
    sentences = [
        (
            f"Both networks call {own['called']:,} of {own['asked']:,} such tiles tumor ({own['share']:.1%}{ends}), in "
            f"{own['slides_called']:,} of {own['slides']:,} slides, of {own['patients']:,} patients that they had not "
            "seen."
        )
    ]
    if own["called"]:
        first = asked.iloc[0]
        sentences.append(
            f"{first['called'] / own['called']:.0%} of them lie in one slide, {first['slide_id']}. Numbers cannot tell "
            "errors of the networks from carcinoma that nobody outlined: look where many lie together first."
        )
    rest = len(table) - len(asked)
    if rest:
        sentences.append(
            f"Of {rest:,} {'slide' if rest == 1 else 'slides'} nothing is said: both networks, or one, learned from "
            "them. With ensemble.folds every slide is asked about."
        )
    return {"sentences": sentences, "rows": asked.head(MOST_ROWS).to_dict("records")}
