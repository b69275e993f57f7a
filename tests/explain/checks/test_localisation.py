from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from helpers.kinds import KEYS
from vitrail.explain.checks.localisation import locate, relevance_mass, turned
from vitrail.explain.checks.results import COLUMNS, as_table, summarise
from vitrail.explain.saliency import Frame, Saliency

SIDE = 32


def saliency(values):
    values = np.asarray(values, np.float32)
    frame = Frame(image_px=(SIDE, SIDE), span_px=(SIDE, SIDE))
    return Saliency(method="gradcam", layers=("features",), target="tumor", values=values, frame=frame)


def regions(rng=None, share=0.25):
    rng = rng or np.random.default_rng(0)
    nuclei = rng.random((SIDE, SIDE)) < share
    return {"atypical_nuclei": nuclei & (rng.random(nuclei.shape) < 0.5), "nuclei": nuclei, "stroma": ~nuclei}


def truth_of(tiles, patients):
    """The summary of tiles, each a map and its masks; the others' maps are those of all other tiles."""
    maps = [saliency(values) for values, _ in tiles]
    parts = [
        pd.DataFrame(
            locate({"classifier_gradcam": maps[i]}, masks, {"classifier_gradcam": [*maps[:i], *maps[i + 1 :]]})
        ).assign(tile=i, patient_id=patient)
        for i, ((_, masks), patient) in enumerate(zip(tiles, patients, strict=True))
    ]
    tables = {name: as_table(name, []) for name in COLUMNS}
    return summarise(tables | {"truth": as_table("truth", parts)}, 0, KEYS)


def test_the_share_counts_the_positive_part_alone():
    values = np.array([[3.0, -100.0], [1.0, 0.0]])
    masks = np.array([[[True, True], [False, False]], [[False, False], [True, True]], [[True] * 2] * 2])
    assert relevance_mass(values, masks).tolist() == [0.75, 0.25, 1]
    assert np.isnan(relevance_mass(-values * [[1, 0], [1, 1]], masks)).all()


def test_a_map_is_turned_into_all_its_symmetries():
    values = np.arange(9.0).reshape(3, 3)
    found = {tuple(each.ravel()) for each in turned(values)}
    wanted = {tuple(np.rot90(each, k).ravel()) for each in (values, values[:, ::-1]) for k in range(4)}
    assert found == wanted - {tuple(values.ravel())}


def test_chance_is_what_other_maps_and_turned_ones_give():
    rng = np.random.default_rng(5)
    values, mask = rng.normal(size=(3, SIDE, SIDE)), rng.random((SIDE, SIDE)) < 0.3
    masks = dict.fromkeys(("atypical_nuclei", "nuclei", "stroma"), mask)
    row = next(
        locate({"k": saliency(values[0])}, masks, {"k": [saliency(each) for each in (*values[1:], -values[0] * 0)]})
    )
    positive = np.maximum(values, 0)
    shares = [each[mask].sum() / each.sum() for each in positive]
    assert row["weight"] == pytest.approx(shares[0], rel=1e-5)
    assert row["others"] == pytest.approx(np.mean(shares[1:]), rel=1e-5)  # one points nowhere
    ways = [(each, k) for each in (positive[0], positive[0].T) for k in range(4)][1:]
    assert row["turned"] == pytest.approx(
        np.mean([np.rot90(*way)[mask].sum() for way in ways]) / positive[0].sum(), rel=1e-5
    )


def test_a_map_that_is_the_truth_has_one_over_the_area():
    masks = [regions(np.random.default_rng(seed), 0.1 + 0.1 * seed) for seed in range(4)]
    summary = truth_of([(mask["nuclei"], mask) for mask in masks], ["P0", "P0", "P1", "P2"])
    found = summary["truth"]["classifier_gradcam"]
    areas = np.array([mask["nuclei"].mean() for mask in masks])
    assert found["nuclei"]["ratio"] == pytest.approx(4 / areas.sum())
    assert found["stroma"]["ratio"] == 0
    assert found["nuclei"]["tiles"] == 4
    low, high = found["nuclei"]["interval"]
    assert low <= found["nuclei"]["ratio"] <= high
    for null in ("others", "turned"):  # random masks hold of each other what their area gives
        assert found["nuclei"][null] == pytest.approx(1, abs=0.1)
        assert found["nuclei"][f"over_{null}"][0] == pytest.approx(found["nuclei"]["ratio"] - found["nuclei"][null])


