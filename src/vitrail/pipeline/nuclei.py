"""Which nuclei the networks of a run look at: the run brought up to date as far as that, and what came out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vitrail.classes import NETWORKS
from vitrail.explain.nuclei.results import open_nuclei
from vitrail.pipeline.run import bring_run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from vitrail.core.progress import Progress
    from vitrail.pipeline.outcome import Outcome


def explain_nuclei_of_run(folder: Path, changes: Sequence[str], progress: Progress) -> Outcome:
    """Change a run's settings, bring it up to date as far as its nuclei, and say which ones matter.

    Parameters
    ----------
    folder
        The run.
    changes
        `key=value`, written into `study.toml` first.
    progress
        Told how far the work is.

    Returns
    -------
    Outcome
        The sentences of the stage's summary, or why there are none; the last line is its folder.

    Raises
    ------
    VitrailError
        Something that the user can mend.
    """
    outcome = bring_run(folder, "nuclei", changes, progress)
    summary = open_nuclei(folder / "nuclei").summary
    lines = [*summary["refused"]]
    if summary["tiles"]:
        counts = f"{summary['nuclei']:,} nuclei on {summary['tiles']} test tiles of {summary['patients']} patients"
        told = (line for network in NETWORKS for line in summary["sentences"].get(network, ()))
        lines += [counts, *told, *summary["shared_sentences"]]
    elif not lines:
        lines = ["no nuclei: nuclei.tiles is 0, or there is no test tile"]
    numbers = {name: summary[name] for name in ("nuclei", "tiles", "patients") if summary["tiles"]}
    results = dict(outcome.results) | {"refused": summary["refused"], **numbers}
    return replace(outcome, lines=[*lines, *outcome.lines], results=results)
