from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.viewing import unpack_run
from vitrail import evaluate
from vitrail.core.files import write_csv, write_json
from vitrail.errors import RunError, SettingsError
from vitrail.report.sections.raters import raters_section
from vitrail.review.agreement import raters_summary
from vitrail.review.judgements import Judgements
from vitrail.review.queue import LEAST_APART, ORDERS, QueueSpec, draw_queue, open_queue, queues_of, read_queue, urgency


def tiles(n, seed=0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame({
        "slide_id": [f"S{i % 7}" for i in range(n)], "patient_id": [f"P{i % 7}" for i in range(n)],
        "x": np.arange(n) * 10.0, "y": 0.0, "side": 10.0, "label": np.where(rng.random(n) < 0.5, "tumor", "non_tumor"),
        "classifier": rng.random(n), "segmenter": rng.random(n),
    })  # fmt: skip


ROWS = pd.DataFrame({
    "label": ["tumor", "non_tumor", "tumor"], "classifier": [1.0, 0.5, 0.1], "segmenter": [0.0, 0.5, 0.1],
})  # fmt: skip


@pytest.mark.parametrize(
    ("by", "expected"),
    [("disagreement", [1, 0, 0]), ("uncertainty", [0, 1, 0.2]), ("errors", [0.5, 0.5, 0.9])],
)
def test_each_order_wants_what_its_name_says(by, expected):
    np.testing.assert_allclose(urgency(ROWS, by, np.random.default_rng(0)), expected)


def test_maps_that_disagree_come_first():
    agreement = np.array([0.9, -0.5, np.nan])
    np.testing.assert_allclose(urgency(ROWS, "explanations", np.random.default_rng(0), agreement), [0.1, 1.5, np.nan])


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 300),
    st.integers(1, 200),
    st.sampled_from([order for order in ORDERS if order not in {"explanations", "labels"}]),
    st.integers(0, 9),
)
def test_a_queue_keeps_its_promises(n, cases, by, seed):
    rows, spec = tiles(n), QueueSpec(by=by, cases=cases, seed=seed)
    queue = draw_queue(rows, spec)
    pd.testing.assert_frame_equal(queue, draw_queue(rows, spec))  # the same seed, the same queue
    assert len(queue) <= cases
    assert queue["case"].tolist() == list(range(len(queue)))
    once = queue[queue["reason"] != "repeat"]
    assert once["row"].is_unique
    ordered = queue.loc[queue["reason"] == "ordered", "urgency"].to_numpy()
    assert (np.diff(ordered) <= 0).all()
    if by != "random" and len(ordered):
        left_out = urgency(rows.drop(index=once["row"]), by, np.random.default_rng(0))
        assert left_out.size == 0 or left_out.max() <= ordered.min()
    for _, row in queue[queue["reason"] == "repeat"].iterrows():
        assert queue.loc[row["of"], "row"] == row["row"]
        assert row["of"] < row["case"]
    if n >= cases >= 100:
        repeats = queue[queue["reason"] == "repeat"]
        assert len(repeats) == round(cases * 0.05)
        assert (repeats["case"] - repeats["of"]).min() >= LEAST_APART
        assert by == "random" or (queue["reason"] == "random").sum() == round(cases * 0.1)


def test_labels_that_are_contradicted_are_asked_about_and_no_others():
    strength = np.where(np.arange(60) % 6 == 0, np.linspace(0.6, 0.9, 60), np.nan)
    queue = draw_queue(tiles(60), QueueSpec(by="labels", cases=100), strength)
    once = queue[queue["reason"] == "ordered"]
    assert once["row"].tolist() == list(range(54, -1, -6))  # all ten, the strongest first
    assert set(queue["reason"]) == {"ordered", "repeat"}
    assert once["urgency"].tolist() == strength[once["row"]].tolist()
    assert draw_queue(tiles(5), QueueSpec(by="labels"), np.full(5, np.nan)).empty


def test_random_cases_are_fair():
    """A tile that no order wants is drawn as often as its fellows."""
    rows, seen = tiles(60), np.zeros(60)
    for seed in range(150):
        queue = draw_queue(rows, QueueSpec(by="errors", cases=40, seed=seed))
        seen[queue.loc[queue["reason"] == "random", "row"]] += 1
    drawn = seen[seen > 0]
    assert len(drawn) == 26  # all but the 34 that are most wanted
    assert abs(drawn - drawn.mean()).max() < 5 * np.sqrt(drawn.mean())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return unpack_run(tmp_path_factory.mktemp("reviewed"))


