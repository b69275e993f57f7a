from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from PIL import Image

from helpers.cohort import write_tiff
from helpers.report import Page, report_data
from vitrail.explain.agreement import agreement, correlate
from vitrail.explain.checks.results import COLUMNS as CHECK_COLUMNS
from vitrail.explain.checks.results import open_checked, summarise
from vitrail.explain.saliency import Frame, Saliency
from vitrail.explain.study.store import KEYS, PAIRS, Kind, columns_of, create_file, open_stored
from vitrail.metrics.correlation import mode
from vitrail.report import page
from vitrail.report import style as look
from vitrail.report.collect_explanations import PICTURE_PX, collect_explained
from vitrail.report.data import Explained
from vitrail.report.figures import agreement as explained_figures
from vitrail.report.figures import checks, gallery
from vitrail.report.figures import heatmap as overlay
from vitrail.report.figures.heatmap import DIVERGING, SEQUENTIAL, Scale, common_scale
from vitrail.report.page import write_report
from vitrail.report.sections import checks as checks_tables
from vitrail.report.sections.agreement import (
    PAPER_MODES,
    agreement_table,
    examples_table,
    explanation_metrics,
    explanation_tables,
)
from vitrail.report.sections.explanations import TITLES, planned_figures
from vitrail.report.select import choose_examples, spread
from vitrail.settings.load import Settings
from vitrail.slides.cohort import CohortSlide
from vitrail.stage import Run

SIDE = 32
FRAME = Frame(image_px=(SIDE, SIDE), span_px=(SIDE, SIDE))
SIZES = dict(zip(KEYS, ((2, 2), (4, 4), (2, 2), (4, 4)), strict=True))
WHY = ("why-correct", "why-disagreement", "why-wrong", "why-agreement", "why-perturbation", "why-randomisation")


