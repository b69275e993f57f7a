"""A real browser, and what every test does in a tab of it."""

from __future__ import annotations

import shutil
import time
from importlib import resources
from pathlib import Path

import pytest

from vitrail.viewer.launch import LIBRARY

CHROMIUM = shutil.which("chromium")
AXE = Path(__file__).parents[2] / "frontend" / "node_modules" / "axe-core" / "axe.min.js"
HARMLESS = (
    "Failed to load resource",  # what the server refuses; the tests of broken slides look at that
    "loaded before reset",  # OpenSeadragon, of a view that was closed while pictures were on their way
    "willReadFrequently",  # the tests read what was drawn
)

NEEDS_BROWSER = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine"),
    pytest.mark.skipif(
        not resources.files("vitrail.viewer").joinpath(*LIBRARY).is_file(), reason="OpenSeadragon is not fetched"
    ),
]


class Tab:
    """A tab at the viewer's address."""

    def __init__(self, tab, address):
        self.tab, self.address, self.problems = tab, address, []
        tab.set_default_timeout(15000)
        tab.on("pageerror", lambda error: self.problems.append(str(error)))

    def open(self, link="", lang="en"):
        self.tab.goto("about:blank")
        self.tab.goto(f"{self.address}?lang={lang}{link}")

    def until(self, condition):
        """Wait until something holds; the page's own policy forbids Playwright's way to wait."""
        deadline = time.monotonic() + 15
        while not self.tab.evaluate(condition):
            assert time.monotonic() < deadline, condition
            self.tab.wait_for_timeout(20)
