from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from dataclasses import replace

import pandas as pd
import pytest
from matplotlib.text import Text

from helpers.explained import METHODS, THREE, TITLES, explained, explained_rows
from helpers.kinds import PAIRS
from helpers.report import Page, changed, report_data
from vitrail.evaluation.explanations import PAPER_MODES, check_tables, explanation_metrics, explanation_tables
from vitrail.explain.checks.perturbation import FLOORS
from vitrail.explain.study.store import pairs
from vitrail.report import page
from vitrail.report import style as look
from vitrail.report.figures import figures_of
from vitrail.report.figures.checks import REGIONS
from vitrail.report.page import write_report

WHY = ("why-correct", "why-disagreement", "why-wrong", "why-agreement", "why-perturbation", "why-randomisation")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return explained(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def data():
    return replace(report_data(n=10, tiles=6), maps=[])


@pytest.fixture
def quick(data, tmp_path, monkeypatch):
    """Return a way to write a report whose figures are built, but not rendered."""
    monkeypatch.setattr(page, "save", lambda figure, *_: f"<svg><title>{len(figure.axes)}</title></svg>")

    def write(found):
        path = write_report(changed(data, explained=found), tmp_path / "report")
        return Page(path.read_text()), json.loads((path.parent / "metrics.json").read_text())

    return write


@pytest.fixture(scope="module")
def written(whole, data, tmp_path_factory):
    return write_report(changed(data, explained=whole), tmp_path_factory.mktemp("report"))


def test_page_metrics_and_tables_say_the_same(written):
    """One verdict, decided when the maps were checked: the same word in every file of the report."""
    checked = json.loads((written.parent / "metrics.json").read_text())["explanations"]["checks"]
    table = pd.read_csv(written.parent / "tables" / "checks.csv")
    shown = table_rows(written.read_text(), "What decides, with 95 % intervals.")
    words = {(row[0], row[1].lower()): row[-1] for row in shown}
    counts = dict.fromkeys(("passes", "fails", "undecided"), 0)
    for key, found in checked["verdicts"].items():
        for check, verdict in found.items():
            counts[verdict] += 1
            assert words.pop((TITLES[key], check)) == verdict
            assert set(table.query("maps == @key and check == @check")["verdict"]) == {verdict}
    assert words == {}
    assert min(counts.values()) > 0
    numbers = {tuple(row[:2]): row[2:] for row in table_rows(written.read_text(), "Where the cause is known:")}
    for key, regions in checked["truth"].items():
        for region, found in regions.items():
            ratio, interval, others, turned, tiles = numbers[TITLES[key], REGIONS[region]]
            assert [ratio, others, turned] == [f"{found[name]:.3f}" for name in ("ratio", "others", "turned")]
            assert tiles == str(found["tiles"])
            ends = [f"{end:.3f}" for end in found["interval"] if end is not None]
            assert interval == (" to ".join(ends) or "\N{EN DASH}")


def table_rows(page_text, caption):
    """The cells of the body of the one table of a page whose caption begins so."""
    table = next(part for part in page_text.split("<table")[1:] if f"<caption>{caption}" in part)
    rows = re.findall(r"<tr>(.*?)</tr>", table.partition("<tbody>")[2].partition("</tbody>")[0], re.DOTALL)
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]
    return [[html.unescape(re.sub(r"<[^>]*>", "", cell)).strip() for cell in row] for row in cells]


def test_fewer_than_five_patients_are_warned_of(quick, written, tmp_path):
    few, _ = quick(explained(tmp_path / "few", patients=4))
    for shown, warned in ((few, True), (Page(written.read_text()), False)):  # four checked patients, and six
        said = {words for words in shown.words if "There are fewer than 5" in words}
        assert any("5 checked patients" in words for words in said) == warned
        assert any("5 test patients" in words for words in said)  # three have explained tiles


