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
)
from helpers.slide_figures import cut_example, laid
from vitrail.classes import TissueClass
from vitrail.evaluation.results import as_json
from vitrail.inference.map_slide import Networks, map_slide
from vitrail.inference.outputs import MapFiles
from vitrail.inference.publish import SUMMARY
from vitrail.report import figures as registry
from vitrail.report.figures import cohort as figures
from vitrail.report.figures import slide_maps as maps
from vitrail.report.outlines import outline_rings
from vitrail.report.page import _drawn, write_report
from vitrail.report.style import drawable, style
from vitrail.search.results import Combination, SearchResult
from vitrail.slides.annotations import Annotation, Annotations
from vitrail.slides.slide import open_slide

FIGURES = (
    "roc", "confusion", "training", "cohort", "calibration", "shares", "patients", "groups", "certainty",
    "slide-calibration",
)  # fmt: skip


@pytest.fixture(scope="module")
def data():
    return report_data()


@pytest.fixture(scope="module")
def written(data, tmp_path_factory):
    return write_report(data, tmp_path_factory.mktemp("report"))


def test_figures_drawn_by_other_processes_are_the_same_bytes(data, tmp_path, monkeypatch):
    names, folders = ["roc", "confusion", "cohort"], [tmp_path / "here", tmp_path / "there"]
    monkeypatch.setattr("vitrail.report.style.DPI", 200)
    monkeypatch.setattr("vitrail.report.page._ALONE_S", 0)
    for folder in folders:
        folder.mkdir()
    here = _drawn(data, names, folders[0], 1)
    monkeypatch.setattr("vitrail.report.page.save", None)  # in this process alone
    assert _drawn(data, names, folders[1], 2) == here
    files = {path.name: path.read_bytes() for path in folders[0].iterdir()}
    assert len(files) == 2 * len(names)
    assert {path.name: path.read_bytes() for path in folders[1].iterdir()} == files


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
