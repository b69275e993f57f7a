"""Models on any slides: what is written, what goes on, and what is said of slides that cannot be mapped."""

from __future__ import annotations

import errno
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from helpers.cohort import write_tiff
from helpers.mapped import GLASS, SPEC, Reds, pen_mark, picture, settings, write_slide
from vitrail.distribute import staging
from vitrail.errors import ExchangeError, ModelError, RunError, SettingsError
from vitrail.explain.layers import find_layers
from vitrail.explain.methods.hrcam import HRCamHead, save_head
from vitrail.inference.map_slide import Networks
from vitrail.interop.class_map import Channel
from vitrail.models.spec import ClassifierSpec, SegmenterSpec, TrainingInfo
from vitrail.models.store import build, model_digest, save_model
from vitrail.pipeline import predict_slides as apply
from vitrail.pipeline.predict_slides import Application, apply_models, check_slide, settings_from
from vitrail.quality.appearance import MEASURES, fit_training

ENDINGS = ("classes.ome.tiff", "geojson", "json", "npz", "png", "tiles.parquet")


class Bench:
    """Stand-in engines in place of loaded models."""

    def __init__(self, monkeypatch):
        self.digests, self.patience, self.tasks = ["a"], 10**9, ("classifier", "segmenter")
        self.engines = {}
        monkeypatch.setattr(apply, "load_networks", self._networks)

    def _networks(self, _):
        self.engines = {task: Reds(task, self.patience) for task in self.tasks}
        return Networks(**self.engines), self.digests, []

    def run(self, slides, out, **predict):
        threshold = predict.pop("threshold", 0.5)
        chosen = settings(**predict)
        chosen = chosen.model_copy(update={"evaluation": chosen.evaluation.model_copy(update={"threshold": threshold})})
        return apply_models(slides, Application(classifier=out.parent / "classifier", out=out, settings=chosen))

    @property
    def seen(self):
        """Images looked at, but for a segmenter's one of white glass and one of the slide's own."""
        return {task: engine.seen - 2 * (task == "segmenter") for task, engine in self.engines.items()}


@pytest.fixture
def bench(monkeypatch):
    return Bench(monkeypatch)


@pytest.fixture
def slide(tmp_path):
    return write_slide(tmp_path / "slides" / "A.tif")


def names(folder):
    return {path.name for path in folder.iterdir()} - {".lock"}


def contents(folder):
    kept = [path for path in folder.iterdir() if path.suffix in {".tiff", ".geojson", ".png", ".npz", ".parquet"}]
    return {path.name: path.read_bytes() for path in kept}


def test_a_slide_gets_its_files_and_a_row(bench, slide, tmp_path):
    outcome = bench.run([slide], tmp_path / "out")
    out = tmp_path / "out"
    assert names(out) == {"summary.csv", *(f"A.{ending}" for ending in ENDINGS)}
    tiles = pd.read_parquet(out / "A.tiles.parquet")
    assert set(tiles["class"]) == {"tumor", "non_tumor"}
    assert ((tiles["tumor_probability"] >= 0.5) == (tiles["class"] == "tumor")).all()
    row = pd.read_csv(out / "summary.csv").iloc[0]
    assert (row["slide_id"], row["tiles"], pd.isna(row["reason"])) == ("A", len(tiles), True)
    assert row["mean_probability"] == pytest.approx(tiles["tumor_probability"].mean(), rel=1e-5)
    assert outcome.skipped == []
    assert Path(outcome.lines[-1]) == out / "summary.csv"
    with Image.open(out / "A.png") as drawn:
        assert drawn.size[0] > 300


def test_the_summary_names_the_artefacts_by_kind(bench, slide, tmp_path, monkeypatch):
    monkeypatch.setattr("vitrail.inference.context.find_artefacts", pen_mark)
    bench.run([slide], tmp_path / "out", artefacts=True)
    row = pd.read_csv(tmp_path / "out" / "summary.csv").iloc[0]
    assert row["pen_share"] == pytest.approx(row["artefact_share"], rel=1e-4)
    assert row["pen_share"] > 0
    assert (row[["fold_share", "blur_share", "blood_share", "debris_share", "bubble_share"]] == 0).all()


def test_a_summary_of_earlier_keeps_its_rows(bench, slide, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "summary.csv").write_text("slide_id,tumor_mm2,reason\nOLD,2.5,\n")
    bench.run([slide], tmp_path / "out")
    table = pd.read_csv(tmp_path / "out" / "summary.csv", index_col="slide_id")
    assert table["tumor_mm2"]["OLD"] == 2.5
    assert list(table.index) == ["A", "OLD"]