def test_metrics_hold_both_summaries(whole, written):
    found = json.loads((written.parent / "metrics.json").read_text())["explanations"]
    assert found == json.loads(json.dumps(explanation_metrics(whole.stored, whole.checked)))
    assert set(found) == {
        "agreement",
        "agreement_relu",
        "hrcam_accuracy",
        "min_share",
        "empty",
        "tiles",
        "patients",
        "checks",
    }
    assert list(found["agreement"]) == sorted(PAIRS)
    assert found["agreement"]["gradcam_classifier_segmenter"]["constant"] == 6
    assert found["checks"]["truth"]["classifier_gradcam"]["stroma"]["ratio"] == pytest.approx(0.5)


def test_the_page_shows_every_figure_with_its_caption(written):
    shown = Page(written.read_text())
    assert {f"figure-{name}" for name in (*WHY, "why-truth")} < set(shown.ids)
    assert len(shown.ids) == len(set(shown.ids))
    assert "why" in shown.ids
    captions = [label for label in shown.labels if "paper" in label or "rrich" in label]
    for words in ("Fig. 5", "Fig. 6", "Fig. S4", "99th percentile", "plays no part in the choice", "Adebayo"):
        assert any(words in caption for caption in captions), words
    for link in shown.links:
        inside = link[1:] in shown.ids if link.startswith("#") else link.startswith("data:")
        assert inside or (written.parent / link).is_file(), link
    assert "passes" in shown.words
    assert "70.00%" in shown.words


def test_every_table_is_a_file(whole, written):
    for name, table in (explanation_tables(whole.stored) | check_tables(whole.checked)).items():
        stored = pd.read_csv(written.parent / "tables" / f"{name}.csv")
        assert stored.columns.tolist() == table.columns.tolist()
        assert len(stored) == len(table)


def why(data, explained):
    """The figures of the section by name."""
    specs = figures_of(changed(data, explained=explained))
    return {spec.name: spec for spec in specs if spec.section in {"why", "agreement", "checks"}}


def test_the_same_explanations_give_the_same_bytes(whole, data, written, tmp_path):
    plan = why(data, whole)
    for name in ("why-disagreement", "why-agreement"):
        with look.style():
            look.save(plan[name].draw(data), tmp_path, name)
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (written.parent / "figures" / path.name).read_bytes(), path.name
    assert len(list(tmp_path.iterdir())) == 4


def test_a_report_without_explanations_has_no_such_section(quick, tmp_path):
    (tmp_path / "report" / "figures").mkdir(parents=True)
    (tmp_path / "report" / "figures" / "why-correct.png").touch()
    shown, metrics = quick(None)
    assert "why" not in shown.ids
    assert "#why" not in shown.links
    assert "explanations" not in metrics
    assert not list((tmp_path / "report" / "figures").glob("why-*"))


def test_explanations_without_checks_or_wrong_tiles(quick, tmp_path):
    rows = explained_rows(12)
    right = (rows["label"] == "tumor").astype(float)
    bare = explained(tmp_path / "run", 12, rows.assign(classifier=right, segmenter=right), checked=False)
    assert bare.examples.wrong == ()
    shown, metrics = quick(bare)
    assert any("Neither network calls a test tile wrongly" in words for words in shown.words)
    assert "checks" not in shown.ids
    assert metrics["explanations"]["checks"] is None


@pytest.mark.parametrize("n", [0, 1])
def test_no_tile_or_one_is_no_trouble(n, quick, data, tmp_path):
    bare = explained(tmp_path / "run", n, checked=False)
    assert "why-disagreement" not in why(data, bare)  # the only tile's map is constant
    shown, metrics = quick(bare)
    assert "why" in shown.ids
    assert metrics["explanations"]["agreement"]["gradcam_classifier_segmenter"]["mode"] is None
    with look.style():
        for name, spec in why(data, bare).items():
            figure = spec.draw(data)
            figure.draw_without_rendering()
            words = [text.get_text() for text in figure.findobj(Text)]
            assert name != "why-correct" or any("no such tile" in word for word in words)


