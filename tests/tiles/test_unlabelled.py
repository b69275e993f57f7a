"""Tissue outside the outlines: exact areas, margins that hold, and tiles that have its label."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from shapely.geometry import box

from helpers.cohort import FAST, MPP, SIDE, outline, tissue, write_cohort, write_outlines, write_tiff
from helpers.command import vitrail
from helpers.data import DATA, needs_data
from helpers.tiles import cut_slide
from vitrail.classes import TissueClass
from vitrail.errors import AnnotationError
from vitrail.geometry import Region
from vitrail.settings.load import Settings
from vitrail.slides.annotations import Annotation, Annotations, read_annotations
from vitrail.slides.cohort import CohortSlide, read_cohort
from vitrail.slides.slide import Slide, open_slide
from vitrail.tiles import unlabelled
from vitrail.tiles.cohort import slide_digest
from vitrail.tiles.extract import open_cohort_slide, plan_slide
from vitrail.tiles.outlines import IGNORED, class_names, cohort_outlines
from vitrail.tiles.unlabelled import CLEAN, SPOILT, outside, tissue_classes

MARGIN_PX = 100 / MPP
REACH_PX = MARGIN_PX / math.cos(math.pi / 64)
"""How far margins reach as they are drawn."""


def study(**annotations):
    values = {"tiles": {"side_px": 32}, "annotations": {"unlabelled_tissue": "non_tumor"} | annotations}
    return Settings.model_validate(values)


def draw(folder, *outlines, image=None):
    write_tiff(folder / "s.tif", tissue(0) if image is None else image)
    write_outlines(folder / "s.geojson", *outlines)
    return CohortSlide(slide_id="S", patient_id="P", slide=folder / "s.tif", annotations=folder / "s.geojson")


def outlines_of(entry, settings):
    return cohort_outlines(entry, open_cohort_slide(entry, settings), settings)


def taken_of(annotations):
    return shapely.union_all([each.geometry for each in annotations.outlines if not each.drawn])


def header(width, height, mpp):
    region = Region(x=0, y=0, width=width, height=height)
    return Slide(path="s", bounds=region, mpp=mpp, downsamples=(1.0,))


def tumor(*shapes, ignored=()):
    drawn = tuple(Annotation(label=TissueClass.TUMOR, geometry=shape) for shape in shapes)
    return Annotations(outlines=drawn, ignored=tuple(ignored))


def test_what_is_taken_is_exact():
    classes = np.zeros((40, 60), np.uint8)
    classes[2:38, 3:57] = CLEAN
    classes[30:34, 50:54] = SPOILT
    slide = header(600, 400, 0.5)  # a pixel of the mask is 10 of the slide, 5 um
    own = tumor(box(150, 120, 250, 180), ignored=[box(400, 100, 420, 110)])
    area = outside(own, classes, slide, 20)
    reach = 40 / math.cos(math.pi / 64)
    corners = 32 * reach**2 * math.sin(math.pi / 32)  # four quarters of 64 corners each
    near = sum(w * h + 2 * reach * (w + h) + corners for w, h in ((100, 60), (20, 10)))
    assert area.area == pytest.approx(100 * (36 * 54 - 16) - near, rel=1e-9)
    assert area.bounds == (30, 20, 570, 380)
    assert not area.intersects(box(501, 301, 539, 339))
    nothing = outside(tumor(box(0, 0, 600, 400)), classes, slide, 0)
    assert nothing.is_empty
    assert outside(own, np.zeros_like(classes), slide, 20).is_empty


boxes = st.tuples(*[st.integers(0, 90)] * 2, *[st.integers(1, 30)] * 2).map(
    lambda each: box(each[0], each[1], each[0] + each[2], each[1] + each[3])
)


@given(
    arrays(np.uint8, (10, 12), elements=st.sampled_from([0, CLEAN, CLEAN, SPOILT])),
    st.lists(boxes, max_size=3), st.lists(boxes, max_size=2), st.floats(0, 40),
)  # fmt: skip
def test_no_place_is_nearer_than_the_margin_and_none_beyond_it_is_left_out(classes, drawn, ignored, margin_um):
    slide, own = header(120, 100, 2.0), tumor(*drawn, ignored=ignored)
    area = outside(own, classes, slide, margin_um)
    assert area.is_valid
    around = shapely.union_all([*drawn, *ignored])
    if not area.is_empty and not around.is_empty:
        assert area.distance(around) * 2.0 >= margin_um - 1e-6
    pixels = np.array([[box(10 * x, 10 * y, 10 * x + 10, 10 * y + 10) for x in range(12)] for y in range(10)])
    covered = shapely.area(shapely.intersection(area, pixels)) / 100
    assert (covered[classes != CLEAN] < 1e-9).all()
    distance = shapely.distance(pixels, around) if not around.is_empty else np.full(pixels.shape, np.inf)
    beyond = distance * 2.0 > margin_um * 1.0013 + 1e-6
    np.testing.assert_allclose(covered[(classes == CLEAN) & beyond], 1, atol=1e-9)


def test_tiles_outside_are_non_tumor_and_those_of_the_margin_other(tmp_path):
    entry, settings = draw(tmp_path, outline("Tumor", box(0, 0, 128, SIDE))), study()
    area = taken_of(outlines_of(entry, settings))
    left, _, right, bottom = area.bounds
    assert left == pytest.approx(128 + REACH_PX, abs=0.01)
    assert right == SIDE
    assert bottom == pytest.approx(240, abs=2)  # below it is white
    cut = cut_slide(entry, settings)
    rows = cut.rows
    assert set(rows.loc[rows["x"] < 128, "label"]) == {"tumor"}
    assert set(rows.loc[rows["x"] >= 160, "label"]) == {"non_tumor"}
    assert rows["unlabelled"].tolist() == (rows["label"] == "non_tumor").tolist()
    border = rows["x"] == 128
    assert rows.loc[border, "non_tumor"].iloc[0] == pytest.approx(1 - REACH_PX / 32, abs=1 / 32)
    mask = cut.masks[np.flatnonzero(border)[0]]
    assert (mask[:, : int(REACH_PX)] == TissueClass.OTHER).all()
    assert (mask[:, int(REACH_PX) + 1 :] == TissueClass.NON_TUMOR).all()


def test_what_is_drawn_stays_and_what_is_ignored_stays_out(tmp_path):
    settings = study(ignore=["Necrosis"])
    entry = draw(
        tmp_path, outline("Tumor", box(0, 0, 96, 224)), outline("Non-tumor", box(96, 0, 128, 64)),
        outline("Necrosis", box(200, 0, 256, 40)), outline(IGNORED, box(200, 190, 256, 224)),
        outline(None, box(180, 100, 190, 110)),
    )  # fmt: skip
    read = outlines_of(entry, settings)
    assert any("1 outline without a class is ignored" in line for line in read.warnings)
    assert read.non_tumor.covers(box(96, 0, 128, 64))
    for corners in ((0, 0, 96, 224), (200, 0, 256, 40), (200, 190, 256, 224), (180, 100, 190, 110)):
        assert taken_of(read).distance(box(*corners)) == pytest.approx(MARGIN_PX, rel=0.002)
    assert taken_of(read).distance(box(96, 0, 128, 64)) == 0  # both are non-tumor
    rows = plan_slide(entry, settings).rows
    drawn = rows[(rows["x"] == 96) & (rows["y"] < 64)]
    assert set(drawn["label"]) == {"non_tumor"}
    assert not drawn["unlabelled"].any()
    assert rows["unlabelled"].any()


def test_outlines_without_a_class_are_tumor_where_they_are_said_to_be(tmp_path):
    entry = draw(tmp_path, outline(None, box(0, 0, 128, 224)), outline("Tumor", box(0, 224, 8, 232)))
    read = outlines_of(entry, study(unclassified="tumor"))
    assert read.tumor.area == 128 * 224 + 64
    assert read.warnings == ()
    write_outlines(entry.annotations, outline(None, box(0, 0, 128, 224)))
    assert read_annotations(entry.annotations, class_names(study(unclassified="tumor"))).tumor.area == 128 * 224
    for settings in (study(), Settings()):
        with pytest.raises(AnnotationError, match=r"no outline has a class\. .* annotations\.unclassified = \"tumor\""):
            read_annotations(entry.annotations, class_names(settings))


def test_slides_with_nothing_outside_or_outlines_of_another_slide_are_told_of(tmp_path):
    everything = draw(tmp_path, outline("Tumor", box(0, 0, 250, SIDE)))
    assert outlines_of(everything, study()).warnings == (
        "s.geojson: no tissue lies 100 um or more outside its outlines",
    )
    nearly = draw(tmp_path, outline("Tumor", box(0, 0, SIDE - 6, SIDE)))
    (line,) = outlines_of(nearly, study(margin_um=20)).warnings
    assert line.startswith("s.geojson: only 0.0")
    assert outlines_of(nearly, study(margin_um=20)).area(TissueClass.NON_TUMOR) > 0
    half = tissue(0)
    half[:, : SIDE // 2] = 250
    wrong = draw(tmp_path, outline("Tumor", box(0, 0, 100, 200)), image=half)
    with pytest.raises(AnnotationError, match=r"s\.geojson: only 0% of what is outlined as tumor is tissue\. Check"):
        outlines_of(wrong, study())
    assert outlines_of(wrong, Settings()).tumor.area == 20_000


def test_a_mask_is_found_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    slide = open_slide(write_tiff(tmp_path / "s.tif", tissue(0)))
    before = tissue_classes(slide, Settings())
    (file,) = (tmp_path / "cache" / "vitrail" / "tissue").iterdir()

    def never(*_, **__):
        raise AssertionError("it was found already")

    with monkeypatch.context() as patch:
        patch.setattr(unlabelled, "find_tissue", never)
        np.testing.assert_array_equal(tissue_classes(slide, Settings()), before)
        with pytest.raises(AssertionError):
            tissue_classes(slide, Settings.model_validate({"tissue": {"close_um": 0}}))
    file.write_bytes(file.read_bytes()[:-3])
    np.testing.assert_array_equal(tissue_classes(slide, Settings()), before)


def test_tissue_settings_count_only_where_tissue_does(tmp_path):
    entry = draw(tmp_path, outline("Tumor", box(0, 0, 128, 224)))
    tissues = {"tissue": {"close_um": 0.0}, "artefacts": {"speck": 0.3}}
    off, on = Settings(), study()
    for name, values in tissues.items():
        assert slide_digest(entry, off) == slide_digest(entry, Settings.model_validate({name: values}))
        changed = on.model_copy(update={name: getattr(Settings.model_validate({name: values}), name)})
        assert slide_digest(entry, on) != slide_digest(entry, changed)
    assert off.digest_values()["annotations"].keys() == {"tumor", "non_tumor", "ignore"}


def test_a_cohort_without_non_tumor_is_told_how_it_can_be_cut(tmp_path, capsys):
    slides = write_cohort(tmp_path, patients=2)
    for path in tmp_path.glob("*.geojson"):
        write_outlines(path, outline("Tumor", box(0, 0, 128, 224)))
    changes = [part for each in FAST for part in ("--set", each)]
    assert vitrail("init", tmp_path / "run", "--slides", slides, *changes) == 0
    assert vitrail("tiles", tmp_path / "run") == 2
    assert 'set annotations.unlabelled_tissue = "non_tumor"' in capsys.readouterr().err
    for _ in range(2):
        assert vitrail("tiles", tmp_path / "run", "--set", "annotations.unlabelled_tissue=non_tumor") == 0
    assert "tiles: up to date" in capsys.readouterr().err


@needs_data("orca")
def test_on_real_cores_no_tile_of_the_tumor_is_taken():
    """ORCA's outlines of tumor alone, against its outlines of both classes."""
    base = study()
    for entry in read_cohort(DATA / "orca" / "slides.csv")[:4]:
        slide = open_cohort_slide(entry, base)
        both = read_annotations(entry.annotations, class_names(base))
        alone = replace(both, outlines=tuple(each for each in both.outlines if each.label is TissueClass.TUMOR))
        area = outside(alone, tissue_classes(slide, base), slide, 100)
        assert area.intersection(both.tumor).area == 0
        assert area.intersection(both.non_tumor).area >= 0.8 * area.area
