"""What a model is besides its weights: the validated content of `model.json`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from vitrail import __version__
from vitrail.classes import CLASSES, Task
from vitrail.core.files import read_regular
from vitrail.errors import ModelError
from vitrail.quality.appearance import TrainingAppearance  # noqa: TC001 - pydantic reads it
from vitrail.settings.schema import (  # noqa: TC001 - pydantic reads them
    Activation,
    Architecture,
    DecoderChannels,
    Layout,
    Neurons,
    Positive,
    Reading,
    SideUm,
    StainNormalisation,
    UnlabelledTissue,
)

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import SerializerFunctionWrapHandler

ClassKey = Literal["tumor", "non_tumor", "other", "background"]
FourClasses = tuple[Literal["tumor"], Literal["non_tumor"], Literal["other"], Literal["background"]]
Share = Annotated[float, Field(ge=0, le=1)]
Deviation = Annotated[float, Field(ge=1e-4, le=100)]

Scalar = int | float | bool | str | None
Arguments = tuple[tuple[str, Scalar | tuple[Scalar, ...]], ...]
"""What a network of timm is built with beside its name: pairs of name and value."""

ARGUMENTS = frozenset(
    {
        "act_layer", "attn_norm", "class_token", "depth", "depths", "dims", "embed_dim", "embed_norm", "final_norm",
        "fc_norm", "global_pool", "img_size", "init_values", "layer_scale_init_value", "mlp_layer", "mlp_ratio",
        "no_embed_class", "norm_layer", "num_heads", "num_reg_tokens", "patch_size", "pos_embed", "pre_norm",
        "proj_bias", "qk_norm", "qkv_bias", "qkv_fused", "ref_feat_shape", "reg_tokens", "rope_type",
        "scale_attn_inner", "scale_mlp", "scale_mlp_norm", "swiglu_mlp", "use_fc_norm", "use_post_norm",
        "use_rot_pos_emb", "use_abs_pos_emb", "weight_init",
    }
)  # fmt: skip
"""Names that are allowed there: shapes and layers, nothing that reads files or loads weights."""

MOST_SPEC_BYTES = 1 << 20
"""Of a `model.json`; those that are written here have a few KiB."""

MOST_CHANGED = 0.001
"""Share of tiles that a 16-bit type may call otherwise than float32."""

MOST_MOVED = 0.01
"""By how much it may move any tile's tumor probability."""

MOST_PIXELS = 0.002
"""Share of a segmenter's pixels that it may call otherwise."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out fields of later versions that say nothing, so that a file of before would be written again."""
        values: dict[str, Any] = dump(self)
        for name, field in type(self).model_fields.items():
            extra = field.json_schema_extra
            if isinstance(extra, dict) and "since" in extra and getattr(self, name) == field.get_default():
                values.pop(name, None)
        return values


class Colours(_Strict):
    """What a network's inputs are standardised with: `(x - mean) / std` of intensities 0 to 1.

    Attributes
    ----------
    mean, std
        Per colour channel.
    """

    mean: tuple[Share, Share, Share]
    std: tuple[Deviation, Deviation, Deviation]


class ReadingInfo(_Strict):
    """How the slides were read that a model learned from, and so how slides are read for it.

    Attributes
    ----------
    mode
        See `SlideSettings.reading`.
    filter
        How pixels are reduced to the network's input.
    stain
        How their colours were normalised, see `SlideSettings.stain`.
    """

    mode: Reading = "fast"
    filter: Literal["area"] = "area"
    stain: StainNormalisation = Field("none", json_schema_extra={"since": "0.3.0"})


class LabelsInfo(_Strict):
    """Where labels came from that nobody drew.

    Attributes
    ----------
    unlabelled_tissue
        What tissue outside the outlines was, see `AnnotationSettings.unlabelled_tissue`.
    margin_um
        How far from the outlines of tumor, at least.
    """

    unlabelled_tissue: UnlabelledTissue
    margin_um: Annotated[float, Field(ge=0, le=10_000)]


