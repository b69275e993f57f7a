"""Commands that share jobs through a folder: each job is done, whoever dies, and nobody does another's."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

import pytest

from vitrail.core.lock import locked
from vitrail.distribute.claims import Claims, key_of
from vitrail.distribute.jobs import Jobs
from vitrail.distribute.presence import FOLDER, Worker, others_at_work, refuse_beside_others
from vitrail.errors import RunError, SlideError

PROGRAM = """
import sys, time
from pathlib import Path
from vitrail.distribute.claims import Claims
from vitrail.distribute.jobs import Jobs

folder, part, parts, count, slow = Path(sys.argv[1]), *map(int, sys.argv[2:6])

def is_done(number):
    return (folder / f"{number}.txt").is_file()

def work(number, progress):
    with (folder / f"begun-{number}").open("a") as log:
        print(part, file=log)
    if number == slow:
        print("at it", flush=True)
        time.sleep(60)
    time.sleep(0.01)
    (folder / f"{number}.txt").write_text(str(number))

with Claims(folder, (part, parts)) as claims:
    jobs = Jobs(title="numbers", work=work, jobs={str(n): n for n in range(count)}, is_done=is_done)
    print(len([*claims.run(jobs)]))
"""


def begin(folder, part, parts, count=12, slow=-1):
    arguments = [sys.executable, "-c", PROGRAM, str(folder), *map(str, (part, parts, count, slow))]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)  # noqa: S603 - the program above


def jobs(folder, count=6, log=None, work=None):
    def write(number, _progress):
        if log is not None:
            log.append(number)
        if work is not None:
            work(number)
        (folder / f"{number}.txt").write_text(str(number))

    return Jobs(
        title="numbers",
        work=write,
        jobs={str(number): number for number in range(count)},
        is_done=lambda number: (folder / f"{number}.txt").is_file(),
    )


def elsewhere(folder, **changes):
    """Write the file of a command on another machine."""
    worker = replace(Worker.here(), token="far", host="far", machine="far", **changes)  # noqa: S106 - a name
    (folder / FOLDER).mkdir(exist_ok=True)
    path = folder / FOLDER / "far.worker"
    path.write_text(json.dumps(asdict(worker)))
    return path


def far_away(folder):
    """Return a command that others take for one of another machine, and that never touches its file."""
    claims = Claims(folder, beat=1000)
    claims._presence.worker = replace(claims._presence.worker, machine="far")
    return claims


def claim_elsewhere(folder, title="numbers", name="0"):
    path = folder / FOLDER / f"{key_of(title, name)}.0.claim"
    path.write_text("far")
    return path


def test_alone_it_does_its_own_part_first_and_leaves_nothing_behind(tmp_path):
    log = []
    with Claims(tmp_path, (2, 3)) as claims:
        assert {name for name, error in claims.run(jobs(tmp_path, 6, log)) if error is None} == set("012345")
    assert log == [1, 4, 5, 3, 2, 0]
    assert not (tmp_path / FOLDER).exists()


def test_several_do_each_job_once_and_all_hear_of_every_end(tmp_path):
    log, heard = [], []

    def one(part):
        with Claims(tmp_path, (part, 3)) as claims:
            heard.append({name for name, _error in claims.run(jobs(tmp_path, 30, log, lambda _: time.sleep(0.002)))})

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(one, (1, 2, 3)))
    assert sorted(log) == list(range(30))
    assert all((tmp_path / f"{number}.txt").read_text() == str(number) for number in range(30))
    assert not (tmp_path / FOLDER).exists()


def test_processes_one_of_which_is_killed_and_one_comes_late(tmp_path):
    victim = begin(tmp_path, 1, 2, slow=2)
    assert victim.stdout.readline() == "at it\n"
    others = [begin(tmp_path, 2, 2)]
    victim.send_signal(signal.SIGKILL)  # not waited for: its number is still taken
    others.append(begin(tmp_path, 3, 2))
    for other in others:
        other.communicate(timeout=60)
        assert other.returncode == 0
    victim.communicate()
    assert sorted(path.name for path in tmp_path.glob("*.txt")) == sorted(f"{number}.txt" for number in range(12))
    begun = {number: len((tmp_path / f"begun-{number}").read_text().split()) for number in range(12)}
    assert begun == {number: 1 + (number == 2) for number in range(12)}
    assert not (tmp_path / FOLDER).exists()


def test_what_one_far_away_holds_is_waited_for_as_long_as_it_is_touched(tmp_path):
    path, log, said = elsewhere(tmp_path), [], []
    claim = claim_elsewhere(tmp_path)
    ended = threading.Event()

    class Progress:
        def say(self, line):
            said.append(line)

    def beat():
        for number in range(30):
            os.utime(path, ns=(number, number))
            time.sleep(0.05)
        log.append("silent")
        ended.set()

    thread = threading.Thread(target=beat)
    with Claims(tmp_path, progress=Progress(), silence=0.5) as claims:
        thread.start()
        assert len([*claims.run(jobs(tmp_path, 2, log))]) == 2
    thread.join()
    assert log == [1, "silent", 0]
    assert said == [f"numbers: waits for process {os.getpid()} on far, who is at 0"]
    assert not claim.exists()


def test_of_many_who_see_it_dead_one_takes_over(tmp_path):
    elsewhere(tmp_path)
    claim_elsewhere(tmp_path)
    log, barrier = [], threading.Barrier(6)

    def one(_number):
        with Claims(tmp_path, silence=0.05) as claims:
            barrier.wait()
            [*claims.run(jobs(tmp_path, 1, log, lambda _: time.sleep(0.2)))]

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(one, range(6)))
    assert log == [0]


def test_who_was_only_asleep_does_no_harm(tmp_path):
    """It finishes first: the other, whose files are gone then, counts the job as done."""
    sleeper, taker = threading.Event(), threading.Event()
    scratch = tmp_path / "scratch"
    scratch.write_text("strips")

    def asleep(_number):
        taker.wait()

    def awake(_number):
        taker.set()
        sleeper.wait()
        scratch.read_text()

    def first():
        with far_away(tmp_path) as claims:
            [*claims.run(jobs(tmp_path, 1, work=asleep))]
        scratch.unlink()
        sleeper.set()

    thread = threading.Thread(target=first)
    thread.start()
    while not list((tmp_path / FOLDER).glob("*.claim")):
        time.sleep(0.01)
    with Claims(tmp_path, silence=0.1) as claims:
        ends = dict(claims.run(jobs(tmp_path, 1, work=awake)))
    thread.join()
    assert ends == {"0": None}


def test_who_lost_its_job_and_fails_waits_for_the_other(tmp_path):
    taken, failed = threading.Event(), threading.Event()
    ends = {}

    def asleep(_number):
        taken.wait()
        failed.set()
        raise FileNotFoundError("the other has tidied up")

    def awake(_number):
        taken.set()
        failed.wait()
        time.sleep(0.2)

    def first():
        with far_away(tmp_path) as claims:
            ends["first"] = dict(claims.run(jobs(tmp_path, 1, work=asleep)))

    thread = threading.Thread(target=first)
    thread.start()
    while not list((tmp_path / FOLDER).glob("*.claim")):
        time.sleep(0.01)
    with Claims(tmp_path, silence=0.1) as claims:
        ends["second"] = dict(claims.run(jobs(tmp_path, 1, work=awake)))
    thread.join()
    assert ends == {"first": {"0": None}, "second": {"0": None}}


def test_failures_are_reported_by_all_and_tried_again_by_who_comes_later(tmp_path):
    log = []

    def fail(number):
        if number == 1:
            raise SlideError("1.tif", "holds no tissue", "Leave it out")

    with Claims(tmp_path) as first, Claims(tmp_path) as second:
        [mine] = [error for _name, error in first.run(jobs(tmp_path, 3, log, fail)) if error]
        [other] = [error for _name, error in second.run(jobs(tmp_path, 3, log, fail)) if error]
        assert log.count(1) == 1
        assert type(other) is SlideError
        assert str(mine) == str(other) == "1.tif: holds no tissue. Leave it out."
        with Claims(tmp_path) as third:
            assert dict(third.run(jobs(tmp_path, 3, log))) == {"1": None}
    assert log.count(1) == 2


def test_a_fault_is_raised_where_it_happened_and_reported_elsewhere(tmp_path):
    def fault(number):
        if number == 1:
            raise ZeroDivisionError("oh")

    with Claims(tmp_path) as first, Claims(tmp_path) as second:
        with pytest.raises(ZeroDivisionError):
            [*first.run(jobs(tmp_path, 3, work=fault))]
        [error] = [error for _name, error in second.run(jobs(tmp_path, 3, work=fault)) if error]
        assert isinstance(error, RunError)
        assert "fault (ZeroDivisionError: oh)" in str(error)
    assert (tmp_path / "2.txt").is_file()


def test_a_job_that_costs_lives_is_given_up(tmp_path):
    with Claims(tmp_path) as claims:
        for death in reversed(range(3)):
            path = claim_elsewhere(tmp_path)  # of commands whose files are gone
            path.rename(path.with_name(path.name.replace(".0.", f".{death}.")))
        ends = dict(claims.run(jobs(tmp_path, 2)))
    assert "cost several commands their lives" in str(ends["0"])
    assert ends["1"] is None


def test_only_one_is_alone_and_a_plain_command_excludes_it(tmp_path):
    pytest.importorskip("fcntl")
    inside, most = [], []

    def one(_number):
        with Claims(tmp_path) as claims:
            for _turn in range(4):
                with claims.alone(tmp_path):
                    inside.append(1)
                    most.append(len(inside))
                    time.sleep(0.005)
                    inside.pop()

    with ThreadPoolExecutor(4) as threads:
        with locked(tmp_path):
            ended = [threads.submit(one, number) for number in range(4)]
            time.sleep(0.3)
            assert not most
        for each in ended:
            each.result()
    assert set(most) == {1}
    assert len(most) == 16


def test_a_lock_of_a_dead_command_is_taken_over(tmp_path):
    elsewhere(tmp_path)
    claim_elsewhere(tmp_path, "alone", ".")
    with Claims(tmp_path, silence=0.2) as claims, claims.alone(tmp_path):
        pass


def test_other_settings_are_refused(tmp_path):
    with Claims(tmp_path) as first, Claims(tmp_path) as second, Claims(tmp_path) as third:
        first.agree("a")
        second.agree("a")
        assert first.has_company()
        with pytest.raises(RunError, match="is at work here with other settings"):
            third.agree("b")


def test_a_command_without_shard_is_refused_beside_others_but_not_beside_dead_ones(tmp_path):
    with Claims(tmp_path) as claims, locked(tmp_path):
        [other] = others_at_work(tmp_path)
        assert other == claims._presence.worker
        with pytest.raises(RunError, match="share the work here: process"):
            refuse_beside_others(tmp_path)
    path = elsewhere(tmp_path)
    assert [other.host for other in others_at_work(tmp_path)] == ["far"]
    os.utime(path, (time.time() - 1000,) * 2)
    refuse_beside_others(tmp_path)
    assert not (tmp_path / FOLDER).exists()


def test_who_makes_waits_for_those_in_the_same_phase(tmp_path):
    log = []
    with Claims(tmp_path) as first, Claims(tmp_path) as second:

        def make():
            with second.alone(tmp_path):
                second.await_phase("tiles-1")
                log.append("made")

        with first.phase("tiles-1"):
            thread = threading.Thread(target=make)
            thread.start()
            time.sleep(0.3)
            log.append("left")
        thread.join()
    assert log == ["left", "made"]


def test_one_that_was_tidied_away_comes_back(tmp_path):
    with Claims(tmp_path, beat=0.02) as claims:
        path = claims._presence._path(claims._presence.worker.token)
        path.unlink()
        while not path.is_file():
            time.sleep(0.01)
