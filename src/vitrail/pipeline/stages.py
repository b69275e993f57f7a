"""The whole data flow on one page: what each stage reads, and what makes it.

slides.csv ─ tiles ─┬─ split ─┬─ classifier ─┬─ predict ───────────┬─ report
                    │         └─ segmenter ──┼─ explain ─┬─────────┤
                    └────────────────────────┴───────────┴─ check ─┘
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitrail.errors import SettingsError
from vitrail.search.results import is_searched
from vitrail.settings.load import KEYWORDS
from vitrail.slides.cohort import content_digest, read_cohort
from vitrail.stage import Run, Stage, Work
from vitrail.tiles.cohort import VERSION, Folders, cut_cohort, slide_digest
from vitrail.tiles.split import read_split, split_patients, write_split
from vitrail.tiles.store import read_tiles

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Generator, Tensor

    from vitrail.classes import Task
    from vitrail.inference.predictor import Explaining
    from vitrail.models.store import Model
    from vitrail.settings.load import Settings


def cut_tiles(work: Work) -> None:
    """Cut every slide into tiles, masks and labels."""
    run = work.run
    folders = Folders(result=work.folder, parts=work.scratch, earlier=run.folder / "tiles")
    cut_cohort(read_cohort(run.cohort), run.settings, folders, work.progress)


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
    """Apply both networks to all tiles, and to some test slides as a whole."""
    from vitrail.inference.stage import predict_study

    explaining = _explaining(work.run) if work.run.settings.predict.explained else None
    predict_study(work, read_cohort(work.run.cohort), explaining)


def _explaining(run: Run) -> Callable[[Model], Explaining]:
    """Return what makes the run's classifier say why, with what the stage `explain` fitted."""
    from vitrail.explain.methods.base import explaining_classifier, fitted_heads, methods_named
    from vitrail.inference.outputs import MAP_PX
    from vitrail.inference.predictor import Explaining

    def explaining(model: Model) -> Explaining:
        methods = methods_named(run.settings.explain.methods)
        module = explaining_classifier(model, MAP_PX, methods, fitted_heads(run.folder / "classifier", methods))
        return Explaining(module=module, methods=module.methods)

    return explaining


def explain(work: Work) -> None:
    """Explain every test tile with Grad-CAM and HR-CAM of both networks."""
    from vitrail.explain.study.stage import explain_study
    from vitrail.training.tasks import TRAINING_TASKS

    def augmentation(task: Task, generator: Generator) -> Callable[[Tensor], Tensor]:
        augmenter = TRAINING_TASKS[task].augmenter(work.run.settings, generator)
        return lambda images: augmenter(images)[0]

    explain_study(work, augmentation)


def check(work: Work) -> None:
    """Check whether the explanations are true."""
    from vitrail.explain.checks.stage import check_study

    check_study(work, read_cohort(work.run.cohort))


def report(work: Work) -> None:
    """Write figures, tables and the page."""
    from vitrail.report.collect import collect
    from vitrail.report.page import write_report

    write_report(collect(work.run), work.folder)


def _train(work: Work, task: Task) -> None:
    from vitrail.training.loader import parts
    from vitrail.training.trainer import train

    run = work.run
    tiles = read_tiles(run.folder / "tiles")
    split = read_split(run.folder / "split", tiles.rows)
    train(task, parts(tiles, split), started(run), folder=work.folder, progress=work.progress)


def started(run: Run) -> Settings:
    """Return a run's settings with the path of the encoder's weights made absolute, from the run folder.

    Raises
    ------
    SettingsError
        The path begins with the home folder of a user who is not known here.
    """
    encoder = run.settings.encoder
    if encoder.weights in KEYWORDS:
        return run.settings
    try:
        path = run.folder.resolve() / Path(encoder.weights).expanduser()
    except RuntimeError:
        problem = f"{encoder.weights!r} begins with a home folder that is not known"
        raise SettingsError("encoder.weights", problem, "Write the whole path") from None
    return run.settings.model_copy(update={"encoder": encoder.model_copy(update={"weights": str(path)})})


