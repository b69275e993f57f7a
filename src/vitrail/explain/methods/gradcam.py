"""Grad-CAM: feature maps, weighted by the mean gradient of a score (Selvaraju et al. 2017, doi:10.1109/ICCV.2017.74).

Where features have a zero, maps are signed; `Saliency.relu` is the map as first defined. The gradient never goes
through the encoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from vitrail.classes import LABELS, TissueClass
from vitrail.errors import ModelError
from vitrail.explain.decoder_gradient import decode
from vitrail.explain.hooks import frozen, leaf_at, seen
from vitrail.explain.layers import final_stride
from vitrail.explain.receptive_field import BOTTLENECK, FEATURES, frames
from vitrail.explain.saliency import Maps

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from vitrail.models.classifier import Classifier
    from vitrail.models.segmenter import Segmenter

    Pixels = Literal["predicted", "all"] | Tensor

_NAME = "gradcam"


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What a user's own network is asked to explain.

    Attributes
    ----------
    name
        Its name in the maps.
    of
        Takes the network's output for a batch and gives each image's score, `[n]`.
    """

    name: str
    of: Callable[[Any], Tensor]


def classifier_gradcam(network: Classifier, images: Tensor, target: TissueClass = TissueClass.TUMOR) -> Maps:
    """Explain a classifier by its final feature maps, at the cost of a forward pass.

    Behind the feature maps `A` (of `Z` cells) come their means `a`, `h = W1 a + b1`, and the logit `w2 . f(h) + b2`. So
    the gradient is the same in all cells, `W1' (f'(h) * w2) / Z`, and needs no autograd: `f'` is 1 where the dense
    layer is linear, so that all images share their weights, and `1[h > 0]` behind a ReLU.

    Parameters
    ----------
    network
        The classifier, in either mode.
    images
        `[n, 3, h, w]`, standardised.
    target
        `TUMOR` is the logit, `NON_TUMOR` its negative.

    Raises
    ------
    ValueError
        The target is none of these two.
    """
    with frozen(network):
        logits, values = classifier_cam(network, images.detach())
    return classifier_maps(network, shape_of(images), logits, values, target)


