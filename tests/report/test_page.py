from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
from shapely.geometry import box

from helpers.mapped import Reds, settings, write_slide
from helpers.report import (
    HOSTILE,
    Page,
    changed,
    report_data,
    slide_maps,
)
from vitrail.classes import ARTEFACT_CLASS, TissueClass
from vitrail.evaluation.results import as_json
from vitrail.inference.map_slide import Networks, map_slide
from vitrail.inference.outputs import MapFiles
from vitrail.report import figures as registry
from vitrail.report.collect import outline_rings
from vitrail.report.data import CutExample, Overlaid
from vitrail.report.figures import cohort as figures
from vitrail.report.figures import predictions_over_slide as overlaid
from vitrail.report.figures import slide_maps as maps
from vitrail.report.figures import tiles_of_a_slide as cut_figure
from vitrail.report.page import write_report
from vitrail.report.style import drawable, style
from vitrail.report.whole_slide import SUMMARY
from vitrail.search.results import Combination, SearchResult
from vitrail.slides.annotations import Annotation, Annotations
from vitrail.slides.slide import open_slide

FIGURES = ("roc", "confusion", "training", "cohort", "calibration", "shares", "patients", "groups")


@pytest.fixture(scope="module")
def data():
    return report_data()


@pytest.fixture(scope="module")
def written(data, tmp_path_factory):
    return write_report(data, tmp_path_factory.mktemp("report"))


def test_the_same_data_give_the_same_bytes(data, written, tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "slide-07-of-an-earlier-report.png").touch()
    write_report(data, tmp_path)
    first, second = ({p.relative_to(f): p.read_bytes() for p in f.rglob("*.*")} for f in (written.parent, tmp_path))
    assert first == second
    assert {f"figures/{name}.{kind}" for name in FIGURES for kind in ("svg", "png")} < {str(path) for path in first}


def test_the_json_is_strict_and_holds_every_digit(data, written):
    def refuse(word):
        raise AssertionError(word)

    read = json.loads((written.parent / "metrics.json").read_text(), parse_constant=refuse)
    assert read == json.loads(as_json(data.evaluation.metrics))


def test_the_page_needs_nothing_from_elsewhere(written):
    page = Page(written.read_text())
    assert "script" not in page.tags
    assert len(page.ids) == len(set(page.ids))
    for link in page.links:
        inside = link[1:] in page.ids if link.startswith("#") else link.startswith("data:")
        assert inside or (written.parent / link).is_file(), link
    assert not re.search(r"https?://|@import", written.read_text())
    assert {f"figure-{name}" for name in FIGURES} < set(page.ids)
    assert sum(label.startswith("Slide ") for label in page.labels) == 4


def test_a_hostile_slide_id_stays_text_and_out_of_file_names(written):
    page = Page(written.read_text())
    assert sum(HOSTILE in words for words in page.words) == 2
    assert page.tags.count("bdi") == 4  # keeps a reversing character within the name
    assert any(label.startswith(f"Slide {HOSTILE}: (a)") for label in page.labels)
    names = [path.name for path in (written.parent / "figures").glob("slide-02*")]
    stem = "slide-02-script-alert-x-script-co"
    assert sorted(names) == [f"{stem}{end}" for end in ("-probability.png", "-probability.svg", ".png", ".svg")]


def test_tables_hold_what_the_page_shows(data, written):
    folder = written.parent / "tables"
    found = data.evaluation.metrics["test"]
    table = pd.read_csv(folder / "networks.csv", index_col="network").loc["Segmentation network"]
    for score, ends in found["segmenter"]["interval"].items():
        shown = table[[score, f"{score}_low", f"{score}_high"]].tolist()
        assert shown == pytest.approx([found["segmenter"][score], *ends], rel=1e-12)
    matrix = pd.read_csv(folder / "confusion_pixels.csv", index_col="truth")
    assert matrix.to_numpy().tolist() == found["pixels"]["confusion"]
    curve = pd.read_csv(folder / "roc_classifier.csv")
    area = np.trapezoid(curve["true_positive_rate"], curve["false_positive_rate"])
    assert area == pytest.approx(found["classifier"]["auc"], abs=1e-12)
    assert (folder / "roc_stacking_validation.csv").is_file()
    assert pd.read_csv(folder / "patients.csv")["tiles"].sum() == found["tiles"]
    assert pd.read_csv(folder / "slides.csv")["tiles"].sum() == found["tiles"]


