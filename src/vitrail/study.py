"""What the commands do: make a run, bring it up to date, say what came out."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pandas as pd

from vitrail.config import change_settings, preset, write_settings
from vitrail.errors import RunError
from vitrail.pipeline import STAGES
from vitrail.slides.cohort import copy_cohort
from vitrail.stage import bring_up_to_date, chain, open_run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from vitrail.config import Preset
    from vitrail.progress import Progress
    from vitrail.stage import Run

TITLE = """The settings of a Vitrail study, preset "{preset}".
Change a value and run `vitrail run` again: exactly the stages that depend on it are made anew.
Sentences after "Paper:" are of Dörrich et al. 2023, Diagn Pathol 18:121 (CC BY 4.0)."""


DEMO_PATIENTS, DEMO_SIDE_PX = 12, 4096
DEMO_SETTINGS = ("classifier.batch=32", "segmenter.batch=16")
"""The demo's cohort is small; smaller batches give its training enough steps."""


def new_run(folder: Path, slides: Path, name: Preset, changes: Sequence[str] = ()) -> None:
    """Make a run folder with `study.toml` and `slides.csv`.

    Raises
    ------
    CohortError
        The cohort is wrong; nothing is written.
    SettingsError
        A change is wrong.
    RunError
        The folder is a run already.
    """
    if (folder / "study.toml").exists():
        raise RunError(folder, "is a run already", f"Go on with: vitrail run {folder}, or name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    copy_cohort(slides, folder / "slides.csv")
    draft = folder / ".study.toml.tmp"
    write_settings(draft, preset(name), TITLE.format(preset=name))
    try:
        change_settings(draft, changes)
        draft.replace(folder / "study.toml")
    finally:
        draft.unlink(missing_ok=True)


def bring_run(folder: Path, until: str, changes: Sequence[str], progress: Progress) -> tuple[list[str], list[str]]:
    """Bring a run up to date as far as one stage.

    Returns
    -------
    Lines that say what came out, and a line for each slide that was skipped.

    Raises
    ------
    VitrailError
        Something that the user can mend.
    """
    run = open_run(folder)
    if changes:
        change_settings(folder / "study.toml", changes)
        run = open_run(folder)
    bring_up_to_date(chain(STAGES, until), run, progress)
    return _outcome(run, until), skipped(run)


def skipped(run: Run) -> list[str]:
    """Return a line for each slide that gave no tiles."""
    rows = pd.read_csv(run.folder / "tiles" / "slides.csv", dtype=str, keep_default_na=False)
    rows = rows[rows["skipped"] != ""]
    return [f"{name}: {reason}" for name, reason in rows[["slide_id", "skipped"]].itertuples(index=False)]


def _outcome(run: Run, until: str) -> list[str]:
    folder = run.folder / next(stage.folder for stage in STAGES if stage.name == until)
    if until != "report":
        return [f"{until}: {folder}"]
    test = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["test"]
    figures = [_figures(test, network) for network in ("classifier", "segmenter")]
    pixels = test["pixels"]
    jaccard = f"pixels       mean Jaccard {_show(pixels['mean_jaccard'])}, tumor {_show(pixels['jaccard']['tumor'])}"
    return [
        f"test: {test['tiles']} tiles of {test['patients']} patients",
        *figures,
        jaccard,
        str(folder / "index.html"),
    ]


def _figures(test: dict[str, dict[str, float | None]], network: str) -> str:
    return f"{network:<12} accuracy {_show(test[network]['accuracy'])}, AUC {_show(test[network]['auc'])}"


def _show(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def demo_run(folder: Path, progress: Progress) -> tuple[list[str], list[str]]:
    """Draw a synthetic cohort and study it from end to end.

    Raises
    ------
    VitrailError
        Something that the user can mend.
    """
    from vitrail.slides.phantom import PhantomCohort, write_cohort  # noqa: PLC0415 - only the demo draws

    cohort = PhantomCohort(patients=DEMO_PATIENTS, side_px=DEMO_SIDE_PX)
    with progress.task("slides", DEMO_PATIENTS) as step:
        slides = write_cohort(folder / "cohort", cohort, on_slide=lambda name: step(1, name))
    run = folder / "run"
    if not (run / "study.toml").exists():
        new_run(run, slides, "quick", DEMO_SETTINGS)
    return bring_run(run, "report", (), progress)
