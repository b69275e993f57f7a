"""Sanity check: whether a map changes when the network forgets what it has learnt (Adebayo et al. 2018).

Source: Sanity Checks for Saliency Maps, arXiv:1810.03292, cascading randomisation. The network is randomised from the
top down, one step at a time, and each step's maps are correlated with those of the untouched network. A map that stays
as it was shows the image, not the network.

How a layer forgets: it is initialised as before training, by its own `reset_parameters`; values without such a method
are permuted, which keeps their scale. Batch normalisation begins anew with weight 1 and bias 0, and takes its running
statistics from the very tiles under the new weights: with the old ones activations would grow or vanish from layer to
layer, and a map of rounding errors loses its correlation for the wrong reason. The top of a method that has a head of
its own, as HR-CAM has, is that head, see `ExplanationMethod.redraw`.

Two maps of few cells correlate by chance, and what all maps share, such as a frame at the border, is no likeness of
two explanations. So each map is also correlated with the untouched map of another tile. The absolute value counts: a
random network's map may well be the negative of what it was.
"""

from __future__ import annotations

import copy
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import chain
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from vitrail.classes import TissueClass
from vitrail.errors import ModelError
from vitrail.explain.explainer import Explainer
from vitrail.explain.hooks import frozen
from vitrail.explain.layers import default_layers
from vitrail.explain.methods.base import METHODS
from vitrail.metrics.correlation import pearson
from vitrail.models.preprocessing import Normalizer, intensities
from vitrail.models.segmenter import Segmenter
from vitrail.models.store import Model

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from vitrail.explain.methods.base import Head
    from vitrail.explain.target import Pixels

    Image = NDArray[np.uint8]
    Maps = NDArray[np.float32]

UNTOUCHED, AUXILIARY = "untouched", "auxiliary"
"""Names of the step before the first, and of the first of a method that has a head of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What is randomised at once.

    Attributes
    ----------
    name
        `head` or `decoder`, then the layer that ends a stage of the encoder.
    modules
        Names of all modules that hold weights, as in `named_modules()`.
    """

    name: str
    modules: tuple[str, ...]


def cascade(network: nn.Module, ends: tuple[str, ...], probe: Tensor, top: str = "head") -> tuple[Step, ...]:
    """Divide a network into steps.

    Parameters
    ----------
    network
        Any module.
    ends
        The layers that end its stages, in the order in which they run; what runs after the last is the top.
    probe
        Images to run it on once, which tells in which stage each module runs. Modules that do not run are left out.
    top
        The first step's name.

    Returns
    -------
    tuple[Step, ...]
        The top first.
    """
    groups: list[list[str]] = [[] for _ in range(len(ends) + 1)]
    ended: list[str] = []

    def starts(name: str, *_: object) -> None:
        if not any(name in group for group in groups):
            groups[len(ended)].append(name)

    def ends_stage(name: str, *_: object) -> None:
        ended.append(name)

    with frozen(network), ExitStack() as hooks:
        for name, module in network.named_modules():
            if any(True for _ in chain(module.parameters(recurse=False), module.buffers(recurse=False))):
                hooks.callback(module.register_forward_pre_hook(partial(starts, name)).remove)
        for name in ends:
            hooks.callback(network.get_submodule(name).register_forward_hook(partial(ends_stage, name)).remove)
        network(probe)
    steps = zip((*ends, top), groups, strict=True)
    return tuple(Step(name=name, modules=tuple(group)) for name, group in steps if group)[::-1]


def steps_of(network: nn.Module, images: Tensor) -> tuple[Step, ...]:
    """Divide a classifier or a segmenter: its head or decoder, then the encoder's stages, the last one first."""
    top = "decoder" if isinstance(network, Segmenter) else "head"
    return cascade(network, default_layers(network), images, top)


