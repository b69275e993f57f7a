"""HR-CAM: feature maps of many layers, weighted by one dense layer (Shinde et al. 2019).

Source: doi:10.1007/978-3-030-32251-9_33.

The classifier on top of a frozen network is replaced by global average pooling of several layers and one dense layer.
With the network frozen, training that layer is a convex problem on pooled features: each image runs through the
network once, and the solution is exact.

A map is the weighted sum of the feature maps, as in the source, and the layer's bias in every cell: so its mean is the
layer's logit, and a cell's value is the logit of an image that looked like this place everywhere. Without the bias its
zero would mean nothing, for most of the feature maps are linear projections.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file

from vitrail import __version__
from vitrail.classes import TissueClass
from vitrail.core.files import read_regular, regular_file, write_text
from vitrail.errors import ModelError, TileError
from vitrail.explain.hooks import frozen, record_activations, seen
from vitrail.explain.layers import Layers, run
from vitrail.explain.methods.gradcam import sign_of
from vitrail.explain.methods.logistic import logistic_regression
from vitrail.explain.receptive_field import frames
from vitrail.explain.saliency import Maps
from vitrail.models.store import model_digest, save_tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from vitrail.explain.saliency import Frame, Size

_NAME = "hrcam"
_WEIGHTS, _JSON = "hrcam.safetensors", "hrcam.json"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HRCamHead:
    """The dense layer that HR-CAM puts on pooled features: it tells tumor from non-tumor.

    Attributes
    ----------
    layers
        The layers that are pooled.
    weights
        `[sum of channels]`, float32, in the layers' order.
    bias
        Of the logit of tumor.
    l2
        The penalty it was fitted with.
    fitted_on
        The digest of the model that it was fitted on, see `model_digest`; empty where nobody knows.
    """

    layers: Layers
    weights: Tensor
    bias: float
    l2: float
    fitted_on: str = ""

    def logits(self, pooled: Tensor) -> Tensor:
        """Map pooled features `[n, sum of channels]` to logits of tumor `[n]`."""
        return pooled @ self.weights.to(pooled.device) + self.bias

    def accuracy(self, pooled: Tensor, tumor: NDArray[np.bool_]) -> float:
        """Return the share of rows whose class it tells. A heatmap of a classifier that fails explains nothing."""
        return float(np.mean((self.logits(pooled) > 0).cpu().numpy() == tumor))


def pool(network: nn.Module, images: Tensor, layers: Layers) -> Tensor:
    """Average the feature maps of several layers over the image.

    Parameters
    ----------
    network
        The network, in either mode; of a segmenter only the encoder runs.
    images
        `[n, 3, h, w]`, standardised.
    layers
        What `find_layers` returns.

    Returns
    -------
    `[n, sum of channels]`, in the order of `layers`.
    """
    with (
        frozen(network),
        record_activations(network, layers.names, lambda _, maps: maps.detach().float().mean((2, 3))) as found,
    ):
        run(network, images.detach())
    return torch.cat([seen(found, name) for name in layers.names], 1)


def fit(layers: Layers, pooled: Tensor, tumor: NDArray[np.bool_], l2: float) -> HRCamHead:
    """Train the dense layer with cross-entropy, to convergence.

    Parameters
    ----------
    layers
        What was pooled.
    pooled
        What `pool` returns, for all training images.
    tumor
        `[n]`, true for tumor.
    l2
        Penalty on the weights of standardised features; see `logistic_regression`.

    Raises
    ------
    TileError
        A class has no image.
    ModelError
        A feature map is not finite.
    ValueError
        `l2` is not positive.
    """
    for key, count in (("tumor", tumor.sum()), ("non_tumor", (~tumor).sum())):
        if not count:
            raise TileError("tiles for HR-CAM", f"none of them is {key}", "Annotate such tissue on training slides")
    if not bool(pooled.isfinite().all()):
        raise ModelError("network for HR-CAM", "its feature maps are not finite", "Train it again")
    weights, bias = logistic_regression(pooled.cpu().double().numpy(), tumor, l2)
    return HRCamHead(layers=layers, weights=torch.from_numpy(weights).float(), bias=bias, l2=l2)


def hrcam(network: nn.Module, images: Tensor, hrcam_head: HRCamHead, target: TissueClass = TissueClass.TUMOR) -> Maps:
    """Explain images by the feature maps of several layers.

    The heatmap is the sum over all layers of the dense weights times the feature maps, enlarged to the finest layer's
    resolution; each value lies where its cell looks, see `vitrail.explain.receptive_field`. Weighting comes first, as a
    1x1 convolution: both steps are linear, so the result is the same, and one map a layer is enlarged, not hundreds.

    Parameters
    ----------
    network
        That the auxiliary classifier was fitted on, in either mode; of a segmenter only the encoder runs.
    images
        `[n, 3, h, w]`, standardised.
    auxiliary
        The dense layer.
    target
        `TUMOR`, or `NON_TUMOR` for the negative of its map.

    Raises
    ------
    ModelError
        The network lacks one of the layers, or it has other channels.
    ValueError
        The target is none of these two.
    """
    with watching(network, hrcam_head, images.shape[1]) as watched:
        run(network, images.detach())
    return watched.maps((images.shape[2], images.shape[3]), target)


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """What one forward pass left behind for HR-CAM.

    Attributes
    ----------
    network
        The network that ran.
    auxiliary
        The dense layer.
    channels
        Of its images.
    weighted
        Each layer's feature maps, weighted and added up, `[n, h, w]`.
    """

    network: nn.Module
    hrcam_head: HRCamHead
    channels: int
    weighted: dict[str, Tensor]

    def maps(self, image_px: Size, target: TissueClass = TissueClass.TUMOR) -> Maps:
        """Enlarge and add up the layers for images of a height and width; see `hrcam`."""
        sign, layers = sign_of(target), self.hrcam_head.layers
        parts = [seen(self.weighted, name) for name in layers.names]
        places = frames(self.network, (self.channels, *image_px), layers.names, layers.strides)
        values = sum((_onto(parts[0], places[0], *each) for each in zip(parts[1:], places[1:], strict=True)), parts[0])
        bias = self.hrcam_head.bias
        logits = torch.stack([part.mean((1, 2)) for part in parts]).sum(0) + bias
        values = (values + bias) * sign
        return Maps(method=_NAME, layers=layers.names, target=target.key, values=values, output=logits, frame=places[0])


@contextmanager
def watching(network: nn.Module, hrcam_head: HRCamHead, channels: int = 3) -> Iterator[Watched]:
    """Collect what HR-CAM needs from whatever forward pass runs inside the block, for instance that of Grad-CAM.

    Parameters
    ----------
    network, auxiliary
        As for `hrcam`.
    channels
        Of the images.

    Raises
    ------
    ModelError
        As for `hrcam`.
    """
    weigh = weight_maps(hrcam_head, next(network.parameters()).device)
    with frozen(network), record_activations(network, hrcam_head.layers.names, weigh) as weighted:
        yield Watched(network=network, hrcam_head=hrcam_head, channels=channels, weighted=weighted)


def weight_maps(hrcam_head: HRCamHead, device: torch.device) -> Callable[[str, Tensor], Tensor]:
    """Return what weighs a layer's feature maps `[n, c, h, w]` and adds them up, `[n, h, w]`."""
    parts = hrcam_head.layers.parts(hrcam_head.weights.to(device))

    def weigh(name: str, maps: Tensor) -> Tensor:
        if maps.shape[1] != len(parts[name]):
            problem = f"gives {maps.shape[1]} feature maps, but HR-CAM was fitted on {len(parts[name])}"
            raise ModelError(f"layer {name!r}", problem, "Fit HR-CAM on this network")
        with torch.autocast(maps.device.type, enabled=False):
            return maps.detach().float().movedim(1, 3) @ parts[name]  # a 1x1 convolution; as a product it costs a fifth

    return weigh


