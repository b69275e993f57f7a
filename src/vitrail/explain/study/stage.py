"""The explanations of a study: every method of both networks on every test tile, and how far they agree.

`vitrail.explain.study.store` says what the folder holds. A killed run goes on where it was: pooled tiles, fitted
heads and explained blocks are kept in `unfinished/` until the folder is whole.
"""

from __future__ import annotations

import shutil
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vitrail.classes import TASKS
from vitrail.core.files import write_table
from vitrail.core.progress import Silent
from vitrail.distribute.jobs import Here
from vitrail.errors import RunError
from vitrail.explain.agreement import (
    agreement,
    beyond_others,
    correlate,
    other_tiles,
    rank_agreement,
    rank_points,
)
from vitrail.explain.study.jobs import UNFINISHED, Study, forget_networks, join_block, kinds_of_study
from vitrail.explain.study.store import (
    AGREEMENT,
    ROWS,
    SUMMARY,
    columns_of,
    create_file,
    pairs,
    write_summary,
)
from vitrail.metrics.bootstrap import estimate
from vitrail.models.folds import representing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from vitrail.core.progress import Progress, Step
    from vitrail.distribute.jobs import Executor, Jobs
    from vitrail.explain.study.networks import Augmentation, Sources
    from vitrail.explain.study.store import SaliencyFile
    from vitrail.stage import Work

_CHUNK = 256


def explain_study(work: Work, augmentation: Augmentation | None = None) -> None:
    """Write the folder `explanations/`.

    The same study gives the same bytes on one machine, however often the work was killed, and whoever did its parts.

    Parameters
    ----------
    work
        A run whose tiles, split, classifier and segmenter are finished, and where to write.
    augmentation
        Makes, for a task and a generator of the CPU, what changes training tiles (intensities 0 to 1,
        `[n, 3, h, w]`), for `explain.training = "epochs"`; None leaves them as they are.

    Raises
    ------
    SettingsError
        The settings name a method or a layer that cannot be used, or a device that is not there.
    TileError
        A method finds no training tile of a class.
    ModelError
        A network cannot be read or gives values that are not finite, or the device's memory is too small.
    RunError
        Workers are gone, or do not see the run.
    """
    if not (work.folder / SUMMARY).is_file():  # else it was killed while it cleared up
        try:
            _join(*_explain_parts(work, augmentation))
        finally:
            forget_networks()
    shutil.rmtree(work.folder / UNFINISHED, ignore_errors=True)


def explain_parts(work: Work, augmentation: Augmentation | None = None) -> None:
    """Do the parts of `explain_study`, perhaps together with other commands: it then finds them done.

    Parameters
    ----------
    work, augmentation
        As of `explain_study`.

    Raises
    ------
    VitrailError
        As `explain_study`.
    """
    if not (work.folder / SUMMARY).is_file():
        try:
            _explain_parts(work, augmentation)
        finally:
            forget_networks()


def _explain_parts(work: Work, augmentation: Augmentation | None) -> tuple[Study, Sources]:
    """Fit heads, then explain all blocks of test tiles."""
    study = Study.open(work, augmentation)
    sources = study.sources(work.progress)
    sources.check()
    _do(study.heads(), work.executor or Here(progress=work.progress))
    count = len(sources.rows("test"))
    blocks, per_tile = study.blocks(count), len(TASKS)
    done = sum(job.stop - job.start for job in blocks.jobs.values() if blocks.is_done(job))
    with work.progress.task("explain", count * per_tile, done * per_tile) as step:
        if work.executor:
            _do(blocks, work.executor, lambda job: step((job.stop - job.start) * per_tile))
        else:
            _do(blocks, Here(progress=_Within(step, work.progress)))
    return study, sources


def _do(jobs: Jobs[Any], executor: Executor, is_done: Callable[[Any], None] | None = None) -> None:
    """Do all jobs; the first failure ends the work, unless it is that of a worker: then the others go on first."""
    failures = list[RunError]()
    with closing(executor.run(jobs)) as ended:
        for name, error in ended:
            if isinstance(error, RunError):
                failures.append(error)
            elif error:
                raise error
            elif is_done:
                is_done(jobs.jobs[name])
    if failures:
        raise failures[0]


class _Within(Silent):
    """Lets a job's steps be those of the whole."""

    def __init__(self, step: Step, whole: Progress) -> None:
        self._step, self.say = step, whole.say  # type: ignore[method-assign] # the same signature

    @contextmanager
    def task(self, _title: str, _total: int, _done: int = 0) -> Iterator[Step]:
        """Yield the step of the whole."""
        yield self._step


