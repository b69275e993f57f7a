"""Tiled JPEG slides: the same pixels as OpenSlide's at full size, means within a grey level when reduced."""

from __future__ import annotations

import gc
import pickle
import struct
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product

import numpy as np
import openslide
import pytest
import simplejpeg
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.data import DATA, needs_data
from helpers.mutations import with_tag
from helpers.tiffs import APERIO, Kind, tissue_like, write_jpeg_tiff
from vitrail.core import threads
from vitrail.errors import SlideError
from vitrail.geometry import Region
from vitrail.slides import slide as slide_module
from vitrail.slides.readers import codecs as tile_streams
from vitrail.slides.readers import ifd as tiff_pages
from vitrail.slides.readers import tiff as tiff_reader
from vitrail.slides.readers.ifd import TiffError, check_claims, read_bytes, read_pages
from vitrail.slides.readers.openslide import OpenSlideReader
from vitrail.slides.readers.tiff import open_tiff
from vitrail.slides.slide import open_slide, read_region, read_thumbnail

WIDTH, HEIGHT = 302, 214
IMAGE = tissue_like(HEIGHT, WIDTH)
LEVELS = [IMAGE, IMAGE[::2, ::2]]

KINDS = [
    *(Kind(colours=colours, tables=tables) for colours, tables in product(("444", "422", "420"), (False, True))),
    Kind(colours="420", bare=True),
    Kind(colours="rgb"),
    Kind(colours="rgb", bare=True, tables=True),
    Kind(colours="rgb", bare=True, tables=True, description=APERIO),
    Kind(colours="422", bare=True, tables=True, description=APERIO),
    Kind(colours="422", tile=(96, 48)),
    Kind(colours="420", bigtiff=True, byteorder=">"),
    Kind(colours="rgb", bigtiff=True, byteorder=">", tables=True),
    Kind(colours="444", missing=(0, 7, 19)),
]


def region(x, y, width, height):
    return Region(x=x, y=y, width=width, height=height)


def named(kind):
    parts = [
        kind.colours,
        f"{kind.tile[0]}x{kind.tile[1]}",
        *(n for n in ("tables", "bare", "bigtiff") if getattr(kind, n)),
    ]
    return "-".join([*parts, *["aperio"] * bool(kind.description), *["holes"] * bool(kind.missing), kind.byteorder])


@pytest.fixture(scope="module", params=KINDS, ids=named)
def path(request, tmp_path_factory):
    return write_jpeg_tiff(tmp_path_factory.mktemp("tiff") / f"{request.param.colours}.tif", LEVELS, request.param)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return write_jpeg_tiff(tmp_path_factory.mktemp("tiff") / "plain.tif", LEVELS)


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
    """One level, large enough to be reduced by 8."""
    return write_jpeg_tiff(tmp_path_factory.mktemp("tiff") / "flat.tif", [tissue_like(600, 773)], Kind(colours="444"))


def both(path):
    fast = open_tiff(path)
    assert fast is not None
    return fast, OpenSlideReader(path)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 1), st.tuples(st.integers(-30, 290), st.integers(-30, 210)), st.tuples(*[st.integers(1, 220)] * 2)
)
def test_pixels_are_openslides(path, level, origin, size):
    fast, slow = both(path)
    apart = np.abs(fast.read(level, origin, size).astype(int) - slow.read(level, origin, size))
    assert apart.max() <= 1


