"""Networks on images: standardise, run in batches without gradients, return plain arrays."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from vitrail.classes import CLASSES, TissueClass
from vitrail.core.ahead import work_ahead
from vitrail.core.shown import Shown
from vitrail.errors import ModelError
from vitrail.models.batches import Batches, tumor_score
from vitrail.models.candidates import BATCH, Candidates, Tuning
from vitrail.models.device import Precision, cpu_threads, pick_device
from vitrail.models.ensemble import EachMember
from vitrail.models.openvino import Compiled
from vitrail.models.preprocessing import FromBytes
from vitrail.models.store import load_explained
from vitrail.models.symmetries import symmetries as symmetries_of_square
from vitrail.models.trial import LEAST_IMAGES, Trial

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from vitrail.interop.class_map import Channel
    from vitrail.models.openvino import EnginePrecision
    from vitrail.models.store import Model
    from vitrail.models.trial import Execution, TypeName
    from vitrail.settings.load import Settings
    from vitrail.settings.schema import EngineName, PrecisionName, Symmetries

_FORMATS = {"channels_last": "channels_last", "contiguous": "contiguous_format"}
_OPENVINO_TYPES: dict[TypeName, EnginePrecision] = {"float32": "f32", "bfloat16": "bf16"}

_STREAMS = 2
"""Calls at the same time on a processor."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Explaining:
    """A classifier that also says why, for images of one size.

    Attributes
    ----------
    module
        Maps standardised images `[n, 3, h, w]` to logits `[n]` and a map for each method, `[n, methods, h', w']`.
    methods
        By name, in the maps' order, what is to be said of each.
    channels
        By name, in the maps' order, how viewers show each.
    """

    module: nn.Module
    methods: Mapping[str, Mapping[str, Any]]
    channels: Mapping[str, Channel]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answers:
    """What a network says of some images: over all members of an ensemble, in all symmetries, together.

    Attributes
    ----------
    logits
        Their mean: `[n]` of a classifier, `[n, classes, h, w]` of a segmenter, float32.
    spread
        The standard deviation of their probabilities of tumor, `[n]` or `[n, h, w]`; NaN where there is one alone.
    sharpness
        By which logits are multiplied before they become probabilities.
    """

    logits: Tensor
    spread: Tensor
    sharpness: float

    @property
    def probabilities(self) -> Tensor:
        """Of tumor, `[n]`, in float64; or of each class, `[n, classes, h, w]`."""
        if self.logits.ndim == 1:
            return torch.sigmoid(self.logits.double() * self.sharpness)
        return torch.softmax(self.logits * self.sharpness, 1)


class _Looks:
    """Answers to the same images, one by one: mean logits, and the spread of probabilities by Welford's recurrence."""

    def __init__(self, sharpness: float) -> None:
        self._sharpness, self._count = sharpness, 0

    def add(self, logits: Tensor) -> None:
        """Count one answer, `[n, ...]`."""
        self._count += 1
        answer = Answers(logits=logits, spread=logits, sharpness=self._sharpness).probabilities
        tumor = answer if answer.ndim == 1 else answer[:, TissueClass.TUMOR]
        if self._count == 1:
            self._logits, self._mean, self._squares = logits.clone(), tumor.clone(), torch.zeros_like(tumor)
            return
        self._logits += logits
        off = tumor - self._mean
        self._mean += off / self._count
        self._squares += off * (tumor - self._mean)

    def answers(self) -> Answers:
        """Return all of them together."""
        spread = (self._squares / self._count).clamp_min(0).sqrt()
        return Answers(logits=self._logits / self._count, spread=spread, sharpness=self._sharpness)


