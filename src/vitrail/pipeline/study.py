"""A study, made and as an object: its folder, its numbers, its networks, and what can be asked of them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from vitrail.classes import TASKS
from vitrail.core.progress import Silent
from vitrail.core.shown import Shown
from vitrail.errors import RunError
from vitrail.stage import Run, open_run

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from vitrail.classes import Task
    from vitrail.core.progress import Progress
    from vitrail.evaluation.results import Evaluation
    from vitrail.explain.saliency import Saliency
    from vitrail.models.store import Model
    from vitrail.settings.load import Preset
    from vitrail.slides.cohort import Cohort
    from vitrail.tiles.store import TileTable


@dataclass(frozen=True, kw_only=True)  # no slots: the evaluation stays once computed
class Study(Run, Shown):
    """A run folder and what is in it; of what is not made yet a `RunError` says how to make it.

    Attributes
    ----------
    folder
        The run folder.
    settings
        Those of its `study.toml`.
    """

    def __repr__(self) -> str:
        return f"<Study {self.folder.name}>"

    @property
    def slides(self) -> Cohort:
        """Its slides, the rows of `slides.csv`."""
        from vitrail.slides.cohort import read_cohort

        return read_cohort(self.cohort)

    @property
    def tiles(self) -> TileTable:
        """The tiles that were cut from them."""
        from vitrail.tiles.store import read_tiles

        return read_tiles(self.folder / "tiles")

    @cached_property
    def evaluation(self) -> Evaluation:
        """The numbers, as `evaluate` returns them; computed once."""
        from vitrail.evaluation.load import evaluate

        return evaluate(self)

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """Every table of the report, by the name of its file without `.csv`."""
        return self.evaluation.tables

    @property
    def report(self) -> Path | None:
        """The page of its report; None where it is not made yet."""
        page = self.folder / "report" / "index.html"
        return page if page.is_file() else None

    def model(self, network: Task = "classifier") -> Model:
        """Load one of its networks.

        Parameters
        ----------
        network
            `"classifier"` or `"segmenter"`.

        Returns
        -------
        Model
            For `Predictor` and `Explainer`.

        Raises
        ------
        RunError
            It is not trained yet.
        ModelError
            It cannot be read.
        """
        from vitrail.models.store import load_model

        if not (self.folder / network / "model.json").is_file():
            cure = f"Train it with: vitrail run {self.folder}"
            raise RunError(self.folder, f"its {network} is not trained yet", cure)
        return load_model(self.folder / network)

    def explain(
        self, images: NDArray[np.uint8], method: str = "gradcam", network: Task = "classifier"
    ) -> list[Saliency]:
        """Explain images with one of its networks, and with what the study has fitted for the method.

        Parameters
        ----------
        images
            Tiles `[n, h, w, 3]`, bytes, as the network's: see `Model.spec`.
        method
            Its name, one of `vitrail.explain.methods.base.METHODS`.
        network
            As for `model`.

        Returns
        -------
        list[Saliency]
            One map an image, over its image.

        Raises
        ------
        RunError
            The network is not trained yet.
        ModelError
            The network or what was fitted cannot be read, or the device's memory is too small.
        SettingsError
            There is no method of this name.
        """
        from vitrail.explain.explainer import Explainer
        from vitrail.explain.methods.base import fitted_heads, methods_named
        from vitrail.models.device import pick_device

        methods = methods_named([method], "method")
        own = self.settings.explain
        device = pick_device(self.settings.compute.device)
        explainer = Explainer(self.model(network), device, stride=own.stride, margin_px=own.margin_px)
        return explainer.saliencies(images, method, fitted_heads(self.folder / network, methods))

    def predict(self, slides: Iterable[str | Path], out: str | Path) -> pd.DataFrame:
        """Map any slides with its networks, as `predict_slides` does, on the device of the study.

        Parameters
        ----------
        slides, out
            As of `predict_slides`.

        Returns
        -------
        pd.DataFrame
            A row a slide.

        Raises
        ------
        VitrailError
            As of `predict_slides`.
        """
        from vitrail.pipeline.library import predict_slides
        from vitrail.pipeline.predict_slides import settings_from

        trained = {task: self.folder / task for task in TASKS if (self.folder / task / "model.json").is_file()}
        settings = settings_from().model_copy(update={"compute": self.settings.compute})
        return predict_slides(
            slides,
            out,
            classifier=trained.get("classifier"),
            segmenter=trained.get("segmenter"),
            settings=settings,
        )


def open_study(folder: str | Path) -> Study:
    """Open a study that is there already, finished or not.

    Parameters
    ----------
    folder
        The run folder.

    Returns
    -------
    Study
        It; nothing is computed.

    Raises
    ------
    RunError
        The folder is no run.
    SettingsError
        Its `study.toml` is wrong.
    """
    run = open_run(Path(folder))
    return Study(**{each.name: getattr(run, each.name) for each in fields(Run)})


def run_study(
    folder: str | Path,
    slides: str | Path | None = None,
    *,
    preset: Preset = "paper",
    changes: Iterable[str] = (),
    until: str = "report",
    progress: Progress | None = None,
) -> Study:
    """Make a study, or bring one up to date, as `vitrail init` and `vitrail run` do.

    Parameters
    ----------
    folder
        The run folder. Where it is a run already, it goes on where an earlier call or command stopped.
    slides
        The cohort, `slides.csv`, for a new run.
    preset
        `"paper"` or `"quick"`, for a new run.
    changes
        Settings as `"tiles.side_px=128"`.
    until
        The last stage to make.
    progress
        Told how far the work is; None says nothing.

    Returns
    -------
    Study
        Its folder, numbers, tables and networks; a notebook shows its scores.

    Raises
    ------
    VitrailError
        Something that the user can mend.
    """
    from vitrail.pipeline.run import bring_run, new_run

    run, wishes = Path(folder), list(changes)
    if slides is not None and not (run / "study.toml").is_file():
        new_run(run, Path(slides), preset, wishes)
        wishes = []
    bring_run(run, until, wishes, progress or Silent())
    return open_study(run)
