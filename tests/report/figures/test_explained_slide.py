from __future__ import annotations

from dataclasses import replace

import numpy as np

from helpers.report import slide_maps
from vitrail.report.figures.explained_slide import explained_figure
from vitrail.report.style import style


def test_every_method_has_a_panel_with_a_scale_of_its_own():
    maps = slide_maps("a", 1)
    shape = maps.thumbnail.shape[:2]
    explained = {name: np.full(shape, value, np.float32) for name, value in {"A": 1.0, "B": 20.0, "Toy": 300.0}.items()}
    with style():
        figure = explained_figure(maps, explained, {"pearson": 0.5, "spearman": None})
        figure.draw_without_rendering()
        box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles[:5] == ["a  Slide", "b  A", "c  B", "d  Toy", "e  Tumor probability"]
    bars = [label.get_text() for axes in figure.axes for label in axes.get_xticklabels() if "for" in label.get_text()]
    assert bars == ["1 for tumor", "20 for tumor", "300 for tumor"]
    assert "agreement of the first two maps over the tissue: Pearson 0.50" in figure.texts[-1].get_text()
    assert min(box.x0, box.y0, width - box.x1, height - box.y1) >= -0.01


def test_a_slide_without_probabilities_is_drawn_without_them():
    maps = slide_maps("a", 1)
    blind = replace(maps, classifier=np.full_like(maps.classifier, np.nan))
    with style():
        figure = explained_figure(blind, {"A": np.zeros(maps.thumbnail.shape[:2], np.float32)}, None)
    assert [axes.get_title(loc="left") for axes in figure.axes[:2]] == ["a  Slide", "b  A"]
    assert "agreement" not in figure.texts[-1].get_text()