def test_colours_are_those_that_were_written(path):
    fast, _ = both(path)
    pixels = fast.read(0, (66, 2), (60, 60)).astype(float)  # the second tile, which is nowhere missing
    assert np.abs(pixels.mean((0, 1)) - IMAGE[2:62, 66:126].mean((0, 1))).max() < 3


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_reduced_pixels_are_about_the_means_of_full_ones_everywhere(path, scale):
    fast, _ = both(path)
    size = -(-WIDTH // scale), -(-HEIGHT // scale)
    full = fast.read(0, (0, 0), (size[0] * scale, size[1] * scale)).astype(float)
    means = full.reshape(size[1], scale, size[0], scale, 3).mean((1, 3))
    apart = np.abs(fast.read(0, (0, 0), size, scale) - means)
    halves = path.stem == "422"  # the decoder leaves these colours at half of the resolution
    assert apart.mean() < (4.5 if halves else 1.3)
    edge = np.concatenate([apart[-1], apart[:, -1]])
    assert edge.max() <= 0.51, "a tile that juts out is averaged, and white beyond"


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([1, 2, 4, 8]), st.tuples(*[st.integers(-9, 90)] * 2), st.tuples(*[st.integers(1, 60)] * 2))
def test_any_window_is_a_part_of_the_whole(flat, scale, origin, size):
    fast = open_tiff(flat)
    x, y = origin[0] + 20, origin[1] + 20
    whole = fast.read(0, (-20, -20), (200, 200), scale)
    assert np.array_equal(fast.read(0, origin, size, scale), whole[y : y + size[1], x : x + size[0]])


def exact(path, place, size):
    slide = open_slide(path, reading="faithful")
    return read_region(slide, place, size)


@pytest.mark.parametrize("step", [2.1, 4.0, 4.57, 6.3, 8.9, 12.1, 17.3, 32.0, 41.7])
def test_fast_is_within_a_grey_level_of_faithful(flat, step):
    slide = replace(open_slide(flat), reading="fast")
    side = int(560 / step)
    place = region(7.3, 11.9, side * step, side * step)
    apart = np.abs(read_region(slide, place, (side, side)).astype(float) - exact(flat, place, (side, side)))
    assert apart.mean() <= 1.0


def test_the_decoder_reduces_only_where_enough_is_left_to_average(flat, monkeypatch):
    asked, read = [], tiff_reader.TiffReader.read
    monkeypatch.setattr(tiff_reader.TiffReader, "read", lambda *args: asked.append(args[4]) or read(*args))
    slide = open_slide(flat)
    for step in (1, 2, 3.9, 4, 11.8, 12, 31, 32, 50):
        read_region(slide, region(0, 0, 10 * step, 10 * step), (10, 10))
    assert asked == [1, 1, 1, 2, 2, 4, 4, 8, 8]
    read_region(replace(slide, reading="faithful"), region(0, 0, 500, 500), (10, 10))
    assert asked[-1] == 1


