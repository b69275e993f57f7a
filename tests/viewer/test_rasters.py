from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitrail.interop.class_map import Channel, MapHeader, read_class_map
from vitrail.interop.ome_tiff import ClassMapWriter
from vitrail.viewer.pyramid import level_sizes
from vitrail.viewer.rasters import NOTHING, array_raster, limits_of, map_raster

SHARE = {"key": "k", "title": "t", "kind": "share", "network": "classifier", "cell": 2.0, "limits": (0.0, 1.0)}


def numbers(raster, level=0, column=0, row=0):
    width, height = level_sizes(raster.size)[level]
    width, height = min(256, width - column * 256), min(256, height - row * 256)
    kind = "u1" if raster.kind == "class" else "<f4"
    return np.frombuffer(raster.square(level, column, row), kind).reshape(height, width)


@given(st.integers(1, 700), st.integers(1, 700), st.integers(0, 2**32 - 1))
def test_a_square_holds_the_numbers_and_coarser_ones_their_means(height, width, seed):
    values = np.random.default_rng(seed).random((height, width), np.float32)
    raster = array_raster(values, **SHARE)
    np.testing.assert_array_equal(numbers(raster), values[:256, :256])
    if max(height, width) > 256:
        rows, columns = min(256, height // 2), min(256, width // 2)
        means = values[: 2 * rows, : 2 * columns].reshape(rows, 2, columns, 2).mean((1, 3))
        np.testing.assert_allclose(numbers(raster, 1)[:rows, :columns], means, rtol=1e-5)


def test_where_nothing_is_known_nothing_is_averaged():
    values = np.full((512, 512), np.nan, np.float32)
    values[0, 0], values[2:4, 2:4] = 0.75, 0.5
    coarse = numbers(array_raster(values, **SHARE), 1)
    assert coarse[0, 0] == 0.75
    assert coarse[1, 1] == 0.5
    assert np.isnan(coarse).sum() == coarse.size - 2


def test_classes_are_never_averaged():
    classes = np.full((400, 400), NOTHING, np.uint8)
    classes[::2, ::2] = 3
    raster = array_raster(classes, **(SHARE | {"kind": "class"}))
    assert set(np.unique(numbers(raster, 1))) == {3}


@pytest.mark.parametrize(
    ("values", "kind", "limits"),
    [
        ([-4, 1, np.nan], "signed", (-4, 4)),
        ([np.nan], "signed", (-1, 1)),
        ([0, 0], "signed", (-1, 1)),
        ([3, 5], "unsigned", (3, 5)),
        ([7, 7], "unsigned", (7, 8)),
        ([np.nan], "unsigned", (0, 1)),
    ],
)
def test_limits_hold_nearly_all_values(values, kind, limits):
    assert limits_of(np.array([values], np.float32), kind) == pytest.approx(limits, abs=0.07)


def test_a_map_on_disk_is_read_where_it_is_asked(tmp_path):
    values = np.random.default_rng(0).normal(size=(300, 520)).astype(np.float32)
    channels = (Channel(name="zero", rgb=(0, 0, 0)), Channel(name="one", rgb=(1, 1, 1)))
    header = MapHeader(size=(520, 300), mpp=4.0, channels=channels, depth="float32", title="t")
    with ClassMapWriter(tmp_path / "m.ome.tiff", header) as writer:
        writer.write_rows(np.stack([np.zeros_like(values), values], 2))
    raster = map_raster(
        read_class_map(tmp_path / "m.ome.tiff"), 1, key="k", title="t", kind="signed", network="classifier", mpp=0.5
    )
    assert raster.cell == 8
    np.testing.assert_array_equal(numbers(raster, 0, 2, 1), values[256:, 512:])
    assert raster.limits[0] == -raster.limits[1]
    assert raster.describe()["width"] == 520
    with pytest.raises(LookupError):
        raster.square(0, 3, 0)
