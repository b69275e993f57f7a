"""What an installation brings and takes: packages, megabytes on disk and seconds, for the base and for each extra.

    python -m bench.install [--python PYTHON] [--uv UV] [--extras ...] [--constraint FILE] [--find-links FOLDER]
        [--index ADDRESS] [--torch-backend cpu] [--folder FOLDER]

Each is installed by uv, or where that is missing by pip, into an environment of its own that is removed afterwards. It
is done twice: the first pass, which fills the cache, is not counted, since it would measure the network. Torch is
counted apart: it, torchvision, triton and NVIDIA's libraries. Vitrail itself is built from this repository. Then the
program is started once, and what that takes is told: `vitrail --version`, its bytecode not yet there.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from release.dependencies import RUN_TIME

ROOT = Path(__file__).parents[1]
_OF_TORCH = re.compile(r"(torch|torchvision|triton|nvidia[-_].*|cuda[-_].*)\Z")


def run(*command, **options):
    """Run a command, and return the seconds that it took; what it said where it failed."""
    begun = time.perf_counter()
    done = subprocess.run([str(each) for each in command], capture_output=True, text=True, check=False, **options)  # noqa: S603
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return time.perf_counter() - begun


def environment(folder, asked):
    """Make an empty environment, and return its Python."""
    if asked.uv:
        run(asked.uv, "venv", "--quiet", "--python", asked.python, folder)
    else:
        run(asked.python, "-m", "venv", folder)
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def install(python, extra, wheel, asked):
    """Install the wheel with an extra, and return the seconds."""
    command = [asked.uv, "pip", "install", "--python", python] if asked.uv else [python, "-m", "pip", "install", "-q"]
    command += [f"vitrail[{extra}] @ {wheel.as_uri()}" if extra else wheel]
    for option, values in (("--constraint", asked.constraint), ("--find-links", asked.find_links)):
        command += [each for value in values for each in (option, value)]
    for address in asked.index:
        command += ["--extra-index-url", address]
    if asked.uv and asked.index:
        command += ["--index-strategy", "unsafe-best-match"]
    if asked.uv and asked.override:
        command += ["--override", asked.override]
    if asked.uv and asked.torch_backend:
        command += ["--torch-backend", asked.torch_backend]
    return run(*command)


def sizes(python):
    """Return the packages of an environment with their bytes, as their own records list them."""
    code = """
import importlib.metadata, os
for each in importlib.metadata.distributions():
    files = (each.locate_file(file) for file in each.files or [])
    print(each.metadata["Name"], sum(os.path.getsize(file) for file in files if os.path.isfile(file)))
"""
    said = subprocess.run([python, "-B", "-c", code], capture_output=True, text=True, check=True).stdout  # noqa: S603
    pairs = (line.rsplit(" ", 1) for line in said.splitlines())
    return {name.lower(): int(size) for name, size in pairs if name.lower() != "pip"}


def measure(extra, wheel, asked, folder):
    """Install twice, the first time to fill the cache, and return the packages, the seconds and those of a start."""
    for attempt in ("first", "second"):
        place = folder / f"{extra or 'base'}-{attempt}"
        python = environment(place, asked)
        seconds = install(python, extra, wheel, asked)
        if attempt == "second":
            packages, start = sizes(python), run(python, "-m", "vitrail", "--version")
        shutil.rmtree(place)
    return packages, seconds, start


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--python", default=sys.executable, help="the interpreter to install for")
    parser.add_argument("--uv", default=shutil.which("uv"), help="uv; without it pip is used")
    parser.add_argument("--extras", nargs="*", default=[extra for extra in RUN_TIME if extra])
    parser.add_argument("--constraint", action="append", default=[])
    parser.add_argument("--override", help="a file of uv's overrides")
    parser.add_argument("--find-links", action="append", default=[], help="a folder of wheels")
    parser.add_argument("--index", action="append", default=[], help="one more package index")
    parser.add_argument("--torch-backend", help="of uv: cpu leaves CUDA out")
    parser.add_argument("--folder", type=Path, help="where environments are made; they take gigabytes")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        folder = Path(name)
        builder = [asked.uv, "build", "--wheel"] if asked.uv else [asked.python, "-m", "build", "--wheel"]
        run(*builder, "--out-dir" if asked.uv else "--outdir", folder, ROOT)
        (wheel,) = folder.glob("*.whl")
        print(f"{'':10} {'packages':>8} {'MB':>6} {'of torch: packages':>18} {'MB':>6} {'seconds':>8} {'start s':>8}")
        base = {}
        for extra in ("", *asked.extras):
            found, seconds, start = measure(extra, wheel, asked, folder)
            own = {package: size for package, size in found.items() if package not in base}
            torch = {package: size for package, size in own.items() if _OF_TORCH.match(package)}
            others = {package: size for package, size in own.items() if package not in torch}
            base = base or found
            print(
                f"{f'+ {extra}' if extra else 'base':10} {len(others):8} {sum(others.values()) / 1e6:6.0f} "
                f"{len(torch):18} {sum(torch.values()) / 1e6:6.0f} {seconds:8.1f} {start:8.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
