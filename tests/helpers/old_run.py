"""The run folder of November 2026 that is kept in the repository: a finished run in a tenth of a second."""

from __future__ import annotations

import tarfile
from pathlib import Path

ARCHIVE = Path(__file__).parents[1] / "fixtures" / "run-2026-11.tar.xz"


def unpack(folder):
    """Unpack it, its cohort beside it, and return the run."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder / "study" / "run"
