"""The grid search of a run, from its slides to the setting to take."""

from __future__ import annotations

import hashlib
import json
import shutil
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

import vitrail
from vitrail.core.files import read_table, write_text
from vitrail.core.lock import locked
from vitrail.core.progress import Silent
from vitrail.distribute.cluster import Cluster
from vitrail.distribute.jobs import Jobs, Processes
from vitrail.errors import RunError
from vitrail.pipeline.outcome import Outcome
from vitrail.pipeline.run import bring_run
from vitrail.pipeline.stages import with_weights_path
from vitrail.search.grid import Grid, survivors
from vitrail.search.results import CELL_COLUMNS, Combination, SearchResult, choose, write_search
from vitrail.search.sizes import prepare, size_folder
from vitrail.search.trial import CellJob, is_done, model_folder, read_score, run_cell
from vitrail.slides.cohort import read_cohort
from vitrail.stage import open_run
from vitrail.tiles.folds import fold_of_rows
from vitrail.tiles.split import split_of
from vitrail.training.workers import worker_environments

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from vitrail.core.progress import Progress
    from vitrail.distribute.jobs import Executor
    from vitrail.search.grid import Cell, Pair
    from vitrail.search.results import State
    from vitrail.settings.schema import SearchSettings

FOLDER, FIGURE, ENSEMBLE = "search", "figure_s1", "ensemble"


def search_run(
    folder: Path, scheduler: str | None = None, changes: Sequence[str] = (), progress: Progress | None = None
) -> Outcome:
    """Search a run's grid, and write what came out to its folder `search`.

    What is done is not done again: neither the tiles of a size, nor a resolution, nor a cell.

    Parameters
    ----------
    folder
        The run.
    scheduler
        Address of a dask cluster whose workers see the run's folder; None works on this machine.
    changes
        `key=value`, written into `study.toml` first.
    progress
        Told after every training.

    Returns
    -------
    Outcome
        The combinations, the one to take, and the cells that could not be trained.

    Raises
    ------
    VitrailError
        Something that the user can mend.
    """
    from vitrail.training.preflight import check_classifier

    target = folder.resolve() / FOLDER
    cluster = Cluster(scheduler=scheduler, folder=target) if scheduler else None
    progress = progress or Silent()
    before = bring_run(folder, "split", changes, progress)
    run = open_run(folder)
    settings, search = with_weights_path(run), run.settings.search
    # before hours of cutting: can the networks be built, and the cluster be reached, at all?
    check_classifier(settings, search.side_px, here=scheduler is None)
    target.mkdir(exist_ok=True)
    if cluster:
        cluster.check()
    with locked(folder):
        (target / "cells").mkdir(exist_ok=True)
        split = split_of(folder / "split")
        entries = (entry for entry in read_cohort(run.cohort) if split.get(entry.patient_id) in {"train", "validation"})
        grid = Grid(settings=settings, entries=tuple(entries))
        trainings = _Trainings(grid=grid, folder=target, executor=cluster, progress=progress)
        trainings.run()
        failures = [f"{cell}: {error}" for cell, error in trainings.failed.items()]
        combinations = tuple(trainings.combination(pair) for pair in grid.pairs)
        chosen = choose(combinations, search.tolerance)
        if chosen is None:
            raise RunError(target, f"no combination is complete; first, {failures[0]}", "Mend this")
        result = SearchResult(
            combinations=combinations,
            chosen=chosen,
            folds=search.folds,
            iterations=search.iterations,
            tolerance=search.tolerance,
            patients=tuple(sorted({entry.patient_id for entry in grid.entries})),
            unseen=sum(part == "test" for part in split.values()),
        )
        _write(result, trainings, search)
        if search.keep_models:
            first = [cell for cell in trainings.cells[chosen.side_um, chosen.side_px] if cell.iteration == 0]
            _join(first, target)
    patients = f"{len(result.patients)} patients of train and validation; the {result.unseen} of test took no part"
    take = f"--set tiles.side_um={chosen.side_um!r} --set tiles.side_px={chosen.side_px}"
    lines = [
        f"{result.iterations} x {result.folds} folds of {patients}",
        *map(str, combinations),
        f"chosen: side_um = {chosen.side_um!r}, side_px = {chosen.side_px}",
        f"take it with: vitrail run {folder} {take}",
        *([f"ensemble of its folds: {folder / FOLDER / ENSEMBLE}"] if search.keep_models else []),
        str(folder / FOLDER / f"{FIGURE}.svg"),
    ]
    results = {
        "run": folder,
        "chosen": {"tiles.side_um": chosen.side_um, "tiles.side_px": chosen.side_px},
        "combinations": [asdict(each) for each in combinations],
        "table": folder / FOLDER / "table.csv",
        "figure": folder / FOLDER / f"{FIGURE}.svg",
        "ensemble": folder / FOLDER / ENSEMBLE if search.keep_models else None,
    }
    return Outcome(lines=lines, warnings=before.warnings, skipped=[*before.skipped, *failures], results=results)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trainings:
    """The cells of a search, those that have a score and those that could not be trained."""

    grid: Grid
    folder: Path
    executor: Executor | None
    progress: Progress
    cells: dict[Pair, list[Cell]] = field(default_factory=dict)
    failed: dict[Cell, str] = field(default_factory=dict)

    def run(self) -> None:
        """Train all cells, abandoning combinations after each iteration."""
        search, alive = self.grid.settings.search, self.grid.pairs
        self.cells.update({pair: [] for pair in alive})
        rungs = [range(search.iterations)] if search.keep == 1 else [range(i, i + 1) for i in range(search.iterations)]
        for number, rung in enumerate(rungs):
            if number:
                alive = survivors({pair: self.combination(pair).accuracy for pair in alive}, search.keep)
            cells = self.grid.cells(alive, rung)
            for cell in cells:
                self.cells[cell.pair].append(cell)
            self._train(cells)
            alive = tuple(pair for pair in alive if not any(cell in self.failed for cell in self.cells[pair]))

    def _train(self, cells: list[Cell]) -> None:
        """Train those of some cells that have no score."""
        settings = self.grid.settings
        keep = settings.search.keep_models
        todo = [cell for cell in cells if not is_done(self.folder, cell, keep_models=keep)]
        if not todo:
            return
        prepare(self.grid, todo, self.folder, self.progress)
        sizes = {side_um: size_folder(self.grid, self.folder, side_um) for side_um in {cell.side_um for cell in todo}}
        for side_um in sorted(sizes):  # are there patients enough? workers would find out one by one
            fold_of_rows(read_table(sizes[side_um].rows), settings.search.folds, (0,))
        jobs = {
            cell.digest: CellJob(
                cell=cell,
                settings=settings,
                rows=sizes[cell.side_um].rows,
                images=sizes[cell.side_um].images(cell.side_px),
                folder=self.folder,
            )
            for cell in todo
        }
        trainings = Jobs(
            title="search",
            work=run_cell,
            jobs=jobs,
            is_done=lambda job: is_done(job.folder, job.cell, keep_models=keep),
        )
        executor = self.executor or Processes(environments=worker_environments(settings.compute, len(todo)))
        with (
            self.progress.task(trainings.title, len(cells), len(cells) - len(todo)) as step,
            closing(executor.run(trainings)) as trained,
        ):
            for name, error in trained:
                cell = jobs[name].cell
                if error:
                    self.failed[cell] = str(error)
                score = read_score(self.folder, cell)
                step(1, f"{cell}: {f'accuracy {score.accuracy:.3f}' if score else 'failed'}")

    def combination(self, pair: Pair) -> Combination:
        """Sum up the scores of a tile size at a resolution."""
        search, cells = self.grid.settings.search, self.cells[pair]
        scores = [score for cell in cells if (score := read_score(self.folder, cell))]
        accuracies = np.array([score.accuracy for score in scores])
        aucs = [score.auc for score in scores if score.auc is not None]
        state: State = "complete" if len(cells) == search.folds * search.iterations else "abandoned"
        return Combination(
            side_um=pair[0],
            side_px=pair[1],
            accuracy=float(accuracies.mean()) if scores else float("nan"),
            spread=float(accuracies.std(ddof=1)) if len(scores) > 1 else float("nan"),
            auc=float(np.mean(aucs)) if aucs else float("nan"),
            n=len(scores),
            state="failed" if any(cell in self.failed for cell in cells) else state,
        )


