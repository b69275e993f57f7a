"""Sanity check: whether a map changes when the network forgets what it has learnt (Adebayo et al. 2018).

Source: Sanity Checks for Saliency Maps, arXiv:1810.03292, cascading randomisation. The network is randomised from the
top down, one step at a time, and each step's maps are correlated with those of the untouched network. A map that stays
as it was shows the image, not the network.

How a layer forgets: it is initialised as before training, by its own `reset_parameters`; values without such a method
are permuted, which keeps their scale. Batch normalisation begins anew with weight 1 and bias 0, and takes its running
statistics from the very tiles under the new weights: with the old ones activations would grow or vanish from layer to
layer, and a map of rounding errors loses its correlation for the wrong reason. HR-CAM's top is its own dense layer: its
weights are drawn from normal distributions with each layer's root mean square, so that every layer keeps its say.
(Permuting all weights instead would keep the mean of each layer's, and with it a part of the map.)

Two maps of few cells correlate by chance, and what all maps share, such as a frame at the border, is no likeness of
two explanations. So each map is also correlated with the untouched map of another tile. The absolute value counts: a
random network's map may well be the negative of what it was.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from vitrail.classes import TissueClass
from vitrail.explain.checks.perturbation import Scorer
from vitrail.explain.explainer import Explainer
from vitrail.explain.hooks import frozen
from vitrail.explain.layers import default_layers
from vitrail.metrics.correlation import pearson
from vitrail.models.segmenter import Segmenter
from vitrail.models.store import Model

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray
    from torch import Tensor
    from torch.utils.hooks import RemovableHandle

    from vitrail.explain.methods.hrcam import HRCamHead
    from vitrail.explain.saliency import Saliency

    Image = NDArray[np.uint8]
    Maps = Mapping[str, NDArray[np.float32]]

UNTOUCHED, AUXILIARY = "untouched", "auxiliary"
"""Names of the step before the first, and of HR-CAM's first."""

METHODS = ("gradcam", "hrcam")


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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Subject:
    """A network whose explanations are put to the test.

    Attributes
    ----------
    model
        The trained model; it is copied and stays as it is.
    auxiliary
        The dense layer of its HR-CAM.
    images
        Tiles that it is asked about, `[n, h, w, 3]`; at least two, and few enough for one pass.
    device
        Where to run.
    """

    model: Model
    hrcam_head: HRCamHead
    images: Image
    device: torch.device


def cascade(network: nn.Module, ends: tuple[str, ...], probe: Tensor, top: str = "head") -> tuple[Step, ...]:
    """Divide a network into steps, top first.

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
    """
    groups: list[list[str]] = [[] for _ in range(len(ends) + 1)]
    ended: list[str] = []
    handles = [_on_start(network, name, groups, ended) for name, module in network.named_modules() if _weighs(module)]
    handles += [_on_end(network, name, ended) for name in ends]
    try:
        with frozen(network):
            network(probe)
    finally:
        for handle in handles:
            handle.remove()
    steps = zip((*ends, top), groups, strict=True)
    return tuple(Step(name=name, modules=tuple(group)) for name, group in steps if group)[::-1]


def steps_of(network: nn.Module, images: Tensor) -> tuple[Step, ...]:
    """Divide a classifier or a segmenter: its head or decoder, then the encoder's stages, the last one first."""
    top = "decoder" if isinstance(network, Segmenter) else "head"
    return cascade(network, default_layers(network), images, top)


def _weighs(module: nn.Module) -> bool:
    return any(True for _ in module.parameters(recurse=False)) or any(True for _ in module.buffers(recurse=False))


def _on_start(network: nn.Module, name: str, groups: list[list[str]], ended: list[str]) -> RemovableHandle:
    def hook(_module: nn.Module, _inputs: object) -> None:
        if not any(name in group for group in groups):
            groups[len(ended)].append(name)

    return network.get_submodule(name).register_forward_pre_hook(hook)


def _on_end(network: nn.Module, name: str, ended: list[str]) -> RemovableHandle:
    def hook(_module: nn.Module, _inputs: object, _output: object) -> None:
        ended.append(name)

    return network.get_submodule(name).register_forward_hook(hook)


def reinitialise(network: nn.Module, step: Step, seed: int) -> None:
    """Initialise the modules of one step anew, in place; the network must be on the CPU.

    The running statistics of batch normalisation are those of no tile yet: see `settle`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also touch the generators of GPUs
        for name in step.modules:
            _reset(network.get_submodule(name))


def _reset(module: nn.Module) -> None:
    reset = getattr(module, "reset_parameters", None)
    if callable(reset):
        reset()
        return
    with torch.no_grad():
        for parameter in module.parameters(recurse=False):
            mixed = parameter.flatten()[torch.randperm(parameter.numel())]
            parameter.copy_(mixed.view_as(parameter))


def settle(model: Model, steps: tuple[Step, ...], images: Image, device: torch.device) -> None:
    """Give the batch normalisation of some steps the running statistics of images `[n, h, w, 3]`, in place."""
    scorer = Scorer(model, device)
    modules = [model.module.get_submodule(name) for step in steps for name in step.modules]
    norms = [module for module in modules if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0  # the statistics of this one pass
        norm.train()
    scorer.outputs(images)
    for norm in norms:
        norm.eval()


def redraw(hrcam_head: HRCamHead, seed: int) -> HRCamHead:
    """Draw the dense layer of HR-CAM anew, with each layer's root mean square."""
    generator = torch.Generator().manual_seed(seed)
    parts = hrcam_head.layers.parts(hrcam_head.weights.cpu())
    drawn = [torch.randn(len(part), generator=generator) * part.square().mean().sqrt() for part in parts.values()]
    return replace(hrcam_head, weights=torch.cat(drawn))


