"""Nuclei as other programs read them: GeoJSON of QuPath, GeoParquet, AnnData."""

from __future__ import annotations

import json
import sys
import types

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import shapely
from shapely.geometry import shape

from vitrail.errors import ExchangeError, RunError
from vitrail.nuclei.export import measurement_names, to_anndata, write_detections
from vitrail.nuclei.features import FEATURES
from vitrail.nuclei.store import NucleiHeader, nuclei_parts, outlines_of, read_header, read_nuclei, writing_nuclei

HEADER = NucleiHeader(slide_id="S 1", mpp=0.2521, engine="classical", key="abc")


def rows(count, seed=0):
    """Make nuclei with outlines at fractions of pixels, and features some of which are undefined."""
    rng = np.random.default_rng(seed)
    centers = rng.uniform(0, 5000, (count, 2))
    outlines = shapely.buffer(shapely.points(centers), rng.uniform(3, 9, count), quad_segs=3)
    table = pd.DataFrame({name: rng.gamma(2, 3, count).astype(np.float32) for name in FEATURES})
    table["anisokaryosis_50um"] = np.where(rng.random(count) < 0.3, np.nan, table["anisokaryosis_50um"])
    table["nucleus"] = np.arange(1, count + 1)
    table["x_um"], table["y_um"] = centers.T * HEADER.mpp
    table["orientation"] = np.float32(0.5)
    table["tumor_probability"] = rng.random(count).astype(np.float32)
    table["geometry"] = [*shapely.to_wkb(outlines)]
    return table


@pytest.fixture
def stored(tmp_path):
    path, table = tmp_path / "S.nuclei.parquet", rows(50).drop(columns="tumor_probability")
    with writing_nuclei(path, HEADER) as add:
        for at in (0, 20, 40):
            add(table.iloc[at : at + 20])
    return path, table


def test_a_table_comes_back_part_by_part(stored):
    path, table = stored
    back = read_nuclei(path)
    assert sorted(back.columns) == sorted(table.columns)
    pd.testing.assert_frame_equal(back[[*table.columns]], table, check_dtype=False, check_exact=True)
    assert [len(part) for part in nuclei_parts(path, ["x_um"])] == [20, 20, 10]
    assert read_header(path) == HEADER


def test_a_table_is_a_geoparquet(stored):
    path, table = stored
    geo = json.loads(pq.read_schema(path).metadata[b"geo"])
    column = geo["columns"][geo["primary_column"]]
    assert (geo["version"], column["encoding"], column["crs"]) == ("1.1.0", "WKB", None)
    assert shapely.equals_exact(outlines_of(read_nuclei(path)), outlines_of(table), 0).all()


def test_geopandas_reads_it(stored):
    geopandas = pytest.importorskip("geopandas", reason="geopandas is not installed")
    path, table = stored
    frame = geopandas.read_parquet(path)
    assert frame.geometry.area.to_numpy() == pytest.approx(shapely.area(outlines_of(table)))


def test_a_damaged_or_missing_table_is_one_line(stored, tmp_path):
    path, _ = stored
    with pytest.raises(RunError, match="without a column area"):
        read_nuclei(path, ["area"])
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(RunError, match="is damaged"):
        read_nuclei(path)
    with pytest.raises(RunError, match="no such file"):
        read_header(tmp_path / "none.parquet")


def test_a_table_that_fails_is_absent(tmp_path):
    with pytest.raises(KeyError), writing_nuclei(tmp_path / "S.parquet", HEADER) as add:
        add(rows(3)["nothing"])
    assert list(tmp_path.iterdir()) == []


def test_detections_come_back_exactly(tmp_path):
    path, table = tmp_path / "S.geojson", rows(60)
    count = write_detections(
        path, HEADER, [table[:25], table[25:25], table[25:]], {"tumor_probability": "Tumor probability"}
    )
    content = json.loads(path.read_text("ascii"))
    features = content["features"]
    assert count == len(features) == 60
    assert content["vitrail"]["engine"] == "classical"
    assert len({feature["id"] for feature in features}) == 60
    assert {feature["properties"]["objectType"] for feature in features} == {"detection"}
    outlines = np.array([shape(feature["geometry"]) for feature in features])
    assert shapely.equals_exact(outlines, outlines_of(table), 0).all()
    names = {**measurement_names(), "tumor_probability": "Tumor probability"}
    for column, name in names.items():
        values = [feature["properties"]["measurements"].get(name, np.nan) for feature in features]
        np.testing.assert_array_equal(np.array(values, table[column].dtype), table[column])
    first = path.read_bytes()
    write_detections(path, HEADER, [table], {"tumor_probability": "Tumor probability"})
    assert path.read_bytes() == first


def test_no_nuclei_are_a_file_of_none(tmp_path):
    assert write_detections(tmp_path / "S.geojson", HEADER, [rows(0)]) == 0
    assert json.loads((tmp_path / "S.geojson").read_text())["features"] == []


def test_an_infinite_measurement_is_refused(tmp_path):
    table = rows(3)
    table.loc[1, "area_um2"] = np.inf
    with pytest.raises(ValueError, match="infinite"):
        write_detections(tmp_path / "S.geojson", HEADER, [table])
    assert list(tmp_path.iterdir()) == []


def test_names_are_in_the_manner_of_qupath():
    names = measurement_names()
    assert (names["area_um2"], names["solidity"]) == ("Nucleus: Area µm^2", "Nucleus: Solidity")
    assert names["hematoxylin_sum"] == "Nucleus: Hematoxylin sum OD µm^2"
    assert names["density_25um"] == "Nucleus: Density within 25 um 1/mm^2"


def test_without_anndata_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "anndata", None)
    with pytest.raises(ExchangeError, match=r"anndata is not installed. Run: pip install 'vitrail\[scverse\]'"):
        to_anndata(rows(2), HEADER)


def test_anndata_is_given_features_and_places(monkeypatch):
    stand_in = types.ModuleType("anndata")
    stand_in.AnnData = types.SimpleNamespace
    monkeypatch.setitem(sys.modules, "anndata", stand_in)
    table = rows(9)
    data = to_anndata(table, HEADER)
    assert data.X.shape == (9, len(FEATURES))
    assert data.var.loc["area_um2", "unit"] == "um2"
    assert data.obs["tumor_probability"].to_numpy() == pytest.approx(table["tumor_probability"])
    assert data.obsm["spatial"] == pytest.approx(table[["x_um", "y_um"]].to_numpy())


def test_real_anndata_takes_it(tmp_path):
    anndata = pytest.importorskip("anndata", reason="anndata is not installed")
    table = rows(9)
    to_anndata(table, HEADER).write_h5ad(tmp_path / "S.h5ad")
    back = anndata.read_h5ad(tmp_path / "S.h5ad")
    np.testing.assert_array_equal(back[:, "area_um2"].X[:, 0], table["area_um2"])