def test_no_checked_tile_is_no_trouble(quick, data, tmp_path):
    bare = explained(tmp_path / "run", 6, tiles=0)
    assert not {"why-perturbation", "why-randomisation", "why-truth"} & set(why(data, bare))
    shown, _ = quick(bare)
    assert "checks" in shown.ids
    assert any("undecided on" in words for words in shown.words)


@pytest.mark.parametrize("methods", [METHODS, THREE])
def test_nothing_is_cut_off_at_the_edges_of_a_figure(data, tmp_path, methods):
    with look.style():
        for name, spec in why(data, explained(tmp_path, methods=methods)).items():
            figure = spec.draw(data)
            figure.draw_without_rendering()
            box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
            inside = min(box.x0, box.y0, width - box.x1, height - box.y1)
            assert inside >= -0.01, name


def test_a_report_needs_no_torch():
    code = "import sys, vitrail.report.page, vitrail.report.collect; print('torch' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603 - our own
    assert ended.stdout.strip() == "False"


@pytest.fixture(scope="module")
def third(data, tmp_path_factory):
    """A report on three methods, the third of which no module of the report has heard of."""
    made = explained(tmp_path_factory.mktemp("third"), methods=THREE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "save", lambda *_: "<svg></svg>")
        return made, write_report(changed(data, explained=made), tmp_path_factory.mktemp("report"))


def test_a_third_method_is_in_every_table(third):
    made, path = third
    keys = [f"{network}_{method}" for network in ("classifier", "segmenter") for method in THREE]
    assert made.stored.keys == tuple(keys)
    tables = {table.stem: pd.read_csv(table) for table in (path.parent / "tables").glob("*.csv")}
    agreement = tables["agreement"].query("maps == 'as they are'").set_index("pair")["mode_in_the_paper"]
    assert set(agreement.index) == set(pairs(keys))
    assert set(agreement.dropna().index) == set(PAPER_MODES)
    assert set(tables["empty_maps"]["maps"]) == set(tables["checks"]["maps"]) == set(keys)
    assert set(tables["checks_truth"]["maps"]) == set(keys)
    floors = {f"{network}_{floor}" for network in ("classifier", "segmenter") for floor in FLOORS}
    assert set(tables["checks_maps"]["maps"]) == {*keys, *floors}
    assert set(tables["checks_ranking"]["method"]) == set(tables["checks_stability"]["method"]) == {*THREE, *FLOORS}
    refused = tables["checks_replacements"].query("not test")[["network", "replacement"]]
    assert refused.to_numpy().tolist() == [["segmenter", "blur"]]
    assert set(tables["checks_perturbation"]["order"]) == {*THREE, *FLOORS}
    assert set(tables["checks_randomisation"]["method"]) == set(THREE)
    spearman = made.stored.agreement["segmenter_hrcam_toy_spearman"].mean()
    row = tables["agreement"].query("maps == 'as they are' and pair == 'segmenter_hrcam_toy'").iloc[0]
    assert row["spearman"] == pytest.approx(spearman)
    assert row["spearman_beyond"] == pytest.approx(row["spearman"] - row["spearman_null"])
    metrics = json.loads((path.parent / "metrics.json").read_text())["explanations"]
    assert set(metrics["agreement"]) == set(pairs(keys))
    assert set(metrics["checks"]["verdicts"]) == set(keys)


def test_a_third_method_is_on_the_page(third):
    shown = Page(third[1].read_text())
    assert any(words.startswith("Toy, classification network: passes deletion") for words in shown.words)
    assert {"Classification network: Grad-CAM and Toy", "Toy: both networks"} < set(shown.words)
    assert any(words.startswith("3 methods show for each of 36 test tiles") for words in shown.words)
    captions = " ".join(shown.labels)
    assert "Grad-CAM, HR-CAM and Toy. Test tiles" in captions
    assert "where Toy of the classification network" not in captions  # nothing is enlarged here
    assert "Spearman's coefficient" in captions
    text = third[1].read_text()
    assert "<b>Toy</b> hides places; it costs at most 100 forward passes an image." in text
    assert "<b>Grad-CAM</b> costs at most 1 forward pass and 1 backward pass an image." in text
    assert "Toy, classification network (3 x 3 cells)" in text
    assert len(table_rows(text, "Agreement of the two maps of a tile")[0]) == 7


