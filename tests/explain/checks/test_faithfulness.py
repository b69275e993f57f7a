from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.integrate import trapezoid
from scipy.stats import kendalltau, spearmanr

from vitrail.explain.checks.faithfulness import (
    LEFT,
    curve_areas,
    faithfulness,
    judge_replacements,
    left_over,
    rank_agreement,
)

ORDERS = ("gradcam", "hrcam", "random", "blob")
BLANKS = {"blur": 0.8, "donor": 0.1}
"""The score that each replacement leaves."""

COHORTS = 100


def curves(tiles=6, steps=4):
    rng, fractions, rows = np.random.default_rng(0), np.linspace(0, 1, steps + 1), []
    for tile in range(tiles):
        for name, low in BLANKS.items():
            for number, order in enumerate(ORDERS):
                fall = fractions ** (0.5 + number + 0.1 * rng.random())
                for kind, score in (("deletion", 0.9 + (low - 0.9) * fall), ("insertion", low + (0.9 - low) * fall)):
                    row = {"tile": tile, "patient_id": f"P{tile % 3}", "network": "classifier", "replacement": name}
                    row |= {"order": order, "kind": kind}
                    rows += [
                        row | {"fraction": f, "score": s, "logit": -s} for f, s in zip(fractions, score, strict=True)
                    ]
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def table():
    return curves()


def reference(scores):
    patients = [f"P{i % 3}" for i in range(len(scores))]
    return pd.DataFrame({"tile": 0, "patient_id": patients, "network": "classifier", "score": scores})


def test_areas_are_trapezoids(table):
    shuffled = table.sample(frac=1, random_state=0)
    for value in ("score", "logit"):
        areas = curve_areas(shuffled, value)
        for _, part in table.groupby(["tile", "replacement", "order", "kind"]):
            row = part.iloc[0]
            found = areas.loc[(row["tile"], row["patient_id"]), ("classifier", *row[["replacement", "order", "kind"]])]
            assert found == pytest.approx(trapezoid(part[value], part["fraction"]))


def test_faithfulness_is_the_mean_difference_over_replacements(table):
    areas = curve_areas(table)
    found = faithfulness(areas, "classifier", ["blur", "donor"])
    own = [
        areas["classifier", name, "hrcam", "insertion"] - areas["classifier", name, "hrcam", "deletion"]
        for name in BLANKS
    ]
    assert found["hrcam"].to_numpy() == pytest.approx((own[0] + own[1]).to_numpy() / 2)


def test_what_leaves_the_evidence_is_no_test(table):
    judged = judge_replacements(table, reference([0.05, 0.1, 0.15]), 0)["classifier"]
    assert judged["donor"]["test"]
    assert judged["donor"]["left"][0] == pytest.approx(0, abs=1e-9)
    assert judged["donor"]["sentence"] is None
    assert not judged["blur"]["test"]
    assert judged["blur"]["left"][0] == pytest.approx(0.7 / 0.8)
    assert "from 0.90 to 0.80 (tiles without tumor score 0.10): it leaves too much, 88 %" in judged["blur"][
        "sentence"
    ].replace("88%", "88 %")
    alone = judge_replacements(table, reference([]), 0)["classifier"]["donor"]
    assert alone["left"][0] == pytest.approx(1 / 9)  # of the whole score, where nothing says what there is without
    assert alone["without"] is None


def test_nothing_is_left_to_take_away_from_tiles_that_score_like_those_without():
    left = left_over([0.1, 0.2], [0.1, 0.1], ["a", "b"], [0.4, 0.5], ["a", "c"], 0)
    assert np.isnan(left).all()


def test_replacements_agree_by_rank(table):
    areas, logits = curve_areas(table), curve_areas(table, "logit")
    judged = {"blur": {"test": False}, "donor": {"test": True}}
    both, scale = rank_agreement(areas, logits, "classifier", judged)
    means = [faithfulness(areas, "classifier", [name]).mean() for name in BLANKS]
    assert both["spearman"] == pytest.approx(spearmanr(*means).statistic)
    assert both["kendall"] == pytest.approx(kendalltau(*means).statistic)
    assert (both["first"], both["second"], both["test"], both["orders"]) == ("blur", "donor", False, 4)
    assert (scale["first"], scale["second"], scale["test"]) == ("score", "logit", True)
    assert scale["spearman"] == pytest.approx(-1)  # this logit is the score's negative


@pytest.mark.parametrize("left", [1.0, 0.5])
def test_what_takes_away_too_little_is_seldom_called_a_test(left):
    """What is left is all or nothing in each tile, as of networks that are sure."""
    rng, called = np.random.default_rng(3), 0
    for cohort in range(COHORTS):
        owners = np.repeat(np.arange(2 + cohort % 8), rng.integers(2, 7, 2 + cohort % 8))
        share = left if left == 1 else rng.beta(2 * left, 2 * (1 - left), owners.max() + 1)[owners]
        replaced = np.where(rng.random(len(owners)) < share, 0.9, 0.1)
        whole, without = rng.normal(0.9, 0.02, len(owners)), rng.normal(0.1, 0.02, 12)
        found = left_over(whole, replaced, owners, without, np.arange(12), 0)
        called += found.value < LEFT and not found.high >= 1
    assert called <= (0 if left == 1 else 0.06 * COHORTS)
