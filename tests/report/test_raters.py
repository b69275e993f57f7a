from __future__ import annotations

import json

import pytest

from helpers.command import vitrail
from helpers.viewing import unpack_run
from vitrail import evaluate
from vitrail.report.sections.raters import raters_section
from vitrail.review.judgements import Judgement, Judgements
from vitrail.review.queue import QueueSpec, open_queue

pytestmark = pytest.mark.usefixtures("undrawn")


def test_the_report_says_what_raters_said(tmp_path, capsys):
    run = unpack_run(tmp_path)
    assert "raters" not in evaluate(run).metrics
    queue = open_queue(run, "classes", QueueSpec(by="errors", cases=30))
    for rater, other in (("Ada", "tumor"), ("<b>Bob</b>", "non_tumor")):
        for case in range(30):
            answer = other if case % 5 == 0 else queue.rows.loc[case, "label"]
            Judgements(queue).add(Judgement(case=case, rater=rater, answer=answer, seconds=2))
    maps = open_queue(run, "maps", QueueSpec(question="explanation", network="classifier", method="hrcam", cases=12))
    for case in range(12):
        Judgements(maps).add(Judgement(case=case, rater="Ada", answer="stroma", seconds=2))
    assert vitrail("report", run) == 0
    assert "report: up to date" not in capsys.readouterr().err  # what raters say makes it anew
    page = (run / "report" / "index.html").read_text()
    assert "What the raters said" in page
    assert "&lt;b&gt;Bob" in page
    assert "<b>Bob" not in page
    assert "HR-CAM of the classification network" in page
    metrics = json.loads((run / "report" / "metrics.json").read_text())
    assert set(metrics["raters"]) == {"classes", "maps"}
    assert metrics["raters"]["classes"]["labels"]["Ada"]["share"][0] > 0.5
    assert vitrail("report", run) == 0
    assert "report: up to date" in capsys.readouterr().err


def test_a_sentence_needs_an_interval():
    summary = {
        "cases": 9, "question": "explanation", "by": "random", "raters": {"A": {"judged": 9, "seconds": 1.0}},
        "own": {}, "pairs": {}, "fleiss": [None] * 3, "map": ["classifier", "gradcam"],
        "answers": {"tumor_cells": [0.8, None, None], "stroma": [0.2, None, None], "artefact": [0, None, None],
                    "unsure": [0, None, None]},
    }  # fmt: skip
    assert raters_section("maps", summary, {})["sentences"] == []
    summary["answers"]["tumor_cells"] = [0.8, 0.6, 0.9]
    (words,) = raters_section("maps", summary, {})["sentences"]
    assert "80% of the answers (95 % interval over patients 60% to 90%)" in words