def randomise(
    subject: Subject, seed: int, *, every_step: bool = True
) -> Iterator[tuple[str, int, str, NDArray[np.float32]]]:
    """Explain tiles while the network is randomised from the top down, once.

    Of a segmenter, Grad-CAM explains the same pixels at every step, those that the untouched network calls tumor: a
    random one may call none so, and would have nothing to explain.

    Parameters
    ----------
    subject
        The network and the tiles.
    seed
        Draws the new weights.
    every_step
        Explain at each step; otherwise only at the last, where all weights are random.

    Yields
    ------
    Method, the step's number from 0 (untouched) and its name, and the maps `[n, h', w']`.
    """
    model = Model(spec=subject.model.spec, module=copy.deepcopy(subject.model.module).cpu().eval())
    steps = steps_of(model.module, torch.zeros(1, 3, *subject.images.shape[1:3]))
    pixels = _called_tumor(model, subject)
    if every_step:
        yield from _maps(subject, model, pixels, (0, UNTOUCHED, subject.hrcam_head))
    else:  # where cells look is measured once and kept: as in the cascade, while the weights are still the trained ones
        Explainer(model, subject.device, engine="torch").hrcam(subject.images[:1], subject.hrcam_head)
    dense = redraw(subject.hrcam_head, seed)
    for number, step in enumerate(steps, 1):
        reinitialise(model.module.cpu(), step, seed + number)
        if not every_step and number < len(steps):
            continue
        settle(model, steps[:number], subject.images, subject.device)
        yield from _maps(subject, model, pixels, (number, step.name, dense))


def _called_tumor(model: Model, subject: Subject) -> Tensor | None:
    if not isinstance(model.module, Segmenter):
        return None
    return Scorer(model, subject.device).outputs(subject.images).argmax(1) == TissueClass.TUMOR


def _maps(
    subject: Subject, model: Model, pixels: Tensor | None, at: tuple[int, str, HRCamHead]
) -> Iterator[tuple[str, int, str, NDArray[np.float32]]]:
    number, name, hrcam_head = at
    explainer = Explainer(model, subject.device, engine="torch")  # its weights change
    gradcam = explainer.gradcam(subject.images, pixels="predicted" if pixels is None else pixels)
    yield METHODS[0], number, name, _stacked(gradcam)
    yield METHODS[1], number, AUXILIARY if number == 1 else name, _stacked(explainer.hrcam(subject.images, hrcam_head))


def _stacked(saliencies: list[Saliency]) -> NDArray[np.float32]:
    return np.stack([saliency.values for saliency in saliencies])  # noqa: PD011 - no data frames


def derangement(count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return for each of `count` things another one: all of them in one random cycle."""
    cycle = rng.permutation(count)
    others = np.empty(count, np.int64)
    others[cycle] = np.roll(cycle, -1)
    return others


def map_correlation(
    maps: NDArray[np.float32], untouched: NDArray[np.float32], others: NDArray[np.int64]
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
    The absolute value of Pearson's coefficient with the same tile's untouched map, and with another tile's; `[n]`
    each, NaN where a map is constant.
    """
    return np.abs(pearson(maps, untouched)), np.abs(pearson(maps, untouched[others]))


def randomisation(subject: Subject, untouched: Maps, seed: tuple[int, ...], *, every_step: bool = True) -> pd.DataFrame:
    """Randomise a network once, and tell how much of its maps is left at each step.

    Parameters
    ----------
    subject
        The network and the tiles.
    untouched
        By method the maps of these tiles, `[n, h', w']`, signed.
    seed
        Numbers that decide the new weights, and the other tile of each.
    every_step
        See `randomise`.

    Returns
    -------
    `index` (of the tile, 0 to n - 1), `method`, `number`, `step`, `correlation`, `chance`.
    """
    rng = np.random.default_rng(seed)
    others = derangement(len(subject.images), rng)
    parts = []
    for method, number, step, maps in randomise(subject, int(rng.integers(2**32)), every_step=every_step):
        same, chance = map_correlation(maps, untouched[method], others)
        index = np.arange(len(maps))
        parts.append(pd.DataFrame({
            "index": index, "method": method, "number": number, "step": step, "correlation": same, "chance": chance,
        }))  # fmt: skip
    return pd.concat(parts, ignore_index=True)
