"""What slides look like, and how far they lie from those of a training."""

from __future__ import annotations

import json

import numpy as np
import pytest

from helpers.stained import VECTORS, stained_tiles
from vitrail.models.spec import TrainingInfo
from vitrail.quality.appearance import (
    FEWEST_PATIENTS,
    GROUPS,
    MEASURES,
    centre_and_scale,
    fit_training,
    left_out,
    measure,
    spread_out,
    stain_vectors,
)
from vitrail.quality.background import optical_density
from vitrail.shift.simulate import Shift, shifted

NAMES = tuple(MEASURES)


def angle(first, second):
    return np.degrees(np.arccos(np.clip(first @ second, -1, 1)))


def drawn(rng, count, move=0.0):
    """Slides whose measures are normal and correlated, each `move` spreads off."""
    shared = rng.normal(size=(count, 1))
    return 10 + 3 * (0.6 * shared + 0.8 * rng.normal(size=(count, len(NAMES))) + move)


def test_the_stains_of_a_slide_are_recovered():
    density = optical_density(stained_tiles().reshape(-1, 3)).astype(np.float64)
    found = stain_vectors(density[density.mean(1) > 0.1])
    assert angle(found[0], VECTORS[0]) < 4
    assert angle(found[1], VECTORS[1]) < 4


def test_one_colour_has_the_stains_of_any_slide():
    grey = stain_vectors(np.full((500, 3), 0.4))
    np.testing.assert_array_equal(grey, stain_vectors(np.empty((0, 3))))


@pytest.mark.parametrize(
    "tiles", [stained_tiles(tiles=1), np.full((3, 96, 96, 3), 255, np.uint8), np.zeros((1, 32, 32, 3), np.uint8)]
)
def test_all_measures_are_finite_and_the_same_each_time(tiles):
    measured = measure(tiles)
    assert tuple(measured) == NAMES
    assert np.isfinite(list(measured.values())).all()
    assert measure(tiles) == measured


@pytest.mark.parametrize(
    ("shift", "name", "sign"),
    [
        (("hematoxylin", 1.5), "hematoxylin_spread", 1),
        (("eosin", 0.5), "eosin_density", -1),
        (("hue", 0.2), "eosin_hue", -1),
        (("focus", 1.0), "sharpness", -1),
        (("focus", 2.0), "fine_detail", -1),
        (("jpeg", 30), "blockiness", 1),
        (("jpeg", 30), "colour_detail", -1),
        (("brightness", 0.9), "pale_brightness", -1),
    ],
)
def test_each_shift_moves_its_measure(shift, name, sign):
    tiles, (family, strength) = stained_tiles(), shift
    before, after = measure(tiles), measure(shifted(tiles, Shift(family=family, strength=strength), 1.0))
    assert sign * (after[name] - before[name]) > 3 * MEASURES[name].least


def test_noise_is_measured_in_grey_levels():
    """A fifth low: by chance the tenth of the blocks that are flattest have less."""
    rng = np.random.default_rng(0)
    flat = np.clip(150 + rng.normal(0, 6, (4, 96, 96, 1)), 0, 255).round().astype(np.uint8)
    assert measure(np.broadcast_to(flat, (4, 96, 96, 3)))["noise"] == pytest.approx(0.8 * 6, rel=0.05)


def test_tiles_are_spread_evenly():
    assert spread_out(3, 16).tolist() == [0, 1, 2]
    assert spread_out(31, 4).tolist() == [0, 10, 20, 30]


def test_distances_are_those_of_a_shrunk_mahalanobis_distance():
    """By loops over slides and pairs of measures, after Schaefer and Strimmer 2005."""
    values = drawn(np.random.default_rng(0), 20)
    centre, scale = centre_and_scale(values)
    z = np.clip((values - centre) / scale, -4, 4)
    z = (z - z.mean(0)) / z.std(0)
    n, p = z.shape
    top = bottom = 0.0
    r = np.eye(p)
    for i in range(p):
        for j in range(p):
            if i != j:
                w = z[:, i] * z[:, j]
                r[i, j] = w.mean()
                top += ((w - w.mean()) ** 2).sum() / (n * (n - 1))
                bottom += w.mean() ** 2
    shrunk = r * (1 - top / bottom) + np.eye(p) * top / bottom
    off = (values[0] + 5 - centre) / scale
    fitted = fit_training(values, [f"P{number}" for number in range(n)])
    own = fitted.distances(dict(zip(NAMES, values[0] + 5, strict=True)))
    for group in GROUPS:
        at = [number for number, name in enumerate(NAMES) if group in {"all", MEASURES[name].group}]
        squared = off[at] @ np.linalg.inv(shrunk[np.ix_(at, at)]) @ off[at] / len(at)
        assert own.by_group[group] * fitted.limits[group] == pytest.approx(np.sqrt(squared), rel=1e-4)


def test_a_left_out_slide_is_measured_against_all_other_patients():
    values, patients = drawn(np.random.default_rng(1), 12), [f"P{number // 2}" for number in range(12)]
    alone = left_out(values, patients, NAMES)
    fitted = fit_training(values[2:], patients[2:])
    (own,) = fitted.distances_of(values[:1])
    assert alone["all"][0] == pytest.approx(own.by_group["all"] * fitted.limits["all"], rel=1e-4)


def test_slides_like_those_of_the_training_are_seldom_beyond_it_and_others_are():
    """With 30 patients of a slide each, one in 31 is expected."""
    like, unlike = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        fitted = fit_training(drawn(rng, 30), [f"P{number}" for number in range(30)])
        like += [own.is_beyond for own in fitted.distances_of(drawn(rng, 20))]
        unlike += [own.is_beyond for own in fitted.distances_of(drawn(rng, 20, move=6.0))]
    assert 0.01 < np.mean(like) < 0.055
    assert np.mean(unlike) > 0.95


def test_the_group_that_differs_is_named():
    rng = np.random.default_rng(2)
    fitted = fit_training(drawn(rng, 40), [f"P{number}" for number in range(40)])
    blurred = drawn(rng, 1) - 60 * np.array([MEASURES[name].group == "focus" for name in NAMES])
    (own,) = fitted.distances_of(blurred)
    assert (own.group, own.is_beyond) == ("focus", True)
    assert own.farthest > 1


def test_few_patients_call_nothing_beyond():
    rng = np.random.default_rng(3)
    assert fit_training(drawn(rng, 5), ["A", "A", "A", "B", "B"]) is None
    few = fit_training(drawn(rng, 9), [f"P{number}" for number in range(FEWEST_PATIENTS - 1)])
    assert not few.distances_of(drawn(rng, 1, move=1000.0))[0].is_beyond


def test_it_fits_into_a_model_json():
    fitted = fit_training(drawn(np.random.default_rng(4), 12), [f"P{number}" for number in range(12)])
    info = {"epochs": 1, "best_epoch": 1, "validation_loss": 0.5, "seed": 0}
    assert TrainingInfo.model_validate(info).appearance is None
    text = TrainingInfo.model_validate(info | {"appearance": fitted}).model_dump_json()
    assert len(text) < 10_000
    assert TrainingInfo.model_validate_json(text).appearance == fitted
    assert json.loads(text)["appearance"]["names"] == list(NAMES)
