"""The explanations of a study as independent jobs: heads, one job a network; then test tiles, one job a block.

A job leaves files in `unfinished/<device>/`, whole or absent: `<network>.json` says what was fitted and which maps the
network gives; `blocks/<first tile>.npy` holds a block's maps, and a table beside it, written last, its scores. All jobs
compute with as many threads, in whatever process: on a CPU the last digits depend on their number.
"""

from __future__ import annotations

import socket
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from vitrail.classes import TASKS
from vitrail.core.files import damaged, read_json, read_table, write_array, write_json, write_table
from vitrail.core.parallel import Threads
from vitrail.distribute.cluster import Cluster
from vitrail.distribute.jobs import Jobs
from vitrail.errors import RunError
from vitrail.explain.study.networks import Sources, fitted_network, loaded_network
from vitrail.explain.study.store import Kind, kind_entry, kind_of
from vitrail.explain.study.tiles import explain_tiles, kinds_of
from vitrail.models.device import keep_memory, pick_device, reproducible
from vitrail.models.store import WEIGHTS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pandas as pd

    from vitrail.classes import Task
    from vitrail.core.progress import Progress
    from vitrail.distribute.jobs import Executor
    from vitrail.explain.study.networks import Augmentation, Network
    from vitrail.explain.study.store import SaliencyFile
    from vitrail.stage import Run, Work

UNFINISHED = "unfinished"

