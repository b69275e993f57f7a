from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from vitrail.explain.nuclei.association import associate
from vitrail.explain.nuclei.contrasts import contrasts, sentences


def nuclei(patients=6, tiles=2, each=40, seed=0):
    rng = np.random.default_rng(seed)
    tile = np.repeat(np.arange(patients * tiles), each)
    area = np.exp(rng.normal(3.3, 0.4, len(tile)) + rng.normal(0, 0.5, patients * tiles)[tile])
    table = pd.DataFrame({"area_um2": area, "hematoxylin_mean": rng.normal(0.7, 0.1, len(tile))})
    return table, tile, tile // tiles, rng


def said(table, outcome, tile, patient, nulls=None, **more):
    result = associate(table, pd.Series(outcome), tile, patient, null_outcomes=nulls)
    gap = contrasts(table, outcome, tile, patient)
    return sentences(result, gap, network="the classifier", outcome="effect", **more)


def test_a_contrast_is_the_ratio_or_the_difference_between_the_ends_of_each_tile():
    tile = np.repeat([0, 1], 10)
    table = pd.DataFrame({"area_um2": np.tile(2.0 ** np.arange(10), 2), "hematoxylin_mean": np.arange(20) / 10})
    table.loc[9, "hematoxylin_mean"] = np.nan
    outcome = np.arange(20.0)
    result = contrasts(table, outcome, tile, tile).set_index("feature")
    assert result["kind"].to_dict() == {"area_um2": "ratio", "hematoxylin_mean": "difference"}
    assert result.loc["area_um2", "value"] == pytest.approx(2**9)
    assert result.loc["hematoxylin_mean", "value"] == pytest.approx(0.9)
    assert result["nuclei"].tolist() == [2, 1]
    assert result["patients"].tolist() == [2, 1]


def test_small_and_flat_tiles_are_not_compared():
    table, tile, patient, _ = nuclei(each=4)
    assert set(contrasts(table, np.arange(len(tile)), tile, patient)["nuclei"]) == {0}
    table, tile, patient, _ = nuclei()
    assert contrasts(table, np.zeros(len(tile)), tile, patient)["value"].isna().all()


def planted(patients, seed):
    table, tile, patient, rng = nuclei(patients=patients, each=30, seed=seed)
    slope = 1 + 0.3 * rng.normal(size=patients)[patient]
    outcome = slope * np.log(table["area_um2"]) + 0.4 * rng.standard_t(3, size=len(tile))
    return contrasts(table[["area_um2"]], outcome, tile, patient).loc[0, ["value", "low", "high"]]


def test_the_interval_of_a_contrast_covers():
    truth = planted(600, 99)["value"]
    assert 1.5 < truth < 3
    assert np.mean([row["low"] < truth < row["high"] for row in (planted(6, seed) for seed in range(60))]) >= 0.9


def test_sentences_say_what_the_numbers_carry():
    table, tile, patient, rng = nuclei()
    outcome = np.log(table["area_um2"]) / 0.4 + 3 * table["hematoxylin_mean"] / 0.1 / 3 + rng.normal(size=len(tile))
    nulls = {"turned": rng.normal(size=(20, len(tile)))}
    first, second = said(table, outcome, tile, patient, nulls, titles={"area_um2": "area"})
    assert first.startswith("Of the classifier, the tenth of nuclei with the highest effect differs from the tenth")
    assert " times as large (95 % interval " in first
    assert " darker (95 % interval " in first
    assert first.endswith("(6 patients). This is more than maps turned and mirrored would give.")
    assert second.startswith("With all other features held, the effect goes with area (+0.")
    pale = said(table, -outcome, tile, patient, nulls)[0]
    assert " paler (95 % interval " in pale


def test_sentences_do_not_say_what_a_null_does_as_well():
    table, tile, patient, rng = nuclei()
    outcome = np.log(table["area_um2"]) / 0.4 + rng.normal(size=len(tile))
    alike = np.stack([np.log(table["area_um2"]) / 0.4 + rng.normal(size=len(tile)) for _ in range(20)])
    lines = said(table, outcome, tile, patient, {"untrained": alike})
    assert lines == ["The effect also goes with area_um2, but no more than a network with random weights would give."]
    lines = said(table, outcome, tile, patient)
    assert lines == ["The effect goes with area_um2; no null was there to say whether that means anything."]


def test_where_nothing_is_found_a_sentence_says_so():
    table, tile, patient, rng = nuclei()
    lines = said(table, rng.normal(size=len(tile)), tile, patient)
    assert lines == ["Of the classifier, none of 2 features of nuclei was found to go with the effect (6 patients)."]
    lines = said(table, rng.normal(size=len(tile)), tile, patient * 0)
    assert lines == ["Of the classifier, nothing can be said of nuclei by effect: it takes two patients with nuclei."]
    none = said(table[:0], np.empty(0), tile[:0], patient[:0])
    assert none == lines
