"""Training tiles a second: processes that share a training beside one process with as many threads.

    python -m bench.ddp [--task NAME]... [--ranks N] [--encoder NAME] [--side PX] [--batch N] [--steps N] [--rounds N]
                        [--repeats N]

The tiles are those of `bench.train`. One process has as many threads as there are processes on the other side, which
have one each, so that both have the same cores; a batch has the same tiles. They train in turns, each time in fresh
processes, in an order that is drawn anew. The first step of an epoch is not timed, and neither is the first epoch.

It also says what is lost where: the share of a step's time that goes into changing tiles, if each process changed the
whole batch and not its share alone; and how far losses are from those of one process.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import socket
import tempfile
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from bench.train import TASKS, Job, write_tiles

from vitrail.core.progress import Silent
from vitrail.models.preprocessing import intensities
from vitrail.training.loader import Share
from vitrail.training.tasks import TRAINING_TASKS
from vitrail.training.torchrun import helpers, run_together
from vitrail.training.trainer import train

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection


class Stamps(Silent):
    """Notes when each step of a training ends."""

    def __init__(self) -> None:
        self.times: list[float] = []

    @contextmanager
    def task(self, title: str, total: int, done: int = 0) -> Iterator[Callable[..., None]]:
        """Begin a piece of work."""
        if title in TASKS:
            yield lambda *_: self.times.append(time.perf_counter())
            return
        with super().task(title, total, done) as step:
            yield step


def take_part(job: Job, variables: dict[str, str], folder: Path, parent: Connection) -> None:
    """Be one of the processes; the first one reports the times of its steps."""
    os.environ.update(variables)
    torch.set_num_threads(job.threads)
    stamps = Stamps()

    def learn() -> None:
        train(job.task, job.parts, job.settings, folder=folder, progress=stamps, gather=helpers(job.folder))
        parent.send(stamps.times)

    if variables:
        run_together(learn)
    else:
        learn()


def rates(job: Job, ranks: int, folder: Path) -> np.ndarray:
    """Train once; return tiles a second of each epoch but the first."""
    shutil.rmtree(folder, ignore_errors=True)
    context, started = multiprocessing.get_context("spawn"), []
    parent, child = context.Pipe()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for rank in range(ranks):
        place = {"RANK": rank, "WORLD_SIZE": ranks, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        variables = {key: str(value) for key, value in place.items()} if ranks > 1 else {}
        started.append(context.Process(target=take_part, args=(job, variables, folder, child)))
        started[-1].start()
    times = parent.recv()
    for process in started:
        process.join()
    epochs = np.array(times).reshape(job.rounds + 1, 1 + job.steps + job.looks)
    return job.batch * job.steps / (epochs[1:, job.steps] - epochs[1:, 0])


def changing(job: Job, share: Share) -> float:
    """Return seconds that a process needs to change its share of a batch."""
    parts, objective = job.parts, TRAINING_TASKS[job.task]
    rows = np.arange(job.batch) if share.rows is None else share.rows
    images = intensities(torch.from_numpy(np.asarray(parts.tiles.images[rows])))
    masks = torch.from_numpy(np.asarray(parts.tiles.masks[rows])) if job.task == "segmenter" else None
    taken = []
    for _ in range(5):
        augmenter = objective.augmenter(job.settings, torch.Generator().manual_seed(0))
        begun = time.perf_counter()
        augmenter(images, masks, share)
        taken.append(time.perf_counter() - begun)
    return float(np.median(taken))


def measure(job: Job, ranks: int, repeats: int) -> None:
    """Let both sides train in turns, and print what came out."""
    order, found = np.random.default_rng(0), {1: list[float](), ranks: list[float]()}
    for _ in range(repeats):
        for side in order.permutation(list(found)).tolist():
            own = replace(job, threads=ranks if side == 1 else 1)
            found[side] += rates(own, side, job.folder / f"{job.task}-{side}").tolist()
    alone, shared = (np.array(found[side]) for side in (1, ranks))
    losses = [pd.read_csv(job.folder / f"{job.task}-{side}" / "history.csv").iloc[:, 1:3] for side in found]
    torch.set_num_threads(1)
    whole, own = (changing(job, Share.of(job.batch, ranks=each)) for each in (1, ranks))
    step = job.batch / np.median(shared)
    print(
        f"{job.task}, batches of {job.batch}\n"
        f"  one process, {ranks} threads     {np.median(alone):7.1f} tiles/s ({alone.min():.1f}..{alone.max():.1f})\n"
        f"  {ranks} processes, one thread    {np.median(shared):7.1f} tiles/s ({shared.min():.1f}..{shared.max():.1f})"
        f"   {np.median(shared) / np.median(alone):.2f} of one process\n"
        f"  changing tiles: own share {own / step:.1%} of a step, the whole batch {whole / step:.1%}\n"
        f"  losses differ by {float((losses[0] / losses[1] - 1).abs().max().max()):.1e} at most",
        flush=True,
    )


def main(argv: list[str] | None = None) -> int:
    """Time and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", action="append", choices=TASKS, help="both without it")
    parser.add_argument("--ranks", type=int, default=2, help="processes, and threads of the one")
    parser.add_argument("--encoder", default="efficientnet_b0", help="timm's name")
    parser.add_argument("--side", type=int, default=224, help="of a tile, in pixels")
    parser.add_argument("--batch", type=int, default=16, help="tiles of a step")
    parser.add_argument("--steps", type=int, default=2, help="that are timed in each epoch")
    parser.add_argument("--rounds", type=int, default=2, help="epochs that are timed in each turn")
    parser.add_argument("--repeats", type=int, default=3, help="turns")
    options = parser.parse_args(argv)
    shared = {name: getattr(options, name) for name in ("encoder", "side", "batch", "steps", "rounds")}
    print(f"{options.encoder}, {options.side} px, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}\n")
    with tempfile.TemporaryDirectory() as folder:
        jobs = [Job(task=task, folder=Path(folder), threads=1, **shared) for task in options.task or TASKS]
        write_tiles(jobs[0])
        for job in jobs:
            measure(job, options.ranks, options.repeats)
    print(f"\nload at the end {os.getloadavg()[0]:.1f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