def _onto(finest: Tensor, frame: Frame, values: Tensor, own: Frame) -> Tensor:
    """Enlarge maps `[n, h, w]` to the places that the cells of the finest ones look at."""
    at = frame.centres((finest.shape[1], finest.shape[2]))
    rows, columns = (torch.from_numpy(each).to(values) for each in own.onto((values.shape[1], values.shape[2]), *at))
    return rows @ values @ columns.T


class _File(BaseModel):
    """The content of `hrcam.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    method: Literal["hrcam"] = "hrcam"
    layers: Annotated[tuple[str, ...], Field(min_length=1)]
    channels: tuple[Annotated[int, Field(ge=1)], ...]
    strides: tuple[Annotated[int, Field(ge=1)], ...]
    bias: float
    l2: Annotated[float, Field(ge=0)]
    fitted_on: str = ""
    vitrail: str = __version__

    @model_validator(mode="after")
    def _one_each(self) -> _File:
        if not len(self.layers) == len(self.channels) == len(self.strides):
            raise ValueError("layers, channels and strides differ in number")
        return self


def save_auxiliary(folder: Path, hrcam_head: HRCamHead) -> None:
    """Write `hrcam.safetensors` and, last, `hrcam.json` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _JSON).unlink(missing_ok=True)
    save_tensors(folder / _WEIGHTS, {"weights": hrcam_head.weights})
    layers = hrcam_head.layers
    content = _File(
        layers=layers.names,
        channels=layers.channels,
        strides=layers.strides,
        bias=hrcam_head.bias,
        l2=hrcam_head.l2,
        fitted_on=hrcam_head.fitted_on,
    )
    write_text(folder / _JSON, content.model_dump_json(indent=2) + "\n", flush=True)


