"""The settings of a study: one frozen tree, read from `study.toml`.

The defaults are the paper's (Dörrich et al. 2023, Diagn Pathol 18:121); each carries the paper's sentence, or says
that the paper is silent. The descriptions become the comments of a new `study.toml`. The preset `quick` changes only
resolution, epochs, learning rates and the encoder, so that a study fits 2 CPU cores.
"""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import tomlkit
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from vitrail.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from pydantic.fields import FieldInfo
    from tomlkit import TOMLDocument

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Preset = Literal["paper", "quick"]


class Branch(BaseModel):
    """A group of settings: frozen, and a name that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SlideSettings(Branch):
    """How slides are read."""

    mpp: Positive | None = Field(None, description="um per level-0 pixel, for slides whose header gives none")


class AnnotationSettings(Branch):
    """Which outlines mean what. Case does not count; "Tumor: Invasive" is found under "Tumor"."""

    tumor: tuple[str, ...] = Field(
        ("Tumor",), description='Paper: "The tumor class includes both tumor cells and surrounding tumor stroma."'
    )
    non_tumor: tuple[str, ...] = Field(
        ("Non-tumor", "Non tumor"),
        description='Paper: "Tissues such as normal squamous epithelium, connective tissue, glands, muscle, and fat '
        'tissue were annotated as non-tumor."',
    )
    ignore: tuple[str, ...] = Field((), description="outlines with these names are left out")


class TileSettings(Branch):
    """How slides are cut into tiles."""

    side_um: Positive = Field(199.1, description='Paper: "we extracted tiles of size 199.1 µm ..."')
    side_px: Annotated[int, Field(ge=32)] = Field(224, description='Paper: "... and resized them to 224 pixels."')
    min_annotated: Annotated[float, Field(gt=0, le=1)] = Field(
        0.30, description='Paper: "non-overlapping tiles with at least 30% annotated pixels"'
    )
    max_tumor: Count = Field(
        125, description='Paper: "We decided to extract a maximum of 125 tumor and 500 non-tumor tiles from each slide"'
    )
    max_non_tumor: Count = Field(500, description="see max_tumor")
    white: Annotated[int, Field(ge=1, le=255)] = Field(
        220,
        description='Paper: "we added a background class for white background pixels". A pixel is white when all '
        "three channels reach this (the paper is silent)",
    )


class SplitSettings(Branch):
    """Sizes of the three parts; only their proportions count. Patients stay whole."""

    train: Positive = Field(
        70, description='Paper: "70 slides were used for training, 10 for validation, and 21 for testing."'
    )
    validation: Positive = Field(10, description="see train")
    test: Positive = Field(21, description="see train")


class EncoderSettings(Branch):
    """The encoder of both networks."""

    name: str = Field(
        "efficientnet_b0", description='Paper: "EfficientNet-B0 pre-trained on ImageNet". Any timm encoder by name'
    )
    weights: str = Field(
        "imagenet",
        description='"imagenet" (through timm, needs the network once), "embedded" (tf_efficientnet_lite0 only), '
        '"random", or the path of a .safetensors or .pth file, from this folder',
    )


class AugmentSettings(Branch):
    """Random changes of training tiles, and of their masks with them; 0 switches one off.

    Paper: "several transformations were randomly applied during training, including rotation, mirroring, and
    variations in hue, saturation, brightness, and contrast." It gives no strengths.
    """

    rotation_step_deg: Annotated[float, Field(ge=0, le=180)] = Field(
        90.0,
        description="tiles are turned by a random multiple of this; 90 moves pixels and keeps them, other angles "
        "interpolate, which blurs, and mirror the corners in",
    )
    mirror: Share = Field(0.5, description="probability, along each axis")
    hue: Annotated[float, Field(ge=0, le=0.5)] = Field(0.03, description="largest shift, in turns of the colour circle")
    saturation: Annotated[float, Field(ge=0, lt=1)] = Field(0.2, description="largest relative change")
    brightness: Annotated[float, Field(ge=0, lt=1)] = Field(0.15, description="largest relative change")
    contrast: Annotated[float, Field(ge=0, lt=1)] = Field(0.15, description="largest relative change")


class ClassifierSettings(Branch):
    """The classification network: encoder, global average pooling, dense layer, dropout, one logit."""

    dense: Count = Field(1024, description='Paper: "a global average pooling layer, a dense layer with 1024 neurons"')
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.5, description='Paper: "Dropout"; it gives no rate')
    blur_px: Annotated[float, Field(ge=0, le=8)] = Field(
        1.0,
        description='Paper: "In the training of the classification network, blurring and additive gaussian noise were '
        'also applied." Largest Gaussian sigma',
    )
    noise: Annotated[float, Field(ge=0, le=0.5)] = Field(
        0.02, description="see blur_px; largest standard deviation, of intensities from 0 to 1"
    )
    learning_rate: Positive = Field(1e-5, description='Paper: "The learning rate was set to 10^-5"')
    batch: Count = Field(128, description='Paper: "and the batch size to 128"')
    epochs: Count = Field(50, description="the paper is silent; the epoch with the lowest validation loss is kept")


class SegmenterSettings(Branch):
    """The segmentation network: a U-Net on the encoder, softmax over four classes, Jaccard loss."""

    decoder: Annotated[tuple[Count, ...], Field(min_length=5, max_length=5)] = Field(
        (256, 128, 64, 32, 16),
        description='Paper: "The decoder consists of five decoder blocks"; channels as in its library',
    )
    learning_rate: Positive = Field(1e-4, description='Paper: "using Adam optimizer with a learning rate of 10^-4"')
    batch: Count = Field(
        64, description='Paper: "We chose to minimize the Jaccard loss function and set the batch size to 64."'
    )
    epochs: Count = Field(50, description="the paper is silent; the epoch with the lowest validation loss is kept")


class PredictSettings(Branch):
    """What the trained networks are applied to, beside all tiles."""

    slides: Count = Field(
        3,
        description="test slides that are mapped as a whole, from the classifier's best to its worst; those with both "
        "classes come first",
    )


class ExplainSettings(Branch):
    """Grad-CAM and HR-CAM of both networks on every test tile."""

    classifier_layers: tuple[str, ...] = Field(
        (),
        description="layers that HR-CAM looks at, by name; none: the encoder's last map at each stride, and the final "
        "convolution (the paper's Table 1)",
    )
    segmenter_layers: tuple[str, ...] = Field((), description="see classifier_layers; none: without the final one")
    min_share: Annotated[float, Field(gt=0.5, le=1)] = Field(
        0.8,
        description='Paper: "We re-trained both models to classify tiles containing at least 80% tumor or 80% '
        'non-tumor ..."',
    )
    training: Literal["exact", "epochs"] = Field(
        "exact",
        description="of HR-CAM's dense layer over the frozen network. exact: each tile is pooled once, and the convex "
        "problem solved to convergence; epochs: as the paper did, with augmentation",
    )
    epochs: Count = Field(50, description='Paper: "... for 50 epochs"; for training = "epochs"')
    learning_rate: Positive = Field(1e-2, description='the paper is silent; for training = "epochs"')
    l2: Positive = Field(
        1e-3, description="penalty on the dense layer's weights over standardised features (the paper is silent)"
    )


class CheckSettings(Branch):
    """Whether the explanations are true: checks on some test tiles. The paper has none."""

    tiles: Count = Field(64, description="test tiles that are called tumor and are, drawn with the seed")
    steps: Annotated[int, Field(ge=2)] = Field(12, description="steps of the deletion and insertion curves")
    draws: Count = Field(2, description="times that the weights are randomised")


class EvaluationSettings(Branch):
    """How predictions become figures."""

    threshold: Share = Field(0.5, description='Paper: "assigning class labels with a threshold of 0.5"')


class ComputeSettings(Branch):
    """What the work runs on. These change how fast a result comes, and redo nothing."""

    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="auto takes a CUDA GPU where there is one"
    )
    workers: Annotated[int, Field(ge=0)] = Field(0, description="processes that cut slides; 0 means one a core")


class Settings(Branch):
    """All settings of a study."""

    seed: Annotated[int, Field(ge=0)] = Field(0, description="draws everything random")
    slides: SlideSettings = SlideSettings()
    annotations: AnnotationSettings = AnnotationSettings()
    tiles: TileSettings = TileSettings()
    split: SplitSettings = SplitSettings()
    encoder: EncoderSettings = EncoderSettings()
    augment: AugmentSettings = AugmentSettings()
    classifier: ClassifierSettings = ClassifierSettings()
    segmenter: SegmenterSettings = SegmenterSettings()
    predict: PredictSettings = PredictSettings()
    explain: ExplainSettings = ExplainSettings()
    check: CheckSettings = CheckSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    compute: ComputeSettings = ComputeSettings()

    @model_validator(mode="after")
    def _embedded_weights_fit(self) -> Self:
        if self.encoder.weights == "embedded" and self.encoder.name != EMBEDDED_ENCODER:
            raise ValueError(f'encoder.weights = "embedded" holds {EMBEDDED_ENCODER}, not {self.encoder.name}')
        return self


EMBEDDED_ENCODER = "tf_efficientnet_lite0"
"""The encoder whose ImageNet weights come with the installation."""

KEYWORDS = ("imagenet", "embedded", "random")
"""Values of `encoder.weights` that are no path."""

QUICK: dict[str, dict[str, Any]] = {
    "tiles": {"side_px": 96},
    "encoder": {"name": EMBEDDED_ENCODER, "weights": "embedded"},
    "classifier": {"learning_rate": 3e-4, "epochs": 8},
    "segmenter": {"learning_rate": 1e-3, "epochs": 6},
}
"""What `quick` changes: resolution, encoder, learning rates and epochs, nothing else."""


def preset(name: Preset) -> Settings:
    """Return the settings of a preset."""
    return Settings() if name == "paper" else Settings.model_validate(QUICK)


def read_settings(path: Path) -> Settings:
    """Read and check a `study.toml`.

    Raises
    ------
    SettingsError
        The file is missing, is no TOML, has a name that does not exist, or a value that it cannot have.
    """
    try:
        return Settings.model_validate(tomllib.loads(path.read_text(encoding="utf-8-sig")))
    except FileNotFoundError:
        raise SettingsError(
            path, "no such file", "Make a run folder with: vitrail init RUN --slides slides.csv"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(path, f"not valid TOML ({error})", "Mend that line") from None
    except ValidationError as error:
        raise _settings_error(path, error) from None


def settings_text(settings: Settings, title: str) -> str:
    """Return settings as the text of a commented `study.toml`."""
    lines = [f"# {line}" for line in title.splitlines()]
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        lines += [""] if isinstance(value, BaseModel) else ["", *_entry(name, value, field)]
        if isinstance(value, BaseModel):
            lines += _table(name, value)
    return "\n".join(lines) + "\n"


def changed_text(text: str, changes: Iterable[str]) -> str:
    """Return the text of a `study.toml` with `key=value` changes, its comments kept.

    Raises
    ------
    SettingsError
        A change is not `branch.key=value`, or names or gives what the settings cannot have.
    """
    document = tomlkit.parse(text)
    for change in changes:
        _apply(document, change)
    try:
        Settings.model_validate(document.unwrap())
    except ValidationError as error:
        raise _settings_error("--set", error) from None
    return tomlkit.dumps(document)


def change_settings(path: Path, changes: Iterable[str]) -> None:
    """Write `key=value` changes into a `study.toml`; it is whole at any moment.

    Raises
    ------
    SettingsError
        The file or a change is wrong; the file stays as it was.
    """
    read_settings(path)
    write_text(path, changed_text(path.read_text(encoding="utf-8-sig"), changes))


def write_text(path: Path, text: str) -> None:
    """Write a file under a temporary name and rename it, so that it is whole or absent."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _apply(document: TOMLDocument, change: str) -> None:
    key, equals, text = change.partition("=")
    *branch, name = key.strip().split(".")
    if not equals or not name or len(branch) > 1:
        raise SettingsError("--set", f"{change!r} is not key=value", "Write for example --set tiles.side_px=128")
    table = document.setdefault(branch[0], tomlkit.table()) if branch else document
    if not isinstance(table, dict):
        raise SettingsError(
            "--set", f"{branch[0]!r} is a value, not a group of settings", f"Write --set {branch[0]}=..."
        )
    table[name] = _value(text.strip())


