"""Class maps as OME-TIFF, read by Vitrail, by tifffile's OME series, by Pillow and by OpenSlide."""

from __future__ import annotations

import errno
import importlib.util
import tracemalloc

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image

from vitrail.classes import CLASSES
from vitrail.errors import ExchangeError, VitrailError
from vitrail.interop import ome_tiff as ometiff
from vitrail.interop.class_map import Channel, MapHeader, read_class_map
from vitrail.interop.ome_tiff import ClassMapWriter

SIZE = (700, 533)
HEADER = MapHeader(size=SIZE, mpp=1.9)


@pytest.fixture(scope="module")
def probabilities():
    rng = np.random.default_rng(0)
    values = rng.dirichlet(np.ones(4), SIZE[::-1]).astype(np.float32)
    values[:300, :300] = (0, 0, 0, 1)  # glass, and a whole tile of it
    return values


def write(path, header, values, heights=(1, 300, 17)):
    with ClassMapWriter(path, header) as writer:
        top = 0
        while top < len(values):
            height = heights[top % len(heights)]
            writer.write_rows(values[top : top + height])
            top += height
    return path


@pytest.fixture(scope="module")
def written(probabilities, tmp_path_factory):
    return write(tmp_path_factory.mktemp("map") / "S1.classes.ome.tiff", HEADER, probabilities), HEADER


def halved(planes):
    """The next level by plain arithmetic on whole numbers: [c, h, w], odd edges repeated."""
    planes = np.pad(planes, [(0, 0), (0, planes.shape[1] % 2), (0, planes.shape[2] % 2)], mode="edge").astype(int)
    blocks = planes.reshape(len(planes), planes.shape[1] // 2, 2, planes.shape[2] // 2, 2)
    return (blocks.sum(axis=(2, 4)) + 2) // 4


def test_reads_back(written, probabilities):
    path, header = written
    found = read_class_map(path)
    assert found.header == header
    whole = found.read()
    assert whole.shape == (533, 700, 4)
    assert whole.dtype == np.float32
    assert np.abs(whole - probabilities).max() <= 0.501 / header.full_scale + 1e-7
    assert np.array_equal(found.read(slice(100, 400), slice(250, 600)), whole[100:400, 250:600])
    assert found.read(slice(50, 50)).shape == (0, 700, 4)
    assert np.array_equal(np.vstack(list(found.class_strips())), whole.argmax(axis=-1))


def test_tifffile_reads_the_same_pyramid(written, probabilities):
    path, header = written
    expected = np.moveaxis(np.rint(probabilities * np.float32(header.full_scale)), -1, 0).astype(int)
    with tifffile.TiffFile(path) as tif:
        (series,) = tif.series
        assert (series.axes, series.kind) == ("CYX", "ome")
        assert [level.shape for level in series.levels] == [(4, 533, 700), (4, 267, 350), (4, 134, 175)]
        for level in series.levels:
            assert level.dtype == header.depth
            assert np.array_equal(level.asarray(), expected)
            expected = halved(expected)
        page = series.levels[1].keyframe
        assert (page.is_tiled, page.predictor, page.compression) == (True, 2, tifffile.COMPRESSION.ADOBE_DEFLATE)
        assert page.tags["XResolution"].value[0] / page.tags["XResolution"].value[1] == pytest.approx(1e4 / 3.8)


def test_lower_levels_read_back(written):
    path, _ = written
    found = read_class_map(path)
    with tifffile.TiffFile(path) as tif:
        lower = tif.series[0].levels[2].asarray()
    assert np.array_equal(
        found.read(level=2), np.moveaxis(lower, 0, -1).astype(np.float32) / np.float32(found.header.full_scale)
    )


def test_the_metadata_say_all(written):
    path, header = written
    with tifffile.TiffFile(path) as tif:
        image = tifffile.xml2dict(tif.ome_metadata)["OME"]["Image"]
    pixels = image["Pixels"]
    assert f"0 to {header.full_scale} stands for 0 to 1" in image["Description"]
    assert (pixels["PhysicalSizeX"], pixels["PhysicalSizeY"], pixels["PhysicalSizeXUnit"]) == (1.9, 1.9, "µm")
    assert [channel["Name"] for channel in pixels["Channel"]] == ["Tumor", "Non-tumor", "Other", "Background"]
    unsigned = [channel["Color"] % 2**32 for channel in pixels["Channel"]]
    assert [(rgba >> 24, rgba >> 16 & 255, rgba >> 8 & 255) for rgba in unsigned] == [label.rgb for label in CLASSES]
    assert {rgba & 255 for rgba in unsigned} == {255}
    assert {(p["PositionX"], p["PositionY"], p["PositionXUnit"]) for p in pixels["Plane"]} == {(0.0, 0.0, "µm")}


@pytest.mark.skipif(importlib.util.find_spec("ome_types") is None, reason="ome-types is not installed")
def test_ome_types_accepts_it(written):
    from ome_types import from_tiff  # noqa: PLC0415 - an independent reader that need not be there

    pixels = from_tiff(written[0]).images[0].pixels
    assert (pixels.size_x, pixels.size_y, pixels.size_c, pixels.physical_size_x) == (700, 533, 4, 1.9)
    assert [channel.color.as_rgb_tuple()[:3] for channel in pixels.channels] == [label.rgb for label in CLASSES]
    assert [plane.position_x for plane in pixels.planes] == [0.0] * 4


def test_other_libraries_decode_it(written, probabilities):
    path, header = written
    with Image.open(path) as image:  # libtiff
        assert image.n_frames == 4
        for channel in range(4):
            image.seek(channel)
            expected = np.rint(probabilities[..., channel] * np.float32(header.full_scale))
            assert np.array_equal(np.asarray(image, dtype=int), expected)
    with openslide.OpenSlide(path) as slide:
        assert slide.dimensions == SIZE
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(1.9)


def test_strips_of_any_height_give_the_same_file(probabilities, tmp_path):
    at_once = write(tmp_path / "a.ome.tiff", HEADER, probabilities, heights=(533,))
    by_rows = write(tmp_path / "b.ome.tiff", HEADER, probabilities, heights=(3,))
    assert at_once.read_bytes() == by_rows.read_bytes()


def test_a_tiny_map_and_other_channels(tmp_path):
    header = MapHeader(size=(3, 2), mpp=10, channels=(Channel(name='Ink & "dust"', rgb=(1, 2, 3)),))
    path = write(tmp_path / "tiny.ome.tiff", header, np.full((2, 3, 1), 0.2))
    found = read_class_map(path)
    assert found.header == header
    assert header.levels == ((3, 2),)
    assert found.read() == pytest.approx(np.full((2, 3, 1), 0.2))


def test_large_files_are_big_tiff(probabilities, tmp_path, monkeypatch):
    monkeypatch.setattr(ometiff, "_CLASSIC_LIMIT", 1000)
    path = write(tmp_path / "big.ome.tiff", HEADER, probabilities)
    with tifffile.TiffFile(path) as tif:
        assert tif.is_bigtiff
    assert np.abs(read_class_map(path).read() - probabilities).max() < 0.01


def test_glass_takes_no_room(tmp_path):
    header = MapHeader(size=(2048, 2048), mpp=2)
    path = write(tmp_path / "glass.ome.tiff", header, np.broadcast_to([0.0, 0, 0, 1], (2048, 2048, 4)))
    assert path.stat().st_size < 2048 * 2048 * 4 / 150


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.full((5, 700, 4), np.nan), "from 0 to 1"),
        (np.full((5, 700, 4), 1.1), "from 0 to 1"),
        (np.zeros((5, 699, 4)), "do not fit"),
        (np.zeros((5, 700, 3)), "do not fit"),
        (np.zeros((534, 700, 4)), "more than the map's 533"),
        (np.zeros((5, 700, 4)), "5 rows were written of the map's 533"),
    ],
)
def test_wrong_rows_are_refused_and_leave_nothing(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message), ClassMapWriter(tmp_path / "a.ome.tiff", HEADER) as writer:
        writer.write_rows(rows)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", [{"size": (0, 5)}, {"mpp": 0}, {"mpp": float("nan")}, {"channels": ()}])
