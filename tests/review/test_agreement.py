from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import cohen_kappa_score

from vitrail.review.agreement import raters_summary
from vitrail.review.judgements import Judgement, Judgements
from vitrail.review.queue import Queue, QueueSpec


def judged(folder, answers, question="class", repeats=()):
    """Judge 60 cases of six patients; `answers` gives each rater's, by case."""
    n = 60
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({
        "case": np.arange(n), "row": np.arange(n), "slide_id": "S", "patient_id": [f"P{i // 10}" for i in range(n)],
        "x": 0.0, "y": 0.0, "side": 1.0, "label": np.where(np.arange(n) % 2 == 0, "tumor", "non_tumor"),
        "classifier": rng.random(n), "segmenter": rng.random(n), "urgency": 0.0,
        "reason": np.where(np.arange(n) % 3 == 0, "random", "ordered"), "of": -1,
    })  # fmt: skip
    for first, again in repeats:
        rows.loc[again, ["reason", "of"]] = "repeat", first
    spec = QueueSpec(question=question, network="classifier", method="hrcam")
    judgements = Judgements(Queue(folder=folder, spec=spec, rows=rows))
    for rater, given in answers.items():
        for case, answer in enumerate(given):
            judgements.add(Judgement(case=case, rater=rater, answer=answer, seconds=2.0 + case))
    return judgements


CLASSES = ("tumor", "non_tumor", "other", "unsure")


@pytest.fixture(scope="module")
def answers():
    rng = np.random.default_rng(1)
    first = rng.choice(CLASSES, 60, p=[0.5, 0.3, 0.1, 0.1])
    return {rater: np.where(rng.random(60) < 0.7, first, rng.choice(CLASSES, 60)).tolist() for rater in "ABC"}


def test_raters_are_compared_with_each_other_and_with_networks(tmp_path, answers):
    judgements = judged(tmp_path, answers)
    summary, rows = raters_summary(judgements), judgements.queue.rows
    assert summary["raters"]["A"] == {"judged": 60, "seconds": 31.5}
    assert summary["pairs"]["A / B"][0] == pytest.approx(cohen_kappa_score(answers["A"], answers["B"]))
    assert summary["pairs"]["A / B"][1] < summary["pairs"]["A / B"][0] < summary["pairs"]["A / B"][2]
    assert 0 < summary["fleiss"][0] < 1
    own = summary["networks"]["segmenter"]["B"]
    decided = np.isin(answers["B"], ["tumor", "non_tumor"])
    equal = (np.array(answers["B"]) == "tumor") == (rows["segmenter"] >= 0.5)
    assert own["cases"] == decided.sum()
    assert own["share"][0] == pytest.approx(equal[decided].mean())
    chance = decided & (rows["reason"] == "random").to_numpy()
    assert own["random_share"][0] == pytest.approx(equal[chance].mean())
    assert summary["labels"]["A"]["kappa"][0] == pytest.approx(
        cohen_kappa_score(np.array(answers["A"])[d] == "tumor", (rows["label"] == "tumor")[d])
        if (d := np.isin(answers["A"], ["tumor", "non_tumor"])).any()
        else np.nan
    )


def test_a_rater_is_compared_with_themselves_on_repeats_alone(tmp_path, answers):
    repeats = [(case, case + 30) for case in range(12)]
    given = answers["A"][:30] + answers["A"][:11] + ["unsure"] + answers["A"][42:]
    summary = raters_summary(judged(tmp_path, {"A": given}, repeats=repeats))
    assert summary["own"]["A"][0] == pytest.approx(cohen_kappa_score(given[:12], given[30:42]))
    assert summary["raters"]["A"]["judged"] == 48  # a repeat counts nowhere else


def test_answers_that_were_changed_are_counted(tmp_path, answers):
    judgements = judged(tmp_path, {"A": answers["A"]})
    assert raters_summary(judgements)["changed"] == [None, None, None]
    for case in range(20):
        other = "unsure" if case < 5 and answers["A"][case] != "unsure" else answers["A"][case]
        judgements.add(Judgement(case=case, rater="A", answer=other, seconds=1, shown=True))
    changed = sum(answers["A"][case] != "unsure" for case in range(5))
    summary = raters_summary(judgements)
    assert summary["changed"][0] == pytest.approx(changed / 20)
    assert summary["pairs"] == {}


def test_on_what_maps_lie_is_counted(tmp_path):
    rng = np.random.default_rng(0)
    given = rng.choice(["tumor_cells", "stroma", "artefact", "unsure"], 60, p=[0.6, 0.2, 0.1, 0.1]).tolist()
    summary = raters_summary(judged(tmp_path, {"A": given}, question="explanation"))
    shares = [summary["answers"][answer][0] for answer in ("tumor_cells", "stroma", "artefact", "unsure")]
    assert sum(shares) == pytest.approx(1)
    assert shares[0] == pytest.approx(given.count("tumor_cells") / 60)
    assert summary["map"] == ["classifier", "hrcam"]
    assert "networks" not in summary


def test_before_anybody_has_judged_nothing_is_said(tmp_path):
    summary = raters_summary(judged(tmp_path, {}))
    assert summary["raters"] == {}
    assert summary["fleiss"] == [None, None, None]
