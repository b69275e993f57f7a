"""What a model is besides its weights: the validated content of `model.json`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from vitrail import __version__
from vitrail.classes import CLASSES

Task = Literal["classifier", "segmenter"]
ClassKey = Literal["tumor", "non_tumor", "other", "background"]
FourClasses = tuple[Literal["tumor"], Literal["non_tumor"], Literal["other"], Literal["background"]]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Channels = tuple[float, float, float]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TrainingInfo(_Part):
    """How a model was trained.

    Attributes
    ----------
    epochs
        Epochs trained.
    best_epoch
        The epoch whose weights these are, counted from 1.
    validation_loss
        Its loss on the validation tiles.
    seed
        The study's seed.
    """

    epochs: Annotated[int, Field(ge=1)]
    best_epoch: Annotated[int, Field(ge=1)]
    validation_loss: float
    seed: int


class ModelSpec(_Part):
    """What both tasks share; read from `model.json` as a `ClassifierSpec` or a `SegmenterSpec`.

    Attributes
    ----------
    task
        `classifier` or `segmenter`.
    encoder
        The timm name.
    classes
        Keys of `TissueClass`, in the order of the network's outputs; each task allows one order only, the one that
        predictions are read in.
    side_um, side_px
        Side of a tile in micrometres and in pixels of the network's input.
    mean, std
        Per colour channel, of intensities 0 to 1: inputs are `(x - mean) / std`.
    vitrail
        The version that wrote it.
    training
        How it was trained; none for an untrained module.
    """

    task: Task
    encoder: Annotated[str, Field(min_length=1)]
    classes: tuple[ClassKey, ...]
    side_um: Positive
    side_px: Annotated[int, Field(ge=1)]
    mean: Channels
    std: tuple[Positive, Positive, Positive]
    vitrail: str = __version__
    training: TrainingInfo | None = None

    @property
    def mpp(self) -> float:
        """Micrometres per pixel of the network's input."""
        return self.side_um / self.side_px


class ClassifierSpec(ModelSpec):
    """A classifier: one logit, whose sigmoid is the probability of tumor.

    Attributes
    ----------
    dense
        Neurons of the dense layer.
    dropout
        Rate of the dropout behind it.
    """

    task: Literal["classifier"] = "classifier"
    classes: tuple[Literal["tumor"]] = ("tumor",)
    dense: Annotated[int, Field(ge=1)]
    dropout: Annotated[float, Field(ge=0, lt=1)]


class SegmenterSpec(ModelSpec):
    """A segmenter: a logit per pixel and class, whose softmax are the probabilities.

    Attributes
    ----------
    decoder
        Channels of the five decoder blocks, deepest first.
    """

    task: Literal["segmenter"] = "segmenter"
    classes: FourClasses = Field(default=tuple(tissue.key for tissue in CLASSES), validate_default=True)
    decoder: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=5, max_length=5)]


AnySpec: TypeAdapter[ClassifierSpec | SegmenterSpec] = TypeAdapter(
    Annotated[ClassifierSpec | SegmenterSpec, Field(discriminator="task")]
)
"""Reads either kind of specification, told apart by `task`."""
