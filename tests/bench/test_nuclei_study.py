"""The bench of the study's nuclei measures what it says: on label images and scores whose truth can be written down."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from vitrail.explain.nuclei.relevance import relevance

PATH = Path(__file__).parents[2] / "bench" / "nuclei_study.py"
SQUARES = ((10, 10), (10, 40), (40, 10), (40, 40), (25, 60))
TARGET = np.array([True, True, False, False, False])


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_nuclei_study", PATH)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "bench_nuclei_study", module)  # dataclasses look their module up
        spec.loader.exec_module(module)
        yield module


@pytest.fixture
def labels():
    image = np.zeros((80, 80), np.int32)
    for number, (row, column) in enumerate(SQUARES, 1):
        image[row : row + 8, column : column + 8] = number
    return image


@pytest.fixture
def nuclei(bench, labels):
    return bench.TileNuclei(labels=labels, target=TARGET, area_px=np.full(5, 64))


def test_auroc_is_that_of_scikit_learn_and_areas_leave_pairs_out(bench):
    rng = np.random.default_rng(2)
    values, target = rng.integers(0, 5, 60).astype(float), rng.random(60) < 0.3
    assert bench.auroc(values, target) == pytest.approx(roc_auc_score(target, values))
    area = np.where(np.arange(60) < 30, 100, 200)
    halves = [bench.auroc(values[part], target[part]) for part in (area == 100, area == 200)]
    pairs = [target[part].sum() * (~target[part]).sum() for part in (area == 100, area == 200)]
    assert bench.auroc(values, target, area) == pytest.approx(np.average(halves, weights=pairs))
    assert np.isnan(bench.auroc(values, np.zeros(60, bool)))


def test_points_give_their_class_to_the_nucleus_under_them_or_near(bench, labels):
    points = np.array([[12.0, 12.0], [49.5, 14.0], [12.5, 42.5], [70.0, 5.0], [42.0, 42.0], [44.0, 44.0]])
    target = np.array([True, True, False, True, True, False])
    kinds = bench.match(labels, points, target, near_px=3)
    assert kinds.tolist() == [-1, 1, 1, 0, -1, -1]  # the fourth has cells of both classes, the fifth none


def test_discs_are_round_and_share_what_they_both_cover(bench):
    image = bench.discs(np.array([[20.5, 20.5], [27.5, 20.5]]), (40, 48), 7)
    alone = bench.discs(np.array([[20.5, 20.5]]), (40, 48), 7)
    assert (alone > 0).sum() == pytest.approx(np.pi * 49, rel=0.05)
    assert (image[:, :24] != 2).all()
    assert (image == 1).sum() == pytest.approx((image == 2).sum(), rel=0.1)


def test_a_tile_has_the_nuclei_whose_greater_part_lies_on_it(bench, labels):
    kinds = np.array([-1, 1, 0, -1, 1, 0])
    cut = bench.cut_nuclei(labels, kinds, (5.0, 5.0, 40.0), 80)  # twice as fine; 1, and a good half of 2, and 3, 4
    assert cut.labels.shape == (80, 80)
    assert cut.target.tolist() == [True, False]  # 3 has no class, of 4 only a part is on the tile
    assert cut.area_px.tolist() == [256, 160]
    assert sorted(np.unique(cut.labels)) == [0, 1, 2, 3, 4]
    assert (cut.labels[10:26, 10:26] == 1).all()


def test_the_statistics_of_a_map_that_is_the_truth_and_of_a_flat_one(bench, nuclei):
    truth = np.isin(nuclei.labels, [1, 2]).astype(np.float32)
    assert bench.judge_maps(truth[None], nuclei)[0] == pytest.approx({"auroc": 1, "matched": 1, "excess": 1 - 2 / 5})
    flat = bench.judge_maps(np.ones_like(truth)[None], nuclei)[0]
    assert flat == pytest.approx({"auroc": 0.5, "matched": 0.5, "excess": 0})
    assert np.isnan(bench.judge_maps(-truth[None] - 1, nuclei)[0]["excess"])


def test_maps_are_judged_by_what_relevance_measures(bench, nuclei):
    values = np.random.default_rng(5).normal(size=(2, 80, 80)).astype(np.float32)
    for judged, each in zip(bench.judge_maps(values, nuclei), values, strict=True):
        table = relevance(each, nuclei.labels)
        assert judged["auroc"] == bench.auroc(table["mean"].to_numpy(), TARGET)
        share = table["mass"][TARGET].sum() / table["mass"].sum()
        assert judged["excess"] == pytest.approx(share - 2 / 5)


def test_nulls_hold_the_values_of_the_map_and_never_the_map(bench):
    values = np.random.default_rng(0).random((24, 24)).astype(np.float32)
    moved = list(bench.moved_maps(values, np.random.default_rng(1)))
    assert len({each.tobytes() for _, _, each in moved if not np.array_equal(each, values)}) >= 7 + bench.SHIFTS - 2
    for name, _, each in moved:
        assert not np.array_equal(each, values), name
        np.testing.assert_array_equal(np.sort(each, axis=None), np.sort(values, axis=None))
    assert [name for name, _, _ in moved].count("turned") == 7


def test_ghosts_have_the_shape_of_their_nucleus_and_touch_none(bench, labels):
    masks = bench.ghosts(labels, labels, 5)
    assert masks.sum((1, 2)).tolist() == [64] * 5
    assert not (masks & (labels > 0)).any()
    crowded = np.arange(1, 65).repeat(9).reshape(64, 3, 3).reshape(8, 8, 3, 3).swapaxes(1, 2).reshape(24, 24)
    assert not bench.ghosts(crowded.astype(np.int32), crowded.astype(np.int32), 64).any()


def test_what_is_painted_over_is_that_nucleus_or_that_place_alone(bench, nuclei):
    image = np.full((80, 80, 3), 200, np.uint8)
    image[nuclei.labels > 0] = 90
    images, area_px = bench.painted_over(image, nuclei, 0.5, (0,))
    assert len(images) == len(area_px) == 2 * 5 + 4
    dark = [int((each[..., 0] < 150).sum()) for each in images]
    assert dark == [256] * 5 + [320] * 5 + [192, 128, 320, 320]
    assert area_px[10] == area_px[:2].sum()
    for number in range(1, 6):
        assert (images[number - 1][nuclei.labels == number] > 150).all()


def test_permuting_stays_among_nuclei_of_similar_area(bench):
    area = np.arange(100, 140)
    permuted = bench.among_similar(area, np.random.default_rng(0))
    assert sorted(permuted) == list(range(40))
    assert (np.abs(permuted - np.arange(40)) < bench.ALIKE).all()
    assert (permuted != np.arange(40)).any()


def _table(observed, null, statistic="auroc"):
    rows = []
    for tile, (own, draws) in enumerate(zip(observed, null, strict=True)):
        owner = {"tile": str(tile), "patient_id": f"p{tile // 3}", "run": "a", "statistic": statistic}
        rows.append(owner | {"null": "observed", "draw": 0, "value": own})
        rows += [owner | {"null": "shifted", "draw": draw, "value": value} for draw, value in enumerate(draws)]
    return pd.DataFrame(rows)


def test_a_null_is_compared_tile_by_tile_with_the_mean_of_its_draws(bench):
    rng = np.random.default_rng(3)
    base = rng.normal(0.5, 0.2, 45)  # tiles differ far more than what is asked for
    null = base[:, None] + rng.normal(0, 0.01, (45, 16))
    compared = bench.compare(_table(base + 0.05, null), 0).set_index("null")
    assert compared.loc["observed", "value"] == pytest.approx((base + 0.05).mean())
    assert compared.loc["shifted", "value"] == pytest.approx(0.05, abs=0.003)
    assert compared.loc["shifted", "high"] - compared.loc["shifted", "low"] < 0.01
    assert compared.loc["shifted", "tiles"] == 45
    assert compared.loc["shifted", "patients"] == 15


def test_false_alarms_are_rare_among_moved_maps(bench):
    rng = np.random.default_rng(4)
    counts = np.array([bench.false_alarms(_table(rng.random(45), rng.random((45, 16))), 0) for _ in range(10)])
    assert counts[:, 1].sum() == 160
    assert counts[:, 0].sum() <= 12  # one-sided 2.5 %: 4 expected
