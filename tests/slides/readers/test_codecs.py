"""Aperio's JPEG 2000: OpenSlide's pixels in full, means within a grey level when wavelets are left out."""

from __future__ import annotations

from dataclasses import replace

import imagecodecs
import numpy as np
import openslide
import pytest
from PIL import Image, features

from helpers.data import DATA, needs_data
from helpers.tiffs import tissue_like, write_jpeg_2000
from vitrail.errors import SlideError
from vitrail.geometry import Region
from vitrail.slides.readers.openslide import OpenSlideReader
from vitrail.slides.readers.tiff import open_tiff
from vitrail.slides.slide import open_slide, read_region

WIDTH, HEIGHT = 602, 514
IMAGE = tissue_like(HEIGHT, WIDTH)
YCBCR, RGB = 33003, 33005

pytestmark = pytest.mark.skipif(not features.check("jpg_2000"), reason="this Pillow cannot read JPEG 2000")


def encoded(tile, *, mct=True, reversible=False, resolutions=6, level=45):
    return imagecodecs.jpeg2k_encode(
        tile,
        level=0 if reversible else level,
        codecformat="J2K",
        reversible=reversible,
        resolutions=resolutions,
        mct=mct,
    )


def as_ycbcr(tile):
    return encoded(np.asarray(Image.fromarray(tile).convert("YCbCr")), mct=False)


def subsampled(tile):
    """YCbCr 4:2:0, which only the FFmpeg in OpenCV can write here."""
    cv2 = pytest.importorskip("cv2", reason="needs OpenCV to write subsampled JPEG 2000")
    path = subsampled.folder / "a.mov"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mjp2"), 1, tile.shape[1::-1])
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no JPEG 2000")
    writer.write(tile[..., ::-1].copy())
    writer.release()
    content = path.read_bytes()
    start = content.index(b"\xff\x4f\xff\x51")
    return content[start : content.index(b"\xff\xd9", start) + 2]


KINDS = {
    "rgb": (RGB, encoded),
    "rgb without a colour transform": (RGB, lambda tile: encoded(tile, mct=False)),
    "rgb without loss": (RGB, lambda tile: encoded(tile, reversible=True)),
    "ycbcr": (YCBCR, as_ycbcr),
    "ycbcr 420": (YCBCR, subsampled),
}


@pytest.fixture(scope="module", params=KINDS)
def path(request, tmp_path_factory):
    folder = subsampled.folder = tmp_path_factory.mktemp(request.param.replace(" ", "-"))
    return write_jpeg_2000(folder / "a.svs", [IMAGE, IMAGE[::2, ::2]], *KINDS[request.param])


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return write_jpeg_2000(tmp_path_factory.mktemp("j2k") / "plain.svs", [IMAGE], RGB, encoded)


def region(x, y, width, height):
    return Region(x=x, y=y, width=width, height=height)


def apart(one, other):
    return np.abs(np.asarray(one, float) - other)


def test_pixels_are_openslides(path):
    fast, slow = open_tiff(path), OpenSlideReader(path)
    for level, size in enumerate(fast.sizes):
        assert apart(fast.read(level, (0, 0), size), slow.read(level, (0, 0), size)).max() <= 1
    assert apart(fast.read(0, (-9, 50), (300, 300)), slow.read(0, (-9, 50), (300, 300))).max() <= 1


def test_colours_are_those_that_were_written(path):
    """FFmpeg stores the dynamic range of television."""
    pixels = open_tiff(path).read(0, (66, 2), (300, 200)).astype(float)
    off = 15 if "420" in path.parent.name else 3
    assert np.abs(pixels.mean((0, 1)) - IMAGE[2:202, 66:366].mean((0, 1))).max() < off


@pytest.mark.parametrize("step", [1.7, 3.5, 4.57, 8.9, 12.0, 17.3, 40.0])
def test_fast_is_within_a_grey_level_of_faithful(path, step):
    slide = replace(open_slide(path), downsamples=(1.0,))
    side = int(500 / step)
    place = region(7.3, 3.9, side * step, side * step)
    fast, faithful = (read_region(replace(slide, reading=mode), place, (side, side)) for mode in ("fast", "faithful"))
    assert apart(fast, faithful).mean() <= 1.0


