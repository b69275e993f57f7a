from __future__ import annotations

from importlib.resources import files

import numpy as np
import pytest
import torch
from safetensors.torch import load

from vitrail.nuclei.network import STEP_PX, NucleusNetwork, look


def test_the_weights_fit_and_are_light():
    content = (files("vitrail.nuclei") / "network.safetensors").read_bytes()
    weights = load(content)
    assert len(content) < 1_500_000
    assert {name: tensor.shape for name, tensor in weights.items()} == {
        name: tensor.shape for name, tensor in NucleusNetwork().state_dict().items()
    }
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())


@pytest.mark.parametrize("shape", [(8, 8), (13, 30)])
def test_planes_are_as_large_as_the_image(shape):
    probability, depth = look(np.full((*shape, 3), 220, np.uint8))
    assert probability.shape == depth.shape == shape
    assert probability.dtype == depth.dtype == np.float32
    assert 0 <= probability.min() <= probability.max() <= 1


def test_a_shift_by_whole_steps_shifts_what_lies_away_from_the_edges():
    image = np.random.default_rng(0).integers(120, 255, (192, 192, 3), np.uint8)
    image[80:100, 80:100] = (90, 60, 140)
    whole, moved = look(image)[0], look(image[STEP_PX:, STEP_PX:])[0]
    middle = np.s_[84:108, 84:108]
    assert np.allclose(np.pad(moved, ((STEP_PX, 0), (STEP_PX, 0)))[middle], whole[middle], atol=1e-4)


def test_strips_give_what_the_whole_image_gives(monkeypatch):
    image = np.random.default_rng(0).integers(90, 255, (300, 40, 3), np.uint8)
    whole = look(image)
    monkeypatch.setattr("vitrail.nuclei.network._STRIP_PX", 128)
    for plane, stripped in zip(whole, look(image), strict=True):
        assert np.allclose(plane, stripped, atol=1e-5)
