"""Which layers HR-CAM looks at: by default the encoder's last map at each stride, and the final convolution."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch

from vitrail.errors import ModelError
from vitrail.explain.hooks import frozen, record_activations, seen
from vitrail.models.classifier import Classifier
from vitrail.models.segmenter import Segmenter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

_PROBE_PX = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Layers:
    """Layers of a network, finest first, and the shape of their feature maps.

    Attributes
    ----------
    names
        As in `named_modules()`.
    channels
        Feature maps of each.
    strides
        Pixels of the image between two cells of each.
    """

    names: tuple[str, ...]
    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def parts(self, flat: Tensor) -> Mapping[str, Tensor]:
        """Cut a vector of one value per feature map, `[sum of channels]`, into one per layer."""
        return dict(zip(self.names, torch.split(flat, list(self.channels)), strict=True))


def find_layers(network: nn.Module, names: tuple[str, ...] | None = None, probe: Tensor | None = None) -> Layers:
    """Find layers and the shape of their maps by running the network once on a small image.

    Parameters
    ----------
    network
        A classifier or segmenter; any other module needs `names`.
    names
        Layers to look at. None takes the encoder's last map at each stride and, where the network looks at what a
        further convolution makes of the last one, that one (the paper, Table 1).
    probe
        The image to try, `[1, c, h, w]`; sides that divide by the largest stride. None is black and of 64 pixels.

    Returns
    -------
    Layers
        Finest first.

    Raises
    ------
    ModelError
        The encoder does not say where its stages end, or has no layer of a name, or a layer gives no feature maps.
    """
    names = default_layers(network) if names is None else names
    image = black(network) if probe is None else probe
    with frozen(network), record_activations(network, names, lambda _, maps: maps.shape) as recorded:
        run(network, image)
    shapes = {name: seen(recorded, name) for name in names}
    ordered = sorted(names, key=lambda name: -shapes[name][2])  # stable: as named where strides are equal
    return Layers(
        names=tuple(ordered),
        channels=tuple(shapes[name][1] for name in ordered),
        strides=tuple(round(image.shape[2] / shapes[name][2]) for name in ordered),
    )


def default_layers(network: nn.Module) -> tuple[str, ...]:
    """Name the encoder's last layer at each stride and, in networks that end in it, its final convolution.

    A vision transformer has one stride alone; its layers are its maps behind each quarter of its blocks.

    Parameters
    ----------
    network
        A classifier or a segmenter.

    Returns
    -------
    tuple[str, ...]
        In the order in which they run.

    Raises
    ------
    ModelError
        The network is neither, or its encoder does not say where its stages end.
    """
    if not isinstance(network, Classifier | Segmenter):
        problem = "is no network of Vitrail, so its layers must be named"
        raise ModelError(type(network).__name__, problem, "Give their names")
    encoder, prefix = network.get_submodule(network.stages), network.stages
    modules, stages = dict(encoder.named_modules()), [str(stage["module"]) for stage in _feature_info(encoder)]
    # timm renames stages.0 to stages_0 in some networks that give all stages
    names = [name if name in modules else name.replace(".", "_") for name in stages]
    if not names or not set(names) <= set(modules):
        problem = "does not say which layers end its stages"
        raise ModelError(f"encoder {type(encoder).__name__}", problem, "Name the layers, or take an EfficientNet")
    if isinstance(network, Segmenter) and not network.activated:
        return tuple(f"{prefix}.{name}" for name in names)

    # the layers that give the final feature map itself; if the last stage is among them, there is nothing to add
    outputs: dict[str, object] = {}
    with frozen(network), ExitStack() as stack:
        for name, module in modules.items():

            def keep(_module: nn.Module, _inputs: object, output: object, name: str = name) -> None:
                outputs[name] = output

            stack.callback(module.register_forward_hook(keep).remove)
        image = black(network)
        final = network.features(image) if isinstance(network, Classifier) else network.encode(image)[-1]
    same = [name for name, output in outputs.items() if name and output is final]
    last = [] if set(same) & set(names) else same[-1:]  # the outermost layer ends last
    return tuple(f"{prefix}.{name}" for name in [*names, *last])


def run(network: nn.Module, images: Tensor) -> object:
    """Run as much of a network as its feature maps need."""
    match network:
        case Classifier():
            return network.features(images)
        case Segmenter():
            return network.encode(images)
    return cast("object", network(images))


def final_stride(network: Classifier) -> int:
    """Return how many pixels of the image lie between two cells of a classifier's final feature map."""
    return max((int(stage["reduction"]) for stage in _feature_info(network.encoder)), default=1)


def patch_of(network: nn.Module) -> int | None:
    """Return the side of a vision transformer's patches in pixels; None of networks that have none."""
    return network.patch_px if isinstance(network, Classifier | Segmenter) else None


def _feature_info(encoder: nn.Module) -> list[dict[str, Any]]:
    info: Any = getattr(encoder, "feature_info", None) or []
    return list(info.get_dicts() if hasattr(info, "get_dicts") else info)  # cut down to its stages it is an object


def black(network: nn.Module, side_px: int = _PROBE_PX) -> Tensor:
    """Return an image of zeros to try a network on, `[1, 3, side, side]`; of patches, its side are four of them."""
    side_px = 4 * (patch_of(network) or side_px // 4)
    weights = next(network.parameters())
    return torch.zeros(1, 3, side_px, side_px, device=weights.device, dtype=weights.dtype)


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
    Tensor
        `[n, sum of channels]`, in the order of `layers`.
    """
    with (
        frozen(network),
        record_activations(network, layers.names, lambda _, maps: maps.detach().float().mean((2, 3))) as means,
    ):
        run(network, images.detach())
    return torch.cat([seen(means, name) for name in layers.names], 1)
