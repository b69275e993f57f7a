"""A release's text is its section of the changelog, and a tag that does not fit is refused."""

from __future__ import annotations

import pytest

import vitrail
from release import changelog

TEXT = """# Changelog

## 0.2.0 (2026-12-24)

### New

- A way in. See `## 0.1.0` for what was before.

## 0.1.0 (2026-11-30)

- All of it.

## 0.0.1
"""


@pytest.fixture
def repository(tmp_path):
    """Return what writes a repository with a version and a changelog."""

    def write(version, text):
        (tmp_path / "src" / "vitrail").mkdir(parents=True, exist_ok=True)
        (tmp_path / "src" / "vitrail" / "__init__.py").write_text(f'"""A face."""\n\n__version__ = "{version}"\n')
        (tmp_path / "CHANGELOG.md").write_text(text)
        return tmp_path

    return write


def test_a_section_ends_where_the_next_version_begins():
    assert changelog.section(TEXT, "0.1.0") == ("2026-11-30", "- All of it.\n")
    when, body = changelog.section(TEXT, "0.2.0")
    assert when == "2026-12-24"
    assert body == "### New\n\n- A way in. See `## 0.1.0` for what was before.\n"


@pytest.mark.parametrize(("version", "why"), [("0.3.0", "no sections"), ("0.0.1", "says nothing"), ("0.1", "no sect")])
def test_what_is_not_there_is_refused(version, why):
    with pytest.raises(changelog.NotReleasableError, match=why):
        changelog.section(TEXT, version)


def test_a_version_that_stands_twice_is_refused():
    with pytest.raises(changelog.NotReleasableError, match="2 sections"):
        changelog.section(TEXT + TEXT, "0.1.0")


def test_the_tag_has_to_be_the_version(repository):
    root = repository("0.2.0", TEXT)
    assert changelog.notes("v0.2.0", root).startswith("### New")
    for tag in ("0.2.0", "v0.1.0", "v0.2.0rc1"):
        with pytest.raises(changelog.NotReleasableError, match=r"its tag is v0\.2\.0"):
            changelog.notes(tag, root)


def test_what_is_not_dated_is_not_released(repository):
    root = repository("0.2.0", TEXT.replace("2026-12-24", "unreleased"))
    assert changelog.notes(None, root).startswith("### New")
    with pytest.raises(changelog.NotReleasableError, match="no date"):
        changelog.notes("v0.2.0", root)


def test_this_version_has_a_section(capfdbinary):
    assert changelog.version() == vitrail.__version__
    assert changelog.main([]) == 0
    assert len(capfdbinary.readouterr().out) > 1000
    assert changelog.main(["--tag", "v0.0.0"]) == 1
    assert b"the tag is v0.0.0" in capfdbinary.readouterr().err