def test_what_is_finished_is_not_done_again(bench, slide, tmp_path):
    out = tmp_path / "out"
    bench.run([slide], out)
    first, summary = contents(out), (out / "summary.csv").read_bytes()
    bench.run([slide], out)
    assert set(bench.seen.values()) == {0}
    assert contents(out) == first
    (out / "A.geojson").unlink()
    bench.run([slide], out)
    assert set(bench.seen.values()) == {0}
    assert contents(out) == first
    assert (out / "summary.csv").read_bytes() == summary


def test_a_threshold_publishes_anew_and_predicts_nothing(bench, slide, tmp_path):
    out = tmp_path / "out"
    bench.run([slide], out)
    bench.run([slide], out, threshold=0.0)
    assert set(bench.seen.values()) == {0}
    assert set(pd.read_parquet(out / "A.tiles.parquet")["class"]) == {"tumor"}
    assert '"Non-tumor"' not in "".join(
        line for line in (out / "A.geojson").read_text().splitlines() if '"tile"' in line
    )


@pytest.mark.parametrize("change", ["models", "settings", "slide", "mpp"])
def test_another_model_setting_or_slide_predicts_anew(bench, slide, tmp_path, change):
    bench.run([slide], tmp_path / "out")
    if change == "models":
        bench.digests = ["b"]
    if change == "slide":
        write_tiff(slide, picture()[::-1].copy(), mpp=1.0)
    if change == "mpp":
        write_tiff(slide, picture(), mpp=1.01)
    bench.run([slide], tmp_path / "out", **({"overlap": 0.1} if change == "settings" else {}))
    assert all(seen > 0 for seen in bench.seen.values())


def test_a_class_map_of_earlier_does_not_outlive_its_segmenter(bench, slide, tmp_path):
    bench.run([slide], tmp_path / "out")
    bench.digests, bench.tasks = ["b"], ("classifier",)
    bench.run([slide], tmp_path / "out")
    assert "A.classes.ome.tiff" not in names(tmp_path / "out")
    assert pd.read_csv(tmp_path / "out" / "summary.csv")["seam_index"].isna().all()


def test_bad_slides_are_skipped_with_their_reason(bench, slide, tmp_path):
    folder = slide.parent
    image, glass = picture(), np.full((256, 256, 3), GLASS, np.uint8)
    (folder / "broken.tif").write_bytes(slide.read_bytes()[:3000])
    bad = {
        "broken": folder / "broken.tif",
        "bare": write_tiff(folder / "bare.tif", glass, mpp=1.0),
        "tiny": write_tiff(folder / "tiny.tif", image[150:190], mpp=1.0),
        "coarse": write_tiff(folder / "coarse.tif", image, mpp=3.5),
        "silent": write_tiff(folder / "silent.tif", image, mpp=None),
        "gone": folder / "gone.tif",
    }
    outcome = bench.run([*bad.values(), slide], tmp_path / "out")
    assert len(outcome.skipped) == len(bad)
    assert all("\n" not in line and str(path) in line for line, path in zip(outcome.skipped, bad.values(), strict=True))
    table = pd.read_csv(tmp_path / "out" / "summary.csv", index_col="slide_id")
    assert table["reason"].notna().to_dict() == {**dict.fromkeys(sorted(bad), True), "A": False}
    for name, words in {
        "bare": "no tissue", "tiny": "smaller than one tile", "coarse": "3.5 um/px", "silent": "no mpp",
    }.items():  # fmt: skip
        assert words in table.loc[name, "reason"]
    assert names(tmp_path / "out") == {"summary.csv", *(f"A.{ending}" for ending in ENDINGS)}