def _join(cells: Sequence[Cell], folder: Path) -> None:
    """Join the networks of some cells to the ensemble of a search."""
    from vitrail.models.join import join_models

    join_models([model_folder(folder, cell) for cell in cells], folder / ENSEMBLE)


def _write(result: SearchResult, trainings: _Trainings, search: SearchSettings) -> None:
    """Write tables, figure and choice; the record of it last."""
    from vitrail.report.figures.search import search_figure
    from vitrail.report.style import save, style

    folder, cells = trainings.folder, [cell for own in trainings.cells.values() for cell in own]
    rows = [
        (
            *(cell.side_um, cell.side_px, cell.iteration, cell.fold),
            *(score.accuracy, float("nan") if score.auc is None else score.auc, score.seconds, score.n_validation),
        )
        for cell in cells
        if (score := read_score(folder, cell))
    ]
    write_search(folder, result, pd.DataFrame(rows, columns=list(CELL_COLUMNS)))
    with style():
        save(search_figure(result), folder, FIGURE)
    record = {
        "stage": FOLDER,
        "settings": {"search": search.digest_values()},
        "digest": hashlib.sha256("".join(sorted(cell.digest for cell in cells)).encode()).hexdigest(),
        "vitrail": vitrail.__version__,
    }
    write_text(folder / "stage.json", json.dumps(record, indent=1))
    shutil.rmtree(folder / ".partial", ignore_errors=True)
