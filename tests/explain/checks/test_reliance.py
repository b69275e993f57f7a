from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from vitrail.explain.checks.counterfactuals import Changed
from vitrail.explain.checks.reliance import COLUMNS, conclusion, measure, read_reliance, sentence, summarise

PATIENTS = np.array([f"P{i}" for i in range(8)])


class Corner:
    """The candidate is the corner's brightness; the matched change is of another pixel."""

    name = "ink"

    def take(self, images):
        return self._changed(images, 0)

    def put(self, images, donors):
        return self._changed(images, donors[:, 0, 0])

    def _changed(self, images, value):
        changed, matched = images.copy(), images.copy()
        changed[:, 0, 0], matched[:, 3, 3] = value, value
        return Changed(images=changed, matched=(matched,))


def tiles(rng, tumor):
    images = rng.integers(90, 110, (40, 4, 4, 3)).astype(np.uint8)
    images[:, 0, 0] = 200 if tumor else 0
    images[:, 1] += np.uint8(100 if tumor else 0)
    return images


def score_with(weight):
    """A score of which a known share rests on the corner, and the rest on the second row."""
    return lambda images: weight * images[:, 0, 0, 0] / 200.0 + (1 - weight) * images[:, 1, :, 0].mean(1) / 100.0


def table_of(weight, seed=0):
    rng = np.random.default_rng(seed)
    tumor, rest = tiles(rng, tumor=True), tiles(rng, tumor=False)
    measured = measure(Corner(), score_with(weight), tumor, rest)
    tables = [
        pd.DataFrame(values).assign(
            tile=np.arange(40), patient_id=np.resize(PATIENTS, 40), network="classifier", cause="ink", way=way
        )
        for way, values in zip(("taken", "put"), measured, strict=True)
    ]
    return pd.concat(tables, ignore_index=True)[list(COLUMNS)]


@pytest.mark.parametrize("weight", [0.84, 0.3, 0.1, 0.0])
def test_the_share_is_the_part_of_the_score_that_rests_on_the_cause(weight):
    (entry,) = summarise(table_of(weight), 0)["classifier"]
    assert entry["share"] == pytest.approx(weight, abs=0.03)
    assert entry["put"][0] == pytest.approx(weight, abs=0.03)
    assert entry["null"] == 0
    assert entry["named"] is (weight > 0.15)
    assert entry["tiles"] == 40
    assert entry["patients"] == 8


def test_a_shortcut_works_both_ways():
    table = table_of(0.84)
    put = table["way"] == "put"
    table.loc[put, "after"] = table.loc[put, "before"]
    (entry,) = summarise(table, 0)["classifier"]
    assert entry["share"] > 0.8
    assert not entry["named"]


def test_what_any_such_change_costs_names_nothing():
    table = table_of(0.84)
    table["matched"] = table["after"]
    (entry,) = summarise(table, 0)["classifier"]
    assert entry["null"] == pytest.approx(entry["share"])
    assert not entry["named"]


def test_one_patient_names_nothing():
    (entry,) = summarise(table_of(0.84).assign(patient_id="P0"), 0)["classifier"]
    assert entry["low"] is None
    assert not entry["named"]


def test_words_follow_from_numbers():
    entries = summarise(table_of(0.84), 0)["classifier"]
    words = entries[0]["sentence"]
    assert words.startswith("84 % (")
    assert "of the classification network's score of tumor tiles rests on coloured ink; filling in as much" in words
    assert words == sentence(entries[0], "classification network")
    assert conclusion(entries) == "A shortcut was named: coloured ink."
    none = [entry | {"named": False} for entry in entries]
    assert conclusion(none) == "No shortcut was named; looked for: coloured ink."


def test_a_hundred_clean_cohorts_of_noise_name_next_to_nothing():
    """Of a cause that takes and gives a tenth by nature, tiles and patients scattering widely."""
    named = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        patients = rng.integers(0, 8, 80)
        own, way = rng.normal(0, 0.3, 8)[patients], np.repeat(["taken", "put"], 40)
        sign = np.where(way == "put", -1, 1)
        table = pd.DataFrame(
            {
                "tile": np.arange(80), "patient_id": PATIENTS[patients], "network": "classifier", "cause": "ink",
                "way": way, "before": sign * 1.0, "goal": -1.0 * sign,
            }
        )  # fmt: skip
        moved = 0.1 + own[:, None] * 0.3 + rng.normal(0, 0.3, (80, 2)) * [1, 0.3]
        table["after"] = table["before"] - sign * 2 * moved[:, 0]
        table["matched"] = table["before"] - sign * 2 * (moved[:, 1] - 0.1)
        (entry,) = summarise(table, seed)["classifier"]
        named += entry["named"]
    assert named <= 3


def test_checks_of_before_have_none(tmp_path):
    assert read_reliance(tmp_path) is None
