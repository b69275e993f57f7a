from __future__ import annotations

import base64
import io
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import openslide
import pandas as pd
import pytest
from PIL import Image

import vitrail
from helpers.cohort import MPP, SIDE, tissue, write_cohort, write_tiff
from helpers.networks import CLASSIFIER, random_network
from helpers.numbers import evaluation_data
from helpers.viewing import unpack_run
from vitrail.classes import ARTEFACTS, ArtefactKind
from vitrail.explain.explainer import Explainer
from vitrail.explain.saliency import Frame, Saliency
from vitrail.inference.predictor import Predictor
from vitrail.models.store import Model
from vitrail.notebook import cards
from vitrail.quality.artefacts import Artefacts
from vitrail.report.figures.heatmap import AGAINST, FOR
from vitrail.settings.schema import EvaluationSettings
from vitrail.slides.metadata import scanner_of
from vitrail.tiles.store import TileTable


class Shape(HTMLParser):
    """What a page would make of a card: its text, its elements, and what it would load."""

    def __init__(self, html):
        super().__init__()
        self.text, self.open, self.names, self.sources = [], [], [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.sources += [value for name, value in attrs if name in {"src", "href"}]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag != "img":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    @property
    def said(self):
        return " ".join(self.text)

    @property
    def picture(self):
        (source,) = self.sources
        kind, _, content = source.partition(";base64,")
        assert kind in {"data:image/png", "data:image/jpeg"}
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB")).astype(int)


def card(shown):
    return Shape(shown._repr_html_())


def share_of(picture, rgb, within=6):
    return (np.abs(picture - np.array(rgb)).max(axis=2) <= within).mean()


@pytest.fixture
def slide(tmp_path):
    folder = tmp_path / "Jane Doe"
    folder.mkdir()
    return vitrail.open_slide(write_tiff(folder / "S1.tif", tissue(0)))


def test_a_slide_is_shown_with_its_size_its_scale_and_its_levels(slide):
    shape = card(slide)
    side_mm = SIDE * MPP / 1000
    for part in ("Slide S1", f"{side_mm:.3g} x {side_mm:.3g} mm", "256 x 256", "6.222 um per pixel", "levels 1"):
        assert part in shape.said.replace("  ", " "), shape.said
    height, width, _ = shape.picture.shape
    assert height > width  # there is a scale bar below
    dark, pink = shape.picture[height // 3, width // 4], shape.picture[height // 3, 3 * width // 4]
    assert np.abs(dark - (110, 70, 150)).max() < 40
    assert np.abs(pink - (225, 160, 190)).max() < 40
    assert repr(slide) == f"<Slide S1: 256 x 256 px, {side_mm:.3g} x {side_mm:.3g} mm, 6.222 um per pixel, 1 level>"
    assert slide._repr_html_() == slide._repr_html_()


def test_neither_folders_nor_label_pictures_are_looked_at(slide, monkeypatch):
    def refuse(_):
        raise AssertionError("a label may show a name")

    monkeypatch.setattr(openslide.OpenSlide, "associated_images", property(refuse))
    assert "img" in card(slide).names
    assert "Doe" not in card(slide).said + repr(slide)


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ({"openslide.vendor": "aperio", "aperio.Title": "Doe", "openslide.objective-power": "20"}, "Aperio, 20x"),
        ({"openslide.vendor": "leica", "leica.device-model": "Leica SCN400"}, "Leica SCN400"),
        ({"openslide.vendor": "hamamatsu", "tiff.Model": "NanoZoomer", "tiff.Artist": "Doe"}, "Hamamatsu NanoZoomer"),
        ({"openslide.vendor": "generic-tiff", "tiff.Model": "Doe", "tiff.ImageDescription": "Doe"}, ""),
        ({"openslide.vendor": "dicom", "dicom.PatientName": "Doe", "openslide.objective-power": "nan"}, "DICOM"),
        ({"openslide.vendor": "leica", "leica.device-model": "S" * 99}, "Leica " + "S" * 40),
    ],
)
def test_the_scanner_is_said_from_fields_that_name_nobody(properties, expected):
    assert scanner_of(properties) == expected


