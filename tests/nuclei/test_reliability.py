"""Reliability of features: against variances that are known, and versions in which nothing changes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from helpers.nuclei import MPP, DarkPixels, draw_nuclei
from vitrail.nuclei.features import FEATURES, OWN, hematoxylin
from vitrail.nuclei.reliability import VERSIONS, measure_again, reliability, stain_changed


def simulated(rng, patients=20, nuclei=40, noise=0.5, patient_sd=0.5):
    """Measure normal nuclei of normal patients in all versions; of variance 1 in a patient."""
    rows = []
    for patient in range(patients):
        truth = rng.normal(0, patient_sd) + rng.normal(size=nuclei)
        for version in VERSIONS:
            measured = truth + rng.normal(0, noise, nuclei)
            rows.append(
                pd.DataFrame({
                    "image": patient, "patient": f"P{patient}", "nucleus": np.arange(nuclei), "version": version,
                    "area_um2": measured,
                })
            )  # fmt: skip
    return pd.concat(rows, ignore_index=True)


def test_it_is_the_intraclass_correlation_of_the_analysis_of_variance():
    rows = simulated(np.random.default_rng(0), nuclei=100)
    row = reliability(rows).iloc[0]
    values = rows.pivot_table(index=["image", "nucleus"], columns="version", values="area_um2").to_numpy()
    count, times = values.shape
    between = times * values.mean(axis=1).var(ddof=1)
    within = np.square(values - values.mean(axis=1, keepdims=True)).sum() / (count * (times - 1))
    assert row["icc"] == pytest.approx((between - within) / (between + (times - 1) * within), abs=1e-3)
    assert row["icc"] == pytest.approx(1.25 / 1.5, abs=0.05)
    assert row["error"] == pytest.approx(0.5, rel=0.05)
    assert (row["nuclei"], row["again"]) == (2000, 1.0)
    assert row["low"] < row["icc"] < row["high"] <= 1


def test_its_interval_covers():
    """Of some cohorts; bench/nuclei_reliability.py counts more."""
    inside = 0
    for seed in range(15):
        row = reliability(simulated(np.random.default_rng(seed), nuclei=15), seed).iloc[0]
        inside += row["low"] <= 1.25 / 1.5 <= row["high"]
    assert inside >= 12


def test_what_is_noise_alone_is_not_reliable():
    rows = simulated(np.random.default_rng(1))
    rows["area_um2"] = np.random.default_rng(2).normal(size=len(rows))
    row = reliability(rows).iloc[0]
    assert row["icc"] == pytest.approx(0, abs=0.05)


def test_nuclei_that_are_not_found_again_are_counted():
    rows = simulated(np.random.default_rng(1), patients=4)
    lost = (rows["version"] == "moved") & (rows["nucleus"] < 10)
    row = reliability(rows[~lost]).iloc[0]
    assert (row["nuclei"], row["again"]) == (120, 0.75)
    alone = reliability(rows[rows["patient"] == "P0"]).iloc[0]
    assert np.isnan(alone["low"])
    assert alone["icc"] > 0.5


def test_drawn_nuclei_are_measured_alike_in_all_versions():
    image, _ = draw_nuclei()
    image = np.rint(ndimage.gaussian_filter(image.astype(float), (1, 1, 0))).astype(np.uint8)
    rows = measure_again(image, MPP, DarkPixels())
    counts = rows["version"].value_counts()
    assert [*rows["version"].unique()] == [*VERSIONS]
    assert counts["mirrored"] == counts["original"]
    assert counts.min() > 0.95 * counts.max()
    original, mirrored = (
        rows[rows["version"] == version].set_index("nucleus").sort_index() for version in ("original", "mirrored")
    )
    same = [name for name in FEATURES if name in rows]
    np.testing.assert_allclose(original[same], mirrored[same], rtol=1e-4, atol=1e-4)
    table = reliability(rows.assign(image=0, patient="P")).set_index("feature")
    assert [*table.index] == same
    assert table.loc["area_um2", "icc"] > 0.95
    assert set(OWN) <= set(table.index)


def test_a_changed_stain_leaves_glass_and_changes_hematoxylin():
    image, labels = draw_nuclei()
    changed = stain_changed(image, (1.1, 1.0, 1.0))
    inside = labels > 0
    assert hematoxylin(changed)[inside].mean() == pytest.approx(1.1 * hematoxylin(image)[inside].mean(), rel=0.02)
    assert np.abs(stain_changed(image, (1, 1, 1)).astype(int) - image).max() <= 1
    glass = (240.0, 235.0, 244.0)
    flat = np.broadcast_to(np.array(glass, np.uint8), (3, 3, 3))
    assert (stain_changed(flat, (2, 2, 2), glass) == flat).all()


def test_an_image_without_nuclei_gives_no_rows():
    rows = measure_again(np.full((20, 20, 3), 240, np.uint8), MPP, DarkPixels())
    assert len(rows) == 0
    assert reliability(rows.assign(image=0, patient="P"))["icc"].isna().all()
