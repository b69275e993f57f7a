"""What `vitrail run` would do, and why: nothing is written, and nobody is waited for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vitrail.pipeline.outcome import Outcome
from vitrail.pipeline.stages import stages_of
from vitrail.settings.load import changed_settings, old_names
from vitrail.stage import chain, open_run, steps

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from vitrail.stage import Run, Step


def plan_run(folder: Path, until: str, changes: Sequence[str] = ()) -> Outcome:
    """Say what bringing a run up to date would make anew, and why.

    Parameters
    ----------
    folder
        The run.
    until
        The name of the last stage.
    changes
        `key=value`: as if they stood in `study.toml`, where they are not written.

    Returns
    -------
    Outcome
        A line for each stage, and how long those to make took last time.

    Raises
    ------
    VitrailError
        Something that the user can mend.
    """
    run = open_run(folder)
    warnings = old_names(folder / "study.toml", changes)
    if changes:
        run = replace(run, settings=changed_settings(folder / "study.toml", changes))
    plans = [stage_plan(step, run) for step in steps(chain(stages_of(run.settings), until), run)]
    todo = [plan for plan in plans if plan["state"] != "up to date"]
    times = [plan["seconds"] for plan in todo]
    total = sum(seconds for seconds in times if seconds is not None)
    unknown = [plan["name"] for plan in todo if plan["seconds"] is None]
    if not todo:
        last = "nothing to do"
    elif len(unknown) == len(todo):
        last = "how long it takes is not known: none of it was ever finished here"
    else:
        more = f", and {', '.join(unknown)}, which {'was' if len(unknown) == 1 else 'were'} never finished here"
        last = f"about {duration(total)}, if all takes as long as last time{more if unknown else ''}"
    results = {"run": folder, "until": until, "stages": plans, "seconds": None if unknown else total}
    return Outcome(lines=[*map(_line, plans), last, str(folder)], warnings=warnings, results=results)


def stage_plan(step: Step, run: Run) -> dict[str, Any]:
    """Say what is to be done for one stage.

    Parameters
    ----------
    step
        The stage, from `vitrail.stage.steps`.
    run
        The run.

    Returns
    -------
    dict[str, Any]
        `name`; `folder`; `state`: `up to date`, `missing` or `outdated`; `continues`: whether an interrupted attempt at
        exactly this is there; `reasons`, in words; `seconds` that it took last time, None where it was never finished.
    """
    state = "up to date" if step.is_finished else "missing" if step.record is None else "outdated"
    seconds = (step.record or {}).get("seconds")
    return {
        "name": step.stage.name,
        "folder": step.folder,
        "state": state,
        "continues": not step.is_finished and step.partial.is_dir(),
        "reasons": step.reasons(run),
        "seconds": seconds if isinstance(seconds, int | float) else None,
    }


def _line(plan: dict[str, Any]) -> str:
    """Say a plan in a line."""
    if plan["state"] == "up to date":
        return f"{plan['name']}: up to date"
    what = "an interrupted attempt would go on" if plan["continues"] else "would be made"
    why = "; ".join(plan["reasons"]) or "never finished"
    again = " anew" if plan["state"] == "outdated" and not plan["continues"] else ""
    took = "" if plan["seconds"] is None else f" (took {duration(plan['seconds'])})"
    return f"{plan['name']}: {what}{again}: {why}{took}"


def duration(seconds: float) -> str:
    """Return a time in words that are short: `40 s`, `12 min`, `3.5 h`, `2.1 days`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