def test_a_third_method_is_in_every_figure(third, data):
    made, _ = third
    words = {}
    with look.style():
        for name, spec in why(data, made).items():
            figure = spec.draw(data)
            figure.draw_without_rendering()
            texts = figure.findobj(Text) + [text for legend in figure.legends for text in legend.get_texts()]
            words[name] = {text.get_text() for text in texts}
    assert {"a  Correctly called tumor by the classification network", "Toy"} < words["why-correct"]
    assert {"Toy, classification", "Toy, segmentation"} < words["why-wrong"]  # a colour bar each
    assert {"Toy, classification", "Toy, segmentation"} < words["why-disagreement"]
    assert "b  Grad-CAM: classification and segmentation" in words["why-agreement"]
    assert not any("Toy" in word for word in words["why-agreement"])  # the paper's four pairs
    assert {"Grad-CAM", "HR-CAM", "Toy"} < words["why-matrix"]
    assert {"Toy", "Centred blob", "Random order"} < words["why-perturbation"]
    assert {"Toy", "Toy, chance"} < words["why-randomisation"]
    assert "Toy, segmentation network" in words["why-truth"]


def test_the_table_says_which_method_to_believe(whole, quick, tmp_path):
    """Methods and floors by their mean rank, what is recommended in words and in bold; and what is no test."""
    values = {"gradcam": {"deletion_blur": 0.25}, "hrcam": {"deletion_blur": 0.5}, "random": {"deletion_blur": None}}
    ranks = {"gradcam": {"deletion_blur": 1.0}, "hrcam": {"deletion_blur": 2.0}, "random": {"deletion_blur": None}}
    ranking = {
        "metrics": ["deletion_blur"], "values": values, "ranks": ranks, "mean_rank": {"hrcam": 2.0, "gradcam": 1.0},
        "floors": ["random"], "concordance": None, "recommended": ["gradcam"], "sentence": "We recommend Grad-CAM.",
    }  # fmt: skip
    refused = {"blur": {"test": False, "sentence": "it leaves too much"}, "tissue": {"test": True, "sentence": None}}
    summary = whole.checked.summary | {"ranking": {"classifier": ranking}, "replacements": {"segmenter": refused}}
    summary |= {"shared": {"classifier_gradcam": [0.75, 0.5, 0.9]}}
    quick(replace(whole, checked=replace(whole.checked, summary=summary)))
    text = (tmp_path / "report" / "index.html").read_text()
    assert "We recommend Grad-CAM." in text
    rows = table_rows(text, "Classification network: what each metric gives")
    assert [row[0] for row in rows] == ["Grad-CAM (recommended)", "HR-CAM", "Random order"]
    assert rows[0][1:] == ["0.2501", "1.000"]  # the value, and its rank below it
    assert rows[2][1:] == ["\N{EN DASH}", "\N{EN DASH}"]
    assert "Segmentation network: it leaves too much." in text
    assert ["Grad-CAM, classification network", "0.750"] in table_rows(text, "How much maps of different tiles share")
    table = pd.read_csv(tmp_path / "report" / "tables" / "checks_ranking.csv")
    assert table.query("recommended")["method"].tolist() == ["gradcam"]
    assert table.query("floor")["method"].tolist() == ["random"]


def test_many_pairs_are_folded(third):
    text = third[1].read_text()
    assert "Pearson's coefficient of further pairs, 10" in html.unescape(text)
    assert [row[0] for row in table_rows(text, "Pearson's coefficient of the two maps")][:2] == [
        "Classification network: Grad-CAM and HR-CAM", "Segmentation network: Grad-CAM and HR-CAM",
    ]  # fmt: skip
