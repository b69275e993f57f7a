from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from vitrail.explain.nuclei.association import (
    associate,
    benjamini_hochberg,
    compare,
    null_interval,
)


def nuclei(patients=8, tiles=3, each=30, seed=0):
    """Features of nuclei that are independent of each other, at levels of their own in each tile."""
    rng = np.random.default_rng(seed)
    count = patients * tiles * each
    tile = np.repeat(np.arange(patients * tiles), each)
    level = rng.normal(0, 3, (patients * tiles, 4))[tile]
    table = pd.DataFrame(rng.normal(size=(count, 4)) + level, columns=["size", "dark", "rough", "near"])
    return table, tile, tile // tiles, rng


def test_the_planted_feature_is_found_and_no_other():
    table, tile, patient, rng = nuclei()
    outcome = 0.6 * (table["dark"] - table["dark"].groupby(tile).transform("mean"))
    outcome = pd.Series(outcome + 5 * rng.normal(size=24)[tile] + rng.standard_t(2.5, len(tile)))
    nulls = {"shifted": np.stack([rng.normal(size=len(tile)) for _ in range(20)])}
    result = associate(table, outcome, tile, patient, seed=1, null_outcomes=nulls).set_index("feature")
    assert result["verdict"].to_dict() == {
        "size": "undecided", "dark": "more", "rough": "undecided", "near": "undecided"
    }  # fmt: skip
    assert (result["marginal_verdict"] == result["verdict"]).all()
    low, value, high = result.loc["dark", ["low", "coefficient", "high"]]
    assert 0.2 < low < value < high < 0.8
    assert result.loc["dark", "null"] == "shifted"
    assert result.loc["dark", "null_high"] < low
    assert set(result["nuclei"]) == {720}
    assert set(result["patients"]) == {8}
    opposite = associate(table, -outcome, tile, patient, seed=1, null_outcomes=nulls).set_index("feature")
    assert opposite.loc["dark", "verdict"] == "less"
    assert opposite.loc["dark", "coefficient"] == pytest.approx(-value)


def test_what_a_null_does_as_well_is_no_finding():
    table, tile, patient, rng = nuclei()
    outcome = pd.Series(table["dark"] + rng.normal(size=len(tile)))
    alike = np.stack([table["dark"] + rng.normal(size=len(tile)) for _ in range(20)])
    without = associate(table, outcome, tile, patient).set_index("feature")
    assert without.loc["dark", "verdict"] == "untested"
    assert without.loc["dark", "null"] == ""
    nulls = {"shifted": rng.normal(size=alike.shape), "untrained": alike}
    result = associate(table, outcome, tile, patient, null_outcomes=nulls).set_index("feature")
    assert result.loc["dark", ["verdict", "null"]].tolist() == ["as_null", "untrained"]
    single = associate(table, outcome, tile, patient, null_outcomes=alike).set_index("feature")
    assert single.loc["dark", ["verdict", "null"]].tolist() == ["as_null", "null"]


def test_a_null_that_holds_sizes_does_not_judge_them():
    table, tile, patient, rng = nuclei()
    table = table.rename(columns={"size": "area_um2"}).assign(area_um2=np.exp(table["size"] / 9))
    outcome = pd.Series(np.log(table["area_um2"]) + 0.05 * rng.normal(size=len(tile)))
    nulls = {"similar_area": np.tile(outcome.to_numpy(), (20, 1))}
    result = associate(table, outcome, tile, patient, null_outcomes=nulls).set_index("feature")
    assert result.loc["area_um2", "verdict"] == "untested"
    nulls["elsewhere"] = rng.normal(size=(20, len(tile)))
    result = associate(table, outcome, tile, patient, null_outcomes=nulls).set_index("feature")
    assert result.loc["area_um2", ["verdict", "null"]].tolist() == ["more", "elsewhere"]


def test_the_marginal_coefficient_of_ranks_is_nearly_spearmans():
    table, tile, patient, rng = nuclei(patients=3, tiles=1, each=400)
    outcome = pd.Series(np.exp(table["near"] + rng.normal(size=len(tile))))
    result = associate(table, outcome, tile, patient, resamples=20).set_index("feature")
    within = [spearmanr(table["near"][tile == k], outcome[tile == k])[0] for k in range(3)]
    assert result.loc["near", "marginal_coefficient"] == pytest.approx(np.mean(within), abs=0.03)


def test_coefficients_are_those_of_least_squares():
    table, tile, patient, rng = nuclei(each=9)
    table["dark"] += 0.7 * table["size"]
    outcome = table.to_numpy() @ [0.5, -0.2, 0, 0.1] + rng.normal(size=len(tile))
    result = associate(table, pd.Series(outcome), tile, patient, resamples=20, scale="plain")
    within = table.groupby(tile).transform(lambda column: column - column.mean())
    y = outcome - pd.Series(outcome).groupby(tile).transform("mean")
    wanted = np.linalg.lstsq(within / within.std(), y / y.std(), rcond=None)[0]
    np.testing.assert_allclose(result["coefficient"], wanted, atol=2e-3)
    variance = np.linalg.inv(np.corrcoef(within.T)).diagonal()
    np.testing.assert_allclose(result["vif"], variance, rtol=2e-2)