def explained_rows(n):
    """Tiles of three patients; the classifier errs on every fifth tile, the segmenter on every seventh."""
    rng = np.random.default_rng(n)
    at, tumor = np.arange(n), np.arange(n) % 2 == 0
    right = [np.where(at % step, tumor, ~tumor) for step in (5, 7)]
    p = [np.where(said, rng.uniform(0.6, 1, n), rng.uniform(0, 0.4, n)) for said in right]
    patients = np.array([f"P{i}" for i in at % 3], object)
    return pd.DataFrame(
        {
            "tile": at, "slide_id": patients, "patient_id": patients, "x": 32.0 * (at % 8), "y": 32.0 * (at // 8 % 8),
            "side": 32.0, "label": np.where(tumor, "tumor", "non_tumor"), "classifier": p[0], "segmenter": p[1],
        }
    )  # fmt: skip


def write_explanations(folder, n=36, rows=None):
    """Write `explanations/` as the stage would; the segmenter's Grad-CAM is 0 on every sixth tile."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = explained_rows(n) if rows is None else rows
    rng = np.random.default_rng(0)
    kinds = {
        key: Kind(method=key.split("_")[1], layers=("last",), target="tumor", frame=FRAME, size=size)
        for key, size in SIZES.items()
    }
    file = create_file(folder, kinds, n)
    for key in KEYS:
        file.maps(key)[:] = rng.normal(0, 1, (n, *SIZES[key]))
    file.maps("segmenter_gradcam")[::6] = 0
    table = rows[["tile", "slide_id", "patient_id"]].copy()
    found = {"agreement": {}, "agreement_relu": {}}
    for column, pair, relu in columns_of(file.kinds):
        table[column] = r = correlate(*(file.maps(key) for key in PAIRS[pair]), (FRAME, FRAME), relu=relu)
        found["agreement_relu" if relu else "agreement"][pair] = agreement(r, rows["patient_id"], 0).summary()
    layer = {"name": "encoder.blocks.0", "stride": 2, "channels": 16, "size_px": 16}
    accuracy = {"accuracy": 0.9, "interval": [0.8, None], "tiles": n, "train_accuracy": None, "train_tiles": 0}
    summary = found | {
        "hrcam_accuracy": dict.fromkeys(("classifier", "segmenter"), accuracy),
        "empty": {key: int((file.maps(key) <= 0).all((1, 2)).sum()) for key in KEYS},
        "tiles": n,
        "patients": rows["patient_id"].nunique(),
        "min_share": 0.8,
        "layers": {"classifier": [layer, layer], "segmenter": [layer]},
    }
    rows.to_parquet(folder / "tiles.parquet")
    table.to_parquet(folder / "agreement.parquet")
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def write_checks(folder, *, phantom=True, patients=6, tiles=12, draws=4):
    """Write `checks/`: Grad-CAM finds what matters, HR-CAM is worse than chance, but for its weight on nuclei."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    fractions, curves, forgotten, located = np.linspace(0, 1, 5), [], [], []
    for tile in range(tiles):
        owner = {"tile": tile, "patient_id": f"P{tile % patients}"}
        for network in ("classifier", "segmenter"):
            for order, speed in (("gradcam", 6.0), ("hrcam", 1.2), ("random", 2.0), ("blob", 2.5)):
                drop = np.exp(-speed * rng.uniform(0.8, 1.2) * fractions)
                for kind, scores in (("deletion", drop), ("insertion", 1 - drop)):
                    row = owner | {"network": network, "order": order, "kind": kind}
                    curves += [row | {"fraction": f, "score": s} for f, s in zip(fractions, scores, strict=True)]
            for method, left, top in (("gradcam", 0.1, "head"), ("hrcam", 0.8, "auxiliary")):
                steps = [(0, "untouched"), (1, top), (2, "blocks.0")]
                for draw, (number, step) in product(range(draws), steps):
                    row = owner | {"network": network, "method": method, "number": number, "step": step, "draw": draw}
                    same = left + rng.uniform(-0.02, 0.02) if number else 1.0
                    forgotten.append(row | {"correlation": same, "chance": 0.1})
        for key in KEYS:
            for region, weight in (("atypical_nuclei", 0.3), ("nuclei", 0.3), ("stroma", 0.1)):
                share = weight if "gradcam" in key or region == "stroma" else 0.21
                chance = {"others": 0.21 + rng.uniform(-0.03, 0.03), "turned": 0.22 + rng.uniform(-0.03, 0.03)}
                located.append(owner | {"key": key, "region": region, "weight": share, "area": 0.2} | chance)
    names = dict(zip(CHECK_COLUMNS, (curves, forgotten, located if phantom else []), strict=True))
    tables = {name: pd.DataFrame(rows, columns=list(CHECK_COLUMNS[name])) for name, rows in names.items()}
    for name, table in tables.items():
        table.astype(CHECK_COLUMNS[name]).to_parquet(folder / f"{name}.parquet")
    (folder / "summary.json").write_text(json.dumps(summarise(tables, 0)))
    return folder


def shares_of(n):
    return pd.DataFrame({"tumor": np.linspace(0.3, 1, n), "non_tumor": np.linspace(0.5, 0, n), "other": 0.0})


def explained(folder, n=36, rows=None, *, checked=True, **options):
    stored = open_stored(write_explanations(folder / "explanations", n, rows))
    examples = choose_examples(stored, shares_of(n), 0.5)
    rng = np.random.default_rng(2)
    return Explained(
        stored=stored,
        checked=open_checked(write_checks(folder / "checks", **options)) if checked else None,
        threshold=0.5,
        side_um=199.1,
        examples=examples,
        pictures={row: rng.integers(120, 256, (40, 40, 3), np.uint8) for row in examples.all},
    )


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
        path = write_report(replace(data, explained=found), tmp_path / "report")
        return Page(path.read_text()), json.loads((path.parent / "metrics.json").read_text())

    return write


@pytest.fixture(scope="module")
def written(whole, data, tmp_path_factory):
    return write_report(replace(data, explained=whole), tmp_path_factory.mktemp("report"))


def saliency(values, method="gradcam", *, signed=True):
    kept = np.asarray(values, np.float32)
    return Saliency(method=method, layers=("last",), target="tumor", values=kept, frame=FRAME, signed=signed)


def distance(picture, base):
    return np.abs(picture.astype(float) - base.astype(float)).mean()


def test_a_weaker_map_looks_paler_by_as_much():
    values = np.random.default_rng(0).uniform(-1, 1, (4, 4))
    image = np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    scale = common_scale([saliency(values)])
    base = overlay.overlay(image, saliency(0 * values), scale)
    strong, weak, faint = (distance(overlay.overlay(image, saliency(values * f), scale), base) for f in (1, 0.1, 1e-3))
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
    pictures = [overlay.overlay(image, one, scale).astype(int) for one, scale in zip(maps, scales, strict=True)]
    for picture in pictures[1:]:
        assert np.abs(picture - pictures[0]).max() <= 1
    assert (pictures[0][..., 0] >= pictures[0][..., 2] - 1).all()  # yellow to violet, never blue on its own
    assert common_scale([saliency(np.full((2, 2), -3.0), signed=False)]).empty


def test_orange_speaks_for_tumor_and_blue_against():
    image = np.full((SIDE, SIDE, 3), 255, np.uint8)
    picture = overlay.overlay(image, saliency([[1, -1], [0, 0]]), Scale(limit=1.0)).astype(int)
    red, blue = picture[0, 0], picture[0, -1]
    assert red[0] > red[2] + 100
    assert blue[2] > blue[0] + 100
    assert picture[-1, 0].tolist() == picture[-1, -1].tolist() == [255, 255, 255]


@pytest.mark.parametrize("ramp", [DIVERGING.above, DIVERGING.below, SEQUENTIAL.above])
def test_stronger_evidence_is_always_darker(ramp):
    colours = overlay._on(ramp, np.linspace(0, 1, 50))
    assert (np.diff(colours @ [0.299, 0.587, 0.114]) < 0).all()


def test_tissue_shows_where_a_map_says_nothing_and_even_where_it_says_most():
    image = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    nothing = overlay.overlay(image, saliency(np.zeros((2, 2))), Scale(limit=0.0))
    np.testing.assert_array_equal(nothing, np.rint(overlay.grey(image)))
    most = overlay.overlay(image, saliency(np.ones((2, 2))), Scale(limit=0.5))
    assert np.corrcoef(most[..., 0].ravel(), nothing[..., 0].ravel())[0, 1] > 0.99


def test_an_overlay_lies_where_its_cells_do():
    values = np.zeros((4, 4))
    values[3, 0] = 1
    picture = overlay.overlay(np.full((80, 80, 3), 255, np.uint8), saliency(values), Scale(limit=1.0))
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
        overlay.save_overlay(tmp_path / name, image, maps, "tile.png: tumor probability 0.93")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as saved:
        assert saved.size[0] == pytest.approx(look.DPI * 12.6, abs=1)
    with look.style():
        figure = overlay.overlay_figure(image, [empty], "said 0.93")
    words = [text.get_text() for text in figure.texts]
    assert "said 0.93" in words
    assert any("0 everywhere" in word for word in words)
    assert [axes.get_title(loc="left") for axes in figure.axes[:3]] == ["Picture", "HR-CAM of tumor", "Both"]


def test_each_patient_gives_one_tile_before_any_gives_a_second():
    patients = np.array(["a", "a", "a", "b", "b", "c"], object)
    order = np.array([[0.0, 0.1, 0.2, 0.3, 0.4, 0.5]])
    assert spread(patients, np.ones(6, bool), order) == (0, 3, 5, 1, 4, 2)
    assert spread(patients, np.ones(6, bool), order, 4) == (0, 3, 5, 1)
    assert spread(patients, np.array([0, 1, 1, 0, 0, 1], bool), -order) == (5, 2, 1)
    assert spread(patients, np.zeros(6, bool), order) == ()


def test_the_first_key_of_the_order_decides():
    patients = np.array(["a", "b", "c"], object)
    assert spread(patients, np.ones(3, bool), np.array([[1, 0, 0], [0.0, 0.2, 0.1]])) == (2, 1, 0)


def test_examples_are_what_they_are_called(whole):
    rows, chosen = whole.stored.rows, whole.examples
    tumor, p = (rows["label"] == "tumor").to_numpy(), rows["classifier"].to_numpy()
    assert not set(chosen.tumor_mixed) & set(chosen.tumor)
    for group, label in ((chosen.tumor_mixed, True), (chosen.tumor, True), (chosen.non_tumor, False)):
        assert len(group) > 2
        assert (tumor[list(group)] == label).all()
        assert ((p[list(group)] >= 0.5) == label).all()
    wrong = ((rows[["classifier", "segmenter"]].to_numpy() >= 0.5) != tumor[:, None]).any(1)
    assert wrong[list(chosen.wrong)].all()
    r = whole.stored.agreement["gradcam_classifier_segmenter"]
    assert chosen.disagreement[0] == r.idxmin()
    assert not set(chosen.disagreement) & set(range(0, 36, 6))  # a constant map disagrees with nothing


def test_mixed_tiles_come_first(whole):
    n = len(whole.stored)
    shares = shares_of(n).assign(tumor=0.9, non_tumor=0.0)
    shares.loc[14, ["tumor", "non_tumor"]] = 0.5
    assert choose_examples(whole.stored, shares, 0.5).tumor_mixed[0] == 14


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
    with look.style():
        draw(whole)
    rows = {key: [row for name in names for row in getattr(whole.examples, name)] for key, names in groups.items()}
    wanted = {key: np.percentile(np.abs(whole.stored.maps(key)[shown]), 99) for key, shown in rows.items()}
    assert sorted(set(used)) == pytest.approx(sorted(wanted.values()))
    for key, shown in rows.items():
        assert used.count(pytest.approx(wanted[key])) == len(shown)


def test_a_map_of_zeros_is_said_to_be_one(whole):
    rows = (0, 1)
    pictures = {row: np.full((20, 20, 3), 255, np.uint8) for row in rows}
    strip = gallery._maps(replace(whole, pictures=pictures), rows, ("segmenter_gradcam", Scale(limit=1.0)))
    assert strip.remarks == ["0 everywhere", ""]


def test_the_histograms_are_numpys(whole):
    stored = whole.stored
    with look.style():
        figure = explained_figures.agreement_figure(stored.agreement, stored.summary)
    for axes, pair in zip(figure.axes, explained_figures.PANELS, strict=True):
        signed, relu = (patch for patch in axes.patches if hasattr(patch, "get_data"))
        for patch, column in ((signed, pair), (relu, f"{pair}_relu")):
            counts, edges = np.histogram(stored.agreement[column].dropna(), 30, (-1, 1))
            np.testing.assert_array_equal(patch.get_data().values, counts)
            np.testing.assert_allclose(patch.get_data().edges, edges, atol=1e-12)
        marked = [line for line in axes.lines if line.get_marker() == "^"]
        assert marked[0].get_xdata()[0] == PAPER_MODES[pair]
        constant = int(stored.agreement[pair].isna().sum())
        assert f"n = {36 - constant}, constant {constant}" in axes.texts[0].get_text()
    assert stored.agreement["gradcam_classifier_segmenter"].isna().sum() == 6


def test_the_agreement_table_holds_the_modes_beside_the_papers(whole):
    table = agreement_table(whole.stored.summary).set_index(["maps", "pair"])
    for pair in PAIRS:
        assert table.loc[("as they are", pair), "mode"] == pytest.approx(mode(whole.stored.agreement[pair]))
        assert table.loc[("as they are", pair), "mean"] == pytest.approx(whole.stored.agreement[pair].mean())
    found = table.loc["relu", "mode_in_the_paper"].to_dict()
    assert {pair: f"{value:.2%}" for pair, value in found.items()} == {
        "classifier_gradcam_hrcam": "70.00%",
        "segmenter_gradcam_hrcam": "36.67%",
        "gradcam_classifier_segmenter": "23.33%",
        "hrcam_classifier_segmenter": "56.67%",
    }


def test_curves_are_means_over_tiles(whole):
    raw = whole.checked.perturbation
    curves = checks_tables.perturbation_curves(raw).set_index(["network", "kind", "order", "fraction"])["score"]
    mine = raw.query("network == 'segmenter' and kind == 'insertion' and order == 'hrcam' and fraction == 0.5")
    assert curves["segmenter", "insertion", "hrcam", 0.5] == pytest.approx(mine["score"].mean())
    forgotten = whole.checked.randomisation.assign(correlation=lambda rows: -rows["correlation"])
    forgotten.loc[forgotten["tile"] == 0, "correlation"] = np.nan
    left = checks_tables.randomisation_curves(forgotten).query("method == 'hrcam' and number == 2")
    assert left["correlation"].to_list() == pytest.approx([0.8, 0.8], abs=0.01)  # the magnitude, without constant maps


def test_the_words_follow_from_the_verdicts(whole):
    summary = whole.checked.summary
    three, all_four = (
        ("deletion", "insertion", "randomisation"),
        ("deletion", "insertion", "randomisation", "localisation"),
    )
    assert summary["verdicts"]["classifier_gradcam"] == dict.fromkeys(all_four, "passes")
    assert summary["verdicts"]["segmenter_hrcam"] == dict.fromkeys(three, "fails") | {"localisation": "undecided"}
    said = checks_tables.sentences(summary, TITLES)
    assert said[0].startswith(
        "Grad-CAM, classification network: passes deletion, insertion, randomisation and localisation; puts 1.50 times"
    )
    assert said[3].startswith(
        "HR-CAM, segmentation network: fails deletion, insertion and randomisation; undecided on localisation; puts 1."
    )
    found = summary["truth"]["segmenter_hrcam"]["atypical_nuclei"]
    null = f"maps of other tiles put {found['others']:.2f} and the map turned and mirrored {found['turned']:.2f}."
    assert said[3].endswith(null)


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
            ratio, interval, others, turned, tiles = numbers[TITLES[key], checks_tables.REGIONS[region]]
            assert [ratio, others, turned] == [f"{found[name]:.3f}" for name in ("ratio", "others", "turned")]
            assert tiles == str(found["tiles"])
            ends = [f"{end:.3f}" for end in found["interval"] if end is not None]
            assert interval == (" to ".join(ends) or "\N{EN DASH}")


def table_rows(page_text, caption):
    """The cells of the body of the one table of a page whose caption begins so."""
    (table,) = [part for part in page_text.split("<table")[1:] if f"<caption>{caption}" in part]
    rows = re.findall(r"<tr>(.*?)</tr>", table.partition("<tbody>")[2].partition("</tbody>")[0], re.DOTALL)
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]
    return [[html.unescape(re.sub(r"<[^>]*>", "", cell)).strip() for cell in row] for row in cells]


