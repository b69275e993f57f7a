"""Runs broken input through Vitrail in a process of its own, under limits of memory and time.

Each case is drawn from its number alone. `python -m helpers.fuzzing slide 17 FOLDER`, in `tests/`, runs one again, and
leaves its file; `test_fuzz.py` writes the folder. Where a test names several kinds they are tried by turns: name them
all again.
"""

from __future__ import annotations

import faulthandler
import json
import random
import resource
import subprocess
import sys
import traceback
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from helpers import mutations

if TYPE_CHECKING:
    from collections.abc import Callable

TESTS = Path(__file__).parents[1]

MEMORY = 2 << 30
"""Bytes of address space that a case may take beyond what the process has."""

SECONDS = 60
"""Far more than any case takes, also on a machine that has other things to do."""


@dataclass(frozen=True, slots=True)
class Target:
    """A kind of input: its valid files, how they are broken, and what reads them."""

    files: tuple[str, ...]  # patterns in the folder of valid files
    mutate: tuple[Callable[[bytes, random.Random], bytes], ...]
    read: Callable[[Path], object]


def read_slide(path):
    """Read a slide in all ways."""
    from dataclasses import replace

    from vitrail.geometry import Region
    from vitrail.slides.slide import open_slide, read_region, read_thumbnail
    from vitrail.synthetic.truth import is_synthetic

    if path.is_file():
        is_synthetic(path)
    slide = open_slide(path, fallback_mpp=0.5)
    whole = slide.region
    part = Region(x=whole.width / 4, y=whole.height / 4, width=min(whole.width, 90), height=min(whole.height, 90))
    for reading in ("fast", "faithful"):
        read_region(replace(slide, reading=reading), part, (50, 50))
    if max(whole.width, whole.height) < 5000:
        read_thumbnail(slide, 32)


def read_outlines(path):
    """Read outlines, join them and draw them."""
    from vitrail.geometry import Region
    from vitrail.slides.annotations import ClassNames, names_found, read_annotations
    from vitrail.tiles.masks import annotated

    names = tuple(dict.fromkeys(" ".join(name.casefold().split()) for name in names_found(path)))
    outlines = read_annotations(path, ClassNames(tumor=names[:1], non_tumor=names[1:2], ignore=names[2:]))
    annotated(outlines, Region(x=0, y=0, width=500, height=500), (64, 64))


def read_programs(path):
    """Read outlines of any program with a slide, and write them for another."""
    from helpers.outlines import made_up_slide
    from vitrail.slides.annotations import ClassNames, names_found, read_annotations
    from vitrail.slides.outlines.convert import convert_outlines

    slide = made_up_slide(path.with_name("slide.svs"), x=300, y=20, frame=(3000, 2000))
    convert_outlines(path, path.with_name("converted"), "asap", slide)
    names = tuple(dict.fromkeys(" ".join(name.casefold().split()) for name in names_found(path)))
    read_annotations(path, ClassNames(tumor=names[:1], non_tumor=names[1:2], ignore=names[2:]), slide)


def read_table(path):
    """Read slides.csv, and what it names."""
    from vitrail.settings.load import preset
    from vitrail.slides.cohort import content_digest, file_digest, read_cohort
    from vitrail.tiles.cohort import check_names

    entries = read_cohort(path)
    check_names(entries, preset("quick"))
    for entry in entries:
        file_digest(entry.slide), content_digest(entry.annotations)


def read_settings(path):
    """Read study.toml, and change it."""
    from vitrail.settings import load as config

    config.read_settings(path)
    config.change_settings(path, ["tiles.side_px=64"])
    config.read_settings(path)


def read_model(path):
    """Read a model folder, one of whose files is broken."""
    from vitrail.models.store import load_model

    folder = path.parent / "model"
    for file in (path.parent / "classifier").iterdir():
        folder.mkdir(exist_ok=True)
        (folder / file.name).write_bytes(file.read_bytes())
    path.replace(folder / path.name.removeprefix("broken-"))
    load_model(folder)


def read_head(path):
    """Read the dense layer of HR-CAM, one of whose files is broken."""
    from vitrail.explain.methods.hrcam import load_head

    folder = path.parent / "broken-head"
    for file in (path.parent / "head").iterdir():
        folder.mkdir(exist_ok=True)
        (folder / file.name).write_bytes(file.read_bytes())
    path.replace(folder / path.name.removeprefix("broken-"))
    load_head(folder)


def read_weights(path):
    """Read an encoder's weights."""
    from vitrail.models.weights import start_weights
    from vitrail.settings.schema import EncoderSettings

    start_weights(EncoderSettings(name="test_efficientnet", weights=str(path)))


def read_picture(path):
    """Read a picture as `vitrail explain` does."""
    from vitrail.pipeline.explain_image import read_picture

    read_picture(path, 1 << 20)


def read_mask(path):
    """Outline a mask, and write what comes of it."""
    from vitrail.cohorts.mask_classes import parse_classes
    from vitrail.cohorts.masks import Mask, Placement, write_mask_outlines

    classes = parse_classes("0-65535=Tumor" if len(path.name) % 2 else "1=Tumor,2=Non-tumor")
    write_mask_outlines(path.with_suffix(".outlines"), "S0", [(Mask(path), Placement())], classes)


