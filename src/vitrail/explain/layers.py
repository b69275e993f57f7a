"""Which layers HR-CAM looks at: by default the encoder's last map at each stride, and the final convolution."""

from __future__ import annotations

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

    Raises
    ------
    ModelError
        The encoder does not say where its stages end, or has no layer of a name, or a layer gives no feature maps.
    """
    names = default_layers(network) if names is None else names
    image = _black(network) if probe is None else probe
    with frozen(network), record_activations(network, names, lambda _, maps: maps.shape) as shapes:
        run(network, image)
    found = {name: seen(shapes, name) for name in names}
    ordered = sorted(names, key=lambda name: -found[name][2])  # stable: as named where strides are equal
    return Layers(
        names=tuple(ordered),
        channels=tuple(found[name][1] for name in ordered),
        strides=tuple(round(image.shape[2] / found[name][2]) for name in ordered),
    )


def default_layers(network: nn.Module) -> tuple[str, ...]:
    """Name the encoder's last layer at each stride and, in networks that end in it, its final convolution.

    Raises
    ------
    ModelError
        The network is neither a classifier nor a segmenter, or its encoder does not say where its stages end.
    """
    match network:
        case Classifier():
            stages = _stages(network.encoder, "encoder")
            return (*stages, *_final(network, stages))
        case Segmenter():
            stages = _stages(network.backbone, "unet.encoder.model")
            return (*stages, *_final(network, stages)) if network.activated else stages
    raise ModelError(
        type(network).__name__, "is no network of Vitrail, so its layers must be named", "Give their names"
    )


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


def _feature_info(encoder: nn.Module) -> list[dict[str, Any]]:
    info: Any = getattr(encoder, "feature_info", None) or []
    return list(info.get_dicts() if hasattr(info, "get_dicts") else info)  # cut down to its stages it is an object


def _stages(encoder: nn.Module, prefix: str) -> tuple[str, ...]:
    known = dict(encoder.named_modules())
    wanted = [str(stage["module"]) for stage in _feature_info(encoder)]
    # timm renames stages.0 to stages_0 in some networks that give all stages
    names = [name if name in known else name.replace(".", "_") for name in wanted]
    if not names or not set(names) <= set(known):
        problem = "does not say which layers end its stages"
        raise ModelError(f"encoder {type(encoder).__name__}", problem, "Name the layers, or take an EfficientNet")
    return tuple(f"{prefix}.{name}" for name in names)


def _final(network: Classifier | Segmenter, stages: tuple[str, ...]) -> tuple[str, ...]:
    """Name the layer that gives the final feature map, unless it is the last stage: then there is nothing to add."""
    prefix = "encoder." if isinstance(network, Classifier) else "unet.encoder.model."
    inner = [name for name, _ in network.named_modules() if name.startswith(prefix)]
    outputs: dict[str, object] = {}
    with frozen(network):
        handles = [_note(network, name, outputs) for name in inner]
        try:
            image = _black(network)
            final = network.features(image) if isinstance(network, Classifier) else network.encode(image)[-1]
        finally:
            for handle in handles:
                handle.remove()
    same = [name for name, output in outputs.items() if output is final]
    return () if set(same) & set(stages) else tuple(same[-1:])  # the outermost layer ends last


def _note(network: nn.Module, name: str, outputs: dict[str, object]) -> Any:
    def hook(_module: nn.Module, _inputs: Any, output: object) -> None:
        outputs[name] = output

    return network.get_submodule(name).register_forward_hook(hook)


def _black(network: nn.Module) -> Tensor:
    some = next(network.parameters())
    return torch.zeros(1, 3, _PROBE_PX, _PROBE_PX, device=some.device, dtype=some.dtype)