def classifier_cam(network: Classifier, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits `[n]` and the maps of tumor `[n, h', w']` of standardised images; see `classifier_gradcam`.

    The network is in eval mode. Nothing here depends on what the images show, so that it can be recorded.
    """
    features = network.features(images)
    with torch.autocast(features.device.type, enabled=False):  # as the network's own head
        features = features.float()
        hidden = network.dense(features.mean((2, 3)))
        logits = network.logit(network.activated(hidden)).squeeze(1)
        slopes = network.slope(hidden) * network.logit.weight
        return logits, _weighted(features, slopes @ network.dense.weight / features[0, 0].numel())


def classifier_maps(
    network: Classifier, shape: tuple[int, int, int], logits: Tensor, values: Tensor, target: TissueClass
) -> Maps:
    """Return what `classifier_cam` gave for images of channels, height and width as maps of a target.

    Raises
    ------
    ValueError
        The target is neither tumor nor non-tumor.
    """
    sign = sign_of(target)
    (frame,) = frames(network, shape, (FEATURES,), (final_stride(network),))
    return Maps(method=_NAME, layers=(FEATURES,), target=target.key, values=values * sign, output=logits, frame=frame)


def segmenter_gradcam(
    network: Segmenter,
    images: Tensor,
    target: TissueClass = TissueClass.TUMOR,
    pixels: Pixels = "predicted",
) -> Maps:
    """Explain a segmenter by the feature maps of its bottleneck.

    The score is the mean of a class's output over a set of pixels; Vinogradova et al. 2020 (arXiv:2002.11434) take the
    sum, with which a tile's values would grow with its number of pixels, and tiles could not be compared. The output
    is the logit, as there: the softmax also falls when other classes rise, and its gradient vanishes where the network
    is sure. The gradient goes through the decoder only, see `vitrail.explain.decoder_gradient`.

    The map is signed where the bottleneck lies behind an activation, as in the layout `paper`. Linear projections, as
    in `timm`, have no zero: half of their values are negative, and so may be the map of a tile that is all tumor.

    Parameters
    ----------
    network
        The segmenter, in either mode.
    images
        `[n, 3, h, w]`, standardised.
    target
        The class.
    pixels
        `"predicted"`: those whose likeliest class is the target; `"all"`; or a mask `[n, h, w]` of booleans. Where an
        image has none, its map is 0 everywhere.

    Raises
    ------
    ValueError
        The mask is not one.
    """
    with frozen(network), torch.no_grad():
        encoded = network.encode(images.detach())
        decoded = decode(network, encoded, (images.shape[2], images.shape[3]))
        inside = _inside(decoded.logits, target, pixels)
        gradient = decoded.gradient(target, inside / inside.sum((1, 2), keepdim=True).clamp(min=1))
        values = _weighted(encoded[-1], gradient.mean((2, 3)))
    (frame,) = frames(network, shape_of(images), (BOTTLENECK,), (_STRIDE,))
    return Maps(
        method=_NAME,
        layers=(BOTTLENECK,),
        target=target.key,
        values=values,
        output=decoded.logits,
        frame=frame,
        signed=network.activated,
    )


_STRIDE = 32  # of the bottleneck; the segmenter pads its images to a multiple


def gradcam(network: nn.Module, images: Tensor, layer: str, score: Score) -> Maps:
    """Explain any network by one of its layers.

    Where the map lies on the image is measured by running the network once more for each new size of images, see
    `frames`; where it cannot be measured, the map is taken to span the image exactly.

    Parameters
    ----------
    network
        Any module that treats the images of a batch apart when it is in eval mode.
    images
        What it takes, `[n, c, h, w]`.
    layer
        The layer's name as in `named_modules()`; its output must be `[n, c, h', w']`.
    score
        What to explain.

    Raises
    ------
    ModelError
        There is no such layer, it runs twice or not at all, it gives no feature maps, or the score does not depend on
        it.
    """
    with frozen(network), leaf_at(network, layer) as found:
        output = network(images.detach())
        total, leaf = score.of(output).sum(), seen(found, layer)
        gradient = torch.autograd.grad(total, leaf, allow_unused=True)[0] if total.requires_grad else None
    if gradient is None:
        raise ModelError(f"layer {layer!r}", f"score {score.name!r} does not depend on it", "Name an earlier layer")
    values = _weighted(leaf.detach(), gradient.mean((2, 3)))
    told = output.detach() if isinstance(output, torch.Tensor) else output
    (frame,) = frames(network, shape_of(images), (layer,))
    return Maps(method=_NAME, layers=(layer,), target=score.name, values=values, output=told, frame=frame)


def sign_of(target: TissueClass) -> int:
    """Return 1 for tumor and -1 for non-tumor, which is what the one logit of a classifier says.

    Raises
    ------
    ValueError
        The target is another class.
    """
    if target not in LABELS:
        raise ValueError(f"a classifier tells tumor from non_tumor, not {target.key}")
    return 1 if target is TissueClass.TUMOR else -1


def shape_of(images: Tensor) -> tuple[int, int, int]:
    """Return channels, height and width of images `[n, c, h, w]`."""
    return images.shape[1], images.shape[2], images.shape[3]


def _weighted(features: Tensor, weights: Tensor) -> Tensor:
    """Add up feature maps `[n, c, h, w]` with weights `[n, c]`; returns `[n, h, w]`."""
    rows = features.movedim(1, 3).flatten(1, 2)
    return (rows @ weights[:, :, None]).view(-1, *features.shape[2:])


def _inside(logits: Tensor, target: TissueClass, pixels: Pixels) -> Tensor:
    shape = logits[:, 0].shape
    if isinstance(pixels, torch.Tensor):
        if pixels.shape != shape or pixels.dtype != torch.bool:
            raise ValueError(f"a mask must be booleans of shape {list(shape)}, not {pixels.dtype} {list(pixels.shape)}")
        return pixels.to(logits.device)
    match pixels:
        case "predicted":
            return logits.argmax(1) == target
        case "all":
            return torch.ones(shape, dtype=torch.bool, device=logits.device)
    raise ValueError(f"pixels must be 'predicted', 'all' or a mask, not {pixels!r}")
