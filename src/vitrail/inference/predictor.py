"""Networks on images: standardise, run in batches without gradients, return plain arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from vitrail.classes import CLASSES
from vitrail.errors import ModelError
from vitrail.models.device import Precision, half_type, type_name
from vitrail.models.half_precision import is_faster
from vitrail.models.openvino import Compiled, use_openvino
from vitrail.models.preprocessing import FromBytes, Normalizer, intensities

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray
    from torch import Tensor

    from vitrail.interop.class_map import Channel
    from vitrail.models.spec import ModelSpec
    from vitrail.models.store import Model
    from vitrail.settings.schema import EngineName, PrecisionName

BATCH = 64
"""Images in one pass through a network, where the device's memory allows it."""

_TRIED = 16  # images that tell which type is faster


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Explaining:
    """A classifier that also says why.

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


class Predictor:
    """A trained model on a device, fed with images.

    Parameters
    ----------
    model
        What `load_model` returns; it is moved to the device and set to evaluation.
    device
        Where to run.
    calibrated
        Whether probabilities are of logits divided by the model's temperature; no class depends on it.
    engine
        What computes: OpenVINO, which `"auto"` takes on a CPU where it is installed, or torch.
    precision
        The type to compute in. `"auto"` takes 16 bits where the model's own check allows them and, on a CPU, where they
        were measured to be faster, see `vitrail.models.half_precision`; not with OpenVINO, which rounds other layers
        than the check has seen.
    explaining
        What runs in place of the model's own module, with the same weights; in float32, because in 16 bits the maps of
        single tiles were seen to correlate with those in 32 by no more than 0.9.

    Raises
    ------
    SettingsError
        OpenVINO is asked for, but not installed, or the device is no CPU.
    """

    def __init__(
        self,
        model: Model,
        device: torch.device,
        *,
        calibrated: bool = True,
        engine: EngineName = "auto",
        precision: PrecisionName = "auto",
        explaining: Explaining | None = None,
    ) -> None:
        self.spec, self.device = model.spec, device
        self._sharpness = 1 / model.spec.temperature if calibrated else 1.0
        module = explaining.module if explaining else model.module
        self.module = module.to(device).to(memory_format=torch.channels_last).eval()
        self._standardise = Normalizer(model.spec, device)
        self.methods = explaining.methods if explaining else {}
        self.channels = explaining.channels if explaining else {}
        self._batch = BATCH
        self._openvino = use_openvino(engine, device)
        self._to_try = False
        if explaining:
            self._use(torch.float32)
        elif precision == "auto":
            half = None if self._openvino else agreed_type(model.spec, device)
            self._to_try = half is not None and device.type == "cpu"
            self._use(half or torch.float32)
        else:
            self._use(torch.bfloat16 if precision == "bfloat16" else torch.float32)

    def _use(self, dtype: torch.dtype) -> None:
        """Compute in a type from now on."""
        self._precision, self._compiled = Precision(device=self.device, dtype=dtype), None
        if self._openvino:
            half = dtype == torch.bfloat16
            self._compiled = Compiled(FromBytes(self.module, self.spec).eval(), half=half)

    def _try(self) -> None:
        """Stay with 16 bits only where they are faster here."""
        self._to_try = False
        side, half = self.spec.side_px, self._precision.dtype
        images = np.random.default_rng(0).integers(0, 256, (_TRIED, side, side, 3), np.uint8)

        def work(dtype: torch.dtype) -> None:
            self._use(dtype)
            for _ in self._passes(images):
                pass

        self._use(half if is_faster(self.spec, lambda: work(half), lambda: work(torch.float32)) else torch.float32)

    @property
    def pools_globally(self) -> bool:
        """Whether the encoder weighs its channels by their means over the whole image: squeeze-and-excitation.

        Then the size of the image changes what it sees.
        """
        blocks = (module for name, module in self.module.named_modules() if name.endswith(".se"))  # timm's name
        return any(not isinstance(block, nn.Identity) for block in blocks)

    def outputs(self, images: NDArray[np.uint8]) -> Iterator[Tensor]:
        """Yield the network's float32 outputs for images `[n, h, w, 3]`, batch by batch.

        Where the device's memory is too small, batches are halved, from then on and down to single images. Torch keeps
        memory for each number of images that it has ever seen at once; so these are powers of two.

        Raises
        ------
        ModelError
            The memory is too small even for one image.
        """
        return (passed[0] for passed in self._passes(images))

    def _passes(self, images: NDArray[np.uint8]) -> Iterator[tuple[Tensor, ...]]:
        """Yield all outputs of the network, batch by batch."""
        if self._to_try:
            self._try()
        if self._compiled is not None:
            for start in range(0, len(images), BATCH):
                yield tuple(torch.from_numpy(each) for each in self._compiled(images[start : start + BATCH]))
            return
        start = 0
        while start < len(images):
            batch = images[start : start + min(self._batch, _power_of_two(len(images) - start))]
            output = self._output(batch)
            if output is None:
                self._halve(len(batch))
            else:
                start += len(batch)
                yield output

    @torch.inference_mode()
    def _output(self, images: NDArray[np.uint8]) -> tuple[Tensor, ...] | None:
        """Return the outputs of one pass, or None where the device's memory is too small for it."""
        try:
            batch = torch.tensor(images, device=self.device)
            with self._precision.autocast():
                output: Tensor | tuple[Tensor, ...] = self.module(self._standardise(intensities(batch)))
            return tuple(each.float() for each in (output if isinstance(output, tuple) else (output,)))
        except torch.cuda.OutOfMemoryError:
            return None

    def _halve(self, tried: int) -> None:
        if tried == 1:
            problem = f"{self.device.type} has too little memory for a single tile"
            raise ModelError(
                f"{self.spec.task} prediction", problem, 'Free its memory, or set compute.device = "cpu" in study.toml'
            )
        self._batch = tried // 2
        torch.cuda.empty_cache()  # does nothing where CUDA is not in use

    def tumor_logits(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Classify images `[n, h, w, 3]`; returns the classifier's logits as they are, `[n]`."""
        return np.concatenate([np.empty(0), *(logits.cpu().double().numpy() for logits in self.outputs(images))])

    def explained(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Classify images `[n, h, w, 3]`, one or more, and say why, in one pass; for an engine that is `explaining`.

        Returns
        -------
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
        """Return the probability of tumor that logits `[n]` stand for, `[n]`."""
        return torch.sigmoid(torch.from_numpy(logits) * self._sharpness).numpy()

    def tumor_probability(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Classify images `[n, h, w, 3]`; returns the probability of tumor, `[n]`."""
        return self.probability(self.tumor_logits(images))

    def pixel_classes(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Segment images `[n, h, w, 3]`; returns the likeliest class of each pixel, `[n, h, w]`."""
        outputs = [logits.argmax(1).byte().cpu().numpy() for logits in self.outputs(images)]
        return np.concatenate([np.empty((0, *images.shape[1:3]), np.uint8), *outputs])

    def class_probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Segment images `[n, h, w, 3]`; returns the probability of each class at each pixel, `[n, 4, h, w]`."""
        outputs = [torch.softmax(logits * self._sharpness, 1).cpu().numpy() for logits in self.outputs(images)]
        return np.concatenate([np.empty((0, len(CLASSES), *images.shape[1:3]), np.float32), *outputs])


def agreed_type(spec: ModelSpec, device: torch.device) -> torch.dtype | None:
    """Return the device's 16-bit type where the model was seen to agree in it with float32, else None."""
    half = half_type(device)
    seen = spec.half is not None and half is not None and spec.half.dtype == type_name(half)
    return half if seen and spec.half is not None and spec.half.agrees(spec.task) else None


def _power_of_two(number: int) -> int:
    """Return the largest power of two up to a number."""
    return 1 << (number.bit_length() - 1)
