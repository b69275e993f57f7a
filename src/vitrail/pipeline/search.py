"""The grid search of a run, from its slides to the setting to take."""

from __future__ import annotations

import hashlib
import json
import shutil
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

import vitrail
from vitrail.core.files import read_table, write_text
from vitrail.core.progress import Silent
from vitrail.errors import RunError
from vitrail.pipeline.run import Outcome, bring_run
from vitrail.pipeline.stages import started
from vitrail.search.folds import fold_of_rows
from vitrail.search.grid import Grid, survivors
from vitrail.search.results import CELL_COLUMNS, Combination, SearchResult, choose, write_search
from vitrail.search.sizes import prepare, size_folder
from vitrail.search.trial import CellJob, read_score, run_cell
from vitrail.slides.cohort import read_cohort
from vitrail.stage import alone, open_run
from vitrail.tiles.split import split_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from vitrail.core.progress import Progress
    from vitrail.search.grid import Cell, Pair
    from vitrail.search.results import State
    from vitrail.search.trial import CellScore
    from vitrail.stage import Run

FOLDER, FIGURE = "search", "figure_s1"
PART = {"train", "validation"}
"""Whose patients take part."""


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
        Address of a dask cluster whose workers see the run's folder; None makes a local one.
    changes
        `key=value`, written into `study.toml` first.
    progress
        Told after every training.

    Raises
    ------
    VitrailError
        Something that the user can mend.
    """
    progress = progress or Silent()
    before = bring_run(folder, "split", changes, progress)
    run = open_run(folder)
    _check(run, scheduler)
    with alone(folder):
        search = _Search(run=run, grid=_grid(run), scheduler=scheduler, progress=progress)
        (search.target / "cells").mkdir(exist_ok=True)
        pairs = search.all_rungs()
        result = search.finish(pairs)
    return Outcome(lines=_lines(run, result), warnings=before.warnings, skipped=[*before.skipped, *search.failures()])


def _check(run: Run, scheduler: str | None) -> None:
    """Find out before hours of cutting whether the networks can be built, and the cluster be reached, at all."""
    from vitrail.training.preflight import check_classifier

    check_classifier(started(run), run.settings.search.side_px, here=scheduler is None)
    target = run.folder.resolve() / FOLDER
    target.mkdir(exist_ok=True)
    if scheduler:
        from vitrail.search.cluster import Place, connected

        with connected(Place(folder=target, scheduler=scheduler)):
            pass


def _grid(run: Run) -> Grid:
    split = _split(run)
    entries = tuple(entry for entry in read_cohort(run.cohort) if split.get(entry.patient_id) in PART)
    return Grid(settings=started(run), entries=entries)


def _split(run: Run) -> dict[str, str]:
    return split_of(run.folder / "split")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Search:
    run: Run
    grid: Grid
    scheduler: str | None
    progress: Progress
    failed: dict[Cell, str] = field(default_factory=dict)

    @property
    def target(self) -> Path:
        return self.run.folder.resolve() / FOLDER

    def all_rungs(self) -> dict[Pair, list[Cell]]:
        """Train all cells, abandoning combinations after each iteration; return the cells of each combination."""
        search, alive = self.grid.settings.search, self.grid.pairs
        tried: dict[Pair, list[Cell]] = {pair: [] for pair in alive}
        rungs = [range(search.iterations)] if search.keep == 1 else [range(i, i + 1) for i in range(search.iterations)]
        for number, rung in enumerate(rungs):
            if number:
                alive = survivors({pair: self._combination(pair, tried[pair]).accuracy for pair in alive}, search.keep)
            cells = self.grid.cells(alive, rung)
            for cell in cells:
                tried[cell.pair].append(cell)
            self._train(cells)
            alive = tuple(pair for pair in alive if not any(cell in self.failed for cell in tried[pair]))
        return tried

    def _train(self, cells: list[Cell]) -> None:
        todo = [cell for cell in cells if read_score(self.target, cell) is None]
        if not todo:
            return
        prepare(self.grid, todo, self.target, self.progress)
        self._check_folds(todo)
        jobs = [self._job(cell) for cell in todo]
        from vitrail.search.cluster import connected, in_cluster, place_for

        place = place_for(self.target, self.grid.settings.compute, len(jobs), self.scheduler)
        done = len(cells) - len(todo)
        with (
            connected(place) as client,
            self.progress.task("search", len(cells), done) as step,
            closing(in_cluster(client, run_cell, jobs)) as results,
        ):
            for job, error in results:
                if error:
                    self.failed[job.cell] = str(error)
                step(1, f"{job.cell}: {_told(read_score(self.target, job.cell))}")

    def _check_folds(self, cells: list[Cell]) -> None:
        for side_um in sorted({cell.side_um for cell in cells}):
            rows = read_table(size_folder(self.grid, self.target, side_um).rows)
            fold_of_rows(rows, self.grid.settings.search.folds, (0,))

    def _job(self, cell: Cell) -> CellJob:
        size = size_folder(self.grid, self.target, cell.side_um)
        return CellJob(
            cell=cell,
            settings=self.grid.settings,
            rows=size.rows,
            images=size.images(cell.side_px),
            folder=self.target,
        )

    def _combination(self, pair: Pair, cells: list[Cell]) -> Combination:
        found = [score for cell in cells if (score := read_score(self.target, cell))]
        accuracies = np.array([score.accuracy for score in found])
        aucs = [score.auc for score in found if score.auc is not None]
        return Combination(
            side_um=pair[0],
            side_px=pair[1],
            accuracy=float(accuracies.mean()) if found else float("nan"),
            spread=float(accuracies.std(ddof=1)) if len(found) > 1 else float("nan"),
            auc=float(np.mean(aucs)) if aucs else float("nan"),
            n=len(found),
            state=self._state(cells),
        )

    def _state(self, cells: list[Cell]) -> State:
        search = self.grid.settings.search
        if any(cell in self.failed for cell in cells):
            return "failed"
        return "complete" if len(cells) == search.folds * search.iterations else "abandoned"

    def failures(self) -> list[str]:
        """Return a line for each cell that could not be trained."""
        return [f"{cell}: {error}" for cell, error in self.failed.items()]

    def finish(self, tried: dict[Pair, list[Cell]]) -> SearchResult:
        """Write tables, figure and choice; the record of it last."""
        search = self.grid.settings.search
        combinations = tuple(self._combination(pair, cells) for pair, cells in tried.items())
        chosen = choose(combinations, search.tolerance)
        if chosen is None:
            raise RunError(self.target, f"no combination is complete; first, {self.failures()[0]}", "Mend this")
        split = _split(self.run)
        result = SearchResult(
            combinations=combinations,
            chosen=chosen,
            folds=search.folds,
            iterations=search.iterations,
            tolerance=search.tolerance,
            patients=tuple(sorted({entry.patient_id for entry in self.grid.entries})),
            unseen=sum(part == "test" for part in split.values()),
        )
        cells = [cell for own in tried.values() for cell in own]
        write_search(self.target, result, self._table(cells))
        _draw(self.target, result)
        self._record(cells)
        shutil.rmtree(self.target / ".partial", ignore_errors=True)
        return result

    def _table(self, cells: list[Cell]) -> pd.DataFrame:
        found = [(cell, score) for cell in cells if (score := read_score(self.target, cell))]
        rows = [_row(cell, score) for cell, score in found]
        return pd.DataFrame(rows, columns=list(CELL_COLUMNS))

    def _record(self, cells: list[Cell]) -> None:
        digest = hashlib.sha256("".join(sorted(cell.digest for cell in cells)).encode()).hexdigest()
        settings = self.run.settings.model_dump(mode="json", include={"search"})
        record = {"stage": FOLDER, "settings": settings, "digest": digest, "vitrail": vitrail.__version__}
        write_text(self.target / "stage.json", json.dumps(record, indent=1))


def _row(cell: Cell, score: CellScore) -> tuple[object, ...]:
    place = cell.side_um, cell.side_px, cell.iteration, cell.fold
    auc = float("nan") if score.auc is None else score.auc
    return *place, score.accuracy, auc, score.seconds, score.n_validation


def _told(score: CellScore | None) -> str:
    return f"accuracy {score.accuracy:.3f}" if score else "failed"


def _draw(folder: Path, result: SearchResult) -> None:
    from vitrail.report.figures.search import search_figure
    from vitrail.report.style import save, style

    with style():
        save(search_figure(result), folder, FIGURE)


def _lines(run: Run, result: SearchResult) -> list[str]:
    chosen = result.chosen
    take = f"--set tiles.side_um={chosen.side_um!r} --set tiles.side_px={chosen.side_px}"
    patients = f"{len(result.patients)} patients of train and validation; the {result.unseen} of test took no part"
    return [
        f"{result.iterations} x {result.folds} folds of {patients}",
        *(_line(one) for one in result.combinations),
        f"chosen: side_um = {chosen.side_um!r}, side_px = {chosen.side_px}",
        f"take it with: vitrail run {run.folder} {take}",
        str(run.folder / FOLDER / f"{FIGURE}.svg"),
    ]


def _line(one: Combination) -> str:
    place = f"{one.side_um:>6g} um {one.side_px:>4} px"
    figures = f"accuracy {one.accuracy:.3f}, spread {one.spread:.3f}, AUC {one.auc:.3f}, {one.n} trainings"
    return f"{place}  {figures}{'' if one.state == 'complete' else ', ' + one.state}"
