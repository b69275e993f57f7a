"""The symmetries of a square are a group, and whatever lies at a place lies there again once they are undone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vitrail.models.symmetries import MIRRORINGS, symmetries


def corner(symmetry):
    return tuple(symmetry.apply(np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)).ravel())


def test_there_are_so_many_and_they_differ():
    assert [len({corner(each) for each in symmetries(count)}) for count in (1, 4, 8)] == [1, 4, 8]
    assert symmetries(4) == MIRRORINGS
    turned = np.rot90(np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3), axes=(1, 2))
    assert tuple(turned.ravel()) in {corner(each) for each in symmetries(8)} - {corner(each) for each in MIRRORINGS}


@pytest.mark.parametrize("symmetry", symmetries(8), ids=str)
def test_a_pixel_comes_back_to_its_place(symmetry):
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), np.uint8)
    shown = symmetry.apply(images)
    assert shown.shape == ((2, 7, 5, 3) if symmetry.transposed else images.shape)
    back = symmetry.undo(torch.from_numpy(shown).permute(0, 3, 1, 2))
    np.testing.assert_array_equal(back.permute(0, 2, 3, 1), images)
