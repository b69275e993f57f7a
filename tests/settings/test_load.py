from __future__ import annotations

import ast

import pytest
from pydantic import Field, ValidationError

from vitrail.core.digest import json_digest
from vitrail.errors import SettingsError
from vitrail.settings.load import QUICK, Settings, change_settings, old_names, preset, read_settings, settings_text
from vitrail.settings.schema import Branch


@pytest.fixture
def study(tmp_path):
    (tmp_path / "study.toml").write_text(settings_text(preset("paper"), "A title"))
    return tmp_path / "study.toml"


@pytest.mark.parametrize("name", ["paper", "quick", "best"])
def test_a_preset_survives_its_file(tmp_path, name):
    (tmp_path / "study.toml").write_text(settings_text(preset(name), "A title"))
    assert read_settings(tmp_path / "study.toml") == preset(name)


def test_paper_holds_the_papers_figures():
    paper = preset("paper")
    assert (paper.tiles.side_um, paper.tiles.side_px, paper.tiles.min_annotated) == (199.1, 224, 0.30)
    assert (paper.tiles.max_tumor, paper.tiles.max_non_tumor) == (125, 500)
    assert (paper.split.train, paper.split.validation, paper.split.test) == (70, 10, 21)
    assert (paper.classifier.dense, paper.classifier.learning_rate, paper.classifier.batch) == (1024, 1e-5, 128)
    assert (paper.segmenter.learning_rate, paper.segmenter.batch, len(paper.segmenter.decoder)) == (1e-4, 64, 5)
    assert (paper.encoder.name, paper.encoder.weights) == ("efficientnet_b0", "imagenet")
    search = paper.search
    assert (search.side_um, min(search.side_px), max(search.side_px)) == ((99.6, 149.4, 199.1), 64, 512)
    assert (search.folds, search.keep, search.epochs) == (5, 1.0, None)


def test_paper_does_what_the_paper_did():
    paper = preset("paper")
    assert (paper.explain.training, paper.explain.epochs, paper.explain.l2, paper.explain.min_share) == (
        "epochs", 50, 0, 0.8,
    )  # fmt: skip
    assert (paper.predict.window, paper.predict.overlap, paper.predict.background) == (1, 0, True)
    assert (paper.predict.calibrated, paper.predict.artefacts, paper.predict.test_time_augmentation) == (
        False,
        False,
        False,
    )
    assert (paper.predict.explained, paper.classifier.activation) == (False, "linear")
    assert (paper.tiles.white_inside, paper.evaluation.threshold) == ("outline", 0.5)


RECIPE = {"optimizer", "weight_decay", "schedule", "learning_rate", "batch", "ema", "keep"}


def test_best_differs_from_quick_in_more_work_alone():
    best, quick = (preset(name).model_dump() for name in ("best", "quick"))
    changed = {
        f"{group}.{name}": values[name]
        for group, values in best.items()
        if isinstance(values, dict)
        for name in values
        if values[name] != quick[group][name]
    }
    assert changed == {
        "classifier.epochs": 10, "classifier.min_steps": 300, "segmenter.epochs": 10, "segmenter.min_steps": 300,
        "segmenter.layout": "timm", "ensemble.folds": 5, "predict.symmetries": 8,
    }  # fmt: skip


def test_quick_differs_only_in_what_it_says():
    quick, paper = (preset(name).model_dump() for name in ("quick", "paper"))
    changed = {name: {key for key in values if values[key] != paper[name][key]}
               for name, values in quick.items() if values != paper[name]}  # fmt: skip
    assert changed == {name: set(values) for name, values in QUICK.items()}
    assert changed == {
        "tiles": {"side_px"},
        "encoder": {"name", "weights"},
        "augment": {"stain", "stain_templates"},
        "classifier": {"activation", "epochs", *RECIPE},
        "segmenter": {"epochs", *RECIPE},
        "predict": {"window", "overlap", "background", "artefacts", "calibrated"},
        "explain": {"methods", "training", "l2"},
        "search": {"side_um", "side_px", "cut_px", "folds", "iterations", "epochs"},
    }


def test_an_exact_solution_needs_a_penalty(study):
    with pytest.raises(SettingsError, match=r'explain.training = "exact" needs a penalty: set explain.l2 as well'):
        change_settings(study, ["explain.training=exact"])
    change_settings(study, ["explain.training=exact", "explain.l2=1"])
    with pytest.raises(SettingsError, match="needs a penalty"):
        change_settings(study, ["explain.l2=0"])
    with pytest.raises(SettingsError, match=r"explain.l2 = -1"):
        change_settings(study, ["explain.l2=-1"])


