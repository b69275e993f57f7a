"""A slide from file to maps, and back out of its GeoJSON and OME-TIFF with nothing but independent libraries."""

from __future__ import annotations

import json
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import shapely
import tifffile
import torch

from helpers.cohort import write_tiff
from helpers.mapped import (
    GLASS,
    HEIGHT,
    MPP,
    PEN,
    SIDE_PX,
    SIDE_UM,
    SPEC,
    TISSUE,
    WIDTH,
    Reds,
    pen_mark,
    picture,
    settings,
    write_slide,
)  # fmt: skip
from vitrail.errors import SlideError
from vitrail.inference.map_slide import Networks, map_slide
from vitrail.inference.outputs import MapFiles, load_map
from vitrail.inference.predictor import Predictor
from vitrail.inference.publish import SUMMARY, name_tiles, publish
from vitrail.inference.stage import map_slides
from vitrail.models.spec import SegmenterSpec
from vitrail.models.store import Model, build
from vitrail.slides.cohort import CohortSlide
from vitrail.slides.slide import open_slide

ROWS, COLUMNS = HEIGHT // SIDE_UM, WIDTH // SIDE_UM


def both():
    return Networks(classifier=Reds("classifier"), segmenter=Reds())


@dataclass
class Mapped:
    files: MapFiles
    row: dict
    features: list