def test_fewer_than_five_patients_are_warned_of(quick, written, tmp_path):
    few, _ = quick(explained(tmp_path / "few", patients=4))
    for shown, warned in ((few, True), (Page(written.read_text()), False)):  # four checked patients, and six
        said = {words for words in shown.words if "There are fewer than 5" in words}
        assert any("5 checked patients" in words for words in said) == warned
        assert any("5 test patients" in words for words in said)  # three have explained tiles


def test_doubts_are_told_beside_the_verdicts(whole):
    ends = {"classifier": {"tile": 0.9, "blurred": 0.5}, "segmenter": {"tile": 0.85, "blurred": 0.94}}
    summary = whole.checked.summary | {"ends": ends}
    assert "from 0.85 to only 0.94" in checks_tables.sentences(summary, TITLES)[3]
    assert "blurring" not in checks_tables.sentences(summary, TITLES)[0]


def test_losing_what_all_maps_share_proves_little(whole):
    summary = whole.checked.summary
    alike = summary["randomisation"]["classifier_gradcam"] | {"shared": 0.85}
    summary = summary | {"randomisation": summary["randomisation"] | {"classifier_gradcam": alike}}
    assert "correlate at 0.85" in checks_tables.sentences(summary, TITLES)[0]


def test_what_cannot_be_decided_does_not_fail(tmp_path):
    summary = open_checked(write_checks(tmp_path, patients=1, phantom=False)).summary
    assert set(summary["verdicts"]["classifier_hrcam"].values()) == {"undecided"}
    said = checks_tables.sentences(summary, TITLES)[1]
    assert said == ("HR-CAM, classification network: undecided on deletion, insertion and randomisation.")
    assert checks_tables.truth_table(summary).empty