def test_every_setting_is_explained_in_the_file(study):
    lines = study.read_text().splitlines()
    for name, branch in Settings.model_fields.items():
        keys = getattr(branch.annotation, "model_fields", {name: branch})
        for key in keys:
            place = next(i for i, line in enumerate(lines) if line.removeprefix("# ").startswith(f"{key} ="))
            assert lines[place - 1].startswith("# "), key


def test_a_change_keeps_the_comments(study):
    before = study.read_text().splitlines()
    change_settings(study, ["tiles.side_px=128", "seed=7", "encoder.weights=random", "slides.mpp=0.25"])
    changed = read_settings(study)
    assert (changed.tiles.side_px, changed.seed, changed.encoder.weights, changed.slides.mpp) == (
        128,
        7,
        "random",
        0.25,
    )
    kept = [line for line in before if line.startswith("#")]
    assert [line for line in study.read_text().splitlines() if line.startswith("#")] == kept


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("tiles.side_p=64", "Did you mean 'side_px'?"),
        ("tile.side_px=64", "Did you mean 'tiles'?"),
        ("tiles.side_px=2", "tiles.side_px = 2"),
        ("tiles.side_px=much", "tiles.side_px = 'much'"),
        ("tiles.side_px", "is not key=value"),
        ("seed.x=1", "'seed' is a value"),
        ("split.train=0", "split.train = 0"),
        ("encoder.weights=embedded", "holds tf_efficientnet_lite0"),
        ("tiles.side_px=65536", "tiles.side_px = 65536: Input should be less than or equal to 4096"),
        (f"seed={'9' * 1900}", "seed = 9999"),
        (f"seed={'9' * 5000}", "has more than 2000 characters"),
        (f"search.side_px={'[' * 900}{']' * 900}", "search.side_px"),
        ("encoder.name=\udcff", "is no text in UTF-8"),
        ("search.side_px=[64, 1024]", "search.cut_px = 512 is less than the largest of search.side_px"),
    ],
)
def test_a_wrong_change_is_one_line_and_changes_nothing(study, change, said):
    before = study.read_bytes()
    with pytest.raises(SettingsError) as caught:
        change_settings(study, [change])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert study.read_bytes() == before


def test_settings_count_as_they_did_in_the_runs_of_version_0_1():
    """Of the preset quick the run in tests/fixtures tells."""
    values = preset("paper").digest_values()
    for later in ("nuclei", "ensemble", "shift"):  # groups that came later
        values.pop(later, None)
    assert json_digest(values) == "fbd7e4bf67231c48ded4ad002313956ba3f4dd5a8ed265d4b2d2844a14923618"


class Later(Branch):
    """A group one of whose settings was renamed, and another added."""

    new: int = Field(1, json_schema_extra={"digest_as": "old"})
    added: tuple[str, ...] = Field(("a",), json_schema_extra={"since": "0.12"})


def test_a_renamed_setting_counts_under_its_old_name_and_a_later_one_where_it_differs():
    assert Later().digest_values() == {"old": 1}
    assert Later(new=2, added=("b",)).digest_values() == {"old": 2, "added": ["b"]}
    assert Later.model_validate({"old": 3}) == Later(new=3)
    assert Later.renamed() == {"old": "new"}
    with pytest.raises(ValidationError, match="extra_forbidden"):
        Later.model_validate({"old": 3, "new": 3})


NOTE = "the setting predict.mirror is now called predict.test_time_augmentation"


def test_an_old_name_is_understood_in_the_file_and_in_a_change(study):
    text = study.read_text()
    assert old_names(study, ["tiles.side_px=96"]) == []
    change_settings(study, ["predict.mirror=true"])
    assert study.read_text() == text.replace("test_time_augmentation = false", "test_time_augmentation = true")
    assert old_names(study, ["predict.mirror=true"]) == [NOTE]

    study.write_text(text.replace("test_time_augmentation = false", "mirror = true"))
    assert old_names(study, []) == old_names(study, ["predict.mirror=true"]) == [NOTE]
    assert read_settings(study).predict.test_time_augmentation
    change_settings(study, ["predict.test_time_augmentation=false"])
    assert study.read_text() == text.replace("test_time_augmentation = false", "mirror = false")
    change_settings(study, ["predict.mirror=true"])
    assert read_settings(study).predict.test_time_augmentation
    with pytest.raises(SettingsError, match=r"predict\.test_time_augmentation = 'much'"):
        change_settings(study, ["predict.mirror=much"])
    study.write_text(text.replace("test_time_augmentation = false", "test_time_augmentation = false\nmirror = true"))
    with pytest.raises(SettingsError, match=r"there is no setting 'predict\.mirror'"):
        read_settings(study)


