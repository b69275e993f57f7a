"""The settings of a study: one frozen tree, read from `study.toml`.

Its groups are in `schema`; their descriptions become the comments of a new `study.toml`. Their defaults are the
preset `paper`: the paper's values wherever it has one. The preset `quick` fits a study to 2 CPU cores (resolution,
epochs, encoder, search grid), and departs from the paper where something else is better: see `QUICK`. `best` trains
several networks: see `BEST`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import tomlkit
from pydantic import BaseModel, Field, ValidationError, model_validator
from tomlkit.exceptions import TOMLKitError

from vitrail.core.files import write_text
from vitrail.errors import SettingsError
from vitrail.settings import schema
from vitrail.settings.toml import parsed_toml, toml_text

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tomlkit import TOMLDocument

Preset = Literal["paper", "quick", "best"]


class Settings(schema.Branch):
    """All settings of a study."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(0, description="draws everything random")
    slides: schema.SlideSettings = schema.SlideSettings()
    annotations: schema.AnnotationSettings = schema.AnnotationSettings()
    tiles: schema.TileSettings = schema.TileSettings()
    split: schema.SplitSettings = schema.SplitSettings()
    encoder: schema.EncoderSettings = schema.EncoderSettings()
    augment: schema.AugmentSettings = schema.AugmentSettings()
    classifier: schema.ClassifierSettings = schema.ClassifierSettings()
    segmenter: schema.SegmenterSettings = schema.SegmenterSettings()
    ensemble: schema.EnsembleSettings = schema.EnsembleSettings()
    predict: schema.PredictSettings = schema.PredictSettings()
    explain: schema.ExplainSettings = schema.ExplainSettings()
    check: schema.CheckSettings = schema.CheckSettings()
    nuclei: schema.NucleiSettings = schema.NucleiSettings()
    shift: schema.ShiftSettings = schema.ShiftSettings()
    evaluation: schema.EvaluationSettings = schema.EvaluationSettings()
    search: schema.SearchSettings = schema.SearchSettings()
    tissue: schema.TissueSettings = schema.TissueSettings()
    artefacts: schema.ArtefactSettings = schema.ArtefactSettings()
    compute: schema.ComputeSettings = schema.ComputeSettings()

    def decisive_values(self) -> list[Any]:
        """Return what decides results, as JSON: commands that share work must agree about it.

        Returns
        -------
        list[Any]
            All but how fast results come.
        """
        values = self.digest_values()
        del values["compute"]
        return [values, self.compute.named_precision]

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

HUB, FOLDER = "hf-hub:", "local-dir:"
"""What `encoder.name` begins with, where it is no name of timm's: a repository of a hub, a folder."""

KEYWORDS = ("imagenet", "embedded", "random")
"""Values of `encoder.weights` that are no path."""

_RECIPE: dict[str, Any] = {
    "optimizer": "adamw", "weight_decay": 0.01, "schedule": "one_cycle", "learning_rate": 1e-3, "batch": 32,
    "ema": 0.99, "keep": "last",
}  # fmt: skip

QUICK: dict[str, dict[str, Any]] = {
    "tiles": {"side_px": 96},
    "encoder": {"name": EMBEDDED_ENCODER, "weights": "embedded"},
    "augment": {"stain": 0.15, "stain_templates": 0.5},
    "classifier": {**_RECIPE, "activation": "relu", "epochs": 8},
    "segmenter": {**_RECIPE, "epochs": 6},
    "predict": {"window": 0, "overlap": 0.25, "background": False, "artefacts": True, "calibrated": True},
    "explain": {"methods": ("gradcam", "hrcam", "layercam", "deeplift"), "training": "exact", "l2": 1.0},
    "search": {"side_um": (99.6, 199.1), "side_px": (64, 96), "cut_px": 192, "folds": 3, "iterations": 1, "epochs": 4},
}
"""What `quick` changes.

For 2 CPU cores: resolution, encoder, epochs, the search's grid, HR-CAM's dense layer solved exactly instead of trained,
two more methods of explanation that take few passes, and no background tiles. Because the paper's way has a fault that
it names itself or that was measured: blended windows (it has tile-shaped borders), artefacts left out (it recommends
that), calibrated probabilities, a penalty on HR-CAM's weights, a dense layer with a ReLU; and a recipe of training that
was tried on hospitals that took no part in it (`python -m bench.recipes`)."""

