from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from helpers.explained import explained
from helpers.kinds import KEYS
from vitrail.report import style
from vitrail.report.figures import gallery
from vitrail.report.figures.heatmap import Scale


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return explained(tmp_path_factory.mktemp("run"))


@pytest.mark.parametrize(
    ("draw", "groups"),
    [
        (gallery.correct_figure, {KEYS[0]: ("tumor_mixed", "non_tumor"), KEYS[1]: ("tumor", "non_tumor")}),
        (gallery.disagreement_figure, dict.fromkeys(KEYS[::2], ("disagreement",))),
        (gallery.wrong_figure, dict.fromkeys(KEYS, ("wrong",))),
    ],
)
def test_all_maps_of_a_kind_in_a_figure_share_one_scale(whole, monkeypatch, draw, groups):
    used = []
    monkeypatch.setattr(gallery, "overlay", lambda image, _, scale: used.append(scale.limit) or image)
    with style.style():
        draw(whole)
    rows = {key: [row for name in names for row in getattr(whole.examples, name)] for key, names in groups.items()}
    expected = {key: np.percentile(np.abs(whole.stored.maps(key)[shown]), 99) for key, shown in rows.items()}
    assert sorted(set(used)) == pytest.approx(sorted(expected.values()))
    for key, shown in rows.items():
        assert used.count(pytest.approx(expected[key])) == len(shown)


def test_a_map_of_zeros_is_said_to_be_one(whole):
    rows = (0, 1)
    pictures = {row: np.full((20, 20, 3), 255, np.uint8) for row in rows}
    strip = gallery.map_strip(replace(whole, pictures=pictures), rows, "segmenter_gradcam", Scale(limit=1.0))
    assert strip.remarks == ["0 everywhere", ""]


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
