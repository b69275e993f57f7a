"""Pyramids in the SubIFDs of OME-TIFF: levels that OpenSlide does not know, read from where the file has them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from helpers.tiffs import Kind, tissue_like, write_jpeg_tiff, write_ome
from vitrail.errors import SlideError
from vitrail.geometry import Region
from vitrail.slides.readers.resample import area_resample
from vitrail.slides.readers.tiff import TiffReader, _is_reduced, open_tiff
from vitrail.slides.slide import open_slide, read_region, read_thumbnail

WIDTH, HEIGHT = 637, 451
IMAGE = tissue_like(HEIGHT, WIDTH)


def halved(image, times):
    """The image, and it halved again and again; a last odd row or column is dropped."""
    levels = [image]
    for _ in range(times):
        height, width = (side // 2 for side in levels[-1].shape[:2])
        squares = levels[-1][: height * 2, : width * 2].reshape(height, 2, width, 2, 3)
        levels.append(squares.mean((1, 3)).round().astype(np.uint8))
    return levels


LEVELS = halved(IMAGE, 3)
MPP = {"PhysicalSizeX": 0.25, "PhysicalSizeXUnit": "\u00b5m", "PhysicalSizeY": 0.25, "PhysicalSizeYUnit": "\u00b5m"}
KINDS = [
    *(Kind(colours=colours) for colours in ("444", "422", "420", "rgb")),
    Kind(colours="420", bigtiff=True),
    Kind(colours="rgb", bigtiff=True, byteorder=">"),
    Kind(colours="420", tile=(128, 64)),
]


def region(x, y, width, height):
    return Region(x=x, y=y, width=width, height=height)


def apart(one, other):
    return np.abs(np.asarray(one, float) - other)


@pytest.fixture(scope="module", params=KINDS, ids=lambda k: f"{k.colours}-{k.tile[0]}-{k.bigtiff}-{k.byteorder}")
def path(request, tmp_path_factory):
    return write_ome(tmp_path_factory.mktemp("ome") / "a.ome.tif", LEVELS, request.param, **MPP)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return write_ome(tmp_path_factory.mktemp("ome") / "plain.ome.tif", LEVELS, **MPP)


def test_the_header_has_every_level(path):
    with openslide.OpenSlide(path) as direct:
        assert direct.level_count == 1, "if OpenSlide learns to find them, its own levels count"
    slide = open_slide(path)
    assert slide.downsamples == (1.0, 2.0, 4.0, 8.0)
    assert slide.mpp == 0.25
    assert slide.region == region(0, 0, WIDTH, HEIGHT)


def test_every_level_is_what_the_file_holds(path):
    reader = open_tiff(path)
    with tifffile.TiffFile(path) as tiff:
        stored = [level.asarray() for level in tiff.series[0].levels]
    assert reader.sizes == tuple(image.shape[1::-1] for image in stored)
    for level, image in enumerate(stored):
        size = image.shape[1::-1]
        assert apart(reader.read(level, (0, 0), size), image).max() <= 2, "another IDCT of the same streams"
        assert apart(reader.read(level, (0, 0), size), LEVELS[level]).mean() < 12
        assert np.all(reader.read(level, size, (5, 5)) == 255)


def test_colours_are_those_that_were_written(path):
    reader = open_tiff(path)
    for level in range(4):
        side = 64 // 2**level
        pixels = reader.read(level, (side, side), (side * 3, side * 3)).astype(float)
        wanted = LEVELS[level][side : 4 * side, side : 4 * side].astype(float)
        assert np.abs(pixels.mean((0, 1)) - wanted.mean((0, 1))).max() < 3


def test_a_lone_tile_is_pillows_decode_of_its_stream(path):
    """Pillow goes by the markers in the stream, not by the TIFF's tags."""
    with tifffile.TiffFile(path) as tiff, path.open("rb") as file:
        page = tiff.series[0].levels[1].pages[0]
        file.seek(page.dataoffsets[1])
        stream = file.read(page.databytecounts[1])
        tables = page.jpegtables
    if tables:
        stream = tables[:-2] + stream[2:]
    (path.parent / "tile.jpg").write_bytes(stream)
    with Image.open(path.parent / "tile.jpg") as image:
        if "adobe" not in image.info and "jfif" not in image.info:
            pytest.skip("the stream does not say what its colours are")
        wanted = np.asarray(image.convert("RGB"))
    got = open_tiff(path).read(1, (page.tilewidth, 0), (page.tilewidth, page.tilelength))
    assert apart(got, wanted).max() <= 1