def limits(model, name=""):
    """Yield each number of the settings with the limits that its type has."""
    for key, field in model.model_fields.items():
        schema = model.model_json_schema(ref_template="{model}")["properties"][key]
        if isinstance(field.annotation, type) and issubclass(field.annotation, Branch):
            yield from limits(field.annotation, f"{key}.")
            continue
        for part in (schema, *schema.get("anyOf", ()), *schema.get("prefixItems", ()), schema.get("items", {})):
            if part.get("type") in {"integer", "number"}:
                least, most = (
                    part.get(ends[0], part.get(ends[1]))
                    for ends in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum"))
                )
                yield f"{name}{key}", least, most


def test_every_number_has_a_lower_and_an_upper_limit():
    found = list(limits(Settings))
    assert len(found) >= 80
    unbounded = [name for name, least, most in found if least is None or most is None]
    assert sorted(unbounded) == ["explain.stride", "predict.symmetries"]  # one of a few values


@pytest.mark.parametrize(
    "change",
    [
        "tiles.side_px=4096", "tiles.side_um=5000.0", "classifier.batch=65536", "segmenter.batch=4096",
        "classifier.epochs=100000", "classifier.dense=8192", "segmenter.decoder=[1024, 512, 256, 128, 64]",
        "evaluation.resamples=1000000", "seed=9223372036854775807", "compute.workers=512", "slides.mpp=0.02",
        "classifier.learning_rate=1e-8", "check.draws=1000", "search.folds=100", "tiles.max_tumor=1000000",
    ],
)  # fmt: skip
def test_what_a_real_study_could_want_is_allowed(study, change):
    change_settings(study, [change])
    name, _, value = change.partition("=")
    branch, _, key = name.rpartition(".")
    settings = read_settings(study)
    assert repr(getattr(getattr(settings, branch) if branch else settings, key)).strip("()") == repr(
        ast.literal_eval(value)
    ).strip("[]")


DEEP, LONG = "[" * 5000 + "]" * 5000, "9" * 5000


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[tiles]\nside_pxx = 3", "no setting 'tiles.side_pxx'"),
        ("seed = ", "not valid TOML"),
        ("[tiles]\nmin_annotated = 3", "tiles.min_annotated"),
        ("[tiles]\nside_px = 65536", "tiles.side_px = 65536: Input should be less than or equal to 4096"),
        ("[tiles]\nside_um = 1e-300", "tiles.side_um = 1e-300: Input should be greater than or equal to 1."),
        ("[tiles]\nside_um = inf", "less than or equal to 100000"),
        ("[tiles]\nside_um = nan", "less than or equal to 100000"),
        (f"[tiles]\nside_um = 0x{'f' * 5000}", "tiles.side_um = (too long to be shown)"),
        (f"[classifier]\ndense = 1{'0' * 20}", "less than or equal to 65536"),
        (f"seed = {LONG}", "a number of thousands of digits"),
        (f"seed = 0x{'f' * 5000}", "seed = (too long to be shown): Input should be less than 9223372036854775808"),
        (f"[search]\nside_px = {DEEP}", "lists within lists, too deep"),
        (f"a = {'{a=' * 900}1{'}' * 900}", "lists within lists, too deep"),
        ("x" * 100_000 + " = 1", "there is no setting 'xxx"),
        (f"[encoder]\nname = '{'a' * 1000}'", "at most 200 characters"),
        ("# \xff", "not a text in UTF-8"),
        ("#" * (1 << 20) + "\n", "MiB, more than 1"),
    ],
)
def test_a_typo_in_the_file_is_named(tmp_path, text, said):
    (tmp_path / "study.toml").write_text(text, encoding="latin-1")
    with pytest.raises(SettingsError) as caught:
        read_settings(tmp_path / "study.toml")
    assert said in str(caught.value)
    assert str(tmp_path / "study.toml") in str(caught.value)
    assert len(str(caught.value)) < 600 + len(str(tmp_path))


def test_nuclei_are_removed_often_enough_for_all_groups(study):
    with pytest.raises(SettingsError, match=r"nuclei.removals = 10"):
        change_settings(study, ["nuclei.removals=10"])
    change_settings(study, ["nuclei.removals=48", "nuclei.tiles=0"])
    assert read_settings(study).nuclei.tiles == 0
