from __future__ import annotations

import numpy as np
import pytest

from helpers.explained import explained, shares_of
from vitrail.report.select import choose_examples, examples_table, spread


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return explained(tmp_path_factory.mktemp("run"))


def test_each_patient_gives_one_tile_before_any_gives_a_second():
    patients = np.array(["a", "a", "a", "b", "b", "c"], object)
    order = np.array([[0.0, 0.1, 0.2, 0.3, 0.4, 0.5]])
    assert spread(patients, np.ones(6, bool), order, 6) == (0, 3, 5, 1, 4, 2)
    assert spread(patients, np.ones(6, bool), order, 4) == (0, 3, 5, 1)
    assert spread(patients, np.array([0, 1, 1, 0, 0, 1], bool), -order) == (5, 2, 1)
    assert spread(patients, np.zeros(6, bool), order) == ()


def test_the_first_key_of_the_order_decides():
    patients = np.array(["a", "b", "c"], object)
    assert spread(patients, np.ones(3, bool), np.array([[1, 0, 0], [0.0, 0.2, 0.1]])) == (2, 1, 0)


def test_examples_are_what_they_are_called(whole):
    rows, chosen = whole.stored.rows, whole.examples
    tumor, p = (rows["label"] == "tumor").to_numpy(), rows["classifier"].to_numpy()
    for group, label in ((chosen.tumor, True), (chosen.non_tumor, False)):
        assert len(group) > 2
        assert (tumor[list(group)] == label).all()
        assert ((p[list(group)] >= 0.5) == label).all()
    wrong = ((rows[["classifier", "segmenter"]].to_numpy() >= 0.5) != tumor[:, None]).any(1)
    assert wrong[list(chosen.wrong)].all()
    r = whole.stored.agreement["gradcam_classifier_segmenter"]
    assert chosen.disagreement[0] == r.idxmin()
    assert not set(chosen.disagreement) & set(range(0, 36, 6))  # a constant map disagrees with nothing


def test_mixed_tiles_come_first(whole):
    n = len(whole.stored)
    shares = shares_of(n).assign(tumor=0.9, non_tumor=0.0)
    shares.loc[14, ["tumor", "non_tumor"]] = 0.5
    assert choose_examples(whole.stored, shares, 0.5).tumor[0] == 14


def test_every_shown_tile_is_in_a_table(whole):
    chosen, table = whole.examples, examples_table(whole)
    groups = (chosen.tumor, chosen.non_tumor, chosen.disagreement, chosen.wrong)
    assert table["tile"].tolist() == [row for group in groups for row in group]
    names = ["correct tumor", "correct non-tumor", "disagreement", "wrong"]
    assert table["shown_as"].tolist() == [name for name, rows in zip(names, groups, strict=True) for _ in rows]