def test_slides_that_are_copied_ahead_give_the_same(bench, tmp_path, monkeypatch):
    slides = [write_slide(tmp_path / "slides" / f"{name}.tif") for name in "AB"]
    slides.insert(1, write_tiff(tmp_path / "slides" / "bare.tif", np.full_like(picture(), GLASS), mpp=1.0))
    in_place = bench.run(slides, tmp_path / "in_place")
    monkeypatch.setattr(staging, "_is_elsewhere", lambda *_: True)
    opened, open_slide, soon = [], apply.open_slide, staging.Staging.soon

    def opening(path, **options):
        opened.append(path)
        return open_slide(path, **options)

    def soon_and_at_once(self, now, slides):
        soon(self, now, slides)
        with self._changed:
            copies = self._copies
            assert self._changed.wait_for(
                lambda: all(path in copies and copies[path].state != "begun" for path in slides), 30
            )

    monkeypatch.setattr(apply, "open_slide", opening)
    monkeypatch.setattr(staging.Staging, "soon", soon_and_at_once)
    values = {"stage_gb": 1.0, "stage_folder": str(tmp_path / "local")}
    (tmp_path / "local").mkdir()
    compute = settings().compute.model_copy(update=values)
    job = Application(out=tmp_path / "copied", settings=settings().model_copy(update={"compute": compute}))
    copied = apply_models(slides, job)
    assert [path.name for path in opened if path.parent.parent.parent == tmp_path / "local"] == ["bare.tif", "B.tif"]
    assert copied.skipped == in_place.skipped
    assert copied.warnings == in_place.warnings
    assert contents(tmp_path / "copied") == contents(tmp_path / "in_place")
    assert [*(tmp_path / "local").iterdir()] == []


def test_a_slide_that_is_skipped_leaves_the_unfinished_work_of_others(bench, tmp_path):
    others = tmp_path / "out" / ".partial" / "B" / "key" / "strip.npy"
    others.parent.mkdir(parents=True)
    others.write_bytes(b"")
    assert bench.run([tmp_path / "gone.tif"], tmp_path / "out").skipped
    assert others.is_file()


def test_an_mpp_can_be_given(bench, tmp_path):
    path = write_tiff(tmp_path / "silent.tif", picture(), mpp=None)
    job = Application(out=tmp_path / "out", settings=settings(), mpp=1.0)
    assert apply_models([path], job).skipped == []
    assert bench.seen["segmenter"] > 0


def test_later_slides_join_the_summary(bench, slide, tmp_path):
    other = write_slide(tmp_path / "slides" / "B.tif")
    bench.run([other], tmp_path / "out")
    outcome = bench.run([slide], tmp_path / "out")
    summary = pd.read_csv(tmp_path / "out" / "summary.csv", keep_default_na=False)
    assert summary["slide_id"].tolist() == ["A", "B"]
    assert summary["reason"].tolist() == ["", ""]
    assert outcome.lines[0] == "1 slides mapped, 2 in the summary"


