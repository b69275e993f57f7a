"""The whole data flow on one page: what each stage reads, and what makes it.

slides.csv ─ tiles ─┬─ split ─┬─ classifier ─┬─ predict ─── shift ──┬─ report
                    │         └─ segmenter ──┼─ explain ─┬──────────┤
                    │                        │           ├─ check ──┤
                    └────────────────────────┴───────────┴─ nuclei ─┘
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitrail.core.files import read_csv
from vitrail.errors import RunError, SettingsError
from vitrail.review.judgements import FILE, judged_queues
from vitrail.search.results import is_searched
from vitrail.settings.load import FOLDER, KEYWORDS
from vitrail.settings.schema import ExplainSettings
from vitrail.slides.cohort import content_digest, read_cohort
from vitrail.stage import Run, Stage, Work
from vitrail.tiles.cohort import VERSION, Folders, cut_cohort, cut_parts, slide_digest
from vitrail.tiles.split import read_split, split_patients, write_split
from vitrail.tiles.store import read_tiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Generator, Tensor

    from vitrail.classes import Task
    from vitrail.settings.load import Settings


def cut_tiles(work: Work) -> None:
    """Cut every slide into tiles, masks and labels."""
    cut_cohort(read_cohort(work.run.cohort), work.run.settings, _tile_folders(work), work.progress, work.executor)


def share_tiles(work: Work) -> None:
    """Cut slides together with other commands, each into its part; a lone command does so when it makes the stage."""
    if work.executor and work.executor.is_shared:
        cut_parts(read_cohort(work.run.cohort), work.run.settings, _tile_folders(work), work.progress, work.executor)


def _tile_folders(work: Work) -> Folders:
    return Folders(result=work.folder, parts=work.scratch, earlier=work.run.folder / "tiles")


def draw_split(work: Work) -> None:
    """Divide the patients into training, validation and test."""
    run, sizes = work.run, work.run.settings.split
    rows = read_tiles(run.folder / "tiles").rows
    drawn = split_patients(
        rows, read_cohort(run.cohort), (sizes.train, sizes.validation, sizes.test), run.settings.seed
    )
    write_split(work.folder, drawn)


def train_classifier(work: Work) -> None:
    """Train the classification network."""
    _train(work, "classifier")


def train_segmenter(work: Work) -> None:
    """Train the segmentation network."""
    _train(work, "segmenter")


def predict(work: Work) -> None:
    """Apply both networks to all tiles, and to some test slides as a whole; explain these where it is asked for."""
    from vitrail.inference.stage import predict_study

    run, entries = work.run, read_cohort(work.run.cohort)
    if not run.settings.predict.explained:
        predict_study(work, entries)
        return
    from vitrail.explain.methods.base import explaining_classifier, fitted_heads, methods_named
    from vitrail.inference.outputs import MAP_PX

    own = run.settings.explain
    methods = methods_named(own.methods)
    heads = fitted_heads(run.folder / "classifier", methods)

    explaining = partial(
        explaining_classifier,
        pixels=MAP_PX,
        methods=methods,
        heads=heads,
        stride=own.stride,
        margin_px=own.margin_px,
    )
    predict_study(work, entries, explaining)


def explain(work: Work) -> None:
    """Explain every test tile with both networks."""
    from vitrail.explain.study.stage import explain_study

    explain_study(work, partial(_augmentation, work.run.settings))


def share_explanations(work: Work) -> None:
    """Explain blocks of tiles together with other commands; a lone command does so when it makes the stage."""
    from vitrail.explain.study.stage import explain_parts

    if work.executor and work.executor.is_shared:
        explain_parts(work, partial(_augmentation, work.run.settings))


def _augmentation(settings: Settings, task: Task, generator: Generator) -> Callable[[Tensor], Tensor]:
    """Make what changes training tiles of a task."""
    from vitrail.training.tasks import TRAINING_TASKS

    augmenter = TRAINING_TASKS[task].augmenter(settings, generator)
    return lambda images: augmenter(images)[0]


def check(work: Work) -> None:
    """Check whether the explanations are true."""
    from vitrail.explain.checks.stage import check_study

    check_study(work, read_cohort(work.run.cohort))


def nuclei(work: Work) -> None:
    """Say which nuclei both networks look at."""
    from vitrail.explain.nuclei.stage import explain_nuclei

    explain_nuclei(work, read_cohort(work.run.cohort))


def shift(work: Work) -> None:
    """Say how far slides lie from those of the training, and what other stain, focus and compression do."""
    from vitrail.shift.stage import study_shift

    study_shift(work, read_cohort(work.run.cohort))


def report(work: Work) -> None:
    """Write figures, tables and the page."""
    from vitrail.report.collect import collect
    from vitrail.report.page import write_report

    write_report(collect(work.run), work.folder, work.run.settings.compute.workers)


def _train(work: Work, task: Task) -> None:
    from vitrail.training.loader import training_tiles
    from vitrail.training.torchrun import helpers
    from vitrail.training.trainer import train

    run = work.run
    tiles = read_tiles(run.folder / "tiles")
    split = read_split(run.folder / "split", tiles.rows)
    settings = with_weights_path(run)
    if settings.ensemble.folds > 1:
        from vitrail.training.ensemble import train_ensemble

        train_ensemble(task, run.folder / "tiles", split, settings, folder=work.folder, progress=work.progress)
        return
    gather = helpers(run.folder / "tiles")
    train(task, training_tiles(tiles, split), settings, folder=work.folder, progress=work.progress, gather=gather)


def with_weights_path(run: Run) -> Settings:
    """Return a run's settings with the paths of the encoder and of its weights made absolute, from the run folder.

    Parameters
    ----------
    run
        The run.

    Returns
    -------
    Settings
        Those of the run, but for that path.

    Raises
    ------
    SettingsError
        The path begins with the home folder of a user who is not known here.
    """
    encoder, paths = run.settings.encoder, {}
    if encoder.weights not in KEYWORDS:
        paths["weights"] = str(_absolute(run, "encoder.weights", encoder.weights))
    if encoder.name.startswith(FOLDER):
        paths["name"] = f"{FOLDER}{_absolute(run, 'encoder.name', encoder.name.removeprefix(FOLDER))}"
    return run.settings.model_copy(update={"encoder": encoder.model_copy(update=paths)}) if paths else run.settings


def _absolute(run: Run, setting: str, path: str) -> Path:
    try:
        return run.folder.resolve() / Path(path).expanduser()
    except RuntimeError:
        problem = f"{path!r} begins with a home folder that is not known"
        raise SettingsError(setting, problem, "Write the whole path") from None


def _encoder_weights(run: Run) -> Any:
    """Digest the files that the encoder starts from, where it is some; and name the precision, where settings do."""
    encoder, precision = with_weights_path(run).encoder, run.settings.compute.named_precision
    digest: Any = None if encoder.weights in KEYWORDS else content_digest(Path(encoder.weights))
    if encoder.name.startswith(FOLDER):
        folder = Path(encoder.name.removeprefix(FOLDER))
        digest = [digest, *(content_digest(each) for each in sorted(folder.iterdir()) if each.is_file())]
    return [digest, precision] if precision else digest


def _truths(run: Run) -> list[bool]:
    """Tell beside which slides a truth lies, as beside synthetic ones; what it is follows from the slide."""
    slides = [entry.slide.resolve() for entry in read_cohort(run.cohort)]
    return [(slide.parent.parent / "truth" / f"{slide.stem}.npz").is_file() for slide in slides]


def _judgements(run: Run) -> dict[str, Any]:
    """Digest what raters have said; a run that nobody has judged is as it was before there were raters."""
    files = [folder / FILE for folder in judged_queues(run.folder)]
    return {"raters": [[file.parent.name, content_digest(file)] for file in files]} if files else {}


def _detections(run: Run) -> Any:
    """Digest what an engine reads beside the slides: its model, or every file of its folder."""
    path = run.folder / run.settings.nuclei.model
    if not run.settings.nuclei.model or not path.exists():
        return None
    return [[each.name, content_digest(each)] for each in ([path] if path.is_file() else sorted(path.iterdir()))]


def _changed_slides(run: Run, _old: Any, _new: Any) -> str:
    """Say which slides are others than those that were cut; their settings are the same."""
    try:
        rows = read_csv(run.folder / "tiles" / "slides.csv", ("slide_id", "digest"))
    except RunError:
        return ""
    former = dict(zip(rows["slide_id"], rows["digest"], strict=True))
    present = {entry.slide_id: slide_digest(entry, run.settings) for entry in read_cohort(run.cohort)}
    changed = [name for name in present.keys() & former.keys() if present[name] != former[name]]
    words = [
        _named("slide or outlines changed", changed),
        _named("new slides", present.keys() - former.keys()),
        _named("slides no longer there", former.keys() - present.keys()),
    ]
    return ", ".join(filter(None, words)) or "the order of slides.csv"


def _named(title: str, names: Iterable[str]) -> str:
    names = sorted(names)
    more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    return f"{title}: {', '.join(names[:_NAMES])}{more}" if names else ""


_NAMES = 5
"""Of slides, as many are named."""


def _changed_rows(title: str, old: Any, new: Any) -> str:
    """Say which names of `[name, value]` pairs have another value than they had."""
    try:
        former, present = ({str(name): value for name, value in rows} for rows in (old, new))
    except (TypeError, ValueError):  # of another version
        return ""
    both = former.keys() & present.keys()
    return _named(title, (former.keys() ^ present.keys()) | {name for name in both if former[name] != present[name]})


def _changed_report(old: Any, new: Any) -> str:
    """Say which of the report's inputs are others."""
    if not isinstance(old, dict):
        return ""
    words = [
        _changed_rows("columns of slides.csv of", old.get("attributes"), new["attributes"]),
        "the search" if old.get("search") != new["search"] else "",
        "what raters said" if old.get("raters") != new.get("raters") else "",
    ]
    return ", ".join(filter(None, words))


