"""What Vitrail writes for QuPath, and reads back."""

from __future__ import annotations

import errno
import json
import re
import time
import uuid

import numpy as np
import pandas as pd
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import shape

from vitrail.classes import TissueClass
from vitrail.errors import ExchangeError
from vitrail.interop import qupath
from vitrail.interop.qupath import MEASUREMENTS, SlideObjects, write_geojson
from vitrail.interop.qupath_project import SCRIPT, export_project
from vitrail.interop.regions import ClassRegion, MapFrame, find_regions
from vitrail.settings.schema import AnnotationSettings
from vitrail.slides.annotations import ClassNames, read_annotations

SIDE = 199.1 / 0.2277
MEASURED = ["tumor_probability", "tissue", "artefact"]


def tiles(count, seed=0):
    rng, index = np.random.default_rng(seed), np.arange(count)
    return pd.DataFrame(
        {
            "x": index % 50 * SIDE,
            "y": index // 50 * SIDE,
            "label": rng.choice(np.array([label.key for label in TissueClass], object), count),
            "tumor_probability": rng.random(count, dtype=np.float32).astype(float),
            "tissue": rng.random(count),
            "artefact": np.where(rng.random(count) < 0.5, np.nan, rng.random(count)),
        }
    )


def regions():
    classes = np.random.default_rng(1).integers(0, 3, (30, 30)).astype(np.uint8)
    return find_regions([classes], MapFrame(scale=7.7, mpp=2.0), min_area_um2=0)


def read_tiles(path):
    """The tiles of a file, as any reader of JSON has them."""
    content = json.loads(path.read_text())
    rows = []
    for feature in content["features"]:
        properties = feature["properties"]
        if properties["objectType"] == "tile":
            x, y, right, bottom = shape(feature["geometry"]).bounds
            label = properties.get("classification", {}).get("name")
            measured = [properties["measurements"].get(name, np.nan) for name in MEASUREMENTS.values()]
            rows.append((feature["id"], x, y, right, bottom, label, *measured))
    return pd.DataFrame(rows, columns=["id", "x", "y", "right", "bottom", "title", *MEASUREMENTS])


def names():
    defaults = AnnotationSettings()
    return ClassNames(tumor=defaults.tumor, non_tumor=defaults.non_tumor, ignore=defaults.ignore)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "S1.geojson"


def test_tiles_come_back_exactly(path):
    table = tiles(120)
    table["label"] = table["label"].astype(object)
    table.loc[3, "label"] = None
    assert write_geojson(path, SlideObjects(slide_id="S1", side=SIDE, tiles=[table[:70], table[70:]])) == 120
    found = read_tiles(path)
    pd.testing.assert_frame_equal(found[["x", "y", *MEASURED]], table[["x", "y", *MEASURED]], check_exact=True)
    titles = {label.key: label.title for label in TissueClass}
    assert found["title"].fillna("").tolist() == [titles.get(key, "") for key in table["label"]]
    assert np.array_equal(found[["right", "bottom"]], table[["x", "y"]] + SIDE)
    assert found["id"].is_unique
    assert json.loads(path.read_text())["vitrail"]["side"] == SIDE


EDGES = st.floats(-1e6, 1e6, allow_nan=False)
SHARES = st.floats(allow_infinity=False)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(EDGES, EDGES, SHARES), min_size=1, max_size=5), st.floats(1, 1e4))
def test_any_number_comes_back_exactly(tmp_path_factory, rows, side):
    path = tmp_path_factory.mktemp("any") / "a.geojson"
    table = pd.DataFrame(rows, columns=["x", "y", "tumor_probability"]).assign(label="tumor")
    table["tumor_probability"] = table["tumor_probability"].astype(float)
    write_geojson(path, SlideObjects(slide_id="a", side=side, tiles=[table]))
    found = read_tiles(path)
    assert np.array_equal(found[["x", "y"]], table[["x", "y"]])
    assert np.array_equal(found["tumor_probability"], table["tumor_probability"], equal_nan=True)


