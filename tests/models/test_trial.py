from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from vitrail.models import trial as module
from vitrail.models.trial import Execution, Trial, forget_choices, other_threads, remembered_choices

DEFAULT = Execution(engine="openvino", precision="float32", threads=4, batch=8, memory_format="channels_last")
TORCH = replace(DEFAULT, engine="torch", batch=64)
HALF, FEWER = replace(DEFAULT, precision="bfloat16"), replace(DEFAULT, threads=2)


@pytest.fixture(autouse=True)
def cached(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("VITRAIL_TRIALS", "on")
    return tmp_path / "cache"


class Clock:
    """A clock that only work moves."""

    def __init__(self, seconds, monkeypatch):
        self.now, self.seconds, self.ran = 0.0, seconds, []
        monkeypatch.setattr(module, "perf_counter", lambda: self.now)

    def work(self, way):
        def run():
            self.ran.append(way)
            self.now += self.seconds[way]

        return run

    def trial(self, *steps, conditions="a network"):
        return Trial(
            title="a network",
            conditions=conditions,
            default=DEFAULT,
            steps=[lambda best, step=step: (change(best) for change in step) for step in steps],
            work=self.work,
            images=32,
        )


def constant(*ways):
    return [lambda _best, way=way: way for way in ways]


@pytest.mark.parametrize(
    ("rival", "gain", "is_taken"),
    [(HALF, 1.21, True), (HALF, 1.19, False), (TORCH, 1.11, True), (TORCH, 1.09, False), (FEWER, 1.06, True),
     (FEWER, 1.04, False)],
)  # fmt: skip
def test_other_numbers_need_a_better_reason_than_other_last_bits(monkeypatch, rival, gain, is_taken):
    clock = Clock({DEFAULT: gain, rival: 1.0}, monkeypatch)
    assert clock.trial(constant(rival)).choose() == (rival if is_taken else DEFAULT)


def test_each_step_goes_on_from_the_fastest_so_far(monkeypatch):
    both = replace(TORCH, threads=2)
    clock = Clock({DEFAULT: 0.1, TORCH: 0.05, both: 0.04}, monkeypatch)
    chosen = clock.trial(constant(TORCH), [lambda best: replace(best, threads=2)]).choose()
    assert chosen == both
    (choice,) = remembered_choices()
    assert (choice.title, choice.chosen, choice.images) == ("a network", both, 32)
    assert choice.seconds == pytest.approx({str(DEFAULT): 0.1, str(TORCH): 0.05, str(both): 0.04})
    assert len(set(choice.seconds)) == 3


def test_it_is_measured_once_for_the_same_conditions_and_remembered_until_it_is_forgotten(monkeypatch):
    for seconds, conditions, expected in ((2.0, "a", TORCH), (0.1, "a", TORCH), (0.1, "b", DEFAULT)):
        clock = Clock({DEFAULT: seconds, TORCH: 1.0}, monkeypatch)
        assert clock.trial(constant(TORCH), conditions=conditions).choose() == expected
    assert forget_choices() == 2
    assert list(remembered_choices()) == []
    assert clock.trial(constant(TORCH), conditions="a").choose() == DEFAULT


def test_another_machine_measures_anew(monkeypatch):
    for seconds, machine, expected in ((2.0, "a", TORCH), (0.1, "b", DEFAULT), (0.1, "a", TORCH)):
        monkeypatch.setattr(module, "machine", lambda machine=machine: (machine,))
        assert Clock({DEFAULT: seconds, TORCH: 1.0}, monkeypatch).trial(constant(TORCH)).choose() == expected


def test_what_lags_behind_is_run_no_more_and_a_long_trial_begins_no_other_step(monkeypatch):
    clock = Clock({DEFAULT: 0.1, TORCH: 1.0, FEWER: 0.1}, monkeypatch)
    clock.trial(constant(TORCH, FEWER)).choose()
    assert clock.ran.count(TORCH) == 2  # one warms up
    assert clock.ran.count(DEFAULT) == 1 + module.ROUNDS
    clock = Clock({DEFAULT: 4.0, TORCH: 4.0, FEWER: 0.1}, monkeypatch)
    assert clock.trial(constant(TORCH), constant(FEWER), conditions="slow").choose() == DEFAULT
    assert FEWER not in clock.ran


def test_a_moment_of_other_work_does_not_decide(monkeypatch):
    clock = Clock({DEFAULT: 1.0, TORCH: 0.1}, monkeypatch)
    monkeypatch.setattr(module, "SECONDS", 100.0)
    times = {DEFAULT: iter([1.0] * 6), TORCH: iter([9.0, 1.4, 0.6, 0.6, 0.6, 1.4])}
    clock.seconds = type("Next", (), {"__getitem__": lambda _, way: next(times[way])})()
    assert clock.trial(constant(TORCH)).choose() == TORCH


def test_what_cannot_be_remembered_is_not_measured(cached, monkeypatch):
    clock = Clock({DEFAULT: 2.0, TORCH: 1.0}, monkeypatch)
    cached.write_text("a file where the folder should be")
    assert clock.trial(constant(TORCH)).choose() == DEFAULT
    assert clock.ran == []


def test_trials_can_be_switched_off_and_nothing_to_choose_needs_none(cached, monkeypatch):
    clock = Clock({DEFAULT: 2.0, TORCH: 1.0}, monkeypatch)
    assert clock.trial(constant(DEFAULT), []).choose() == DEFAULT
    monkeypatch.setenv("VITRAIL_TRIALS", "off")
    assert clock.trial(constant(TORCH)).choose() == DEFAULT
    assert (clock.ran, cached.exists()) == ([], False)


@pytest.mark.parametrize("content", ["", "[]", '{"chosen": 1}', '{"chosen": {"engine": "abacus"}}'])
def test_a_damaged_file_is_measured_anew(cached, monkeypatch, content):
    clock = Clock({DEFAULT: 2.0, TORCH: 1.0}, monkeypatch)
    clock.trial(constant(TORCH)).choose()
    (path,) = cached.rglob("*.json")
    whole = path.read_text()
    path.write_text(content)
    assert list(remembered_choices()) == []
    assert clock.trial(constant(TORCH)).choose() == TORCH
    assert path.read_text() == whole
    assert json.loads(whole)["chosen"]["engine"] == "torch"


def test_of_two_processes_the_first_ones_choice_counts(cached, monkeypatch):
    clock = Clock({DEFAULT: 2.0, TORCH: 1.0}, monkeypatch)
    other = Clock({DEFAULT: 1.0, TORCH: 2.0}, monkeypatch)

    def slow(way):
        if way == TORCH and not list(cached.rglob("*.json")):
            other.trial(constant(TORCH)).choose()  # ends while this one is still at it
        return clock.work(way)

    mine = replace(clock.trial(constant(TORCH)), work=slow)
    monkeypatch.setattr(module, "perf_counter", lambda: clock.now + other.now)
    assert mine.choose() == DEFAULT
    assert len(list(cached.rglob("*"))) == 3


@pytest.mark.parametrize(
    ("threads", "cores", "omp", "others"),
    [(1, 1, None, []), (2, 2, None, []), (8, 16, None, [4, 16]), (8, 16, "8", [4]), (16, 16, None, [8])],
)
def test_other_numbers_of_threads(monkeypatch, threads, cores, omp, others):
    monkeypatch.setattr(module, "cores", lambda: cores)
    monkeypatch.delenv("OMP_NUM_THREADS") if omp is None else monkeypatch.setenv("OMP_NUM_THREADS", omp)
    assert other_threads(threads) == others


def test_noise_does_not_enter_the_name_of_a_way():
    ways = [DEFAULT, TORCH, HALF, FEWER, replace(DEFAULT, batch=16), replace(TORCH, memory_format="contiguous")]
    assert len({str(way) for way in ways}) == len(ways)
    assert str(replace(FEWER, threads=1)) == "OpenVINO in float32, 1 thread, 8 images a request"
    assert np.unique([way.least_gain(DEFAULT) for way in ways[1:]]).tolist() == [1.05, 1.1, 1.2]
