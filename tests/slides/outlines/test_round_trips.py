"""Outlines that Vitrail writes read back as they were: with holes, and to the last bit."""

from __future__ import annotations

from collections import Counter

import geopandas
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.outlines import made_up_slide, outlines
from vitrail.errors import AnnotationError, SettingsError
from vitrail.slides.annotations import mend_areas
from vitrail.slides.outlines.convert import WRITABLE, write_outlines
from vitrail.slides.outlines.formats import FORMATS, read_outlines
from vitrail.slides.outlines.rings import signed_area, slit_open
from vitrail.slides.outlines.writing import Outline


def parts(drawn):
    """What is drawn, whatever order and direction its rings have."""
    every = ((name, part) for name, area in drawn for part in shapely.get_parts(area))
    return Counter((name, shapely.normalize(part).wkb) for name, part in every)


def read_back(path, slide=None):
    file = read_outlines(path, slide)
    areas = mend_areas(path, [file.area(feature) for feature in file.features])
    return file, [(feature.name, area) for feature, (area, _) in zip(file.features, areas, strict=True)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("written")


@pytest.mark.parametrize("key", WRITABLE)
@given(data=st.data())
@settings(max_examples=15)
def test_what_is_written_reads_back(key, data, folder):
    drawn = data.draw(outlines(unnamed=key != "coco"))
    slide = made_up_slide(folder / "slide.svs")
    path = folder / f"{key}.any"
    remarks = write_outlines(path, drawn, key, slide)
    file, found = read_back(path, slide)
    assert file.format == key
    assert parts(found) == parts((each.name, each.area) for each in drawn)
    holes = sum(len(part.interiors) > 0 for each in drawn for part in each.polygons())
    assert any("a line leads to each" in remark for remark in remarks) == (holes > 0 and key in {"asap", "coco"})


@pytest.mark.parametrize("key", WRITABLE)
def test_several_polygons_of_one_outline_stay_together_where_the_format_can(key, tmp_path):
    two = shapely.MultiPolygon([shapely.box(0, 0, 4, 4).difference(shapely.box(1, 1, 2, 2)), shapely.box(8, 8, 9, 9)])
    write_outlines(tmp_path / "x", [Outline(name="Tumor", area=two)], key, made_up_slide(tmp_path / "s.svs"))
    _, found = read_back(tmp_path / "x")
    assert parts(found) == parts([("Tumor", two)])
    assert len(found) == (1 if key in {"qupath", "geoparquet", "coco"} else 2)


@pytest.mark.parametrize("key", WRITABLE)
def test_the_same_outlines_give_the_same_bytes(key, tmp_path):
    drawn, slide = [Outline(name="Fat", area=shapely.box(0.1, 0, 4, 4))], made_up_slide(tmp_path / "s.svs")
    for name in "ab":
        write_outlines(tmp_path / name, drawn, key, slide)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_geopandas_reads_what_is_written_and_vitrail_what_geopandas_writes(tmp_path):
    ring = shapely.box(0, 0, 9, 9).difference(shapely.box(2, 2, 3, 3))
    write_outlines(
        tmp_path / "a.parquet", [Outline(name="Tumor", area=ring), Outline(name=None, area=ring)], "geoparquet"
    )
    table = geopandas.read_parquet(tmp_path / "a.parquet")
    assert table["classification"].tolist() == ["Tumor", None]
    assert table.crs is None
    assert table.geometry[0].equals_exact(ring, 0)
    frame = geopandas.GeoDataFrame(
        {"score": [1.5, 2.5, 3.5], "Label": ["Fat", "Tumor", "Fat"]},
        geometry=[ring, shapely.Point(1, 1), shapely.MultiPolygon([ring])],
    )
    frame.to_parquet(tmp_path / "b.parquet")
    _, found = read_back(tmp_path / "b.parquet")
    assert [(name, area.area) for name, area in found] == [("Fat", 80), ("Tumor", 0), ("Fat", 80)]


def test_classifications_of_qupath_survive_geopandas(tmp_path):
    own = ['{ "name": "Tumor", "color": [ 200, 0, 0 ] }', '{"names": ["Tumor", "Invasive"]}', None, "{broken"]
    frame = geopandas.GeoDataFrame(
        {"classification": own, "objectType": ["annotation", "annotation", "annotation", "cell"]},
        geometry=[shapely.box(0, 0, 1, 1)] * 4,
    )
    frame.to_parquet(tmp_path / "b.parquet")
    assert [each.name for each in read_outlines(tmp_path / "b.parquet").features] == ["Tumor", "Tumor: Invasive", None]


@given(st.data())
@settings(max_examples=30)
def test_a_slit_encloses_nothing(data):
    shell = data.draw(outlines())[0].area
    ring, filled = slit_open(shell)
    assert filled == 0
    assert abs(signed_area(ring)) == pytest.approx(shell.area)
    corners = {tuple(point) for point in shapely.get_coordinates(shell)}
    assert {tuple(point) for point in ring} == corners
    # who counts turns around a point, as ASAP's masks do, finds the holes empty
    inside = np.array([part.representative_point().coords[0] for part in map(shapely.Polygon, shell.interiors)])
    for x, y in inside:
        angles = np.unwrap(np.arctan2(ring[:, 1] - y, ring[:, 0] - x), discont=None)
        total = angles[-1] - angles[0] + np.angle(complex(*(ring[0] - (x, y))) / complex(*(ring[-1] - (x, y))))
        assert round(total / (2 * np.pi)) == 0


def test_what_cannot_be_written_is_said(tmp_path):
    drawn = [Outline(name="Tumor", area=shapely.box(0, 0, 1, 1))]
    with pytest.raises(SettingsError, match=r"--as: 'pdf' is none of asap, halo"):
        write_outlines(tmp_path / "x", drawn, "pdf")
    with pytest.raises(SettingsError, match="'cytomine' is none of"):
        write_outlines(tmp_path / "x", drawn, "cytomine")
    with pytest.raises(AnnotationError, match=r"COCO names the image and its size\. Give the slide"):
        write_outlines(tmp_path / "x", drawn, "coco")
    assert not (tmp_path / "x").exists()
    unnamed = [Outline(name=None, area=shapely.box(0, 0, 1, 1))]
    said = {key: write_outlines(tmp_path / "y", unnamed, key, made_up_slide(tmp_path / "s")) for key in WRITABLE}
    assert said["coco"] == ("1 outline without a class is left out",)
    assert said["halo"] == ("1 outline without a class is in a layer without name",)
    assert said["qupath"] == ()
    assert set(WRITABLE) == {key for key, known in FORMATS.items() if known.write}
