"""Verdicts: their rule, and how often maps that know nothing pass, in simulated cohorts."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from helpers.kinds import KEYS
from vitrail.explain.checks.localisation import relevance_mass, turned
from vitrail.explain.checks.ranking import LOST
from vitrail.explain.checks.results import (
    ALIKE,
    COLUMNS,
    FOLLOWS,
    as_table,
    no_tests,
    summarise,
    verdict,
    verdicts,
    warnings_of,
)
from vitrail.metrics.bootstrap import crossed_estimate, estimate

COHORTS = 200
MOST = 0.05
"""Share of cohorts in which a map that knows nothing may pass, or one at its limit."""

NO = [None, None, None]
EMPTY = {name: as_table(name, []) for name in COLUMNS}


@pytest.mark.parametrize(
    ("estimates", "expected"),
    [
        (([2, 1, 3],), "passes"),
        (([-2, -3, -1],), "fails"),
        (([0.5, -1, 2],), "undecided"),
        (([2, 1, 3], [2, 1, 3]), "passes"),
        (([2, 1, 3], [0.5, -1, 2]), "undecided"),
        (([2, 1, 3], [-2, -3, -1]), "fails"),
        (([0.5, -1, 2], [-2, -3, -1]), "fails"),
        (([2, 1, 3], NO), "undecided"),
        ((NO,), "undecided"),
        (([0, 0, 0],), "undecided"),
        (([1, 0.0, 2],), "undecided"),
    ],
)
def test_the_rule(estimates, expected):
    assert verdict(*estimates) == expected
    shifted = [[None if end is None else end + 5 for end in each] for each in estimates]
    assert verdict(*shifted, limit=5) == expected


def summary_of(**tables):
    """The summary of one kind of maps, from tables of which some are empty."""
    return summarise(EMPTY | {name: as_table(name, [table]) for name, table in tables.items()}, 0, KEYS[:1])


def summary_with(excess=NO, judged=None, truth=None, stable=NO):
    curve = {"over_random": [0.2, 0.1, 0.3], "over_blob": [0.1, 0.05, 0.2]}
    return {
        "perturbation": {key: {"deletion": curve, "insertion": curve} for key in KEYS},
        "randomisation": {key: {"excess": excess} for key in KEYS},
        "stability": {key: {"excess": stable} for key in KEYS},
        "replacements": judged or {},
        "truth": truth,
    }


def test_what_is_lost_is_below_the_limit():
    for excess, expected in (
        ([0.05, 0.01, LOST - 0.01], "passes"),
        ([0.05, -0.01, LOST + 0.01], "undecided"),
        ([0.5, LOST + 0.01, 0.9], "fails"),
        (NO, "undecided"),
    ):
        assert verdicts(summary_with(excess))["segmenter_hrcam"]["randomisation"] == expected


def test_what_follows_is_above_the_limit():
    for stable, expected in (
        ([0.7, FOLLOWS + 0.01, 0.9], "passes"),
        ([0.6, FOLLOWS - 0.01, 0.9], "undecided"),
        ([0.1, 0.0, FOLLOWS - 0.01], "fails"),
        (NO, "undecided"),
    ):
        assert verdicts(summary_with(stable=stable))["segmenter_hrcam"]["stability"] == expected


def test_curves_decide_where_a_replacement_is_a_test():
    no, yes = {"test": False, "sentence": "blur leaves all"}, {"test": True, "sentence": None}
    summary = summary_with(judged={"classifier": {"blur": no, "donor": yes}, "segmenter": {"blur": no}})
    found = verdicts(summary)
    assert [found["classifier_hrcam"][kind] for kind in ("deletion", "insertion")] == ["passes", "passes"]
    assert set(found["segmenter_hrcam"].values()) == {"undecided"}
    assert no_tests(summary, "classifier_hrcam") == ["blur leaves all"]
    assert no_tests(summary, "segmenter_hrcam") == ["blur leaves all", "so that its curves say nothing about maps"]


def test_of_older_runs_only_the_ends_say_whether_blur_was_a_test():
    ends = {"classifier": {"tile": 0.9, "blurred": 0.5}, "segmenter": {"tile": 0.9, "blurred": 0.85}}
    assert no_tests({"ends": ends}, "classifier_hrcam") == []
    assert "from 0.90 to only 0.85" in no_tests({"ends": ends}, "segmenter_hrcam")[0]
    assert no_tests({"ends": {}}, "segmenter_hrcam") == []


def test_maps_that_are_alike_or_coarse_are_warned_of():
    summary = {"shared": {"a": [ALIKE + 0.1, 0, 1], "b": [0.1, 0, 0.3]}, "cells": {"a": [3, 3], "b": [7, 8]}}
    assert len(warnings_of(summary, "a")) == 2
    assert warnings_of(summary, "b") == warnings_of({}, "a") == []


def test_localisation_is_decided_where_the_cause_is_known():
    over = {"over_others": [0.2, 0.1, 0.3], "over_turned": [0.1, 0.05, 0.2]}
    truth = {key: {} for key in KEYS} | {KEYS[0]: {"atypical_nuclei": over}}
    found = verdicts(summary_with(truth=truth))
    assert [found[key]["localisation"] for key in KEYS] == ["passes", "undecided", "undecided", "undecided"]
    assert "localisation" not in verdicts(summary_with())[KEYS[0]]


def owners_of(rng, patients, most):
    """Whose tiles: patients have from two tiles to some more."""
    return np.repeat([f"P{i}" for i in range(patients)], rng.integers(2, most, patients))


SIDE = 8


def blind_cohort(rng, patients):
    """Maps and nuclei of a tile that know nothing of each other, but both favour its middle; patients differ."""
    owners = owners_of(rng, patients, 8)
    rows, columns = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    middle = np.exp(-(rows**2 + columns**2) / (2 * SIDE))
    how_many = rng.uniform(0.2, 0.9, patients)[np.unique(owners, return_inverse=True)[1]]
    maps = rng.normal(size=(len(owners), SIDE, SIDE)) + 1.5 * middle
    nuclei = rng.random(maps.shape) < how_many[:, None, None] * middle
    shares = np.array([relevance_mass(values, nuclei) for values in maps])  # [maps, tiles]
    own = np.eye(len(owners), dtype=bool)
    return pd.DataFrame({
        "tile": np.arange(len(owners)), "patient_id": owners, "key": KEYS[0], "region": "atypical_nuclei",
        "weight": shares[own], "others": np.ma.array(shares, mask=own).mean(0).filled(),
        "turned": [
            np.mean([relevance_mass(way, inside[None])[0] for way in turned(values)])
            for values, inside in zip(maps, nuclei, strict=True)
        ],
        "area": nuclei.mean((1, 2)),
    })  # fmt: skip


def test_maps_that_know_nothing_of_the_nuclei_seldom_pass():
    rng, counts, beyond_area = np.random.default_rng(0), dict.fromkeys(("passes", "fails", "undecided"), 0), 0
    for cohort in range(COHORTS // 2):
        table = blind_cohort(rng, 3 + cohort % 6)
        summary = summary_of(truth=table)
        counts[summary["verdicts"][KEYS[0]]["localisation"]] += 1
        beyond_area += summary["truth"][KEYS[0]]["atypical_nuclei"]["interval"][0] > 1
    assert beyond_area > 0.3 * COHORTS / 2  # by the area alone these would be called more than chance
    assert counts["passes"] <= MOST * COHORTS / 2
    assert counts["undecided"] > 0.85 * COHORTS / 2


def test_random_maps_seldom_beat_a_random_order():
    """Both orders are random, and the blob is much worse: one comparison decides."""
    rng, counts = np.random.default_rng(1), dict.fromkeys(("passes", "fails", "undecided"), 0)
    for cohort in range(COHORTS // 2):
        owners = pd.Series(owners_of(rng, 3 + cohort % 6, 6), name="patient_id")
        shift = dict(zip(np.unique(owners), rng.normal(0, 0.05, len(set(owners))), strict=True))
        own, random, blob = (
            bias + sign * owners.map(shift) + rng.normal(0, 0.1, len(owners))
            for bias, sign in ((0, 1), (0, -1), (0.9, 0))
        )
        over_random, over_blob = (estimate(other - own, 1, owners, 0).json for other in (random, blob))
        counts[verdict(over_random, over_blob)] += 1
    assert counts["passes"] <= MOST * COHORTS / 2
    assert counts["undecided"] > 0.85 * COHORTS / 2


@pytest.mark.parametrize(("patients", "draws"), [(3, 8), (6, 4), (12, 8)])
def test_at_the_limit_of_randomisation_few_pass_and_few_fail(patients, draws):
    """Patients, draws and both together differ around a mean that is the limit itself."""
    rng, counts = np.random.default_rng([2, patients]), dict.fromkeys(("passes", "fails", "undecided"), 0)
    for _ in range(COHORTS):
        tiles = np.unique(owners_of(rng, patients, 6), return_inverse=True)[1]
        effects = (
            rng.normal(0, 0.05, patients)[:, None] + rng.normal(0, 0.05, draws) + rng.normal(0, 0.02, (patients, draws))
        )
        excess = LOST + effects[tiles] + rng.normal(0, 0.05, (len(tiles), draws))
        tile, draw = (axis.ravel() for axis in np.indices(excess.shape))
        found = crossed_estimate(excess.ravel(), tiles[tile], draw, 0).json
        counts[verdicts(summary_with(found))[KEYS[0]]["randomisation"]] += 1
    assert counts["passes"] <= MOST * COHORTS
    assert counts["fails"] <= MOST * COHORTS
