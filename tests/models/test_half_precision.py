from __future__ import annotations

import json

import numpy as np
import pytest

from helpers.training import SPECS
from vitrail.models.half_precision import is_faster


@pytest.fixture
def cached(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_what_cannot_be_kept_does_not_count(cached, monkeypatch):
    cached.write_text("a file where the folder should be")
    monkeypatch.setattr("vitrail.models.half_precision._gain", lambda *_: 9.0)
    assert not is_faster(SPECS["classifier"], lambda: None, lambda: None)


def test_the_gain_is_how_much_sooner_the_work_is_done(cached):
    clock = iter(np.cumsum([0.0, 9.0, 0.0, 9.0, *[0.0, 3.0, 0.0, 2.0] * 5]))  # warming up does not count
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vitrail.models.half_precision.perf_counter", lambda: next(clock))
        assert is_faster(SPECS["classifier"], lambda: None, lambda: None)
    (path,) = cached.rglob("*.json")
    assert json.loads(path.read_text()) == {"gain": 1.5}
