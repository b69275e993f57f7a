"""How far a run is, who is at work in it, and what it takes of the disk; nothing is written, no slide is read."""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from vitrail.classes import NETWORKS
from vitrail.core.disk import folder_bytes, size_text
from vitrail.core.files import read_csv, read_json
from vitrail.core.holder import holder_of
from vitrail.distribute.presence import workers_in
from vitrail.errors import RunError, VitrailError
from vitrail.pipeline.outcome import Outcome
from vitrail.pipeline.plan import duration, stage_plan
from vitrail.pipeline.run import report_figures
from vitrail.pipeline.stages import stages_of
from vitrail.stage import open_run, steps

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vitrail.stage import Run, Stage, Step

_NOT_STAGES = ("search", "review", "annotations", ".partial")
"""Folders of a run that no stage owns."""


def run_status(folder: Path) -> Outcome:
    """Say how far a run is.

    Whether a slide, an outline or another large file has changed is not looked at: `vitrail run --dry-run` does that.

    Parameters
    ----------
    folder
        The run.

    Returns
    -------
    Outcome
        A line for each stage, who is at work, what was skipped, the networks' figures, and what the disk has left.

    Raises
    ------
    RunError
        The folder is no run.
    SettingsError
        Its `study.toml` is wrong.
    """
    run = open_run(folder)
    all_steps, problems = steps_so_far(run)
    stages = [_described(step, run) for step in all_steps]
    others = {name: size for name in _NOT_STAGES if (size := _size(folder / name))["bytes"]}
    at_work = [*([holder] if (holder := holder_of(folder)) else []), *map(str, workers_in(folder))]
    skipped, models, figures = _skipped(folder), _models(folder), _figures(folder)
    free = shutil.disk_usage(folder).free
    lines = [_line(stage) for stage in stages]
    lines += [f"{name:<12} {_shown_size(size)}" for name, size in others.items()]
    lines += [f"at work now: {', '.join(at_work) or 'nobody'}"]
    interrupted = [stage["name"] for stage in stages if stage["continues"]]
    if interrupted:
        lines.append(f"interrupted: {', '.join(interrupted)}; vitrail run {folder} goes on from there")
    lines += [f"{len(skipped)} slides skipped: see {folder / 'tiles' / 'slides.csv'}"] if skipped else []
    lines += [
        f"{name:<12} {', '.join(f'{key} {value}' for key, value in model.items())}" for name, model in models.items()
    ]
    lines += figures["lines"]
    lines += [f"disk: {size_text(free)} free", str(folder)]
    results = {
        "run": folder,
        "stages": stages,
        "other_folders": others,
        "at_work": at_work,
        "skipped": skipped,
        "models": models,
        "test": figures["test"],
        "free_bytes": free,
    }
    return Outcome(lines=lines, warnings=problems, results=results)


def steps_so_far(run: Run, *, quick: bool = True) -> tuple[list[Step], list[str]]:
    """Return how far each stage is.

    Parameters
    ----------
    run
        The run.
    quick
        Whether large files are not read, but taken to be what they were.

    Returns
    -------
    tuple[list[Step], list[str]]
        The stages; and why no more could be said, where that is so.
    """
    those: list[Step] = []
    try:
        stages = stages_of(run.settings)
        for step in steps(tuple(_quick(stage, run) for stage in stages) if quick else stages, run):
            those.append(step)  # noqa: PERF402 - those before an error count
    except (VitrailError, OSError) as error:  # such as a slides.csv that was broken since
        return those, [str(error)]
    return those, []


def _described(step: Step, run: Run) -> dict[str, Any]:
    """Say how far a stage is, when it was made, and what it takes of the disk."""
    when = None
    if step.record is not None:
        with suppress(OSError):  # it is just being made anew
            made = datetime.fromtimestamp((step.folder / "stage.json").stat().st_mtime, UTC)
            when = made.isoformat(timespec="seconds")
    return stage_plan(step, run) | {"made": when} | _size(step.folder)


def _quick(stage: Stage, run: Run) -> Stage:
    """Return a stage whose large inputs are taken to be what they were."""
    if not stage.reads_files:
        return stage
    try:
        former = read_json(run.folder / stage.folder / "stage.json").get("inputs")
    except RunError:
        former = None
    return replace(stage, inputs=lambda _: former)


def _size(folder: Path) -> dict[str, Any]:
    size, is_all = folder_bytes(folder)
    return {"bytes": size, "bytes_are_all": is_all}


def _line(stage: dict[str, Any]) -> str:
    words = [f"{stage['name']:<12} {'interrupted' if stage['continues'] else stage['state']:<11}"]
    if stage["made"]:
        words.append(f"{stage['made'][:16].replace('T', ' ')} UTC, {duration(stage['seconds'] or 0):>7}")
    if stage["bytes"]:
        words.append(_shown_size(stage))
    return "  ".join(words) + (f"  ({'; '.join(stage['reasons'])})" if stage["reasons"] else "")


def _shown_size(size: dict[str, Any]) -> str:
    return f"{'' if size['bytes_are_all'] else 'more than '}{size_text(size['bytes'])}"


def _skipped(folder: Path) -> dict[str, str]:
    """Return the slides that gave no tiles, each with its reason."""
    try:
        rows = read_csv(folder / "tiles" / "slides.csv", ("slide_id", "skipped"))
    except RunError:
        return {}
    return {str(name): str(reason) for name, reason in zip(rows["slide_id"], rows["skipped"], strict=True) if reason}


def _models(folder: Path) -> dict[str, dict[str, Any]]:
    """Return what the run's networks are."""
    return {name: values for name in NETWORKS if (values := dict(_model(folder / name / "model.json")))}


def _model(file: Path) -> Iterator[tuple[str, Any]]:
    try:
        spec = read_json(file)
    except RunError:
        return
    yield "encoder", spec.get("encoder")
    if isinstance(members := spec.get("members"), int) and members > 1:
        yield "members", members
    training = spec.get("training")
    for key, value in training.items() if isinstance(training, dict) else ():
        if key in {"epochs", "best_epoch", "validation_loss"}:
            yield key, float(f"{value:.4g}") if isinstance(value, float) else value


def _figures(folder: Path) -> dict[str, Any]:
    """Return the figures of the report's test tiles, and lines that say them."""
    try:
        test = report_figures(folder / "report")
    except RunError:
        return {"test": None, "lines": []}
    return {"test": test.values, "lines": test.lines}
