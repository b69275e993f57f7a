"""Training tiles a second: Vitrail beside a plain timm or smp loop, and beside the bare network.

    python -m bench.train [--task NAME]... [--encoder NAME] [--side PX] [--batch N] [--steps N] [--rounds N]
                          [--threads N]

Tiles are drawn: noise in the colours of their classes, stored as a tile table, so that the loops read a memory map.
All contenders train the same encoder from random weights, with Adam, batches and learning rate alike, and change the
tiles in the same ways.

Vitrail is `vitrail.training.trainer.train` as the commands call it. The plain loops are what a user writes: timm's
classifier or smp's U-Net, a DataLoader without or with 2 workers, torchvision's transforms. The bare network is
Vitrail's, with its settings of memory, its order of channels and its precision, on one batch that lies in memory as
the network wants it: nothing is read, changed or copied.

Each contender is a process of its own, because memory is set up per process, and waits before each epoch for its
turn, in an order that is drawn anew. The first step of an epoch is not timed, and neither is the first epoch. A ratio
is taken within its round before the median over rounds: so what else the machine does weighs on both sides. Where it
does much else, the seconds of the processor, which include those of the DataLoader's workers, tell more.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import segmentation_models_pytorch as smp
import timm
import torch
from bench.plain import CLASSES, Tiles
from torch.utils.data import DataLoader

from vitrail.classes import LABELS, TissueClass
from vitrail.core.progress import Silent
from vitrail.models.device import keep_memory, pick_device, training_precision
from vitrail.models.store import build
from vitrail.settings.load import Settings
from vitrail.tiles.store import new_array, read_tiles
from vitrail.training.loader import TrainingTiles, channel_statistics
from vitrail.training.tasks import TRAINING_TASKS
from vitrail.training.trainer import train

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

VITRAIL, PLAIN, WORKERS, BARE = "Vitrail", "plain, num_workers=0", "plain, num_workers=2", "bare network"
TASKS = "classifier", "segmenter"
COLOURS = np.array([[150, 90, 160], [225, 150, 190], [190, 120, 90], [240, 240, 240]])
"""Of the classes, so different that any network learns them."""

NOISE = 40
RATE = 1e-3  # so that few steps show that something is learnt
PAPER = 20_000  # tiles of its training, about
TICK = 0.01  # seconds of the processor, as Linux counts those of others


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is trained, and how long: epochs of `steps` timed steps and one more, and a quarter of them validation."""

    task: str
    folder: Path
    encoder: str
    side: int
    batch: int
    steps: int
    rounds: int
    threads: int

    @property
    def settings(self) -> Settings:
        """A study's settings."""
        network = {"batch": self.batch, "epochs": self.rounds + 1, "learning_rate": RATE}
        encoder = {"name": self.encoder, "weights": "random"}
        return Settings.model_validate({"encoder": encoder, "tiles": {"side_px": self.side}, self.task: network})

    @property
    def looks(self) -> int:
        """Steps of the validation; of which the first is not timed."""
        return 1 + max(1, self.steps // 4)

    @property
    def parts(self) -> TrainingTiles:
        """Training and validation tiles."""
        tiles = read_tiles(self.folder)
        last = (1 + self.steps) * self.batch
        return TrainingTiles(tiles=tiles, train=np.arange(last), validation=np.arange(last, len(tiles)))

    @property
    def count(self) -> int:
        """Tiles of the table."""
        return (1 + self.steps + self.looks) * self.batch


def write_tiles(job: Job) -> None:
    """Draw a tile table: each tile has a square of its own class in the middle, and of another one around it."""
    rng, side, edge, labels = np.random.default_rng(0), job.side, job.side // 8, np.arange(job.count) % 2
    images = new_array(job.folder / "images.npy", (job.count, side, side, 3))
    masks = new_array(job.folder / "masks.npy", (job.count, side, side))
    for image, mask, label in zip(images, masks, labels, strict=True):
        mask[:] = rng.choice([TissueClass.OTHER, TissueClass.BACKGROUND])
        mask[edge:-edge, edge:-edge] = label
        image[:] = (COLOURS[mask] + rng.normal(0, NOISE, (side, side, 3))).clip(0, 255)
    keys = [LABELS[label].key for label in labels]
    pd.DataFrame({"slide_id": "S", "label": keys}).to_parquet(job.folder / "tiles.parquet")


class Laps:
    """The stop watch of a contender; it waits for its turn before each epoch, and reports behind it."""

    def __init__(self, job: Job, parent: Connection) -> None:
        self._ends, self._parent, self._steps = (1, 1 + job.steps), parent, 0
        self._ends += (self._ends[1] + 1, self._ends[1] + job.looks)
        self._tiles = job.batch * job.steps, job.batch * (job.looks - 1)
        self._left, self._marks = job.rounds + 1, list[tuple[float, float]]()

    def wait(self) -> None:
        """Wait for the next turn, if there is one."""
        if self._left:
            self._parent.recv()
        self._left, self._steps, self._marks = self._left - 1, 0, []

    def step(self, *_: object) -> None:
        """Count a step, of training or validation."""
        self._steps += 1
        if self._steps in self._ends:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self._marks.append((time.perf_counter(), processor()))
        if self._steps == self._ends[-1]:
            (learning, used), _, (looking, _) = np.diff(self._marks, axis=0).tolist()
            self._parent.send([self._tiles[0] / learning, self._tiles[1] / looking, self._tiles[0] / max(used, TICK)])
            self.wait()


def processor() -> float:
    """Return the seconds of the processor of this process and of its workers, where the kernel tells of these."""
    workers = [Path(f"/proc/{child.pid}/stat") for child in multiprocessing.active_children()]
    fields = [path.read_text(encoding="utf-8").rpartition(")")[2].split() for path in workers if path.is_file()]
    return sum(os.times()[:2]) + TICK * sum(int(numbers[11]) + int(numbers[12]) for numbers in fields)


Contender = Callable[[Job, Laps], list[float]]


class Timed(Silent):
    """Tells a stop watch of Vitrail's steps."""

    def __init__(self, laps: Laps) -> None:
        self._laps = laps

    @contextmanager
    def task(self, title: str, total: int, done: int = 0) -> Iterator[Callable[..., None]]:
        """Begin the training; what follows it takes no turn."""
        if title not in TASKS:
            with super().task(title, total, done) as step:
                yield step
            return
        self._laps.wait()
        yield self._laps.step


def vitrail(job: Job, laps: Laps) -> list[float]:
    """Train as Vitrail does; return the mean training loss of each epoch, as all contenders do."""
    folder = job.folder / f"{job.task}-vitrail"
    train(job.task, job.parts, job.settings, folder=folder, progress=Timed(laps))
    return pd.read_csv(folder / "history.csv")["train_loss"].tolist()


def plain(job: Job, laps: Laps, *, workers: int) -> list[float]:
    """Train as a user would write it."""
    parts, device, masks = job.parts, pick_device("auto"), job.task == "segmenter"
    model = plain_network(job).to(device)
    loss = smp.losses.JaccardLoss("multiclass") if masks else torch.nn.BCEWithLogitsLoss()
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    colours = channel_statistics(parts.tiles.images, parts.train)
    sets = [Tiles(parts.tiles, parts.train, colours, masks=masks, train=True)]
    sets += [Tiles(parts.tiles, parts.validation, colours, masks=masks, train=False)]
    options = {"batch_size": job.batch, "num_workers": workers, "persistent_workers": workers > 0}
    if workers and "fork" in multiprocessing.get_all_start_methods():
        options["multiprocessing_context"] = "fork"  # as in a script; this process was spawned, and would spawn, too
    learn, check = (DataLoader(tiles, shuffle=number == 0, **options) for number, tiles in enumerate(sets))
    history = []
    laps.wait()
    for _ in range(job.rounds + 1):
        model.train()
        losses = []
        for x, y in learn:
            optimizer.zero_grad()
            value = loss(model(x.to(device)).squeeze(1), y.to(device))
            value.backward()
            optimizer.step()
            losses.append(value.item())
            laps.step()
        history.append(float(np.mean(losses)))
        model.eval()
        with torch.no_grad():
            for x, y in check:
                loss(model(x.to(device)).squeeze(1), y.to(device)).item()
                laps.step()
    return history


def plain_network(job: Job) -> torch.nn.Module:
    """Build timm's classifier or smp's U-Net."""
    torch.manual_seed(0)
    if job.task == "segmenter":
        return smp.Unet(f"tu-{job.encoder}", encoder_weights=None, classes=CLASSES)
    classifier = timm.create_model(job.encoder, num_classes=1)
    classifier.get_classifier().reset_parameters()
    return classifier


def bare(job: Job, laps: Laps) -> list[float]:
    """Train on one batch that lies in memory."""
    keep_memory()
    device, parts, objective = pick_device("auto"), job.parts, TRAINING_TASKS[job.task]
    torch.manual_seed(0)
    spec = objective.spec(job.settings, channel_statistics(parts.tiles.images, parts.train))
    model = build(spec).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), RATE, fused=True)
    x, y = memory_batch(job, device)
    history = []

    def loss() -> torch.Tensor:
        with training_precision(device).autocast():
            logits = model(x)
        return objective.loss(job.settings, logits.float(), y)

    laps.wait()
    for _ in range(job.rounds + 1):
        model.train()
        for _step in range(1 + job.steps):
            value = loss()
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            laps.step()
        history.append(value.item())
        model.eval()
        with torch.inference_mode():
            for _step in range(job.looks):
                loss()
                laps.step()
    return history


