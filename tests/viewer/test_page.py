"""The viewer's page in a real browser, on a slide and maps whose pixels are formulas."""

from __future__ import annotations

import base64
import io
import time

import numpy as np
import pytest
from PIL import Image

from helpers.browser import AXE, HARMLESS, NEEDS_BROWSER, Tab
from helpers.viewed import CELL, DARK, HEIGHT, KEYS, MPP, SPOT, TILE, WIDTH, Networks, pixel, served, session, share
from vitrail.viewer.session import id_of

ONE = f"#slide={id_of('one')}"
SAME = {"Kappa", "Name", "Polygon", "Test", "Training", "Tumor", "Radius", "Patient {name}", "{seconds} s"}
"""Texts that are the same in English and German."""

pytestmark = NEEDS_BROWSER


@pytest.fixture(scope="module")
def viewer(tmp_path_factory):
    pytest.importorskip("uvicorn")
    with served(session(tmp_path_factory.mktemp("viewed")), Networks()) as running:
        yield running


class Page(Tab):
    """A tab, and what a test does in it."""

    def __init__(self, tab, address):
        super().__init__(tab, address)
        self.requests = []
        tab.on("console", lambda line: self.problems.append(line.text) if line.type in {"error", "warning"} else None)
        tab.on("request", lambda request: self.requests.append(request.url))

    def slide(self, layer="", x=WIDTH / 2, y=HEIGHT / 2, scale=1.0, look="1~0~both", more=""):
        """Open the slide with a map, a place in the middle, and as many pixels of the screen a pixel."""
        self.open(f"{ONE}&at={x},{y},{scale}&view={layer}~{look}{more}")
        self.tab.wait_for_selector(".view canvas.overlay")
        self.until("document.querySelector('.scale-text').textContent !== ''")
        return self

    def screen(self, x, y, at=(WIDTH / 2, HEIGHT / 2), scale=1.0, view=0):
        """Return where a place of the slide is on the screen."""
        frame = self.tab.locator(".view").nth(view).bounding_box()
        return frame["x"] + frame["width"] / 2 + (x - at[0]) * scale, frame["y"] + frame["height"] / 2 + (
            y - at[1]
        ) * scale

    def hover(self, x, y, **where):
        self.tab.mouse.move(*self.screen(x, y, **where))

    def value(self, view=0):
        """Return what the map's number under the pointer is, once it has come."""
        self.until(f"!['', '…'].includes(document.querySelectorAll('.view-value')[{view}].textContent)")
        return self.tab.locator(".view-value").nth(view).text_content()

    def overlay(self, view=0):
        """Return the pixels that lie over the tissue, `[h, w, 4]`."""
        address = self.tab.evaluate("(n) => document.querySelectorAll('canvas.overlay')[n].toDataURL()", view)
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))).convert("RGBA"))

    def painted(self, view=0):
        """Wait until something lies over the tissue."""
        deadline = time.monotonic() + 15
        while not (image := self.overlay(view))[..., 3].any():
            assert time.monotonic() < deadline, "nothing is drawn"
        return image

    @property
    def asked(self):
        """Count what was asked about maps; pictures of the slide may still be on their way."""
        return sum("/map/" in address or "/api/" in address for address in self.requests)

    def settled(self, before=None):
        """Return place and scale in the address, once they have changed and change no more."""
        deadline, last = time.monotonic() + 15, None
        while last is None or last == before or last != self.place:
            last = self.place
            self.tab.wait_for_timeout(300)
            assert time.monotonic() < deadline
        return last

    @property
    def place(self):
        """The middle of the view and its scale, as the address has them."""
        text = self.hash.partition("at=")[2].partition("&")[0]
        return [float(each) for each in text.split(",")] if text else None

    @property
    def hash(self):
        return self.tab.evaluate("decodeURIComponent(location.hash)")


@pytest.fixture
def page(request, chromium, viewer):
    viewer.networks.questions.clear()
    context = chromium.new_context(
        viewport={"width": 1100, "height": 700}, locale="en-GB", device_scale_factor=getattr(request, "param", 1)
    )
    opened = Page(context.new_page(), viewer.address)
    yield opened
    context.close()
    assert not [line for line in opened.problems if not any(words in line for words in HARMLESS)]