BEST: dict[str, dict[str, Any]] = QUICK | {
    "classifier": {**QUICK["classifier"], "epochs": 10, "min_steps": 300},
    "segmenter": {**QUICK["segmenter"], "epochs": 10, "min_steps": 300, "layout": "timm"},
    "ensemble": {"folds": 5},
    "predict": {**QUICK["predict"], "symmetries": 8},
}
"""What `best` changes: as `quick`, with more epochs, five networks of each kind in the place of one, and eight looks.

On ORCA, each of two hospitals unseen, its classifier had an AUC of 0.87 where a plain script had 0.81, on one seed; its
segmenter was not shown to be better (`python -m bench.recipes`). Five classifiers took 7 times as long to train as one,
five segmenters 4 times; 40 looks at a tile take 43 times as long as one."""

_PRESETS: dict[Preset, dict[str, dict[str, Any]]] = {"paper": {}, "quick": QUICK, "best": BEST}


def preset(name: Preset) -> Settings:
    """Return the settings of a preset."""
    return Settings.model_validate(_PRESETS[name])


def read_settings(path: Path) -> Settings:
    """Read and check a `study.toml`.

    Parameters
    ----------
    path
        The file; where it is silent, defaults count.

    Returns
    -------
    Settings
        What it says.

    Raises
    ------
    SettingsError
        The file is missing or too large, is no TOML, has a name that does not exist, or a value that it cannot have.
    """
    return checked_settings(path, parsed_toml(path, toml_text(path, _NO_RUN)))


_NO_RUN = "Make a run folder with: vitrail init RUN --slides slides.csv"


def checked_settings(where: Path | str, values: dict[str, Any]) -> Settings:
    """Return the settings of parsed TOML.

    Parameters
    ----------
    where
        What an error names.
    values
        Of the TOML; where it is silent, defaults count.

    Returns
    -------
    Settings
        What it says.

    Raises
    ------
    SettingsError
        The first thing that is wrong.
    """
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
    path = [str(part) for part in first["loc"]]
    name = ".".join(path) or "study"
    if first["type"] != "extra_forbidden":
        problem = f"{name} = {_shown(first['input'])}: {first['msg']}" if path else first["msg"]
        raise SettingsError(where, problem, "Mend this value")
    from difflib import get_close_matches  # noqa: PLC0415 - only on the way to an error

    fields: Any = Settings.model_fields
    for part in path[:-1]:
        fields = fields[part].annotation.model_fields
    close = get_close_matches(path[-1], fields, n=1, cutoff=0.5)
    cure = f"Did you mean {close[0]!r}?" if close else f"There are: {', '.join(fields)}"
    raise SettingsError(where, f"there is no setting {_shown(name)}", cure)


