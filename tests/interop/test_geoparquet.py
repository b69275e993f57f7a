"""GeoParquet, read back by geopandas and by the specification's own words."""

from __future__ import annotations

import json

import geopandas
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from vitrail.errors import ExchangeError
from vitrail.interop.geoparquet import tile_outlines, write_geoparquet

ABOUT = {"slide_id": "S 1", "mpp": 0.25}


@settings(max_examples=20)
@given(st.lists(st.tuples(*[st.floats(-1e6, 1e6)] * 2, st.floats(1, 5e3)), min_size=1, max_size=20))
def test_geopandas_reads_every_digit(tmp_path_factory, tiles):
    path = tmp_path_factory.getbasetemp() / "tiles.geo.parquet"
    rows = pd.DataFrame(tiles, columns=["x", "y", "side"]).assign(slide_id="S\N{MICRO SIGN}", number=range(len(tiles)))
    write_geoparquet(path, rows, tile_outlines(rows), ABOUT)
    back = geopandas.read_parquet(path)
    assert back.crs is None
    pd.testing.assert_frame_equal(pd.DataFrame(back.drop(columns="geometry")), rows, check_exact=True)
    x, y, side = rows["x"], rows["y"], rows["side"]
    corners = np.stack([x, y, x + side, y + side], 1)
    np.testing.assert_array_equal(back.bounds.to_numpy(), corners)


def test_the_metadata_are_those_of_version_1_1(tmp_path):
    path = tmp_path / "regions.geo.parquet"
    hole = shapely.box(0, 0, 9, 9).difference(shapely.box(3, 3, 4, 4))
    outlines = np.array([hole, shapely.union(shapely.box(10, 0, 11, 1), shapely.box(20, 0, 21, 3))])
    write_geoparquet(path, pd.DataFrame({"class": ["tumor", "non_tumor"], "pixels": [[1, 2], [3]]}), outlines, ABOUT)
    metadata = pq.read_schema(path).metadata
    geo = json.loads(metadata[b"geo"])
    assert geo == {
        "version": "1.1.0", "primary_column": "geometry",
        "columns": {"geometry": {
            "encoding": "WKB", "geometry_types": ["MultiPolygon", "Polygon"], "crs": None, "edges": "planar",
            "bbox": [0.0, 0.0, 21.0, 9.0],
        }},
    }  # fmt: skip
    assert json.loads(metadata[b"vitrail"]) == ABOUT
    back = geopandas.read_parquet(path)
    assert [*back.geometry] == [*outlines]
    assert back["pixels"].map(list).tolist() == [[1, 2], [3]]
    first = path.read_bytes()
    write_geoparquet(path, pd.DataFrame({"class": ["tumor", "non_tumor"], "pixels": [[1, 2], [3]]}), outlines, ABOUT)
    assert path.read_bytes() == first


def test_a_table_of_none_is_a_table(tmp_path):
    rows = pd.DataFrame({"x": [], "y": [], "side": []})
    write_geoparquet(tmp_path / "none.parquet", rows, tile_outlines(rows), ABOUT)
    assert len(geopandas.read_parquet(tmp_path / "none.parquet")) == 0


def test_what_is_no_number_and_where_nothing_can_be_written(tmp_path):
    rows = pd.DataFrame({"x": [0.0], "y": [0.0], "side": [1.0]})
    with pytest.raises(ValueError, match="no numbers"):
        write_geoparquet(tmp_path / "a", rows, np.array([shapely.Point(np.inf, 0)]), ABOUT)
    with pytest.raises(ExchangeError, match="cannot be written"):
        write_geoparquet(tmp_path / "no" / "a", rows, tile_outlines(rows), ABOUT)
    assert list(tmp_path.iterdir()) == []