@pytest.mark.parametrize(("step", "level"), [(1.5, 0), (2.0, 1), (3.7, 1), (4.57, 2), (8.0, 3), (40.0, 3)])
def test_fast_reads_the_level_and_faithful_level_0(path, step, level):
    slide, side = open_slide(path), int(400 / step)
    assert slide.level_for(step) == level
    assert replace(slide, reading="faithful").level_for(step) == 0
    place, factor = (9.3, 17.1, 9.3 + side * step, 17.1 + side * step), 2**level
    with tifffile.TiffFile(path) as tiff:
        full, stored = (tiff.series[0].levels[number].asarray() for number in (0, level))
    fast, faithful = (
        read_region(replace(slide, reading=mode), region(9.3, 17.1, side * step, side * step), (side, side))
        for mode in ("fast", "faithful")
    )
    wanted = area_resample(stored, tuple(edge / factor for edge in place), (side, side))
    assert apart(fast, wanted).mean() <= (1.0 if step < 9 else 1.5)  # each pixel of the lowest level is another colour
    assert apart(faithful, area_resample(full, place, (side, side))).mean() <= 1.0


def test_the_lowest_level_makes_the_thumbnail(plain, monkeypatch):
    asked, read = [], TiffReader.read
    monkeypatch.setattr(TiffReader, "read", lambda *args: asked.append(args[1]) or read(*args))
    assert read_thumbnail(open_slide(plain), 64).shape == (45, 64, 3)
    assert asked == [3]


def test_the_same_pixels_as_from_a_pyramid_that_openslide_knows(tmp_path, plain):
    beside = write_ome(tmp_path / "beside.tif", LEVELS, below=False, **MPP)
    with openslide.OpenSlide(beside) as direct:
        assert direct.level_count == 4
    for step in (1, 2, 4, 8):
        place = region(10, 20, 30 * step, 40 * step)
        one, other = (read_region(open_slide(path), place, (30, 40)) for path in (plain, beside))
        assert np.array_equal(one, other)


def rewritten(target, images):
    """Write images below the first as they come, each with its own options."""
    with tifffile.TiffWriter(target) as tiff:
        for number, (image, options) in enumerate(images):
            tiff.write(
                image, photometric="rgb", subifds=len(images) - 1 if number == 0 else None, metadata=None,
                resolution=(40_000, 40_000), resolutionunit="CENTIMETER", **options,
            )  # fmt: skip
    return target


TILED = {"tile": (64, 64), "compression": "jpeg"}


@pytest.mark.parametrize(
    "hidden",
    [
        (tissue_like(200, 500), TILED),  # a label has another shape
        (tissue_like(300, 300), TILED),
        (tissue_like(HEIGHT + 9, WIDTH), TILED),
        (IMAGE, TILED),
        (LEVELS[1], {}),  # strips
        (LEVELS[1], {"tile": (64, 64), "compression": "zlib"}),
    ],
)
def test_what_is_no_reduction_is_never_read(tmp_path, hidden):
    path = rewritten(tmp_path / "a.tif", [(IMAGE, TILED), hidden])
    assert open_slide(path).downsamples == (1.0,)
    path = rewritten(tmp_path / "b.tif", [(IMAGE, TILED), hidden, (LEVELS[2], TILED)])
    assert open_slide(path).downsamples == (1.0, 4.0)


def test_a_mask_is_never_read(tmp_path):
    path = rewritten(tmp_path / "a.tif", [(IMAGE, TILED), (LEVELS[1], {**TILED, "subfiletype": 1})])
    assert open_slide(path).downsamples == (1.0, 2.0)
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        content[tiff.pages[0].pages[0].tags["NewSubfileType"].valueoffset] = 5
    path.write_bytes(content)
    assert open_slide(path).downsamples == (1.0,)