def test_a_slide_that_is_gone_or_broken_later_says_so_and_raises_nothing(slide):
    whole = slide.path.read_bytes()
    slide.path.write_bytes(whole[: len(whole) // 2])
    assert "It cannot be read: " in card(slide).said
    slide.path.unlink()
    shape = card(slide)
    assert "img" not in shape.names
    assert "256 x 256" in shape.said
    assert "It cannot be read: " in shape.said


def test_a_slide_without_small_levels_does_not_hold_the_notebook_up(slide, monkeypatch):
    monkeypatch.setattr(cards, "MOST_DECODED_PX", SIDE * SIDE - 1)
    shape = card(slide)
    assert "img" not in shape.names
    assert "No picture: it has no small level" in shape.said


def test_names_are_text_and_nothing_else(tmp_path):
    path = write_tiff(tmp_path / "a.tif", tissue(0)).rename(tmp_path / "<img src=x onerror=1>\u202e'\"&.tif")
    shape = card(vitrail.open_slide(path))
    assert shape.names.count("img") == 1
    assert "\u202e" not in shape.said
    assert "<img src=x onerror=1>" in shape.said


def test_what_fails_to_be_shown_is_a_sentence(slide, monkeypatch):
    def fail(_):
        raise RuntimeError("no <font>")

    monkeypatch.setitem(cards.CARDS, "Slide", fail)
    assert "It cannot be shown (RuntimeError: no <font>)." in card(slide).said
    shape = card(replace(slide, path=None))  # not even its name can be said
    assert shape.said.startswith("Slide It cannot be shown")


def test_a_cohort_is_a_table(tmp_path):
    cohort = vitrail.read_cohort(write_cohort(tmp_path))
    table = cohort.table()
    assert list(table.columns) == ["slide_id", "patient_id", "split", "mpp", "slide", "annotations", "site"]
    assert table["site"].tolist() == [slide.attributes["site"] for slide in cohort]
    shape = card(cohort)
    assert "slides 6 patients 6 site (patients) oral cavity 3, larynx 3" in shape.said
    assert "S4" in shape.said
    assert "S5" not in shape.said  # the first five rows
    assert str(tmp_path) not in shape.said
    assert repr(cohort) == "<Cohort: 6 slides of 6 patients>"
    assert isinstance(cohort, tuple)
    assert list(type(cohort)().table().columns) == ["slide_id", "patient_id", "split", "mpp", "slide", "annotations"]


def test_tiles_are_a_contact_sheet_in_the_colours_of_their_labels():
    count = 60
    colours = np.linspace(0, 250, count).astype(np.uint8)
    images = np.repeat(np.repeat(colours[:, None, None, None], 32, 1), 32, 2).repeat(3, 3)
    labels = np.where(np.arange(count) < 40, "tumor", "non_tumor")
    rows = pd.DataFrame({"slide_id": "S", "patient_id": "P", "label": labels})
    tiles = TileTable(rows=rows, images=images, masks=images[..., 0])
    shape = card(tiles)
    assert "tumor 40, non-tumor 20" in shape.said
    assert f"{cards.MOST_TILES} tiles, evenly spread" in shape.said
    for grey in (colours[0], colours[-1]):
        assert share_of(shape.picture, [grey] * 3, within=2) > 0.01
    assert repr(tiles) == "<TileTable: 60 tiles of 1 slides, 32 px wide>"
    assert "img" not in card(TileTable(rows=rows[:0], images=images[:0], masks=images[:0, ..., 0])).names


def test_tissue_and_artefacts_are_pictures(slide):
    found = vitrail.find_tissue(slide)
    shape = card(found)
    assert f"{found.area_mm2:.3g} mm2" in shape.said
    assert 0.4 < share_of(shape.picture, (86, 180, 140)) < 0.95
    masks = np.zeros((len(ARTEFACTS), 40, 20), bool)
    masks[ArtefactKind.PEN, :10] = True
    artefacts = Artefacts(masks=masks, cell=16, cell_um=8)
    assert "Pen or ink 25.00%" in card(artefacts).said
    assert "Fold" not in card(artefacts).said
    assert share_of(card(artefacts).picture, ArtefactKind.PEN.rgb) == pytest.approx(0.22, abs=0.05)
    assert repr(artefacts) == "<Artefacts: pen or ink 25.0%; cells of 8 um>"
    assert "None was found." in card(Artefacts(masks=masks & False, cell=16, cell_um=8)).said


def saliency(values, **changes):
    frame = Frame(image_px=(64, 64), span_px=(64, 64))
    values = np.asarray(values, np.float32)
    return Saliency(**{"method": "gradcam", "layers": ("last",), "target": "grade 3", "values": values, "frame": frame}
                    | changes)  # fmt: skip


def test_a_map_has_the_colours_of_all_maps_over_its_image():
    halves = np.where(np.arange(32) < 16, -2.0, 2.0)[None].repeat(32, 0)
    shape = card(saliency(halves))
    for ramp in (AGAINST, FOR):  # full colour, through which 15 % of the white below shows
        assert share_of(shape.picture, 255 + 0.85 * (np.array(ramp[-1]) - 255)) > 0.3
    said = shape.said
    for part in ("gradcam", "grade 3", "last", "32 x 32, from -2 to 2"):
        assert part in said
    image = np.full((64, 64, 3), (10, 200, 30), np.uint8)
    over = saliency(halves).over(image)
    assert over.image is image
    assert share_of(card(over).picture, (10, 200, 30)) > 0.3  # the image in its own colours
    assert repr(over) == "<Saliency gradcam for grade 3: 32 x 32 from -2 to 2, from last>"


def test_maps_that_say_nothing_say_so():
    assert "points nowhere" in card(saliency(np.zeros((2, 2)))).said
    assert "only differences between places do" in card(saliency(np.eye(2), signed=False)).said
    assert "none" in card(saliency(np.full((2, 2), np.nan))).said


def test_a_model_and_what_runs_it_are_tables():
    model = Model(spec=CLASSIFIER, module=random_network(CLASSIFIER).eval())
    predictor = Predictor(model, engine="torch")
    for shown in (model, predictor, Explainer(model, engine="torch")):
        assert "test_efficientnet" in card(shown).said
        assert "199.1 um as 64 px" in card(shown).said
        assert len(repr(shown)) < 120
    assert "torch in float32 on cpu" in card(predictor).said


def test_explainers_give_maps_over_their_images():
    model = Model(spec=CLASSIFIER, module=random_network(CLASSIFIER).eval())
    images = np.stack([tissue(seed, 64) for seed in range(3)])
    saliencies = Explainer(model, batch=2, engine="torch").gradcam(images)
    assert [np.array_equal(each.image, image) for each, image in zip(saliencies, images, strict=True)] == [True] * 3


def test_an_evaluation_is_scores_with_intervals_and_curves():
    made = evaluation_data(n=30)
    made = replace(made, settings=EvaluationSettings(resamples=50, stacking_iterations=2))
    assert repr(made) == f"<Evaluation: {len(made.test):,} test tiles of 6 patients>"  # nothing is computed for it
    entry = made.metrics["test"]["classifier"]
    low, high = entry["interval"]["auc"]
    shape = card(made)
    assert f"{entry['auc']:.3f} ({low:.2f} to {high:.2f})" in shape.said
    assert "Stacking, fitted on held-out tiles" in shape.said
    assert share_of(shape.picture, (0, 114, 178), within=30) > 0.001  # the classifier's curve
    assert f"classifier AUC {entry['auc']:.3f}" in repr(made)
    nothing = replace(made, predictions=made.predictions[made.predictions["split"] != "test"])
    assert "There is no test tile." in card(nothing).said


def test_a_study_is_its_stages_and_its_scores(tmp_path):
    study = vitrail.open_study(unpack_run(tmp_path))
    shape = card(study)
    assert "classifier" in shape.said
    assert f"{study.evaluation.metrics['test']['tiles']} of " in shape.said
    assert "img" in shape.names
    assert str(tmp_path) not in shape.said
    shutil.rmtree(study.folder / "predictions")
    assert "not tested yet" in card(vitrail.open_study(study.folder)).said
    (study.folder / "predictions").mkdir()
    (study.folder / "predictions" / "stage.json").write_text("{}")
    assert "<Study run> It cannot be shown: " in card(vitrail.open_study(study.folder)).said