def mapped(folder, *, networks=None, threshold=0.5, **predict):
    """Map a slide, publish it, and read the GeoJSON as anyone would."""
    slide = open_slide(write_slide(folder / "slide.tif"))
    files = MapFiles(base=folder / "slide")
    map_slide(slide, networks or both(), settings(**predict), files)
    row = publish(files, folder / "slide", threshold)
    return Mapped(files=files, row=row, features=json.loads((folder / "slide.geojson").read_text())["features"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return mapped(tmp_path_factory.mktemp("whole"))


def of(features, kind):
    return [one for one in features if one["properties"]["objectType"] == kind]


def red(box):
    """The mean red of a place on the slide, 0 to 1."""
    x, y, right, bottom = (round(edge) for edge in box)
    return picture()[y:bottom, x:right, 0].mean() / 255


def test_every_tile_is_where_it_was_and_as_probable(whole):
    tiles = pd.read_parquet(whole.files.tiles)
    features = of(whole.features, "tile")
    expected = {
        (column * SIDE_UM, row * SIDE_UM)
        for row in range(ROWS) for column in range(COLUMNS)
        if _tissue_share(row, column) > 0.1
    }  # fmt: skip
    assert expected <= {(x, y) for x, y in zip(tiles["x"], tiles["y"], strict=True)}
    assert len(features) == len(tiles) < ROWS * COLUMNS
    for feature, (_, tile) in zip(features, tiles.iterrows(), strict=True):
        box = shapely.geometry.shape(feature["geometry"])
        assert box.equals(shapely.box(tile["x"], tile["y"], tile["x"] + SIDE_UM, tile["y"] + SIDE_UM))
        probability = feature["properties"]["measurements"]["Tumor probability"]
        assert probability == pytest.approx(red(box.bounds), abs=1 / 255)
        name = "Tumor" if probability >= 0.5 else "Non-tumor"
        assert feature["properties"]["classification"]["name"] == name


def _tissue_share(row, column):
    rows, columns = TISSUE
    place = np.zeros((HEIGHT, WIDTH))
    place[rows, columns] = 1
    return place[row * SIDE_UM :, column * SIDE_UM :][:SIDE_UM, :SIDE_UM].mean()


def test_every_pixel_of_the_ome_tiff_is_where_it_was_read(whole):
    with tifffile.TiffFile(whole.files.classes) as tif:
        series = tif.series[0]
        pixels, ome = series.asarray(), tifffile.xml2dict(tif.ome_metadata)["OME"]["Image"]["Pixels"]
        assert (series.axes, series.shape) == ("CYX", (5, HEIGHT // 2, WIDTH // 2))
        assert len(series.levels) == 2
    assert [channel["Name"] for channel in ome["Channel"]] == ["Tumor", "Non-tumor", "Other", "Background", "Artefact"]
    assert (ome["PhysicalSizeX"], ome["PhysicalSizeY"]) == (2 * MPP, 2 * MPP)
    assert {(plane["PositionX"], plane["PositionY"]) for plane in ome["Plane"]} == {(0, 0)}
    expected = picture()[..., 0].reshape(HEIGHT // 2, 2, WIDTH // 2, 2).mean((1, 3))
    inside = (slice(60, 210), slice(55, 290))
    assert np.abs(pixels[0][inside] - expected[inside]).max() <= 1
    assert np.abs(pixels[:4].sum(0, dtype=int) - 255).max() <= 2
    assert (pixels[:, :20] == np.array([0, 0, 0, 255, 0])[:, None, None]).all()


def test_larger_windows_and_mirrorings_give_the_same_map(whole, tmp_path):
    segmenter = Reds()
    other = mapped(tmp_path, networks=Networks(segmenter=segmenter), window=2, test_time_augmentation=True)
    pixels = [tifffile.imread(one.files.classes)[:, 60:210, 55:290].astype(int) for one in (other, whole)]
    assert np.abs(pixels[0] - pixels[1]).max() <= 1
    assert segmenter.seen % 4 == 0


class Unsure(Reds):
    """Looks twice; its answers differ by as much as green says."""

    looks = 2

    def answers(self, images):
        """Answer with the red channel, and a spread of half of the green one."""
        spread = images[..., 1].astype(np.float32) / 510
        if self.spec.task == "classifier":
            yield SimpleNamespace(
                probabilities=torch.from_numpy(self.tumor_probability(images)),
                spread=torch.from_numpy(spread.mean((1, 2)).astype(np.float64)),
            )
            return
        probabilities = torch.from_numpy(self.class_probabilities(images))
        yield SimpleNamespace(probabilities=probabilities, spread=torch.from_numpy(spread))


def test_a_map_of_uncertainty_lies_where_the_answers_differ(whole, tmp_path):
    networks = Networks(classifier=Unsure("classifier"), segmenter=Unsure())
    other = mapped(tmp_path, networks=networks, uncertainty=True)
    assert other.files.classes.read_bytes() == whole.files.classes.read_bytes()
    assert not whole.files.uncertainty.exists()
    with tifffile.TiffFile(other.files.uncertainty) as tif:
        found, ome = tif.series[0].asarray(), tifffile.xml2dict(tif.ome_metadata)["OME"]["Image"]["Pixels"]
    assert found.dtype == np.float32
    assert found.shape == (HEIGHT // 2, WIDTH // 2)
    assert ome["Channel"]["Name"] == "Spread of the tumor probability"
    expected = picture()[..., 1].reshape(HEIGHT // 2, 2, WIDTH // 2, 2).mean((1, 3)) / 510
    inside = (slice(60, 210), slice(55, 290))
    np.testing.assert_allclose(found[inside], expected[inside], atol=1.1 / 510)
    assert (found[:, :16] == 0).all()
    tiles = pd.read_parquet(other.files.tiles)
    old = pd.read_parquet(whole.files.tiles)
    pd.testing.assert_frame_equal(tiles[old.columns], old)
    features = of(other.features, "tile")
    for (_, tile), feature in zip(tiles.iterrows(), features, strict=True):
        x, y = int(tile["x"]), int(tile["y"])
        green = picture()[y : y + SIDE_UM, x : x + SIDE_UM, 1].mean() / 510
        assert tile["classifier_spread"] == pytest.approx(green, abs=1 / 510)
        own = found[y // 2 : y // 2 + SIDE_PX, x // 2 : x // 2 + SIDE_PX]
        assert tile["segmenter_spread"] == pytest.approx(own.mean(), abs=1e-6)
        measured = feature["properties"]["measurements"]
        assert measured["Spread of the tumor probability"] == tile["classifier_spread"]
        assert measured["Mean spread of pixels"] == tile["segmenter_spread"]


def test_who_looks_once_leaves_no_map_of_uncertainty(whole, tmp_path):
    networks = both()
    for network in networks.predictors:
        network.looks = 1
    other = mapped(tmp_path, networks=networks, uncertainty=True)
    assert not other.files.uncertainty.exists()
    assert other.files.tiles.read_bytes() == whole.files.tiles.read_bytes()


def test_a_killed_map_of_uncertainty_goes_on_to_the_same_bytes(tmp_path):
    networks = [
        Networks(classifier=Unsure("classifier"), segmenter=Unsure(patience=patience)) for patience in (10**9, 60)
    ]
    first = mapped(tmp_path / "whole", networks=networks[0], uncertainty=True)
    with pytest.raises(KeyboardInterrupt):
        mapped(tmp_path / "killed", networks=networks[1], uncertainty=True)
    second = mapped(tmp_path / "killed", networks=networks[0], uncertainty=True)
    for name in ("tiles", "classes", "uncertainty", "small"):
        assert getattr(first.files, name).read_bytes() == getattr(second.files, name).read_bytes()


@pytest.mark.parametrize(("encoder", "window"), [("tf_efficientnet_lite0", 2), ("test_efficientnet", 1)])
def test_windows_grow_unless_the_encoder_pools_over_all_of_them(tmp_path, encoder, window):
    spec = SegmenterSpec(**{**SPEC, "encoder": encoder}, decoder=(4,) * 5)
    predictor = Predictor(Model(spec=spec, module=build(spec)), torch.device("cpu"))
    slide, files = open_slide(write_slide(tmp_path / "slide.tif")), MapFiles(base=tmp_path / "slide")
    shapes = []
    predictor.class_probabilities = lambda images: shapes.append(images.shape[1]) or Reds().class_probabilities(images)
    map_slide(slide, Networks(segmenter=predictor), settings(window=0), files)
    assert set(shapes) == {window * SIDE_PX}


def test_a_crumb_is_seen_by_large_windows_too(tmp_path):
    image = np.full((512, 512, 3), GLASS, np.uint8)
    image[200:305, 200:305] = picture()[200:305, 400:505]  # less than a twentieth of a window of 8 tiles
    slide, files = open_slide(write_tiff(tmp_path / "s.tif", image, mpp=MPP)), MapFiles(base=tmp_path / "s")
    map_slide(slide, Networks(segmenter=Reds()), settings(window=8), files)
    assert (tifffile.imread(files.classes)[0, 105:147, 105:147] > 100).all()


def test_regions_and_summary_fit_what_was_drawn(whole):
    annotations = of(whole.features, "annotation")
    tumor = shapely.union_all([
        shapely.geometry.shape(one["geometry"]) for one in annotations
        if one["properties"]["classification"]["name"] == "Tumor"
    ])  # fmt: skip
    shapes = [shapely.geometry.shape(one["geometry"]) for one in annotations]
    assert all(shape.is_valid for shape in shapes)
    border = 4 * (127.5 - 70)  # where red passes a half
    tissue = shapely.box(TISSUE[1].start, TISSUE[0].start, TISSUE[1].stop, TISSUE[0].stop)
    wanted = tissue.intersection(shapely.box(border, 0, WIDTH, HEIGHT))
    assert tumor.intersection(wanted).area / wanted.area > 0.97
    row = whole.row
    assert tuple(row) == SUMMARY
    assert row["tissue_mm2"] == pytest.approx(tissue.area / 1e6, rel=0.04)
    assert row["tumor_mm2"] == pytest.approx(wanted.area / 1e6, rel=0.04)
    assert row["tumor_share"] == pytest.approx(wanted.area / tissue.area, abs=0.03)
    tiles = pd.read_parquet(whole.files.tiles)
    assert row["mean_probability"] == pytest.approx(tiles["tumor_probability"].mean())
    assert (row["tiles"], row["artefact_share"]) == (len(tiles), 0)


def test_a_killed_map_goes_on_to_the_same_bytes(whole, tmp_path):
    slide, files = open_slide(write_slide(tmp_path / "slide.tif")), MapFiles(base=tmp_path / "slide")
    for patience in (20, 60):
        networks = Networks(classifier=Reds("classifier"), segmenter=Reds(patience=patience))
        with pytest.raises(KeyboardInterrupt):
            map_slide(slide, networks, settings(), files)
        assert not files.facts.exists()
        assert not files.classes.exists()
    last = both()
    map_slide(slide, last, settings(), files)
    assert last.classifier.seen == 0
    assert not files.partial.exists()
    for name in ("tiles", "classes", "small"):
        assert getattr(files, name).read_bytes() == getattr(whole.files, name).read_bytes()


def test_seconds_are_those_of_all_attempts(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("vitrail.inference.map_slide.time.perf_counter", lambda: now[0])

    class Slow(Reds):
        """Needs a second for each image."""

        def _seen(self, images):
            now[0] += len(images)
            return super()._seen(images)

    slide, files = open_slide(write_slide(tmp_path / "slide.tif")), MapFiles(base=tmp_path / "slide")
    with pytest.raises(KeyboardInterrupt):
        map_slide(slide, Networks(segmenter=Slow(patience=80)), settings(), files)
    first = now[0]
    second = Slow()
    map_slide(slide, Networks(segmenter=second), settings(), files)
    told = json.loads(files.facts.read_text())["seconds_networks"]
    assert second.seen < told <= now[0]
    assert first - told + second.seen <= 32 + 2 + 1  # what one batch takes, and what is not on disk yet


@pytest.fixture(scope="module")
def inked(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vitrail.inference.context.find_artefacts", pen_mark)
        return mapped(tmp_path_factory.mktemp("inked"), artefacts=True)


def test_artefacts_have_a_class_of_their_own_and_do_not_count(inked, whole):
    tiles = pd.read_parquet(inked.files.tiles)
    names = name_tiles(tiles, 0.5)
    spoilt = tiles[names == "artefact"]
    assert spoilt[["x", "y"]].to_numpy().tolist() == [[320, 192]]
    np.testing.assert_array_equal(tiles["pen"], tiles["artefact"])
    assert not tiles[["fold", "blur", "blood", "debris", "bubble"]].to_numpy().any()
    (feature,) = [one for one in of(inked.features, "tile") if "classification" not in one["properties"]]
    assert feature["properties"]["measurements"]["Artefact share"] == 1
    pixels = tifffile.imread(inked.files.classes)
    inner = tuple(slice(side.start // 2, side.stop // 2) for side in PEN)
    assert (pixels[4] > 0).sum() == 40 * 40
    assert (pixels[:, *inner] == np.array([0, 0, 0, 0, 255])[:, None, None]).all()
    row = inked.row
    assert row["artefact_share"] == pytest.approx(80 * 80 / (340 * 510), rel=0.04)
    assert row["tiles"] == whole.row["tiles"] - 1
    assert row["mean_probability"] == pytest.approx(tiles.loc[names != "artefact", "tumor_probability"].mean())
    assert row["tumor_mm2"] == pytest.approx(whole.row["tumor_mm2"] - 80 * 80 / 1e6, rel=0.03)
    facts = json.loads(inked.files.facts.read_text())
    assert facts["clean_mm2"] < facts["tissue_mm2"]
    assert facts["artefacts"]["pen"] == pytest.approx(row["artefact_share"], abs=1e-5)
    assert sum(facts["artefacts"].values()) == facts["artefacts"]["pen"]
    assert sum(facts["pixels"]) * 4 / 1e6 == pytest.approx(facts["tissue_mm2"], rel=0.02)


def test_artefacts_can_be_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("vitrail.inference.context.find_artefacts", pen_mark)
    kept = mapped(tmp_path, artefacts=False)
    assert kept.row["artefact_share"] == 0
    assert not (name_tiles(pd.read_parquet(kept.files.tiles), 0.5) == "artefact").any()


def test_background_tiles_on_demand_change_no_figure(whole, tmp_path):
    more = mapped(tmp_path, background=True)
    tiles = pd.read_parquet(more.files.tiles)
    assert len(tiles) == ROWS * COLUMNS
    assert (name_tiles(tiles, 0.5) == "background").sum() == len(tiles) - whole.row["tiles"]
    names = [one["properties"]["classification"]["name"] for one in of(more.features, "tile")]
    assert names.count("Background") == len(tiles) - whole.row["tiles"]
    compared = SUMMARY[1:-1]
    assert {name: more.row[name] for name in compared} == {name: whole.row[name] for name in compared}
    assert np.isfinite(load_map(more.files.small).classifier).all()


def test_the_threshold_names_the_tiles(whole, tmp_path):
    row = publish(whole.files, tmp_path / "all", 0.0)
    features = json.loads((tmp_path / "all.geojson").read_text())["features"]
    assert {one["properties"]["classification"]["name"] for one in of(features, "tile")} == {"Tumor"}
    assert row["tumor_mm2"] == whole.row["tumor_mm2"]  # counted in pixels


@pytest.mark.parametrize("task", ["classifier", "segmenter"])
def test_one_network_is_enough(whole, tmp_path, task):
    alone = mapped(tmp_path, networks=Networks(**{task: Reds(task)}))
    tiles, there = pd.read_parquet(alone.files.tiles), task == "segmenter"
    assert alone.files.classes.exists() == there == ("segmenter" in tiles)
    assert bool(of(alone.features, "annotation")) == there
    assert alone.row["tumor_share"] == pytest.approx(whole.row["tumor_share"], abs=0.08)
    assert np.isnan(alone.row["seam_index"]) != there
    if there:
        assert (tiles["tumor_probability"] == tiles["segmenter"]).all()
        assert set(of(alone.features, "tile")[0]["properties"]["measurements"]) == {
            "Tumor probability", "Tissue share", "Artefact share",
        }  # fmt: skip
    small = load_map(alone.files.small)
    assert np.isfinite(small.classifier).any() != there
    assert (small.segmenter != 255).any() == there


@pytest.mark.parametrize(
    ("image", "mpp", "problem"),
    [
        (np.full((512, 512, 3), GLASS, np.uint8), 1.0, "holds no tissue"),
        (picture()[150:190], 1.0, "smaller than one tile"),
        (picture(), 3.5, "has 3.5 um/px"),
    ],
)
def test_slides_that_cannot_be_mapped_say_why(tmp_path, image, mpp, problem):
    slide, files = open_slide(write_tiff(tmp_path / "s.tif", image, mpp=mpp)), MapFiles(base=tmp_path / "s")
    with pytest.raises(SlideError, match=problem):
        map_slide(slide, both(), settings(), files)
    assert [path.name for path in tmp_path.iterdir()] == ["s.tif"]


def test_a_study_goes_on_without_a_slide_that_fails(tmp_path):
    glass = np.full((512, 512, 3), GLASS, np.uint8)
    paths = {"good": write_slide(tmp_path / "good.tif"), "bare": write_tiff(tmp_path / "bare.tif", glass, mpp=1.0)}
    entries = [CohortSlide(slide_id=name, patient_id="P", slide=path, annotations=path) for name, path in paths.items()]
    said, networks = [], both()
    progress = SimpleNamespace(say=said.append, task=_Quiet)
    work = SimpleNamespace(run=SimpleNamespace(settings=settings()), folder=tmp_path, progress=progress)
    map_slides(entries, networks, work)
    assert [line for line in said if "bare is not mapped" in line and "holds no tissue" in line]
    assert list(json.loads((tmp_path / "maps" / "left_out.json").read_text())) == ["bare"]
    assert {path.name for path in (tmp_path / "maps").iterdir()} == {
        "good.classes.ome.tiff", "good.json", "good.npz", "good.tiles.parquet", "left_out.json",
    }  # fmt: skip
    seen = networks.segmenter.seen
    map_slides(entries, networks, work)
    assert networks.segmenter.seen == seen


class _Quiet:
    def __init__(self, *_):
        pass

    def __enter__(self):
        return lambda *_: None

    def __exit__(self, *_):
        pass
