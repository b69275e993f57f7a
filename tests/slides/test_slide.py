"""Slides whose pixels are a formula: red is x mod 256, green is y mod 256, blue counts the 256-px squares."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from helpers.data import DATA, needs_data
from vitrail.errors import SlideError
from vitrail.geometry import Region
from vitrail.slides import metadata as header
from vitrail.slides import slide as slide_module
from vitrail.slides.readers.openslide import OpenSlideReader
from vitrail.slides.slide import Slide, open_slide, read_region, read_thumbnail

WIDTH, HEIGHT = 700, 600
LEVELS = (1, 2, 4)
pairs = st.tuples(st.integers(1, 9), st.integers(1, 9))


def formula():
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([x % 256, y % 256, x // 256 + 16 * (y // 256)], axis=-1).astype(np.uint8)


def write_slide(path, images, resolution=(20_000, 20_000), unit="CENTIMETER"):
    options = {"tile": (64, 64), "photometric": "rgb", "compression": "zlib", "metadata": None}
    with tifffile.TiffWriter(path) as tiff:
        for index, image in enumerate(images):
            tiff.write(image, subfiletype=min(index, 1), resolution=resolution, resolutionunit=unit, **options)
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    image = formula()
    return write_slide(tmp_path_factory.mktemp("slides") / "formula.tif", [image[::step, ::step] for step in LEVELS])


@pytest.fixture(scope="module")
def slide(path):
    return open_slide(path)


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
    """The formula without a pyramid."""
    return open_slide(write_slide(tmp_path_factory.mktemp("slides") / "flat.tif", [formula()]))


def region(x, y, width, height):
    return Region(x=x, y=y, width=width, height=height)


def on_glass(x, y, width, height):
    """The formula at whole level-0 pixels, white around it."""
    glass = np.full((HEIGHT + 400, WIDTH + 400, 3), 255, np.uint8)
    glass[200 : 200 + HEIGHT, 200 : 200 + WIDTH] = formula()
    return glass[y + 200 : y + 200 + height, x + 200 : x + 200 + width]


def shares(start, stop, count, length):
    """How much of every pixel every result pixel covers, [count, length], in 64 bits; rows sum to 1."""
    edges = start + (stop - start) * np.arange(count + 1) / count
    pixels = np.arange(length)
    covered = np.minimum(pixels + 1, edges[1:, None]) - np.maximum(pixels, edges[:-1, None])
    return covered.clip(0) / covered.clip(0).sum(axis=1, keepdims=True)


def exact(image, box, size):
    """Area means of every result pixel by dense weights."""
    rows = shares(box[1], box[3], size[1], image.shape[0])
    columns = shares(box[0], box[2], size[0], image.shape[1])
    return np.einsum("jy,yxc,ix->jic", rows, image, columns, optimize=True)


def test_the_header(slide, path):
    assert slide == Slide(path=path, bounds=region(0, 0, WIDTH, HEIGHT), mpp=0.5, downsamples=(1.0, 2.0, 4.0))
    assert slide.region == region(0, 0, WIDTH, HEIGHT)
    with pytest.raises(FrozenInstanceError):
        slide.mpp = 1.0


@pytest.mark.parametrize(("x", "y"), [(0, 0), (1, 0), (0, 1), (63, 65), (257, 301), (600, 500)])
def test_level_0_is_read_to_the_pixel(slide, x, y):
    assert np.array_equal(read_region(slide, region(x, y, 90, 70), (90, 70)), on_glass(x, y, 90, 70))


@pytest.mark.parametrize(
    ("x", "y"), [(-30, -20), (680, 560), (-90, 10), (10, 600), (-200, -200), (-10, 570), (650, -40)]
)
def test_beyond_the_slide_the_glass_is_white(slide, x, y):
    assert np.array_equal(read_region(slide, region(x, y, 90, 70), (90, 70)), on_glass(x, y, 90, 70))


def test_a_region_larger_than_the_slide(slide):
    whole = read_region(slide, region(-100, -50, 900, 700), (900, 700))
    assert np.array_equal(whole, on_glass(-100, -50, 900, 700))


@pytest.mark.parametrize(
    ("place", "size"),
    [
        ((10.25, 20.5, 41.3, 33.7), (20, 11)),
        ((0.1, 0.1, 30.0, 30.0), (7, 9)),
        ((-5.5, 590.2, 30.3, 25.1), (6, 5)),
        ((690.7, -3.3, 17.0, 13.0), (11, 13)),
        ((200.5, 200.5, 100.0, 100.0), (9, 1)),
    ],
)
def test_fractions_of_pixels_are_averaged_exactly(flat, place, size):
    x, y, width, height = place
    image = on_glass(-200, -200, WIDTH + 400, HEIGHT + 400).astype(np.float64)
    box = (x + 200, y + 200, x + 200 + width, y + 200 + height)
    result = read_region(flat, region(*place), size)
    assert np.abs(result - exact(image, box, size)).max() <= 0.5 + 1e-3


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.tuples(st.floats(-60, 700), st.floats(-60, 600)), st.floats(1.0, 7.0), pairs)
def test_tiles_join_without_a_seam(flat, place, scale, counts):
    (x, y), (first, second), height = place, counts, 4
    whole = read_region(flat, region(x, y, (first + second) * scale, height * scale), (first + second, height))
    left = read_region(flat, region(x, y, first * scale, height * scale), (first, height))
    right = read_region(flat, region(x + first * scale, y, second * scale, height * scale), (second, height))
    assert np.abs(np.hstack([left, right]).astype(int) - whole).max() <= 1


def test_enlarged_tiles_join_without_a_seam(flat):
    whole = read_region(flat, region(246, 100, 20, 10), (160, 80))  # red falls from 255 to 0 at the cut
    halves = [read_region(flat, region(x, 100, 10, 10), (80, 80)) for x in (246, 256)]
    assert np.array_equal(np.hstack(halves), whole)


def test_enlarging_interpolates_linearly(flat):
    enlarged = read_region(flat, region(100, 50, 10, 10), (40, 20))[0, :, 0]
    centres = 100 + (np.arange(40) + 0.5) / 4 - 0.5
    assert np.abs(enlarged - centres).max() <= 0.5


@pytest.mark.parametrize(
    ("downsample", "level"), [(0.3, 0), (1, 0), (1.97, 0), (1.99, 1), (2, 1), (3.9, 1), (4, 2), (4.57, 2), (500, 2)]
)
def test_the_coarsest_level_that_covers_the_resolution_is_chosen(slide, downsample, level):
    assert slide.level_for(downsample) == level


@pytest.mark.parametrize(("side", "step"), [(64, 1), (128, 2), (256, 4)])
def test_a_level_is_read_to_its_pixel(slide, side, step):
    x, y = 52, 104
    level = formula()[::step, ::step][y // step : y // step + 64, x // step : x // step + 64]
    assert np.array_equal(read_region(slide, region(x, y, side, side), (64, 64)), level)


def test_a_level_is_read_between_its_pixels(slide):
    level = formula()[::4, ::4].astype(np.float64)
    result = read_region(slide, region(33.3, 41.9, 150, 120), (30, 20))
    want = exact(level, (33.3 / 4, 41.9 / 4, 183.3 / 4, 161.9 / 4), (30, 20))
    assert np.abs(result - want).max() <= 0.5 + 1e-3


def test_levels_cut_short_count_as_whole_downsamples(tmp_path):
    image = np.zeros((431, 443, 3), np.uint8)
    levels = [image, image[:215, :221], image[:107, :110]]
    assert open_slide(write_slide(tmp_path / "odd.tif", levels)).downsamples == (1.0, 2.0, 4.0)
    stretched = open_slide(write_slide(tmp_path / "stretched.tif", [image, image[:200, :200]]))
    assert stretched.downsamples == (1.0, pytest.approx((443 / 200 + 431 / 200) / 2))


def test_coordinates_start_at_the_bounds(slide):
    framed = replace(slide, bounds=region(120, 80, 300, 200))
    assert framed.region == region(0, 0, 300, 200)
    assert np.array_equal(read_region(framed, region(7, 9, 90, 70), (90, 70)), on_glass(127, 89, 90, 70))
    corner = read_region(framed, region(-4, -6, 20, 20), (20, 20))
    assert np.all(corner[:6] == 255)
    assert np.all(corner[:, :4] == 255)
    assert np.array_equal(corner[6:, 4:], on_glass(120, 80, 16, 14))
    beyond = read_region(framed, region(290, 190, 20, 20), (20, 20))
    assert np.all(beyond[10:] == 255)
    assert np.all(beyond[:, 10:] == 255)


def test_bounds_are_all_or_nothing():
    keys = {"openslide.bounds-x": "10", "openslide.bounds-y": "20", "openslide.bounds-width": "300"}
    assert header.bounds_of(keys, (700, 600)) == region(0, 0, 700, 600)
    keys["openslide.bounds-height"] = "200"
    assert header.bounds_of(keys, (700, 600)) == region(10, 20, 300, 200)
    keys["openslide.bounds-height"] = "0"
    assert header.bounds_of(keys, (700, 600)) == region(0, 0, 700, 600)


def test_large_regions_are_read_in_parts_that_join(flat, monkeypatch):
    place, size = region(-20.5, 10.25, 600, 500), (130, 110)
    whole = read_region(flat, place, size)
    windows, read = [], OpenSlideReader.read
    monkeypatch.setattr(slide_module, "_MOST_PX", 5000)
    monkeypatch.setattr(OpenSlideReader, "read", lambda *args: windows.append(args[3]) or read(*args))
    parts = read_region(flat, place, size)
    assert np.abs(parts.astype(int) - whole).max() <= 1
    assert (parts != whole).mean() < 1e-3
    assert len(windows) > 50
    assert max(width * height for width, height in windows) <= 5000


def test_only_the_wanted_pixels_are_decoded(slide, monkeypatch):
    asked = []
    read = OpenSlideReader.read
    monkeypatch.setattr(OpenSlideReader, "read", lambda *args: asked.append(args[1:]) or read(*args))
    read_region(slide, region(-40, 100, 256, 256), (64, 64))
    read_region(slide, region(900, 100, 256, 256), (64, 64))
    assert asked == [(2, (0, 25), (54, 64), 1)]


def test_the_thumbnail(slide):
    thumbnail = read_thumbnail(slide, 175)
    assert np.array_equal(thumbnail, formula()[::4, ::4])
    assert read_thumbnail(slide, 70).shape == (60, 70, 3)
    assert read_thumbnail(replace(slide, bounds=region(0, 0, 700, 1)), 35).shape == (1, 35, 3)
    with pytest.raises(ValueError, match="at least one pixel"):
        read_thumbnail(slide, 0)


def test_sizes_must_be_positive(slide):
    with pytest.raises(ValueError, match="at least one pixel"):
        read_region(slide, region(0, 0, 10, 10), (10, 0))


def test_transparency_is_laid_on_white(path, monkeypatch):
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, :, 0], rgba[0, :, 3] = 100, (255, 0, 51)
    reader = OpenSlideReader(path)
    monkeypatch.setattr(openslide.OpenSlide, "read_region", lambda *_: Image.fromarray(rgba))
    assert reader.read(0, (0, 0), (3, 1))[0].tolist() == [[100, 0, 0], [255, 255, 255], [224, 204, 204]]


def test_a_slide_crosses_processes(slide):
    assert pickle.loads(pickle.dumps(slide)) == slide  # noqa: S301 - our own bytes
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.apply(read_region, (slide, region(33, 44, 50, 60), (50, 60)))
    assert np.array_equal(there, on_glass(33, 44, 50, 60))


def test_threads_share_a_slide(slide):
    places = [(x, y) for x in range(0, 600, 60) for y in range(0, 500, 60)]
    with ThreadPoolExecutor(4) as pool:
        tiles = list(pool.map(lambda at: read_region(slide, region(*at, 60, 60), (60, 60)), places))
    assert all(np.array_equal(tile, on_glass(*at, 60, 60)) for at, tile in zip(places, tiles, strict=True))


def test_few_slides_stay_open(tmp_path):
    slide_module._reader.cache_clear()
    image = np.zeros((64, 64, 3), np.uint8)
    slides = [open_slide(write_slide(tmp_path / f"{i}.tif", [image + i])) for i in range(slide_module._OPEN_SLIDES + 3)]
    for turn in range(2):
        for i, one in enumerate(slides):
            assert read_region(one, region(turn, 0, 8, 8), (8, 8)).max() == i
    assert slide_module._reader.cache_info().currsize == slide_module._OPEN_SLIDES


def test_a_reader_that_left_the_cache_is_freed(slide):
    read_region(slide, region(0, 0, 8, 8), (8, 8))
    handle = weakref.ref(slide_module._reader_of(slide)._slide)
    assert handle() is not None
    slide_module._reader.cache_clear()
    assert handle() is None


def test_a_replaced_file_is_opened_anew(tmp_path):
    path = write_slide(tmp_path / "a.tif", [np.full((64, 64, 3), 7, np.uint8)])
    slide = open_slide(path)
    assert read_region(slide, region(0, 0, 8, 8), (8, 8)).max() == 7
    os.utime(write_slide(path, [np.full((64, 64, 3), 9, np.uint8)]), ns=(1, 1))
    assert read_region(slide, region(0, 0, 8, 8), (8, 8)).max() == 9
    path.unlink()
    with pytest.raises(SlideError, match=r"a\.tif: the file is gone"):
        read_region(slide, region(0, 0, 8, 8), (8, 8))


@pytest.mark.parametrize(
    ("resolution", "unit", "mpp"),
    [((40_000, 40_000), "CENTIMETER", 0.25), ((50_800, 50_800), "INCH", 0.5), ((40_000, 20_000), "CENTIMETER", 0.375)],
)
def test_mpp_from_the_tiff_tags(tmp_path, resolution, unit, mpp):
    path = write_slide(tmp_path / "a.tif", [np.zeros((64, 64, 3), np.uint8)], resolution, unit)
    assert open_slide(path).mpp == pytest.approx(mpp)
    assert open_slide(path, fallback_mpp=0.33).mpp == pytest.approx(mpp)
    assert open_slide(path, mpp=0.44, fallback_mpp=0.33).mpp == 0.44


@pytest.mark.parametrize(
    ("resolution", "unit"), [(dpi, "INCH") for dpi in ((72, 72), (96, 96), (300, 300))] + [((1, 1), "NONE")]
)
def test_a_printers_resolution_is_no_mpp(tmp_path, resolution, unit):
    path = write_slide(tmp_path / "a.tif", [np.zeros((64, 64, 3), np.uint8)], resolution, unit)
    with pytest.raises(SlideError, match=r"mpp column of slides\.csv or as slides\.mpp in study\.toml"):
        open_slide(path)
    assert open_slide(path, mpp=2).mpp == 2.0
    assert open_slide(path, fallback_mpp=2).mpp == 2.0


def test_tags_serve_where_openslide_gives_no_mpp(path):
    tags = {"tiff.ResolutionUnit": "centimeter", "tiff.XResolution": "40000", "tiff.YResolution": "nan"}
    assert header.header_mpp(path, tags, (9, 9), None) == 0.25
    both = {**tags, "openslide.mpp-x": "0.4", "openslide.mpp-y": "0.6"}
    assert header.header_mpp(path, both, (9, 9), 2.0) == 0.5


@pytest.mark.parametrize("mpp", [0, -0.25, 0.001, 250, float("nan"), float("inf")])
def test_an_impossible_mpp_is_refused(path, mpp):
    with pytest.raises(SlideError, match=r"mpp of .* is not possible"):
        open_slide(path, mpp=mpp)
    with pytest.raises(SlideError, match=r"mpp of .* is not possible"):
        open_slide(path, fallback_mpp=mpp)


def test_a_missing_file(tmp_path):
    with pytest.raises(SlideError, match=r"gone\.svs: no such file"):
        open_slide(tmp_path / "gone.svs")
    with pytest.raises(SlideError, match="a folder, not a file"):
        open_slide(tmp_path)


def denied(*_args, **_more):
    raise PermissionError(13, "Permission denied")


def test_a_file_that_may_not_be_read(path, slide, monkeypatch):
    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(SlideError, match=r"formula\.tif: cannot be opened \(Permission denied\)"):
        open_slide(path)
    monkeypatch.setattr(Path, "stat", denied)
    with pytest.raises(SlideError, match=r"formula\.tif: cannot be reached any more \(Permission denied\)"):
        read_region(slide, region(0, 0, 8, 8), (8, 8))


def test_a_file_cut_in_half(path, tmp_path):
    half = tmp_path / "half.tif"
    half.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(SlideError, match=r"half\.tif: .*cut short"):
        open_slide(half)


def test_damage_inside_a_file_is_found_on_reading(path, tmp_path):
    damaged = tmp_path / "damaged.tif"
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        start, length = tiff.pages[0].dataoffsets[0], tiff.pages[0].databytecounts[0]
    content[start : start + length] = bytes(length)
    damaged.write_bytes(content)
    slide = open_slide(damaged)
    sound = region(320, 320, 64, 64)
    assert np.array_equal(read_region(slide, sound, (64, 64)), on_glass(320, 320, 64, 64))
    with pytest.raises(SlideError, match=r"damaged\.tif: cannot be read at x 0, y 0 of level 0") as caught:
        read_region(slide, region(0, 0, 64, 64), (64, 64))
    assert "\n" not in str(caught.value)
    assert np.array_equal(read_region(slide, sound, (64, 64)), on_glass(320, 320, 64, 64))


@needs_data("readers/cmu-1-small-region.svs")
def test_an_aperio_slide():
    slide = open_slide(DATA / "readers" / "cmu-1-small-region.svs")
    assert (slide.mpp, slide.bounds, slide.downsamples) == (0.499, region(0, 0, 2220, 2967), (1.0,))
    with openslide.OpenSlide(slide.path) as direct:
        want = np.asarray(direct.read_region((700, 900), 0, (300, 200)))[..., :3]
    assert np.array_equal(read_region(slide, region(700, 900, 300, 200), (300, 200)), want)


@needs_data("readers/tcga-cr-7395-01a-01-ts1.svs")
def test_a_slide_without_mpp():
    path = DATA / "readers" / "tcga-cr-7395-01a-01-ts1.svs"
    with pytest.raises(SlideError, match="its header gives no mpp"):
        open_slide(path)
    slide = open_slide(path, mpp=0.5)
    assert slide.downsamples == (1.0, 2.0)
    fine, coarse = (
        read_region(one, region(1500, 1200, 512, 512), (64, 64)).astype(float)
        for one in (replace(slide, downsamples=(1.0,)), slide)
    )
    assert np.corrcoef(fine.ravel(), coarse.ravel())[0, 1] > 0.98


@needs_data("readers/broken.svs", "readers/small_dicom.dcm")
@pytest.mark.parametrize("name", ["broken.svs", "small_dicom.dcm"])
def test_files_that_openslide_refuses(name):
    with pytest.raises(SlideError, match=name):
        open_slide(DATA / "readers" / name)


def test_a_damaged_name_in_a_header_is_passed_over(tmp_path):
    text = b"Aperio Image Library v11\n|\xff\xfe = 1|MPP = 0.5"
    image, path = np.full((64, 64, 3), 200, np.uint8), tmp_path / "odd.svs"
    tifffile.imwrite(path, image, tile=(64, 64), photometric="rgb", compression="jpeg", description=text, metadata=None)
    with openslide.OpenSlide(path) as direct, pytest.raises(KeyError):
        dict(direct.properties)
    assert open_slide(path).mpp == 0.5