def test_it_works_with_one_class_no_maps_and_no_validation(data, tmp_path):
    rows, slides, history = data.evaluation.predictions, data.evaluation.slides, data.evaluation.history
    silent = {name: table.assign(**dict.fromkeys(table.columns[2:], np.nan)) for name, table in history.items()}
    bare = changed(
        data,
        predictions=rows[(rows["split"] == "train") | ((rows["split"] == "test") & (rows["label"] == "tumor"))],
        slides=slides[slides["split"] != "validation"][list(slides.columns[:6])],
        history=silent,
        maps=[],
        warnings=[],
        skipped=data.evaluation.skipped.iloc[:0],
    )
    page = Page(write_report(bare, tmp_path).read_text())
    assert "Read this first" not in page.words
    assert not {"slides", "skipped"} & set(page.ids)
    assert json.loads((tmp_path / "metrics.json").read_text())["test"]["classifier"]["auc"] is None


def test_it_works_without_test_tiles(data, tmp_path):
    rows = data.evaluation.predictions
    page = Page(write_report(changed(data, predictions=rows[rows["split"] == "train"], maps=[]), tmp_path).read_text())
    assert "the test part is empty" in page.words
    assert json.loads((tmp_path / "metrics.json").read_text())["test"]["pixels"]["mean_jaccard"] is None


def test_the_kept_epoch_has_the_lowest_validation_loss():
    table = pd.DataFrame({"epoch": [1, 2, 3], "validation_loss": [0.5, 0.3, 0.4]})
    assert figures.kept_epoch(table) == 2
    assert figures.kept_epoch(table.assign(validation_loss=np.nan)) == 3
    assert figures.kept_epoch(table.iloc[:0]) is None


def test_outlines_are_filled_but_for_their_holes():
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]], float)
    square, hole = 4 + 40 * corners, 14 + 20 * corners[::-1]
    one = replace(
        slide_maps("a", 1),
        thumbnail=np.full((50, 60, 3), 255, np.uint8),
        outlines={TissueClass.TUMOR: [square, hole]},
    )
    painted = (maps.annotated(one) != 255).any(-1)
    assert painted[6:12, 6:42].all()
    assert painted[36:42, 6:42].all()
    assert not painted[16:32, 16:32].any()
    assert not painted[:2].any()
    assert not painted[:, 47:].any()
    assert painted.sum() == pytest.approx(40**2 - 20**2, rel=0.1)


def test_tiles_take_the_colour_of_their_class():
    tiles = maps.classified(np.array([[1, 0.5, 0.49, 0, np.nan]], np.float32), 0.5)[0].tolist()
    assert tiles[0] == list(TissueClass.TUMOR.rgb)
    assert tiles[3] == list(TissueClass.NON_TUMOR.rgb)
    assert tiles[4] == [255, 255, 255]
    assert tiles[1][0] > tiles[1][2]  # still orange at the threshold
    assert tiles[2][1] > tiles[2][0]  # still green just below
    assert maps.segmented(np.array([[2, 255]], np.uint8))[0].tolist() == [list(TissueClass.OTHER.rgb), [255] * 3]


def test_artefacts_are_painted_in_a_colour_of_their_own():
    spoilt = replace(slide_maps("a", 1), artefacts=np.ones_like(slide_maps("a", 1).artefacts))
    tissue = ~spoilt.background
    for panel in (*maps._class_panels(spoilt, 0.5)[:1], *maps.probability_panels(spoilt)):
        assert (panel.picture[tissue] == ARTEFACT_CLASS.rgb).all()
        assert (panel.picture[~tissue] == 255).all()
    assert maps.segmented(np.array([[4]], np.uint8))[0, 0].tolist() == list(ARTEFACT_CLASS.rgb)


def test_probabilities_darken_from_nothing_to_certain():
    painted = maps.probable(np.array([[0, 0.25, 0.5, 0.75, 1, np.nan]], np.float32))[0]
    light = painted @ np.array([0.3, 0.59, 0.11])
    assert (np.diff(light[:5]) < -20).all()
    assert painted[5].tolist() == [255] * 3


