"""What the commands do: make a run, bring it up to date, say what came out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vitrail.core.files import damaged, read_csv, read_json, write_text
from vitrail.errors import RunError
from vitrail.pipeline.stages import STAGES, stages_of, started
from vitrail.settings.load import change_settings, changed_text, preset, settings_text
from vitrail.slides.cohort import copy_cohort, read_cohort
from vitrail.stage import alone, bring_up_to_date, chain, open_run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from vitrail.core.progress import Progress
    from vitrail.settings.load import Preset
    from vitrail.stage import Run, Stage

TITLE = """The settings of a Vitrail study, preset "{preset}".
Change a value and run `vitrail run` again: exactly the stages that depend on it are made anew.
Sentences after "Paper:" are of Dörrich et al. 2023, Diagn Pathol 18:121 (CC BY 4.0)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a command has to say at its end.

    Attributes
    ----------
    lines
        What came out; the last is a path.
    warnings
        What was mended on the way.
    skipped
        Slides that gave no tiles, each with its reason.
    """

    lines: list[str]
    warnings: list[str]
    skipped: list[str]


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

    Nothing is written unless all is well.
    """
    text = changed_text(settings_text(preset(name), TITLE.format(preset=name)), changes)
    read_cohort(slides)
    if (folder / "study.toml").exists():
        raise RunError(folder, "is a run already", f"Go on with: vitrail run {folder}, or name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    copy_cohort(slides, folder / "slides.csv")
    write_text(folder / "study.toml", text)


def bring_run(folder: Path, until: str, changes: Sequence[str], progress: Progress) -> Outcome:
    """Change a run's settings, and bring it up to date as far as one stage.

    Raises
    ------
    VitrailError
        Something that the user can mend.
    """
    open_run(folder)
    with alone(folder):
        if changes:
            change_settings(folder / "study.toml", changes)
        run = open_run(folder)
        stages = chain(stages_of(run.settings), until)
        _check_start(run, stages)
        bring_up_to_date(stages, run, progress)
    return _outcome(run, until)


def _check_start(run: Run, stages: tuple[Stage, ...]) -> None:
    """Find out before hours of cutting whether the networks can be built at all."""
    networks = [stage for stage in stages if stage.name in {"classifier", "segmenter"}]
    if any(not (run.folder / stage.folder / "stage.json").is_file() for stage in networks):
        from vitrail.training.preflight import check_start

        check_start(started(run))


def _outcome(run: Run, until: str) -> Outcome:
    rows = read_csv(run.folder / "tiles" / "slides.csv", ("slide_id", "skipped", "warnings"))
    bad = rows.loc[rows["skipped"] != "", ["slide_id", "skipped"]].itertuples(index=False)
    return Outcome(
        lines=_lines(run, until),
        warnings=[line for cell in rows["warnings"] if cell for line in cell.split(" | ")],
        skipped=[f"{name}: {reason}" for name, reason in bad],
    )


def _lines(run: Run, until: str) -> list[str]:
    folder = run.folder / next(stage.folder for stage in STAGES if stage.name == until)
    if until != "report":
        return [f"{until}: {folder}"]
    try:
        figures = _test_lines(read_json(folder / "metrics.json")["test"])
    except (LookupError, TypeError, ValueError):
        raise damaged(folder / "metrics.json", "without the figures of the test tiles") from None
    return [*figures, str(folder / "index.html")]


def _test_lines(test: dict[str, Any]) -> list[str]:
    pixels = test["pixels"]
    return [
        f"test: {test['tiles']} tiles of {test['patients']} patients",
        *(_figures(test, network) for network in ("classifier", "segmenter")),
        f"pixels       mean Jaccard {_show(pixels['mean_jaccard'])}, tumor {_show(pixels['jaccard']['tumor'])}",
    ]


def _figures(test: dict[str, dict[str, float | None]], network: str) -> str:
    return f"{network:<12} accuracy {_show(test[network]['accuracy'])}, AUC {_show(test[network]['auc'])}"


def _show(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def gather_qupath(folder: Path, out: Path) -> Path:
    """Gather the GeoJSON files of a run's report in a folder, with a script that imports them into QuPath.

    Returns
    -------
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
    found = {name: path for name, path in files.items() if path.is_file()}
    if not found:
        raise RunError(folder, "its report has no GeoJSON yet", f"Make it with: vitrail run {folder}")
    return export_project(out, found)
