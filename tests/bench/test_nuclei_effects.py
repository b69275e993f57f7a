from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from skimage.draw import polygon
from skimage.measure import regionprops

from vitrail.explain.nuclei.association import associate
from vitrail.explain.nuclei.contrasts import contrasts, sentences
from vitrail.explain.nuclei.nulls import effect_nulls
from vitrail.geometry import Region
from vitrail.synthetic import SlideSpec, compose, draw_tile

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_nuclei_effects", ROOT / "bench" / "nuclei_effects.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "bench_nuclei_effects", module)  # dataclasses look their module up
        spec.loader.exec_module(module)
        yield module


@pytest.fixture(scope="module")
def pool(bench):
    return [bench.drawn_slide((7, number)) for number in range(8)]


def test_features_of_synthetic_slides_are_measured_as_drawn(pool):
    features = pd.concat([table for slide in pool for table in slide.features])
    assert np.isfinite(features.to_numpy()).all()
    assert 20 < features["area_um2"].median() < 30
    assert features["circularity"].max() <= 1
    assert (features["minor_axis_um"] <= features["major_axis_um"] + 1e-9).all()
    np.testing.assert_allclose(features["hematoxylin_sum"], features["area_um2"] * features["hematoxylin_mean"])


def test_intervals_cover_and_clean_cohorts_stay_clean(bench, pool):
    truth = bench.Population(pool, None, 0.0, patients=200)
    clean = bench.measure(truth, 6, cohorts=30, resamples=300)
    row = bench.summarise(clean, None)
    assert row["coverage"] > 0.93
    assert row["marginal_coverage"] > 0.93
    assert row["any_false"] <= 0.1


def test_what_is_planted_is_found(bench, pool):
    truth = bench.Population(pool, "hematoxylin_mean", 0.6, patients=200)
    planted = bench.measure(truth, 16, cohorts=10, resamples=500)
    row = bench.summarise(planted, "hematoxylin_mean")
    assert row["found"] >= 0.7
    assert row["found_alone"] >= 0.7
    assert row["false_a_finding"] <= 0.15


def test_a_cohort_is_drawn_from_its_seed(bench, pool):
    first, second = (bench.simulate(pool, np.random.default_rng(3), 4, "solidity", 0.5) for _ in range(2))
    assert (first.outcome == second.outcome).all()
    assert first.features.equals(second.features)
    assert len(np.unique(first.patients)) == 4


SIDE = 398
GLASS = 245  # what nuclei are painted over with
PROPERTIES = {"area": "area_um2", "darkness": "hematoxylin_mean", "irregularity": "solidity"}


@pytest.fixture(scope="module")
def drawn(bench):
    """Tiles of slides of eight patients, the nuclei in them, and what is true of these."""
    images, labels, tables = [], [], []
    for number in range(24):
        scene = compose(SlideSpec(slide_id="tile", side_px=512, seed=(11, number)))
        features, _ = bench.drawn_features(scene)
        corner, nuclei = 57, scene.nuclei
        painted = np.zeros((SIDE, SIDE), np.int32)
        x, y = nuclei.x - corner, nuclei.y - corner
        rows = np.flatnonzero((np.minimum(x, y) > 20) & (np.maximum(x, y) < SIDE - 20))[:40]
        for label, row in enumerate(rows, 1):
            contour = scene.banks[nuclei.kind[row]].contour[nuclei.drawing[row]]
            painted[polygon(y[row] + contour[:, 1], x[row] + contour[:, 0], painted.shape)] = label
        left = np.unique(painted)[1:]  # one may be covered by others
        labels.append(np.searchsorted(np.append(0, left), painted).astype(np.int32))
        features.loc[rows[left - 1], "solidity"] = [nucleus.solidity for nucleus in regionprops(painted)]  # of pixels
        images.append(draw_tile(scene, Region(x=corner, y=corner, width=SIDE, height=SIDE), (SIDE, SIDE)))
        tables.append(features.iloc[rows[left - 1]].assign(tile=number, patient=number // 3))
    return images, labels, pd.concat(tables, ignore_index=True)


def planted_score(image, labels, looks_for):
    """A network that adds up one property of the nuclei that it sees, and knows of nothing else."""
    darkness = -np.log((image.mean(2) + 1) / 256)
    seen = labels * (darkness > -np.log((GLASS - 4) / 256))
    total = 0.0
    for nucleus in regionprops(seen, darkness):
        match looks_for:
            case "area":
                total += nucleus.area
            case "darkness":
                total += nucleus.intensity_mean
            case "irregularity":
                total += 1 - nucleus.solidity
    return total


def effects(drawn, looks_for):
    """How far the score falls when each nucleus is painted over, one at a time."""
    falls = []
    for image, labels in zip(*drawn[:2], strict=True):
        for nucleus in regionprops(labels):  # of a sum only this nucleus's part changes, and so only its pixels
            part, own = image[nucleus.slice], labels[nucleus.slice] == nucleus.label
            painted = np.where(own[..., None], np.uint8(GLASS), part)
            before, after = (planted_score(each, own.astype(np.int32), looks_for) for each in (part, painted))
            falls.append(before - after)
    return np.array(falls)


@pytest.mark.parametrize("looks_for", PROPERTIES)
def test_of_a_planted_network_exactly_its_feature_is_found(drawn, looks_for):
    table = drawn[2]
    features = table[["area_um2", "hematoxylin_mean", "solidity", "eccentricity", "nearest_um", "density_25um"]]
    rng = np.random.default_rng(4)
    effect = effects(drawn, looks_for)
    effect = effect / effect.std() + 0.6 * rng.standard_t(3, len(effect))  # a network is not only what it looks for
    control = 0.6 * rng.standard_t(3, len(effect))
    nulls = effect_nulls(effect, control, features["area_um2"], table["tile"], seed=1)
    result = associate(
        features, pd.Series(effect), table["tile"], table["patient"], seed=2, null_outcomes=nulls
    ).set_index("feature")
    wanted = PROPERTIES[looks_for]
    verdict = "less" if looks_for == "irregularity" else "more"
    assert result["verdict"][result["verdict"].isin(["more", "less"])].to_dict() == {wanted: verdict}
    assert result.loc[wanted, "marginal_verdict"] == verdict
    assert result["coefficient"].abs().idxmax() == wanted
    gap = contrasts(features, effect, table["tile"], table["patient"])
    lines = sentences(result.reset_index(), gap, network="the classifier", outcome="effect")
    assert lines[0].startswith("Of the classifier, the tenth of nuclei with the highest effect differs")
    words = {"area": "times as large (95 % interval", "darkness": "darker (", "irregularity": "more irregular"}
    assert words[looks_for] in lines[0]