def read_clinical(path):
    """Join a table, or read records of JSON as columns."""
    from vitrail.cohorts.columns import add_columns, join_table, read_records
    from vitrail.cohorts.draft import Candidate, Draft, write_draft

    files = [path.with_name(f"S{i}.svs") for i in range(3)]
    slides = [Candidate(path=file, slide_id=file.stem, patient_id=file.stem, annotations=file) for file in files]
    draft = Draft(slides=slides)
    if path.suffix == ".csv":
        join_table(draft, path)
    else:
        for record in read_records(path, ("patient_id",)):
            add_columns(slides[0].attributes, record, "clinic")
    out = path.with_suffix(".slides")
    out.unlink(missing_ok=True)
    write_draft(draft, out, path.with_suffix(".unmatched"))


BYTES = (mutations.mutated_bytes,)
TARGETS = {
    "slide": Target(("*.tif", "*.svs", "*.dcm"), (mutations.mutated_tiff, mutations.mutated_bytes), read_slide),
    "outlines": Target(("*.geojson",), (mutations.mutated_json,), read_outlines),
    "programs": Target(("programs/*",), (mutations.mutated_outlines,), read_programs),
    "table": Target(("*.csv",), (mutations.mutated_csv,), read_table),
    "settings": Target(("*.toml",), (mutations.mutated_toml,), read_settings),
    "picture": Target(("*.png", "*.jpg", "*.bmp", "*.webp"), BYTES, read_picture),
    "mask": Target(("masks/*",), (mutations.mutated_tiff, mutations.mutated_bytes), read_mask),
    "clinical": Target(("clinical/*.csv",), (mutations.mutated_csv,), read_clinical),
    "records": Target(("clinical/*.json",), (mutations.mutated_json,), read_clinical),
    "model": Target(("classifier/*.json",), (mutations.mutated_json,), read_model),
    "stored": Target(("classifier/*.safetensors",), BYTES, read_model),
    "head": Target(("head/*.json", "head/*.safetensors"), BYTES, read_head),
    "weights": Target(("*.pth", "*.safetensors"), BYTES, read_weights),
}


@cache
def valid(kind: str, folder: Path) -> tuple[tuple[str, bytes], ...]:
    """Return the valid files of a kind, by name."""
    files = sorted(path for pattern in TARGETS[kind].files for path in folder.glob(pattern))
    return tuple((path.name, path.read_bytes()) for path in files if not path.name.startswith("broken-"))


def broken(kind: str, number: int, folder: Path) -> Path:
    """Return the file of a case: the first are those that were built to do harm, the others are drawn."""
    built = sorted((folder / "hostile" / kind).glob("*"))
    if number < len(built):
        return built[number]
    rng = random.Random(f"{kind} {number}")  # noqa: S311 - no secret
    name, content = rng.choice(valid(kind, folder))
    mutate = rng.choice(TARGETS[kind].mutate)
    if mutate is mutations.mutated_tiff and content[:2] not in {b"II", b"MM"}:
        mutate = mutations.mutated_bytes
    path = folder / f"broken-{name}"
    path.write_bytes(mutate(content, rng))
    return path


def wrong(kind: str, path: Path) -> str | None:
    """Read a broken file; return what is wrong with how it ends, or None."""
    from vitrail.errors import VitrailError

    try:
        TARGETS[kind].read(path)
    except VitrailError as error:
        return None if "\n" not in str(error) and len(str(error)) < 3000 else f"no short line: {str(error)[:200]!r}"
    except BaseException as error:  # noqa: BLE001 - whatever else it is, it is wrong
        last = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {str(error)[:200]} ({Path(last.filename).name}, line {last.lineno})"
    return None


def run(folder: Path, kinds: tuple[str, ...], count: int) -> list[str]:
    """Run cases of kinds by turns in a child process; where one ends the process, go on behind it in another."""
    faults, left = list[str](), range(count)
    while left:
        command = [sys.executable, "-m", "helpers.fuzzing", ",".join(kinds), f"{left.start}:{left.stop}", str(folder)]
        ended = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, cwd=TESTS)  # noqa: S603
        lines = [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("[")]
        faults += [f"{kind} {number}: {fault}" for kind, number, fault in lines if fault]
        left = range(lines[-1][1] + 1 if lines else left.start, left.stop)
        if ended.returncode:
            first = (ended.stderr.strip().splitlines() or [""])[0]
            kind = kinds[left.start % len(kinds)]
            faults.append(f"{kind} {left.start}: the process ended with {ended.returncode} ({first[:300]})")
            left = left[1:]
    return faults


def limited() -> None:
    """Limit the memory of this process from now on."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main(kinds: list[str], numbers: str, folder: Path) -> None:
    """Run cases here, and say after each what was wrong, as JSON."""
    start, _, stop = numbers.partition(":")
    warnings.simplefilter("ignore")
    for kind in kinds:
        for name, content in valid(kind, folder):  # what is valid is read; and all is imported
            (folder / f"broken-{name}").write_bytes(content)
            TARGETS[kind].read(folder / f"broken-{name}")
    limited()
    for number in range(int(start), int(stop or int(start) + 1)):
        kind = kinds[number % len(kinds)]
        path = broken(kind, number // len(kinds), folder)
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        fault = wrong(kind, path)
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps([kind, number, fault]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1].split(","), sys.argv[2], Path(sys.argv[3]))