def test_regions_come_back_exactly_as_annotations(path):
    made = regions()
    write_geojson(path, SlideObjects(slide_id="S1", side=SIDE, tiles=[tiles(10)], regions=made))
    found = read_annotations(path, names())
    assert found.warnings == ()
    assert len(made) > 20
    for outline, region in zip(found.outlines, made, strict=True):
        assert outline.label is region.label
        assert outline.geometry.equals_exact(region.geometry, tolerance=0)
    assert any(region.geometry.interiors for region in made)


def test_several_polygons_in_one_region_come_back(path):
    both = shapely.MultiPolygon([shapely.box(0, 0, 1, 1), shapely.box(2, 2, 3, 3)])
    region = ClassRegion(label=TissueClass.TUMOR, geometry=both, area_mm2=1.0)
    write_geojson(path, SlideObjects(slide_id="S1", side=1.0, regions=[region]))
    (outline,) = read_annotations(path, names()).outlines
    assert shapely.equals(outline.geometry, both)


def test_every_feature_is_what_qupath_reads(path):
    write_geojson(path, SlideObjects(slide_id="S1", side=SIDE, tiles=[tiles(30)], regions=regions()))
    assert path.read_bytes().isascii()
    content = json.loads(path.read_text())
    assert content["type"] == "FeatureCollection"
    kinds = []
    for feature in content["features"]:
        properties = feature["properties"]
        kinds.append(properties["objectType"])
        label = next(label for label in TissueClass if label.title == properties["classification"]["name"])
        assert feature["type"] == "Feature"
        assert str(uuid.UUID(feature["id"])) == feature["id"]
        assert uuid.UUID(feature["id"]).version == 5
        assert shape(feature["geometry"]).is_valid
        assert properties["classification"]["color"] == list(label.rgb)
        assert properties["isLocked"] is True
        expected = (
            {"Area mm^2"} if kinds[-1] == "annotation" else {"Tumor probability", "Tissue share", "Artefact share"}
        )
        assert set(properties["measurements"]) <= expected
    assert set(kinds) == {"annotation", "tile"}
    assert len({feature["id"] for feature in content["features"]}) == len(kinds)


def test_area_and_place_of_what_is_written(path):
    region = ClassRegion(label=TissueClass.TUMOR, geometry=shapely.box(0, 0, 9, 9), area_mm2=0.25)
    table = pd.DataFrame({"x": [10], "y": [20], "label": ["tumor"]})
    write_geojson(path, SlideObjects(slide_id="S1", side=4, tiles=[table], regions=[region]))
    annotation, tile = json.loads(path.read_text())["features"]
    assert annotation["properties"]["measurements"] == {"Area mm^2": 0.25}
    assert shape(tile["geometry"]).bounds == (10, 20, 14, 24)
    assert tile["properties"]["measurements"] == {}
    namespace = uuid.UUID("c1f7a1a4-6f0b-5a52-9c43-4d3e6b1f27aa")
    assert tile["id"] == str(uuid.uuid5(namespace, "S1/tile/10.0/20.0/4.0"))


def test_writing_again_gives_the_same_file_and_another_slide_other_identities(path, tmp_path):
    objects = {"side": SIDE, "tiles": [tiles(5)], "regions": regions()}
    write_geojson(path, SlideObjects(slide_id="S1", **objects))
    write_geojson(tmp_path / "again.geojson", SlideObjects(slide_id="S1", **objects))
    assert path.read_bytes() == (tmp_path / "again.geojson").read_bytes()
    write_geojson(tmp_path / "other.geojson", SlideObjects(slide_id="S2", **objects))
    first, other = read_tiles(path), read_tiles(tmp_path / "other.geojson")
    assert not set(first["id"]) & set(other["id"])


def test_other_measurements_keep_their_names(path):
    table = pd.DataFrame({"x": [0.0], "y": [0.0], "label": ["tumor"], "m": [0.5]})
    write_geojson(path, SlideObjects(slide_id="S1", side=1.0, tiles=[table], measurements={"m": 'Müller "1"'}))
    (feature,) = json.loads(path.read_text())["features"]
    assert feature["properties"]["measurements"] == {'Müller "1"': 0.5}


