from __future__ import annotations

import json
import threading

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.viewing import unpack_run
from vitrail.errors import RunError
from vitrail.review.judgements import FILE, SKIP, Judgement, Judgements
from vitrail.review.queue import Queue, QueueSpec, open_queue


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return unpack_run(tmp_path_factory.mktemp("judged"))


@pytest.fixture
def judgements(run, tmp_path):
    queue = open_queue(run, "queue", QueueSpec(cases=20))
    return Judgements(Queue(folder=tmp_path, spec=queue.spec, rows=queue.rows))


def say(case, answer="tumor", rater="Ada", **more):
    return Judgement(case=case, rater=rater, answer=answer, seconds=1.5, **more)


def test_what_is_said_stands_and_the_next_case_comes(judgements):
    assert judgements.next_case("Ada") == 0
    judgements.add(say(0))
    judgements.add(say(1, SKIP))
    judgements.add(say(0, "non_tumor", "Bob", comment="necrosis, I think\n2nd line"))
    assert judgements.next_case("Ada") == 2
    assert judgements.next_case("Bob") == 1
    for case in range(2, 20):
        judgements.add(say(case))
    assert judgements.next_case("Ada") == 1  # what was skipped comes again
    judgements.add(say(1, "unsure"))
    assert judgements.next_case("Ada") is None
    assert {(each.rater, each.case): each.comment for each in judgements.read()}["Bob", 0].endswith("2nd line")


def test_skipped_cases_come_again_in_turn(judgements):
    for case in range(20):
        judgements.add(say(case, SKIP if case in {3, 7} else "tumor"))
    assert judgements.next_case("Ada") == 3
    judgements.add(say(3, SKIP))
    assert judgements.next_case("Ada") == 7
    judgements.add(say(7, SKIP))
    assert judgements.next_case("Ada") == 3


def test_taking_back_makes_nobody_forget(judgements):
    assert not judgements.answered(0, "Ada")
    judgements.add(say(0, SKIP))
    assert not judgements.answered(0, "Ada")
    judgements.add(say(0))
    judgements.undo("Ada")
    assert judgements.answered(0, "Ada")
    assert not judgements.answered(0, "Bob")
    assert not judgements.answered(1, "Ada")


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.sampled_from(["Ada", "Bob"]), st.sampled_from(["say", "undo"])), max_size=25))
def test_undo_takes_back_to_the_first(run, tmp_path_factory, steps):
    queue = open_queue(run, "queue", QueueSpec(cases=20))
    judgements = Judgements(Queue(folder=tmp_path_factory.mktemp("steps"), spec=queue.spec, rows=queue.rows))
    standing = {"Ada": [], "Bob": []}
    for number, (rater, step) in enumerate(steps):
        if step == "say":
            judgements.add(say(number % 20, rater=rater))
            standing[rater].append(number % 20)
        else:
            back = judgements.undo(rater)
            assert (None if back is None else back.case) == (standing[rater].pop() if standing[rater] else None)
    for rater, cases in standing.items():
        assert [each.case for each in judgements.read() if each.rater == rater] == cases


def test_a_line_that_a_kill_has_torn_loses_nothing_else(judgements):
    judgements.add(say(0))
    judgements.add(say(1))
    content = judgements.path.read_bytes()
    for end in range(len(content)):
        judgements.path.write_bytes(content[:end])
        whole = content[:end].count(b"\n")
        stands = [each.case for each in judgements.read()]
        assert stands[:whole] == [0, 1][:whole]
        judgements.add(say(2))
        assert [each.case for each in judgements.read()] == [*stands, 2]


def test_two_who_write_at_once_lose_nothing(judgements):
    def work(rater):
        own = Judgements(judgements.queue)
        for case in range(20):
            own.add(say(case, rater=rater))

    threads = [threading.Thread(target=work, args=(f"R{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(judgements.read()) == 80
    assert all(json.loads(line) for line in judgements.path.read_text().splitlines())


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"case": 20}, "no case 20"),
        ({"case": -1}, "no case"),
        ({"answer": "tumour"}, "an answer is one of"),
        ({"rater": ""}, "name"),
        ({"rater": "a\nb"}, "name"),
        ({"rater": " Ada"}, "name"),
        ({"rater": "A" * 61}, "name"),
        ({"seconds": float("nan")}, "seconds"),
        ({"seconds": -1.0}, "seconds"),
        ({"comment": "x" * 2001}, "comment"),
    ],
)
def test_what_is_no_judgement_is_not_written(judgements, changes, problem):
    with pytest.raises(ValueError, match=problem):
        judgements.add(Judgement(**({"case": 0, "rater": "Ada", "answer": "tumor", "seconds": 1.0} | changes)))
    assert not judgements.path.exists()


def test_tables_for_other_programs(judgements, tmp_path):
    judgements.add(say(3, "tumor"))
    judgements.add(say(3, "non_tumor", shown=True))  # after the prediction was seen
    judgements.add(say(3, "unsure", "Bob"))
    judgements.add(say(4, SKIP))
    table, sheet = (pd.read_csv(file, keep_default_na=False) for file in judgements.export(tmp_path))
    assert table[["case", "rater", "answer"]].to_numpy().tolist() == [
        [3, "Ada", "tumor"],
        [3, "Ada", "non_tumor"],
        [3, "Bob", "unsure"],
    ]
    assert len(sheet) == 20
    assert sheet.loc[3, ["Ada", "Bob"]].tolist() == ["tumor", "unsure"]
    assert (sheet.drop(index=3)["Ada"] == "").all()


def test_another_file_in_its_place_is_said(judgements):
    (judgements.queue.folder / FILE).write_text('{"no": "judgement"}\n')
    with pytest.raises(RunError, match="line 1 is no judgement"):
        judgements.read()