def test_faithful_reads_level_0_and_fast_the_stored_one(plain):
    fast, faithful = open_slide(plain), open_slide(plain, reading="faithful")
    dark = replace(fast, downsamples=(1.0, 2.0))
    place, size = region(10, 10, 128, 128), (64, 64)
    _, slow = both(plain)
    assert np.abs(read_region(dark, place, size).astype(int) - slow.read(1, (5, 5), size)).max() <= 1
    means = slow.read(0, (10, 10), (128, 128)).reshape(64, 2, 64, 2, 3).astype(int).sum((1, 3))
    assert np.array_equal(read_region(faithful, place, size), (means + 2) // 4)
    assert faithful.level_for(100) == 0
    assert pickle.loads(pickle.dumps(faithful)).reading == "faithful"  # noqa: S301 - our own bytes


def test_thumbnails_are_the_same_whatever_the_reading(plain):
    fast, faithful = open_slide(plain), open_slide(plain, reading="faithful")
    assert np.array_equal(read_thumbnail(fast, 60), read_thumbnail(faithful, 60))


def test_missing_tiles_are_white(tmp_path):
    path = write_jpeg_tiff(tmp_path / "a.tif", [IMAGE], Kind(missing=(0, 6)))
    fast, _ = both(path)
    for scale in (1, 2, 8):
        assert np.all(fast.read(0, (0, 0), (64 // scale, 64 // scale), scale) == 255)
        assert fast.read(0, (64 // scale, 0), (64 // scale, 64 // scale), scale).mean() < 220


def test_aperio_with_holes_is_left_to_openslide_which_fills_them(tmp_path):
    kind = Kind(colours="rgb", bare=True, description=APERIO)
    assert open_tiff(write_jpeg_tiff(tmp_path / "a.svs", LEVELS, kind)) is not None
    assert open_tiff(write_jpeg_tiff(tmp_path / "b.svs", LEVELS, replace(kind, missing=(3,)))) is None


@pytest.mark.parametrize("options", [
    {"compression": "zlib", "photometric": "rgb"},
    {"compression": None, "photometric": "rgb"},
    {"compression": "jpeg", "photometric": "rgb", "planarconfig": "separate"},
])  # fmt: skip
def test_other_tiles_are_left_to_openslide(tmp_path, options):
    image = IMAGE if "planarconfig" not in options else IMAGE.transpose(2, 0, 1).copy()
    tifffile.imwrite(tmp_path / "a.tif", image, tile=(64, 64), metadata=None, **options)
    assert open_tiff(tmp_path / "a.tif") is None


def test_a_grey_slide_is_left_to_openslide(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", IMAGE[..., 0].copy(), tile=(64, 64), compression="jpeg", metadata=None)
    assert open_tiff(tmp_path / "a.tif") is None


def test_pages_without_tiles_are_passed_over(tmp_path):
    kind = Kind(colours="rgb", bare=True, description=APERIO)
    path = write_jpeg_tiff(tmp_path / "a.svs", LEVELS, kind)
    tifffile.imwrite(
        path, IMAGE[:50, :60].copy(), append=True, photometric="rgb", metadata=None, description="macro 60x50"
    )
    content = path.read_bytes()
    pages = read_pages(lambda at, length: content[at : at + length])
    assert [page.size for page in pages] == [(WIDTH, HEIGHT), (151, 107)]
    assert open_tiff(path) is not None


def damage(path, target, change):
    """Change the bytes of the first tile."""
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        start, length = tiff.pages[0].dataoffsets[0], tiff.pages[0].databytecounts[0]
    content[start : start + length] = change(bytes(content[start : start + length]))
    target.write_bytes(content)
    return target


DAMAGES = {
    "emptied": lambda tile: bytes(len(tile)),
    "ended early": lambda tile: tile[:1200] + b"\xff\xd9" + tile[1202:],
    "garbled": lambda tile: tile[:1200] + b"\xff" * 100 + tile[1300:],
    "overwritten": lambda tile: tile[:1200] + bytes(200) + tile[1400:],
    "with a loose end": lambda tile: tile[:-30] + b"\x12" * 28 + tile[-2:],
}


@pytest.mark.parametrize("change", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("step", [1, 4])
def test_damage_is_what_openslide_says_it_is(plain, tmp_path, change, step):
    path = damage(plain, tmp_path / "damaged.tif", change)
    fast, (x, y) = replace(open_slide(path), downsamples=(1.0,)), (64 // step, 64 // step)
    try:
        with openslide.OpenSlide(path) as direct:
            wanted = np.asarray(direct.read_region((0, 0), 0, (64, 64)))[..., :3]
    except openslide.OpenSlideError:
        with pytest.raises(SlideError, match=r"damaged\.tif: cannot be read at x 0, y 0 of level 0") as caught:
            read_region(fast, region(0, 0, 64, 64), (x, y))
        assert "\n" not in str(caught.value)
    else:
        means = wanted.reshape(y, step, x, step, 3).mean((1, 3))
        assert np.abs(read_region(fast, region(0, 0, 64, 64), (x, y)) - means).max() <= 1
    sound = region(128, 64, 64, 64)
    assert np.array_equal(read_region(fast, sound, (64, 64)), read_region(replace(fast, path=plain), sound, (64, 64)))


def test_a_file_cut_short(plain, tmp_path):
    content = plain.read_bytes()
    with tifffile.TiffFile(plain) as tiff:
        last = tiff.pages[0].dataoffsets[-1]
    (tmp_path / "short.tif").write_bytes(content[: last + 100])

    def whole():
        return read_region(open_slide(tmp_path / "short.tif"), region(0, 0, WIDTH, HEIGHT), (WIDTH, HEIGHT))

    with pytest.raises(SlideError, match=r"short\.tif: ") as caught:
        whole()
    assert "\n" not in str(caught.value)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_header_crashes_the_parser(plain, data):
    content = bytearray(plain.read_bytes())
    with tifffile.TiffFile(plain) as tiff:
        starts = [0, *(page.offset for page in tiff.pages)]
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.sampled_from(starts)) + data.draw(st.integers(0, 200))] = data.draw(st.integers(0, 255))
    content = bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        pages = read_pages(lambda at, length: content[at : at + length])
    except TiffError:
        return
    assert all(len(page.offsets) == page.grid[0] * page.grid[1] for page in pages)


def test_a_chain_of_directories_that_does_not_end(plain):
    content = bytearray(plain.read_bytes())
    with tifffile.TiffFile(plain) as tiff:
        first, last = tiff.pages[0].offset, tiff.pages[-1]
    count = int.from_bytes(content[last.offset : last.offset + 2], "little")
    at = last.offset + 2 + 12 * count
    content[at : at + 4] = first.to_bytes(4, "little")
    with pytest.raises(TiffError, match="does not end"):
        read_pages(lambda offset, length: bytes(content[offset : offset + length]))


def test_neighbours_share_decoded_tiles(flat, monkeypatch):
    decoded, decode = [], tile_streams.simplejpeg.decode_jpeg
    monkeypatch.setattr(tile_streams.simplejpeg, "decode_jpeg", lambda *a, **k: decoded.append(1) or decode(*a, **k))
    fast = open_tiff(flat)
    for x in range(0, 320, 32):
        fast.read(0, (x, 0), (32, 32))
    assert len(decoded) == 5


def test_decoded_tiles_are_let_go(flat, monkeypatch):
    monkeypatch.setattr(tiff_reader, "_CACHE_BYTES", 5 * 64 * 64 * 3)
    fast = open_tiff(flat)
    wanted = fast.read(0, (0, 0), (700, 600))
    assert len(fast._recent._held) == 5
    assert np.array_equal(fast.read(0, (0, 0), (700, 600)), wanted)
    assert fast._recent._bytes == sum(pixels.nbytes for pixels in fast._recent._held.values())


def test_threads_share_a_reader(flat):
    fast = open_tiff(flat)
    wanted = fast.read(0, (0, 0), (773, 600), 2)
    places = [(x, y) for x in range(0, 300, 30) for y in range(0, 240, 30)]
    for _ in range(2):
        fast = open_tiff(flat)
        with ThreadPoolExecutor(4) as pool:
            tiles = list(pool.map(lambda at, fast=fast: fast.read(0, at, (30, 30), 2), places))
        assert all(np.array_equal(t, wanted[y : y + 30, x : x + 30]) for t, (x, y) in zip(tiles, places, strict=True))


@settings(deadline=None, max_examples=40)
@given(
    st.tuples(st.integers(-90, 800), st.integers(-90, 640)),
    st.tuples(st.integers(1, 500), st.integers(1, 500)),
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from([0, 5 * 64 * 64 * 3, 1 << 25]),
)
def test_threads_decode_the_pixels_of_one(flat, origin, size, scale, cache):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiff_reader, "_CACHE_BYTES", cache)
        patch.setattr(threads, "thread_count", lambda: 1)
        alone = open_tiff(flat).read(0, origin, size, scale)
        patch.setattr(threads, "thread_count", lambda: 3)
        assert np.array_equal(open_tiff(flat).read(0, origin, size, scale), alone)


def test_threads_that_want_the_same_tile_decode_it_once(flat, monkeypatch):
    decoded, decode = [], tile_streams.simplejpeg.decode_jpeg
    monkeypatch.setattr(tile_streams.simplejpeg, "decode_jpeg", lambda *a, **k: decoded.append(1) or decode(*a, **k))
    monkeypatch.setattr(threads, "thread_count", lambda: 3)
    fast, together = open_tiff(flat), threading.Barrier(6)

    def read(_):
        together.wait()
        return fast.read(0, (0, 0), (700, 600))

    with ThreadPoolExecutor(6) as pool:
        tiles = list(pool.map(read, range(6)))
    assert len(decoded) == 11 * 10
    assert all(np.array_equal(tile, tiles[0]) for tile in tiles)


def test_a_damaged_tile_is_told_to_all_who_want_it(flat, monkeypatch):
    def torn(*_):
        raise SlideError("a.tif", "is torn", "Scan it again")

    monkeypatch.setattr(tiff_reader.TiffReader, "_decoded", torn)
    fast = open_tiff(flat)
    with ThreadPoolExecutor(6) as pool:
        reads = [pool.submit(fast.read, 0, (0, 0), (700, 600)) for _ in range(6)]
        assert {type(read.exception(10)) for read in reads} == {SlideError}
    assert not fast._recent._claimed


@pytest.mark.parametrize("scale", [1, 2])
def test_the_decoder_leaves_python_to_other_threads(flat, scale):
    fast, heard = open_tiff(flat), threading.Event()
    page, decoder = fast._levels[0], fast._decoders[0]
    stream = fast._file.read(int(page.offsets[0]), int(page.lengths[0]))
    interval, begun = sys.getswitchinterval(), threading.Event()

    def decode():
        begun.set()
        for _ in range(20_000):
            if heard.is_set():
                return True
            decoder.decode(stream, (page.tile[0] // scale, page.tile[1] // scale), scale)
        return False

    try:
        sys.setswitchinterval(1000)  # nobody is interrupted: others run only when they are let
        with ThreadPoolExecutor(1) as pool:
            result = pool.submit(decode)
            begun.wait()
            heard.set()
            assert result.result()
    finally:
        sys.setswitchinterval(interval)


def test_a_reader_that_is_gone_has_closed_its_file(plain):
    fast = open_tiff(plain)
    file = fast._file._file
    del fast
    gc.collect()
    assert file.closed


def test_slides_use_it(plain):
    slide_module._reader.cache_clear()
    assert isinstance(slide_module._reader_of(open_slide(plain)), tiff_reader.TiffReader)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=needs_data(name))
        for name in ("readers/cmu-1-small-region.svs", "wsi/crc.tif", "orca/slides/TCGA-BB-7872_0.tif")
    ],
)
def test_real_slides(name):
    fast, slow = both(DATA / name)
    with openslide.OpenSlide(DATA / name) as direct:
        sizes = direct.level_dimensions
    rng = np.random.default_rng(0)
    for level, size in enumerate(sizes):
        for _ in range(5):
            wide, high = (int(rng.integers(1, min(400, length))) for length in size)
            at = tuple(
                int(rng.integers(-10, length - part + 10)) for length, part in zip(size, (wide, high), strict=True)
            )
            assert np.array_equal(fast.read(level, at, (wide, high)), slow.read(level, at, (wide, high)))


def entry(tag, kind, count, value):
    return struct.pack("<HHII", tag, kind, count, value)


def directory(*entries, following=0):
    return struct.pack("<H", len(entries)) + b"".join(entries) + struct.pack("<I", following)


SIDES = [(322, 1 << 31), (323, 1 << 31), (322, 1 << 21)]


@pytest.mark.parametrize(("tag", "side"), SIDES)
def test_tiles_that_would_not_fit_in_memory_are_refused_before_openslide_is_asked(
    path, tmp_path, monkeypatch, tag, side
):
    (tmp_path / "huge.tif").write_bytes(with_tag(path.read_bytes(), tag, side))
    monkeypatch.setattr(openslide, "OpenSlide", None)
    with pytest.raises(SlideError, match=rf"huge\.tif: its tiles claim .*{side:,}.* pixels, and more than 67,108,864"):
        open_slide(tmp_path / "huge.tif")


@pytest.mark.parametrize("length", [1 << 28, (1 << 32) - 1])
def test_tiles_longer_than_their_file_are_refused(plain, tmp_path, length):
    (tmp_path / "long.tif").write_bytes(with_tag(plain.read_bytes(), 325, length))
    with pytest.raises(SlideError, match=rf"long\.tif: a tile claims {length:,} bytes, where [\d,]+ are possible"):
        open_slide(tmp_path / "long.tif")


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        ([entry(322, 4, 1, 64), entry(322, 4, 1, 1 << 30)], "tag 322 is there twice"),
        ([entry(322, 12, 1, 8)], "tag 322 is no number"),
        ([entry(322, 4, 1, 64), entry(325, 4, 1 << 25, 8)], "tag 325 has 33554432 values"),
        ([entry(322, 4, 1, 64), entry(325, 17, 1 << 20, 8)], "cut short"),
        ([entry(322, 9, 1, (1 << 32) - 64)], "its tiles claim -64 x 0 pixels"),
        ([entry(322, 4, 1, 64), entry(325, 9, 1, (1 << 32) - 1)], "a tile claims 18,446,744,073,709,551,615 bytes"),
    ],
)
def test_directories_that_openslide_would_read_otherwise_are_refused(tmp_path, entries, problem):
    (tmp_path / "odd.tif").write_bytes(b"II*\0" + struct.pack("<I", 8) + directory(*entries))
    with pytest.raises(SlideError, match=rf"odd\.tif: .*{problem}"):
        open_slide(tmp_path / "odd.tif")


def test_files_of_hamamatsus_are_left_to_openslide(tmp_path):
    """Their directories lie at 64-bit offsets; followed by 32 bits, a chain would lead anywhere."""
    own = directory(entry(322, 4, 1, 1 << 31), entry(323, 4, 1, 64), entry(65420, 4, 1, 1))
    (tmp_path / "scan.ndpi").write_bytes(b"II*\0" + struct.pack("<Q", 12) + own)
    check_claims(tmp_path / "scan.ndpi")
    (tmp_path / "scan.ndpi").write_bytes(b"II*\0" + struct.pack("<Q", 12) + own.replace(b"\x8c\xff", b"\x8d\xff"))
    with pytest.raises(SlideError, match="its tiles claim"):
        check_claims(tmp_path / "scan.ndpi")


def test_a_stream_that_claims_more_than_its_tile_is_not_decoded(plain, monkeypatch):
    page = read_pages(lambda at, length: plain.read_bytes()[at : at + length])[0]
    stream = simplejpeg.encode_jpeg(IMAGE[:64, :64].copy(), colorsubsampling="420")
    decoder = tile_streams.JpegDecoder(page)
    assert decoder.decode(stream, (64, 64), 1).shape == (64, 64, 3)
    assert decoder.decode(stream, (16, 16), 4).shape == (16, 16, 3)
    monkeypatch.setattr(tile_streams.simplejpeg, "decode_jpeg", None)
    claims = stream.replace(struct.pack(">HH", 64, 64), struct.pack(">HH", 40_000, 40_000))
    assert decoder.decode(claims, (64, 64), 1) is None
    assert decoder.decode(claims, (16, 16), 4) is None


def test_more_tiles_than_a_slide_has_are_not_read(plain, monkeypatch):
    monkeypatch.setattr(tiff_pages, "_MOST_VALUES", 20)
    with pytest.raises(TiffError, match="more tiles than any slide has"):
        read_pages(lambda at, length: plain.read_bytes()[at : at + length])


@pytest.mark.parametrize("offset", [-(1 << 62), -1, 1 << 62, 1 << 70])
def test_bytes_outside_a_file_are_none(plain, offset):
    with plain.open("rb") as file:
        assert read_bytes(file, offset, 1 << 40) == b""
        assert read_bytes(file, 0, 1 << 70) == plain.read_bytes()
