"""Everything at once, with no data: a synthetic cohort studied, a slide nobody annotated mapped, models handed on."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

from vitrail.core.lock import locked
from vitrail.pipeline.run import bring_run, gather_qupath, new_run

if TYPE_CHECKING:
    from pathlib import Path

    from vitrail.core.progress import Progress
    from vitrail.pipeline.run import Outcome

PATIENTS, SIDE_PX = 12, 4096
SETTINGS = ("classifier.batch=32", "segmenter.batch=16", "classifier.glass=0.05", "check.tiles=24", "check.draws=6")
"""The demo's cohort is small: smaller batches give its training enough steps, and fewer tiles are enough to check."""

NEW, NEW_PX, NEW_SEED = "NEW", 3072, 1000
"""Name, side and seed of the slide that nobody annotated; the cohort has none of this seed."""

ARTEFACTS = ("pen_green", "fold")
"""What spoils it."""


def demo_run(folder: Path, progress: Progress) -> Outcome:
    """Draw a synthetic cohort and study it from end to end; then map a new slide, and export models and maps.

    Returns
    -------
    What came out. The last line is the report's path.

    Raises
    ------
    VitrailError
        Something that the user can mend.
    """
    studied = _study(folder, progress)
    mapped = _map_new(folder, progress)
    *lines, report = studied.lines
    return replace(
        studied,
        lines=[*lines, *mapped.lines, *_export(folder, progress), report],
        warnings=[*studied.warnings, *mapped.warnings],
        skipped=[*studied.skipped, *mapped.skipped],
    )


def _study(folder: Path, progress: Progress) -> Outcome:
    from vitrail.synthetic import PhantomCohort, write_cohort

    cohort = PhantomCohort(patients=PATIENTS, side_px=SIDE_PX)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder), progress.task("slides", PATIENTS) as step:
        slides = write_cohort(folder / "cohort", cohort, on_slide=lambda name: step(1, name))
    run = folder / "study"
    if not (run / "study.toml").exists():
        new_run(run, slides, "quick", SETTINGS)
    return bring_run(run, "report", (), progress)


def _map_new(folder: Path, progress: Progress) -> Outcome:
    """Do what `vitrail predict SLIDE --classifier ... --segmenter ... --explain` does."""
    from vitrail.pipeline.predict_slides import Application, apply_models, settings_from
    from vitrail.synthetic import write_slide

    progress.say("a new slide, which nobody annotated")
    slide = write_slide(folder / "unseen", NEW, side_px=NEW_PX, seed=NEW_SEED, artefacts=ARTEFACTS)
    run, out = folder / "study", folder / "new"
    settings = settings_from(["predict.explained=true"])
    job = Application(classifier=run / "classifier", segmenter=run / "segmenter", out=out, settings=settings)
    outcome = apply_models([slide], job, progress)
    return outcome if outcome.skipped else replace(outcome, lines=[f"a new slide mapped: {out / NEW}.png"])


def _export(folder: Path, progress: Progress) -> list[str]:
    """Do what `vitrail export` does; returns a line for each kind."""
    from vitrail.interop.onnx import export_onnx
    from vitrail.interop.wsinfer import export_wsinfer

    progress.say("exports")
    run, out = folder / "study", folder / "exports"
    lines = [
        f"for QuPath: {gather_qupath(run, out / 'qupath')}",
        f"for WSInfer: {export_wsinfer(run / 'classifier', out / 'wsinfer')}",
    ]
    if find_spec("onnx") is None:  # an extra
        return lines
    return [*lines, *(f"as ONNX: {export_onnx(run / task, out)}" for task in ("classifier", "segmenter"))]
