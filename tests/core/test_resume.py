"""Parts of long work: made once, whole or absent, gone when all is done."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from vitrail.core.resume import Parts
from vitrail.errors import RunError


def never():
    raise AssertionError("it was made before")


def test_parts_are_made_once_and_survive(tmp_path):
    table = pd.DataFrame({"x": [1, 2]})
    first = Parts(tmp_path / "parts")
    first.array("a", lambda: np.arange(3))
    first.table("b", lambda: table)
    first.record("c", lambda: {"y": [1.5]})
    again = Parts(tmp_path / "parts")
    assert again.array("a", never).tolist() == [0, 1, 2]
    pd.testing.assert_frame_equal(again.table("b", never), table)
    assert again.record("c", never) == {"y": [1.5]}
    assert {path.name for path in (tmp_path / "parts").iterdir()} == {"a.npy", "b.parquet", "c.json"}
    again.discard()
    assert not (tmp_path / "parts").exists()


def test_a_part_that_fails_leaves_nothing_and_a_damaged_one_is_told(tmp_path):
    parts = Parts(tmp_path / "parts")
    with pytest.raises(AssertionError):
        parts.table("b", never)
    assert list((tmp_path / "parts").iterdir()) == []
    (tmp_path / "parts" / "c.json").write_text("{")
    with pytest.raises(RunError, match="is damaged"):
        parts.record("c", never)
