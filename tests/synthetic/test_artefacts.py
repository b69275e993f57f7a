"""Artefacts of synthetic slides: what is drawn is what the truth says, block by block, and clean slides stay clean."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from vitrail.classes import ARTEFACTS, ArtefactKind
from vitrail.errors import SettingsError
from vitrail.quality.artefacts import find_artefacts
from vitrail.slides.slide import open_slide, read_region
from vitrail.synthetic import SlideSpec, write_slide
from vitrail.synthetic.artefacts import artefact_truth, draw_overlay
from vitrail.synthetic.layout import TissueType, draw_layout, draw_style
from vitrail.synthetic.spec import ARTEFACT_NAMES

SIDE = 1024
NAMES = ("pen_green", "blood", "bubble", "blur", "dust")
SPEC = SlideSpec(slide_id="S", side_px=SIDE, seed=(11,), artefacts=NAMES)
KIND = {"fold": 1, "blur": 2, "blood": 3, "dust": 4, "fibre": 4, "text": 4, "bubble": 5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom")
    write_slide(folder, "S", side_px=SIDE, seed=11, artefacts=NAMES)
    write_slide(folder, "clean", side_px=SIDE, seed=11)
    return folder


def truth(folder):
    with np.load(folder / "truth" / "S.artefacts.npz") as arrays:
        return {name: arrays[name] for name in arrays.files}


def pixels(folder, slide_id):
    slide = open_slide(folder / "slides" / f"{slide_id}.tif")
    return read_region(slide, slide.region, (SIDE, SIDE)).astype(int)


def test_truth_has_a_raster_for_each_kind_at_an_eighth(folder):
    masks = truth(folder)
    assert set(masks) == {kind.key for kind in ARTEFACTS} | {"mpp"}
    assert masks.pop("mpp") == 4.0
    assert all(mask.shape == (SIDE // 8, SIDE // 8) and mask.dtype == bool for mask in masks.values())
    assert {name for name, mask in masks.items() if mask.any()} >= {"pen", "blood", "bubble", "blur", "debris"}


def test_only_spoilt_slides_have_that_file(folder):
    assert not (folder / "truth" / "clean.artefacts.npz").exists()


def test_pixels_change_where_the_truth_says_and_nowhere_else(folder):
    masks = truth(folder)
    spoilt = np.any([masks[kind.key] for kind in ARTEFACTS if kind != ArtefactKind.FOLD], axis=0)
    change = np.abs(pixels(folder, "S") - pixels(folder, "clean")).max(axis=-1)
    change = change.reshape(SIDE // 8, 8, SIDE // 8, 8).mean(axis=(1, 3))
    assert (change[~ndimage.binary_dilation(spoilt, iterations=12)] < 1).mean() > 0.995
    assert (change[masks["pen"] | masks["debris"]] > 5).mean() > 0.95


def test_what_is_drawn_is_found(folder):
    found, masks = find_artefacts(open_slide(folder / "slides" / "S.tif")), truth(folder)
    for kind, least in ((ArtefactKind.BLOOD, 0.8), (ArtefactKind.DEBRIS, 0.7), (ArtefactKind.BUBBLE, 0.9)):
        whole = masks[kind.key].reshape(SIDE // 16, 2, SIDE // 16, 2).all(axis=(1, 3))
        assert found.mask([kind])[whole].mean() > least
    pen = masks["pen"].reshape(SIDE // 16, 2, SIDE // 16, 2).all(axis=(1, 3))
    assert found.mask()[pen].mean() > 0.7  # over blood, green ink is grey
    everything = np.any([masks[kind.key] for kind in ARTEFACTS], axis=0)
    near = ndimage.binary_dilation(everything.reshape(SIDE // 16, 2, SIDE // 16, 2).any(axis=(1, 3)), iterations=8)
    assert found.mask()[~near].mean() < 0.02


def test_a_slide_is_drawn_anew_when_its_artefacts_change(tmp_path):
    path = write_slide(tmp_path, "S", side_px=512, seed=1, artefacts=("text",))
    first = path.read_bytes()
    (tmp_path / "truth" / "S.artefacts.npz").unlink()
    write_slide(tmp_path, "S", side_px=512, seed=1, artefacts=("text",))
    assert path.read_bytes() == first
    assert (tmp_path / "truth" / "S.artefacts.npz").exists()
    write_slide(tmp_path, "S", side_px=512, seed=1)
    assert path.read_bytes() != first


@pytest.mark.parametrize("name", ARTEFACT_NAMES)
def test_each_name_is_its_kind_alone(name):
    spec = SlideSpec(slide_id="S", side_px=512, seed=(5,), artefacts=(name,))
    layout = draw_layout(spec, replace(draw_style(spec), folded=False))
    masks = artefact_truth(draw_overlay(spec, layout), layout)
    assert [kind for kind in ARTEFACTS if masks[kind].any()] == [ArtefactKind(KIND.get(name, 0))]
    again = artefact_truth(draw_overlay(spec, layout), layout)
    assert all(np.array_equal(masks[kind], again[kind]) for kind in ARTEFACTS)


def test_folds_and_blur_lie_on_tissue():
    spec = SlideSpec(slide_id="S", side_px=512, seed=(6,), artefacts=("fold", "blur", "fold", "blur"))
    layout = draw_layout(spec, draw_style(spec))
    masks = artefact_truth(draw_overlay(spec, layout), layout)
    glass = layout.types == TissueType.GLASS
    assert not (masks[ArtefactKind.FOLD] | masks[ArtefactKind.BLUR])[glass].any()


def test_a_clean_spec_keeps_its_header():
    assert "artefacts" not in json.loads(SlideSpec(slide_id="S").description)
    assert json.loads(SPEC.description)["artefacts"] == list(NAMES)


def test_an_unknown_name_says_what_there_is():
    with pytest.raises(SettingsError, match="pen_blue"):
        SlideSpec(slide_id="S", artefacts=("coffee",))