class TrainingInfo(_Strict):
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
    precision
        The type it was computed in; none where that was not stored.
    appearance
        What the training slides look like; none of fewer than three patients, and where it was not stored.
    """

    epochs: Annotated[int, Field(ge=1)]
    best_epoch: Annotated[int, Field(ge=1)]
    validation_loss: float
    seed: int
    precision: Literal["float32", "bfloat16", "float16"] | None = None
    appearance: TrainingAppearance | None = None


class HalfCheck(_Strict):
    """How far a network's answers move where it computes in a 16-bit type, on validation tiles.

    Attributes
    ----------
    dtype
        The type.
    tiles
        How many were compared with float32.
    largest
        Largest difference of a tile's tumor probability; the segmenter's is its share of tumor pixels.
    changed
        Share of the tiles that are called otherwise at a threshold of one half.
    pixels
        Share of all pixels that a segmenter calls otherwise; none of a classifier, and where nobody has looked.
    """

    dtype: Literal["bfloat16", "float16"]
    tiles: Annotated[int, Field(ge=1)]
    largest: Share
    changed: Share
    pixels: Share | None = None

    def agrees(self, task: Task) -> bool:
        """Tell whether so little changes that the type may be used for predictions; unseen pixels count as changed."""
        pixels = self.pixels if task == "segmenter" else 0.0
        few = pixels is not None and pixels <= MOST_PIXELS
        return few and self.changed <= MOST_CHANGED and self.largest <= MOST_MOVED


class EncoderSource(_Strict):
    """Where an encoder came from, and what is known of its weights.

    Attributes
    ----------
    name
        `encoder.name` of the study: timm's name, `hf-hub:owner/name`, or `local-dir:` and a folder's name.
    weights
        What it started from: `pretrained` (those of its name), `embedded`, `random`, or `file`.
    frozen
        Whether it kept them.
    licence
        Of these weights, as far as it is known; `unknown` elsewhere.
    restricts
        What that licence restricts, in words.
    mean, std
        What its images had been standardised by before, where its configuration says.
    """

    name: Annotated[str, Field(min_length=1, max_length=300)]
    weights: Literal["pretrained", "embedded", "random", "file"]
    frozen: bool = False
    licence: Annotated[str, Field(max_length=200)] = "unknown"
    restricts: Annotated[str, Field(max_length=400)] = ""
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None

    @property
    def terms(self) -> str:
        """The licence, and what it restricts."""
        return f"{self.licence}, which {self.restricts}" if self.restricts else self.licence


class ModelSpec(_Strict):
    """What both tasks share; read from `model.json` as a `ClassifierSpec` or a `SegmenterSpec`.

    Attributes
    ----------
    task
        `classifier` or `segmenter`.
    encoder
        The timm name.
    encoder_arguments
        What it is built with beside that.
    encoder_source
        Where it came from; none in what was written before it was stored.
    classes
        Keys of `TissueClass`, in the order of the network's outputs; each task allows one order only, the one that
        predictions are read in.
    side_um, side_px
        Side of a tile in micrometres and in pixels of the network's input.
    mean, std
        Per colour channel, of intensities 0 to 1: inputs are `(x - mean) / std`.
    reading
        How slides are read. What was written before it was stored had been read from the stored levels, as `fast` does.
    labels
        What it was told though nobody drew it; none where people outlined all that it learned from.
    vitrail
        The version that wrote it.
    training
        How it was trained; none for an untrained module.
    temperature
        What logits are divided by for calibrated probabilities, fitted on the validation tiles; 1 where it was not.
    half
        Whether a 16-bit type of torch would do; none where nobody has looked.
    half_openvino
        The same of OpenVINO's, which rounds other layers.
    members
        Networks whose mean logits count: more than one are an ensemble, see `vitrail.models.ensemble`.
    representative
        The member, from 0, that is explained in place of an ensemble, and that `training` tells of.
    colours
        Of an ensemble what each member standardises its inputs with, where members differ; none where all take `mean`
        and `std`, which are what the ensemble as a whole is given.
    """

    task: Task
    encoder: Annotated[str, Field(min_length=1, max_length=200)]
    encoder_arguments: Arguments = Field((), json_schema_extra={"since": "0.3.0"})
    encoder_source: EncoderSource | None = Field(None, json_schema_extra={"since": "0.3.0"})
    classes: tuple[ClassKey, ...]
    side_um: SideUm
    side_px: Annotated[int, Field(ge=1, le=4096)]
    mean: tuple[Share, Share, Share]
    std: tuple[Deviation, Deviation, Deviation]
    reading: ReadingInfo = ReadingInfo()
    labels: LabelsInfo | None = Field(None, json_schema_extra={"since": "0.3.0"})
    vitrail: str = __version__
    training: TrainingInfo | None = None
    temperature: Positive = 1.0
    half: HalfCheck | None = None
    half_openvino: HalfCheck | None = Field(None, json_schema_extra={"since": "0.3.0"})
    members: Annotated[int, Field(ge=1, le=1000)] = Field(1, json_schema_extra={"since": "0.3.0"})
    representative: Annotated[int, Field(ge=0)] = Field(0, json_schema_extra={"since": "0.3.0"})
    colours: tuple[Colours, ...] = Field((), json_schema_extra={"since": "0.3.0"})

    @model_validator(mode="after")
    def _members_fit(self) -> Self:
        if self.representative >= self.members:
            raise ValueError(f"representative {self.representative} is none of {self.members} members, from 0")
        if self.colours and len(self.colours) != self.members:
            raise ValueError(f"{len(self.colours)} colours for {self.members} members")
        return self

    @property
    def represented(self) -> str:
        """Which member of an ensemble explanations are about, in words; empty of a single network."""
        return f"network {self.representative + 1} of {self.members}" if self.members > 1 else ""

    @field_validator("encoder_arguments")
    @classmethod
    def _only_shapes(cls, arguments: Arguments) -> Arguments:
        for name, _ in arguments:
            if name not in ARGUMENTS:
                raise ValueError(f"{name[:80]!r} is none of what encoders are built with")
        return arguments

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
    activation
        Of the dense layer; `relu` in what was written before it was stored.
    """

    task: Literal["classifier"] = "classifier"
    classes: tuple[Literal["tumor"]] = ("tumor",)
    dense: Neurons
    dropout: Annotated[float, Field(ge=0, lt=1)]
    activation: Activation = "relu"


