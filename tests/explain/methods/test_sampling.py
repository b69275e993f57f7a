"""Chance that belongs to an image."""

from __future__ import annotations

import torch

from vitrail.explain.methods.sampling import image_generators


def drawn(images):
    return [torch.rand(4, generator=generator) for generator in image_generators(images)]


def test_an_image_draws_the_same_alone_and_in_any_batch() -> None:
    images = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    together = drawn(images)
    for i, numbers in enumerate(together):
        assert torch.equal(drawn(images[i : i + 1])[0], numbers)
        assert torch.equal(drawn(images.to(memory_format=torch.channels_last).requires_grad_())[i], numbers)
    assert len({tuple(numbers.tolist()) for numbers in together}) == 3
