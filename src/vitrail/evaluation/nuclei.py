"""The nuclei that the networks look at in numbers: one table for each question."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from vitrail.explain.nuclei.results import NucleiStudy

_ESTIMATED = ("effect", "control", "beyond_control", "beyond_random")


def nuclei_tables(study: NucleiStudy) -> dict[str, pd.DataFrame]:
    """Return every table about nuclei, by the name of its file; none where no nucleus was looked at.

    Parameters
    ----------
    study
        What was measured.
    """
    if not study.summary["tiles"]:
        return {}
    return {
        "nuclei_removed": removed_table(study.summary),
        "nuclei_associations": study.associations,
        "nuclei_contrasts": study.contrasts,
        "nuclei_comparison": study.comparison,
        "nuclei_concepts": study.concepts,
    }


def removed_table(summary: dict[str, Any]) -> pd.DataFrame:
    """Return what the log odds of tumor lose without groups of nuclei, a row for each network and group.

    Parameters
    ----------
    summary
        Of the stage `nuclei`.

    Returns
    -------
    pd.DataFrame
        `network`, `group`, `nuclei` (a tile), `tiles`, `patients`; `effect`, `control`, `beyond_control` and
        `beyond_random`, each with `_low` and `_high`; and `verdict`.
    """
    rows = []
    for network, entries in summary["removed"].items():
        for entry in entries:
            row = {"network": network, **{name: entry[name] for name in ("group", "nuclei", "tiles", "patients")}}
            for name in _ESTIMATED:
                ends = [np.nan if number is None else number for number in entry[name]]
                row |= dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))
            rows.append(row | {"verdict": entry["verdict"]})
    return pd.DataFrame(rows)