STAGES = (
    Stage(
        name="tiles",
        folder="tiles",
        version=VERSION,
        settings=("slides", "annotations", "tiles"),
        needs=(),
        inputs=lambda run: [slide_digest(entry, run.settings) for entry in read_cohort(run.cohort)],
        make=cut_tiles,
        share=share_tiles,
        changed=_changed_slides,
        reads_files=True,
    ),
    Stage(
        name="split",
        folder="split",
        version=1,
        settings=("split",),
        needs=("tiles",),
        inputs=lambda run: sorted({(entry.patient_id, entry.split) for entry in read_cohort(run.cohort)}, key=str),
        make=draw_split,
        changed=lambda _, old, new: _changed_rows("patients, or their split in slides.csv", old, new),
    ),
    Stage(
        name="classifier",
        folder="classifier",
        version=2,
        settings=("encoder", "augment", "classifier", "ensemble"),
        needs=("tiles", "split"),
        inputs=_encoder_weights,
        make=train_classifier,
        changed=lambda *_: "the weights that the encoder starts from, or compute.precision",
        reads_files=True,
    ),
    Stage(
        name="segmenter",
        folder="segmenter",
        version=2,
        settings=("encoder", "augment", "segmenter", "ensemble"),
        needs=("tiles", "split"),
        inputs=_encoder_weights,
        make=train_segmenter,
        changed=lambda *_: "the weights that the encoder starts from, or compute.precision",
        reads_files=True,
    ),
    Stage(
        name="predict",
        folder="predictions",
        version=4,
        settings=("tiles", "predict", "tissue", "artefacts"),
        needs=("tiles", "split", "classifier", "segmenter"),
        inputs=lambda run: run.settings.compute.named_precision,
        make=predict,
        changed=lambda *_: "compute.precision",
    ),
    Stage(
        name="explain",
        folder="explanations",
        version=2,
        settings=("augment", "explain"),
        needs=("tiles", "split", "classifier", "segmenter"),
        inputs=lambda _: None,
        make=explain,
        share=share_explanations,
    ),
    Stage(
        name="check",
        folder="checks",
        version=2,
        settings=("check",),
        needs=("tiles", "split", "classifier", "segmenter", "explain"),
        inputs=_truths,
        make=check,
        changed=lambda *_: "slides.csv, or the truth beside synthetic slides",
    ),
    Stage(
        name="nuclei",
        folder="nuclei",
        version=1,
        settings=("nuclei",),
        needs=("tiles", "split", "classifier", "segmenter", "explain"),
        inputs=_detections,
        make=nuclei,
        changed=lambda *_: "the files of nuclei.model",
        reads_files=True,
    ),
    Stage(
        name="shift",
        folder="shift",
        version=1,
        settings=("shift",),
        needs=("tiles", "split", "classifier", "segmenter", "predict"),
        inputs=lambda run: [[entry.slide_id, entry.attributes.get("site")] for entry in read_cohort(run.cohort)],
        make=shift,
        changed=lambda _, old, new: _changed_rows("site in slides.csv of", old, new),
    ),
    Stage(
        name="report",
        folder="report",
        version=11,
        settings=("evaluation",),
        needs=("tiles", "split", "classifier", "segmenter", "predict", "explain", "check", "nuclei", "shift"),
        inputs=lambda run: (
            {
                "attributes": [[entry.slide_id, entry.attributes] for entry in read_cohort(run.cohort)],
                "search": content_digest(run.folder / "search" / "stage.json")
                if is_searched(run.folder / "search")
                else None,
            }
            | _judgements(run)
        ),
        make=report,
        changed=lambda _, old, new: _changed_report(old, new),
    ),
)
"""All stages, in an order in which each comes after those it needs."""


def stages_of(settings: Settings) -> tuple[Stage, ...]:
    """Return all stages of a run: where whole slides are explained, `predict` needs what `explain` fits.

    Parameters
    ----------
    settings
        The run's.

    Returns
    -------
    tuple[Stage, ...]
        In an order in which each comes after those it needs.

    Raises
    ------
    SettingsError
        The settings name a method of explanation that there is not.
    """
    if settings.explain.methods != ExplainSettings().methods:  # found out before hours of training
        from vitrail.explain.methods.base import methods_named

        methods_named(settings.explain.methods)
    if not settings.predict.explained:
        return STAGES
    by_name = {stage.name: stage for stage in STAGES}
    first = replace(by_name["predict"], needs=(*by_name["predict"].needs, "explain"))
    others = [stage for stage in STAGES if stage.name != first.name]
    after = 1 + others.index(by_name["explain"])
    return (*others[:after], first, *others[after:])