def test_a_slide_without_annotation_shows_what_there_is():
    one = replace(slide_maps("a", 1), outlines={})
    blind = replace(one, classifier=np.full_like(one.classifier, np.nan))
    classes_only = replace(one, segmenter=np.full_like(one.segmenter, 255))
    everywhere = replace(one, classifier=np.nan_to_num(one.classifier, nan=0.4))
    shown = {
        "all": (one, ["Slide", "Classification", "Segmentation", "Tumor probability"]),
        "segmenter": (blind, ["Slide", "Segmentation"]),
        "classifier": (classes_only, ["Slide", "Classification", "Tumor probability"]),
        "background": (everywhere, [
            "Slide", "Classification", "Segmentation", "Tumor probability", "Including background",
        ]),
    }  # fmt: skip
    with style():
        for some, titles in shown.values():
            figure = maps.map_figure(some, 0.5)
            named = [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]
            assert [title[3:] for title in named] == titles
            figure.draw_without_rendering()
            box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
            assert min(box.x0, box.y0, width - box.x1, height - box.y1) >= -0.01
    coloured = maps._class_panels(everywhere, 0.5)[0].picture
    assert (coloured[everywhere.background] == 255).all()


def test_mapped_slides_are_listed_linked_and_published(data, tmp_path):
    folder = tmp_path / "predictions" / "maps"
    slide = open_slide(write_slide(tmp_path / "S001.tif"))
    for name in ("S001", "S 2"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        map_slide(slide, Networks(segmenter=Reds()), settings(), MapFiles(base=folder / name))
    (tmp_path / "report" / "qupath").mkdir(parents=True)
    (tmp_path / "report" / "qupath" / "earlier.geojson").touch()
    shown = replace(data, maps=data.maps[:1], mapped=[MapFiles(base=folder / name) for name in ("S001", "S 2")])
    written = write_report(shown, tmp_path / "report")
    page = Page(written.read_text())
    files = [link for link in page.links if link.endswith((".tiff", ".geojson"))]
    assert len(files) == 4
    assert all((written.parent / unquote(link)).is_file() for link in files)
    assert {path.name for path in (written.parent / "qupath").iterdir()} == {"S001.geojson", "S 2.geojson"}
    table = pd.read_csv(written.parent / "tables" / "mapped.csv")
    assert table.columns.tolist() == list(SUMMARY[:-1])
    assert f"{table['tumor_share'][0]:.1%}" in page.words


@pytest.mark.parametrize(("width", "bar"), [(9000, 2000), (3000.1, 1000), (700, 200), (299, 50), (16000, 5000)])
def test_the_scale_bar_is_round_and_fits(width, bar):
    assert maps.scale_bar_um(width) == bar


def test_text_that_the_font_lacks_becomes_boxes():
    assert drawable("a\u4e2db\n") == "a\u25a1b\u25a1"
    assert drawable("x" * 60, 10) == "x" * 9 + "\u2026"


def test_nothing_is_cut_off_at_the_edges_of_a_figure(data):
    with style():
        drawn = [
            *(spec.draw(data) for spec in registry.figures_of(replace(data, maps=[]))),
            *(maps.slide_figure(one, 0.5) for one in data.maps),
            *(maps.probability_figure(one) for one in data.maps),
        ]
        for figure in drawn:
            figure.draw_without_rendering()
            box = figure.get_tightbbox()
            width, height = figure.get_size_inches()
            assert box.x0 >= -0.01
            assert box.y0 >= -0.01
            assert box.x1 <= width + 0.01
            assert box.y1 <= height + 0.01


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium on the PATH")
def test_a_real_browser_shows_every_figure(written, tmp_path):
    quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    quiet += ["--disable-background-networking", "--disable-component-update", f"--user-data-dir={tmp_path}"]
    command = [shutil.which("chromium"), *quiet, "--dump-dom", written.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout  # noqa: S603 - our own
    page = Page(dom)
    assert page.tags.count("svg") == len(FIGURES) + 4
    assert page.tags.count("figcaption") == len(FIGURES) + 4
    assert page.tags.count("image") >= 8
    assert page.tags.count("th") > 30
    assert not [link for link in page.links if re.match(r"\w+://|//", link)]
    assert any(HOSTILE in words for words in page.words)


def test_a_slide_with_one_class_alone_has_no_ring_of_the_other():
    tumor = Annotations(outlines=(Annotation(label=TissueClass.TUMOR, geometry=box(0, 0, 8, 8)),))
    assert outline_rings(tumor, 0.5)[TissueClass.NON_TUMOR] == []
    (ring,) = outline_rings(tumor, 0.5)[TissueClass.TUMOR]
    assert ring.max(axis=0).tolist() == [4, 4]


def test_a_grid_search_is_shown_as_the_papers_figure_s1(data, written, tmp_path):
    sizes = [(99.6, 96, 0.88), (99.6, 192, 0.90), (199.1, 96, 0.89), (199.1, 192, 0.93)]
    found = tuple(
        Combination(side_um=um, side_px=px, accuracy=mean, spread=0.02, auc=0.95, n=6, state="complete")
        for um, px, mean in sizes
    )
    search = SearchResult(
        combinations=found, chosen=found[-1], folds=3, iterations=2, tolerance=0.005, patients=("P00",), unseen=3
    )
    text = write_report(replace(data, search=search), tmp_path).read_text(encoding="utf-8")
    assert "Figure S1." in text
    assert 'id="search"' in text
    assert pd.read_csv(tmp_path / "tables" / "search.csv")["accuracy"].tolist() == [mean for *_, mean in sizes]
    assert "Figure S1" not in written.read_text(encoding="utf-8")


def cut_example(one, labels):
    """Tiles in a row along the top of a slide; the masks of the shown ones are half tumor, half non-tumor."""
    n, shown = len(labels), tuple(range(min(len(labels), 4)))
    masks = np.zeros((len(shown), 12, 12), np.uint8)
    masks[:, :6] = TissueClass.NON_TUMOR
    return CutExample(
        slide_id=one.slide_id,
        patient_id=one.patient_id,
        thumbnail=one.thumbnail,
        width_um=one.width_um,
        outlines=one.outlines,
        squares=np.stack([np.arange(n) * one.tile_side, np.zeros(n), np.full(n, one.tile_side)], 1),
        labels=labels,
        side_um=199.1,
        shown=shown,
        pictures=np.full((len(shown), 12, 12, 3), 200, np.uint8),
        masks=masks,
    )


def laid(one):
    sections = overlaid.choose_sections(one)
    return Overlaid(maps=one, sections=sections, pictures=(np.full((24, 24, 3), 200, np.uint8),) * len(sections))


def test_the_most_mixed_tiles_of_each_label_are_shown():
    shares = {"tumor": [1, 0.6, 0.5, 0.4, 0], "non_tumor": [0, 0.4, 0.5, 0, 0.9]}
    shares |= {"other": [0, 0, 0, 0, 0.1], "background": [0, 0, 0, 0.6, 0]}
    rows = pd.DataFrame(shares | {"label": ["tumor"] * 4 + ["non_tumor"]}, index=range(7, 12))
    assert cut_figure.choose_tiles(rows) == (2, 1, 4)
    assert cut_figure.choose_tiles(rows.iloc[:1]) == (0,)


def test_sections_are_apart_and_show_what_they_promise():
    one = replace(slide_maps("a", 1), background=np.zeros((26, 32), bool), classifier=np.zeros((26, 32), np.float32))
    classes = np.full((26, 32, 8, 8), TissueClass.NON_TUMOR)
    classes[4, 5, :, :4] = classes[10, 20] = TissueClass.TUMOR
    classes[20:24, 2:6] = TissueClass.OTHER
    one = replace(one, segmenter=classes.transpose(0, 2, 1, 3).reshape(208, 256).astype(np.uint8))
    mixed, other, differ = overlaid.choose_sections(one)
    assert (other.row, other.column, other.tiles) == (20, 2, 4)
    assert mixed.row <= 10 < mixed.row + 4
    assert mixed.column <= 20 < mixed.column + 4
    assert differ.row <= 4 < differ.row + 4
    assert differ.column <= 5 < differ.column + 4
    tiny = replace(one, thumbnail=one.thumbnail[:10, :10])
    assert overlaid.choose_sections(tiny) == ()


def test_classes_lie_over_a_grey_slide_and_background_stays_free():
    picture = np.full((40, 80, 3), (200, 100, 200), np.uint8)
    classes = np.array([[TissueClass.TUMOR, TissueClass.OTHER, TissueClass.BACKGROUND, 255]], np.uint8)
    painted = overlaid.laid_over(picture, classes, (1, 4)).astype(int)
    assert (np.ptp(painted[:, 40:], axis=-1) == 0).all()
    assert painted[20, 10, 0] > painted[20, 10, 2] + 50
    assert painted[20, 30, 1] > painted[20, 30, 2] + 50
    assert (painted[:, 19] == overlaid._EDGE).all()
    assert overlaid.laid_over(picture, classes, (1, 2))[20, 70].tolist() == painted[20, 30].tolist()


def test_called_tiles_leave_background_out():
    one = slide_maps("a", 1)
    spoilt = replace(one, artefacts=np.where(one.classifier > 0.9, 1, 0).astype(np.float32))
    classes = overlaid.called(spoilt, 0.5)
    assert (classes[one.background] == 255).all()
    assert (classes[one.classifier > 0.9] == 4).all()
    assert (classes[(one.classifier >= 0.5) & (one.classifier <= 0.9)] == TissueClass.TUMOR).all()
    assert (classes[one.classifier < 0.5] == TissueClass.NON_TUMOR).all()


def test_the_slide_with_the_most_of_both_classes_is_overlaid():
    one = slide_maps("a", 1)
    alone = replace(one, segmenter=np.where(one.segmenter == TissueClass.TUMOR, 255, one.segmenter).astype(np.uint8))
    blind = replace(one, classifier=np.full_like(one.classifier, np.nan))
    assert overlaid.choose_slide([blind, alone, one, one]) is one
    assert overlaid.choose_slide([alone]) is alone
    assert overlaid.choose_slide([blind]) is None


@pytest.mark.parametrize("size", [(160, 200), (200, 60), (60, 200), (12, 14)])
def test_nothing_is_cut_off_at_the_edges_of_slides_with_tiles_and_maps(size):
    one = slide_maps(HOSTILE, 9, size)
    labels = (TissueClass.TUMOR,) * 2 + (TissueClass.NON_TUMOR,)
    with style():
        for figure in (
            cut_figure.cut_figure(cut_example(one, labels)),
            cut_figure.cut_figure(cut_example(one, labels[:1])),
            overlaid.overlaid_figure(laid(one), 0.5),
        ):
            figure.draw_without_rendering()
            box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
            assert min(box.x0, box.y0, width - box.x1, height - box.y1) >= -0.01


def test_tiles_and_maps_over_a_slide_are_the_papers_figures_2_and_s2(data, written, tmp_path):
    one = data.maps[1]
    cut = cut_example(one, (TissueClass.TUMOR,) * 2 + (TissueClass.NON_TUMOR,) * 2)
    page = Page(write_report(replace(data, cut=cut, overlaid=laid(one)), tmp_path).read_text(encoding="utf-8"))
    assert {"Figure 2.", "Figure S2."} < set(page.words)
    assert {"figure-cut", "figure-overlaid"} < set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    files = {path.name for path in (tmp_path / "figures").iterdir()}
    assert {"cut.svg", "cut.png", "overlaid.svg", "overlaid.png"} < files
    assert "Figure S2." not in Page(written.read_text(encoding="utf-8")).words
    write_report(data, tmp_path)
    assert not list((tmp_path / "figures").glob("cut.*"))


def test_a_new_figure_is_one_new_module(data, tmp_path, monkeypatch):
    (tmp_path / "extra.py").write_text(
        "from matplotlib.figure import Figure\n"
        "from vitrail.report.figures.spec import FigureSpec\n"
        "FIGURES = (FigureSpec(name='extra', number='Figure X', section='training', order=1,\n"
        "                      draw=lambda data: Figure(), caption=lambda data: f'Of {len(data.maps)} < slides.'),)\n"
    )
    monkeypatch.setattr(registry, "__path__", [*registry.__path__, str(tmp_path)])
    text = write_report(replace(data, maps=[]), tmp_path / "report").read_text(encoding="utf-8")
    assert "Figure X.</b> Of 0 &lt; slides." in text
    assert text.index('id="figure-training"') < text.index('id="figure-extra"') < text.index('id="figure-cohort"')
    assert (tmp_path / "report" / "figures" / "extra.svg").is_file()


def test_every_figure_has_a_name_and_a_number_of_its_own(data):
    specs = registry.figures_of(replace(data, overlaid=laid(data.maps[1])))
    assert len({spec.name for spec in specs}) == len(specs)
    numbers = [spec.number for spec in specs if spec.section != "slides"]
    assert len(set(numbers)) == len(numbers)
