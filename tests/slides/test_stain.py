"""Stain normalisation: known stains become the reference's, once a slide, and where networks look alone."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from shapely.geometry import box
from skimage.color import rgb2lab

from helpers.cohort import outline, tissue, write_outlines, write_tiff
from helpers.tiles import cut_slide
from vitrail.core.progress import Silent
from vitrail.geometry import Region
from vitrail.models.spec import ReadingInfo
from vitrail.settings.load import Settings
from vitrail.slides import stain as module
from vitrail.slides.cohort import CohortSlide
from vitrail.slides.slide import open_slide, read_region, read_thumbnail
from vitrail.slides.stain import (
    AMOUNTS,
    LIGHT,
    MEAN,
    SPREAD,
    STAINS,
    StainTransform,
    fit_picture,
    fit_stain,
    measure_macenko,
    read_for_networks,
    stain_of,
)
from vitrail.tiles.cohort import slide_digest
from vitrail.tiles.extract import CutJob, cut_part, finished_part
from vitrail.training.tasks import TRAINING_TASKS

METHODS = ("macenko", "reinhard")
OTHER = np.array([[0.60, 0.25], [0.68, 0.88], [0.42, 0.40]])
OTHER /= np.linalg.norm(OTHER, axis=0)
"""Of another laboratory: absorption of red, green and blue by hematoxylin and eosin."""


def mixed(stains, amounts, seed=0, side=120):
    """Tissue of two stains; a twentieth of the pixels is of each alone, so that both edges are there.

    Returns the picture, and the amounts of which it is made, `[side, side, 2]`.
    """
    rng = np.random.default_rng(seed)
    share = rng.uniform(0, 1, (side, side))
    share[share < 0.05], share[share > 0.95] = 0, 1
    drawn = np.stack([share, 1 - share], -1) * rng.uniform(0.5, 1, (side, side, 1)) * amounts
    return picture(drawn @ stains.T), drawn


def picture(density):
    """Light that is left, as bytes."""
    return np.rint(LIGHT * np.exp(-density)).clip(0, 255).astype(np.uint8)


def slide_of(folder, image, mpp=8.0, **how):
    return open_slide(write_tiff(folder / "s.tif", image, mpp=mpp), **how)


def test_macenko_finds_the_stains_of_which_a_picture_is_made():
    amounts = np.array([1.5, 1.2])
    image, drawn = mixed(OTHER, amounts)
    density = -np.log(image.reshape(-1, 3) / LIGHT)
    stains, largest = measure_macenko(density)
    np.testing.assert_allclose(stains, OTHER, atol=0.02)
    np.testing.assert_allclose(largest, np.percentile(drawn.reshape(-1, 2), 99, axis=0), rtol=0.03)


def test_macenko_makes_them_the_references():
    image, drawn = mixed(OTHER, np.array([1.5, 1.2]))
    moved = fit_stain(image, "macenko").apply(image)
    wanted = drawn / np.percentile(drawn.reshape(-1, 2), 99, axis=0) * AMOUNTS
    assert np.abs(moved.astype(float) - picture(wanted @ STAINS.T)).mean() < 2
    assert np.abs(image.astype(float) - picture(wanted @ STAINS.T)).mean() > 10


def test_reinhard_gives_tissue_mean_and_spread_of_the_reference():
    image, _ = mixed(OTHER, np.array([1.2, 1.1]))
    moved = fit_stain(image, "reinhard").apply(image)
    cones = np.array([[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]])
    long, medium, short = np.moveaxis(np.log(moved.reshape(-1, 3) @ cones.T), 1, 0)
    planes = [(long + medium + short) / 3**0.5, (long + medium - 2 * short) / 6**0.5, (long - medium) / 2**0.5]
    np.testing.assert_allclose(np.mean(planes, axis=1), MEAN, atol=0.02)
    np.testing.assert_allclose(np.std(planes, axis=1), SPREAD, rtol=0.1)


@pytest.mark.parametrize("method", METHODS)
def test_two_laboratories_become_alike_in_cie_lab(method):
    """Independent of the space that either method works in."""
    pair = [mixed(OTHER, np.array([1.6, 1.0]))[0], mixed(STAINS, np.array([0.9, 1.3]))[0]]
    moved = [fit_stain(image, method).apply(image) for image in pair]
    apart, left = (
        np.abs(np.subtract(*(rgb2lab(image).mean((0, 1)) for image in each))).max() for each in (pair, moved)
    )
    assert apart > 4
    assert left < 0.35 * apart


@pytest.mark.parametrize("method", METHODS)
def test_what_has_the_references_colours_stays_nearly_the_same(method):
    image, _ = mixed(OTHER, np.array([1.5, 1.2]))
    once = fit_stain(image, method).apply(image)
    twice = fit_stain(once, method).apply(once)
    assert np.abs(once.astype(int) - twice).mean() < 1.5


@pytest.mark.parametrize("method", METHODS)
def test_glass_and_shapes_stay(method):
    image, _ = mixed(OTHER, np.array([1.5, 1.2]))
    fitted = fit_stain(image, method)
    glass = np.array([(255, 255, 255), (240, 238, 241), (233, 235, 234)], np.uint8)
    assert np.array_equal(fitted.apply(glass), glass)
    assert fitted.apply(image[:7, :5]).shape == (7, 5, 3)
    assert np.array_equal(fitted.apply(image[:7, :5]), fitted.apply(image)[:7, :5])
    every = np.random.default_rng(0).integers(0, 256, (4096, 3), np.uint8)
    every[0] = 0
    assert fitted.apply(every).dtype == np.uint8


@pytest.mark.parametrize("method", METHODS)
def test_neither_glass_nor_ink_nor_borders_are_measured(method):
    image, _ = mixed(OTHER, np.array([1.5, 1.2]))
    dirty = np.full((120, 300, 3), 245, np.uint8)
    dirty[:, :120] = image
    dirty[:, 150:180] = (30, 60, 200)  # blue ink
    dirty[:, 200:230] = 0
    clean, fitted = fit_stain(image, method), fit_stain(dirty, method)
    np.testing.assert_allclose(fitted.colours.gain, clean.colours.gain)
    np.testing.assert_allclose(fitted.colours.offset, clean.colours.offset)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("image", "problem"),
    [
        (np.full((50, 50, 3), 245, np.uint8), "0 pixels of tissue"),
        (np.full((50, 50, 3), (200, 120, 170), np.uint8), "one colour"),
    ],
)
def test_what_cannot_be_measured_stays_and_says_why(method, image, problem):
    fitted = fit_stain(image, method)
    assert problem in fitted.problem
    assert np.array_equal(fitted.apply(image), image)


def test_a_picture_is_measured_at_the_references_size_of_pixels():
    image, _ = mixed(OTHER, np.array([1.5, 1.2]), side=60)
    fine = image.repeat(4, 0).repeat(4, 1)
    a, b = fit_stain(image, "macenko"), fit_picture(fine, 2.0, "macenko")
    np.testing.assert_allclose(a.colours.gain, b.colours.gain)
    assert "pixels of tissue" in fit_picture(fine[:40, :40], 2.0, "macenko").problem


def test_a_slide_is_fitted_once_and_only_where_networks_look(tmp_path, monkeypatch):
    image, _ = mixed(OTHER, np.array([1.5, 1.2]))
    slide = slide_of(tmp_path, image, stain="macenko")
    region, fits = Region(x=10, y=20, width=30, height=40), []
    fit = module.fit_stain
    monkeypatch.setattr(module, "fit_stain", lambda *args: fits.append(args) or fit(*args))
    first, second = (read_for_networks(slide, region, (30, 40)) for _ in range(2))
    assert len(fits) == 1
    assert np.array_equal(first, second)
    assert np.array_equal(first, stain_of(slide).apply(image)[20:60, 10:40])
    assert np.array_equal(read_region(slide, region, (30, 40)), image[20:60, 10:40])
    assert np.array_equal(read_thumbnail(slide, 120), image)

    plain = replace(slide, stain="none")
    assert np.array_equal(read_for_networks(plain, region, (30, 40)), image[20:60, 10:40])
    assert len(fits) == 1
    assert stain_of(plain).colours is None


def settings(stain):
    return Settings.model_validate({"slides": {"stain": stain}, "tiles": {"side_um": 200, "side_px": 32}})


@pytest.fixture
def entry(tmp_path):
    path = write_tiff(tmp_path / "s.tif", tissue(0))
    write_outlines(
        tmp_path / "s.geojson", outline("Tumor", box(0, 0, 128, 256)), outline("Non-tumor", box(128, 0, 256, 256))
    )
    return CohortSlide(slide_id="S", patient_id="P", slide=path, annotations=tmp_path / "s.geojson")


def test_tiles_are_cut_in_the_references_colours_with_the_same_masks(entry):
    plain, moved = (cut_slide(entry, settings(stain)) for stain in ("none", "macenko"))
    slide = open_slide(entry.slide, stain="macenko")
    assert np.array_equal(moved.masks, plain.masks)
    assert np.array_equal(moved.images, stain_of(slide).apply(plain.images))
    assert not np.array_equal(moved.images, plain.images)
    assert slide_digest(entry, settings("none")) == slide_digest(entry, Settings.model_validate(
        {"tiles": {"side_um": 200, "side_px": 32}}
    ))  # fmt: skip
    assert len({slide_digest(entry, settings(stain)) for stain in ("none", *METHODS)}) == 3


def test_a_slide_that_cannot_be_normalised_is_cut_with_a_warning(entry, tmp_path):
    image = np.full((256, 256, 3), 250, np.uint8)
    image[:40, :4] = tissue(0)[:40, :4]
    pale = replace(entry, slide=write_tiff(tmp_path / "pale.tif", image))
    for stain, warned in (("macenko", "stain not normalised"), ("none", "")):
        part = tmp_path / stain
        cut_part(CutJob(entry=pale, settings=settings(stain), part=part), Silent())
        warnings = finished_part(part).warnings
        assert warned in warnings
        assert bool(warned) == bool(warnings)


@pytest.mark.parametrize("task", ["classifier", "segmenter"])
def test_a_model_stores_it_and_files_of_before_stay_as_they_were(task):
    for stain in ("none", "reinhard"):
        own = settings(stain)
        own = own.model_copy(update={"encoder": own.encoder.model_copy(update={"name": "test_efficientnet"})})
        spec = TRAINING_TASKS[task].spec(own, ((0.5,) * 3, (0.2,) * 3))
        assert spec.reading == ReadingInfo(stain=stain)
        later = {} if stain == "none" else {"stain": stain}
        assert json.loads(spec.model_dump_json())["reading"] == {"mode": "fast", "filter": "area", **later}


def test_nothing_is_done_to_pixels_without_a_map():
    image = tissue(1)
    assert StainTransform().apply(image) is image


def test_the_references_stains_have_unit_length():
    np.testing.assert_allclose(np.linalg.norm(STAINS, axis=0), 1, atol=1e-3)
