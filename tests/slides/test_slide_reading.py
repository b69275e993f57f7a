"""How slides are read is a setting, goes into the model, and is honoured wherever the model is used."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from shapely.geometry import box

from helpers.cohort import outline, tissue, write_outlines
from helpers.tiffs import write_jpeg_tiff
from helpers.tiles import cut_slide
from vitrail.errors import ModelError
from vitrail.models.spec import ClassifierSpec, ReadingInfo, SegmenterSpec
from vitrail.models.store import build, load_model, save_model
from vitrail.pipeline import predict_slides as apply
from vitrail.pipeline.predict_slides import Application, apply_models
from vitrail.settings.load import Settings
from vitrail.slides.cohort import CohortSlide
from vitrail.tiles.cohort import slide_digest
from vitrail.training.tasks import TRAINING_TASKS

SHARED = {
    "encoder": "test_efficientnet", "side_um": 64.0, "side_px": 32, "mean": (0.7, 0.5, 0.6), "std": (0.2, 0.2, 0.2),
}  # fmt: skip


def settings(reading):
    return Settings.model_validate({"slides": {"reading": reading}, "tiles": {"side_um": 40, "side_px": 32}})


@pytest.fixture
def entry(tmp_path):
    """A slide whose stored second level lies: it is white."""
    image = tissue(0)
    path = write_jpeg_tiff(tmp_path / "s.tif", [image, np.full_like(image[::2, ::2], 255)])
    write_outlines(tmp_path / "s.geojson", outline("Tumor", box(0, 0, 256, 200)))
    return CohortSlide(slide_id="S", patient_id="P", slide=path, annotations=tmp_path / "s.geojson")


def model(folder, spec):
    torch.manual_seed(0)
    save_model(folder, build(spec), spec)
    return folder


def test_tiles_come_from_where_the_setting_says(entry):
    assert cut_slide(entry, settings("fast")).images.min() == 255
    assert cut_slide(entry, settings("faithful")).images.mean() < 210
    assert slide_digest(entry, settings("fast")) != slide_digest(entry, settings("faithful"))


@pytest.mark.parametrize("task", ["classifier", "segmenter"])
@pytest.mark.parametrize("mode", ["fast", "faithful"])
def test_a_model_stores_its_reading(tmp_path, task, mode):
    small = settings(mode).model_copy(
        update={"encoder": Settings().encoder.model_copy(update={"name": "test_efficientnet"})}
    )
    spec = TRAINING_TASKS[task].spec(small, (SHARED["mean"], SHARED["std"]))
    stored = load_model(model(tmp_path, spec)).spec.reading
    assert stored == ReadingInfo(mode=mode, filter="area")
    assert json.loads((tmp_path / "model.json").read_text())["reading"] == {"mode": mode, "filter": "area"}


def test_a_model_from_before_was_read_from_the_stored_levels(tmp_path):
    model(tmp_path, ClassifierSpec(**SHARED, dense=4, dropout=0))
    text = json.loads((tmp_path / "model.json").read_text())
    del text["reading"]
    (tmp_path / "model.json").write_text(json.dumps(text))
    assert load_model(tmp_path).spec.reading == ReadingInfo(mode="fast", filter="area")
    text["reading"] = {"mode": "fast", "filter": "lanczos"}
    (tmp_path / "model.json").write_text(json.dumps(text))
    with pytest.raises(ModelError, match=r"reading\.filter"):
        load_model(tmp_path)


@pytest.mark.parametrize(("mode", "stain"), [("fast", "none"), ("faithful", "none"), ("fast", "macenko")])
def test_a_slide_is_read_as_the_model_learned_whatever_the_settings(tmp_path, entry, monkeypatch, mode, stain):
    reading = ReadingInfo(mode=mode, stain=stain)
    folder = model(tmp_path / "model", ClassifierSpec(**SHARED, dense=4, dropout=0, reading=reading))
    read, mapped = [], apply.map_slide
    monkeypatch.setattr(
        apply, "map_slide", lambda slide, *rest: read.append((slide.reading, slide.stain)) or mapped(slide, *rest)
    )
    other = settings("fast" if mode == "faithful" else "faithful")
    apply_models([entry.slide], Application(classifier=folder, out=tmp_path / "out", settings=other))
    assert read == [(mode, stain)]


@pytest.mark.parametrize(
    ("reading", "said"), [({"mode": "faithful"}, "'faithful'"), ({"stain": "reinhard"}, "'fast' with stain 'reinhard'")]
)
def test_two_readings_do_not_mix(tmp_path, entry, reading, said):
    classifier = model(tmp_path / "c", ClassifierSpec(**SHARED, dense=4, dropout=0))
    other = SegmenterSpec(**SHARED, decoder=(8, 8, 8, 8, 8), reading=ReadingInfo(**reading))
    segmenter = model(tmp_path / "s", other)
    with pytest.raises(ModelError, match=f"learned from slides read {said}, and") as caught:
        apply_models([entry.slide], Application(classifier=classifier, segmenter=segmenter, out=tmp_path / "out"))
    assert "\n" not in str(caught.value)