def _shown(value: Any) -> str:
    """Return a value as a message shows it: its beginning where it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of more than 4,300 digits; lists within lists
        return "(too long to be shown)"
    return text if len(text) <= 80 else f"{text[:80]}..."


def settings_text(settings: Settings, title: str) -> str:
    """Return settings as the text of a commented `study.toml`, whose first comment is the title."""
    lines = [f"# {line}" for line in title.splitlines()]
    for name, field in Settings.model_fields.items():
        value, fields = getattr(settings, name), {name: field}
        lines.append("")
        if isinstance(value, BaseModel):
            comment = [line.strip() for line in (type(value).__doc__ or "").strip().splitlines()]
            lines += [f"[{name}]", *(f"# {line}".rstrip() for line in comment)]
            fields = type(value).model_fields
        for key, entry in fields.items():
            setting = getattr(value, key) if isinstance(value, BaseModel) else value
            lines.append(f"# {entry.description}")
            if setting is None:
                lines.append(f"# {key} =")
            else:
                item = tomlkit.item(list(setting) if isinstance(setting, tuple) else setting)
                lines.append(f"{key} = {item.as_string()}")
    return "\n".join(lines) + "\n"


def described_settings() -> dict[str, str]:
    """Return every setting as `--set` names it, with what it means.

    Returns
    -------
    dict[str, str]
        Descriptions by `group.key`, in the order of `study.toml`.
    """
    texts = dict[str, str]()
    for name, entry in Settings.model_fields.items():
        group = entry.annotation
        if isinstance(group, type) and issubclass(group, BaseModel):
            texts |= {f"{name}.{key}": own.description or "" for key, own in group.model_fields.items()}
        else:
            texts[name] = entry.description or ""
    return texts


def changed_text(text: str, changes: Iterable[str]) -> str:
    """Return the text of a `study.toml` with changes, its comments kept.

    Parameters
    ----------
    text
        TOML.
    changes
        Each `branch.key=value`; a value that is no TOML is taken for a string, so that its quotes may be left out.

    Returns
    -------
    str
        The changed TOML; its settings are valid.

    Raises
    ------
    SettingsError
        A change is not `branch.key=value`, or names or gives what the settings cannot have.
    """
    try:
        document = tomlkit.parse(text)
        for change in changes:
            apply_change(document, change)
        changed, values = tomlkit.dumps(document), document.unwrap()
    except TOMLKitError as error:
        cure = "Write the change into study.toml itself"
        raise SettingsError("--set", f"cannot be written between what is there ({error})", cure) from None
    checked_settings("--set", values)
    return changed


def changed_settings(path: Path, changes: Iterable[str]) -> Settings:
    """Return what `change_settings` would come to, and write nothing.

    Parameters
    ----------
    path, changes
        As of `change_settings`.

    Returns
    -------
    Settings
        The changed settings.

    Raises
    ------
    SettingsError
        The file or a change is wrong.
    """
    return checked_settings("--set", tomlkit.parse(changed_text(toml_text(path, _NO_RUN), changes)).unwrap())


def change_settings(path: Path, changes: Iterable[str]) -> None:
    """Write `key=value` changes into a `study.toml`; it is whole at any moment.

    Parameters
    ----------
    path
        The file.
    changes
        As of `changed_text`.

    Raises
    ------
    SettingsError
        The file or a change is wrong; the file stays as it was.
    """
    read_settings(path)
    write_text(path, changed_text(toml_text(path, _NO_RUN), changes))


def apply_change(document: TOMLDocument, change: str) -> None:
    """Write one `key=value` change into a parsed `study.toml`.

    Parameters
    ----------
    document
        The file; it is changed.
    change
        As of `changed_text`.

    Raises
    ------
    SettingsError
        It is not `key=value`, or its key names a group.
    """
    if len(change) > 2000:
        problem = f"{_shown(change)} has more than 2000 characters"
        raise SettingsError("--set", problem, "Write it into study.toml")
    if any("\ud800" <= letter <= "\udfff" for letter in change):  # bytes of the command line that are no UTF-8
        raise SettingsError("--set", f"{_shown(change)} is no text in UTF-8", "Write it in UTF-8")
    key, equals, text = change.partition("=")
    *branch, name = key.strip().split(".")
    if not equals or not name or len(branch) > 1:
        raise SettingsError("--set", f"{change!r} is not key=value", "Write for example --set tiles.side_px=128")
    table = document.setdefault(branch[0], tomlkit.table()) if branch else document
    if not isinstance(table, dict):
        cure = f"Write --set {branch[0]}=..."
        raise SettingsError("--set", f"{branch[0]!r} is a value, not a group of settings", cure)
    old, new = next((pair for pair in Settings.renamed().items() if key.strip() in pair), (key, key))
    # the file keeps the name that it has, and with it the comment above the line
    name = (old if old.rpartition(".")[2] in table else new).strip().rpartition(".")[2]
    try:
        table[name] = parsed_toml("--set", f"value = {text.strip()}")["value"]
    except SettingsError:
        table[name] = text.strip()


def old_names(path: Path | None, changes: Iterable[str]) -> list[str]:
    """Return a line for each setting that a `study.toml` or a change calls by an old name; both are understood.

    Parameters
    ----------
    path
        The file; None where there is none yet.
    changes
        As of `changed_text`.

    Raises
    ------
    SettingsError
        The file is missing, or is no TOML.
    """
    groups = parsed_toml(path, toml_text(path, _NO_RUN)) if path else {}
    names = {f"{group}.{key}" for group, keys in groups.items() if isinstance(keys, dict) for key in keys}
    names |= {change.partition("=")[0].strip() for change in changes}
    return [f"the setting {old} is now called {new}" for old, new in Settings.renamed().items() if old in names]