def _value(text: str) -> Any:
    """Read a value as TOML; what is no TOML is taken for a string, so that quotes may be left out."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _settings_error(where: Path | str, error: ValidationError) -> SettingsError:
    first = error.errors(include_url=False, include_context=False)[0]
    place = [str(part) for part in first["loc"]]
    name = ".".join(place) or "study"
    if first["type"] == "extra_forbidden":
        return SettingsError(where, f"there is no setting {name!r}", _nearest(place))
    return SettingsError(
        where, f"{name} = {first['input']!r}: {first['msg']}" if place else first["msg"], "Mend this value"
    )


def _nearest(place: list[str]) -> str:
    """Say which names there are, the likeliest first."""
    from difflib import get_close_matches  # noqa: PLC0415 - only on the way to an error

    fields: Any = Settings.model_fields
    for part in place[:-1]:
        fields = fields[part].annotation.model_fields
    close = get_close_matches(place[-1], fields, n=1, cutoff=0.5)
    return f"Did you mean {close[0]!r}?" if close else f"There are: {', '.join(fields)}"


def _table(name: str, branch: BaseModel) -> list[str]:
    doc = [line.strip() for line in (type(branch).__doc__ or "").strip().splitlines()]
    lines = [f"[{name}]", *(f"# {line}".rstrip() for line in doc)]
    for key, field in type(branch).model_fields.items():
        lines += _entry(key, getattr(branch, key), field)
    return lines


def _entry(key: str, value: Any, field: FieldInfo) -> list[str]:
    comment = f"# {field.description}"
    if value is None:
        return [comment, f"# {key} ="]
    shown = tomlkit.item(list(value) if isinstance(value, tuple) else value).as_string()
    return [comment, f"{key} = {shown}"]