def test_nothing_to_show_is_a_file_all_the_same(path):
    assert write_geojson(path, SlideObjects(slide_id="S1", side=1.0)) == 0
    assert json.loads(path.read_text())["features"] == []


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [("x", np.nan, "not a number"), ("y", np.inf, "infinite"), ("tissue", np.inf, "measurement .* infinite")],
)
def test_impossible_numbers_are_refused_and_leave_nothing(path, column, value, message):
    table = tiles(5)
    table.loc[2, column] = value
    with pytest.raises(ValueError, match=message):
        write_geojson(path, SlideObjects(slide_id="S1", side=SIDE, tiles=[table]))
    assert not list(path.parent.iterdir())


def test_a_broken_region_never_reaches_qupath(path):
    bow_tie = shapely.Polygon([(0, 0), (1, 1), (1, 0), (0, 1)])
    region = ClassRegion(label=TissueClass.TUMOR, geometry=bow_tie, area_mm2=1.0)
    with pytest.raises(ValueError, match="would break QuPath"):
        write_geojson(path, SlideObjects(slide_id="S1", side=1.0, regions=[region]))
    assert not list(path.parent.iterdir())


def test_a_full_disk_leaves_nothing(path, monkeypatch):
    def stuck(*_):
        yield "{}"
        raise OSError(errno.ENOSPC, "No space left on device")

    path.write_text("an earlier one")
    monkeypatch.setattr(qupath, "_features", stuck)
    with pytest.raises(ExchangeError, match=r"S1.geojson: cannot be written \(No space left on device\)"):
        write_geojson(path, SlideObjects(slide_id="S1", side=SIDE, tiles=[tiles(5)]))
    assert [file.read_text() for file in path.parent.iterdir()] == ["an earlier one"]


def test_a_million_tiles_would_take_less_than_a_minute(path):
    table = tiles(20_000)
    began = time.process_time()
    write_geojson(path, SlideObjects(slide_id="S1", side=SIDE, tiles=[table]))
    assert (time.process_time() - began) * 50 < 60


def test_a_folder_for_a_project(path, tmp_path):
    write_geojson(path, SlideObjects(slide_id="S1", side=SIDE, tiles=[tiles(5)]))
    folder = tmp_path / "qupath"
    script = export_project(folder, {"Pat's slide\\1.svs": [path]})
    text = script.read_text()
    assert sorted(file.name for file in folder.iterdir()) == ["README.txt", "S1.geojson", SCRIPT]
    assert (folder / "S1.geojson").read_bytes() == path.read_bytes()
    assert r"'Pat\'s slide\\1.svs': ['S1.geojson']," in text
    assert all(f"'{label.title}': {list(label.rgb)}" in text for label in TissueClass)
    assert SCRIPT in (folder / "README.txt").read_text()
    quotes = re.sub(r"\\.", "", text).replace("Vitrail's", "").replace("slide's", "").replace("project's", "")
    assert quotes.count("'") % 2 == 0
    assert all(text.count(left) == text.count(right) for left, right in ("()", "[]", "{}") if left != "[")
    assert export_project(folder, {"S1.svs": [folder / "S1.geojson"]}).is_file()  # what lies there already stays


def test_a_folder_for_a_project_needs_its_files(path, tmp_path):
    with pytest.raises(ExchangeError, match="no such file"):
        export_project(tmp_path / "out", {"S1.svs": [path]})
    (tmp_path / "a").mkdir()
    for file in (path, tmp_path / "a" / path.name):
        file.write_text("{}")
    with pytest.raises(ExchangeError, match="has the name of"):
        export_project(tmp_path / "out", {"S1.svs": [path], "S2.svs": [tmp_path / "a" / path.name]})
    assert not (tmp_path / "out").exists()
    with pytest.raises(ExchangeError, match="cannot be made"):
        export_project(path / "out", {"S1.svs": [path]})