def _slides(run: Run) -> Any:
    return [slide_digest(entry, run.settings) for entry in read_cohort(run.cohort)]


def _given_splits(run: Run) -> Any:
    return sorted({(entry.patient_id, entry.split) for entry in read_cohort(run.cohort)}, key=str)


def _attributes(run: Run) -> Any:
    return [[entry.slide_id, entry.attributes] for entry in read_cohort(run.cohort)]


def _attributes_and_search(run: Run) -> Any:
    search = run.folder / "search"
    found = content_digest(search / "stage.json") if is_searched(search) else None
    return {"attributes": _attributes(run), "search": found}


def _start(run: Run) -> Any:
    """Digest the file that the encoder starts from, where it is one; and name the type to compute in, where one is."""
    weights = started(run).encoder.weights
    found = None if weights in KEYWORDS else content_digest(Path(weights))
    precision = _precision(run)
    return [found, precision] if precision else found


def _precision(run: Run) -> Any:
    """Return the type that the settings name, which changes numbers; None where it is chosen."""
    precision = run.settings.compute.precision
    return None if precision == "auto" else precision


def _truths(run: Run) -> Any:
    """Tell beside which slides a truth lies, as beside synthetic ones; what it is follows from the slide."""
    places = [entry.slide.resolve() for entry in read_cohort(run.cohort)]
    return [(place.parent.parent / "truth" / f"{place.stem}.npz").is_file() for place in places]


def _nothing(run: Run) -> Any:  # noqa: ARG001 - a stage that reads only other stages
    return None


STAGES = (
    Stage(
        name="tiles",
        folder="tiles",
        version=VERSION,
        settings=("slides", "annotations", "tiles"),
        needs=(),
        inputs=_slides,
        make=cut_tiles,
    ),
    Stage(
        name="split",
        folder="split",
        version=1,
        settings=("split",),
        needs=("tiles",),
        inputs=_given_splits,
        make=draw_split,
    ),
    Stage(
        name="classifier",
        folder="classifier",
        version=2,
        settings=("encoder", "augment", "classifier"),
        needs=("tiles", "split"),
        inputs=_start,
        make=train_classifier,
    ),
    Stage(
        name="segmenter",
        folder="segmenter",
        version=2,
        settings=("encoder", "augment", "segmenter"),
        needs=("tiles", "split"),
        inputs=_start,
        make=train_segmenter,
    ),
    Stage(
        name="predict",
        folder="predictions",
        version=4,
        settings=("tiles", "predict", "tissue", "artefacts"),
        needs=("tiles", "split", "classifier", "segmenter"),
        inputs=_precision,
        make=predict,
    ),
    Stage(
        name="explain",
        folder="explanations",
        version=2,
        settings=("augment", "explain"),
        needs=("tiles", "split", "classifier", "segmenter"),
        inputs=_nothing,
        make=explain,
    ),
    Stage(
        name="check",
        folder="checks",
        version=2,
        settings=("check",),
        needs=("tiles", "split", "classifier", "segmenter", "explain"),
        inputs=_truths,
        make=check,
    ),
    Stage(
        name="report",
        folder="report",
        version=8,
        settings=("evaluation",),
        needs=("tiles", "split", "classifier", "segmenter", "predict", "explain", "check"),
        inputs=_attributes_and_search,
        make=report,
    ),
)
"""All stages, in an order in which each comes after those it needs."""


def stages_of(settings: Settings) -> tuple[Stage, ...]:
    """Return all stages of a run: where whole slides are explained, `predict` needs what `explain` fits."""
    if not settings.predict.explained:
        return STAGES
    by_name = {stage.name: stage for stage in STAGES}
    first = replace(by_name["predict"], needs=(*by_name["predict"].needs, "explain"))
    others = [stage for stage in STAGES if stage.name != first.name]
    after = 1 + others.index(by_name["explain"])
    return (*others[:after], first, *others[after:])