def box_of(mask):
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


def test_the_wall_shows_truth_predictions_and_what_cannot_be_opened(page):
    page.open()
    cards = page.tab.locator(".card")
    page.until("document.querySelectorAll('.card').length === 3")
    assert [cards.nth(i).locator("h2").text_content() for i in range(3)] == ["one", "two", "broken"]
    first = cards.nth(0).inner_text()
    assert "25 %" in first
    assert "50 %" in first
    assert "The networks differ on 25 % of 48 tiles" in first
    assert "No maps" in cards.nth(1).inner_text()
    page.tab.wait_for_selector(".unreadable")
    assert "broken.tif" in cards.nth(2).inner_text()


def test_the_wall_filters_sorts_and_searches(page):
    page.open()
    page.tab.get_by_label("site").select_option("tongue")
    assert page.tab.locator(".card h2").all_text_contents() == ["two"]
    assert "group.site=tongue" in page.hash
    page.tab.get_by_label("site").select_option("")
    page.tab.get_by_label("Errors").select_option("disagree")
    assert page.tab.locator(".card h2").all_text_contents() == ["one"]
    page.tab.get_by_label("Errors").select_option("any")
    page.tab.get_by_label("Sort by").select_option("name")
    assert page.tab.locator(".card h2").all_text_contents() == ["broken", "one", "two"]
    page.tab.keyboard.press("Escape")
    page.tab.keyboard.press("/")
    page.tab.keyboard.type("P2")
    assert page.tab.locator(".card h2").all_text_contents() == ["two"]
    page.tab.get_by_role("link", name="two").click()
    page.tab.wait_for_selector(".slide-page")
    assert "This slide has no maps" in page.tab.locator(".layers").inner_text()


@pytest.mark.parametrize("scale", [2.0, 0.5])
def test_pixels_of_the_slide_lie_where_they_belong(page, scale):
    middle = (352.0, 224.0)
    page.slide("", *middle, scale, more="&outlines=0")
    page.until("performance.getEntriesByType('resource').some((each) => each.name.includes('/slide/'))")
    frame = page.tab.locator(".view").bounding_box()
    for _ in range(40):
        shot = np.asarray(Image.open(io.BytesIO(page.tab.screenshot(clip=frame))).convert("RGB")).astype(int)
        dark = shot[60:-60].max(2) < 90
        if dark.any():
            break
        page.tab.wait_for_timeout(50)
    left, top = (
        frame["width"] / 2 + (DARK[0] - middle[0]) * scale,
        frame["height"] / 2 + (DARK[1] - middle[1]) * scale,
    )
    side = (DARK[2] - DARK[0]) * scale
    assert np.abs(np.subtract(box_of(dark), (left, top - 60, left + side, top + side - 60))).max() <= 1.5
    x, y = 420.0, 300.0
    column, row = (
        round(frame["width"] / 2 + (x - middle[0]) * scale),
        round(frame["height"] / 2 + (y - middle[1]) * scale),
    )
    assert np.abs(shot[row, column] - pixel(np.array(x), np.array(y))).max() < 6


