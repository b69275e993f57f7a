"""Judging, results and drawing in a real browser, on a slide and maps whose pixels are formulas."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import time
from dataclasses import asdict
from importlib import resources
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import shapely
from PIL import Image
from shapely.geometry import box, mapping, shape

from helpers.browser import AXE, HARMLESS, NEEDS_BROWSER, Tab
from helpers.data import DATA, needs_data
from helpers.viewed import CELL, HEIGHT, WIDTH, served, session
from vitrail.core.files import write_csv, write_json
from vitrail.review.judgements import Judgement, Judgements
from vitrail.review.queue import QueueSpec, read_queue
from vitrail.slides.outlines.formats import read_outlines
from vitrail.viewer.session import id_of

ONE = f"#slide={id_of('one')}"
SIDE, CASES = 96, 8
ODD = [[(10.1, 20.123456789), (200 / 3, 21.7), (60.000000001, 99.9), (11, 90)]]

pytestmark = NEEDS_BROWSER


def score(case, network):
    """Return a number that stands nowhere else."""
    return round(0.31 + case / 100 + (0.001234 if network == "classifier" else 0.405678), 6)


def write_queue(run, name, spec, slides=("one", "one", "two")):
    cases = np.arange(CASES)
    rows = pd.DataFrame({
        "case": cases, "row": cases, "slide_id": np.resize(slides, CASES), "patient_id": cases // 2,
        "x": 96.0 * (cases % 4), "y": 96.0 * (cases // 4), "side": float(SIDE), "label": "tumor",
        "classifier": [score(case, "classifier") for case in cases],
        "segmenter": [score(case, "segmenter") for case in cases], "urgency": 0.5, "reason": "ordered", "of": -1,
    })  # fmt: skip
    write_csv(run / "review" / name / "queue.csv", rows)
    write_json(run / "review" / name / "queue.json", asdict(spec))


def stored_map(_key, position):
    """Return a map whose only strong place is a square at the left, higher up for earlier cases."""
    values = np.zeros((24, 24), np.float32)
    values[position : position + 4, 2:8] = 1
    return SimpleNamespace(upsample=lambda: values, method="gradcam", signed=True)


def run_session(folder):
    shown = session(folder)
    run = folder / "run"
    for name in ("tiles", "maps", "broken"):
        (run / "review" / name).mkdir(parents=True)
    write_queue(run, "tiles", QueueSpec(cases=CASES))
    write_queue(run, "maps", QueueSpec(question="explanation", network="classifier", method="gradcam", cases=CASES))
    write_queue(run, "broken", QueueSpec(cases=CASES), ["broken", "one"])
    shown.run = run
    shown.stored = SimpleNamespace(rows=pd.DataFrame({"tile": range(CASES), "slide_id": "one"}), saliency=stored_map)
    return shown


@pytest.fixture
def viewer(tmp_path):
    pytest.importorskip("uvicorn")
    shown = run_session(tmp_path)
    with served(shown) as running:
        running.shown, running.run = shown, shown.run
        yield running


class RaterTab(Tab):
    """A tab, what came into it, and what a test does there."""

    def __init__(self, context, address):
        super().__init__(context.new_page(), address)
        self.answers = []
        self.tab.on("console", lambda line: self.problems.append(line.text) if line.type == "error" else None)
        self.tab.on("response", lambda response: self.answers.append(response) if "/api/" in response.url else None)

    def open(self, link, lang="en"):
        super().open(link, lang)
        return self

    def judge_as(self, rater, queue="tiles", lang="en"):
        """Open a queue, and say who judges."""
        self.open(f"#review={queue}", lang)
        self.tab.wait_for_selector(".rater input")
        self.tab.fill(".rater input", rater)
        self.press("Enter")
        return self.case(1)

    def case(self, number):
        """Wait until a case is there."""
        self.until(f"document.querySelector('.note-line')?.textContent.match(/\\d+/)?.[0] === '{number}'")
        self.until(
            "document.querySelector('#status').textContent.startsWith(document.querySelector('.note-line').textContent)"
        )
        return self

    def press(self, *keys):
        for key in keys:
            self.tab.keyboard.press(key)

    def text(self, selector):
        return self.tab.locator(selector).inner_text()

    def pixels(self, selector):
        """Return the pixels of a canvas, `[h, w, 4]`."""
        address = self.tab.evaluate("(each) => document.querySelector(each).toDataURL()", selector)
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))).convert("RGBA"))

    def frame(self):
        """Return left, top, right and bottom of what lies over the tissue; None where nothing does."""
        rows, columns = np.nonzero(self.pixels("canvas.overlay")[..., 3])
        return (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) if len(rows) else None

    def moved(self, before):
        """Wait until the frame has moved and stays, and return it."""
        deadline, last = time.monotonic() + 15, before
        while last == before or last != self.frame():
            last = self.frame()
            self.tab.wait_for_timeout(70)
            assert time.monotonic() < deadline
        return last


@pytest.fixture
def open_tab(chromium, viewer):
    contexts = []

    def opened(context=None):
        if context is None:
            context = chromium.new_context(viewport={"width": 1600, "height": 900}, locale="en-GB")
            contexts.append(context)
        tab = RaterTab(context, viewer.address)
        tabs.append(tab)
        return tab

    tabs = []
    yield opened
    for context in contexts:
        context.close()
    assert [line for tab in tabs for line in tab.problems if not any(each in line for each in HARMLESS)] == []


def judged(viewer, queue="tiles"):
    return Judgements(read_queue(viewer.run / "review" / queue)).read()


def said(viewer, queue="tiles"):
    return [(each.case, each.rater, each.answer, each.shown) for each in judged(viewer, queue)]


def test_one_key_answers_saves_and_goes_on(open_tab, viewer):
    tab = open_tab().judge_as("Ada Lovelace")
    middle = tab.tab.locator("canvas.overlay").bounding_box()
    half = 0.5 * min(middle["width"], middle["height"]) / 2
    x, y = middle["width"] / 2, middle["height"] / 2
    # the frame's line is 5 pixels wide
    assert tab.frame() == pytest.approx((x - half, y - half, x + half, y + half), abs=3.5)
    for number, answer in enumerate(("tumor", "non_tumor", "other", "unsure"), 1):
        tab.press(str(number))
        tab.case(number + 1)
        assert said(viewer)[-1] == (number - 1, "Ada Lovelace", answer, False)
    assert "4 of 8 judged · median" in tab.text(".progress")
    tab.press("c")
    tab.tab.keyboard.type("1 z r necrosis")  # keys are letters there
    tab.press("Escape", "1")
    tab.case(6)
    assert judged(viewer)[-1].comment == "1 z r necrosis"
    tab.press("Space", "2")  # quicker than the page: a key that comes while it saves counts for nothing
    tab.case(7)
    tab.press("1")
    tab.case(8)
    tab.press("1")
    tab.case(6)  # what was skipped comes again
    tab.tab.get_by_role("button", name="Tumor", exact=False).first.click()
    tab.tab.wait_for_selector(".review-end h2")
    assert "Thank you, Ada Lovelace" in tab.text(".review-end")
    assert {each.case for each in judged(viewer) if each.answer != "skip"} == set(range(CASES))
    tab.press("z")
    tab.case(6)
    # the name is asked for once
    tab.open("#review=maps")
    tab.case(1)
    assert "Ada Lovelace" in tab.text(".bar")


def test_undo_has_no_limit_and_makes_nobody_blind_again(open_tab, viewer):
    tab = open_tab().judge_as("Ada")
    tab.press("z")
    tab.until("document.querySelector('.note-line').textContent.startsWith('There is nothing')")
    for number in (1, 2, 3):
        tab.press("1")
        tab.case(number + 1)
    for number in (3, 2, 1):
        tab.press("z")
        tab.case(number)
    assert said(viewer) == []
    tab.press("2")
    tab.case(2)
    assert said(viewer) == [(0, "Ada", "non_tumor", True)]
    tab.press("r")
    tab.until("document.querySelector('.note-line').textContent.startsWith('Case 1 again')")
    tab.press("Escape")
    tab.case(2)
    tab.press("r")
    tab.until("document.querySelector('.note-line').textContent.startsWith('Case 1 again')")
    tab.press("4")
    tab.case(2)
    assert said(viewer) == [(0, "Ada", "non_tumor", True), (0, "Ada", "unsure", True)]


def test_a_rater_is_blind_until_they_have_answered(open_tab):
    tab = open_tab().judge_as("Ada")
    tab.press("Space")
    tab.case(2)
    tab.press("1")
    tab.case(3)
    assert f"Classification network {score(1, 'classifier'):.2f}" in tab.text(".last-line")
    content, words = tab.tab.content(), tab.text("body")  # what is drawn has lengths of two digits, too
    answers = [(answer.url, answer.text()) for answer in tab.answers]
    for case in range(CASES):
        for network in ("classifier", "segmenter"):
            assert str(score(case, network)) not in content
            assert (f"{score(case, network):.2f}" in words) == (case == 1)
            holders = [url for url, text in answers if str(score(case, network)) in text]
            assert len(holders) == (case == 1)
            assert all(url.endswith("/judge") for url in holders)
    assert not any("api/session" in url or "/map/" in url for url, _ in answers)
    assert not any("tumor_tiles" in text or "classifier_wrong" in text for _, text in answers)


def test_keys_move_zoom_and_hide(open_tab):
    tab = open_tab().judge_as("Ada")
    first = before = tab.frame()
    for key, axis, sign in (("ArrowLeft", 0, 1), ("ArrowUp", 1, 1), ("ArrowRight", 0, -1), ("ArrowDown", 1, -1)):
        tab.press(key)
        after = tab.moved(before)
        assert np.sign(after[axis] - before[axis]) == sign
        before = after
    tab.press("+")
    closer = tab.moved(before)
    assert closer[2] - closer[0] == pytest.approx(1.35 * (first[2] - first[0]), abs=8)
    tab.press("-")
    tab.moved(closer)
    tab.tab.keyboard.down("h")
    tab.until("document.querySelector('.view').dataset.hidden === 'true'")
    assert tab.frame() is None
    tab.tab.keyboard.up("h")
    tab.until("document.querySelector('.view').dataset.hidden === 'false'")
    tab.press("f")
    tab.until("true")
    assert tab.frame() == first
    tab.press("?")
    assert "Answer, save, go on" in tab.text("dialog")
    tab.press("1")  # a key in a dialog judges nothing
    tab.tab.keyboard.press("Escape")
    assert "0 of 8" in tab.text(".progress")


def test_a_slide_that_cannot_be_read_can_be_skipped(open_tab):
    tab = open_tab().judge_as("Ada", "broken")
    assert "broken.tif" in tab.text(".review-stage")
    tab.press("Space")
    tab.case(2)
    assert tab.frame() is not None


def test_seconds_count_while_the_page_is_seen(open_tab, viewer):
    tab = open_tab().judge_as("Ada")
    hide = """(hidden) => {
        Object.defineProperty(document, "hidden", { configurable: true, get: () => Boolean(hidden) });
        document.dispatchEvent(new Event("visibilitychange"));
    }"""
    tab.tab.evaluate(hide, 1)
    began = time.monotonic()
    tab.tab.wait_for_timeout(700)
    tab.tab.evaluate(hide, 0)
    passed = time.monotonic() - began
    tab.press("1")
    tab.case(2)
    whole = time.monotonic() - began
    assert judged(viewer)[0].seconds > 0
    tab.press("1")
    tab.case(3)
    assert passed >= 0.7
    assert judged(viewer)[1].seconds <= time.monotonic() - began - passed
    assert judged(viewer)[0].seconds < whole + 5


def test_a_server_that_was_stopped_and_started_again_loses_nothing(chromium, tmp_path):
    shown = run_session(tmp_path)
    context = chromium.new_context(viewport={"width": 1280, "height": 860})
    with served(shown) as running:
        tab = RaterTab(context, running.address).judge_as("Ada")
        tab.press("1")
        tab.case(2)
    tab.press("2")
    tab.tab.wait_for_selector(".error-line:not([hidden])")
    assert "does not answer" in tab.text(".error-line")
    assert "Case 2" in tab.text(".note-line")
    port = int(re.search(r":(\d+)/", running.address)[1])
    with served(run_session_again(shown), port=port):
        tab.press("2")
        tab.case(3)
        assert not tab.tab.locator(".error-line").is_visible()
        tab.tab.reload()
        tab.case(3)
        assert "2 of 8" in tab.text(".progress")
    context.close()
    rows = Judgements(read_queue(shown.run / "review" / "tiles")).read()
    assert [(each.case, each.answer) for each in rows] == [(0, "tumor"), (1, "non_tumor")]


def run_session_again(shown):
    """Return a session that remembers nothing but what is on the disk."""
    again = type(shown)(shown.title, list(shown.slides.values()))
    again.run, again.stored, again._rasters = shown.run, shown.stored, shown._rasters
    return again


def test_two_browsers_and_two_tabs_lose_nothing(open_tab, viewer):
    ada = open_tab().judge_as("Ada")
    bob = open_tab().judge_as("Bob")
    ada.press("1")
    ada.case(2)
    bob.press("2")
    bob.case(2)
    second = open_tab(ada.tab.context).open("#review=tiles")
    second.case(2)
    second.press("3")
    second.case(3)
    ada.case(3)  # the other tab has gone on, too
    ada.press("4")
    ada.case(4)
    assert {row[:3] for row in said(viewer)} == {
        (0, "Ada", "tumor"), (0, "Bob", "non_tumor"), (1, "Ada", "other"), (2, "Ada", "unsure"),
    }  # fmt: skip


def test_of_a_map_one_sees_the_tile_its_contours_and_the_map_at_one_size(open_tab, viewer):
    tab = open_tab().judge_as("Ada", "maps")
    sizes = tab.tab.evaluate(
        "[...document.querySelectorAll('figure canvas')].map((c) => [c.clientWidth, c.clientHeight])"
    )
    assert len(sizes) == 3
    assert len({tuple(size) for size in sizes}) == 1
    tile, contours, coloured = (tab.pixels(f"figure:nth-of-type({n}) canvas").astype(int) for n in (1, 2, 3))
    unit = tile.shape[0] / 24
    changed = np.abs(contours - tile).sum(-1) > 30
    rows, columns = np.nonzero(changed)
    assert columns.min() / unit == pytest.approx(2, abs=0.7)
    assert columns.max() / unit == pytest.approx(8, abs=0.7)
    assert rows.max() / unit == pytest.approx(4, abs=0.7)
    orange = (coloured[..., 0] - coloured[..., 2]) > 80
    assert orange[: int(3 * unit), int(3 * unit) : int(7 * unit)].all()
    tab.tab.keyboard.down("h")
    tab.until("document.querySelector('.view').dataset.hidden === 'true'")
    assert (tab.pixels("figure:nth-of-type(3) canvas") == tile).all()
    tab.tab.keyboard.up("h")
    tab.press("2")
    tab.case(2)
    assert said(viewer, "maps") == [(0, "Ada", "stroma", False)]


def test_results_are_tables_with_intervals(open_tab, viewer):
    judgements = Judgements(read_queue(viewer.run / "review" / "tiles"))
    rng = np.random.default_rng(0)
    for rater in ("Ada", "Bob"):
        for case in range(CASES):
            answer = ("tumor", "non_tumor")[int(rng.integers(2))]
            judgements.add(Judgement(case=case, rater=rater, answer=answer, seconds=2.5))
    tab = open_tab().open("#results=tiles")
    tab.tab.wait_for_selector(".result-table")
    text = tab.text(".results-page")
    assert "Ada / Bob" in text
    assert re.search(r"Classification network\s+Ada\s+8\s+38 % \(2\.3 % to 94 %\)", text)
    assert "vitrail review RUN --queue tiles --export FOLDER" in text
    tab.open("#results=maps").tab.wait_for_selector("text=Nobody has judged")
    tab.open("#review=none").tab.wait_for_selector(".queue-list")
    assert "no queue none" in tab.text(".error-line")


# drawing


def enter(tab, at=(WIDTH / 2, HEIGHT / 2), scale=1.0):
    """Open the slide and begin to draw; return a function from the slide to the screen."""
    tab.open(f"{ONE}&at={at[0]},{at[1]},{scale}&view=~1")
    tab.until("document.querySelector('.scale-text')?.textContent")
    tab.press("d")
    tab.tab.wait_for_selector(".draw-panel")
    return ruler(tab)


def ruler(tab):
    last = None
    while last is None or last != tab.tab.evaluate("location.hash"):
        last = tab.tab.evaluate("location.hash")
        tab.tab.wait_for_timeout(280)
    x0, y0, scale = (float(each) for each in re.search(r"at=([-\d.,e]+)", last)[1].split(","))
    frame = tab.tab.locator(".draw-canvas").bounding_box()

    def screen(x, y):
        return frame["x"] + frame["width"] / 2 + (x - x0) * scale, frame["y"] + frame["height"] / 2 + (y - y0) * scale

    return screen


def state(tab, start):
    tab.until(f"document.querySelector('.draw-state')?.textContent.startsWith('{start}')")


def save(tab, version):
    tab.press("w")
    tab.until(f"document.querySelector('.draw-message').textContent.startsWith('Saved as version {version};')")


def versions(viewer):
    files = sorted((viewer.run / "corrections" / "one").glob("*.geojson"))
    return [outlines_of(file) for file in files]


def outlines_of(file):
    return [(each.name, shape(each.geometry)) for each in read_outlines(file).features]


def click(tab, screen, *points):
    for x, y in points:
        tab.tab.mouse.click(*screen(x, y))


def test_a_polygon_is_where_it_was_clicked_and_saved_as_a_version(open_tab, viewer):
    original = (viewer.run.parent / "one.geojson").read_bytes()
    tab = open_tab()
    screen = enter(tab)
    corners = [(450, 420), (560, 430), (540, 500), (455, 480)]
    tab.press("t")
    click(tab, screen, *corners)
    tab.press("Enter")
    state(tab, "3 outlines, selected: Tumor")
    save(tab, 1)
    assert (viewer.run.parent / "one.geojson").read_bytes() == original
    (first,) = versions(viewer)
    assert [name for name, _ in first] == ["Tumor", "Non-tumor", "Tumor"]
    drawn = first[2][1]
    assert len(drawn.exterior.coords) == 5
    for corner in corners:
        assert shapely.Point(corner).distance(shapely.MultiPoint(drawn.exterior.coords)) < 1
    tab.press("n")  # the selected one becomes another
    save(tab, 2)
    tab.press("Delete")
    save(tab, 3)
    assert [[name for name, _ in version] for version in versions(viewer)][1:] == [
        ["Tumor", "Non-tumor", "Non-tumor"], ["Tumor", "Non-tumor"],
    ]  # fmt: skip
    tab.press("z")
    state(tab, "3 outlines")
    tab.press("z", "z")
    state(tab, "2 outlines")
    tab.press("y")
    state(tab, "3 outlines")


def test_leaving_shows_what_is_saved(open_tab, viewer):
    tab = open_tab()
    screen = enter(tab)
    assert tab.frame() is None  # outlines are drawn once
    click(tab, screen, (450, 420), (560, 430), (540, 500))
    tab.press("Enter")
    state(tab, "3 outlines")
    save(tab, 1)
    tab.press("Escape", "Escape")  # selects nothing, leaves
    tab.until("!document.querySelector('.draw-panel')")
    tab.moved(None)
    tab.press("d")
    state(tab, "3 outlines")
    tab.press("j", "k", "d")
    tab.until("!document.querySelector('.draw-panel')")
    assert len(versions(viewer)) == 1


def test_a_brush_adds_and_takes_away_and_outlines_of_two_classes_never_overlap(open_tab, viewer):
    tab = open_tab()
    screen = enter(tab)
    tab.press("s")
    click(tab, screen, (700, 300))
    state(tab, "2 outlines, selected: Tumor")
    tab.press("b")
    tab.tab.mouse.move(*screen(600, 250))
    tab.tab.mouse.down()
    tab.tab.mouse.move(*screen(500, 250), steps=8)
    tab.tab.mouse.up()
    tab.until("!document.querySelectorAll('.draw-panel button.primary')[0].disabled")
    save(tab, 1)
    brushed = versions(viewer)[0][0][1]
    radius = 0.03 * HEIGHT
    expected = box(600, 100, 900, 400).union(shapely.LineString([(500, 250), (600, 250)]).buffer(radius))
    assert brushed.symmetric_difference(expected).area < 0.03 * brushed.area
    tab.press("e", "Escape")
    click(tab, screen, (750, 200), (300, 600))  # nothing is selected: a dab in each outline
    tab.press("p", "n")
    click(tab, screen, (880, 300), (940, 300), (940, 350), (880, 350))
    tab.press("Enter")
    state(tab, "3 outlines")
    save(tab, 2)
    (_, tumor), (_, non_tumor), (_, third) = versions(viewer)[1]
    assert len(tumor.interiors) == len(non_tumor.interiors) == 1
    assert shapely.Polygon(tumor.interiors[0]).area == pytest.approx(np.pi * radius**2, rel=0.05)
    assert third.area == pytest.approx(60 * 50, rel=0.03)
    assert third.intersection(tumor).area < 1e-6
    assert tumor.is_valid
    assert non_tumor.is_valid


def test_an_outline_that_becomes_another_class_is_taken_from_those_of_the_other(open_tab, viewer):
    tab = open_tab()
    screen = enter(tab)
    tab.press("t")
    click(tab, screen, (580, 380), (660, 380), (660, 450), (580, 450))  # over a corner of what is tumor already
    tab.press("Enter")
    state(tab, "3 outlines, selected: Tumor")
    tab.press("n")
    save(tab, 1)
    (_, tumor), _, (name, drawn) = versions(viewer)[0]
    assert name == "Non-tumor"
    assert drawn.intersection(tumor).area < 1e-6
    assert tumor.area == pytest.approx(300 * 300 - 60 * 20, rel=0.005)


def test_a_region_of_the_network_becomes_an_outline(open_tab, viewer):
    tab = open_tab()
    screen = enter(tab)
    tab.press("n", "m")
    click(tab, screen, (500, 40))
    state(tab, "3 outlines")
    tab.press("z")
    state(tab, "2 outlines")
    # by keys alone: the tool works in the middle
    tab.press("f", "Space")
    state(tab, "3 outlines")
    tab.press("x", "x", "x")
    state(tab, "3 outlines, selected: Non-tumor")
    save(tab, 1)
    region = versions(viewer)[0][2][1]
    side = 16 * CELL  # the classes are squares of 16 cells
    assert region.equals(box(2 * side, side, 3 * side, 2 * side))


def test_unsaved_changes_are_offered_again(open_tab, viewer):
    tab = open_tab()
    screen = enter(tab)
    click(tab, screen, (450, 420), (560, 430), (540, 500))
    tab.press("Enter")
    state(tab, "3 outlines")
    tab.tab.reload()
    tab.until("document.querySelector('.scale-text')?.textContent")
    tab.press("d")
    tab.tab.wait_for_selector(".draft:not([hidden])")
    state(tab, "2 outlines")
    tab.press("Enter")  # the button has the focus
    state(tab, "3 outlines")
    save(tab, 1)
    assert len(versions(viewer)[0]) == 3
    tab.tab.reload()
    tab.until("document.querySelector('.scale-text')?.textContent")
    tab.press("d")
    state(tab, "3 outlines")
    assert not tab.tab.locator(".draft").is_visible()


def feature(name, geometry):
    properties = {"objectType": "annotation", "classification": {"name": name, "color": [200, 0, 0]}}
    return {"type": "Feature", "id": name, "properties": properties, "geometry": geometry}


@pytest.mark.parametrize("source", ["odd", pytest.param("orca", marks=needs_data("orca/annotations"))])
def test_the_round_trip_with_qupath_is_exact(open_tab, viewer, source):
    file = viewer.run.parent / "one.geojson"
    if source == "odd":
        hole = [(20.3, 30.1), (20.3, 40.7), (31.9, 41.1)]
        many = {"type": "MultiPolygon", "coordinates": [[*ODD, hole], [[(300.7, 10), (310, 10.3), (305, 1 / 3)]]]}
        close(many)
        features = [feature("Tumor", many), feature("Non-tumor", mapping(box(700.25, 20.5, 800.125, 1e-7)))]
        file.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    else:
        found = sorted((DATA / "orca" / "annotations").glob("*.geojson"))
        shutil.copyfile(found[0], file)
    before = outlines_of(file)
    tab = open_tab()
    screen = enter(tab)
    tab.press("t")
    click(tab, screen, (930, 730), (950, 730), (950, 750))
    tab.press("Enter")
    state(tab, f"{len(before) + 1} outlines")
    save(tab, 1)
    *after, _ = versions(viewer)[0]
    assert [name for name, _ in after] == [name for name, _ in before]
    for (_, geometry), (_, earlier) in zip(after, before, strict=True):
        assert geometry == earlier  # corner by corner, to the last bit


def close(geometry):
    for polygon in geometry["coordinates"]:
        for ring in polygon:
            ring.append(ring[0])


def test_all_is_written_in_german_too(open_tab):
    tab = open_tab().judge_as("Ada", lang="de")
    assert "Was zeigt die gerahmte Kachel?" in tab.text(".review-side")
    tab.press("1")
    tab.case(2)
    assert "Letzter Fall: Sie sagten: Tumor" in tab.text(".last-line")
    texts = tab.tab.evaluate("import('./static/texts.js').then((module) => module.TEXTS)")
    english = {pair[0] for pair in texts.values() if pair[0] not in {each[1] for each in texts.values()}}
    seen = """() => [...document.querySelectorAll('body *')].filter((e) => e.checkVisibility()).flatMap((e) => [
        ...[...e.childNodes].filter((n) => n.nodeType === 3).map((n) => n.textContent.trim()),
        e.title, e.placeholder, e.getAttribute('aria-label')]).filter(Boolean)"""
    assert not english & set(tab.tab.evaluate(seen))
    tab.open("#results=tiles", "de").tab.wait_for_selector(".result-table")
    assert not english & set(tab.tab.evaluate(seen))
    tab.open(ONE, "de")
    tab.until("document.querySelector('.scale-text')?.textContent")
    tab.press("d")
    tab.tab.wait_for_selector(".draw-panel")
    assert not english & set(tab.tab.evaluate(seen))
    folder = resources.files("vitrail.viewer").joinpath("static")
    scripts = [folder.joinpath(name).read_text() for name in ("review.js", "results.js", "draw.js")]
    assert {key for script in scripts for key in re.findall(r'(?:\bt\(|text: )"([a-z.]+)"', script)} <= set(texts)


@pytest.mark.skipif(not AXE.is_file(), reason="axe-core is not installed: npm ci --prefix frontend")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nobody_is_left_out(open_tab, scheme):
    tab = open_tab()
    tab.tab.emulate_media(color_scheme=scheme)
    # by night other colours are all that is different
    only = ["color-contrast"] if scheme == "dark" else ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]

    def violations():
        tab.tab.evaluate(AXE.read_text(encoding="utf-8"))
        result = tab.tab.evaluate("(only) => axe.run({ runOnly: only })", only)
        return [
            (each["id"], node["html"][:150])
            for each in result["violations"] if each["impact"] in {"serious", "critical"} for node in each["nodes"]
        ]  # fmt: skip

    tab.open("#review=maps").tab.wait_for_selector(".rater input")
    assert scheme == "dark" or not violations()
    tab.judge_as("Ada", "maps")
    assert not violations()
    tab.press("1")
    tab.case(2)
    tab.open("#results=maps").tab.wait_for_selector(".result-table")
    assert scheme == "dark" or not violations()
    enter(tab)
    assert not violations()
