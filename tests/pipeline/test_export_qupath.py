"""A QuPath project of results: its JSON read by hand, its places and measurements held against known ones."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import SimpleNamespace
from urllib.parse import unquote

import numpy as np
import openslide
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.cohort import write_tiff
from helpers.data import DATA, needs_data
from helpers.results import EXPLAINED, HEIGHT, MPP, WIDTH, classes, saliency, write_map, write_results
from vitrail.classes import CLASSES
from vitrail.errors import ExchangeError, RunError
from vitrail.inference.relevance import relevance_at, relevance_of_tiles
from vitrail.interop import qupath_images
from vitrail.interop.class_map import Channel, read_class_map
from vitrail.interop.qupath_images import file_uri, slide_image
from vitrail.interop.qupath_project import PROJECT, SCRIPT
from vitrail.pipeline.export_qupath import export_qupath
from vitrail.pipeline.run import new_run

NAME = "Präparat 1"
OPENSLIDE = "qupath.lib.images.servers.openslide.OpenslideServerBuilder"
BIO_FORMATS = "qupath.lib.images.servers.bioformats.BioFormatsServerBuilder"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("a cohort")
    write_tiff(folder / f"{NAME}.tif", np.full((HEIGHT, WIDTH, 3), 200, np.uint8), mpp=MPP)
    write_results(folder / "maps", NAME, f"{NAME}.tif")
    return folder, export_qupath(folder / "maps", folder / "project")


def content(path):
    return json.loads(path.read_text(encoding="utf-8"))


def path_of(uri):
    assert uri.isascii()
    assert uri.startswith("file:/")
    return Path(unquote(uri.removeprefix("file:")))


def test_a_project_lists_slides_and_maps(made):
    folder, outcome = made
    project = content(folder / "project" / PROJECT)
    assert {"version", "createTimestamp", "modifyTimestamp", "uri", "lastID", "images"} <= set(project)
    assert path_of(project["uri"]) == folder / "project" / PROJECT
    names = [image["imageName"] for image in project["images"]]
    assert names == [f"{NAME}.tif", f"{NAME}.tif (tissue classes)", f"{NAME}.tif (explanations)"]
    assert [image["entryID"] for image in project["images"]] == [1, 2, 3]
    assert project["lastID"] == 3
    for image in project["images"]:
        builder = image["serverBuilder"]
        assert builder["builderType"] == "uri"
        assert path_of(builder["uri"]).is_file()
        assert content(folder / "project" / "data" / str(image["entryID"]) / "server.json") == builder
        assert all(isinstance(value, str) for value in image["metadata"].values())
        assert len(image["randomizedName"]) == 36
    assert project["images"][0]["metadata"] == {"slide_id": NAME, "tumor_mm2": "0.04096", "tiles": "2"}
    assert outcome.results["slides"] == 1
    assert outcome.results["maps"] == 2
    assert outcome.lines[-1] == str(folder / "project" / SCRIPT)


def test_what_a_project_says_of_a_slide_is_what_openslide_says(made):
    folder, _ = made
    builder = content(folder / "project" / PROJECT)["images"][0]["serverBuilder"]
    # a TIFF of one level: Bio-Formats may find more in it, and is left to say what
    assert (builder["providerClassName"], builder["args"]) == (BIO_FORMATS, ["--series", "0"])
    assert "metadata" not in builder


@needs_data("readers/tcga-cr-7395-01a-01-ts1.svs")
def test_a_slide_of_two_levels_is_described_as_openslide_reads_it():
    path = DATA / "readers" / "tcga-cr-7395-01a-01-ts1.svs"
    described = slide_image(path, 0.5, {}).builder["metadata"]
    with openslide.open_slide(path) as opened:
        assert [(level["width"], level["height"]) for level in described["levels"]] == [*opened.level_dimensions]
        downsamples = [level["downsample"] for level in described["levels"]]
        assert downsamples == pytest.approx(opened.level_downsamples, rel=1e-3)
    assert described["pixelCalibration"]["pixelWidth"]["value"] == 0.5


@pytest.mark.parametrize("bounds", [None, (100, 50, 3000, 2000)])
def test_a_slide_with_levels_is_described_as_qupath_does(tmp_path, monkeypatch, bounds):
    properties = {"openslide.vendor": "mirax", "openslide.mpp-x": "0.25", "openslide.mpp-y": "0.26"}
    properties |= {"openslide.objective-power": "40", "openslide.level[0].tile-width": "512"}
    if bounds:
        names = ("x", "y", "width", "height")
        properties |= {f"openslide.bounds-{name}": str(at) for name, at in zip(names, bounds, strict=True)}
    opened = SimpleNamespace(properties=properties, level_dimensions=((4443, 3001), (2221, 1500), (1110, 750)))

    @contextmanager
    def opening(_path):
        yield opened

    monkeypatch.setattr(qupath_images, "open_with_openslide", opening)
    image = slide_image(tmp_path / "S.mrxs", 0.255, {})
    described = image.builder["metadata"]
    assert image.builder["providerClassName"] == OPENSLIDE
    size = bounds[2:] if bounds else (4443, 3001)
    assert (described["width"], described["height"]) == size
    assert [level["downsample"] for level in described["levels"]] == [1, 2, 4]
    expected = [(3000, 2000), (1500, 1000), (750, 500)] if bounds else [*opened.level_dimensions]
    assert [(level["width"], level["height"]) for level in described["levels"]] == expected
    calibration = described["pixelCalibration"]
    assert (calibration["pixelWidth"], calibration["pixelHeight"]["value"]) == ({"value": 0.25, "unit": "µm"}, 0.26)
    assert (described["preferredTileWidth"], described["preferredTileHeight"], described["magnification"]) == (
        512,
        256,
        40,
    )
    assert (described["isRGB"], described["pixelType"], len(described["channels"])) == (True, "UINT8", 3)
    assert [channel["color"] for channel in described["channels"]] == [-65536, -16711936, -16776961]
    told = slide_image(tmp_path / "S.mrxs", 0.5, {}).builder["metadata"]["pixelCalibration"]
    assert (told["pixelWidth"]["value"], told["pixelHeight"]["value"]) == (0.5, 0.5)


def test_maps_are_described_as_their_files_are(made):
    folder, _ = made
    first, second = content(folder / "project" / PROJECT)["images"][1:]
    described = first["serverBuilder"]["metadata"]
    assert (described["width"], described["height"], described["pixelType"]) == (640, 480, "UINT8")
    sizes = [(level["width"], level["height"], level["downsample"]) for level in described["levels"]]
    assert sizes == [(640, 480, 1), (320, 240, 2), (160, 120, 4)]
    assert [channel["name"] for channel in described["channels"]] == [*(each.title for each in CLASSES), "Artefact"]
    assert described["pixelCalibration"]["pixelWidth"]["value"] == pytest.approx(1.6)
    assert second["serverBuilder"]["metadata"]["pixelType"] == "FLOAT32"
    with openslide.open_slide(path_of(first["serverBuilder"]["uri"])) as opened:
        assert opened.dimensions == (640, 480)


def test_classes_have_their_colours(made):
    folder, _ = made
    classes_of = {
        each["name"]: each["color"] for each in content(folder / "project/classifiers/classes.json")["pathClasses"]
    }
    for label in CLASSES:
        assert classes_of[label.title] & 0xFFFFFFFF == int.from_bytes(bytes((255, *label.rgb)), "big")
        assert -(2**31) <= classes_of[label.title] < 0
    assert "Nucleus" in classes_of


def test_objects_have_relevance_and_probability(made):
    folder, _ = made
    features = content(folder / "project" / f"{NAME}.geojson")["features"]
    tiles = [each["properties"] for each in features if each["properties"]["objectType"] == "tile"]
    values = saliency()
    expected = [np.nan, values[32:64, 32:64, 0].mean(dtype=float), values[32:64, 64:96, 0].mean(dtype=float)]
    relevance = [tile["measurements"].get("Relevance: Grad-CAM", np.nan) for tile in tiles]
    assert relevance == pytest.approx(expected, nan_ok=True)
    assert [tile["measurements"].get("Relevance: HR-CAM") for tile in tiles] == [None, 0, 0]
    assert [tile["measurements"].get("Tumor probability") for tile in tiles] == [None, 0.25, 0.875]
    assert tiles[2]["classification"]["name"] == "Tumor"
    assert {each["properties"]["objectType"] for each in features} == {"annotation", "tile"}
    nuclei = content(folder / "project" / f"{NAME}.nuclei.geojson")["features"]
    first, second = (each["properties"]["measurements"] for each in nuclei)
    assert first["Relevance: Grad-CAM"] == values[50, 51, 0]  # around (102.25, 101.625) of the slide
    assert second["Relevance: Grad-CAM"] == values[75, 100, 0]
    assert (first["Tumor probability"], first["Nucleus: Area µm^2"]) == (0.25, 45.5)
    assert "Tumor probability" not in second  # there is no tile


def test_the_script_names_what_is_there(made):
    folder, _ = made
    text = (folder / "project" / SCRIPT).read_text(encoding="utf-8")
    assert f"'{NAME}.tif': ['{NAME}.geojson', '{NAME}.nuclei.geojson']," in text
    assert f"    '{NAME}.tif (explanations)'," in text
    assert (folder / "project" / "scripts" / SCRIPT).read_text(encoding="utf-8") == text
    assert (folder / "project" / "scripts" / SCRIPT).suffix == ".groovy"


def test_again_gives_the_same_and_what_others_added_stays(made, tmp_path):
    folder, _ = made
    out = tmp_path / "project"
    export_qupath(folder / "maps", out)
    files = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    export_qupath(folder / "maps", out)
    assert files == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    project = content(out / PROJECT)
    project["version"], project["lastID"] = "0.6.0", 9
    project["images"][0] |= {"imageName": "renamed", "description": "mine", "metadata": {"mine": "1"}}
    own = {"serverBuilder": {"builderType": "uri", "uri": "file:/x.svs"}, "entryID": 9, "imageName": "x"}
    project["images"] = [own, project["images"][0]]
    (out / PROJECT).write_text(json.dumps(project))
    (out / "classifiers" / "classes.json").write_text('{"pathClasses": [{"name": "Tumor", "color": -1}]}')
    (out / "data" / "9").mkdir()
    (out / "data" / "9" / "data.qpdata").write_bytes(b"mine")
    export_qupath(folder / "maps", out)
    again = content(out / PROJECT)
    assert [image["entryID"] for image in again["images"]] == [9, 1, 10, 11]
    assert (again["images"][1]["imageName"], again["images"][1]["description"]) == ("renamed", "mine")
    assert again["images"][1]["metadata"]["mine"] == "1"
    assert (again["version"], again["lastID"]) == ("0.6.0", 11)
    assert content(out / "classifiers" / "classes.json")["pathClasses"][0] == {"name": "Tumor", "color": -1}
    assert (out / "data" / "9" / "data.qpdata").read_bytes() == b"mine"


def test_a_slide_that_is_not_found_is_said_and_found_where_it_is_named(made, tmp_path):
    folder, _ = made
    results = write_results(tmp_path / "far" / "maps", NAME, f"{NAME}.tif")
    outcome = export_qupath(results, tmp_path / "out")
    (warning,) = outcome.warnings
    assert "--slides" in warning
    assert outcome.results["project"] is None
    assert (tmp_path / "out" / f"{NAME}.geojson").is_file()
    assert export_qupath(results, tmp_path / "out", [folder]).results["slides"] == 1
    assert export_qupath(results, tmp_path / "other", [folder / f"{NAME}.tif"]).warnings == []


def test_a_run_is_a_project_with_its_splits(made, tmp_path):
    folder, _ = made
    (tmp_path / "S.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    rows = [f"{name},{name},{slide},S.geojson,{split}" for name, slide, split in (
        ("S", folder / f"{NAME}.tif", "test"), ("T", tmp_path / "gone" / f"{NAME}.tif", "train"),
        ("U", tmp_path / "none.tif", "validation"),
    )]  # fmt: skip
    (tmp_path / "slides.csv").write_text("\n".join(["slide_id,patient_id,slide,annotations,split", *rows]) + "\n")
    new_run(tmp_path / "run", tmp_path / "slides.csv", "quick")
    with pytest.raises(RunError, match="no GeoJSON yet"):
        export_qupath(tmp_path / "run", tmp_path / "out")
    (tmp_path / "run" / "report" / "qupath").mkdir(parents=True)
    for name in ("S", "T"):  # U was not mapped
        (tmp_path / "run" / "report" / "qupath" / f"{name}.geojson").write_text('{"features": []}')
    (tmp_path / "run" / "predictions" / "maps").mkdir(parents=True)
    for file in (folder / "maps").iterdir():
        (tmp_path / "run" / "predictions" / "maps" / file.name.replace(NAME, "S")).symlink_to(file)
    outcome = export_qupath(tmp_path / "run", tmp_path / "out")
    images = content(tmp_path / "out" / PROJECT)["images"]
    # two slides share a file's name: they are called by their own
    assert [image["imageName"] for image in images] == ["S", "S (tissue classes)", "S (explanations)"]
    assert images[0]["metadata"]["split"] == "test"
    assert len(outcome.warnings) == 1  # T's slide is gone, its objects are there
    assert content(tmp_path / "out" / "T.geojson") == {"features": []}
    assert len(content(tmp_path / "out" / "S.geojson")["features"]) > 3


def test_what_cannot_be_exported_is_one_line(made, tmp_path):
    folder, _ = made
    (tmp_path / "none").mkdir()
    with pytest.raises(ExchangeError, match="holds no results"):
        export_qupath(tmp_path / "none", tmp_path / "out")
    with pytest.raises(RunError):
        export_qupath(tmp_path / "nowhere", tmp_path / "out")
    for text in ("[]", "{", '{"images": [3]}', '{"images": [{"entryID": "x"}]}', '{"lastID": "x"}'):
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / PROJECT).write_text(text)
        with pytest.raises(ExchangeError, match="no file of a QuPath project"):
            export_qupath(folder / "maps", tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(ExchangeError, match="cannot be made"):
        export_qupath(folder / "maps", tmp_path / "file")


@pytest.mark.parametrize(
    ("path", "uri"),
    [
        (PurePosixPath("/data/a b/Präparat#1.svs"), "file:/data/a%20b/Pr%C3%A4parat%231.svs"),
        (PureWindowsPath(r"C:\Users\Jörg\a b.svs"), "file:/C:/Users/J%C3%B6rg/a%20b.svs"),
        (PureWindowsPath(r"\\server\share\a.svs"), "file://server/share/a.svs"),
    ],
)
def test_uris_are_as_java_writes_them(path, uri):
    assert file_uri(path) == uri


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 100), st.integers(1, 100), st.integers(0, 2**32 - 1))
def test_relevance_is_the_mean_of_what_was_looked_at(tmp_path_factory, width, height, seed):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(height, width, 2)).astype(np.float32)
    values[rng.random((height, width)) < 0.4] = np.nan
    path = tmp_path_factory.mktemp("map") / "S.ome.tiff"
    write_map(path, values, 2.0, (Channel(name="a", rgb=(0, 0, 0)), Channel(name="b", rgb=(0, 0, 0))), depth="float32")
    grid = np.array([(row, column) for row in range(5) for column in range(5)])
    tiles = pd.DataFrame({"x": grid[:, 1] * 10.0, "y": grid[:, 0] * 10.0, "side": 10.0})
    means = relevance_of_tiles(read_class_map(path), tiles)
    for (row, column), mean in zip(grid, means, strict=True):
        part = values[row * 32 : row * 32 + 32, column * 32 : column * 32 + 32].reshape(-1, 2).astype(float)
        part = part[~np.isnan(part[:, 0])]
        assert mean == pytest.approx(part.mean(0) if len(part) else [np.nan] * 2, nan_ok=True)
    nuclei = pd.DataFrame({"x_um": rng.uniform(-50, 250, 20), "y_um": rng.uniform(-50, 250, 20)})
    found = relevance_at(read_class_map(path), nuclei.to_numpy())
    for (x, y), own in zip(nuclei.to_numpy() // 2, found, strict=True):
        inside = 0 <= x < width and 0 <= y < height
        expected = values[int(y), int(x)] if inside else [np.nan] * 2
        assert own == pytest.approx(expected, nan_ok=True)


def test_the_helper_is_the_map_it_says():
    assert classes().sum(2) == pytest.approx(1)
    assert saliency().shape[1] * EXPLAINED == WIDTH