@pytest.mark.parametrize("page", [1, 2], indirect=True, ids=["screen", "fine screen"])
def test_a_cell_is_drawn_exactly_where_it_belongs(page):
    middle, scale = (SPOT[1] * CELL + 8.0, SPOT[0] * CELL + 8.0), 4.0
    page.slide("classifier_hrcam", *middle, scale, more="&outlines=0")
    image = page.painted()
    height, width = image.shape[:2]
    half = CELL * scale / 2 * page.tab.evaluate("devicePixelRatio")
    expected = (width / 2 - half, height / 2 - half, width / 2 + half, height / 2 + half)
    assert np.abs(np.subtract(box_of(image[..., 3] > 20), expected)).max() <= 0.51
    assert tuple(image[height // 2, width // 2, :3]) == pytest.approx((205, 60, 0), abs=2)


def test_the_number_under_the_pointer_is_the_one_of_the_formula(page):
    page.slide("classifier", 500, 300, 3.0)
    for x, y in ((500.4, 300.2), (479.6, 287.6), (480.4, 288.4), (560.0, 340.0)):
        page.hover(x, y, at=(500, 300), scale=3.0)
        assert float(page.value()) == pytest.approx(share(int(y // CELL), int(x // CELL)), abs=1e-6)
    page.hover(560, 340, at=(500, 300), scale=3.0)
    text = page.tab.locator(".coordinates").text_content()
    assert text.startswith(f"x {560 * MPP:.1f}  y {340 * MPP:.1f} µm")
    assert "Non-tumor" in text or "Other" in text or "Tumor" in text or "Background" in text


def test_far_away_the_number_is_still_that_of_the_finest_pixel(page):
    page.slide("segmenter", scale=0.4)
    page.hover(700, 300, scale=0.4)
    assert float(page.value()) == pytest.approx(700 / WIDTH, abs=2 / WIDTH)


def test_threshold_sign_palette_and_opacity_ask_for_nothing(page):
    page.slide("classifier_gradcam", scale=0.9, more="&outlines=0")
    page.painted()
    before, asked = page.overlay(), page.asked
    weak = (before[..., 3] > 0).mean()
    for _ in range(10):
        page.tab.keyboard.press(".")
    page.tab.wait_for_timeout(100)
    after = page.overlay()
    assert (after[..., 3] > 0).mean() == pytest.approx(weak / 2, rel=0.1)  # the formula is linear
    page.tab.keyboard.press("s")
    page.tab.wait_for_timeout(100)
    only = page.overlay()
    half = only.shape[1] // 2
    assert not only[:, : half - 20, 3].any()
    assert only[:, half:, 3].any()
    page.tab.get_by_label("Colours").select_option("greenviolet")
    page.tab.keyboard.press("j")
    page.tab.wait_for_timeout(100)
    assert not np.array_equal(page.overlay(), only)
    assert page.asked == asked


def test_lines_run_where_the_formula_crosses_the_threshold(page):
    page.slide("segmenter", scale=1.0, look="1~0~both~warm~contour", more="&outlines=0")
    image = page.painted()
    columns = np.flatnonzero((image[..., 3] > 0).mean(0) > 0.5)
    # 0.5 is crossed between the middles of columns 511 and 512, 512.5 pixels from the left
    assert columns.mean() + 0.5 == pytest.approx(image.shape[1] / 2 + 0.5, abs=1.0)
    assert len(columns) <= 5


def test_outlines_are_drawn_in_the_colours_of_their_classes(page):
    page.slide("", 750, 100, 1.0)
    image = page.painted()
    height, width = image.shape[:2]
    assert tuple(image[height // 2, width // 2, :3]) == pytest.approx((196, 78, 0), abs=40)
    page.tab.keyboard.press("o")
    page.tab.wait_for_timeout(100)
    assert not page.overlay().any()
    assert "outlines=0" in (page.tab.wait_for_timeout(400) or page.hash)


def test_h_hides_everything_while_it_is_held(page):
    page.slide("classifier", scale=0.9)
    before = page.painted()
    page.tab.keyboard.down("h")
    page.tab.wait_for_timeout(50)
    assert not page.overlay().any()
    page.tab.keyboard.up("h")
    assert np.array_equal(page.painted(), before)


def test_keys_of_layers_do_what_the_list_of_keys_says(page):
    tab = page.slide("classifier", scale=1.5, look="0.5~0.25~both").tab

    def slider(name):
        return float(tab.locator(f"input[data-name={name}]").input_value())

    for more, less, name in (("k", "j", "opacity"), (".", ",", "threshold")):
        start = slider(name)
        tab.keyboard.press(more)
        assert slider(name) == start + 10
        tab.keyboard.press(less)
        assert slider(name) == start
    for number, key in enumerate(KEYS, 1):
        tab.keyboard.press(str(number))
        assert tab.locator("input[name=layer]:checked").get_attribute("value") == key
    tab.keyboard.press("s")
    assert tab.get_by_label("Show", exact=True).input_value() == "for"
    tab.keyboard.press("c")
    assert tab.locator("#contour").is_checked()
    tab.keyboard.press("0")
    assert tab.locator("input[name=layer]:checked").get_attribute("value") == ""
    tab.keyboard.press("o")
    assert not tab.locator("#outlines").is_checked()
    tab.keyboard.down("h")
    assert tab.locator(".view").get_attribute("data-hidden") == "true"
    tab.keyboard.up("h")
    assert tab.locator(".view").get_attribute("data-hidden") == "false"


def test_keys_that_move_do_what_the_list_of_keys_says(page):
    page.slide("classifier", scale=1.5)
    moves = {
        "ArrowLeft": (0, -1),
        "ArrowRight": (0, 1),
        "ArrowUp": (1, -1),
        "ArrowDown": (1, 1),
        "+": (2, 1),
        "-": (2, -1),
    }
    before = page.settled()
    for key, (axis, sign) in moves.items():
        page.tab.keyboard.press(key)
        after = page.settled(before)
        change = np.subtract(after, before)
        assert change[axis] * sign > 0.1
        assert np.abs(np.delete(change, axis)).max() < 1
        before = after
    page.tab.keyboard.press("f")
    assert page.settled(before)[2] < 1


def test_keys_of_the_page_do_what_the_list_of_keys_says(page):
    tab = page.slide("classifier", scale=1.5).tab
    tab.keyboard.press("Enter")
    tab.wait_for_selector(".said")
    tab.keyboard.press("Escape")
    assert not tab.locator(".why").is_visible()
    for count in (2, 4, 1, 2):
        tab.keyboard.press("v")
        assert tab.locator(".view").count() == count
    page.until("document.querySelectorAll('.view-value').length === 2")
    tab.wait_for_timeout(200)
    tab.keyboard.press("x")
    assert "active" in tab.locator(".view").nth(1).get_attribute("class")
    tab.keyboard.press("l")
    assert not tab.locator(".layers").is_visible()
    tab.keyboard.press("?")
    listed = tab.locator("dialog kbd").all_text_contents()
    tab.keyboard.press("Escape")
    for key, name in (("n", "two"), ("p", "one")):
        tab.keyboard.press(key)
        page.until(f"document.querySelector('.slide-name')?.textContent === '{name}'")
        tab.wait_for_selector(".slide-page")
    tab.keyboard.press("w")
    tab.wait_for_selector(".wall")
    # what is listed is what these three tests press
    pressed = ["1", "…", "9", "0", *"hocsjk,.←→↑↓+", "\N{MINUS SIGN}", "f", "Enter", "Esc", *"vxlnpw?"]
    assert listed == pressed


def test_linked_views_move_together(page):
    page.slide("classifier", 300, 300, 2.0, more="&view=segmenter~1~0~both")
    page.painted(1)
    x, y = page.screen(300, 300, at=(300, 300))
    page.tab.mouse.move(x, y)
    page.tab.mouse.down()
    page.tab.mouse.move(x - 80, y - 40, steps=4)
    page.tab.mouse.up()
    place = page.settled([300, 300, 2])
    assert place[0] > 330
    assert place[1] > 315
    for view in (0, 1):  # the same place of the slide lies under the same place of both views
        page.hover(place[0] + 20, place[1], at=place[:2], scale=2.0, view=view)
        assert float(page.value(0)) == pytest.approx(
            share(int(place[1] // CELL), int((place[0] + 20) // CELL)), abs=1e-6
        )
        assert float(page.value(1)) == pytest.approx((place[0] + 20) / WIDTH, abs=1.5 / WIDTH)
    page.tab.get_by_label("Views move together").uncheck()
    page.hover(place[0], place[1], at=place[:2], scale=2.0, view=1)
    page.tab.mouse.wheel(0, -300)
    page.tab.wait_for_timeout(600)
    page.hover(place[0] + 20, place[1], at=place[:2], scale=2.0, view=0)
    assert float(page.value(0)) == pytest.approx(share(int(place[1] // CELL), int((place[0] + 20) // CELL)), abs=1e-6)


def test_a_link_restores_what_was_seen(page):
    page.slide(
        "classifier_gradcam",
        400.5,
        310.5,
        1.25,
        look="0.4~0.05~for~greenviolet~contour",
        more="&view=classes~0.7~0~both",
    )
    page.tab.wait_for_timeout(500)
    first = page.hash
    assert "at=400.5,310.5,1.25" in first
    assert "classifier_gradcam~0.4~0.05~for~greenviolet~contour" in first
    assert "classes~0.7" in first
    picture = page.painted(0)
    page.open(first)
    page.tab.wait_for_selector(".view")
    again = page.painted(0)
    page.tab.wait_for_timeout(500)
    assert page.hash == first
    assert np.array_equal(page.overlay(0) if not np.array_equal(again, picture) else again, picture)
    assert page.tab.get_by_label("Show", exact=True).input_value() == "for"


def test_a_click_asks_both_networks_about_the_tile_under_it(page, viewer):
    page.slide("", 500, 300, 1.0)
    page.tab.mouse.click(*page.screen(450, 350, at=(500, 300)))
    page.tab.wait_for_selector(".said")
    assert viewer.networks.questions == [("explain", 384.0, 256.0, ())]
    panel = page.tab.locator(".why")
    assert panel.locator(".score strong").all_text_contents() == ["0.38", "0.38"]
    assert panel.locator(".map-row h4").all_text_contents() == ["gradcam", "hrcam"]
    sizes = panel.locator(".map-row").nth(0).locator("canvas").evaluate_all("(all) => all.map((c) => c.clientWidth)")
    assert len(sizes) == 3
    assert max(sizes) - min(sizes) <= 1
    colours = (
        panel.locator(".map-row")
        .nth(0)
        .locator("canvas")
        .nth(1)
        .evaluate("(c) => [2, c.width - 2].map((x) => [...c.getContext('2d').getImageData(x, 99, 1, 1).data])")
    )
    assert colours[0][2] > colours[0][0] + 50
    assert colours[1][0] > colours[1][2] + 50
    panel.locator(".nearest img").wait_for()
    assert "T7" in panel.locator(".nearest").inner_text()
    assert "Tumor" in panel.locator(".nearest").inner_text()
    panel.get_by_role("button", name="Occlusion").click()
    page.until("document.querySelectorAll('.map-row').length === 3")
    assert viewer.networks.questions[-1] == ("explain", 384.0, 256.0, ("occlusion",))
    page.tab.keyboard.press("Escape")
    assert not panel.is_visible()
    assert "tile=" not in (page.tab.wait_for_timeout(400) or page.hash)


def test_what_is_brushed_away_is_asked_about_where_it_lies(page, viewer):
    page.slide("", 500, 300, 1.0)
    page.tab.mouse.click(*page.screen(450, 350, at=(500, 300)))
    brush = page.tab.locator("canvas.brush")
    brush.scroll_into_view_if_needed()
    frame = brush.bounding_box()
    page.tab.mouse.click(frame["x"] + frame["width"] / 4, frame["y"] + frame["height"] / 2)
    page.tab.wait_for_selector(".result")
    kind, x, y, discs, by = viewer.networks.questions[-1]
    assert (kind, x, y, by) == ("what_if", 384.0, 256.0, "tissue")
    assert discs[0] == pytest.approx((384 + TILE / 4, 256 + TILE / 2, 0.12 * TILE), abs=0.7)
    assert "0.750 → 0.125 (\N{MINUS SIGN}0.625)" in page.tab.locator(".result").nth(0).inner_text()
    brush.focus()
    for key in ("ArrowRight", "ArrowRight", " ", "Enter"):
        page.tab.keyboard.press(key)
    page.tab.wait_for_timeout(200)
    assert len(viewer.networks.questions[-1][3]) == 2


def test_an_error_of_the_server_stands_in_one_line(page):
    page.open(f"#slide={id_of('broken')}")
    page.tab.wait_for_selector(".error-line:not([hidden])")
    assert "broken.tif" in page.tab.locator(".error-line").inner_text()
    page.open("#slide=none")
    assert "not here" in page.tab.locator(".error-line").inner_text()


def test_everything_is_written_in_german_too(page):
    page.open(lang="de")
    page.tab.wait_for_selector(".card")
    texts = page.tab.evaluate("import('./static/texts.js').then((module) => module.TEXTS)")
    assert all(len(pair) == 2 and all(pair) for pair in texts.values())
    assert {english for english, german in texts.values() if english == german} <= SAME
    english = {pair[0] for pair in texts.values()} - {pair[1] for pair in texts.values()}
    seen = """() => [...document.querySelectorAll('body *')].filter((e) => e.checkVisibility()).flatMap((e) => [
        ...[...e.childNodes].filter((n) => n.nodeType === 3).map((n) => n.textContent.trim()),
        e.title, e.placeholder, e.getAttribute('aria-label')]).filter(Boolean)"""
    assert not english & set(page.tab.evaluate(seen))
    page.open(ONE, lang="de")
    page.tab.wait_for_selector(".view")
    for key in ("2", "4", "v", "Enter"):
        page.tab.keyboard.press(key)
        page.tab.wait_for_timeout(150)
    page.tab.wait_for_selector(".said")
    page.tab.wait_for_selector(".nearest img")
    page.tab.keyboard.press("l")  # where it is narrow, the reasons have taken its place
    found = set(page.tab.evaluate(seen))
    assert not (english - {"Segmentation", "Classification"}) & found
    assert {"Umrisse", "Warum", "Tumorwahrscheinlichkeit der Kacheln"} <= found
    page.tab.get_by_role("button", name="English").click()
    page.tab.wait_for_selector("text=Tumor probability of tiles")


@pytest.mark.skipif(not AXE.is_file(), reason="axe-core is not installed: npm ci --prefix frontend")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nobody_is_left_out(page, scheme):
    page.tab.emulate_media(color_scheme=scheme)

    def violations():
        page.tab.evaluate(AXE.read_text(encoding="utf-8"))
        tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]
        result = page.tab.evaluate("(tags) => axe.run({ runOnly: tags })", tags)
        return [
            (each["id"], node["html"][:150])
            for each in result["violations"] if each["impact"] in {"serious", "critical"} for node in each["nodes"]
        ]  # fmt: skip

    page.open()
    page.tab.wait_for_selector(".unreadable")
    assert not violations()
    page.slide("classifier_gradcam", more="&view=classes~1~0~both")
    page.tab.keyboard.press("Enter")
    page.tab.wait_for_selector(".nearest img")
    assert not violations()
    page.tab.keyboard.press("Escape")
    page.tab.keyboard.press("?")
    assert not violations()


def test_keys_alone_reach_everything(page):
    page.slide("classifier_gradcam")
    reached = []
    for _ in range(60):
        page.tab.keyboard.press("Tab")
        reached.append(page.tab.evaluate(
            "(() => { const e = document.activeElement; return e.id || e.className || e.textContent })()"
        ))  # fmt: skip
        if reached[-1] == reached[0] and len(reached) > 1:
            break
    text = " ".join(reached)
    for name in ("brand", "language", "outlines", "contour", "openseadragon-canvas", "layer-classifier_gradcam"):
        assert name in text
    width = page.tab.evaluate("document.documentElement.scrollWidth")
    assert width <= 1100


def test_it_works_from_1024_pixels(page):
    page.tab.set_viewport_size({"width": 1024, "height": 700})
    page.slide("classifier")
    page.tab.keyboard.press("Enter")
    page.tab.wait_for_selector(".said")
    assert page.tab.evaluate("document.documentElement.scrollWidth") <= 1024
    assert page.tab.locator(".view").bounding_box()["width"] > 600
    page.tab.locator(".panel-opener").click()
    assert page.tab.locator(".layers").is_visible()