BLOCK = 256
"""Tiles in one block: what a killed run loses at most. A multiple of the batch, so that batches are the same ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """What all jobs of a study share; pickled.

    Attributes
    ----------
    run, folder
        The run and the folder of its stage, with absolute paths.
    device
        Type of the device that all of them compute on: parts of two do not go together.
    threads
        With which all of them compute.
    augmentation
        A function of a module, or a partial of one, see `explain_study`.
    """

    run: Run
    folder: Path
    device: str
    threads: Threads
    augmentation: Augmentation | None

    @classmethod
    def open(cls, work: Work, augmentation: Augmentation | None) -> Study:
        """Settle where to compute, and with how many threads: as the first did who began this work."""
        folder, device = work.folder.absolute(), _device_of(work.executor, work.run.settings.compute.device)
        unfinished = folder / UNFINISHED / device
        unfinished.mkdir(parents=True, exist_ok=True)
        record = unfinished / "threads.json"
        if not record.is_file():
            with work.executor.alone(unfinished) if work.executor else nullcontext():
                if not record.is_file():
                    write_json(record, asdict(Threads.here()))
        return cls(
            run=replace(work.run, folder=work.run.folder.absolute()),
            folder=folder,
            device=device,
            threads=Threads(**read_json(record)),
            augmentation=augmentation,
        )

    @property
    def unfinished(self) -> Path:
        """The folder of what is needed only until all is whole."""
        return self.folder / UNFINISHED / self.device

    def sources(self, progress: Progress) -> Sources:
        """Open what the explanations are made from."""
        return Sources.open(self.run, self.folder, self.unfinished, progress, self.device)

    def record(self, task: Task) -> Path:
        """Return the file that says what was fitted on a network."""
        return self.unfinished / f"{task}.json"

    def fitted(self, task: Task) -> Fitted:
        """Read what was fitted on a network."""
        values = read_json(self.record(task), ("fits", "layers", "dense", "kinds"))
        kinds = {key: kind_of(entry) for key, entry in values["kinds"].items()}
        return Fitted(task=task, **(values | {"kinds": kinds}))

    def heads(self) -> Jobs[HeadJob]:
        """Return the jobs that come first."""
        return Jobs(
            title="heads",
            work=fit_heads,
            jobs={f"{task} {self.device}": HeadJob(study=self, task=task) for task in TASKS},
            is_done=lambda job: job.study.record(job.task).is_file(),
        )

    def blocks(self, count: int) -> Jobs[BlockJob]:
        """Return the jobs that come then, for so many test tiles."""
        starts = range(0, count, BLOCK)
        blocks = [BlockJob(study=self, start=at, stop=min(at + BLOCK, count)) for at in starts]
        return Jobs(
            title="explain",
            work=explain_block,
            jobs={f"{block.start:09d} {self.device}": block for block in blocks},
            is_done=lambda job: job.table.is_file(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """What is known of a network once its heads are fitted.

    Attributes
    ----------
    task
        Which network.
    fits
        What the summary says of what was fitted, by the method's name.
    layers
        Those that heads look at, see `Network.layers`; none where nothing was fitted.
    dense
        Stride and margin of its maps, see `Explainer`.
    kinds
        Its maps, by key, `<network>_<method>`.
    """

    task: Task
    fits: dict[str, Any]
    layers: list[dict[str, Any]]
    dense: dict[str, Any]
    kinds: dict[str, Kind]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadJob:
    """A network whose heads are to be fitted."""

    study: Study
    task: Task


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockJob:
    """Test tiles, by their numbers among these, that are to be explained with both networks."""

    study: Study
    start: int
    stop: int

    @property
    def table(self) -> Path:
        """The file of scores, written last."""
        return self.study.unfinished / "blocks" / f"{self.start:09d}.parquet"

    @property
    def maps(self) -> Path:
        """The file of maps, `[sum of tiles h w]`: kind after kind."""
        return self.table.with_suffix(".npy")


_READY: dict[str, tuple[tuple[Any, ...], Network]] = {}
"""The last network of each kind that this process has loaded, and the files that it comes from."""


def forget_networks() -> None:
    """Free the networks that this process has loaded for jobs."""
    _READY.clear()


def fit_heads(job: HeadJob, progress: Progress) -> None:
    """Fit on a network what methods need, and look at what maps it gives.

    Parameters
    ----------
    job
        Which network.
    progress
        Told how far the work is.

    Raises
    ------
    RunError
        This process computes on another device.
    SettingsError, ModelError
        As `fitted_network`.
    """
    study, task = job.study, job.task
    if study.record(task).is_file():
        return
    with _computing(study):
        sources = study.sources(progress)
        network = fitted_network(task, sources, study.augmentation)
        image = np.asarray(sources.tiles.images[sources.rows("test")[0]])
        record = {
            "fits": dict(network.fits),
            "layers": network.layers(image) if network.heads else [],
            "dense": network.explainer.dense.geometry if network.explainer.dense else {},
            "kinds": {key: kind_entry(kind) for key, kind in kinds_of(network, image).items()},
        }
        write_json(study.record(task), record)
        _READY[task] = _state(study, task), network


def explain_block(job: BlockJob, progress: Progress) -> None:
    """Explain some test tiles with both networks.

    Parameters
    ----------
    job
        Which tiles; heads are fitted.
    progress
        Told after every batch.

    Raises
    ------
    RunError
        This process computes on another device, or does not see what was fitted.
    ModelError
        A map is not finite, or the device's memory is too small.
    """
    study = job.study
    if job.table.is_file():
        return
    with _computing(study):
        sources = study.sources(progress)
        networks = [_network(study, task, sources) for task in TASKS]
        kinds = kinds_of_study(study)
        images = sources.tiles.images[sources.rows("test")[job.start : job.stop]]
        maps = {key: np.empty((len(images), *kind.size), np.float32) for key, kind in kinds.items()}
        with progress.task("explain", len(images) * len(networks)) as step:
            scores = explain_tiles(networks, images, maps, step)
        job.table.parent.mkdir(exist_ok=True)
        write_array(job.maps, np.concatenate([values.ravel() for values in maps.values()]))
        write_table(job.table, scores)


def kinds_of_study(study: Study) -> dict[str, Kind]:
    """Return the kinds of maps of both networks, whose heads are fitted."""
    return {key: kind for task in TASKS for key, kind in study.fitted(task).kinds.items()}


def join_block(job: BlockJob, file: SaliencyFile) -> pd.DataFrame:
    """Copy the maps of an explained block into the file of all maps.

    Parameters
    ----------
    job
        The block.
    file
        With room for all test tiles.

    Returns
    -------
    pd.DataFrame
        Its scores, see `explain_tiles`.

    Raises
    ------
    RunError
        The block is damaged.
    """
    scores, values, at = read_table(job.table), np.load(job.maps, mmap_mode="r"), 0
    count = job.stop - job.start
    if len(scores) != count or len(values) != count * sum(h * w for h, w in (k.size for k in file.kinds.values())):
        raise damaged(job.maps, "it holds other maps")
    for key, kind in file.kinds.items():
        shape = count, *kind.size
        own = values[at : at + count * kind.size[0] * kind.size[1]]
        file.maps(key)[job.start : job.stop] = own.reshape(shape)
        at += len(own)
    return scores


@contextmanager
def _computing(study: Study) -> Iterator[None]:
    """Compute as all jobs do."""
    device = pick_device(study.run.settings.compute.device)
    if device.type != study.device:
        problem = f"computes on {device.type}, and the others on {study.device}"
        cure = f'Set compute.device = "{study.device}", or work on machines that are alike'
        raise RunError(f"worker on {socket.gethostname()}", problem, cure)
    keep_memory()
    with study.threads.applied(), reproducible(device, study.run.settings.seed):
        yield


def _state(study: Study, task: Task) -> tuple[Any, ...]:
    """Tell one state of a network's files from another."""
    files = study.record(task), study.run.folder / task / WEIGHTS
    return study.device, *((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files)


def _network(study: Study, task: Task, sources: Sources) -> Network:
    """Load a network and its heads, unless it was loaded for the block before."""
    state = _state(study, task)
    if task not in _READY or _READY[task][0] != state:
        _READY.pop(task, None)  # frees its memory first
        _READY[task] = state, loaded_network(task, sources, study.fitted(task).fits)
    return _READY[task][1]


def _device_of(executor: Executor | None, setting: str) -> str:
    """Return the type of the device on which jobs compute."""
    if not isinstance(executor, Cluster):
        return device_type(setting)
    types: list[str] = sorted(set(executor.ask(device_type, setting).values()))
    if len(types) > 1:
        problem = f"its workers compute on {' and '.join(types)}, whose maps do not go together"
        raise RunError(executor.scheduler, problem, "Set compute.device, or start workers that are alike")
    return types[0]


def device_type(setting: str) -> str:
    """Return the type of the device that a setting means on this machine; a SettingsError where there is none."""
    return pick_device(setting).type