def test_a_queue_on_disk_is_the_same_again(run):
    spec = QueueSpec(by="disagreement", cases=30, split="test", seed=3)
    queue = open_queue(run, "first", spec)
    again = open_queue(run, "first", spec)
    pd.testing.assert_frame_equal(queue.rows, again.rows, check_dtype=False)
    assert again.spec == spec
    table = pd.read_parquet(run / "predictions" / "tiles.parquet")
    own = table.loc[queue.rows["row"]]
    assert set(own["split"]) == {"test"}
    assert own["x"].tolist() == queue.rows["x"].tolist()
    assert run / "review" / "first" in queues_of(run)
    with pytest.raises(SettingsError, match="there is a queue first already"):
        open_queue(run, "first", QueueSpec(by="errors", cases=30))


def test_a_queue_of_labels_is_the_list_of_the_report(tmp_path):
    run = unpack_run(tmp_path)
    file = run / "predictions" / "tiles.parquet"
    rows = pd.read_parquet(file)
    p = np.where(rows["label"] == "tumor", 0.9, 0.1)
    swapped = [3, 60, 150, 200, 230]
    p[swapped] = 1 - p[swapped]
    doubted = rows.assign(classifier=p, classifier_logit=np.log(p / (1 - p)), segmenter=p)
    doubted.assign(out_of_fold=np.arange(len(rows)) != 60).to_parquet(file)  # a network has seen tile 60
    listed = evaluate(run).tables["label_issues"]
    assert set(listed["row"]) == {3, 150, 200, 230}
    queue = open_queue(run, "labels", QueueSpec(by="labels"))
    assert set(queue.rows["row"]) == set(listed["row"])
    test = open_queue(run, "labels-of-test", QueueSpec(by="labels", split="test"))
    assert set(test.rows["row"]) == set(listed.loc[listed["split"] == "test", "row"])
    asked = QueueSpec(by="labels", question="explanation", network="classifier", method="hrcam")
    assert set(open_queue(run, "maps", asked).rows["row"]) == set(test.rows["row"])  # test tiles are explained
    about = raters_section("labels", raters_summary(Judgements(queue)), {})["about"]
    assert about.endswith("those first of which both networks contradict the label; no others.")
    doubted.assign(out_of_fold=False).to_parquet(file)
    with pytest.raises(RunError, match="no tile that could be asked about"):
        open_queue(run, "none", QueueSpec(by="labels"))


def test_explanations_can_be_asked_about(run):
    queue = open_queue(run, "maps", QueueSpec(by="explanations", question="explanation", network="classifier",
                                              method="hrcam", cases=12))  # fmt: skip
    explained = pd.read_parquet(run / "explanations" / "tiles.parquet")
    assert set(queue.rows["row"]) <= set(explained["tile"])
    with pytest.raises(SettingsError, match="there is no map classifier_rise"):
        open_queue(run, "none", QueueSpec(question="explanation", network="classifier", method="rise"))


def test_a_tile_whose_maps_have_no_agreement_can_be_drawn_by_chance(run):
    spec = QueueSpec(by="explanations", cases=9, seed=4)
    rows = tiles(12)
    cases = draw_queue(rows, spec, np.full(12, np.nan))
    assert set(cases["reason"]) <= {"random", "repeat"}
    folder = run / "review" / "unknown"
    folder.mkdir(parents=True)
    write_csv(folder / "queue.csv", cases)
    write_json(folder / "queue.json", asdict(spec))
    assert read_queue(folder).rows["urgency"].isna().all()


@pytest.mark.parametrize("name", ["", "../out", "a/b", "a" * 61, ".hidden", "a b"])
def test_a_name_leads_nowhere_else(run, name):
    with pytest.raises(SettingsError, match="is no name"):
        open_queue(run, name, QueueSpec())


def test_what_is_missing_is_said(run, tmp_path):
    with pytest.raises(RunError, match="no predictions"):
        open_queue(tmp_path, "q", QueueSpec())
    with pytest.raises(SettingsError, match="between 1 and"):
        open_queue(run, "q", QueueSpec(cases=0))
    open_queue(run, "broken", QueueSpec(cases=5))
    file = run / "review" / "broken" / "queue.csv"
    header, first, *rest = file.read_text().splitlines()
    file.write_text("\n".join([header, "zero" + first[first.index(",") :], *rest]))
    with pytest.raises(RunError):
        read_queue(file.parent)
