"""Real slides and outlines: too large for the repository, kept beside it or where VITRAIL_TEST_DATA says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

DATA = Path(os.environ.get("VITRAIL_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))


def needs_data(*names):
    """Mark a test, or one of its parameters, that reads files or folders of `DATA`; without them it is skipped."""
    missing = [name for name in names if not (DATA / name).exists()]
    return pytest.mark.skipif(bool(missing), reason=f"no {', '.join(missing)} in {DATA} (VITRAIL_TEST_DATA)")