def load_head(folder: Path) -> HRCamHead:
    """Read what `save_auxiliary` wrote.

    Raises
    ------
    ModelError
        A file is missing, unreadable, or does not fit the other.
    """
    cure = "Fit HR-CAM again"
    try:
        content = _File.model_validate(json.loads(read_regular(folder / _JSON, ModelError, cure)))
        weights = load_file(regular_file(folder / _WEIGHTS, ModelError, cure))["weights"]
    except (ValidationError, ValueError, RecursionError) as error:
        raise ModelError(folder / _JSON, f"not valid ({' '.join(str(error).split())[:200]})", cure) from None
    except (SafetensorError, KeyError):
        raise ModelError(folder / _WEIGHTS, "not a readable weights file", cure) from None
    if weights.shape != (sum(content.channels),):
        raise ModelError(folder / _WEIGHTS, f"does not fit {_JSON}", cure)
    layers = Layers(names=content.layers, channels=content.channels, strides=content.strides)
    return HRCamHead(layers=layers, weights=weights, bias=content.bias, l2=content.l2, fitted_on=content.fitted_on)


FIT = "remove RUN/explanations, if it is there, and fit it with: vitrail explain RUN"
"""What to do where `unfitted` has a reason."""


def fitted_head(model_folder: Path, digest: str | None = None) -> HRCamHead:
    """Read HR-CAM's dense layer for a model from the run that it belongs to; parameters as of `unfitted`.

    Raises
    ------
    ModelError
        There is none, it was fitted on other weights (see `unfitted`), or it cannot be read.
    """
    folder, reason = _beside(model_folder), unfitted(model_folder, digest)
    if reason:  # a run's own stages find one, unless files were exchanged by hand
        raise ModelError(model_folder, reason, f"Remove {folder.parent}, if it is there, and run: vitrail explain RUN")
    return load_head(folder)


def unfitted(model_folder: Path, digest: str | None = None) -> str | None:
    """Say why there is no HR-CAM of a model; None where its run has a dense layer that was fitted on these weights.

    Parameters
    ----------
    model_folder
        The model.
    digest
        Its `model_digest`, where the caller has it.

    Raises
    ------
    ModelError
        The layer is there, but cannot be read.
    """
    folder = _beside(model_folder)
    if not folder.is_dir():
        return "its run has no dense layer for HR-CAM"
    if load_head(folder).fitted_on != (digest or model_digest(model_folder)):
        return "HR-CAM's dense layer was fitted on other weights, or before its file said on which"
    return None


def _beside(model_folder: Path) -> Path:
    """Return the folder of a model's dense layer in the run that the model is in."""
    own = model_folder.resolve()
    return own.parent / "explanations" / own.name
