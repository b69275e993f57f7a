"""Scores of images of which places are hidden: what occlusion and RISE measure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from vitrail.explain.target import target_score

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from vitrail.explain.input_gradients import ImageScore

LEAST = 8
"""Images in one pass, at least: of single images a processor's cores make little use. Without gradients, eight take
about the memory that one takes with them."""


def hidden_scores(
    score: ImageScore, images: Tensor, blanks: Tensor, masks: Callable[[Tensor, Tensor], Tensor], count: int
) -> Tensor:
    """Score each image under several masks.

    The network sees as many images at once as there are, or `LEAST`.

    Parameters
    ----------
    score
        Of the images.
    images, blanks
        `[n, c, h, w]`: as they are, and what takes the place of what is hidden.
    masks
        Maps numbers of images and of their masks, both `[b]`, to the share of each pixel that is hidden, `[b, h, w]`.
    count
        Masks an image.

    Returns
    -------
    Tensor
        `[n, count]`, in logits.
    """
    scores, total, size = [], len(images) * count, max(len(images), LEAST)
    with torch.no_grad():
        for start in range(0, total, size):
            pairs = torch.arange(start, min(start + size, total), device=images.device)
            own, number = pairs // count, pairs % count
            output = score.network(torch.lerp(images[own], blanks[own], masks(own, number)[:, None].to(images)))
            inside = None if score.inside is None else score.inside[own]
            scores.append(target_score(output, score.target, inside))
    return torch.cat(scores).view(len(images), count)