class Predictor(Shown):
    """A trained model on a device, fed with images.

    Where the device's memory is too small, batches are halved, see `Batches`; every method that takes images raises a
    `ModelError` where it is too small even for one.

    Parameters
    ----------
    model
        What `load_model` returns; it is moved to the device and set to evaluation.
    device
        Where to run; None takes a CUDA GPU where there is one, else the CPU.
    calibrated
        Whether probabilities are of logits divided by the model's temperature; no class depends on it.
    engine
        What computes: OpenVINO, which `"auto"` takes on a CPU where it is installed, or torch.
    precision
        The type to compute in. `"auto"` takes 16 bits on a GPU where the model's own check allows them, and on a CPU
        where a trial says, too, that they are faster.
    tuning
        How many images the work has, and what else is said of how to compute. Before the first of many images, ways of
        computing are tried, see `vitrail.models.trial`, once for each network, size and machine.
    explaining
        What runs in place of the model's own module, with the same weights; in float32, because in 16 bits the maps of
        single tiles were seen to correlate with those in 32 by no more than 0.9. Its images are windows of many tiles,
        and OpenVINO gets them one by one.
    symmetries
        Of a square in which each image is shown; the mean of the logits, turned back, is what counts. One where there
        is `explaining`.

    Attributes
    ----------
    looks
        At each image: members of an ensemble by symmetries.
    execution
        How it computes; what a trial changes it changes before the first image.

    Raises
    ------
    SettingsError
        OpenVINO is asked for, but not installed, or the device is no CPU.
    """

    def __init__(
        self,
        model: Model,
        device: torch.device | None = None,
        *,
        calibrated: bool = True,
        engine: EngineName = "auto",
        precision: PrecisionName = "auto",
        tuning: Tuning | None = None,
        explaining: Explaining | None = None,
        symmetries: Symmetries = 1,
    ) -> None:
        self.device = device = device or pick_device("auto")
        self.spec, self._model = model.spec, model
        tuning = tuning or Tuning()
        self._like_this = partial(
            Predictor, device=device, calibrated=calibrated, engine=engine, precision=precision, tuning=tuning,
            symmetries=symmetries,
        )  # fmt: skip
        self.methods = explaining.methods if explaining else {}
        self.channels = explaining.channels if explaining else {}
        self._sharpness = 1 / model.spec.temperature if calibrated else 1.0
        self._explaining = explaining
        self._digest = "" if explaining else model.digest  # before the network is built for torch
        self._symmetries = symmetries_of_square(1 if explaining else symmetries)
        self.looks = 1 if explaining else model.spec.members * len(self._symmetries)
        self._batches = Batches(model.spec, device, BATCH, f"{model.spec.task} prediction")
        self._candidates = Candidates(model.spec, device, engine, precision, tuning, explains=explaining is not None)
        self._untried = tuning.images >= LEAST_IMAGES and not explaining
        self._chosen: Execution | None = None
        self._compiled_ways: dict[Execution, Compiled] = {}
        self._use(self._candidates.default)

    def __repr__(self) -> str:
        return f"<Predictor of a {self.spec.task}: {self.spec.encoder}, {self.computes}>"

    @property
    def computes(self) -> str:
        """How and where it computes, in a few words."""
        return f"{self.execution.engine} in {self.execution.precision} on {self.device}"

    @classmethod
    def of_settings(
        cls, model: Model, settings: Settings, explaining: Explaining | None = None, *, images: int = 0
    ) -> Predictor:
        """Make a predictor as the branches `compute` and `predict` of the settings say.

        Parameters
        ----------
        model
            What `load_model` returns.
        settings
            The whole of `compute`, symmetries, and whether probabilities are calibrated.
        explaining
            What runs in place of the model's own module.
        images
            How many the whole work has, about, see `Tuning`.

        Returns
        -------
        Predictor
            On the settings' device.

        Raises
        ------
        SettingsError
            The device or OpenVINO is asked for, but not there.
        """
        compute = settings.compute
        tuning = Tuning(
            images=images, threads=compute.threads, batch=compute.batch, memory_format=compute.memory_format
        )
        return cls(
            model,
            pick_device(compute.device),
            engine=compute.engine,
            precision=compute.precision,
            tuning=tuning,
            calibrated=settings.predict.calibrated,
            explaining=explaining,
            symmetries=settings.predict.symmetries,
        )

    def member(self, number: int) -> Predictor:
        """Return a predictor like this of one member of an ensemble alone, which shares its weights."""
        return self._like_this(self._model.member(number))

    @cached_property
    def module(self) -> nn.Module:
        """The network, or what explains it, on the device; it need not be built where it is compiled already."""
        module = self._explaining.module if self._explaining else self._model.module
        with torch.inference_mode(mode=False):  # it may be asked for within; its weights are for more than inference
            return module.to(self.device).to(memory_format=torch.channels_last).eval()

    @cached_property
    def _asked(self) -> nn.Module:
        return self.module if self._explaining else EachMember(self.module)

    @property
    def pools_globally(self) -> bool:
        """Whether all of an image bears on every place of it: squeeze-and-excitation, or attention.

        Then the size of the image changes what the encoder sees.
        """
        if getattr(self.module, "patch_px", None):
            return True
        blocks = (module for name, module in self.module.named_modules() if name.endswith(".se"))  # timm's name
        return any(not isinstance(block, nn.Identity) for block in blocks)

    def streams(self) -> int:
        """Tell how many threads had best ask at the same time; what is still to be tried is tried before.

        On a processor a second one computes while the first prepares its images or gives away its results, and, with
        torch, while threads that share a layer of the first wait for each other: where other work takes a core away
        from one of them, the others stand still. Torch explains alone, since large windows need much memory; and
        a network that takes its maps by hooks, such as a U-Net of the paper's layout, is asked by one.
        """
        if self._untried:
            self.expect(LEAST_IMAGES)
        if self._compiled is not None:
            return _STREAMS
        alone = self.device.type != "cpu" or self.execution.threads == 1 or self._explaining
        return 1 if alone or _keeps_calls(self.module) else _STREAMS

    def expect(self, images: int) -> None:
        """Compute what comes next, such as a slide, in the way that is best for so many images.

        Parameters
        ----------
        images
            How many, about. The way must not depend on what was done of them before: say the number of all, also where
            a killed work goes on.
        """
        self._untried = False
        if images < LEAST_IMAGES:
            self._use(self._candidates.default)
            return
        if self._chosen is None:
            self._chosen = self._fastest()
        self._use(self._chosen)

    def outputs(self, images: NDArray[np.uint8]) -> Iterator[Tensor]:
        """Yield the network's float32 logits for images `[n, h, w, 3]`, batch by batch."""
        return (answers.logits for answers in self.answers(images))

    def answers(self, images: NDArray[np.uint8]) -> Iterator[Answers]:
        """Yield what the network says of images, batch by batch.

        Parameters
        ----------
        images
            `[n, h, w, 3]`, bytes.

        Yields
        ------
        Answers
            Of all members in all symmetries together.
        """
        if self.looks == 1:
            for outputs, *_ in self._passes(images):
                logits = outputs if self._explaining else outputs[:, 0]
                spread = torch.full_like(logits if logits.ndim == 1 else logits[:, 0], torch.nan)
                yield Answers(logits=logits, spread=spread, sharpness=self._sharpness)
            return
        for start in range(0, len(images), BATCH):
            looks = _Looks(self._sharpness)
            for symmetry in self._symmetries:
                shown = symmetry.apply(images[start : start + BATCH])
                every = torch.cat([outputs for (outputs, *_) in self._passes(shown)])
                for logits in every.unbind(1):
                    looks.add(symmetry.undo(logits) if logits.ndim > 1 else logits)
            yield looks.answers()

    def tumor_logits(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Classify images `[n, h, w, 3]`; returns the classifier's logits as they are, `[n]`."""
        return np.concatenate([np.empty(0), *(logits.cpu().double().numpy() for logits in self.outputs(images))])

    def explained(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Classify images and say why; only with `explaining`.

        Parameters
        ----------
        images
            `[n, h, w, 3]`, one or more.

        Returns
        -------
        tuple[NDArray[np.float64], NDArray[np.float32]]
            The logits `[n]`, and a map for each of `methods`, `[n, methods, h', w']`.

        Raises
        ------
        ModelError
            A map is not finite, or the memory is too small.
        """
        logits, maps = zip(*self._passes(images), strict=True)
        values = torch.cat(maps).cpu().numpy()
        if not np.isfinite(values).all():
            cure = "Train it again, with classifier.learning_rate lower"
            raise ModelError("classifier", "its explanations are not finite", cure)
        return torch.cat(logits).cpu().double().numpy(), values

    def probability(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the probability of tumor that a classifier's logits `[n]` stand for, `[n]`."""
        return tumor_score(torch.from_numpy(logits), self._sharpness)

    def tumor_probability(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return the tumor probability of images; of a segmenter the share of the pixels that it calls tumor.

        Parameters
        ----------
        images
            `[n, h, w, 3]`, bytes.

        Returns
        -------
        NDArray[np.float64]
            `[n]`, from 0 to 1.
        """
        return np.concatenate([np.empty(0), *(tumor_score(out, self._sharpness) for out in self.outputs(images))])

    def pixel_classes(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Segment images `[n, h, w, 3]`; returns the likeliest class of each pixel, `[n, h, w]`."""
        classes = [logits.argmax(1).byte().cpu().numpy() for logits in self.outputs(images)]
        return np.concatenate([np.empty((0, *images.shape[1:3]), np.uint8), *classes])

    def class_probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Segment images `[n, h, w, 3]`; returns the probability of each class at each pixel, `[n, 4, h, w]`."""
        outputs = [torch.softmax(logits * self._sharpness, 1).cpu().numpy() for logits in self.outputs(images)]
        return np.concatenate([np.empty((0, len(CLASSES), *images.shape[1:3]), np.float32), *outputs])

    def _passes(self, images: NDArray[np.uint8]) -> Iterator[tuple[Tensor, ...]]:
        """Yield all outputs of the network, batch by batch."""
        if self._untried:
            self.expect(LEAST_IMAGES)
        if self._compiled is None:
            yield from self._batches.run(images, self._forward)
            return
        for start in range(0, len(images), BATCH):
            yield tuple(torch.from_numpy(output) for output in self._compiled(images[start : start + BATCH]))

    @torch.inference_mode()
    def _forward(self, _rows: slice, batch: Tensor) -> tuple[Tensor, ...]:
        with cpu_threads(self.execution.threads), self._precision.autocast():
            outputs: Tensor | tuple[Tensor, ...] = self._asked(batch.contiguous(memory_format=self._memory_format))
        return tuple(each.float() for each in (outputs if isinstance(outputs, tuple) else (outputs,)))

    def _fastest(self) -> Execution:
        """Return the way of computing that is fastest, or was when that was measured."""
        candidates, side = self._candidates, self.spec.side_px
        noise = np.random.default_rng(0).integers(0, 256, (candidates.images, side, side, 3), np.uint8)

        def look(images: NDArray[np.uint8]) -> None:
            for outputs in self._passes(images):
                outputs[0].cpu()  # a GPU is waited for

        def run(execution: Execution) -> None:
            self._use(execution)
            streams = self.streams()
            with closing(work_ahead(look, np.array_split(noise, streams), streams, streams)) as looked:
                for _ in looked:
                    pass

        trial = Trial(
            title=candidates.title,
            conditions=candidates.conditions,
            default=candidates.default,
            steps=candidates.steps,
            work=lambda execution: partial(run, execution),
            images=candidates.images,
        )
        chosen = trial.choose()
        self._compiled_ways = {way: made for way, made in self._compiled_ways.items() if way in {chosen, trial.default}}
        return chosen

    def _use(self, execution: Execution) -> None:
        """Compute in a way from now on."""
        self._compiled: Compiled | None = None
        if execution.engine == "openvino":
            if execution not in self._compiled_ways:
                self._compiled_ways[execution] = Compiled(
                    lambda: FromBytes(self._asked, self.spec).eval(),
                    precision=_OPENVINO_TYPES[execution.precision],
                    block=execution.batch,
                    threads=execution.threads,
                    digest=self._digest,
                )
            self._compiled = self._compiled_ways[execution]
        else:
            self._precision = Precision(device=self.device, dtype=getattr(torch, execution.precision))
            self._memory_format: torch.memory_format = getattr(torch, _FORMATS[execution.memory_format])
            self._batches.size = execution.batch
            self.module.to(memory_format=self._memory_format)
        self.execution = execution


def _keeps_calls(module: nn.Module) -> bool:
    """Tell whether a network keeps what it sees beside its weights, so that two calls at once would mix."""
    hooked = any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())  # noqa: SLF001 - torch has no other way to ask
    return hooked or any(getattr(part, "one_at_a_time", False) for part in module.modules())


def explaining_predictors(
    folder: Path, settings: Settings, explaining: Callable[..., Explaining]
) -> Callable[[int], Predictor]:
    """Return what makes, and keeps, a predictor that explains for windows of so many tiles a side.

    Parameters
    ----------
    folder
        Of the classifier; it is loaded for each size, since one that predicts is on its device. Of an ensemble its
        representative member is explained.
    settings
        As for `Predictor.of_settings`.
    explaining
        Takes a model, and `tiles`, and makes it say why.
    """

    @cache
    def predictor(tiles: int) -> Predictor:
        model = load_explained(folder)
        return Predictor.of_settings(model, settings, explaining(model, tiles=tiles))

    return predictor
