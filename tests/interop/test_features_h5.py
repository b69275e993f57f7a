"""Features as HDF5: read as TRIDENT and STAMP read them, with h5py alone; and theirs, also where they are hostile."""

from __future__ import annotations

import sys

import h5py
import numpy as np
import pytest

from vitrail.errors import ExchangeError
from vitrail.interop import features_h5
from vitrail.interop.features_h5 import TileFeatures, read_features, write_features

RNG = np.random.default_rng(0)
DATA = TileFeatures(
    name="A 1",
    corners=np.array([[0.0, 0.0], [398.2, 0.0], [0.0, 796.4]]),
    features=RNG.normal(size=(3, 5)).astype(np.float32),
    side_px=398.2,
    encoder="vitrail-resnet18",
    seen_px=224,
)
MPP, ORIGIN = 0.5, (100.0, 7.0)


def trident_file(path, attributes, **datasets):
    """Write a file as TRIDENT's `save_h5` lays it out."""
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file.create_dataset(name, data=values, maxshape=(None, *values.shape[1:]), chunks=(1, *values.shape[1:]))
        file["coords"].attrs.update(attributes)
    return path


def test_trident_finds_what_it_reads(tmp_path):
    write_features(path := tmp_path / "A.h5", DATA, "trident", mpp=MPP, origin=ORIGIN)
    with h5py.File(path) as file:
        attributes, coords, features = dict(file["coords"].attrs), file["coords"][:], file["features"][:]
        assert file["features"].attrs["encoder"] == "vitrail-resnet18"
    np.testing.assert_array_equal(features, DATA.features)
    assert coords.dtype == np.int64
    np.testing.assert_array_equal(coords, np.rint(DATA.corners + ORIGIN))
    assert (attributes["patch_size"], attributes["patch_size_level0"], attributes["overlap"]) == (224, 398, 0)
    assert attributes["level0_magnification"] == 20  # of 0.5 um per pixel
    # what TRIDENT makes of it, where it reads patches again
    side = attributes["patch_size"] * attributes["level0_magnification"] / attributes["target_magnification"]
    assert side == pytest.approx(398.2)
    assert attributes["name"] == "A 1"


def test_stamp_finds_what_it_reads(tmp_path):
    write_features(path := tmp_path / "A.h5", DATA, "stamp", mpp=MPP, origin=ORIGIN)
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["feats"][:], DATA.features)
        np.testing.assert_allclose(file["coords"][:], (DATA.corners + ORIGIN) * MPP, rtol=1e-6)
        said = dict(file.attrs)
    assert {name: said[name] for name in ("unit", "tile_size_px", "feat_type", "extractor")} == {
        "unit": "um", "tile_size_px": 224, "feat_type": "tile", "extractor": "vitrail-resnet18",
    }  # fmt: skip
    assert said["tile_size_um"] == 398.2 * MPP
    assert tuple(map(int, said["stamp_version"].split("."))) == (2, 1, 0)


@pytest.mark.parametrize("layout", ["trident", "stamp"])
def test_what_was_written_comes_back_and_gives_the_same_bytes(tmp_path, layout):
    path = tmp_path / "A 1.h5"
    write_features(path, DATA, layout, mpp=MPP)
    first = path.read_bytes()
    back = read_features(path)
    tiles = back.tiles(MPP)
    np.testing.assert_array_equal(back.features, DATA.features)
    np.testing.assert_allclose(tiles[["x", "y"]], DATA.corners, atol=0.5 if layout == "trident" else 1e-4)
    assert tiles["side"].tolist() == [398.0 if layout == "trident" else pytest.approx(398.2)] * 3
    assert (back.name, back.encoder, back.seen_px) == ("A 1", "vitrail-resnet18", 224)
    write_features(path, DATA, layout, mpp=MPP)
    assert path.read_bytes() == first