def memory_batch(job: Job, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a batch of standardised images in channels-last memory, and its targets."""
    tiles = job.parts.tiles
    x = torch.from_numpy(tiles.images[: job.batch].copy()).to(device).permute(0, 3, 1, 2).float().div_(128).sub_(1)
    return x, torch.from_numpy(TRAINING_TASKS[job.task].targets(tiles)[: job.batch].copy()).to(device)


CONTENDERS: dict[str, Contender] = {
    VITRAIL: vitrail, PLAIN: partial(plain, workers=0), WORKERS: partial(plain, workers=2), BARE: bare,
}  # fmt: skip


def contend(name: str, job: Job, parent: Connection) -> None:
    """Be a contender; the last thing to be told are the losses."""
    torch.set_num_threads(job.threads)
    parent.send(CONTENDERS[name](job, Laps(job, parent)))


@contextmanager
def contending(job: Job) -> Iterator[dict[str, Connection]]:
    """Start a process for each contender."""
    context, started, ends = multiprocessing.get_context("spawn"), [], {}
    try:
        for name in CONTENDERS:
            ends[name], other = context.Pipe()
            started.append(context.Process(target=contend, args=(name, job, other)))
            started[-1].start()
            other.close()
        yield ends
    finally:
        for end in ends.values():
            end.close()  # whoever still waits for a turn ends with an error
        for process in started:
            process.join(10)
            process.kill()


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What a contender did: its losses, and tiles a second of each round, `[rounds, 3]`.

    In training, in validation, and in training by the seconds of the processor.
    """

    rates: np.ndarray
    losses: list[float]

    @property
    def learnt(self) -> bool:
        """Whether the loss is finite and fell."""
        return bool(np.isfinite(self.losses).all() and self.losses[-1] < self.losses[0])


def measure(job: Job) -> dict[str, Taken]:
    """Let all contenders train, an epoch at a time."""
    order, rates = np.random.default_rng(0), {name: [] for name in CONTENDERS}
    with contending(job) as ends:
        for _ in range(job.rounds + 1):
            for name in order.permutation(list(CONTENDERS)).tolist():
                ends[name].send("go")
                rates[name].append(ends[name].recv())
        losses = {name: end.recv() for name, end in ends.items()}
    return {name: Taken(rates=np.array(rates[name][1:]), losses=losses[name]) for name in CONTENDERS}


def ratio(taken: dict[str, Taken], name: str, to: str, what: int = 0) -> np.ndarray:
    """Return how many times as fast one is as another in each round."""
    return taken[name].rates[:, what] / taken[to].rates[:, what]


def show(job: Job, taken: dict[str, Taken]) -> None:
    """Print a network's part of the table."""
    print(f"{job.task}, batches of {job.batch}")
    for name, each in taken.items():
        rates, looked, used = each.rates.T
        spread, share = f"({rates.min():.1f}..{rates.max():.1f})", np.median(ratio(taken, name, BARE))
        first, last = each.losses[0], each.losses[-1]
        word = "falls" if each.learnt else "DOES NOT FALL"
        print(
            f"  {name:22}{np.median(rates):8.1f} {spread:17}{share:7.2f}{PAPER / np.median(rates):12.0f}"
            f"{np.median(used):10.1f}{np.median(looked):12.1f}   {first:.3f} to {last:.3f}  {word}",
            flush=True,
        )


def goal(text: str, ratios: np.ndarray, *, at_least: float) -> None:
    """Print a goal and whether this run meets it."""
    if not len(ratios):
        print(f"  {text:72} not measured")
        return
    value = float(np.median(ratios))
    word = "met" if value >= at_least else "NOT met"
    print(f"  {text:72} {value:5.2f} ({ratios.min():.2f}..{ratios.max():.2f})  {word}")


def goals(job: Job, taken: dict[str, Taken], *, gpu: bool) -> None:
    """Print the goals of a network."""
    for name in (PLAIN, WORKERS):
        goal(f"{job.task}: at least 2.5 times as fast as {name}", ratio(taken, VITRAIL, name), at_least=2.5)
        goal(f"{job.task}: the same by the processor's seconds", ratio(taken, VITRAIL, name, 2), at_least=2.5)
    share = ratio(taken, VITRAIL, BARE) if gpu else np.empty(0)
    goal(f"{job.task}: on a GPU at least 0.85 of the bare network", share, at_least=0.85)


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", action="append", choices=TASKS, help="both without it")
    parser.add_argument("--encoder", default="efficientnet_b0", help="timm's name")
    parser.add_argument("--side", type=int, default=224, help="of a tile, in pixels")
    parser.add_argument("--batch", type=int, default=16, help="tiles of a step")
    parser.add_argument("--steps", type=int, default=2, help="that are timed in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Time and print; the exit status is 1 where a contender has not learnt."""
    options, gpu, taken = arguments(argv), torch.cuda.is_available(), {}
    shared = {name: getattr(options, name) for name in ("encoder", "side", "batch", "steps", "rounds", "threads")}
    print(
        f"{options.encoder}, {options.side} px, {options.rounds} rounds of {options.steps} steps, {options.threads} "
        f"threads, torch {torch.__version__}, {torch.cuda.get_device_name() if gpu else 'no GPU'}, "
        f"load of the machine {os.getloadavg()[0]:.1f}\n"
    )
    print(f"{'':24}{'tiles/s':>8} {'(min..max)':17}{'share':>7}{'20,000':>12}{'a CPU':>10}{'validation':>12}   loss")
    print(f"{'':24}{'median':>8} {'':17}{'of bare':>7}{'tiles in s':>12}{'second':>10}{'tiles/s':>12}   by epoch")
    with tempfile.TemporaryDirectory() as folder:
        jobs = [Job(task=task, folder=Path(folder), **shared) for task in options.task or TASKS]
        write_tiles(jobs[0])
        for job in jobs:
            taken[job.task] = measure(job)
            show(job, taken[job.task])
    print("\nGoals: median ratio (min..max over rounds)")
    for job in jobs:
        goals(job, taken[job.task], gpu=gpu)
    print(f"\nload of the machine at the end {os.getloadavg()[0]:.1f}")
    return 0 if all(each.learnt for contenders in taken.values() for each in contenders.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
