from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest
from shapely.geometry import shape

from helpers.cohort import MPP, tissue, write_tiff
from helpers.viewing import unpack_one_class_run, unpack_run
from vitrail.errors import AnnotationError, SettingsError, SlideError
from vitrail.explain.study.store import open_stored
from vitrail.inference.class_map import UNCERTAINTY
from vitrail.inference.outputs import load_map
from vitrail.interop.class_map import MapHeader
from vitrail.interop.ome_tiff import ClassMapWriter
from vitrail.slides.annotations import read_annotations
from vitrail.slides.cohort import read_cohort
from vitrail.stage import open_run
from vitrail.tiles.extract import open_cohort_slide
from vitrail.tiles.outlines import class_names, cohort_outlines
from vitrail.viewer.session import describe, id_of, session_of


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return unpack_run(tmp_path_factory.mktemp("viewed"))


@pytest.fixture(scope="module")
def session(run):
    return session_of([run])


def values(raster):
    return raster.read(0, slice(None), slice(None))


def test_a_run_shows_its_cohort_with_what_is_known_of_it(run, session):
    assert {slide.name for slide in session.slides.values()} == {f"S{i}" for i in range(5)}
    splits = [slide.facts["split"] for slide in session.slides.values()]
    assert splits == sorted(splits, key=["test", "validation", "train"].index)
    table = pd.read_parquet(run / "predictions" / "tiles.parquet")
    facts = session.slide(id_of("S3")).facts
    own = table[table["slide_id"] == "S3"]
    tumor = own["label"] == "tumor"
    assert facts["tiles"] == len(own)
    assert facts["classifier_wrong"] == int(((own["classifier"] >= 0.5) != tumor).sum())
    assert facts["disagree"] == int(((own["classifier"] >= 0.5) != (own["segmenter"] >= 0.5)).sum())


def test_ids_last_and_are_no_paths(session):
    assert all(slide.id.isalnum() for slide in session.slides.values())
    assert len({id_of(f"S{i}") for i in range(1000)}) == 1000


def test_a_mapped_slide_has_all_its_maps(run, session):
    rasters = session.rasters(id_of("S3"))
    small = load_map(run / "predictions" / "maps" / "S3.npz")
    np.testing.assert_array_equal(values(rasters["classifier"]), small.classifier)
    np.testing.assert_array_equal(values(rasters["classes"]), small.segmenter)
    assert rasters["classes"].cell * small.segmenter.shape[0] == pytest.approx(small.side * len(small.classifier))
    assert rasters["segmenter"].kind == "share"
    assert rasters["slide_gradcam"].kind == "signed"
    mpp = session.slide(id_of("S3")).open().mpp
    assert rasters["segmenter"].cell * mpp == pytest.approx(199.1 / 32, rel=0.01)


def test_maps_of_tiles_lie_where_their_tiles_do(run, session):
    stored = open_stored(run / "explanations")
    names = set(stored.rows["slide_id"])
    number = int(np.flatnonzero((stored.rows["slide_id"] == min(names)).to_numpy())[5])
    row = stored.rows.iloc[number]
    raster = session.rasters(id_of(min(names)))["classifier_hrcam"]
    top, left = round(row["y"] / raster.cell), round(row["x"] / raster.cell)
    px = round(row["side"] / raster.cell)
    shown = values(raster)[top : top + px, left : left + px]
    expected = stored.saliency("classifier_hrcam", number).upsample((px, px))
    np.testing.assert_allclose(shown, expected, rtol=1e-5, atol=1e-6)


def test_a_slide_that_was_not_mapped_shows_its_tiles(run, session):
    table = pd.read_parquet(run / "predictions" / "tiles.parquet")
    own = table[table["slide_id"] == "S0"].iloc[3]
    raster = session.rasters(id_of("S0"))["classifier"]
    at = round(own["y"] / own["side"]), round(own["x"] / own["side"])
    assert values(raster)[at] == pytest.approx(own["classifier"])