def test_files_of_trident_clam_and_stamp_are_read(tmp_path):
    coords, features = np.array([[512, 0], [1024, 512]]), RNG.normal(size=(1, 2, 4)).astype(np.float16)
    magnified = {"patch_size": 256, "level0_magnification": 40, "target_magnification": 20, "overlap": 0, "name": "B"}
    of_trident = read_features(trident_file(tmp_path / "b.h5", magnified, features=features, coords=coords))
    assert (of_trident.name, of_trident.side_px, of_trident.nominal_mpp) == ("B", 512, 0.25)
    np.testing.assert_array_equal(of_trident.features, features[0].astype(np.float32))
    clam = {"patch_size": 256, "patch_level": 0}
    of_clam = read_features(trident_file(tmp_path / "c.h5", clam, features=features[0], coords=coords))
    assert (of_clam.name, of_clam.side_px, of_clam.magnification) == ("c", 256, None)
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file["feats"], file["coords"] = features[0], np.array([[0.0, 256.0], [512.0, 0.0]], np.float32)
        file.attrs.update({"unit": "um", "tile_size": 256.0, "extractor": "ctranspath"})  # of version 2.0
    of_stamp = read_features(tmp_path / "d.h5")
    assert (of_stamp.side_um, of_stamp.encoder, of_stamp.side_px) == (256.0, "ctranspath", None)
    assert of_stamp.tiles(0.5)["x"].tolist() == [0.0, 1024.0]
    assert of_stamp.tiles(0.5, origin=(10, 12))["y"].tolist() == [500.0, -12.0]
    with h5py.File(tmp_path / "e.h5", "w") as file:  # of version 1: 224 pixels for 256 um
        file["feats"], file["coords"] = features[0], np.array([[0, 224], [224, 448]])
    historic = read_features(tmp_path / "e.h5")
    assert historic.side_um == 256
    assert historic.corners.tolist() == [[0, 256], [256, 512]]


GOOD = {"patch_size": 256, "patch_size_level0": 512}
XY = np.array([[0, 0], [512, 0]])


@pytest.mark.parametrize(
    ("attributes", "datasets", "problem"),
    [
        (GOOD, {"coords": XY}, "has no dataset 'features'"),
        (GOOD, {"coords": XY, "features": np.zeros((3, 4))}, "3 features, and coordinates of shape"),
        (GOOD, {"coords": np.zeros((2, 3)), "features": np.zeros((2, 4))}, "coordinates of shape"),
        (GOOD, {"coords": XY, "features": np.full((2, 4), np.nan)}, "are no numbers"),
        (GOOD, {"coords": XY, "features": np.zeros((2, 4), np.complex64)}, "not \\[n, d\\]"),
        (GOOD, {"coords": XY, "features": np.zeros((2, 2, 4))}, "not \\[n, d\\]"),
        ({"patch_size": 256}, {"coords": XY, "features": np.zeros((2, 4))}, "does not say how large its tiles are"),
        ({"patch_size": 0, "patch_size_level0": 1}, {"coords": XY, "features": np.zeros((2, 4))}, "patch_size is 0"),
        ({**GOOD, "patch_size_level0": np.inf}, {"coords": XY, "features": np.zeros((2, 4))}, "patch_size_level0 is"),
        ({**GOOD, "patch_size": "much"}, {"coords": XY, "features": np.zeros((2, 4))}, "how large its tiles are"),
    ],
)
def test_a_file_that_is_wrong_is_one_line(tmp_path, attributes, datasets, problem):
    path = trident_file(tmp_path / "x.h5", attributes, **datasets)
    with pytest.raises(ExchangeError, match=problem):
        read_features(path)


def test_hostile_files_are_refused_before_they_take_memory(tmp_path, monkeypatch):
    big = tmp_path / "big.h5"
    with h5py.File(big, "w") as file:  # nothing of it is stored
        file.create_dataset("features", (10**7, 10**6), np.float32, chunks=(1, 10**6))
        file["coords"] = XY
    with pytest.raises(ExchangeError, match="is too large"):
        read_features(big)
    linked = tmp_path / "linked.h5"
    with h5py.File(linked, "w") as file:
        file["features"], file["coords"] = h5py.ExternalLink("big.h5", "/features"), XY
    with pytest.raises(ExchangeError, match="is no dataset of this file"):
        read_features(linked)
    monkeypatch.setattr(features_h5, "MOST_TILES", 1)
    with pytest.raises(ExchangeError, match="is too large"):
        read_features(trident_file(tmp_path / "y.h5", GOOD, coords=XY, features=np.zeros((2, 1))))
    (tmp_path / "text.h5").write_text("not HDF5")
    with pytest.raises(ExchangeError, match="cannot be read"):
        read_features(tmp_path / "text.h5")
    with pytest.raises(ExchangeError, match="no such file"):
        read_features(tmp_path / "none.h5")
    with pytest.raises(ExchangeError, match="a folder, not a file"):
        read_features(tmp_path)


def test_without_h5py_one_line_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ExchangeError, match=r"h5py is not installed. Run: pip install 'vitrail\[hdf5\]'"):
        read_features(tmp_path / "a.h5")
