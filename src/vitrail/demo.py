"""Everything at once, with no data: a synthetic cohort studied, a slide nobody annotated mapped, models handed on."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

from vitrail.core.lock import locked
from vitrail.pipeline.export_qupath import export_qupath
from vitrail.pipeline.run import bring_run, new_run

if TYPE_CHECKING:
    from pathlib import Path

    from vitrail.core.progress import Progress
    from vitrail.pipeline.outcome import Outcome

PATIENTS, SIDE_PX = 12, 4096
SETTINGS = (
    *("classifier.epochs=4", "classifier.glass=0.05", "segmenter.epochs=4", "segmenter.batch=16"),
    *("ensemble.folds=2", "check.tiles=8", "check.draws=3", "check.steps=5"),
    *("nuclei.tiles=3", "nuclei.removals=64", "shift.tiles=64"),
)
"""The demo's cohort is small: two networks of each kind, few epochs, tiles, draws and steps show everything at work."""

NEW, NEW_PX, NEW_SEED = "NEW", 3072, 1000
"""Name, side and seed of the slide that nobody annotated; the cohort has none of this seed."""

ARTEFACTS = ("pen_green", "fold")
"""What spoils it."""


def demo_run(folder: Path, progress: Progress) -> Outcome:
    """Draw a synthetic cohort and study it from end to end; then map a new slide, and export models and maps.

    Parameters
    ----------
    folder
        Where all of it goes; what an earlier attempt left is taken up.
    progress
        Told how far the work is.

    Returns
    -------
    Outcome
        What came out. The last line is the report's path.

    Raises
    ------
    VitrailError
        Something that the user can mend.
    """
    from vitrail.interop.onnx import export_onnx
    from vitrail.interop.wsinfer import export_wsinfer
    from vitrail.pipeline.exports import export_geoparquet
    from vitrail.pipeline.outlines import export_outlines
    from vitrail.pipeline.predict_slides import Application, apply_models, settings_from
    from vitrail.slides.cohort import read_cohort
    from vitrail.synthetic import PhantomCohort, write_cohort, write_slide

    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder), progress.task("slides", PATIENTS) as step:
        cohort = PhantomCohort(patients=PATIENTS, side_px=SIDE_PX)
        slides = write_cohort(folder / "cohort", cohort, on_slide=lambda name: step(1, name))
    run, out, exports = folder / "study", folder / "new", folder / "exports"
    if not (run / "study.toml").exists():
        new_run(run, slides, "quick", SETTINGS)
    study = bring_run(run, "report", (), progress)

    # as vitrail predict SLIDE --classifier ... --segmenter ... --explain does
    progress.say("a new slide, which nobody annotated")
    slide = write_slide(folder / "unseen", NEW, side_px=NEW_PX, seed=NEW_SEED, artefacts=ARTEFACTS)
    settings = settings_from(["predict.explained=true", "predict.uncertainty=true"])
    job = Application(classifier=run / "classifier", segmenter=run / "segmenter", out=out, settings=settings)
    mapped = apply_models([slide], job, progress)
    lines = mapped.lines if mapped.skipped else [f"a new slide mapped: {out / NEW}.png"]

    # as vitrail export does
    progress.say("exports")
    qupath = export_qupath(run, exports / "qupath").results["project"]
    wsinfer = export_wsinfer(run / "classifier", exports / "wsinfer")
    networks = ("classifier", "segmenter") if find_spec("onnx") is not None else ()  # an extra
    onnx = [export_onnx(run / network, exports) for network in networks]
    tables = export_geoparquet(out, exports / "geoparquet")
    first = read_cohort(run / "slides.csv")[0]
    asap = export_outlines(first.annotations, exports / f"{first.slide_id}.xml", "asap", first.slide, None).lines[-1]
    lines += [f"for QuPath: {qupath}", f"for WSInfer: {wsinfer}", *(f"as ONNX: {path}" for path in onnx)]
    lines += [f"tiles and regions as GeoParquet: {tables.lines[-1]}", f"outlines for ASAP: {asap}"]
    exported = {"qupath": qupath, "wsinfer": wsinfer, "onnx": onnx, "geoparquet": tables.lines[-1], "asap": asap}
    return replace(
        study,
        lines=[*study.lines[:-1], *lines, study.lines[-1], f"to look at it: vitrail view {run}"],
        warnings=[*study.warnings, *mapped.warnings],
        skipped=[*study.skipped, *mapped.skipped],
        results=dict(study.results) | {"new_slide": dict(mapped.results), "exports": exported},
    )
