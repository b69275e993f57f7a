"""Features of nuclei among others: against brute force, formulas and shapely's discs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from vitrail.geometry import Region
from vitrail.nuclei import neighbours as module
from vitrail.nuclei.features import FEATURES
from vitrail.nuclei.neighbours import disc_areas, edge_distances, neighbours
from vitrail.quality.tissue import Tissue


def nuclei(count, seed=0, side=200.0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "x_um": rng.random(count) * side,
            "y_um": rng.random(count) * side,
            "area_um2": rng.gamma(8, 6, count),
            "orientation": rng.uniform(-np.pi / 2, np.pi / 2, count),
        }
    )


def brute(table, extent):
    rows = []
    place = shapely.box(*extent)
    points = table[["x_um", "y_um"]].to_numpy()
    for at, point in enumerate(points):
        distance = np.hypot(*(points - point).T)
        others = np.delete(np.arange(len(points)), at)
        row = {"nearest_um": distance[others].min() if len(others) else np.nan}
        for radius in (25, 50):
            disc = shapely.Point(point).buffer(radius, quad_segs=256).intersection(place).area
            row[f"density_{radius}um"] = (distance[others] <= radius).sum() / disc * 1e6
        within = table[distance <= 50]
        angles = 2 * within["orientation"].to_numpy()
        cosines = np.cos(np.subtract.outer(angles, angles))
        enough = len(within) >= 3
        row["anisokaryosis_50um"] = within["area_um2"].std() / within["area_um2"].mean() if enough else np.nan
        pairs = cosines[~np.eye(len(within), dtype=bool)]
        row["orientation_coherence_50um"] = pairs.mean() if enough else np.nan
        rows.append(row)
    return pd.DataFrame(rows)


@pytest.mark.parametrize("count", [1, 2, 3, 150])
def test_they_are_those_of_brute_force(count, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", 40)
    table, extent = nuclei(count), (0.0, 0.0, 200.0, 200.0)
    table.index = table.index + 7
    ours = neighbours(table, extent_um=extent)
    assert ours.index.equals(table.index)
    pd.testing.assert_frame_equal(ours.reset_index(drop=True), brute(table, extent), rtol=1e-4, check_dtype=False)


def test_parallel_nuclei_are_coherent_and_random_ones_are_not():
    table = nuclei(3000, side=1000)
    random = neighbours(table)["orientation_coherence_50um"]
    assert abs(random.mean()) < 0.01
    parallel = neighbours(table.assign(orientation=0.7))["orientation_coherence_50um"].dropna()
    assert parallel.to_numpy() == pytest.approx(1)


def test_density_is_not_less_at_the_edge():
    table = nuclei(20_000, side=2000)
    ours = neighbours(table, extent_um=(0, 0, 2000, 2000))
    at_edge = table[["x_um", "y_um"]].min(axis=1) < 20
    assert ours.loc[at_edge, "density_50um"].mean() == pytest.approx(5000, rel=0.05)
    assert ours.loc[~at_edge, "density_50um"].mean() == pytest.approx(5000, rel=0.02)
    assert neighbours(table).loc[at_edge, "density_50um"].mean() < 4000


@given(
    x=st.floats(-30, 130), y=st.floats(-30, 130), radius=st.floats(1, 90),
    left=st.floats(-50, 50), width=st.floats(1, 150), top=st.floats(-50, 50), height=st.floats(1, 150),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_parts_of_discs_have_the_area_of_polygons(x, y, radius, left, width, top, height):
    left, top = round(left, 6), round(top, 6)  # shapely cuts along lines at 1e-300 wrongly
    edges = left, top, left + width, top + height
    disc = shapely.Point(x, y).buffer(radius, quad_segs=512)
    expected = disc.intersection(shapely.box(*edges)).area
    assert disc_areas([[x, y]], radius, edges)[0] == pytest.approx(expected, abs=1e-4 * np.pi * radius**2)


def test_the_edge_of_the_tissue():
    mask = np.zeros((20, 30), bool)
    mask[:, :20] = True  # tissue up to x = 160 um, and on beyond the slide's other edges
    tissue = Tissue(mask=mask, region=Region(x=0, y=0, width=480, height=320), um_per_px=8.0, thresholds=None)
    distance = edge_distances([[4, 4], [100, 100], [156, 316], [200, 10]], tissue)
    assert distance == pytest.approx([156, 60, 4, 0], abs=4.1)
    table = nuclei(10, side=150)
    assert neighbours(table, tissue=tissue)["edge_um"].notna().all()
    whole = Tissue(mask=np.ones((4, 4), bool), region=tissue.region, um_per_px=8.0, thresholds=None)
    assert np.isnan(edge_distances([[1, 1]], whole)).all()


def test_no_nuclei_have_no_rows_and_all_columns():
    ours = neighbours(nuclei(0), extent_um=(0, 0, 1, 1))
    assert len(ours) == 0
    assert [*ours.columns] == [name for name in FEATURES if FEATURES[name].group == "neighbours" and name != "edge_um"]
