"""Pairs of slides differ in what their name says, and nowhere else; parts of a slide are drawn as the slide is."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from vitrail.errors import SettingsError
from vitrail.geometry import Region
from vitrail.slides.readers.resample import area_resample
from vitrail.synthetic import (
    CAUSES,
    SHORTCUTS,
    PhantomCohort,
    SlideSpec,
    TissueType,
    compose,
    draw,
    draw_region,
    draw_tile,
    slide_pair,
    without_cause,
)
from vitrail.synthetic.block import cut_block
from vitrail.synthetic.fields import Window
from vitrail.synthetic.nuclei import ATYPICAL

SPEC = SlideSpec(slide_id="S", side_px=512, seed=(1005,))
SLIDE = Region(x=0, y=0, width=512, height=512)


@pytest.fixture(scope="module")
def scene():
    return compose(SPEC)


@pytest.fixture(scope="module")
def whole(scene):
    return np.concatenate(list(draw.draw_strips(scene)))


def near_atypical(scene, reach_px):
    near = np.ones((512, 512), bool)
    nuclei = scene.nuclei.where(np.isin(scene.nuclei.kind, ATYPICAL))
    near[nuclei.y, nuclei.x] = False
    return ndimage.distance_transform_edt(near) < reach_px


def of_type(scene, code):
    """Return the pixels that are painted as a tissue, and the two beside them that the camera mixes with them."""
    block = cut_block(Window(x=0, y=0, side=1024), scene.layout, scene.grids, SPEC.mpp)
    return ndimage.binary_dilation(block.types[:512, :512] == code, iterations=2)


@pytest.mark.parametrize("cause", CAUSES)
def test_a_cause_changes_its_own_pixels_alone(scene, whole, cause):
    less = draw_region(without_cause(SPEC, cause), SLIDE)
    differs = (less != whole).any(2)
    reach = max(bank.half for bank in scene.banks) + 2
    stroma = of_type(scene, TissueType.TUMOR_STROMA)
    where = {
        "cytoplasm": of_type(scene, TissueType.TUMOR_NEST),
        "stroma": ndimage.binary_dilation(stroma, iterations=12),  # its cells reach over the border
    }.get(cause, near_atypical(scene, reach))
    assert differs.any()
    assert not differs[~where].any()
    assert (~where).any()


@pytest.mark.parametrize("shortcut", SHORTCUTS)
def test_a_shortcut_lies_in_the_carcinoma_alone(scene, whole, shortcut):
    planted = draw_region(replace(SPEC, shortcuts=(shortcut,)), SLIDE)
    differs = (planted != whole).any(2)
    zone = ndimage.binary_dilation(scene.layout.zone, np.ones((3, 3)))  # planes are enlarged bilinearly
    zone = zone.repeat(8, 0).repeat(8, 1)
    assert differs.any()
    assert not differs[~zone].any()
    assert np.array_equal(draw_region(without_cause(replace(SPEC, shortcuts=(shortcut,)), shortcut), SLIDE), whole)


def test_all_three_parts_are_atypia_in_any_order():
    parts = without_cause(without_cause(without_cause(SPEC, "outline"), "size"), "darkness")
    assert parts == without_cause(SPEC, "atypia") == without_cause(without_cause(SPEC, "size"), "atypia")


def test_each_part_of_atypia_is_what_it_is_called(scene):
    """Of the same drawings: the area, the hematoxylin in the middle, and the roundness change with their own part."""
    bank = scene.banks[ATYPICAL[0]]
    area, dark = bank.cover.sum((1, 2)), bank.stain[:, bank.half - 1 : bank.half + 2, bank.half - 1 : bank.half + 2]
    radius = np.linalg.norm(bank.contour, axis=-1)

    def changed(cause):
        other = compose(without_cause(SPEC, cause)).banks[ATYPICAL[0]]
        shape = np.linalg.norm(other.contour, axis=-1)
        middle = other.stain[:, other.half - 1 : other.half + 2, other.half - 1 : other.half + 2]
        uneven = (shape.std(1) / shape.mean(1)).mean() / (radius.std(1) / radius.mean(1)).mean()
        return other.cover.sum((1, 2)).mean() / area.mean(), middle.mean() / dark.mean(), uneven

    smaller, rounder = changed("size"), changed("outline")
    assert smaller[0] < 0.55
    assert smaller[2] == pytest.approx(1, abs=0.02)
    assert rounder[2] < 0.65
    assert rounder[0] == pytest.approx(1, abs=0.1)
    paler = changed("darkness")
    assert (paler[0], paler[2]) == (1, 1)
    assert paler[1] < 0.95


def test_without_crowding_no_two_nuclei_touch_and_none_moves(scene):
    roomy = compose(without_cause(SPEC, "crowding")).nuclei
    places = set(zip(scene.nuclei.x.tolist(), scene.nuclei.y.tolist(), scene.nuclei.kind.tolist(), strict=True))
    rest = set(zip(roomy.x.tolist(), roomy.y.tolist(), roomy.kind.tolist(), strict=True))
    assert rest < places
    assert all(kind in ATYPICAL for _, _, kind in places - rest)
    atypical = np.isin(roomy.kind, ATYPICAL)
    points = np.stack([roomy.x, roomy.y], 1)[atypical].astype(float)
    distance = np.linalg.norm(points[:, None] - points, axis=-1) + 1e9 * np.eye(len(points))
    assert distance.min() * SPEC.mpp > 1.25 * 2 * 3.3  # of two mitoses, the smallest


@pytest.mark.parametrize(
    "region",
    [
        Region(x=0, y=0, width=700, height=700),
        Region(x=900.25, y=1000.5, width=398.2, height=398.2),
        Region(x=1020, y=3, width=4, height=9),
        Region(x=1400, y=1300, width=200, height=100),
        Region(x=-20, y=-3, width=40, height=40),
    ],
)
def test_a_region_is_drawn_as_the_slide_is(big, region):
    scene, picture = big
    left, top, right, bottom = draw.pixel_box(region)
    expected = np.full((bottom - top, right - left, 3), 255, np.uint8)
    rows, columns = slice(max(top, 0), bottom), slice(max(left, 0), right)
    inside = picture[rows, columns]
    y, x = max(-top, 0), max(-left, 0)
    expected[y : y + inside.shape[0], x : x + inside.shape[1]] = inside
    assert np.array_equal(draw_region(scene, region), expected)


@pytest.fixture(scope="module")
def big():
    names = {"artefacts": ("pen_blue", "fold"), "without": ("stroma", "size"), "shortcuts": ("ink", "mark")}
    scene = compose(SlideSpec(slide_id="B", side_px=1536, seed=(4,), **names))
    return scene, np.concatenate(list(draw.draw_strips(scene)))


def test_a_tile_is_its_region_scaled(scene, whole):
    region = Region(x=100.5, y=60.25, width=199.1, height=199.1)
    expected = area_resample(whole, (100.5, 60.25, 299.6, 259.35), (48, 48))
    assert np.abs(draw_tile(scene, region, (48, 48)).astype(int) - expected).max() <= 1
    pair = slide_pair(scene, "atypia").tile(region, (48, 48))
    assert np.array_equal(pair.present, draw_tile(scene, region, (48, 48)))
    assert np.array_equal(pair.differs, (pair.present != pair.absent).any(2))


def test_slides_of_before_keep_their_header():
    record = json.loads(SPEC.description)
    assert not {"without", "shortcuts"} & set(record)
    assert json.loads(without_cause(SPEC, "size").description)["without"] == ["size"]


def test_a_cohort_plants_its_shortcut_into_every_slide():
    clean, planted = (PhantomCohort(patients=3, shortcut=name).slides() for name in (None, "ink"))
    assert [without_cause(spec, "ink") for spec, _ in planted] == [spec for spec, _ in clean]
    assert [row for _, row in planted] == [row for _, row in clean]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: SlideSpec(slide_id="S", without=("colour",)),
        lambda: SlideSpec(slide_id="S", shortcuts=("coffee",)),
        lambda: PhantomCohort(shortcut="coffee"),
        lambda: without_cause(SPEC, "ink"),
        lambda: without_cause(without_cause(SPEC, "size"), "size"),
    ],
)
def test_what_cannot_be_taken_away_or_planted_is_refused(wrong):
    with pytest.raises(SettingsError, match=r"Choose from|Plant|Take away"):
        wrong()