def test_tiles_without_the_cause_decide_nothing_about_it(tmp_path):
    write_checks(tmp_path)
    tables = {name: pd.read_parquet(tmp_path / f"{name}.parquet") for name in CHECK_COLUMNS}
    nuclei = tables["truth"]["region"] == "atypical_nuclei"
    tables["truth"].loc[nuclei, ["weight", "others", "turned", "area"]] = 0.0
    summary = summarise(tables, 0)
    assert summary["verdicts"]["classifier_gradcam"]["localisation"] == "undecided"
    said = checks_tables.sentences(summary, TITLES)[0]
    assert said.endswith("undecided on localisation; no checked tile holds atypical nuclei.")
    with look.style():
        checks.truth_figure(summary, TITLES).draw_without_rendering()


def test_steps_with_two_names_show_both(whole):
    with look.style():
        figure = checks.randomisation_figure(whole.checked.randomisation)
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels == ["untouched", "head / auxiliary", "blocks.0"]


def test_metrics_hold_both_summaries(whole, written):
    found = json.loads((written.parent / "metrics.json").read_text())["explanations"]
    assert found == json.loads(json.dumps(explanation_metrics(whole)))
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
    for name, table in explanation_tables(whole).items():
        stored = pd.read_csv(written.parent / "tables" / f"{name}.csv")
        assert stored.columns.tolist() == table.columns.tolist()
        assert len(stored) == len(table)
    shown = examples_table(whole)
    assert len(shown) == sum(len(group) for group in (
        whole.examples.tumor_mixed, whole.examples.tumor, whole.examples.non_tumor, whole.examples.disagreement,
        whole.examples.wrong,
    ))  # fmt: skip


