"""OME-Zarr, read back by zarr alone and by the reader that napari uses."""

from __future__ import annotations

import hashlib
import logging
import sys

import numpy as np
import pytest
import zarr

from vitrail.errors import ExchangeError
from vitrail.interop import ome_zarr
from vitrail.interop.class_map import CLASS_CHANNELS, Channel, MapHeader, read_class_map
from vitrail.interop.ome_tiff import ClassMapWriter
from vitrail.interop.ome_zarr import write_ome_zarr

WHOLE = slice(None), slice(None)


@pytest.fixture(scope="module", params=["uint8", "float32"])
def stored(request, tmp_path_factory):
    """A map of several levels, most of which holds nothing."""
    path = tmp_path_factory.mktemp("maps") / "S.ome.tiff"
    rng = np.random.default_rng(0)
    channels = CLASS_CHANNELS if request.param == "uint8" else (Channel(name="Grad-CAM", rgb=(230, 97, 1)),)
    header = MapHeader(size=(900, 650), mpp=1.5, channels=channels, depth=request.param, title="Made up")
    values = np.full((650, 900, len(channels)), 0 if request.param == "uint8" else np.nan, np.float32)
    values[100:500, 200:610] = rng.random((400, 410, len(channels))) - (request.param == "float32") * 0.8
    with ClassMapWriter(path, header) as writer:
        writer.write_rows(values)
    return read_class_map(path)


def digests(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_levels_scales_and_channels_are_the_maps(stored, tmp_path, monkeypatch):
    monkeypatch.setattr(ome_zarr, "CHUNK_PX", 512)
    path, header = tmp_path / "S.ome.zarr", stored.header
    write_ome_zarr(path, stored, {"version": "x"})
    group = zarr.open_group(path, mode="r")
    (multiscale,) = group.attrs["multiscales"]
    assert multiscale["version"] == "0.4"
    assert [axis["name"] for axis in multiscale["axes"]] == ["c", "y", "x"]
    assert {axis["unit"] for axis in multiscale["axes"][1:]} == {"micrometer"}
    assert len(multiscale["datasets"]) == len(header.levels) == 3
    for level, dataset in enumerate(multiscale["datasets"]):
        np.testing.assert_array_equal(group[dataset["path"]][:], stored.planes(*WHOLE, level))
        (transform,) = dataset["coordinateTransformations"]
        assert transform == {"type": "scale", "scale": [1.0, 1.5 * 2**level, 1.5 * 2**level]}
        assert group[dataset["path"]].dtype == header.depth
    for channel, said in zip(header.channels, group.attrs["omero"]["channels"], strict=True):
        assert (said["label"], said["color"]) == (channel.name, "{:02X}{:02X}{:02X}".format(*channel.rgb))
    first = group.attrs["omero"]["channels"][0]["window"]
    most = 255 if header.depth == "uint8" else float(np.nanmax(np.abs(stored.planes(*WHOLE, 0)[0])))
    assert (first["start"], first["end"]) == (0 if header.depth == "uint8" else -most, most)
    # of the first level's two rows of chunks the second holds nothing, and is not stored
    assert [each.name for each in sorted((path / "0" / "0").iterdir())] == ["0"]
    before = digests(path)
    write_ome_zarr(path, stored, {"version": "x"})
    assert digests(path) == before
    assert [each.name for each in tmp_path.iterdir()] == ["S.ome.zarr"]


def test_the_reader_of_napari_reads_it(stored, tmp_path, caplog):
    from ome_zarr.io import parse_url  # noqa: PLC0415 - it takes a second to import
    from ome_zarr.reader import Reader  # noqa: PLC0415 - the same

    caplog.set_level(logging.ERROR)
    write_ome_zarr(tmp_path / "S.ome.zarr", stored, {})
    (node,) = Reader(parse_url(tmp_path / "S.ome.zarr"))()
    assert node.metadata["channel_names"] == [channel.name for channel in stored.header.channels]
    assert [data.shape[1:] for data in node.data] == [level[::-1] for level in stored.header.levels]
    np.testing.assert_array_equal(node.data[1].compute(), stored.planes(*WHOLE, 1))
    assert node.metadata["colormap"][0][1] == pytest.approx(np.array(stored.header.channels[0].rgb) / 255)


def test_it_is_whole_or_absent_and_replaces_nothing_else(stored, tmp_path, monkeypatch):
    path = tmp_path / "S.ome.zarr"
    path.mkdir()
    (path / "mine.txt").write_text("x")
    with pytest.raises(ExchangeError, match=r"is there already, without \.zgroup or zarr\.json in it"):
        write_ome_zarr(path, stored, {})
    (path / "mine.txt").rename(tmp_path / "mine.txt")
    path.rmdir()
    calls = []

    def full(*_, **__):
        calls.append(1)
        if len(calls) > 2:
            raise OSError(28, "No space left on device")
        return original(*_, **__)

    original = zarr.Group.create_array
    monkeypatch.setattr(zarr.Group, "create_array", full)
    with pytest.raises(ExchangeError, match="No space left"):
        write_ome_zarr(path, stored, {})
    assert [each.name for each in tmp_path.iterdir()] == ["mine.txt"]


def test_without_zarr_one_line_says_how_to_get_it(stored, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(ExchangeError, match=r"zarr is not installed. Run: pip install 'vitrail\[zarr\]'"):
        write_ome_zarr(tmp_path / "S.ome.zarr", stored, {})
    assert [*tmp_path.iterdir()] == []
