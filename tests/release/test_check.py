"""A wheel or sdist that lacks a file, or has one too many, is not published."""

from __future__ import annotations

import io
import shutil
import tarfile
import zipfile

import pytest

import vitrail
from release import check

OWN = f"vitrail-{vitrail.__version__}"
ABOUT = f"{OWN}.dist-info"
METADATA = (
    f"Metadata-Version: 2.4\nName: vitrail\nVersion: {vitrail.__version__}\nLicense-Expression: Apache-2.0\n\n# Text\n"
)
SMALL = ("vitrail/__init__.py", "vitrail/py.typed", *check.VENDOR)


@pytest.fixture
def repository(tmp_path):
    """A repository whose package is small."""
    source = tmp_path / "repository" / "src" / "vitrail"
    source.mkdir(parents=True)
    shutil.copy(check.ROOT / "src" / "vitrail" / "__init__.py", source)
    (source / "py.typed").touch()
    (source / "__pycache__").mkdir()
    (source / "__pycache__" / "made.pyc").touch()
    return tmp_path / "repository"


def wheel(folder, files, **changes):
    """Write a wheel."""
    about = {"METADATA": METADATA, "RECORD": "", "WHEEL": "", "licenses/LICENSE": ""}
    about["entry_points.txt"] = "[console_scripts]\nvitrail = vitrail.__main__:program\n"
    path = folder / f"{OWN}-{changes.pop('tags', 'py3-none-any')}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name in files:
            archive.writestr(name, "")
        for name, text in (about | changes).items():
            if text is not None:
                archive.writestr(f"{ABOUT}/{name}", text)
    return path


def sdist(folder, files, root=OWN, about=METADATA):
    """Write an sdist."""
    path = folder / f"{OWN}.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name in (*(f"src/{name}" for name in files), "docs/start.md", "frontend/package.json", *check.TOP):
            content = about.encode() if name == "PKG-INFO" else b""
            member = tarfile.TarInfo(f"{root}/{name}" if "//" not in name else name.removeprefix("src//"))
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def test_whole_ones_pass(repository, tmp_path):
    assert check.package_files(repository) == set(SMALL)
    assert [*check.wrong_in_wheel(wheel(tmp_path, SMALL), repository)] == []
    assert [*check.wrong_in_sdist(sdist(tmp_path, SMALL), repository)] == []


@pytest.mark.parametrize("missing", ["vitrail/py.typed", check.VENDOR[1]])
def test_what_is_missing_is_named(repository, tmp_path, missing):
    files = [name for name in SMALL if name != missing]
    for lines in (
        check.wrong_in_wheel(wheel(tmp_path, files), repository),
        check.wrong_in_sdist(sdist(tmp_path, files), repository),
    ):
        assert [line.partition(": ")[2] for line in lines] == [f"{missing} is missing"]


@pytest.mark.parametrize(
    ("files", "changes", "problem"),
    [
        ((*SMALL, "tests/test_face.py"), {}, "tests/test_face.py has no business there"),
        (SMALL, {"METADATA": METADATA.replace(vitrail.__version__, "9.9.9")}, "Version is '9.9.9'"),
        (SMALL, {"METADATA": METADATA.replace("# Text\n", "")}, "no description"),
        (SMALL, {"entry_points.txt": "[console_scripts]\n"}, "no program vitrail"),
        (SMALL, {"licenses/LICENSE": None}, "licenses/LICENSE"),
        (SMALL, {"tags": "cp311-cp311-linux_x86_64"}, "not for every system"),
    ],
)
def test_what_is_wrong_with_a_wheel_is_named(repository, tmp_path, files, changes, problem):
    (line,) = check.wrong_in_wheel(wheel(tmp_path, files, **changes), repository)
    assert problem in line


def test_what_is_wrong_with_an_sdist_is_named(repository, tmp_path):
    lines = [*check.wrong_in_sdist(sdist(tmp_path, (*SMALL, "vitrail/left.log")), repository)]
    assert len(lines) == 1
    assert "vitrail/left.log has no business there" in lines[0]
    lines = [*check.wrong_in_sdist(sdist(tmp_path, SMALL, root="vitrail"), repository)]
    assert f"vitrail/ beside {OWN}/" in lines[0]


def test_the_command_wants_one_of_each(tmp_path, capsys):
    assert check.main([str(tmp_path)]) == 1
    assert "0 wheels, 0 sdists" in capsys.readouterr().err


def test_the_package_is_typed():
    assert "vitrail/py.typed" in check.package_files()