def test_the_same_explanations_give_the_same_bytes(whole, written, tmp_path):
    plan = planned_figures(whole)
    for name in ("why-disagreement", "why-agreement"):
        with look.style():
            look.save(plan[name][0](), tmp_path, name)
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (written.parent / "figures" / path.name).read_bytes(), path.name
    assert len(list(tmp_path.iterdir())) == 4


def test_photographs_within_figures_are_jpegs(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(look, "DPI", 100)
    rng = np.random.default_rng(3)
    pictures = {
        row: np.asarray(
            Image.fromarray(rng.integers(60, 250, (8, 8, 3), np.uint8)).resize((300, 300), Image.Resampling.BICUBIC)
        )
        for row in whole.examples.all
    }
    with look.style():
        svg = look.save(gallery.disagreement_figure(replace(whole, pictures=pictures)), tmp_path, "one")
    assert svg == (tmp_path / "one.svg").read_text()
    assert svg.count("data:image/jpeg") >= 6
    assert len(svg) < (tmp_path / "one.png").stat().st_size * 4 / 3


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
def test_no_tile_or_one_is_no_trouble(n, quick, tmp_path):
    bare = explained(tmp_path / "run", n, checked=False)
    assert "why-disagreement" not in planned_figures(bare)  # the only tile's map is constant
    shown, metrics = quick(bare)
    assert "why" in shown.ids
    assert metrics["explanations"]["agreement"]["gradcam_classifier_segmenter"]["mode"] is None
    with look.style():
        for name, (draw, _) in planned_figures(bare).items():
            figure = draw()
            figure.draw_without_rendering()
            words = [text.get_text() for text in figure.findobj(Text)]
            assert name != "why-correct" or any("no such tile" in word for word in words)


def test_no_checked_tile_is_no_trouble(quick, tmp_path):
    bare = explained(tmp_path / "run", 6, tiles=0)
    assert not {"why-perturbation", "why-randomisation", "why-truth"} & set(planned_figures(bare))
    shown, _ = quick(bare)
    assert "checks" in shown.ids
    assert any("undecided on" in words for words in shown.words)


def test_tiles_are_read_again_from_their_slides(tmp_path):
    run, slide = run_with_slides(tmp_path)
    entries = tuple(CohortSlide(slide_id=f"P{i}", patient_id=f"P{i}", slide=slide, annotations=slide) for i in range(2))
    predictions = pd.DataFrame({"classifier": np.linspace(0.9, 0.1, 36)})
    found = collect_explained(run, entries, predictions)
    said = predictions["classifier"].to_numpy()[found.stored.rows["tile"]]
    np.testing.assert_array_equal(found.stored.rows["classifier"], said)  # calibrated where the predictions are
    pixels = np.load(tmp_path / "slide.npy")
    table = found.stored.rows
    for row, picture in found.pictures.items():
        x, y = int(table["x"].iloc[row]), int(table["y"].iloc[row])
        if table["slide_id"].iloc[row] == "P2":  # not in the cohort any more: the stored tile stands in
            assert picture.shape == (SIDE, SIDE, 3)
            assert (picture == 7).all()
        else:
            assert picture.shape == (PICTURE_PX, PICTURE_PX, 3)
            small = np.asarray(Image.fromarray(picture).reduce(PICTURE_PX // 32)).astype(float)
            assert np.abs(small - pixels[y : y + 32, x : x + 32]).mean() < 3
    assert found.checked is not None
    assert {row.shape for row in found.pictures.values()} == {(SIDE, SIDE, 3), (PICTURE_PX, PICTURE_PX, 3)}


def run_with_slides(folder):
    yy, xx = np.mgrid[:256, :256]
    pixels = np.stack([xx, yy, (xx + yy) // 2], -1).astype(np.uint8)
    np.save(folder / "slide.npy", pixels)
    slide = write_tiff(folder / "slide.tif", pixels)
    write_explanations(folder / "explanations")
    write_checks(folder / "checks")
    (folder / "tiles").mkdir()
    rows = explained_rows(36)[["slide_id", "patient_id", "x", "y", "side", "label"]]
    rows.join(shares_of(36)).assign(background=0.0).to_parquet(folder / "tiles" / "tiles.parquet")
    np.save(folder / "tiles" / "images.npy", np.full((36, SIDE, SIDE, 3), 7, np.uint8))
    np.save(folder / "tiles" / "masks.npy", np.zeros((36, SIDE, SIDE), np.uint8))
    return Run(folder=folder, settings=Settings()), slide


def test_a_run_without_explanations_has_none(tmp_path):
    assert collect_explained(Run(folder=tmp_path, settings=Settings()), (), pd.DataFrame()) is None


def test_nothing_is_cut_off_at_the_edges_of_a_figure(whole):
    with look.style():
        for name, (draw, _) in planned_figures(whole).items():
            figure = draw()
            figure.draw_without_rendering()
            box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
            inside = min(box.x0, box.y0, width - box.x1, height - box.y1)
            assert inside >= -0.01, name


def test_a_report_needs_no_torch():
    code = "import sys, vitrail.report.page, vitrail.report.collect; print('torch' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603 - our own
    assert ended.stdout.strip() == "False"
