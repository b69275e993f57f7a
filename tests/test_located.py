from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from vitrail.explain.checked import as_table, summarise
from vitrail.explain.located import locate, weight_inside
from vitrail.explain.saliency import Frame, Saliency
from vitrail.explain.stored import KEYS

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
    """The summary of tiles, each a map and its masks."""
    parts = [
        pd.DataFrame(locate({"classifier_gradcam": saliency(values)}, masks)).assign(tile=i, patient_id=patient)
        for i, ((values, masks), patient) in enumerate(zip(tiles, patients, strict=True))
    ]
    tables = {name: as_table(name, []) for name in ("perturbation", "randomisation")}
    return summarise(tables | {"truth": as_table("truth", parts)}, 0)["truth"]


def test_the_share_counts_the_positive_part_alone():
    values = np.array([[3.0, -100.0], [1.0, 0.0]])
    assert weight_inside(values, np.array([[True, True], [False, False]])) == 0.75
    assert np.isnan(weight_inside(-values * [[1, 0], [1, 1]], np.ones((2, 2), bool)))


def test_a_map_that_is_the_truth_has_one_over_the_area():
    masks = [regions(np.random.default_rng(seed), 0.1 + 0.1 * seed) for seed in range(4)]
    found = truth_of([(mask["nuclei"], mask) for mask in masks], ["P0", "P0", "P1", "P2"])["classifier_gradcam"]
    areas = np.array([mask["nuclei"].mean() for mask in masks])
    assert found["nuclei"]["ratio"] == pytest.approx(4 / areas.sum())
    assert found["stroma"]["ratio"] == 0
    assert found["nuclei"]["tiles"] == 4
    low, high = found["nuclei"]["interval"]
    assert 1 / areas.max() <= low <= found["nuclei"]["ratio"] <= high <= 1 / areas.min()


def test_a_map_that_knows_nothing_is_at_chance():
    masks = [regions(np.random.default_rng(seed)) for seed in range(6)]
    found = truth_of([(np.full((4, 4), 0.3), mask) for mask in masks], list("aabbcc"))["classifier_gradcam"]
    for region in found.values():
        assert region["ratio"] == pytest.approx(1)
        assert region["interval"] == pytest.approx([1, 1])


def test_maps_that_point_nowhere_are_left_out_and_other_keys_are_empty():
    mask = regions()
    found = truth_of([(mask["nuclei"], mask), (-np.ones((4, 4)), mask)], ["a", "b"])
    assert found["classifier_gradcam"]["nuclei"]["tiles"] == 1
    assert found["classifier_gradcam"]["nuclei"]["interval"] == [None, None]  # one patient tells nothing
    assert {key: found[key] for key in KEYS[1:]} == {key: {} for key in KEYS[1:]}


def test_coarse_maps_are_enlarged_to_the_tile():
    """Half the weight of a map that falls from left to right lies where interpolation puts it."""
    left = np.zeros((SIDE, SIDE), bool)
    left[:, : SIDE // 2] = True
    masks = {"atypical_nuclei": left, "nuclei": left, "stroma": ~left}
    rows = pd.DataFrame(locate({"k": saliency([[1.0, 0.0]])}, masks)).set_index("region")
    values = np.clip((SIDE * 0.75 - (np.arange(SIDE) + 0.5)) / (SIDE / 2), 0, 1)
    assert rows.loc["nuclei", "weight"] == pytest.approx(values[: SIDE // 2].sum() / values.sum(), abs=1e-6)
    assert rows["area"].tolist() == [0.5, 0.5, 0.5]
    assert rows["weight"][["nuclei", "stroma"]].sum() == pytest.approx(1)


def test_without_synthetic_slides_there_is_no_truth():
    empty = {name: as_table(name, []) for name in ("perturbation", "randomisation", "truth")}
    assert summarise(empty, 0)["truth"] is None
