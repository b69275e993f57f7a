"""What networks make of tissue outside the outlines, in numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from helpers.numbers import evaluation_data
from vitrail.evaluation.unlabelled import outside_metrics, outside_table, outside_tiles

ROWS = pd.DataFrame(
    [
        # slide, split, label, unlabelled, classifier, segmenter
        ("A", "test", "tumor", False, 0.9, 0.9),
        ("A", "test", "non_tumor", True, 0.9, 0.4),  # one network alone
        ("A", "test", "non_tumor", True, 0.6, 0.5),
        ("A", "test", "non_tumor", False, 0.9, 0.9),  # an outline says so
        ("B", "test", "non_tumor", True, 0.7, 0.9),
        ("B", "test", "non_tumor", True, 0.8, 0.8),
        ("B", "test", "non_tumor", True, 0.1, 0.0),
        ("C", "train", "non_tumor", True, 1.0, 1.0),  # it was told that this is none
        ("D", "validation", "non_tumor", True, 0.2, 0.1),
    ],
    columns=["slide_id", "split", "label", "unlabelled", "classifier", "segmenter"],
).assign(patient_id=lambda rows: "P" + rows["slide_id"], x=np.arange(9.0), y=0.0, side=1.0)


def test_tiles_are_those_without_an_outline_that_no_network_has_seen():
    tiles = outside_tiles(ROWS, 0.5)
    assert tiles["row"].tolist() == [5, 4, 2, 1, 8, 6]
    assert tiles["called"].tolist() == [True, True, True, False, False, False]
    assert tiles["strength"].tolist() == [0.8, 0.7, 0.5, 0.4, 0.1, 0.0]
    folds = ROWS.assign(out_of_fold=True)
    assert outside_tiles(folds, 0.5)["row"].tolist()[0] == 7


def test_slides_with_most_such_tiles_come_first():
    table = outside_table(ROWS, 0.5)
    assert table["slide_id"].tolist() == ["B", "A", "D", "C"]
    assert table[["tiles", "asked", "called"]].to_numpy().tolist() == [[3, 3, 2], [2, 2, 1], [1, 1, 0], [1, 0, 0]]
    np.testing.assert_allclose(table["share"], [2 / 3, 1 / 2, 0, np.nan])
    np.testing.assert_allclose(table["strongest"], [0.8, 0.5, 0.1, np.nan])


def test_the_share_has_its_interval_over_patients():
    numbers = outside_metrics(ROWS, 0.5, 200, 0)
    assert {name: value for name, value in numbers.items() if isinstance(value, int)} == {
        "tiles": 7, "asked": 6, "slides": 3, "patients": 3, "called": 3, "slides_called": 2,
    }  # fmt: skip
    low, high = numbers["interval"]["share"]
    assert numbers["share"] == pytest.approx(0.5)
    assert low < 0.5 < high


def test_without_such_tiles_there_are_no_numbers():
    nobody = outside_metrics(ROWS.assign(split="train"), 0.5, 200, 0)
    assert (nobody["tiles"], nobody["asked"]) == (7, 0)
    assert np.isnan(nobody["share"])
    assert not len(outside_table(ROWS.assign(unlabelled=False), 0.5))
    made = evaluation_data()
    assert "unlabelled" not in made.metrics
    rows = made.predictions.assign(unlabelled=made.predictions["label"] == "non_tumor")
    told = replace(made, predictions=rows)
    assert told.metrics["unlabelled"]["asked"] == told.tables["unlabelled_tissue"]["asked"].sum() > 0