def test_features_that_say_the_same_are_merged_or_left_out_of_the_regression():
    rng = np.random.default_rng(3)
    tile = np.repeat(np.arange(12), 40)
    area, mean = np.exp(rng.normal(3, 0.4, len(tile))), rng.uniform(0.4, 1.2, len(tile))
    around = np.sqrt(area) * np.exp(rng.normal(0, 0.01, len(tile)))
    columns = {"area_um2": area, "perimeter_um": around, "hematoxylin_sum": area * mean, "hematoxylin_mean": mean}
    table = pd.DataFrame(columns | {"clumps": np.ones(len(tile))})
    result = associate(table, pd.Series(rng.normal(size=len(tile))), tile, tile // 3, resamples=50)
    result = result.set_index("feature")
    assert list(result.index) == ["area_um2", "hematoxylin_sum", "hematoxylin_mean"]  # one does not vary
    assert result.loc["area_um2", "merged"] == "perimeter_um"
    assert result.loc["hematoxylin_sum", "verdict"] == "collinear"
    assert np.isnan(result.loc["hematoxylin_sum", "coefficient"])
    assert np.isfinite(result.loc["hematoxylin_sum", "marginal_p"])
    assert result.loc["hematoxylin_sum", "vif"] > 10
    assert result.loc["area_um2", "vif"] < 2


def test_missing_values_are_their_tiles_mean_and_missing_outcomes_leave():
    table, tile, patient, rng = nuclei(each=12)
    outcome = pd.Series(table["size"] + rng.normal(size=len(tile)))
    gone = rng.random(len(tile)) < 0.2
    result = associate(table, outcome.where(~gone), tile, patient, resamples=50)
    pd.testing.assert_frame_equal(
        result, associate(table[~gone], outcome[~gone], tile[~gone], patient[~gone], resamples=50)
    )
    holes = table.assign(size=table["size"].where(~gone))
    marginal = associate(holes, outcome, tile, patient, resamples=50, scale="plain").set_index("feature")
    assert marginal.loc["size", "marginal_coefficient"] == pytest.approx(0.7 * np.sqrt(0.8), abs=0.08)
    assert set(marginal["nuclei"]) == {len(tile)}


@pytest.mark.parametrize("patients", [0, 1])
def test_too_few_patients_give_no_verdict(patients):
    table, tile, patient, rng = nuclei(patients=max(patients, 1))
    some = slice(None) if patients else slice(0)
    result = associate(table[some], pd.Series(rng.normal(size=len(tile)))[some], tile[some], patient[some])
    assert set(result["verdict"]) <= {"undefined"}
    assert len(result) == 4 * patients


def test_tiles_of_one_nucleus_and_maps_that_are_flat_say_nothing():
    table, _, _, rng = nuclei(patients=4, tiles=1, each=10)
    result = associate(table, pd.Series(rng.normal(size=40)), np.arange(40), np.arange(40) // 10)
    assert result.empty
    flat = associate(table, pd.Series(np.ones(40)), np.arange(40) // 5, np.arange(40) // 10)
    assert set(flat["verdict"]) == {"undefined"}


def test_lengths_must_agree():
    table, tile, patient, _ = nuclei()
    with pytest.raises(ValueError, match="of one length"):
        associate(table, pd.Series(np.ones(3)), tile, patient)


def test_two_networks_are_compared_over_the_same_patients():
    table, tile, patient, rng = nuclei()
    shared = rng.normal(size=len(tile))
    first, second = (table["dark"] + shared + 0.3 * rng.normal(size=len(tile)) for _ in range(2))
    same = compare(table, (first, second), tile, patient).set_index("feature")
    assert (same["q"] > 0.05).all()
    assert same.loc["dark", "high"] - same.loc["dark", "low"] < 0.1
    other = compare(table, (first, table["size"] + shared), tile, patient).set_index("feature")
    assert other.loc["dark", "low"] > 0.3
    assert other.loc["size", "high"] < -0.3
    assert other.loc["rough", "q"] > 0.05
    assert other.loc["dark", "difference"] == pytest.approx(other.loc["dark", "first"] - other.loc["dark", "second"])


def test_q_values_are_benjamini_and_hochbergs():
    p = np.array([0.01, np.nan, 0.04, 0.03, 0.9])
    np.testing.assert_allclose(benjamini_hochberg(p), [0.04, np.nan, 0.04 * 4 / 3, 0.04 * 4 / 3, 0.9])


def test_one_more_draw_of_a_null_lies_in_its_interval():
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(2000):
        draws = rng.normal(0.3, 2, 6)
        low, high = null_interval(draws[:5])
        inside.append(low < draws[5] < high)
    assert np.mean(inside) == pytest.approx(0.95, abs=0.016)
    assert np.isnan(null_interval([1.0])).all()
