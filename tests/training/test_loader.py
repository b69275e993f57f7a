from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers.training import make_tiles, settings
from vitrail.errors import TileError
from vitrail.training.loader import Loader, channel_statistics, cut, shuffled, training_tiles
from vitrail.training.trainer import train


def test_parts_without_what_training_needs(tmp_path):
    tiles = make_tiles()
    only_tumor = np.where(np.arange(48) % 2 == 0, "train", "validation")
    with pytest.raises(TileError, match="training tiles: none of them is non_tumor"):
        train("segmenter", training_tiles(tiles, only_tumor), settings(), folder=tmp_path)
    with pytest.raises(TileError, match="validation tiles: there are none"):
        train("classifier", training_tiles(tiles, np.full(48, "train")), settings(), folder=tmp_path)


def test_channel_statistics_are_numpys():
    images = np.random.default_rng(0).integers(0, 256, (150, 8, 8, 3), dtype=np.uint8)
    rows = np.arange(0, 150, 2)[::-1]
    mean, std = channel_statistics(images, rows)
    chosen = images[rows].reshape(-1, 3) / 255
    np.testing.assert_allclose(mean, chosen.mean(0), rtol=1e-12)
    np.testing.assert_allclose(std, chosen.std(0), rtol=1e-12)
    assert channel_statistics(np.full_like(images, 255), rows) == ([1.0] * 3, [1 / 255] * 3)


def test_batches_keep_every_row_and_leave_none_alone():
    for n, batch in ((9, 4), (8, 4), (10, 4), (3, 4), (1, 4), (3, 1)):
        pieces = cut(np.arange(n), batch)
        assert np.concatenate(pieces).tolist() == list(range(n))
        assert n == 1 or batch == 1 or min(map(len, pieces)) > 1
    assert [len(piece) for piece in cut(np.arange(9), 4)] == [4, 5]


def test_order_comes_from_the_seed():
    rows = np.arange(100)
    assert np.array_equal(shuffled(rows, 3), shuffled(rows, 3))
    assert not np.array_equal(shuffled(rows, 3), shuffled(rows, 4))
    assert sorted(shuffled(rows, 3)) == rows.tolist()


def test_loader_reads_memory_maps_in_order(tmp_path):
    tiles = make_tiles(10)
    np.save(tmp_path / "images.npy", tiles.images)
    images = np.load(tmp_path / "images.npy", mmap_mode="r")
    loader = Loader(images=images, targets=np.arange(10, dtype=np.float32), device=torch.device("cpu"))
    order = shuffled(np.arange(10), 0)
    batches = list(loader(cut(order, 4)))
    assert torch.cat([targets for _, targets in batches]).tolist() == order.tolist()
    joined = torch.cat([images for images, _ in batches]).permute(0, 2, 3, 1) * 255
    np.testing.assert_array_equal(joined.round().byte().numpy(), tiles.images[order])
    assert list(loader([])) == []
