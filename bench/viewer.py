"""The viewer: how long squares, explanations and frames take, and what many open slides cost in memory.

    python -m bench.viewer [--slide FILE] [--run RUN] [--squares N] [--slides N] [--seconds S] [--no-browser]

Starts `vitrail view` as a user does and asks it over loopback, from this process, on the same cores:

- squares of a slide and of its maps, 8 in flight, each asked for once, then once more (50th and 95th percentile, ms);
- the server's memory (RSS) before and after squares of many slides, all open in one session (links to one file);
- seconds from the question why a tile is called so to the answer, with the maps of all quick methods: of the first
  question, which loads the networks, and the median of those after it;
- frames a second while a browser (Chromium, without a graphics card) pans by keys: no map, a map, its contours.

--slide is a slide for the first two, by default a synthetic one of 8192 px; --run is a finished run whose test slides
are mapped, for all that needs networks or maps.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import local
from urllib.parse import urlsplit

import numpy as np

from vitrail.synthetic import write_slide

IN_FLIGHT = 8
PER_SLIDE = 30
QUESTIONS = 12


class Server:
    """A running `vitrail view`, asked over connections that stay open."""

    def __init__(self, process, address):
        self.process, self.path = process, urlsplit(address).path
        self.host, self.threads, self.address = urlsplit(address).netloc, local(), address

    def ask(self, path, question=None):
        """Return an answer's content, and the seconds it took."""
        if not hasattr(self.threads, "connection"):
            self.threads.connection = http.client.HTTPConnection(self.host, timeout=600)
        connection, begin = self.threads.connection, time.perf_counter()
        if question is None:
            connection.request("GET", self.path + path)
        else:
            connection.request("POST", self.path + path, json.dumps(question), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise SystemExit(f"{path}: {answer.status} {content[:200]!r}")
        return content, time.perf_counter() - begin

    def json(self, path):
        """Return an answer that is JSON."""
        return json.loads(self.ask(path)[0])

    def all(self, paths):
        """Return the milliseconds of each question, 8 in flight."""
        with ThreadPoolExecutor(IN_FLIGHT) as pool:
            return [1000 * seconds for _, seconds in pool.map(self.ask, paths)]

    @property
    def processor(self):
        """Seconds of the processor that the server has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def memory(self):
        """MB of the server's process."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8").splitlines()
        return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


@contextmanager
def viewer(*paths):
    """Run `vitrail view`, and yield the server once it has told its address."""
    command = [sys.executable, "-u", "-m", "vitrail", "view", *map(str, paths), "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - vitrail itself
        line = process.stdout.readline()
        if " at http" not in line:
            raise SystemExit("vitrail view has not started")
        try:
            yield Server(process, line.split(" at ")[1].strip())
        finally:
            process.terminate()


def squares(sizes, address, count, dice):
    """Return addresses of different squares of a pyramid, drawn evenly over all, the finest level most often."""
    every = [
        (level, column, row)
        for level, (width, height) in enumerate(sizes)
        for column in range(-(-width // 256))
        for row in range(-(-height // 256))
    ]
    return [address.format(*each) for each in dice.sample(every, min(count, len(every)))]


def show(name, server, ask):
    """Measure what `ask` returns in milliseconds, and print a row of the table."""
    before = server.processor
    milliseconds = ask()
    (p50, p95), each = np.percentile(milliseconds, (50, 95)), (server.processor - before) * 1000 / len(milliseconds)
    print(f"| {name} | {len(milliseconds)} | {p50:.1f} | {p95:.1f} | {each:.1f} |", flush=True)


def halvings(width, height):
    """List the sizes of a pyramid, finest first."""
    sizes = [(width, height)]
    while max(sizes[-1]) > 256:
        sizes.append(tuple(-(-side // 2) for side in sizes[-1]))
    return sizes


def ask_squares(server, count, dice):
    """Measure squares of the first slide, and of its maps where it has some."""
    first = server.json("api/session")["slides"][0]["id"]
    slide = server.json(f"api/slides/{first}")
    paths = squares(slide["levels"], f"slide/{first}/{{}}/{{}}_{{}}.jpg", count, dice)
    show("squares of a slide, new", server, lambda: server.all(paths))
    show("the same again", server, lambda: server.all(paths))
    maps = [
        path
        for layer in slide["layers"]
        for path in squares(
            halvings(layer["width"], layer["height"]), f"map/{first}/{layer['key']}/{{}}/{{}}_{{}}.bin", count, dice
        )
    ]
    if maps:
        dice.shuffle(maps)
        show("squares of its maps", server, lambda: server.all(maps[:count]))


def ask_many(slide, count, dice):
    """Measure the memory that many slides take."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            Path(folder, f"slide{number:03}{slide.suffix}").symlink_to(slide.resolve())
        with viewer(folder) as server:
            shown = [each["id"] for each in server.json("api/session")["slides"]]
            before, course = server.memory, []
            for number, each in enumerate(shown, 1):
                levels = server.json(f"api/slides/{each}")["levels"]
                server.all(
                    [f"thumbnail/{each}.jpg", *squares(levels, f"slide/{each}/{{}}/{{}}_{{}}.jpg", PER_SLIDE, dice)]
                )
                if number in {1, count // 2, count}:
                    course.append(f"{server.memory:.0f} MB after {number}")
            print(
                f"\nMemory of the server: {before:.0f} MB before, {', '.join(course)} slides ({PER_SLIDE} squares each)"
            )


def ask_why(server, dice):
    """Measure from the question to the explanation."""
    first = server.json("api/session")["slides"][0]["id"]
    (width, height), *_ = server.json(f"api/slides/{first}")["levels"]

    def ask():
        at = {"x": dice.uniform(0.3, 0.7) * width, "y": dice.uniform(0.3, 0.7) * height}
        content, seconds = server.ask(f"api/slides/{first}/explain", at)
        return sum(len(network["maps"]) for network in json.loads(content)["networks"].values()), seconds

    count, loading = ask()
    show(f"from a question to {count} maps, one in flight", server, lambda: [1000 * ask()[1] for _ in range(QUESTIONS)])
    print(f"\nThe first question took {loading:.1f} s: the networks were loaded.")


def pan(server, seconds):
    """Count frames while a browser pans over the first slide."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - needs a browser

    first = server.json("api/session")["slides"][0]["id"]
    slide = server.json(f"api/slides/{first}")
    width, height = slide["levels"][0]
    keys = [layer["key"] for layer in slide["layers"]]
    finest = "segmenter" if "segmenter" in keys else next(iter(keys), None)
    looks = {"no map": "~1"} | (
        {"a map": f"{finest}~0.7", "its contours": f"{finest}~1~0.5~both~warm~contour"} if finest else {}
    )
    print("\n| panning, 1600 x 1000 | frames a second | slowest of 20 frames, ms |\n|---|---|---|")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, look in looks.items():
            page = browser.new_page(viewport={"width": 1600, "height": 1000})
            page.goto(f"{server.address}#slide={first}&at={width / 2},{height / 2},1&view={look}")
            page.wait_for_timeout(3000)
            times = page.evaluate(
                """async (seconds) => {
                    const times = [], until = performance.now() + 1000 * seconds;
                    let presses = 0;
                    const press = setInterval(() => {
                        const key = Math.floor(presses++ / 6) % 2 ? 'ArrowLeft' : 'ArrowRight';
                        document.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true }));
                    }, 120);
                    await new Promise((resolve) => {
                        const next = (now) => {
                            times.push(now);
                            if (now < until) requestAnimationFrame(next); else resolve();
                        };
                        requestAnimationFrame(next);
                    });
                    clearInterval(press);
                    return times;
                }""",
                seconds,
            )
            steps = np.diff(times)
            print(f"| {name} | {1000 / steps.mean():.1f} | {np.percentile(steps, 95):.0f} |", flush=True)
            page.close()
        browser.close()


def main():
    """Measure all that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slide", type=Path, help="by default a synthetic one")
    parser.add_argument("--run", type=Path, help="a finished run")
    parser.add_argument("--squares", type=int, default=400)
    parser.add_argument("--slides", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--no-browser", action="store_true")
    asked = parser.parse_args()
    dice = random.Random(0)  # noqa: S311 - not for secrets
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
    print(
        f"| what, {IN_FLIGHT} in flight | n | p50, ms | p95, ms | server's processor, ms each |\n|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        slide = asked.slide or write_slide(Path(folder), "synthetic", side_px=8192, seed=7)
        with viewer(slide) as server:
            ask_squares(server, asked.squares, dice)
        if asked.run:
            with viewer(asked.run) as server:
                ask_squares(server, asked.squares, dice)
                ask_why(server, dice)
                if not asked.no_browser and shutil.which("chromium"):
                    pan(server, asked.seconds)
        ask_many(slide, asked.slides, dice)
    print(f"\nload {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
