"""The settings of a study: one frozen tree, read from `study.toml`.

Its groups are in `branches`; their descriptions become the comments of a new `study.toml`. Their defaults are the
preset `paper`: the paper's values wherever it has one. The preset `quick` fits a study to 2 CPU cores (resolution,
epochs, learning rates, encoder, search grid), and departs from the paper where something else is better: see `QUICK`.
"""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import tomlkit
from pydantic import BaseModel, Field, ValidationError, model_validator
from tomlkit.exceptions import TOMLKitError

from vitrail.core.files import read_regular, write_text
from vitrail.errors import SettingsError
from vitrail.settings.schema import (
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

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from pydantic.fields import FieldInfo
    from tomlkit import TOMLDocument

Preset = Literal["paper", "quick"]


class Settings(Branch):
    """All settings of a study."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(0, description="draws everything random")
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
    def _exact_solution_exists(self) -> Self:
        if self.explain.training == "exact" and not self.explain.l2:
            raise ValueError('explain.training = "exact" needs a penalty: set explain.l2 as well, to 1 for example')
        return self

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
    "classifier": {"activation": "relu", "learning_rate": 3e-4, "epochs": 8},
    "segmenter": {"learning_rate": 1e-3, "epochs": 6},
    "predict": {"window": 0, "overlap": 0.25, "background": False, "artefacts": True, "calibrated": True},
    "explain": {"training": "exact", "l2": 1.0},
    "search": {"side_um": (99.6, 199.1), "side_px": (64, 96), "cut_px": 192, "folds": 3, "iterations": 1, "epochs": 4},
}
"""What `quick` changes.

For 2 CPU cores: resolution, encoder, learning rates, epochs, the search's grid, HR-CAM's dense layer solved exactly
instead of trained, and no background tiles. Because the paper's way has a fault that it names itself or that was
measured: blended windows (it has tile-shaped borders), artefacts left out (it recommends that), calibrated
probabilities, a penalty on HR-CAM's weights, and a dense layer with a ReLU."""


def preset(name: Preset) -> Settings:
    """Return the settings of a preset."""
    return Settings() if name == "paper" else Settings.model_validate(QUICK)


def read_settings(path: Path) -> Settings:
    """Read and check a `study.toml`.

    Raises
    ------
    SettingsError
        The file is missing or too large, is no TOML, has a name that does not exist, or a value that it cannot have.
    """
    return _checked(path, _parsed(path, _text(path)))


MOST_SETTINGS_BYTES = 1 << 20
"""Of a `study.toml`; with all its comments it has 16 KiB."""


def _text(path: Path) -> str:
    cure = "Make a run folder with: vitrail init RUN --slides slides.csv"
    try:
        return read_regular(path, SettingsError, cure, MOST_SETTINGS_BYTES).decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise SettingsError(path, f"not a text in UTF-8 ({error})", "Save it as UTF-8") from None


def _parsed(where: Path | str, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(where, f"not valid TOML ({error})", "Mend that line") from None
    except ValueError:  # Python reads no number of more than 4,300 digits
        raise SettingsError(where, "not valid TOML (a number of thousands of digits)", "Mend that number") from None
    except RecursionError:
        raise SettingsError(where, "not valid TOML (lists within lists, too deep)", "Mend that list") from None


def _checked(where: Path | str, values: dict[str, Any]) -> Settings:
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise _settings_error(where, error) from None


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
    try:
        document = tomlkit.parse(text)
        for change in changes:
            _apply(document, change)
        changed, values = tomlkit.dumps(document), document.unwrap()
    except TOMLKitError as error:
        cure = "Write the change into study.toml itself"
        raise SettingsError("--set", f"cannot be written between what is there ({error})", cure) from None
    _checked("--set", values)
    return changed


def change_settings(path: Path, changes: Iterable[str]) -> None:
    """Write `key=value` changes into a `study.toml`; it is whole at any moment.

    Raises
    ------
    SettingsError
        The file or a change is wrong; the file stays as it was.
    """
    read_settings(path)
    write_text(path, changed_text(_text(path), changes))


def _apply(document: TOMLDocument, change: str) -> None:
    if len(change) > _LONGEST_CHANGE:
        problem = f"{_shown(change)} has more than {_LONGEST_CHANGE} characters"
        raise SettingsError("--set", problem, "Write it into study.toml")
    if any("\ud800" <= letter <= "\udfff" for letter in change):  # bytes of the command line that are no UTF-8
        raise SettingsError("--set", f"{_shown(change)} is no text in UTF-8", "Write it in UTF-8")
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
        return _parsed("--set", f"value = {text}")["value"]
    except SettingsError:
        return text


def _settings_error(where: Path | str, error: ValidationError) -> SettingsError:
    first = error.errors(include_url=False, include_context=False)[0]
    place = [str(part) for part in first["loc"]]
    name = ".".join(place) or "study"
    if first["type"] == "extra_forbidden":
        return SettingsError(where, f"there is no setting {_shown(name)}", _nearest(place))
    return SettingsError(
        where, f"{name} = {_shown(first['input'])}: {first['msg']}" if place else first["msg"], "Mend this value"
    )


_LONGEST_CHANGE, _LONGEST_SHOWN = 2000, 80


def _shown(value: Any) -> str:
    """Return a value as a message shows it: its beginning where it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of more than 4,300 digits; lists within lists
        return "(too long to be shown)"
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


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