def test_no_map_can_have_such_a_header(change):
    with pytest.raises(ValueError, match="no map has"):
        MapHeader(**{"size": (5, 5), "mpp": 1.0, **change})


def test_interrupted_writing_leaves_nothing(probabilities, tmp_path):
    def interrupted():
        with ClassMapWriter(kept, HEADER) as writer:
            writer.write_rows(probabilities[:400])
            raise KeyboardInterrupt

    kept = tmp_path / "S1.ome.tiff"
    kept.write_bytes(b"an earlier one")
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == [kept]
    assert kept.read_bytes() == b"an earlier one"


def full_disk(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("where", ["while streaming", "while assembling"])
def test_a_full_disk_leaves_nothing(probabilities, tmp_path, monkeypatch, where):
    owner, name = (ometiff._Spool, "add") if where == "while streaming" else (tifffile.TiffWriter, "write")
    monkeypatch.setattr(owner, name, full_disk)
    with pytest.raises(ExchangeError, match=r"S1.ome.tiff: cannot be written \(No space left on device\)"):
        write(tmp_path / "S1.ome.tiff", HEADER, probabilities)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_told(tmp_path, probabilities):
    with pytest.raises(VitrailError, match="cannot be written"):
        write(tmp_path / "none" / "a.ome.tiff", HEADER, probabilities)


def test_files_that_are_no_class_map(tmp_path):
    with pytest.raises(ExchangeError, match="cannot be opened"):
        read_class_map(tmp_path / "none.ome.tiff")
    (tmp_path / "text.ome.tiff").write_text("hello")
    with pytest.raises(ExchangeError, match="not a class map"):
        read_class_map(tmp_path / "text.ome.tiff")
    tifffile.imwrite(tmp_path / "plain.tiff", np.zeros((64, 64), np.uint8))
    with pytest.raises(ExchangeError, match="not a class map"):
        read_class_map(tmp_path / "plain.tiff")
    tifffile.imwrite(tmp_path / "other.ome.tiff", np.zeros((3, 64, 64), np.uint8), metadata={"axes": "CYX"})
    with pytest.raises(ExchangeError, match="not a class map"):
        read_class_map(tmp_path / "other.ome.tiff")


def test_a_damaged_map_is_told(tmp_path, probabilities):
    path = write(tmp_path / "a.ome.tiff", HEADER, probabilities)
    found = read_class_map(path)
    with tifffile.TiffFile(path) as tif:
        place = tif.pages[0].dataoffsets[4]
    with path.open("r+b") as file:
        file.seek(place)
        file.write(b"\xff" * 500)
    with pytest.raises(ExchangeError, match="damaged"):
        found.read()
    path.unlink()
    with pytest.raises(ExchangeError, match="cannot be read"):
        found.read()


def test_memory_does_not_grow_with_height(tmp_path):
    rows = np.random.default_rng(0).dirichlet(np.ones(4), (64, 1024)).astype(np.float32)

    def peak(strips):
        tracemalloc.start()
        with ClassMapWriter(tmp_path / "a.ome.tiff", MapHeader(size=(1024, 64 * strips), mpp=2)) as writer:
            for _ in range(strips):
                writer.write_rows(rows)
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    peak(1)
    few, many = peak(16), peak(64)
    assert many < few * 1.3
