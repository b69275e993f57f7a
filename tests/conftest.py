"""A cohort small enough to be studied from end to end in seconds."""

from __future__ import annotations

import os
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # small networks gain nothing from threads, and lose much where cores are busy

import pytest
from hypothesis import settings

from helpers.cohort import write_cohort

settings.register_profile("busy", deadline=None)  # other work may take the cores at any time
settings.load_profile("busy")


@pytest.fixture
def cohort(tmp_path):
    """A fresh small cohort that a test may spoil."""
    return write_cohort(tmp_path / "cohort")


@pytest.fixture
def undrawn(monkeypatch):
    """Leave a report's figures undrawn, where a test asks for something else of it."""
    monkeypatch.setattr("vitrail.report.page.save", lambda *_: '<?xml version="1.0"?><svg></svg>')


TESTS = Path(__file__).parent

SLOW = (
    "docs/test_readme",
    "pipeline/test_run",
    "test_fuzz",
    "viewer/test_review_page",
    "viewer/test_page",
    "test_bad_input",
    "pipeline/test_search",
    "report/test_explanations",
    "pipeline/test_predict_slides",
    "pipeline/test_ensemble",
    "report/test_page",
)
"""Files that take longest: they start first, so that no worker is left alone with one at the end."""


def pytest_collection_modifyitems(items):
    rank = {name: number for number, name in enumerate(SLOW)}
    items.sort(key=lambda item: rank.get(item.path.relative_to(TESTS).with_suffix("").as_posix(), len(SLOW)))


@pytest.fixture(scope="session", autouse=True)
def _coarse_figures():
    """Draw figures at a resolution that is quick; what is in them is the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vitrail.report.style.DPI", 40)
        patch.setattr("vitrail.report.page._ALONE_S", 1e9)  # other processes would not hear of it
        yield


@pytest.fixture(scope="session", autouse=True)
def _processor(tmp_path_factory):
    """Keep what is measured of this machine out of the user's cache; let VITRAIL_TEST_BFLOAT16 set the CPU's flag.

    `on` claims instructions for bfloat16 (torch emulates those that are not there), `off` denies them.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))  # nor do the user's defaults count
        patch.setenv("VITRAIL_TRIALS", "off")  # what is computed must not depend on what is fast here
        forced = os.environ.get("VITRAIL_TEST_BFLOAT16")
        if forced:
            patch.setenv("VITRAIL_CPU_BFLOAT16", forced)  # also for the processes that tests start
        yield