def test_only_the_first_image_is_asked(tmp_path):
    """A label or macro image of its own may have a pyramid, too."""
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as tiff:
        options = {"photometric": "rgb", **TILED}
        tiff.write(IMAGE, metadata={"axes": "YXS", **MPP}, **options)
        tiff.write(tissue_like(600, 800), subifds=1, metadata={"axes": "YXS", "PhysicalSizeX": 9.0}, **options)
        tiff.write(tissue_like(HEIGHT // 2, WIDTH // 2), subfiletype=1, **options)
    slide = open_slide(path)
    assert (slide.downsamples, slide.mpp) == ((1.0,), 0.25)


def test_a_slide_without_jpeg_has_the_levels_of_openslide(tmp_path):
    path = rewritten(tmp_path / "a.tif", [(IMAGE, {"tile": (64, 64), "compression": "zlib"}), (LEVELS[1], TILED)])
    assert open_tiff(path) is None
    assert open_slide(path).downsamples == (1.0,)


def damaged(path, target, level):
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        page = tiff.series[0].levels[level].pages[0]
        start, length = page.dataoffsets[0], page.databytecounts[0]
    content[start : start + length] = bytes(length)
    target.write_bytes(content)
    return target


def test_damage_in_a_level_that_openslide_does_not_know(plain, tmp_path):
    slide = open_slide(damaged(plain, tmp_path / "damaged.ome.tif", 1))
    with pytest.raises(SlideError, match=r"damaged\.ome\.tif: cannot be read at x 0, y 0 of level 1") as caught:
        read_region(slide, region(0, 0, 64, 64), (32, 32))
    assert "\n" not in str(caught.value)
    assert read_region(replace(slide, reading="faithful"), region(0, 0, 64, 64), (32, 32)).mean() < 220
    assert read_region(slide, region(300, 200, 64, 64), (32, 32)).mean() < 220


def test_a_damaged_directory_of_a_level_is_passed_over(plain, tmp_path):
    content = bytearray(plain.read_bytes())
    with tifffile.TiffFile(plain) as tiff:
        at = tiff.series[0].levels[2].pages[0].offset
    content[at : at + 2] = b"\xff\xff"
    (tmp_path / "a.ome.tif").write_bytes(content)
    assert open_slide(tmp_path / "a.ome.tif").downsamples == (1.0, 2.0, 8.0)


def test_a_level_with_holes_is_passed_over(plain, tmp_path):
    content = bytearray(plain.read_bytes())
    with tifffile.TiffFile(plain) as tiff:
        tag = tiff.series[0].levels[1].pages[0].tags["TileByteCounts"]
        content[tag.valueoffset : tag.valueoffset + 2] = bytes(2)
    (tmp_path / "a.ome.tif").write_bytes(content)
    assert open_slide(tmp_path / "a.ome.tif").downsamples == (1.0, 4.0, 8.0)


@given(st.integers(20, 100_000), st.integers(20, 100_000), st.floats(1.3, 20), st.booleans(), st.booleans())
def test_any_rounding_of_a_reduction_is_one(width, height, factor, up_x, up_y):
    sides = [int(side / factor) + up for side, up in ((width, up_x), (height, up_y))]
    assert _is_reduced((width, height), (max(1, sides[0]), max(1, sides[1])))


@given(st.integers(1000, 100_000), st.integers(1000, 100_000), st.integers(2, 16), st.floats(0.05, 0.5), st.booleans())
def test_another_shape_is_none(width, height, factor, off, across):
    size = [width // factor, height // factor]
    size[across] = int(size[across] * (1 - off)) - 3
    assert not _is_reduced((width, height), tuple(size))


@pytest.mark.parametrize(
    ("metadata", "mpp"),
    [
        ({"PhysicalSizeX": 0.5}, 0.5),
        ({"PhysicalSizeX": 0.4, "PhysicalSizeY": 0.6}, 0.5),
        ({"PhysicalSizeX": 250.0, "PhysicalSizeXUnit": "nm"}, 0.25),
        ({"PhysicalSizeX": 0.0005, "PhysicalSizeXUnit": "mm"}, 0.5),
        ({"PhysicalSizeX": 0.00005, "PhysicalSizeXUnit": "cm"}, 0.5),
    ],
)
def test_mpp_from_ome_xml(tmp_path, metadata, mpp):
    path = write_ome(tmp_path / "a.ome.tif", LEVELS[2:3], **metadata)
    assert open_slide(path).mpp == pytest.approx(mpp)
    assert open_slide(path, fallback_mpp=3.0).mpp == pytest.approx(mpp)
    assert open_slide(path, mpp=3.0).mpp == 3.0


@pytest.mark.parametrize("metadata", [
    {}, {"PhysicalSizeX": 1.0, "PhysicalSizeXUnit": "pixel"}, {"PhysicalSizeX": 1.0, "PhysicalSizeXUnit": "mm"},
])  # fmt: skip
def test_ome_xml_without_a_believable_mpp(tmp_path, metadata):
    path = write_ome(tmp_path / "a.ome.tif", LEVELS[2:3], **metadata)
    with pytest.raises(SlideError, match=r"mpp column of slides\.csv"):
        open_slide(path)
    assert open_slide(path, fallback_mpp=0.3).mpp == 0.3


def test_a_plain_pyramid_is_read_as_before(tmp_path):
    path = write_jpeg_tiff(tmp_path / "a.tif", LEVELS[:2])
    assert open_slide(path).downsamples == (1.0, 2.0)
    assert open_slide(path).mpp == 0.5
