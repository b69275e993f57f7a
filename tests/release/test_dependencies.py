"""Every dependency is told of, and none that runs is GPL."""

from __future__ import annotations

import re
from email.message import Message
from importlib import metadata

import pytest
from packaging.utils import canonicalize_name

from release import dependencies

PAGE = dependencies.PAGE.read_text(encoding="utf-8")
NOT_FOR_THE_BASE = {"dask", "distributed", "zarr", "anndata", "numba", "opencv-python-headless", "ipython", "h5py"}


@pytest.mark.parametrize(
    ("expression", "allowed"),
    [
        ("MIT", True),
        ("LGPL-2.1-only AND (BSD-3-Clause OR GPL-2.0-only) AND Zlib", True),
        ("MIT OR GPL-3.0-or-later", True),
        ("GPL-2.0-only OR AGPL-3.0-only", False),
        ("MIT AND GPL-3.0-only OR BSD-2-Clause", True),
        ("MIT AND (GPL-3.0-only OR AGPL-3.0-only)", False),
        ("GPL-3.0-only WITH GCC-exception-3.1", True),
        ("GPL-3.0-only WITH Font-exception-2.0", False),
        ("Apache-2.0 WITH LLVM-exception", True),
        ("GNU Lesser General Public License v3 (LGPLv3)", True),
        ("GNU General Public License v3 (GPLv3)", False),
        ("GNU Affero General Public License v3", False),
        ("BSD License AND GNU General Public License (GPL)", False),
        ("GPLv3+", False),
    ],
)
def test_of_choices_one_and_of_parts_all_are_allowed(expression, allowed):
    assert dependencies.is_allowed(expression) is allowed


def described(**fields):
    """Return metadata as a package would have them."""
    about = Message()
    for name, values in fields.items():
        for value in values if isinstance(values, list) else [values]:
            about[name.replace("_", "-")] = value
    return about


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"License_Expression": "MIT", "License": "Apache-2.0"}, "MIT"),
        ({"License": "BSD-3-Clause", "Classifier": ["License :: OSI Approved :: BSD License"]}, "BSD-3-Clause"),
        ({"License": "Copyright (c) 2020", "Classifier": ["License :: OSI Approved :: MIT License"]}, "MIT License"),
        ({"License": "The MIT License (MIT)\n\nPermission is hereby granted"}, "The MIT License (MIT)"),
        ({"License": "BSD\n\nParts under the GNU General Public License"}, ""),
        ({"License": "UNKNOWN"}, ""),
        ({}, ""),
        (
            {
                "License": "BSD",
                "Classifier": [
                    "License :: OSI Approved :: BSD License",
                    "License :: OSI Approved :: GNU General Public License (GPL)",
                ],
            },
            "BSD License AND GNU General Public License (GPL)",
        ),
    ],
)
def test_a_licence_is_read_from_whatever_says_it(monkeypatch, fields, expected):
    monkeypatch.setattr(metadata, "metadata", lambda _: described(**fields))
    assert dependencies.licence("any") == expected
    assert bool([*dependencies.refused(["any"])]) is (expected == "" or "GNU" in expected)


@pytest.mark.parametrize("extra", dependencies.RUN_TIME)
def test_nothing_that_runs_is_gpl(extra):
    groups = dependencies.direct()
    present, missing = dependencies.closure([*groups[""], *groups[extra]])
    assert len(present) > 50
    assert [*dependencies.refused(present)] == []
    if not extra:
        assert set(present) & NOT_FOR_THE_BASE == set()
    if missing:
        pytest.skip(f"not installed here: {', '.join(missing)}")


def test_every_extra_is_of_users_or_of_developers():
    assert set(dependencies.direct()) == {*dependencies.RUN_TIME, "test", "docs", "dev"}


def test_the_page_tells_of_every_dependency():
    table = dependencies.written(PAGE)
    rows = {name: (extras, purpose) for name, extras, purpose, _ in dependencies.rows()}
    assert {name: cells[:2] for name, cells in table.items()} == rows, "run: python -m release.dependencies --write"
    assert set(dependencies.PURPOSES) == set(rows)
    assert all(purpose and licence for _, purpose, licence in table.values())


def test_the_page_tells_the_licences_that_packages_have():
    """Of the versions that are pinned: others may say it in other words."""
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (dependencies.ROOT / "constraints.txt").read_text(), re.MULTILINE))
    compared = 0
    for name, (_, _, own) in dependencies.written(PAGE).items():
        try:
            version = metadata.version(name).partition("+")[0]
        except metadata.PackageNotFoundError:
            continue
        if version == pins.get(canonicalize_name(name)):
            assert own == dependencies.licence(canonicalize_name(name)), name
            compared += 1
    if not compared:
        pytest.skip("no package has the version of constraints.txt")


def test_a_table_is_written_from_what_is_installed():
    shorter = re.sub(r"\| `numpy` .*\n", "", PAGE)
    before, after = dependencies.written(PAGE), dependencies.written(dependencies.rewritten(shorter))
    assert {name: cells[:2] for name, cells in after.items()} == {name: cells[:2] for name, cells in before.items()}
    assert "BSD" in after["numpy"][2]  # other versions may have other words
    with pytest.raises(ValueError, match="no table"):
        dependencies.written("# A page\n")
