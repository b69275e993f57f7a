"""Which combination is chosen, how it is shown, and what a damaged search says."""

from __future__ import annotations

import json
from dataclasses import replace

import pandas as pd
import pytest

from vitrail.errors import RunError
from vitrail.report.figures.search import search_caption, search_figure
from vitrail.report.style import save, style
from vitrail.search.results import CELL_COLUMNS, Combination, SearchResult, choose, read_search, write_search


def combination(side_um, side_px, accuracy, state="complete", n=15):
    return Combination(
        side_um=side_um, side_px=side_px, accuracy=accuracy, spread=0.02, auc=0.9, n=n, state=state
    )  # fmt: skip


def test_the_fewest_pixels_among_the_best_are_chosen():
    combinations = (
        combination(99.6, 64, 0.80), combination(99.6, 224, 0.896), combination(199.1, 224, 0.898),
        combination(199.1, 512, 0.900), combination(199.1, 64, 0.99, "abandoned"),
    )  # fmt: skip
    assert choose(combinations, 0.005) is combinations[2]
    assert choose(combinations, 0.0) is combinations[3]
    assert choose(combinations[-1:], 0.005) is None


def result(*combinations):
    return SearchResult(
        combinations=combinations, chosen=combinations[0], folds=5, iterations=3, tolerance=0.005, patients=("P0",),
        unseen=1,
    )  # fmt: skip


def test_a_search_is_read_as_it_was_written(tmp_path):
    written = result(combination(99.6, 64, 0.80), combination(199.1, 224, 0.898, "abandoned"))
    write_search(tmp_path, written, pd.DataFrame(columns=CELL_COLUMNS))
    with pytest.raises(RunError, match="no finished search"):
        read_search(tmp_path)
    (tmp_path / "stage.json").write_text("{}")
    assert read_search(tmp_path) == written
    assert str(written.combinations[1]).endswith("accuracy 0.898, spread 0.020, AUC 0.900, 15 trainings, abandoned")


@pytest.mark.parametrize("key", ["chosen", "folds", "patients", "unseen"])
def test_a_summary_without_a_key_is_one_line(tmp_path, key):
    write_search(tmp_path, result(combination(99.6, 64, 0.80)), pd.DataFrame(columns=CELL_COLUMNS))
    (tmp_path / "stage.json").write_text("{}")
    summary = json.loads((tmp_path / "summary.json").read_text())
    del summary[key]
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(RunError) as caught:
        read_search(tmp_path)
    assert str(caught.value) == f"{tmp_path}: does not fit together ('{key}'). Run vitrail search again."


def test_the_figure_shows_every_size(tmp_path):
    combinations = tuple(
        combination(um, px, 0.7 + 0.02 * i + um / 2000, "abandoned" if px == 64 else "complete")
        for um in (99.6, 149.4, 199.1)
        for i, px in enumerate((64, 128, 224, 256, 384, 512))
    )
    shown = replace(result(*combinations), chosen=combinations[-2])
    with style():
        figure = search_figure(shown)
        text = save(figure, tmp_path, "figure_s1")
    assert text.startswith("<?xml")
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_legend().get_texts()] == [
        "99.6 \N{MICRO SIGN}m", "149.4 \N{MICRO SIGN}m", "199.1 \N{MICRO SIGN}m", "chosen"
    ]  # fmt: skip
    lines = [line for line in axes.lines if len(line.get_xdata()) == 6]
    assert len({line.get_linestyle() for line in lines} | {line.get_marker() for line in lines}) >= 3
    assert "3 x 5-fold cross-validation" in search_caption(shown)
