"""The settings of a study: one frozen tree, read from `study.toml`.

Its groups are in `branches`; their descriptions become the comments of a new `study.toml`. The preset `quick` changes
only resolution, epochs, learning rates, the encoder and the search's grid, so that a study fits 2 CPU cores.
"""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import tomlkit
from pydantic import BaseModel, Field, ValidationError, model_validator

from vitrail.branches import (
    AnnotationSettings,
    ArtefactSettings,
    AugmentSettings,
    Branch,
    CheckSettings,
    ClassifierSettings,
    ComputeSettings,
    EncoderSettings,
    EvaluationSettings,
    ExplainSettings,
    PredictSettings,
    SearchSettings,
    SegmenterSettings,
    SlideSettings,
    SplitSettings,
    TileSettings,
    TissueSettings,
)
from vitrail.errors import SettingsError
from vitrail.files import write_text

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from pydantic.fields import FieldInfo
    from tomlkit import TOMLDocument

Preset = Literal["paper", "quick"]


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
    search: SearchSettings = SearchSettings()
    tissue: TissueSettings = TissueSettings()
    artefacts: ArtefactSettings = ArtefactSettings()
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
    "search": {"side_um": (99.6, 199.1), "side_px": (64, 96), "cut_px": 192, "folds": 3, "iterations": 1, "epochs": 4},
}
"""What `quick` changes: resolution, encoder, learning rates, epochs and the search's grid, nothing else."""


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