def reinitialise(network: nn.Module, step: Step, seed: int) -> None:
    """Initialise the modules of one step anew, in place.

    The running statistics of batch normalisation are those of no tile yet: see `settle`.

    Parameters
    ----------
    network
        The network; it must be on the CPU.
    step
        Which modules.
    seed
        Draws the weights.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also touch the generators of GPUs
        for name in step.modules:
            module = network.get_submodule(name)
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
                continue
            for parameter in module.parameters(recurse=False):
                parameter.copy_(parameter.flatten()[torch.randperm(parameter.numel())].view_as(parameter))


def settle(model: Model, steps: Sequence[Step], images: Image, device: torch.device) -> None:
    """Give the batch normalisation of some steps the running statistics of images, in place.

    Parameters
    ----------
    model
        The network; it is moved to the device.
    steps
        Which modules.
    images
        `[n, h, w, 3]`; all of them go through in one pass.
    device
        Where to run.

    Raises
    ------
    ModelError
        The device's memory is too small.
    """
    network = model.module.to(device).to(memory_format=torch.channels_last).eval()
    modules = (network.get_submodule(name) for step in steps for name in step.modules)
    norms = [module for module in modules if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0  # the statistics of this one pass
        norm.train()
    try:
        with torch.inference_mode():
            network(Normalizer(model.spec, device)(intensities(torch.tensor(images, device=device))))
    except torch.cuda.OutOfMemoryError:
        problem = f"{device.type} has too little memory for {len(images)} tiles at once"
        raise ModelError("check", problem, 'Free its memory, or set compute.device = "cpu" in study.toml') from None
    for norm in norms:
        norm.eval()


def randomise(
    model: Model,
    images: Image,
    methods: Sequence[str],
    heads: Mapping[str, Head],
    device: torch.device,
    seed: int,
    *,
    every_step: bool = True,
    dense: Mapping[str, Any] = MappingProxyType({}),
) -> Iterator[tuple[str, int, str, Maps]]:
    """Explain tiles while the network is randomised from the top down, once.

    Of a segmenter, the same pixels are explained at every step, those that the untouched network calls tumor: a random
    one may call none so, and would have nothing to explain.

    Parameters
    ----------
    model
        The trained model; it is copied and stays as it is.
    images
        Tiles, `[n, h, w, 3]`; at least two, and few enough for one pass.
    methods, heads
        How to explain, and by method what was fitted for it.
    device
        Where to run.
    seed
        Draws the new weights.
    every_step
        Explain at each step; otherwise only at the last, where all weights are random.
    dense
        `stride` and `margin_px` of the maps, see `Explainer`.

    Yields
    ------
    tuple[str, int, str, NDArray[np.float32]]
        Method, the step's number from 0 (untouched) and its name, and the maps `[n, h', w']`.
    """
    model = Model(spec=model.spec, module=copy.deepcopy(model.module).cpu().eval())
    steps = steps_of(model.module, torch.zeros(1, 3, *images.shape[1:3]))
    pixels: Pixels = "predicted"
    if isinstance(model.module, Segmenter):
        outputs = Explainer(model, device, engine="torch").outputs(images)
        pixels = torch.cat([output.argmax(1).cpu() for output in outputs]) == TissueClass.TUMOR
    redrawn = {name: METHODS[name].redraw(head, seed) for name, head in heads.items()}
    for number in range(len(steps) + 1):
        if number:
            reinitialise(model.module.cpu(), steps[number - 1], seed + number)
            if not every_step and number < len(steps):
                continue
            settle(model, steps[:number], images, device)
        explainer = Explainer(model, device, engine="torch", **dense)  # its weights change
        if not number and not every_step:
            # where cells look is measured once and kept: as in the cascade, while the weights are still the trained
            next(explainer.maps(images[:1], methods, heads, pixels=pixels))
            continue
        batches = list(explainer.maps(images, methods, redrawn if number else heads, pixels=pixels))
        for method, maps in zip(methods, zip(*batches, strict=True), strict=True):
            name = AUXILIARY if number == 1 and method in heads else steps[number - 1].name if number else UNTOUCHED
            yield method, number, name, torch.cat([batch.values for batch in maps]).cpu().numpy()  # noqa: PD011


def derangement(count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return for each of `count` tiles another one: all of them in one random cycle."""
    cycle = rng.permutation(count)
    others = np.empty(count, np.int64)
    others[cycle] = np.roll(cycle, -1)
    return others


def map_correlation(
    maps: Maps, untouched: Maps, others: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Correlate maps with those of the untouched network.

    Parameters
    ----------
    maps, untouched
        `[n, h, w]`, signed.
    others
        What `derangement` returns.

    Returns
    -------
    tuple[NDArray[np.float64], NDArray[np.float64]]
        The absolute value of Pearson's coefficient with the same tile's untouched map, and with another tile's; `[n]`
        each, NaN where a map is constant.
    """
    return np.abs(pearson(maps, untouched)), np.abs(pearson(maps, untouched[others]))


def randomisation(
    model: Model,
    images: Image,
    untouched: Mapping[str, Maps],
    heads: Mapping[str, Head],
    device: torch.device,
    seed: tuple[int, ...],
    *,
    every_step: bool = True,
    dense: Mapping[str, Any] = MappingProxyType({}),
) -> pd.DataFrame:
    """Randomise a network once, and tell how much of its maps is left at each step.

    Parameters
    ----------
    model, images, heads, device, every_step, dense
        See `randomise`.
    untouched
        By method the maps of these tiles, `[n, h', w']`.
    seed
        Numbers that decide the new weights, and the other tile of each.

    Returns
    -------
    pd.DataFrame
        `index` (of the tile, 0 to n - 1), `method`, `number`, `step`, `correlation`, `chance`.
    """
    rng = np.random.default_rng(seed)
    others = derangement(len(images), rng)
    draw, parts = int(rng.integers(2**32)), []
    for method, number, step, maps in randomise(
        model, images, [*untouched], heads, device, draw, every_step=every_step, dense=dense
    ):
        same, chance = map_correlation(maps, untouched[method], others)
        columns = {"method": method, "number": number, "step": step, "correlation": same, "chance": chance}
        parts.append(pd.DataFrame({"index": np.arange(len(maps)), **columns}))
    return pd.concat(parts, ignore_index=True)
