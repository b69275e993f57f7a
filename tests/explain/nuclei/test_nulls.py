from __future__ import annotations

import numpy as np
import pandas as pd

from vitrail.explain.nuclei.association import associate
from vitrail.explain.nuclei.nulls import (
    HELD,
    SIZE,
    TITLES,
    effect_nulls,
    map_nulls,
    shifted,
)
from vitrail.explain.saliency import Frame, Saliency

SIDE = 32


def saliency(values):
    frame = Frame(image_px=(SIDE, SIDE), span_px=(SIDE, SIDE))
    return Saliency(method="gradcam", layers=("x",), target="tumor", values=np.asarray(values, np.float32), frame=frame)


def mean(values, labels):
    """The mean of a map in each nucleus."""
    inside = np.bincount(labels.ravel(), values.ravel().astype(float)) / np.maximum(np.bincount(labels.ravel()), 1)
    return inside[1:]


def grid():
    """Sixteen square nuclei of a tile."""
    labels = np.zeros((SIDE, SIDE), np.int32)
    for number in range(16):
        row, column = divmod(number, 4)
        labels[row * 8 + 2 : row * 8 + 6, column * 8 + 2 : column * 8 + 6] = number + 1
    return labels


def test_a_map_moves_over_its_borders_and_never_little():
    rng = np.random.default_rng(0)
    values = np.zeros((16, 16), np.float32)
    values[3, 5] = 1
    for _ in range(300):
        row, column = np.argwhere(shifted(values, rng))[0]
        away = [min((at - was) % 16, (was - at) % 16) for at, was in ((row, 3), (column, 5))]
        assert max(away) >= 4
        assert shifted(values, rng).sum() == 1


def test_nulls_of_maps_keep_their_values_and_lose_their_place():
    rng = np.random.default_rng(1)
    labels = grid()
    rough = [rng.normal(size=(SIDE, SIDE)) for _ in range(6)]
    saliencies = [saliency(values) for values in rough]
    nulls = map_nulls(saliencies, [labels] * 6, ["a", "a", "b", "b", "c", "c"], mean, seed=3, draws=5)
    assert list(nulls) == ["shifted", "turned", "other_tiles", "other_patients"]
    assert all(each.shape == (5, 96) for each in nulls.values())
    own = np.concatenate([mean(values, labels) for values in rough])
    siblings = np.concatenate([mean(rough[tile ^ 1], labels) for tile in range(6)])
    np.testing.assert_allclose(nulls["other_tiles"], np.tile(siblings, (5, 1)), rtol=1e-5, atol=1e-6)
    for name in ("shifted", "turned", "other_patients"):
        assert max(abs(np.corrcoef(own, draw)[0, 1]) for draw in nulls[name]) < 0.35
    for draw in nulls["turned"]:  # of nuclei that lie symmetrically, the same means in another order
        for tile in range(6):
            part = slice(16 * tile, 16 * tile + 16)
            np.testing.assert_allclose(np.sort(draw[part]), np.sort(own[part]), rtol=1e-4, atol=1e-6)
            assert not np.allclose(draw[part], own[part])
    again = map_nulls(saliencies, [labels] * 6, ["a", "a", "b", "b", "c", "c"], mean, seed=3, draws=5)
    assert all((nulls[name] == again[name]).all() for name in nulls)


def test_a_map_of_the_middle_is_no_finding_where_large_nuclei_lie_in_the_middle():
    rng = np.random.default_rng(5)
    line = (np.arange(SIDE) - SIDE / 2 + 0.5) / SIDE
    blob = np.exp(-8 * (line**2 + line[:, None] ** 2))
    labels, tiles = grid(), np.repeat(np.arange(12), 16)
    inner = np.isin(np.arange(16), [5, 6, 9, 10])
    features = pd.DataFrame({"area_um2": np.tile(np.where(inner, 60.0, 30.0), 12) * np.exp(0.2 * rng.normal(size=192))})
    saliencies = [saliency(blob + 0.05 * rng.normal(size=blob.shape)) for _ in range(12)]
    outcome = pd.Series(np.concatenate([mean(each.values, labels) for each in saliencies]))
    nulls = map_nulls(saliencies, [labels] * 12, np.arange(12) // 2, mean, seed=0)
    alone = {name: associate(features, outcome, tiles, tiles // 2, null_outcomes={name: each}).loc[0]
             for name, each in nulls.items()}  # fmt: skip
    assert alone["shifted"]["verdict"] == "more"  # it does not know where a map lies that knows no tile
    assert {alone[name]["verdict"] for name in ("turned", "other_tiles", "other_patients")} == {"as_null"}
    assert associate(features, outcome, tiles, tiles // 2, null_outcomes=nulls).loc[0, "verdict"] == "as_null"


def test_without_a_second_tile_or_patient_no_map_is_lent():
    saliencies = [saliency(np.eye(SIDE) + number) for number in range(3)]
    alone = map_nulls(saliencies, [grid()] * 3, ["a", "b", "c"], mean, seed=0, draws=2)
    assert list(alone) == ["shifted", "turned", "other_patients"]
    one = map_nulls(saliencies, [grid()] * 3, ["a"] * 3, mean, seed=0, draws=2)
    assert list(one) == ["shifted", "turned", "other_tiles"]
    nothing = map_nulls([], [], [], mean, seed=0, draws=2)
    assert nothing == {}
    empty = [np.zeros((SIDE, SIDE), np.int32), grid(), grid()]
    mixed = map_nulls(saliencies, empty, ["a", "a", "b"], mean, seed=0, draws=2)
    assert mixed["shifted"].shape == (2, 32)


def test_effects_are_exchanged_among_nuclei_of_similar_area():
    rng = np.random.default_rng(2)
    tiles = np.repeat(np.arange(8), 60)
    area = np.exp(rng.normal(3, 0.5, len(tiles)))
    effect = np.log(area) + 10 * tiles + 0.1 * rng.normal(size=len(tiles))
    control = np.full(len(tiles), np.nan)
    nulls = effect_nulls(effect, control, area, tiles, seed=1, draws=30)
    assert list(nulls) == ["similar_area"]
    for draw in nulls["similar_area"]:
        assert np.corrcoef(draw, effect)[0, 1] > 0.98  # area and level stay
        for tile in range(8):
            np.testing.assert_allclose(np.sort(draw[tiles == tile]), np.sort(effect[tiles == tile]))
    rest = effect - np.log(area) - 10 * tiles
    left = [np.corrcoef(draw - np.log(area) - 10 * tiles, rest)[0, 1] for draw in nulls["similar_area"]]
    assert abs(np.mean(left)) < 0.25
    elsewhere = effect_nulls(effect, rest, area, tiles, seed=1, draws=2)["elsewhere"]
    np.testing.assert_allclose(np.sort(elsewhere[0]), np.sort(rest))
    assert effect_nulls([], [], [], [], seed=0, draws=2) == {}


def test_every_null_has_a_title_and_what_it_holds():
    assert set(HELD) == set(TITLES)
    assert HELD["similar_area"] == SIZE
    assert not HELD["turned"]
