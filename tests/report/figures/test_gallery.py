from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from helpers.explained import METHODS, THREE, explained
from helpers.kinds import KEYS
from vitrail.report import style
from vitrail.report.figures import gallery
from vitrail.report.select import closeup_key, compared_keys, shown_keys


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return explained(tmp_path_factory.mktemp("run"))


@pytest.mark.parametrize(
    ("draw", "groups"),
    [
        (gallery.correct_figure, dict.fromkeys(KEYS[:2], ("tumor", "non_tumor"))),
        (gallery.disagreement_figure, dict.fromkeys(KEYS[::2], ("disagreement",))),
        (gallery.wrong_figure, dict.fromkeys(KEYS, ("wrong",))),
    ],
)
def test_all_maps_of_a_kind_in_a_figure_share_one_scale(whole, monkeypatch, draw, groups):
    used = []
    monkeypatch.setattr(gallery, "overlay", lambda image, _, scale: used.append(scale.limit) or image)
    with style.style():
        draw(whole)
    most = 4 if len(groups) <= gallery.BESIDE else gallery.FEWER
    rows = {
        key: [row for name in names for row in getattr(whole.examples, name)[:most]] for key, names in groups.items()
    }
    expected = {key: np.percentile(np.abs(whole.stored.maps(key)[shown]), 99) for key, shown in rows.items()}
    assert sorted(set(used)) == pytest.approx(sorted(expected.values()))
    for key, shown in rows.items():
        assert used.count(pytest.approx(expected[key])) == len(shown)


def test_a_map_of_zeros_is_said_to_be_one(whole):
    zeros = next(row for row in whole.examples.all if not whole.stored.maps("segmenter_gradcam")[row].any())
    with style.style():
        figure = gallery.gallery({"": [gallery.Example(row=zeros, heading="")]}, whole, ("segmenter_gradcam",))
    words = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert "0 everywhere" in words


def test_every_tile_stands_in_its_own_colours(whole):
    """Neither the tile nor what contours are drawn on is tinted."""
    row = whole.examples.tumor[0]
    with style.style():
        figure = gallery.gallery({"": [gallery.Example(row=row, heading="")]}, whole, KEYS[:2])
    pictures = [axes.get_images()[0].get_array() for axes in figure.axes[:-2]]
    own = [np.array_equal(picture, whole.pictures[row]) for picture in pictures]
    assert own == [True, True, False, True, False]


@pytest.mark.parametrize("methods", [METHODS, THREE])
def test_a_figure_is_not_much_higher_than_wide(tmp_path, methods):
    with style.style():
        width, height = gallery.correct_figure(explained(tmp_path, methods=methods)).get_size_inches()
    assert height < 3 * width


def test_what_is_shown_is_the_papers_methods_and_those_to_show(tmp_path):
    made = explained(tmp_path, methods=THREE)
    assert shown_keys(made) == ("classifier_gradcam", "classifier_hrcam", "classifier_toy")
    assert shown_keys(replace(made, show=("gradcam",))) == ("classifier_gradcam", "classifier_hrcam")
    assert compared_keys(made) == ("classifier_gradcam", "segmenter_gradcam", "classifier_toy", "segmenter_toy")
    assert closeup_key(made.stored, ("toy", "hrcam")) == "classifier_toy"
    assert closeup_key(made.stored, ("hrcam",)) == "classifier_hrcam"


def test_photographs_within_figures_are_jpegs(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(style, "DPI", 100)
    rng = np.random.default_rng(3)
    pictures = {
        row: np.asarray(
            Image.fromarray(rng.integers(60, 250, (8, 8, 3), np.uint8)).resize((300, 300), Image.Resampling.BICUBIC)
        )
        for row in whole.examples.all
    }
    with style.style():
        svg = style.save(gallery.disagreement_figure(replace(whole, pictures=pictures)), tmp_path, "one")
    assert svg == (tmp_path / "one.svg").read_text()
    assert svg.count("data:image/jpeg") >= 6
    assert len(svg) < (tmp_path / "one.png").stat().st_size * 4 / 3
