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
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file

from vitrail import __version__
from vitrail.classes import TissueClass
from vitrail.core.files import read_regular, regular_file, write_text
from vitrail.core.resume import Parts
from vitrail.errors import ModelError, TileError
from vitrail.explain.fused import Reader
from vitrail.explain.layers import Layers
from vitrail.explain.methods.base import ExplanationMethod, HeadTiles
from vitrail.explain.methods.hrcam_training import Course, Examples, retrain
from vitrail.models.store import save_tensors

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from vitrail.explain.saliency import Maps

_WEIGHTS, _JSON = "hrcam.safetensors", "hrcam.json"

BLOCK = 512
"""Tiles that are pooled in one go: what a killed run loses at most."""


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


class HRCam(ExplanationMethod):
    """HR-CAM of a classifier and of a segmenter's encoder; its head is the dense layer on pooled features."""

    name, title, colour = "hrcam", "HR-CAM", (94, 60, 153)
    needs_head = on_slides = True

    def reader(self, network: nn.Module, head: HRCamHead | None = None) -> Reader:
        """Return what weighs the feature maps of the head's layers and adds them up.

        Weighting comes first, as a 1x1 convolution: both steps are linear, so the result is the same, and one map a
        layer is enlarged, not hundreds.

        Parameters
        ----------
        network
            That the head was fitted on.
        head
            The dense layer.

        Returns
        -------
        Reader
            It raises `ModelError` where a layer has other channels.

        Raises
        ------
        ModelError
            There is no head.
        """
        if head is None:
            raise ModelError("HR-CAM", "has no dense layer", "Fit one, or leave HR-CAM out")
        parts = head.layers.parts(head.weights.to(next(network.parameters()).device))

        def read(name: str, maps: Tensor, _own: Tensor) -> Tensor:
            if maps.shape[1] != len(parts[name]):
                problem = f"gives {maps.shape[1]} feature maps, but HR-CAM was fitted on {len(parts[name])}"
                raise ModelError(f"layer {name!r}", problem, "Fit HR-CAM on this network")
            with torch.autocast(maps.device.type, enabled=False):
                # a 1x1 convolution; as a product it costs a fifth
                return maps.detach().float().movedim(1, 3) @ parts[name].to(maps.device)

        layers, unit = head.layers, "logit of tumor of HR-CAM's dense layer, from the feature maps at each place alone"
        return Reader(
            method=self.name, layers=layers.names, strides=layers.strides, read=read, unit=unit, bias=head.bias
        )

    def fit(self, tiles: HeadTiles) -> tuple[HRCamHead, dict[str, Any]]:
        """Train the dense layer, to convergence or for epochs, as `explain.training` says.

        Parameters
        ----------
        tiles
            The network and its training tiles; they are pooled in blocks that survive a kill.

        Returns
        -------
        tuple[HRCamHead, dict[str, Any]]
            The layer, and its `train_accuracy` on the `train_tiles`.

        Raises
        ------
        ModelError
            A feature map or the loss is not finite, or the device's memory is too small.
        """
        settings, network, rows = tiles.settings.explain, tiles.network, tiles.rows
        parts, blocks = Parts(tiles.unfinished / "pooled"), []
        with tiles.progress.task("pool", len(rows)) as step:
            for start in range(0, len(rows), BLOCK):
                block = rows[start : start + BLOCK]

                def make(block: NDArray[np.int64] = block) -> NDArray[np.float32]:
                    return network.pool(tiles.images[block]).numpy()

                blocks.append(parts.array(f"{tiles.task}-{start:09d}", make))
                step(len(block), tiles.task)
        pooled = torch.from_numpy(np.concatenate(blocks))
        if settings.training == "exact":
            head = fit(network.layers, pooled, tiles.tumor, settings.l2)
        else:
            own = tiles.settings.classifier if tiles.task == "classifier" else tiles.settings.segmenter
            course = Course(
                epochs=settings.epochs,
                learning_rate=settings.learning_rate,
                batch=own.batch,
                l2=settings.l2,
                seed=(tiles.settings.seed, *tiles.task.encode()),
                augmenter=tiles.augmenter,
            )
            examples = Examples(images=tiles.images, rows=rows, tumor=tiles.tumor, pooled=pooled)
            checkpoint = tiles.unfinished / f"{tiles.task}-epochs.safetensors"
            weights, bias = retrain(network, examples, course, checkpoint=checkpoint, progress=tiles.progress)
            head = HRCamHead(layers=network.layers, weights=weights, bias=bias, l2=settings.l2)
        return head, {"train_accuracy": head.accuracy(pooled, tiles.tumor), "train_tiles": len(rows)}

    def save(self, folder: Path, head: HRCamHead) -> None:
        """Write a dense layer; see `save_head`."""
        save_head(folder, head)

    def load(self, folder: Path) -> HRCamHead:
        """Read a dense layer; see `load_head`."""
        return load_head(folder)

    def redraw(self, head: HRCamHead, seed: int) -> HRCamHead:
        """Draw the dense layer anew from normal distributions, with each layer's root mean square.

        Parameters
        ----------
        head
            The dense layer.
        seed
            Draws the weights.

        Returns
        -------
        HRCamHead
            Every layer keeps its say. Permuting all weights instead would keep the mean of each layer's, and with it a
            part of the map.
        """
        generator = torch.Generator().manual_seed(seed)
        parts = head.layers.parts(head.weights.cpu())
        drawn = [torch.randn(len(part), generator=generator) * part.square().mean().sqrt() for part in parts.values()]
        return replace(head, weights=torch.cat(drawn))