def _join(study: Study, sources: Sources) -> None:
    """Join what jobs have left, and write maps, tables and summary."""
    test, seed = sources.rows("test"), sources.settings.seed
    networks, kinds = [study.fitted(task) for task in TASKS], kinds_of_study(study)
    file = create_file(sources.folder, kinds, len(test))
    tables = [join_block(job, file) for job in study.blocks(len(test)).jobs.values()]
    file.flush()
    scores = pd.concat(tables, ignore_index=True)

    columns = ["slide_id", "patient_id", "x", "y", "side", "label"]
    rows = sources.tiles.rows[columns].iloc[test].reset_index(drop=True)
    rows.insert(0, "tile", test)
    rows = rows.assign(**{task: scores[task] for task in TASKS})
    write_table(sources.folder / ROWS, rows)

    owners = rows[["tile", "slide_id", "patient_id"]]
    correlations, agreements = _agree(file, owners, seed)
    write_table(sources.folder / AGREEMENT, correlations)

    summary: dict[str, Any] = dict(agreements)
    clear = sources.clear("test")
    for method in sources.methods:
        # not every head tells tumor from non-tumor
        rated = [network for network in networks if f"{network.task}_{method.name}" in scores]
        if rated:
            summary[f"{method.name}_accuracy"] = {
                network.task: {
                    **_accuracy(scores[f"{network.task}_{method.name}"].to_numpy(), clear, sources),
                    **network.fits[method.name],
                }
                for network in rated
            }
    summary |= {
        "empty": {key: _empty(file.maps(key)) for key, kind in kinds.items() if kind.signed},
        "tiles": len(test),
        "patients": rows["patient_id"].nunique(),
        "min_share": sources.min_share,
        "layers": {network.task: network.layers for network in networks if network.layers},
        "dense": networks[0].dense,
        "methods": {method.name: method.title for method in sources.methods},
        "described": {
            method.name: {"describes": method.describes, "passes": method.passes, "gradients": method.gradients}
            for method in sources.methods
        },
    }
    represented = {task: representing(sources.run.folder / task) for task in TASKS}
    if any(represented.values()):
        summary["represented"] = {task: facts for task, facts in represented.items() if facts}
    write_summary(sources.folder, summary)


def _agree(file: SaliencyFile, owners: pd.DataFrame, seed: int) -> tuple[pd.DataFrame, dict[str, dict[str, Any]]]:
    """Compare each pair of kinds: the table `agreement.parquet`, and what the summary holds of it."""
    kinds, patients, others = file.kinds, owners["patient_id"].to_numpy(), other_tiles(len(owners), seed)
    ranks = {key: rank_points(file.maps(key), kind.frame) for key, kind in kinds.items()}
    columns: dict[str, NDArray[np.float64]] = {}
    agreements: dict[str, dict[str, Any]] = {"agreement": {}, "agreement_relu": {}}
    for column, pair, relu in columns_of(kinds):
        first, second = pairs(kinds)[pair]
        maps, frames = (file.maps(first), file.maps(second)), (kinds[first].frame, kinds[second].frame)
        columns[column] = correlate(*maps, frames, relu=relu)
        result = agreement(columns[column], patients, seed).summary()
        agreements["agreement_relu" if relu else "agreement"][pair] = result
        if relu:  # the paper's; ranks and the strongest places are the same without what speaks against tumor
            continue
        columns[f"{pair}_null"] = correlate(*maps, frames, others=others)
        for ending, partners in (("", np.arange(len(others))), ("_null", others)):
            spearman, top = rank_agreement(ranks[first], ranks[second][partners])
            columns |= {f"{pair}_spearman{ending}": spearman, f"{pair}_top10{ending}": top}
        result |= {
            name: beyond_others(columns[f"{pair}{ending}"], columns[f"{pair}{ending}_null"], patients, seed)
            for name, ending in (("pearson", ""), ("spearman", "_spearman"), ("top10", "_top10"))
        }
    return pd.concat([owners.assign(other=others), pd.DataFrame(columns)], axis=1), agreements


def _accuracy(logits: NDArray[np.float32], clear: NDArray[np.int64], sources: Sources) -> dict[str, Any]:
    """Rate a head on the test tiles that are clear, by its logits for all test tiles from the pass of the maps."""
    right = (logits[np.searchsorted(sources.rows("test"), clear)] > 0) == sources.tumor(clear)
    patients = sources.tiles.rows["patient_id"].to_numpy()[clear]
    accuracy, *interval = estimate(right, 1, patients, sources.settings.seed, "share").json
    return {"accuracy": accuracy, "interval": interval, "tiles": len(right)}


def _empty(maps: NDArray[np.float32]) -> int:
    """Count the maps without a positive value, without all of them in memory."""
    chunks = (maps[start : start + _CHUNK] for start in range(0, len(maps), _CHUNK))
    return int(sum((chunk.max((1, 2)) <= 0).sum() for chunk in chunks))
