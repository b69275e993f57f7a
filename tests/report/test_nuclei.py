from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from helpers.nuclei_study import NETWORKS, nothing, nuclei_study, shown_nuclei
from helpers.report import changed, report_data
from vitrail.evaluation.nuclei import nuclei_tables
from vitrail.report.collect_nuclei import rings_of
from vitrail.report.figures.heatmap import AGAINST, FOR, Scale
from vitrail.report.figures.nuclei import draw_outlines, extremes, figures_of, forest_figure
from vitrail.report.page import write_report
from vitrail.report.sections.nuclei import nuclei_section
from vitrail.report.select_nuclei import (
    AGAINST as ROW_AGAINST,
)
from vitrail.report.select_nuclei import (
    FIRST,
    MATCHED,
    SAME_SIZE,
    choose_nuclei,
    choose_whole_tiles,
    single_effects,
)
from vitrail.report.style import style


@pytest.fixture(scope="module")
def study():
    return nuclei_study()


def test_a_gallery_sets_nuclei_beside_equally_large_ones_of_their_tile(study):
    rows = choose_nuclei(study, "classifier")
    most, matched = (rows[title].reset_index(drop=True) for title in (FIRST, MATCHED))
    assert len(most) == len(matched) == 8
    assert (most["tile"] == matched["tile"]).all()
    assert (most["nucleus"] != matched["nucleus"]).all()
    assert (most["area_um2"] / matched["area_um2"]).between(1 / SAME_SIZE, SAME_SIZE).all()
    assert (most["effect"] >= matched["effect"].abs()).all()
    assert most["effect"].is_monotonic_decreasing
    tumor = study.tiles.loc[study.tiles["classifier_group"] == "tumor", "tile"]
    assert set(most["tile"]) == set(tumor)  # each gives one before any gives a second
    assert most["tile"].value_counts().max() - most["tile"].value_counts().min() <= 1
    assert (rows[ROW_AGAINST]["effect"] < 0).all()


def test_only_the_trained_networks_effects_count(study):
    own = single_effects(study, "segmenter")
    assert len(own) == len(study.nuclei)
    assert own["effect"].corr(own["area_um2"]) > 0.5


def test_whole_tiles_are_one_of_each_kind(study):
    tumor, rest = choose_whole_tiles(study)
    labels = study.tiles.set_index("tile")["label"]
    assert (labels[tumor], labels[rest]) == ("tumor", "non_tumor")


def test_rings_lie_on_the_edges_of_pixels():
    labels = np.zeros((9, 12), np.uint16)
    labels[2:6, 3:8] = 4
    (ring,) = rings_of(labels, 4)
    assert ring.min(0).tolist() == [3, 2]
    assert ring.max(0).tolist() == [8, 6]
    np.testing.assert_array_equal(ring[0], ring[-1])
    assert rings_of(labels, 1) == []
    labels[:2, :2] = 5  # at the border of the tile
    assert rings_of(labels, 5)[0].min() == 0


def test_colours_of_outlines_say_for_and_against():
    from matplotlib.figure import Figure  # noqa: PLC0415 - where it is used

    axes = Figure().subplots()
    axes.imshow(np.zeros((10, 10, 3), np.uint8))
    square = np.array([[0.2, 0.2], [0.4, 0.2], [0.4, 0.4], [0.2, 0.2]])
    draw_outlines(
        axes, {1: [square], 2: [square], 3: [square], 4: [square]}, {1: 2.0, 2: -2.0, 3: 0.01}, Scale(limit=2.0)
    )
    halo, lines = axes.collections
    colours = (lines.get_colors()[:, :3] * 255).round().astype(int).tolist()
    assert colours == [[255] * 3, list(FOR[1]), list(AGAINST[1])]  # weakest first; the fourth was not removed
    assert halo.get_linewidths()[0] == 0
    np.testing.assert_allclose(lines.get_segments()[1][0], [0.2 * 10 - 0.5] * 2)


def test_the_extremes_are_tenths_of_each_tile(study):
    most, least = extremes(study, "classifier")
    tumor = int((study.tiles["classifier_group"] == "tumor").sum())
    assert len(most) == len(least) == tumor * round(0.1 * 25)
    assert most["effect"].min() > least["effect"].max()


def test_the_forest_shows_both_networks_and_what_is_found():
    with style():
        figure = forest_figure(shown_nuclei())
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Effect of removal", "Relevance, Grad-CAM"]
    filled = [line for line in figure.axes[0].lines if line.get_marker() in {"o", "s"}]
    colours = {line.get_markerfacecolor() for line in filled}
    assert len(colours) == 3  # paper, and that of each network for the area


def test_the_page_has_sentences_figures_and_tables(tmp_path):
    shown = shown_nuclei(nuclei_study(refused=["1 slide is too coarse."]))
    data = changed(report_data(4, 20, (60, 80)), nuclei=shown)
    assert [spec.name for spec in figures_of(data)] == [
        f"nuclei-{name}" for name in ("tiles", "gallery", "features", "forest", "dependence")
    ]
    text = write_report(data, tmp_path).read_text()
    assert 'href="#nuclei"' in text
    lines = ("1 slide is too coarse.", "Grad-CAM is too coarse.", "1.8 times as large", "Without all nuclei (4 a tile)")
    for line in lines:
        assert line in text, line
    section = nuclei_section(shown.study)
    assert {row["network"] for row in section["removed"]} == {"Classification network", "Segmentation network"}
    assert {row["verdict"] for row in section["removed"] if row["title"] == "All nuclei"} == {"for tumor"}


def test_coarse_slides_leave_a_line(tmp_path):
    data = changed(report_data(4, 20, (60, 80)), nuclei=shown_nuclei(nothing(["4 slides are too coarse."])))
    assert figures_of(data) == []
    text = write_report(data, tmp_path).read_text()
    assert "<strong>4 slides are too coarse.</strong>" in text
    assert nuclei_section(nothing([])) is None


def test_tables_have_a_row_for_each_network_and_group(study):
    tables = nuclei_tables(study)
    removed = tables["nuclei_removed"]
    assert len(removed) == 2 * 3
    assert list(removed["network"].unique()) == list(NETWORKS)
    assert (removed["effect_low"] <= removed["effect"]).all()
    assert nuclei_tables(nothing([])) == {}
    assert all(isinstance(table, pd.DataFrame) for table in tables.values())