def test_two_slides_of_one_name_stop_before_anything_starts(bench, slide, tmp_path):
    other = write_slide(tmp_path / "more" / "a.svs")
    with pytest.raises(SettingsError, match="has the name of"):
        bench.run([slide, other], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_interrupt_leaves_nothing_that_looks_whole(bench, slide, tmp_path):
    out = tmp_path / "out"
    bench.run([slide], tmp_path / "whole")
    bench.patience = 60
    with pytest.raises(KeyboardInterrupt):
        bench.run([slide], out)
    assert names(out) == {".partial"}
    bench.patience = 10**9
    bench.run([slide], out)
    assert bench.seen["classifier"] == 0
    assert contents(out) == contents(tmp_path / "whole")
    assert names(out) == names(tmp_path / "whole")


@pytest.mark.parametrize("where", ["strips", "class map", "geojson", "figure", "facts"])
def test_a_full_disk_is_one_line_and_the_work_goes_on_later(bench, slide, tmp_path, monkeypatch, where):
    out = tmp_path / "out"

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        target = {
            "strips": ("vitrail.inference.sliding.np.save", full),
            "class map": ("vitrail.interop.ome_tiff._Spool.add", full),
            "geojson": ("vitrail.interop.qupath._features", full),
            "figure": ("vitrail.report.style.FigureCanvasAgg.print_figure", full),
            "facts": ("vitrail.pipeline.predict_slides.write_text", full),
        }[where]
        disk.setattr(*target)
        with pytest.raises(ExchangeError, match="No space left") as told:
            bench.run([slide], out)
    assert "\n" not in str(told.value)
    assert "summary.csv" not in names(out)
    assert not {"A.png"} & names(out) or where == "facts"
    assert not [name for name in names(out) if name.endswith((".tmp", ".tiles"))]
    assert bench.run([slide], out).skipped == []
    bench.run([slide], tmp_path / "whole")
    assert contents(out) == contents(tmp_path / "whole")


@pytest.mark.parametrize("key", ["glass", "artefacts", "tissue_mm2", "seam_index"])
def test_facts_without_a_key_are_one_line_and_without_the_file_all_is_done_again(bench, slide, tmp_path, key):
    out = tmp_path / "out"
    bench.run([slide], out)
    facts = json.loads((out / "A.json").read_text())
    (out / "A.json").write_text(json.dumps({name: value for name, value in facts.items() if name != key}))
    with pytest.raises(RunError, match=f"A.json: is damaged .without '{key}'.") as caught:
        bench.run([slide], out)
    assert str(caught.value).endswith("Remove this file, and run the same command again.")
    (out / "A.json").unlink()
    assert bench.run([slide], out).skipped == []


def test_networks_that_see_tumor_on_glass_are_named(bench, slide, tmp_path):
    """White glass and the slide's own; of a classifier only where it is shown any."""
    for background, count in ((True, 4), (False, 2)):
        outcome = bench.run([slide], tmp_path / f"out{background}", background=background)
        said = [line for line in outcome.warnings if "glass" in line]
        assert len(said) == count
        assert sum("glass of A.tif" in line for line in said) == count // 2
        assert any("the classifier calls white glass tumor" in line for line in said) == background


def test_tissue_unlike_that_of_the_training_is_named():
    networks = Networks(segmenter=Reds())
    facts = {"glass": None, "colour": [0.7 * 255, 0.5 * 255, 0.6 * 255], "appearance": {}}
    assert check_slide(networks, "A.tif", facts, settings()) == []
    (line,) = check_slide(networks, "A.tif", facts | {"colour": [0.7 * 255, 0, 0.6 * 255]}, settings())
    assert "A.tif: the green of its tissue lies 2.5 standard deviations off" in line
    assert check_slide(networks, "A.tif", facts | {"stain": "not normalised"}, settings()) == ["A.tif: not normalised"]


def test_a_slide_beyond_the_training_is_named_in_one_line():
    """For networks that know their training slides, in place of the colour."""
    networks = Networks(classifier=Reds("classifier"), segmenter=Reds())
    own = {"is_beyond": True, "group": "stain", "farthest": 1.62, "slides": 70, "patients": 60}
    facts = {"glass": None, "colour": [0, 0, 0], "appearance": {"classifier": own, "segmenter": own}}
    (line,) = check_slide(networks, "A.tif", facts, settings(background=False))
    assert line == (
        "A.tif: beyond what the classifier was trained on, 1.6 times as far from its 70 training slides as 99 % of "
        "these are (stain); do not trust its maps without a look"
    )
    near = {task: own | {"is_beyond": False} for task in ("classifier", "segmenter")}
    assert check_slide(networks, "A.tif", facts | {"appearance": near}, settings()) == []
    few = {task: own | {"is_beyond": False, "patients": 3} for task in ("classifier", "segmenter")}
    assert len(check_slide(networks, "A.tif", facts | {"appearance": few}, settings())) == 2


def test_the_distance_from_training_goes_into_facts_and_summary(slide, tmp_path):
    values = np.random.default_rng(0).normal(0, 1, (12, len(MEASURES)))
    seen = fit_training(values, [f"P{number}" for number in range(12)])
    info = TrainingInfo(epochs=1, best_epoch=1, validation_loss=0.5, seed=0, appearance=seen)
    spec = ClassifierSpec(**SPEC | {"encoder": "test_efficientnet"}, dense=4, dropout=0, training=info)
    torch.manual_seed(0)
    save_model(tmp_path / "classifier", build(spec), spec)
    job = Application(classifier=tmp_path / "classifier", out=tmp_path / "out", settings=settings())
    outcome = apply_models([slide], job)
    own = json.loads((tmp_path / "out" / "A.json").read_text())["appearance"]["classifier"]
    assert own["is_beyond"]
    assert own["farthest"] == seen.distances(own["measured"]).farthest
    row = pd.read_csv(tmp_path / "out" / "summary.csv").iloc[0]
    assert row["training_distance"] == pytest.approx(own["farthest"], rel=1e-5)
    assert sum("beyond what the classifier was trained on" in line for line in outcome.warnings) == 1


def test_saved_models_are_applied_and_checked(slide, tmp_path):
    encoder = {"encoder": "tf_efficientnet_lite0", **{name: SPEC[name] for name in SPEC if name != "encoder"}}
    specs = {
        "classifier": ClassifierSpec(**encoder, dense=4, dropout=0),
        "segmenter": SegmenterSpec(**encoder, decoder=(8, 8, 8, 8, 8)),
    }
    folders = {task: tmp_path / task for task in specs}
    for task, spec in specs.items():
        torch.manual_seed(0)
        save_model(folders[task], build(spec), spec)
    for out in ("one", "two"):
        apply_models([slide], Application(**folders, out=tmp_path / out, settings=settings()))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    facts = json.loads((tmp_path / "one" / "A.json").read_text())
    assert 0 <= facts["summary"]["mean_probability"] <= 1
    with pytest.raises(ModelError, match="holds a segmenter, not a classifier"):
        apply_models([slide], Application(classifier=folders["segmenter"], out=tmp_path / "x"))
    with pytest.raises(SettingsError, match="no model"):
        apply_models([slide], Application(out=tmp_path / "x"))
    assert not (tmp_path / "x").exists()


def test_slides_are_explained_by_a_dense_layer_of_these_weights_alone(tmp_path, monkeypatch):
    digest, hashed = hashlib.file_digest, []
    spec = ClassifierSpec(**SPEC | {"encoder": "test_efficientnet"}, dense=4, dropout=0)
    module, own = build(spec), tmp_path / "classifier"
    save_model(own, module, spec)
    layers = find_layers(module)
    head = HRCamHead(layers=layers, weights=torch.ones(sum(layers.channels)), bias=0.0, l2=1.0)
    job = Application(classifier=own, out=tmp_path / "out", settings=settings(explained=True))
    for fitted_on, methods in ((model_digest(own), ["gradcam", "hrcam"]), ("another", ["gradcam"])):
        save_head(tmp_path / "explanations" / "classifier", replace(head, fitted_on=fitted_on))
        with monkeypatch.context() as counting:
            hashed.clear()
            counting.setattr(
                hashlib, "file_digest", lambda file, *_: hashed.append(file.name) or digest(file, "sha256")
            )
            networks, _, warnings = apply.load_networks(job)
        assert list(networks.explaining(1).methods) == methods
        assert hashed.count(str(own / "weights.safetensors")) == 1
        assert [line.endswith("and fit it with: vitrail explain RUN") for line in warnings] == [True] * (
            2 - len(methods)
        )


class Why(Reds):
    """An engine that explains, too."""

    def __init__(self, task):
        super().__init__(task)
        self.methods = {"gradcam": {"layers": ["features"]}}
        self.channels = {"gradcam": Channel(name="Grad-CAM", rgb=(230, 97, 1))}

    def explained(self, images):
        red = self._seen(images)
        return red.mean((1, 2)).astype(np.float64), red[:, None] - 0.5


def test_explained_slides_get_a_map_and_a_picture_more(bench, slide, tmp_path, monkeypatch):
    out, engine = tmp_path / "out", Why("classifier")
    networks = Networks(classifier=Reds("classifier"), segmenter=Reds(), explaining=lambda _: engine)
    monkeypatch.setattr(apply, "load_networks", lambda _: (networks, ["a"], []))
    bench.run([slide], out, explained=True)
    more = ("explanations.ome.tiff", "explanations.png")
    assert names(out) == {"summary.csv", *(f"A.{ending}" for ending in (*ENDINGS, *more))}
    first, seen = contents(out), engine.seen
    (out / "A.explanations.png").unlink()
    bench.run([slide], out, explained=True)
    assert engine.seen == seen  # nor is it asked about glass, of which it is shown none
    assert contents(out) == first
    (out / "A.explanations.ome.tiff").unlink()
    bench.run([slide], out, explained=True)
    assert contents(out) == first
    bench.run([slide], out)
    assert names(out) == {"summary.csv", *(f"A.{ending}" for ending in ENDINGS)}


def test_only_a_classifier_can_be_explained_on_slides(slide, tmp_path):
    job = Application(segmenter=tmp_path / "segmenter", out=tmp_path / "out", settings=settings(explained=True))
    with pytest.raises(SettingsError, match="--explain: explains a classifier, and none is given"):
        apply_models([slide], job)


def test_slides_that_nobody_annotated_are_not_mapped_as_the_paper_did():
    predict = settings_from().predict
    assert (predict.window, predict.overlap, predict.background) == (0, 0.25, False)
    assert predict.artefacts
    assert predict.calibrated
    assert Application(out=Path("out")).settings == settings_from()


def test_settings_start_from_those_of_quick():
    changed = settings_from(["predict.overlap=0.1", "evaluation.threshold=0.7"])
    assert (changed.predict.overlap, changed.evaluation.threshold, changed.predict.min_tissue) == (0.1, 0.7, 0.05)
    with pytest.raises(SettingsError, match="no setting"):
        settings_from(["predict.overlapp=0.1"])
