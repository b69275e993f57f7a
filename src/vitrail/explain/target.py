"""What is explained: one number an image, and of a segmenter the pixels whose class it is about."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from vitrail.classes import LABELS, TissueClass

if TYPE_CHECKING:
    from typing import Literal

    from torch import Tensor

    Pixels = Literal["predicted", "all"] | Tensor


def target_pixels(logits: Tensor, target: TissueClass, pixels: Pixels = "predicted") -> Tensor:
    """Choose the output pixels of a segmenter that are explained.

    Parameters
    ----------
    logits
        The segmenter's output for the images as they are, `[n, classes, h, w]`.
    target
        The class.
    pixels
        `"predicted"`: those whose likeliest class is the target; `"all"`; or a mask `[n, h, w]` of booleans.

    Returns
    -------
    Tensor
        Booleans `[n, h, w]`, on the device of the logits.

    Raises
    ------
    ValueError
        The mask is not one.
    """
    shape = logits[:, 0].shape
    if isinstance(pixels, torch.Tensor):
        if pixels.shape != shape or pixels.dtype != torch.bool:
            problem = f"not {pixels.dtype} {list(pixels.shape)}"
            raise ValueError(f"a mask must be booleans of shape {list(shape)}, {problem}")
        return pixels.to(logits.device)
    if pixels == "predicted":
        return logits.argmax(1) == target
    if pixels == "all":
        return torch.ones(shape, dtype=torch.bool, device=logits.device)
    raise ValueError(f"pixels must be 'predicted', 'all' or a mask, not {pixels!r}")


def target_score(output: Tensor, target: TissueClass, inside: Tensor | None = None) -> Tensor:
    """Reduce a network's output to the number that is explained: a logit.

    A probability would saturate where a network is sure, and its gradient vanish.

    Parameters
    ----------
    output
        Of a classifier the logits of tumor `[n]`; of a segmenter the logits `[n, classes, h, w]`.
    target
        The class. Of a classifier `TUMOR`, or `NON_TUMOR` for the negative.
    inside
        Of a segmenter: what `target_pixels` chose, `[n, h, w]`; the score is the mean of the target's logit there, and
        0 where an image has none. None takes all pixels.

    Returns
    -------
    Tensor
        `[n]`; gradients flow through it.

    Raises
    ------
    ValueError
        The target is none that a classifier tells.
    """
    if output.ndim == 1:
        if target not in LABELS:  # one logit has but two sides
            raise ValueError(f"a classifier tells tumor from non_tumor, not {target.key}")
        return output if target is TissueClass.TUMOR else -output
    chosen = output[:, target]
    if inside is None:
        return chosen.mean((1, 2))
    return (chosen * inside).sum((1, 2)) / inside.sum((1, 2)).clamp(min=1)