METHOD = HRCam()


def fit(layers: Layers, pooled: Tensor, tumor: NDArray[np.bool_], l2: float) -> HRCamHead:
    """Train the dense layer with cross-entropy, to convergence, on standardised features.

    The problem is strictly convex, so there is one solution, and no seed, rate or number of epochs to choose.

    Parameters
    ----------
    layers
        What was pooled.
    pooled
        What `pool` returns, for all training images. A feature that does not vary gets the weight 0.
    tumor
        `[n]`, true for tumor.
    l2
        Penalty: half of it times the squared weights of standardised features is added to the mean cross-entropy. The
        bias bears none.

    Returns
    -------
    HRCamHead
        For features as they are, not standardised.

    Raises
    ------
    TileError
        A class has no image.
    ModelError
        A feature map is not finite.
    ValueError
        `l2` is not positive, or there is not one label an image.
    """
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - takes a second, and only a fit needs it

    for key, count in (("tumor", tumor.sum()), ("non_tumor", (~tumor).sum())):
        if not count:
            raise TileError("tiles for HR-CAM", f"none of them is {key}", "Annotate such tissue on training slides")
    if not bool(pooled.isfinite().all()):
        raise ModelError("network for HR-CAM", "its feature maps are not finite", "Train it again")
    if not l2 > 0:
        raise ValueError(f"l2 is {l2}; without a penalty classes that can be told apart have no solution")
    features = pooled.cpu().double().numpy()
    mean, std = features.mean(0), features.std(0)
    std[std <= np.finfo(np.float32).eps * np.abs(mean)] = np.inf  # does not vary but by rounding
    solver = LogisticRegression(C=1 / (len(features) * l2), tol=1e-10, max_iter=20_000)  # the tolerance of a gradient
    solver.fit((features - mean) / std, tumor)
    weights = solver.coef_[0] / std
    bias = float(solver.intercept_[0] - weights @ mean)
    return HRCamHead(layers=layers, weights=torch.from_numpy(weights).float(), bias=bias, l2=l2)


def hrcam(network: nn.Module, images: Tensor, hrcam_head: HRCamHead, target: TissueClass = TissueClass.TUMOR) -> Maps:
    """Explain images by the feature maps of several layers.

    The heatmap is the sum over all layers of the dense weights times the feature maps, enlarged to the finest layer's
    resolution; each value lies where its cell looks, see `vitrail.explain.receptive_field`.

    Parameters
    ----------
    network
        That the dense layer was fitted on, in either mode; of a segmenter only the encoder runs.
    images
        `[n, c, h, w]`, standardised.
    hrcam_head
        The dense layer.
    target
        `TUMOR`, or `NON_TUMOR` for the negative of its map.

    Returns
    -------
    Maps
        One map an image.

    Raises
    ------
    ModelError
        The network lacks one of the layers, or it has other channels.
    ValueError
        The target is none of these two.
    """
    return METHOD.explain(network, images, target, head=hrcam_head)


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


def save_head(folder: Path, hrcam_head: HRCamHead) -> None:
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
    """Read what `save_head` wrote.

    Parameters
    ----------
    folder
        Where.

    Returns
    -------
    HRCamHead
        The dense layer.

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
