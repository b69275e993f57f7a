"""The same slides by one command, by shards, and by a dask cluster: the same bytes, and how long it takes.

    python -m bench.spread [--slides N] [--only PART]... [--folder FOLDER]

Small phantoms, 64 of them, are mapped as `vitrail predict SLIDE...` does it: by a command without `--shard`, by 1, 2
and 4 commands with `--shard`, by 4 of which two are killed (SIGKILL, one after an eighth of the slides, one after a
quarter) and nobody takes their place, and, where dask is installed, by clusters of 2 workers and of 4, two of which are
killed and replaced by their nannies. Both networks are tiny and untrained. Every process has one thread, so that more
workers mean more cores; start-up counts, as it does for a user. Other clocks: "mapping" is from the first slide that is
finished to the last one, without what stands before and behind it.

All files but those that tell how long something took must have the bytes of the first row. The parts are `plain`,
`shards`, `killed` and `dask`; all of them without --only.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from bench.growth import write_networks

from vitrail.synthetic import write_slide

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PARTS = ("plain", "shards", "killed", "dask")
SIDE_PX, MPP, DISTINCT = 512, 0.5, 4
POLL = 0.05
LIMIT = 600
"""Seconds that a row may take."""

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
SETTINGS = ("compute.engine=torch", "compute.precision=float32", "predict.artefacts=false")
"""A choice that is measured could come out differently beside others."""


def write_slides(folder: Path, count: int) -> list[Path]:
    """Write phantoms, a few of them under many names."""
    drawn = [
        write_slide(folder / "drawn", f"P{number}", side_px=SIDE_PX, mpp=MPP, seed=number)
        for number in range(min(DISTINCT, count))
    ]
    (folder / "slides").mkdir()
    slides = [folder / "slides" / f"S{number:03}{drawn[0].suffix}" for number in range(count)]
    for number, slide in enumerate(slides):
        os.link(drawn[number % len(drawn)], slide)
    return slides


def begin(*arguments: object) -> subprocess.Popen:
    """Start a Python program with one thread."""
    command = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.Popen(  # noqa: S603 - our own programs
        command, env=os.environ | ONE_THREAD, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def finished(out: Path) -> int:
    """Return how many slides are mapped."""
    return len(list(out.glob("*.png")))


def watch(out: Path, processes: list[subprocess.Popen], deaths: dict[int, Callable[[], None]]) -> tuple[float, float]:
    """Wait for processes; call what is due after so many slides; return the seconds in all and of mapping."""
    began, first, last, count = time.perf_counter(), None, None, 0
    deaths = dict(deaths)
    while any(process.poll() is None for process in processes):
        if time.perf_counter() - began > LIMIT:
            raise SystemExit(f"{out.name}: not finished within {LIMIT} s")
        if (now := finished(out)) != count:
            count, last = now, time.perf_counter()
            first = first or last
            for due in [number for number in deaths if number <= count]:
                deaths.pop(due)()
        time.sleep(POLL)
    seconds = time.perf_counter() - began
    for process in processes:
        error = process.communicate()[1]
        if process.returncode not in {0, -signal.SIGKILL}:
            raise SystemExit(f"{out.name} ended with {process.returncode}: {error[-2000:]}")
    return seconds, (last or 0) - (first or 0)


def digests(out: Path) -> dict[str, str]:
    """Return the digests of all results, but for the seconds in them."""
    files = [path for path in out.iterdir() if path.is_file() and path.suffix not in {".json", ".csv"}]
    summary = pd.read_csv(out / "summary.csv").drop(columns="seconds").to_csv().encode()
    contents = {path.name: path.read_bytes() for path in files if path.name != ".lock"} | {"summary.csv": summary}
    return {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}


@contextmanager
def cluster(folder: Path, workers: int) -> Iterator[tuple[str, list[subprocess.Popen]]]:
    """Start a scheduler and workers; yield its address and the nannies."""
    from distributed import Client  # noqa: PLC0415 - an extra

    file, options = folder / "scheduler.json", ("--no-dashboard",)
    file.unlink(missing_ok=True)
    local = ("--scheduler-file", file)
    processes = [begin("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", 0, *local, *options)]
    try:
        while not file.is_file():
            time.sleep(POLL)
        scratch = ("--local-directory", folder / "scratch", "--nthreads", 1, "--nworkers", 1)
        processes += [begin("distributed.cli.dask_worker", *local, *scratch, *options) for _ in range(workers)]
        address = str(pd.read_json(file, typ="series")["address"])
        with Client(address) as client:  # a cluster is there already
            client.wait_for_workers(workers, timeout=LIMIT)
        yield address, processes[1:]
    finally:
        for process in reversed(processes):
            process.terminate()
            process.communicate()


def kill_worker(nanny: subprocess.Popen) -> None:
    """Kill the worker process of a nanny: the youngest of its children's, by the kernel's list."""
    children = Path(f"/proc/{nanny.pid}/task/{nanny.pid}/children")
    for child in reversed(children.read_text(encoding="ascii").split()):
        command = Path(f"/proc/{child}/cmdline").read_text(encoding="utf-8")
        if "spawn_main" in command:
            os.kill(int(child), signal.SIGKILL)
            return


def show(name: str, count: int, seconds: tuple[float, float], one: float | None, same: str) -> None:
    """Print a row."""
    speed = "" if one is None else f"{one / seconds[1]:8.2f}"
    print(f"  {name:38}{seconds[0]:8.1f}{seconds[1]:9.1f}{seconds[1] / count:10.2f}{speed:>8}  {same}", flush=True)


def measure(folder: Path, count: int, parts: list[str]) -> bool:
    """Print all rows; return whether all bytes were the same."""
    slides = write_slides(folder, count)
    write_networks(folder / "models")
    models = [word for task in ("classifier", "segmenter") for word in (f"--{task}", folder / "models" / task)]
    changes = [word for change in SETTINGS for word in ("--set", change)]
    command = ["vitrail", "predict", *slides, *models, *changes, "--out"]
    expected: dict[str, str] = {}
    one: list[float] = []
    all_same = True

    def row(name: str, processes: list[subprocess.Popen], out: Path, deaths: dict[int, Callable[[], None]]) -> None:
        nonlocal all_same
        seconds = watch(out, processes, deaths)
        results = digests(out)
        expected.update({} if expected else results)
        is_same = results == expected
        all_same &= is_same
        show(name, count, seconds, one[0] if one else None, "the same bytes" if is_same else "OTHER BYTES")
        one.append(seconds[1])
        shutil.rmtree(out)

    print(f"  {'':38}{'s':>8}{'mapping':>9}{'s/slide':>10}{'speed':>8}")
    if "plain" in parts:
        row("one command", [begin(*command, folder / "plain")], folder / "plain", {})
    early, late = max(count // 8, 1), max(count // 4, 2)
    rows = [(workers, False) for workers in (1, 2, 4) if "shards" in parts] + [(4, True)] * ("killed" in parts)
    for workers, kills in rows:
        out = folder / f"shards-{workers}-{kills}"
        processes = [begin(*command, out, "--shard", f"{part}/{workers}") for part in range(1, workers + 1)]
        deaths = {early: processes[0].kill, late: processes[1].kill} if kills else {}
        row(f"--shard, {workers} workers{', 2 of them killed' if kills else ''}", processes, out, deaths)
    if "dask" in parts and find_spec("distributed") is not None:
        for workers, kills in ((2, False), (4, True)):
            out = folder / f"dask-{workers}"
            with cluster(folder, workers) as (address, nannies):
                process = begin(*command, out, "--scheduler", address)
                deaths = {}
                if kills:
                    deaths = {early: lambda: kill_worker(nannies[0]), late: lambda: kill_worker(nannies[1])}
                row(f"--scheduler, {workers} workers{', 2 deaths' if kills else ''}", [process], out, deaths)
    return all_same


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slides", type=int, default=64)
    parser.add_argument("--only", action="append", choices=PARTS)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        print(f"{options.slides} slides of {SIDE_PX} x {SIDE_PX} pixels, {os.cpu_count()} cores, one thread a process")
        if not measure(Path(folder), options.slides, options.only or list(PARTS)):
            raise SystemExit("some results have other bytes")


if __name__ == "__main__":
    main()
