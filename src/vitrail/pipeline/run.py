"""What the commands do: make a run, bring it up to date, say what came out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vitrail import __version__
from vitrail.core.digest import file_digest, json_digest
from vitrail.core.files import damaged, read_csv, read_json, write_text
from vitrail.core.lock import locked
from vitrail.distribute.claims import Claims
from vitrail.distribute.presence import refuse_beside_others
from vitrail.errors import RunError, SettingsError
from vitrail.models.licences import foreseen_terms
from vitrail.pipeline.outcome import Outcome
from vitrail.pipeline.stages import STAGES, stages_of, with_weights_path
from vitrail.settings.load import (
    change_settings,
    changed_settings,
    changed_text,
    old_names,
    preset,
    read_settings,
    settings_text,
)
from vitrail.slides.cohort import copy_cohort, read_cohort, write_cohort
from vitrail.stage import bring_up_to_date, chain, open_run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from vitrail.core.progress import Progress
    from vitrail.distribute.jobs import Executor
    from vitrail.settings.load import Preset
    from vitrail.stage import Run

TITLE = """The settings of a Vitrail study, preset "{preset}".
Change a value and run `vitrail run` again: exactly the stages that depend on it are made anew.
Sentences after "Paper:" are of Dörrich et al. 2023, Diagn Pathol 18:121 (CC BY 4.0)."""


def new_run(folder: Path, slides: Path, name: Preset, changes: Sequence[str] = ()) -> Outcome:
    """Make a run folder with `study.toml` and `slides.csv`; nothing is written unless all is well.

    Parameters
    ----------
    folder
        Where; made where it is missing.
    slides
        The cohort's `slides.csv`.
    name
        The preset to start from.
    changes
        `key=value`, of its settings.

    Returns
    -------
    Outcome
        What to do next.

    Raises
    ------
    CohortError
        The cohort is wrong.
    SettingsError
        A change is wrong.
    RunError
        The folder is a run already.
    """
    text = changed_text(settings_text(preset(name), TITLE.format(preset=name)), changes)
    read_cohort(slides)
    study = folder / "study.toml"
    if study.exists():
        raise RunError(folder, "is a run already", f"Go on with: vitrail run {folder}, or name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    copy_cohort(slides, folder / "slides.csv")
    write_text(study, text)
    line = f"{study} holds the settings. Next: vitrail run {folder}"
    encoder = read_settings(study).encoder
    terms = foreseen_terms(encoder.name, encoder.weights, accepted=encoder.licence_accepted)
    return Outcome(lines=[line], warnings=[*old_names(None, changes), *terms], skipped=[])


def run_from(folder: Path, earlier: Path, changes: Sequence[str] = (), *, corrected: bool = False) -> Outcome:
    """Make a run folder with the settings, the cohort and the split of an earlier run; its tiles are used again.

    Parameters
    ----------
    folder
        Where; made where it is missing.
    earlier
        The run to go on from.
    changes
        `key=value`, of its settings.
    corrected
        Whether outlines are taken as they were corrected and judged in the earlier run; see
        `vitrail.review.corrections`. Only the tiles of slides that this touches are cut again.

    Returns
    -------
    Outcome
        What to do next, and how many slides were corrected.

    Raises
    ------
    RunError
        The folder is a run already, the earlier one is none, or nothing was corrected in it.
    VitrailError
        Its cohort, settings or outlines cannot be read.
    """
    import json
    import os
    import shutil

    from vitrail.review.corrections import corrected_outlines
    from vitrail.tiles.split import split_of

    old, study = open_run(earlier), folder / "study.toml"
    if study.exists():
        raise RunError(folder, "is a run already", f"Go on with: vitrail run {folder}, or name another folder")
    entries = read_cohort(old.cohort)
    encoder = with_weights_path(old).encoder
    moved = {"encoder.weights": encoder.weights}
    if encoder.name != old.settings.encoder.name:
        moved["encoder.name"] = encoder.name
    if (model := earlier.resolve() / old.settings.nuclei.model) != earlier.resolve() and model.exists():
        moved["nuclei.model"] = str(model)  # paths count from the run's folder, and this is another one
    kept = [f"{key}={json.dumps(value)}" for key, value in moved.items()]
    text = changed_text((earlier / "study.toml").read_text(encoding="utf-8"), [*kept, *changes])
    has_split = (earlier / "split" / "patients.csv").is_file()
    split = split_of(earlier / "split") if has_split else {}
    split = split if all(entry.patient_id in split for entry in entries) else {}
    slides, count = [], 0
    for entry in entries:
        file = corrected_outlines(earlier, entry, old.settings, folder / "annotations") if corrected else None
        count += file is not None
        own = split.get(entry.patient_id) or entry.split
        slides.append(replace(entry, split=own, annotations=entry.annotations if file is None else file.resolve()))
    if corrected and not count:
        cure = f"Correct outlines in: vitrail view {earlier}, or judge tiles in: vitrail review {earlier}"
        raise RunError(earlier, "has no corrections", cure)
    folder.mkdir(parents=True, exist_ok=True)
    write_cohort(folder / "slides.csv", slides)
    if (earlier / "tiles" / "stage.json").is_file():

        def link(source: str, target: str) -> None:
            try:
                os.link(source, target)
            except OSError:  # another disk, or one without links
                shutil.copy2(source, target)

        shutil.copytree(earlier / "tiles", folder / "tiles", copy_function=link)
    write_text(study, text)
    said = f"; {count} of {len(entries)} slides with corrections" if corrected else ""
    line = f"{study} holds the settings of {earlier}{said}. Next: vitrail run {folder}"
    return Outcome(lines=[line], warnings=old_names(None, changes), skipped=[])


def bring_run(
    folder: Path, until: str, changes: Sequence[str], progress: Progress, executor: Executor | None = None
) -> Outcome:
    """Change a run's settings, and bring it up to date as far as one stage.

    Parameters
    ----------
    folder
        The run.
    until
        The name of the stage.
    changes
        `key=value`, written into `study.toml` first.
    progress
        Told how far the work is.
    executor
        What does independent pieces of the work; None leaves it to each stage, on this machine.

    Returns
    -------
    Outcome
        What came out.

    Raises
    ------
    VitrailError
        Something that the user can mend.
    """
    open_run(folder)
    if isinstance(executor, Claims):
        with executor.alone(folder):
            warnings = old_names(folder / "study.toml", changes)
            run = _agreed(folder, changes, executor)
        warnings += _bring(run, until, progress, executor)
    else:
        with locked(folder):
            refuse_beside_others(folder)
            warnings = old_names(folder / "study.toml", changes)
            if changes:
                change_settings(folder / "study.toml", changes)
            warnings += _bring(open_run(folder), until, progress, executor)
    rows = read_csv(folder / "tiles" / "slides.csv", ("slide_id", "skipped", "warnings"))
    skipped = rows.loc[rows["skipped"] != "", ["slide_id", "skipped"]].itertuples(index=False)
    result = folder / next(stage.folder for stage in STAGES if stage.name == until)
    return Outcome(
        lines=_report_lines(result) if until == "report" else [f"{until}: {result}"],
        warnings=[*warnings, *(line for cell in rows["warnings"] if cell for line in cell.split(" | "))],
        skipped=[f"{name}: {reason}" for name, reason in skipped],
    )


def _agreed(folder: Path, changes: Sequence[str], claims: Claims) -> Run:
    """Change a run's settings unless others are at work with those that are there, and settle what is made."""
    path = folder / "study.toml"
    before = read_settings(path)
    after = changed_settings(path, changes)
    if after != before:
        if claims.has_company() and after.decisive_values() != before.decisive_values():
            problem = f"others are at work in {folder} with other values"
            raise SettingsError("--set", problem, "Wait for them, or leave it out")
        change_settings(path, changes)
    run = open_run(folder)
    claims.agree(json_digest([__version__, run.settings.decisive_values(), file_digest(run.cohort)]))
    return run


