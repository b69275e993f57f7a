from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_explain", ROOT / "bench" / "explain.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "bench_explain", module)  # dataclasses look their module up
        spec.loader.exec_module(module)
        yield module


def test_ratios_are_taken_within_a_round(bench, capsys):
    """A machine that is ten times slower in one round changes images a second, but no ratio."""
    slow = np.array([1.0, 10.0, 1.0])
    taken = {bench.FORWARD: 2 * slow, bench.BOTH: 2.2 * slow, bench.GRADCAM: 2.1 * slow, bench.PEER: 8.3 * slow}
    np.testing.assert_allclose(bench.ratio(taken, bench.BOTH, bench.FORWARD), 1.1)
    assert len(bench.ratio(taken, bench.CAPTUM, bench.FORWARD)) == 0
    without = {name: each for name, each in taken.items() if name != bench.PEER}
    bench.goals(taken, without)
    bench.goals(without, {bench.FORWARD: slow, bench.GRADCAM: 1.9 * slow})
    words = [line.split()[-1] for line in capsys.readouterr().out.splitlines() if "ompiled" not in line]
    assert words == ["met", "MET", "met", "met", "measured", "MET"]  # 8.3 / 2.1 is less than 4


def test_a_peer_that_is_missing_is_a_row_that_says_so(bench, capsys, monkeypatch):
    for package in ("captum", "captum.attr", "pytorch_grad_cam"):
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(bench, "keep_memory", lambda: True)  # it would change the memory of all further tests
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    given = ["--encoder", "test_efficientnet", "--side", "64", "--batch", "2", "--rounds", "1"]
    assert bench.main(given) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith(("  pytorch-grad-cam", "  captum")) and "not installed" in line for line in lines) == 4
    assert sum("written out naively" in line and line.endswith("equal") for line in lines) == 2
    assert sum(line.endswith("not measured") for line in lines if "the same, compiled" not in line) == 1


def test_maps_that_differ_are_found(bench, capsys):
    subject = bench.classifier("test_efficientnet", bench.random_images(2, 64))
    found = bench.stacked(bench.vitrail_hrcam(subject))
    assert bench.compare("same", found, bench.naive_hrcam, subject)
    assert not bench.compare("shifted", found.roll(1, 2), bench.naive_hrcam, subject)
    assert not bench.compare("both empty", 0 * found, lambda _: 0 * found, subject)
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()] == ["equal", "DIFFERENT", "DIFFERENT"]
