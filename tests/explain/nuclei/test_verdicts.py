from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from vitrail.explain.nuclei.verdicts import AGAINST, FOR, PAINTING, UNDECIDED, change_of_tumor_free, judge_removals


def cohort(rng, effect=0.0, painting=0.0, patients=6, tiles=4, group="all"):
    """Effects of tiles whose patients differ, and a control of half the area that shows what painting does."""
    owner = np.repeat(np.arange(patients), tiles)
    own = effect + rng.normal(0, 0.5, patients)[owner] * (effect != 0) + rng.normal(0, 0.5, len(owner))
    artefact = painting + rng.normal(0, 0.3, patients)[owner]
    frame = pd.DataFrame({"patient_id": [f"P{number}" for number in owner], "network": "classifier", "group": group})
    control = artefact / 2 + rng.normal(0, 0.1, len(owner))
    return frame.assign(
        area_um2=100.0, control_area_um2=50.0, effect_logit=own + artefact, control_logit=control, random_logit=painting
    )


def verdict(table):
    return judge_removals(table, seed=0)["verdict"].item()


def test_effects_beyond_the_control_speak_and_others_do_not():
    rng = np.random.default_rng(0)
    assert verdict(cohort(rng, effect=4)) == FOR
    assert verdict(cohort(rng, effect=-4)) == AGAINST
    assert verdict(cohort(rng, painting=3)) == PAINTING
    assert verdict(cohort(rng)) == UNDECIDED
    assert verdict(cohort(rng, effect=4).assign(control_area_um2=0.0)) == UNDECIDED  # nothing to compare with
    assert verdict(cohort(rng, effect=4, patients=1)) == UNDECIDED


def test_numbers_are_means_over_tiles():
    table = cohort(np.random.default_rng(1), effect=1, group="largest")
    row = judge_removals(table, seed=0).iloc[0]
    assert row["effect"] == pytest.approx(table["effect_logit"].mean())
    assert row["control"] == pytest.approx(2 * table["control_logit"].mean())
    assert row["beyond_control"] == pytest.approx(row["effect"] - row["control"])
    assert row["beyond_random_low"] < row["beyond_random"] < row["beyond_random_high"]
    assert (row["tiles"], row["patients"]) == (24, 6)


@pytest.mark.parametrize("patients", [3, 8])
def test_painting_alone_is_seldom_taken_for_an_effect(patients):
    """Simulated null: the nuclei do nothing, painting does. A verdict is wrong in 5 % of cohorts, but for luck."""
    rng = np.random.default_rng(7)
    wrong = sum(verdict(cohort(rng, painting=2, patients=patients)) in {FOR, AGAINST} for _ in range(60))
    assert wrong <= 7  # more than that in 60 at 5 % has a chance of 1 in 100


def test_intervals_cover_the_true_effect():
    rng, inside = np.random.default_rng(8), 0
    for _ in range(60):
        row = judge_removals(cohort(rng, effect=1, painting=0.5), seed=0).iloc[0]
        inside += row["beyond_control_low"] <= 1 <= row["beyond_control_high"]
    assert inside >= 53  # fewer at 95 % has a chance of 1 in 100


def test_tumor_free_tiles_that_stay_are_left_alone():
    rng = np.random.default_rng(2)
    names = np.repeat([f"P{number}" for number in range(6)], 8)
    tumor = np.tile([True] * 4 + [False] * 4, 6)
    table = pd.DataFrame({
        "patient_id": names, "network": "segmenter", "group": "all", "label": np.where(tumor, "tumor", "non_tumor"),
        "before": np.where(tumor, 0.9, 0.1), "effect": np.where(tumor, 0.8, rng.normal(0, 0.01, len(names))),
    })  # fmt: skip
    row = change_of_tumor_free(table, seed=0).iloc[0]
    assert row["harmless"]
    assert row["tiles"] == 24
    assert row["effect"] == pytest.approx(table.loc[~tumor, "effect"].mean())
    assert row["share"] == pytest.approx(row["effect"] / 0.8)
    assert not change_of_tumor_free(table.assign(effect=table["effect"] - 0.2), seed=0)["harmless"].item()
    assert not change_of_tumor_free(table[tumor], seed=0)["harmless"].item()