@pytest.mark.parametrize(("step", "scale"), [(3.4, 1), (3.5, 2), (13.8, 2), (14.0, 4), (40.0, 8)])
def test_wavelets_are_left_out_only_where_enough_is_left_to_average(plain, monkeypatch, step, scale):
    asked, reader = [], type(open_tiff(plain))
    read = reader.read
    monkeypatch.setattr(reader, "read", lambda *args: asked.append(args[4]) or read(*args))
    slide = open_slide(plain)
    read_region(slide, region(0, 0, 10 * step, 10 * step), (10, 10))
    read_region(replace(slide, reading="faithful"), region(0, 0, 10 * step, 10 * step), (10, 10))
    assert asked == [scale, 1]


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_reduced_pixels_lie_on_the_first_of_those_they_stand_for(tmp_path, scale):
    """A ramp tells where: a pixel is as bright as the ramp in its own middle."""
    ramp = np.broadcast_to((np.arange(192) + 20)[None, :, None], (128, 192, 3)).astype(np.uint8)
    reader = open_tiff(write_jpeg_2000(tmp_path / "ramp.svs", [ramp], RGB, lambda t: encoded(t, level=70)))
    row = reader.read(0, (0, 0), (192 // scale, 8), scale)[4, :, 0].astype(float)
    inner = np.arange(192 // scale) % (64 // scale)
    apart_from_edges = (inner > 1) & (inner < 64 // scale - 2)
    assert not reader.centred
    assert np.abs(row - (20 + scale * np.arange(192 // scale)))[apart_from_edges].max() <= 1


def test_tiles_at_the_edge_join_the_others(plain):
    """The slide is 602 px wide: its last tiles jut out, and are reduced in another way. Its very edge may be paler."""
    slide = replace(open_slide(plain), reading="fast")
    place = region(520, 430, 80, 80)
    fast, faithful = (read_region(replace(slide, reading=mode), place, (20, 20)) for mode in ("fast", "faithful"))
    assert apart(fast, faithful)[:-1, :-1].mean() <= 1.5
    assert apart(fast, faithful).max() <= 30


@pytest.mark.parametrize("kind", ["rgb without loss", "ycbcr 420", "few"])
def test_what_has_no_such_wavelets_is_decoded_in_full(tmp_path, kind):
    subsampled.folder = tmp_path
    few = RGB, lambda tile: encoded(tile, resolutions=2)
    reader = open_tiff(write_jpeg_2000(tmp_path / "a.svs", [IMAGE], *KINDS.get(kind, few)))
    assert dict(reader.reductions) == {1: 0.0}


def test_subsampled_rgb_contradicts_itself_and_is_left_to_openslide(tmp_path):
    subsampled.folder = tmp_path
    path = write_jpeg_2000(tmp_path / "odd.svs", [IMAGE], RGB, subsampled)
    slow = OpenSlideReader(path).read(0, (3, 4), (100, 90))
    assert np.array_equal(open_tiff(path).read(0, (3, 4), (100, 90)), slow)


def test_a_stream_that_claims_another_size_is_not_decoded(plain, tmp_path, monkeypatch):
    content = bytearray(plain.read_bytes())
    start = content.index(b"\xff\x4f\xff\x51")
    content[start + 8 : start + 16] = (60_000).to_bytes(4) * 2
    (tmp_path / "huge.svs").write_bytes(content)
    monkeypatch.setattr(imagecodecs, "jpeg2k_decode", lambda *_, **__: pytest.fail("it was decoded"))
    with pytest.raises(SlideError, match=r"huge\.svs: cannot be read at x 0, y 0 of level 0"):
        open_tiff(tmp_path / "huge.svs").read(0, (0, 0), (64, 64))


@pytest.mark.parametrize("step", [1, 4])
def test_damage_is_what_openslide_says_it_is(plain, tmp_path, step):
    content = plain.read_bytes()
    start = content.index(b"\xff\x4f\xff\x51")
    path = tmp_path / "damaged.svs"
    path.write_bytes(content[:start] + bytes(200) + content[start + 200 :])
    with pytest.raises(openslide.OpenSlideError), openslide.OpenSlide(path) as direct:
        direct.read_region((0, 0), 0, (64, 64))
    with pytest.raises(SlideError, match=r"damaged\.svs: cannot be read at x 0, y 0 of level 0"):
        read_region(open_slide(path), region(0, 0, 64, 64), (64 // step, 64 // step))


def test_without_openjpeg_openslide_reads(plain, monkeypatch):
    monkeypatch.setattr(features, "check", lambda _name: False)
    assert open_tiff(plain) is None
    assert open_slide(plain).downsamples == (1.0,)


@needs_data("readers/tcga-cr-7395-01a-01-ts1.svs")
def test_a_real_slide():
    path = DATA / "readers" / "tcga-cr-7395-01a-01-ts1.svs"
    fast, slow = open_tiff(path), OpenSlideReader(path)
    rng = np.random.default_rng(0)
    width, height = fast.sizes[0]
    for _ in range(4):
        at = int(rng.integers(-9, width - 300)), int(rng.integers(-9, height - 300))
        assert apart(fast.read(0, at, (310, 290)), slow.read(0, at, (310, 290))).max() <= 1
    assert apart(fast.read(1, (0, 0), fast.sizes[1]), slow.read(1, (0, 0), fast.sizes[1])).max() <= 1
    slide = replace(open_slide(path, mpp=0.5), downsamples=(1.0,))
    for step in (3.5, 4.57, 14.0):
        side = int(900 / step)
        place = region(1501.3, 1203.7, side * step, side * step)
        pair = [read_region(replace(slide, reading=mode), place, (side, side)) for mode in ("fast", "faithful")]
        assert apart(*pair).mean() <= 1.0