class SegmenterSpec(ModelSpec):
    """A segmenter: a logit per pixel and class, whose softmax are the probabilities.

    Attributes
    ----------
    decoder
        Channels of the five blocks of a U-Net's decoder, deepest first; other architectures have their own.
    layout
        Where the encoder's feature maps are taken, see `vitrail.models.segmenter`; what was written before there were
        two had been `timm`.
    architecture
        What follows the encoder.
    head_px
        Side of the last convolution's kernel. The paper's is 1; what was written before it was stored had 3.
    """

    task: Literal["segmenter"] = "segmenter"
    classes: FourClasses = Field(default=tuple(tissue.key for tissue in CLASSES), validate_default=True)
    decoder: Annotated[tuple[DecoderChannels, ...], Field(min_length=5, max_length=5)]
    layout: Layout = "timm"
    architecture: Architecture = Field("unet", json_schema_extra={"since": "0.3.0"})
    head_px: Literal[1, 3] = 3


AnySpec: TypeAdapter[ClassifierSpec | SegmenterSpec] = TypeAdapter(
    Annotated[ClassifierSpec | SegmenterSpec, Field(discriminator="task")]
)
"""Reads either kind of specification, told apart by `task`."""


def read_spec(path: Path) -> ClassifierSpec | SegmenterSpec:
    """Read a `model.json`.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    ClassifierSpec | SegmenterSpec
        As its `task` says.

    Raises
    ------
    ModelError
        It is missing, too large or not valid.
    """
    content = read_regular(path, ModelError, "Give the folder of a trained model", MOST_SPEC_BYTES)
    try:
        return AnySpec.validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        field = ".".join(str(part) for part in first["loc"] if part not in {"classifier", "segmenter"})
        raise ModelError(path, f"{field[:80] or 'content'}: {first['msg']}", "Mend this field") from None