def test_uncertainty_is_shown_where_it_was_written(run, tmp_path):
    write_tiff(tmp_path / "S3.tif", tissue(3))
    maps = run / "predictions" / "maps"
    for file in maps.glob("S3.*"):
        shutil.copy(file, tmp_path)
    keys = session_of([tmp_path]).rasters(id_of("S3")).keys()
    table = pd.read_parquet(tmp_path / "S3.tiles.parquet")
    spread = np.linspace(0, 0.5, len(table))
    table.assign(classifier_spread=spread).to_parquet(tmp_path / "S3.tiles.parquet")
    header = MapHeader(size=(32, 24), mpp=8 * MPP, channels=(UNCERTAINTY,), depth="float32")
    values = np.random.default_rng(0).uniform(0, 0.5, (24, 32, 1)).astype(np.float32)
    with ClassMapWriter(tmp_path / "S3.uncertainty.ome.tiff", header) as writer:
        writer.write_rows(values)
    shown = session_of([tmp_path]).rasters(id_of("S3"))
    assert shown.keys() - keys == {"classifier_spread", "segmenter_spread"}
    assert {shown[key].limits for key in shown.keys() - keys} == {(0.0, 0.5)}
    np.testing.assert_array_equal(shown["segmenter_spread"].read(0, slice(None), slice(None)), values[..., 0])
    tiles, side = shown["classifier_spread"], table["side"].iloc[0]
    at = [round(float(table[axis].iloc[5]) / side) for axis in ("y", "x")]
    assert tiles.read(0, slice(None), slice(None))[*at] == pytest.approx(spread[5])


def test_outlines_are_geojson(session):
    features = session.outlines(id_of("S1"))
    assert {feature["properties"]["class"] for feature in features} == {"tumor", "non_tumor"}
    assert features[0]["geometry"]["type"] in {"Polygon", "MultiPolygon"}


def test_tissue_that_nobody_outlined_is_shown_and_never_saved(tmp_path):
    run = unpack_one_class_run(tmp_path)
    session, settings = session_of([run]), open_run(run).settings
    features = session.outlines(id_of("S1"))
    assert [(each["properties"]["class"], each["properties"].get("found", False)) for each in features] == [
        ("tumor", False), ("non_tumor", True),
    ]  # fmt: skip
    entry = read_cohort(run / "slides.csv")[1]
    cut = cohort_outlines(entry, open_cohort_slide(entry, settings), settings)
    assert shape(features[1]["geometry"]).equals(cut.non_tumor)
    assert session.correct(id_of("S1"), features) == 1
    saved = read_annotations(run / "corrections" / "S1" / "0001.geojson", class_names(settings))
    assert saved.non_tumor.is_empty
    assert saved.tumor.equals(cut.tumor)
    assert session.outlines(id_of("S1")) == features


def test_what_a_page_is_told_of_a_slide(session):
    told = describe(session.slide(id_of("S3")), session)
    assert told["levels"][0] == (256, 256)
    assert told["problems"] == []
    assert {"classifier", "classes", "segmenter"} <= {layer["key"] for layer in told["layers"]}
    assert "path" not in str(told)


def test_a_folder_and_slides_are_shown_without_a_run(tmp_path):
    for name in ("b", "a"):
        write_tiff(tmp_path / f"{name}.tif", tissue(0))
    (tmp_path / "a.classes.ome.tiff").write_bytes(b"a map, no slide")
    (tmp_path / "notes.txt").write_text("no slide")
    assert [slide.name for slide in session_of([tmp_path]).slides.values()] == ["a", "b"]
    alone = session_of([tmp_path / "b.tif"])
    assert alone.rasters(id_of("b")) == {}
    assert alone.outlines(id_of("b")) == []


def test_maps_beside_a_slide_or_elsewhere_are_found(run, tmp_path):
    write_tiff(tmp_path / "S3.tif", tissue(3))
    maps = run / "predictions" / "maps"
    assert "classes" in session_of([tmp_path / "S3.tif"], maps).rasters(id_of("S3"))
    for file in maps.glob("S3.*"):
        shutil.copy(file, tmp_path)
    assert "segmenter" in session_of([tmp_path]).rasters(id_of("S3"))


def test_what_is_no_slide_is_said_in_one_line(tmp_path):
    with pytest.raises(SlideError, match="no such file"):
        session_of([tmp_path / "missing.svs"])
    with pytest.raises(SlideError, match="holds no slide"):
        session_of([tmp_path])
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        write_tiff(tmp_path / folder / "same.tif", tissue(0))
    with pytest.raises(SettingsError, match="two slides are called same"):
        session_of([tmp_path / "one", tmp_path / "two"])


def test_a_damaged_map_leaves_the_slide(tmp_path):
    run = unpack_run(tmp_path)
    (run / "predictions" / "maps" / "S3.classes.ome.tiff").write_bytes(b"no map")
    session = session_of([run])
    told = describe(session.slide(id_of("S3")), session)
    assert told["layers"] == []
    assert "S3.classes.ome.tiff" in told["problems"][0]
    (tmp_path / "study" / "cohort" / "S1.geojson").write_text("[")
    with pytest.raises(AnnotationError):
        session.outlines(id_of("S1"))