def _bring(run: Run, until: str, progress: Progress, executor: Executor | None) -> list[str]:
    """Bring a run up to date as far as one stage; return warnings."""
    stages, warnings = chain(stages_of(run.settings), until), list[str]()
    networks = [stage for stage in stages if stage.name in {"classifier", "segmenter"}]
    if any(not (run.folder / stage.folder / "stage.json").is_file() for stage in networks):
        from vitrail.training.preflight import check_start

        warnings = check_start(with_weights_path(run))  # before hours of cutting: can the networks be built at all?
    bring_up_to_date(stages, run, progress, executor)
    return warnings


def _report_lines(folder: Path) -> list[str]:
    """Return the main figures of a report, and the path of its page."""

    def shown(value: float | None) -> str:
        return "undefined" if value is None else f"{value:.3f}"

    try:
        test = read_json(folder / "metrics.json")["test"]
        pixels = test["pixels"]
        return [
            f"test: {test['tiles']} tiles of {test['patients']} patients",
            *(
                f"{network:<12} accuracy {shown(test[network]['accuracy'])}, AUC {shown(test[network]['auc'])}"
                for network in ("classifier", "segmenter")
            ),
            f"pixels       mean Jaccard {shown(pixels['mean_jaccard'])}, tumor {shown(pixels['jaccard']['tumor'])}",
            str(folder / "index.html"),
        ]
    except (LookupError, TypeError, ValueError):
        raise damaged(folder / "metrics.json", "without the figures of the test tiles") from None


def gather_qupath(folder: Path, out: Path) -> Path:
    """Gather the GeoJSON files of a run's report in a folder, with a script that imports them into QuPath.

    Parameters
    ----------
    folder
        The run.
    out
        Where to.

    Returns
    -------
    Path
        The script.

    Raises
    ------
    RunError
        The run has none yet.
    ExchangeError
        The folder cannot be written to.
    """
    from vitrail.interop.qupath_project import export_project

    entries = read_cohort(open_run(folder).cohort)
    files = {entry.slide.name: folder / "report" / "qupath" / f"{entry.slide_id}.geojson" for entry in entries}
    written = {name: path for name, path in files.items() if path.is_file()}
    if not written:
        raise RunError(folder, "its report has no GeoJSON yet", f"Make it with: vitrail run {folder}")
    return export_project(out, written)
