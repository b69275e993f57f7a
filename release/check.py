"""Whether a built wheel and sdist hold what they should: every file of the package, and nothing else.

python -m release.check DIST
"""

from __future__ import annotations

import argparse
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from release.changelog import ROOT, version

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

VENDOR = tuple(
    f"vitrail/viewer/static/vendor/{name}"
    for name in ("stamp.json", "openseadragon/openseadragon.min.js", "openseadragon/LICENSE.txt")
)
"""What the build hook fetches; git does not have it."""

PROGRAM = b"vitrail = vitrail.__main__:program"

TOP = ("README.md", "CHANGELOG.md", "CITATION.cff", "LICENSE", "hatch_build.py", "pyproject.toml", "PKG-INFO")
"""Files of an sdist outside its folders; what else stands there is hatchling's own choice (.gitignore)."""


def package_files(root: Path = ROOT) -> set[str]:
    """Return the files of the package, as they stand below `src`.

    Parameters
    ----------
    root
        Of the repository.

    Returns
    -------
    set[str]
        Such as `vitrail/py.typed`; with those that the build hook fetches.
    """
    paths = (path for path in (root / "src" / "vitrail").rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {path.relative_to(root / "src").as_posix() for path in paths} | {*VENDOR}


def wrong_in_wheel(wheel: Path, root: Path = ROOT) -> Iterator[str]:
    """Yield what is wrong with a wheel.

    Parameters
    ----------
    wheel
        The file.
    root
        The repository that it was built from.

    Yields
    ------
    str
        A line each.
    """
    own = version(root)
    about = f"vitrail-{own}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        yield from _compare(wheel.name, package_files(root), {name for name in names if not name.startswith(about)})
        yield from (f"{wheel.name}: no {name}" for name in _about(about) if name not in names)
        if f"{about}/METADATA" in names:
            yield from _wrong_metadata(wheel.name, archive.read(f"{about}/METADATA").decode(), own)
        starts = archive.read(f"{about}/entry_points.txt") if f"{about}/entry_points.txt" in names else PROGRAM
        if PROGRAM not in starts:
            yield f"{wheel.name}: no program vitrail"
    if not wheel.name.endswith("-py3-none-any.whl"):
        yield f"{wheel.name}: not for every system"


def wrong_in_sdist(sdist: Path, root: Path = ROOT) -> Iterator[str]:
    """Yield what is wrong with an sdist.

    Parameters
    ----------
    sdist
        The file.
    root
        The repository that it was built from.

    Yields
    ------
    str
        A line each.
    """
    own = version(root)
    with tarfile.open(sdist) as archive:
        paths = [PurePosixPath(member.name) for member in archive.getmembers() if member.isfile()]
        outside = {path.parts[0] for path in paths} - {f"vitrail-{own}"}
        yield from (f"{sdist.name}: {name}/ beside vitrail-{own}/" for name in sorted(outside))
        names = {PurePosixPath(*path.parts[1:]).as_posix() for path in paths}
        sources = {name.removeprefix("src/") for name in names if name.startswith("src/")}
        yield from _compare(sdist.name, package_files(root), sources)
        yield from (f"{sdist.name}: no {name}" for name in TOP if name not in names)
        top = {name.partition("/")[0] for name in names} - {"src", "docs", "frontend", ".gitignore", *TOP}
        yield from (f"{sdist.name}: {name} has no business there" for name in sorted(top))
        if f"vitrail-{own}/PKG-INFO" in archive.getnames():
            member = archive.extractfile(f"vitrail-{own}/PKG-INFO")
            yield from _wrong_metadata(sdist.name, member.read().decode() if member else "", own)


def _about(folder: str) -> tuple[str, ...]:
    return tuple(f"{folder}/{name}" for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"))


def _compare(archive: str, expected: set[str], present: Iterable[str]) -> Iterator[str]:
    yield from (f"{archive}: {name} is missing" for name in sorted(expected - {*present}))
    yield from (f"{archive}: {name} has no business there" for name in sorted({*present} - expected))


def _wrong_metadata(archive: str, text: str, own: str) -> Iterator[str]:
    about = Parser().parsestr(text)
    for key, value in (("Name", "vitrail"), ("Version", own), ("License-Expression", "Apache-2.0")):
        if about[key] != value:
            yield f"{archive}: {key} is {about[key]!r}, not {value!r}"
    if not about.get_payload():
        yield f"{archive}: no description"


def main(arguments: list[str] | None = None) -> int:
    """Check a folder of one wheel and one sdist; 1 where something is wrong."""
    parser = argparse.ArgumentParser(description="Check a built wheel and sdist.")
    parser.add_argument("folder", type=Path)
    asked = parser.parse_args(arguments)
    wheels, sdists = sorted(asked.folder.glob("*.whl")), sorted(asked.folder.glob("*.tar.gz"))
    wrong = [] if len(wheels) == len(sdists) == 1 else [f"{asked.folder}: {len(wheels)} wheels, {len(sdists)} sdists"]
    wrong += [line for wheel in wheels for line in wrong_in_wheel(wheel)]
    wrong += [line for sdist in sdists for line in wrong_in_sdist(sdist)]
    print(*wrong, sep="\n", file=sys.stderr)
    print(
        f"{asked.folder}: {'wrong' if wrong else f'wheel and sdist hold the {len(package_files())} files of vitrail'}"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
