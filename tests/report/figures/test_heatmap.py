from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from helpers.explained import SIDE, saliency
from vitrail.report import style
from vitrail.report.figures import heatmap
from vitrail.report.figures.heatmap import Scale, common_scale


def distance(picture, base):
    return np.abs(picture.astype(float) - base.astype(float)).mean()


def test_a_weaker_map_looks_paler_by_as_much():
    values = np.random.default_rng(0).uniform(-1, 1, (4, 4))
    image = np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    scale = common_scale([saliency(values)])
    base = heatmap.overlay(image, saliency(0 * values), scale)
    strong, weak, faint = (distance(heatmap.overlay(image, saliency(values * f), scale), base) for f in (1, 0.1, 1e-3))
    assert strong > 20
    assert weak == pytest.approx(strong / 10, rel=0.35)  # the colour gets lighter, too
    assert faint < strong / 300


def test_one_scale_is_that_of_all_maps_together():
    maps = [saliency(np.full((2, 2), value)) for value in (1.0, -8.0, 0.001)]
    assert common_scale(maps).limit == pytest.approx(np.percentile([1.0, 8.0, 0.001] * 4, 99))
    assert common_scale([]).limit == 0
    assert common_scale(maps).ends == (-common_scale(maps).limit, common_scale(maps).limit)


def test_maps_without_a_zero_are_painted_from_less_to_more():
    """Shifted by any constant they look the same, and no colour speaks against anything."""
    values = np.random.default_rng(0).uniform(-3, -1, (4, 4))
    maps = [saliency(values + shift, signed=False) for shift in (0.0, 2.0, 9.0)]
    scales = [common_scale([one]) for one in maps]
    assert scales[0].ends == pytest.approx(np.percentile(values, (1, 99)))
    image = np.full((SIDE, SIDE, 3), 255, np.uint8)
    pictures = [heatmap.overlay(image, one, scale).astype(int) for one, scale in zip(maps, scales, strict=True)]
    for picture in pictures[1:]:
        assert np.abs(picture - pictures[0]).max() <= 1
    assert (pictures[0][..., 0] >= pictures[0][..., 2] - 1).all()  # yellow to violet, never blue on its own
    assert common_scale([saliency(np.full((2, 2), -3.0), signed=False)]).empty


def test_orange_speaks_for_tumor_and_blue_against():
    image = np.full((SIDE, SIDE, 3), 255, np.uint8)
    picture = heatmap.overlay(image, saliency([[1, -1], [0, 0]]), Scale(limit=1.0)).astype(int)
    red, blue = picture[0, 0], picture[0, -1]
    assert red[0] > red[2] + 100
    assert blue[2] > blue[0] + 100
    assert picture[-1, 0].tolist() == picture[-1, -1].tolist() == [255, 255, 255]


@pytest.mark.parametrize("ramp", [heatmap.FOR, heatmap.AGAINST, heatmap.LESS_TO_MORE])
def test_stronger_evidence_is_always_darker(ramp):
    colours = heatmap.ramp_colours(ramp, np.linspace(0, 1, 50))
    assert (np.diff(colours @ [0.299, 0.587, 0.114]) < 0).all()


def test_tissue_shows_where_a_map_says_nothing_and_even_where_it_says_most():
    image = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    nothing = heatmap.overlay(image, saliency(np.zeros((2, 2))), Scale(limit=0.0))
    np.testing.assert_array_equal(nothing, np.rint(heatmap.grey(image, heatmap.SHADOW)))
    most = heatmap.overlay(image, saliency(np.ones((2, 2))), Scale(limit=0.5))
    assert np.corrcoef(most[..., 0].ravel(), nothing[..., 0].ravel())[0, 1] > 0.99


def test_an_overlay_lies_where_its_cells_do():
    values = np.zeros((4, 4))
    values[3, 0] = 1
    picture = heatmap.overlay(np.full((80, 80, 3), 255, np.uint8), saliency(values), Scale(limit=1.0))
    strength = 255.0 - picture[..., 2]
    y, x = np.unravel_index(strength.argmax(), strength.shape)
    assert y >= 70
    assert x <= 9
    assert strength[:50].max() == strength[:, 30:].max() == 0


def test_a_single_picture_is_saved_with_its_maps(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    empty = saliency(np.zeros((2, 3)), "hrcam")
    for name in ("a.png", "b.png"):
        maps = [saliency([[1, 0, -1], [0, 0, 2]]), empty]
        heatmap.save_overlay(tmp_path / name, image, maps, "tile.png: tumor probability 0.93")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as saved:
        assert saved.size[0] == pytest.approx(style.DPI * 12.6, abs=1)
    with style.style():
        figure = heatmap.overlay_figure(image, [empty], "said 0.93")
    words = [text.get_text() for text in figure.texts]
    assert "said 0.93" in words
    assert any("0 everywhere" in word for word in words)
    titles = [axes.get_title(loc="left") for axes in figure.axes[:4]]
    assert titles == ["Picture", "Its strongest places", "HR-CAM of tumor", "The strongest enlarged"]


def test_contours_surround_the_strongest_places():
    """A bump of known width: each contour is a circle about its middle, as wide as the level says."""
    y, x = np.mgrid[0.5:32, 0.5:32]
    bump = saliency(np.exp(-((x - 20) ** 2 + (y - 12) ** 2) / (2 * 5.0**2)))
    figure = Figure()
    axes = figure.add_axes((0, 0, 1, 1))
    heatmap.show(axes, np.full((64, 64, 3), 255, np.uint8))  # the picture has twice the pixels
    scale = Scale(limit=float(heatmap.smoothed(bump).max()))
    heatmap.draw_contours(axes, bump, scale)
    (lines,) = axes.collections
    width = 2 * np.hypot(5.0, heatmap.SMOOTH * 32)
    for path, level in zip(lines.get_paths(), heatmap.LEVELS, strict=True):
        radii = np.hypot(path.vertices[:, 0] + 0.5 - 40, path.vertices[:, 1] + 0.5 - 24)
        np.testing.assert_allclose(radii, width * np.sqrt(-2 * np.log(level)), rtol=0.06)


def test_both_signs_have_contours_and_an_empty_map_has_none():
    figure = Figure()
    axes = figure.add_axes((0, 0, 1, 1))
    heatmap.show(axes, np.full((64, 64, 3), 255, np.uint8))
    heatmap.draw_contours(axes, saliency(np.zeros((4, 4))), Scale(limit=0.0))
    assert not axes.collections
    heatmap.draw_contours(axes, saliency(np.diag([1.0, 0, 0, -1])), Scale(limit=0.5))
    colours = [tuple(lines.get_edgecolor()[0][:3]) for lines in axes.collections]
    assert colours == [tuple(c / 255 for c in ramp[1]) for ramp in (heatmap.FOR, heatmap.AGAINST)]


def test_the_strongest_place_lies_within_the_image():
    side = heatmap.ENLARGED * SIDE
    for row, column in ((3, 3), (31, 0), (16, 20)):
        values = np.zeros((32, 32))
        values[row, column] = 1
        left, top = heatmap.strongest_place(saliency(values))
        assert 0 <= left <= column + 0.5 <= left + side <= SIDE + 1e-9
        assert 0 <= top <= row + 0.5 <= top + side <= SIDE + 1e-9
        assert heatmap.strongest_place(saliency(-values), against=True) == (left, top)
    assert heatmap.strongest_place(saliency(np.ones((2, 2)))) == pytest.approx(((SIDE - side) / 2,) * 2)