def test_a_map_that_knows_nothing_is_at_chance():
    masks = [regions(np.random.default_rng(seed)) for seed in range(6)]
    summary = truth_of([(np.full((4, 4), 0.3), mask) for mask in masks], list("aabbcc"))
    for region in summary["truth"]["classifier_gradcam"].values():
        assert region["ratio"] == region["others"] == region["turned"] == pytest.approx(1)
    assert summary["verdicts"]["classifier_gradcam"]["localisation"] == "undecided"


def test_what_maps_and_nuclei_share_is_not_taken_for_knowledge():
    """Maps favour the middle of every tile, and nuclei lie there: more than the area, and no more than chance."""
    rng = np.random.default_rng(1)
    rows, columns = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    middle = np.exp(-(rows**2 + columns**2) / SIDE)
    masks = [dict.fromkeys(("atypical_nuclei", "nuclei"), rng.random((SIDE, SIDE)) < 0.4 * middle) for _ in range(30)]
    owners = [f"P{i % 6}" for i in range(30)]
    blobs = truth_of([(middle * rng.uniform(0.5, 1.5, (SIDE, SIDE)), mask) for mask in masks], owners)
    found = blobs["truth"]["classifier_gradcam"]["atypical_nuclei"]
    assert found["interval"][0] > 2
    assert min(found["others"], found["turned"]) > 2
    assert blobs["verdicts"]["classifier_gradcam"]["localisation"] == "undecided"
    true = truth_of([(middle + 2 * mask["nuclei"], mask) for mask in masks], owners)
    assert true["verdicts"]["classifier_gradcam"]["localisation"] == "passes"
    shy = truth_of([(middle * ~mask["nuclei"], mask) for mask in masks], owners)
    assert shy["verdicts"]["classifier_gradcam"]["localisation"] == "fails"


def test_maps_that_point_nowhere_are_left_out_and_other_keys_are_empty():
    masks = [regions(np.random.default_rng(seed)) for seed in range(2)]
    maps = [mask["nuclei"] for mask in masks]
    found = truth_of([*zip(maps, masks, strict=True), (-np.ones((4, 4)), masks[0])], ["a", "a", "b"])["truth"]
    assert found["classifier_gradcam"]["nuclei"]["tiles"] == 2
    assert found["classifier_gradcam"]["nuclei"]["interval"] == [None, None]  # one patient tells nothing
    assert {key: found[key] for key in KEYS[1:]} == {key: {} for key in KEYS[1:]}


def test_coarse_maps_are_enlarged_to_the_tile():
    """Half the weight of a map that falls from left to right lies where interpolation puts it."""
    left = np.zeros((SIDE, SIDE), bool)
    left[:, : SIDE // 2] = True
    masks = {"atypical_nuclei": left, "nuclei": left, "stroma": ~left}
    rows = pd.DataFrame(locate({"k": saliency([[1.0, 0.0]])}, masks, {"k": []})).set_index("region")
    values = np.clip((SIDE * 0.75 - (np.arange(SIDE) + 0.5)) / (SIDE / 2), 0, 1)
    assert rows.loc["nuclei", "weight"] == pytest.approx(values[: SIDE // 2].sum() / values.sum(), abs=1e-6)
    assert rows["area"].tolist() == [0.5, 0.5, 0.5]
    assert rows["weight"][["nuclei", "stroma"]].sum() == pytest.approx(1)


def test_without_synthetic_slides_there_is_no_truth():
    empty = {name: as_table(name, []) for name in COLUMNS}
    assert summarise(empty, 0, KEYS)["truth"] is None
