from __future__ import annotations

import numpy as np
import pytest

from helpers.explained import explained, write_explanations
from helpers.kinds import PAIRS
from vitrail.evaluation.explanations import (
    accuracy_table,
    agreement_table,
    open_explanations,
    perturbation_curves,
    randomisation_curves,
    verdict_table,
)
from vitrail.metrics.correlation import mode


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return explained(tmp_path_factory.mktemp("run"))


def test_the_agreement_table_holds_the_modes_beside_the_papers(whole):
    table = agreement_table(whole.stored.summary).set_index(["maps", "pair"])
    for pair in PAIRS:
        assert table.loc[("as they are", pair), "mode"] == pytest.approx(mode(whole.stored.agreement[pair]))
        assert table.loc[("as they are", pair), "mean"] == pytest.approx(whole.stored.agreement[pair].mean())
    found = table.loc["relu", "mode_in_the_paper"].to_dict()
    assert {pair: f"{value:.2%}" for pair, value in found.items()} == {
        "classifier_gradcam_hrcam": "70.00%",
        "segmenter_gradcam_hrcam": "36.67%",
        "gradcam_classifier_segmenter": "23.33%",
        "hrcam_classifier_segmenter": "56.67%",
    }


def test_curves_are_means_over_tiles(whole):
    raw = whole.checked.perturbation
    curves = perturbation_curves(raw.query("replacement == 'blur'"))
    curves = curves.set_index(["network", "kind", "order", "fraction"])["score"]
    mine = raw.query(
        "network == 'segmenter' and kind == 'insertion' and order == 'hrcam' and fraction == 0.5"
        " and replacement == 'blur'"
    )
    assert curves["segmenter", "insertion", "hrcam", 0.5] == pytest.approx(mine["score"].mean())
    forgotten = whole.checked.randomisation.assign(correlation=lambda rows: -rows["correlation"])
    forgotten.loc[forgotten["tile"] == 0, "correlation"] = np.nan
    left = randomisation_curves(forgotten).query("method == 'hrcam' and number == 2")
    assert left["correlation"].to_list() == pytest.approx([0.8, 0.8], abs=0.01)  # the magnitude, without constant maps


def test_a_run_without_explanations_has_none(tmp_path):
    assert open_explanations(tmp_path) is None


def test_explanations_that_nobody_has_checked(tmp_path):
    write_explanations(tmp_path / "explanations")
    stored, checked = open_explanations(tmp_path)
    assert len(stored) == 36
    assert checked is None


def test_the_accuracy_of_hrcam_is_a_row_a_network(whole):
    table = accuracy_table(whole.stored.summary)
    assert table.columns.tolist() == [
        "network", "accuracy", "low", "high", "tiles", "train_accuracy", "train_tiles",
    ]  # fmt: skip
    assert table["network"].tolist() == ["classifier", "segmenter"]
    assert (table["accuracy"] == 0.9).all()
    assert table["high"].isna().all()


def test_verdicts_rest_on_what_the_summary_holds(whole):
    summary = whole.checked.summary
    table = verdict_table(summary).set_index(["maps", "check", "compared"])
    row = table.loc["segmenter_hrcam", "insertion", "over_blob"]
    assert (
        row[["difference", "low", "high"]].tolist()
        == summary["perturbation"]["segmenter_hrcam"]["insertion"]["over_blob"]
    )
    excess = table.loc["classifier_gradcam", "randomisation", "excess"]
    assert excess["difference"] == summary["randomisation"]["classifier_gradcam"]["excess"][0]
    located = table.loc["classifier_hrcam", "localisation", "over_turned"]
    assert located["verdict"] == summary["verdicts"]["classifier_hrcam"]["localisation"]
