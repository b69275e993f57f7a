from __future__ import annotations

import json
import mimetypes
import signal
import string
import subprocess
import sys
import urllib.request

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.cohort import tissue, write_tiff
from helpers.viewing import HOST, TOKEN, request, unpack_run
from vitrail.review.queue import QueueSpec, open_queue, read_queue
from vitrail.viewer.asking import Networks
from vitrail.viewer.server import MOST_BODY, viewer_app
from vitrail.viewer.session import id_of, session_of

LABEL = "a name on a label"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = unpack_run(tmp_path_factory.mktemp("served"))
    (run.parent / "secret.txt").write_text(LABEL)
    return run


@pytest.fixture(scope="module")
def app(run):
    open_queue(run, "errors", QueueSpec(by="errors", cases=20))
    open_queue(run, "maps", QueueSpec(question="explanation", network="segmenter", method="gradcam", cases=10))
    session = session_of([run])
    return viewer_app(session, TOKEN, Networks(run, session.settings))


def at(path):
    return f"/{TOKEN}/{path}"


def test_a_page_finds_what_it_needs(app):
    page = request(app, at(""))
    assert page.status == 200
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    shown = request(app, at("api/session")).json
    assert len(shown["slides"]) == 5
    assert set(shown["networks"]) == {"classifier", "segmenter"}
    told = request(app, at(f"api/slides/{id_of('S3')}")).json
    for layer in told["layers"]:
        square = request(app, at(f"map/{id_of('S3')}/{layer['key']}/0/0_0.bin"))
        width, height = min(256, layer["width"]), min(256, layer["height"])
        assert len(square.content) == width * height * (1 if layer["kind"] == "class" else 4)
    picture = request(app, at(f"slide/{id_of('S3')}/0/0_0.jpg"))
    assert simplejpeg.decode_jpeg(picture.content).shape == (256, 256, 3)
    assert simplejpeg.decode_jpeg(request(app, at(f"thumbnail/{id_of('S3')}.jpg")).content).shape[0] == 360
    assert request(app, at(f"api/slides/{id_of('S3')}/outlines")).json["type"] == "FeatureCollection"


def test_types_of_files_are_not_those_of_windows_registry(app, monkeypatch):
    monkeypatch.setattr(mimetypes, "guess_type", lambda _name: ("application/x-css", None))
    for name, kind in (("style.css", "text/css"), ("icon.svg", "image/svg+xml"), ("app.js", "text/javascript")):
        assert request(app, at(f"static/{name}")).headers["content-type"].startswith(kind)


def test_questions_are_answered(app):
    where = f"api/slides/{id_of('S3')}"
    asked = request(app, at(f"{where}/explain"), method="POST", body=b'{"x": 40, "y": 40, "methods": ["gradcam"]}')
    assert asked.json["tile"] == {"x": pytest.approx(32), "y": pytest.approx(32), "side": pytest.approx(32)}
    body = json.dumps({"x": 40, "y": 40, "discs": [{"x": 45, "y": 45, "r": 5}], "by": "blur"}).encode()
    assert 0 < request(app, at(f"{where}/what_if"), method="POST", body=body).json["share"] < 0.2
    nearest = request(app, at(f"{where}/nearest"), query=b"x=40&y=40").json["tiles"]
    assert request(app, at(f"tile/{nearest[0]['row']}.jpg")).headers["content-type"] == "image/jpeg"


def post(app, path, **values):
    return request(app, at(path), method="POST", body=json.dumps(values).encode())


def test_a_rater_judges_blind_and_sees_the_networks_afterwards(app, run):
    assert {each["name"]: each["cases"] for each in request(app, at("api/review")).json["queues"]} == {
        "errors": 20,
        "maps": 10,
    }
    first = request(app, at("api/review/errors/next"), query=b"rater=Ada")
    assert first.json["case"] == 0
    assert not {"classifier", "segmenter", "label", "networks"} & set(first.json)
    queue = read_queue(run / "review" / "errors").rows
    assert first.json["tile"]["x"] == pytest.approx(queue.loc[0, "x"])
    said = post(app, "api/review/errors/judge", case=0, rater="Ada", answer="tumor", seconds=1.5).json
    assert said["networks"]["classifier"] == pytest.approx(queue.loc[0, "classifier"])
    assert not said["shown"]
    assert request(app, at("api/review/errors/next"), query=b"rater=Ada").json["case"] == 1
    assert request(app, at("api/review/errors/next"), query=b"rater=Bob").json["case"] == 0
    assert request(app, at("api/review/errors/results")).json["raters"]["Ada"]["judged"] == 1
    assert post(app, "api/review/errors/undo", rater="Ada").json["case"] == 0
    assert post(app, "api/review/errors/undo", rater="Ada").json["case"] is None
    assert request(app, at("api/review/errors/next"), query=b"rater=Ada").json["judged"] == 0
    # taking back makes nobody forget what was shown
    assert post(app, "api/review/errors/judge", case=0, rater="Ada", answer="tumor", seconds=1.5).json["shown"]
    skipped = post(app, "api/review/errors/judge", case=1, rater="Ada", answer="skip", seconds=1.5).json
    assert "networks" not in skipped  # it will be asked again
    assert not post(app, "api/review/errors/judge", case=1, rater="Ada", answer="tumor", seconds=1.5).json["shown"]


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"drawn": 5, "radius": 1},
        {"drawn": [5], "radius": 1},
        {"drawn": [[1, "a"]], "radius": 1},
        {"drawn": [[1, 2]], "radius": -1},
        {"drawn": [[1, 2]], "radius": 0},
        {"drawn": [[1, 2]], "radius": 5, "by": "magic"},
        {"drawn": [[1, 2]], "radius": 5, "outline": {"type": "Polygon"}},
    ],
)
def test_a_drawing_that_is_none_is_refused(app, values):
    assert post(app, f"api/slides/{id_of('S3')}/combine", **values).status == 400


def test_drawings_are_combined_and_regions_found(app):
    where = f"api/slides/{id_of('S3')}"
    drawn = post(app, f"{where}/combine", drawn=[[5, 5], [20, 5], [20, 20], [5, 20]], radius=0).json["geometry"]
    assert {tuple(corner) for corner in drawn["coordinates"][0]} == {(5, 5), (20, 5), (20, 20), (5, 20)}
    assert post(app, f"{where}/combine", drawn=[[9, 9]], radius=4, outline=drawn).json["geometry"] == drawn
    nothing = post(app, f"{where}/combine", drawn=drawn, outline=drawn, by="subtract").json["geometry"]
    assert nothing["coordinates"] == []
    region = request(app, at(f"{where}/region"), query=b"x=40&y=40").json["geometry"]
    assert region["type"] == "Polygon"
    assert request(app, at(f"{where}/region"), query=b"x=-40&y=40").status == 400


def test_corrected_outlines_are_kept_beside_the_originals(app, run):
    where, original = f"api/slides/{id_of('S4')}/outlines", (run.parent / "cohort" / "S4.geojson").read_bytes()
    features = request(app, at(where)).json["features"]
    corner = [[[0, 0], [0, 50], [50, 50], [50, 0], [0, 0]]]
    more = {"type": "Feature", "properties": {"class": "tumor"}, "geometry": {"type": "Polygon", "coordinates": corner}}
    assert post(app, where, features=[*features, more]).json["version"] == 1
    assert len(request(app, at(where)).json["features"]) == len(features) + 1
    assert (run.parent / "cohort" / "S4.geojson").read_bytes() == original
    for wrong in (5, [5], [{}], [more | {"properties": {"class": "other"}}], [more | {"geometry": None}], []):
        assert post(app, where, features=wrong).status in {400, 422}
    assert len(request(app, at(where)).json["features"]) == len(features) + 1


def test_the_report_leads_to_slides_and_tiles(app, run):
    (run / "report" / "index.html").write_text("<!doctype html><p data-slide='S3'>S3</p>")
    (run / "report" / "private.txt").write_text(LABEL)
    (run / "report" / "figures").mkdir(exist_ok=True)
    (run / "report" / "figures" / "leak.svg").symlink_to(run.parent / "secret.txt")
    page = request(app, at("report/index.html"))
    assert page.content.endswith(b'<script type="module" src="../static/report.js"></script>\n')
    assert (
        request(app, at("report/tables/cohort.csv")).content == (run / "report" / "tables" / "cohort.csv").read_bytes()
    )
    for name in ("private.txt", "figures/leak.svg", "../study.toml", "tables/../../study.toml", "stage.json", ""):
        assert request(app, at(f"report/{name}")).status == 404
    assert request(app, at("api/session")).json["report"]
    assert request(app, at("static/report.js")).headers["content-type"].startswith("text/javascript")


def test_of_a_map_the_rater_sees_the_map_alone(app):
    case = request(app, at("api/review/maps/next"), query=b"rater=Ada").json
    assert case["map"]["method"] == "gradcam"
    assert "networks" not in case


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"case": 0, "rater": "Ada", "answer": "tumor"},
        {"case": "0", "rater": "Ada", "answer": "tumor", "seconds": 1},
        {"case": True, "rater": "Ada", "answer": "tumor", "seconds": 1},
        {"case": 0, "rater": "Ada", "answer": "stroma", "seconds": 1},
        {"case": 0, "rater": "", "answer": "tumor", "seconds": 1},
        {"case": 0, "rater": "Ada", "answer": "tumor", "seconds": 1, "time": "yesterday"},
        {"case": 99, "rater": "Ada", "answer": "tumor", "seconds": 1},
    ],
)
def test_a_judgement_that_is_none_is_refused(app, values):
    assert post(app, "api/review/errors/judge", **values).status == 400
    assert post(app, "api/review/no-such-queue/judge", **values).status == 404


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"[]", 400),
        (b"{", 400),
        (b'{"x": 1}', 400),
        (b'{"x": "a", "y": 1}', 400),
        (b'{"x": NaN, "y": 1}', 400),
        (b'{"x": 1e999, "y": 1}', 400),
        (b'{"x": 1, "y": 1, "methods": 5}', 400),
        (b"[" * 30_000, 400),
        (b" " * (MOST_BODY + 1), 400),
        (b'{"x": -5, "y": 1}', 422),
        (b"\xff\xfe", 400),
    ],
)
def test_a_question_that_is_none_is_one_line(app, body, status):
    answer = request(app, at(f"api/slides/{id_of('S3')}/explain"), method="POST", body=body)
    assert answer.status == status
    assert "\n" not in answer.json["error"]


@pytest.mark.parametrize("discs", ["5", "[5]", '[{"x": 1}]', "[" + "0," * 1000 + "0]", "null"])
def test_discs_that_are_none_are_refused(app, discs):
    body = f'{{"x": 40, "y": 40, "discs": {discs}}}'.encode()
    assert request(app, at(f"api/slides/{id_of('S3')}/what_if"), method="POST", body=body).status == 400


@pytest.mark.parametrize("host", ["evil.example:8000", "127.0.0.1.evil.example:8000", "", "localhost.:8000", "[::1]:1"])
def test_another_name_for_this_computer_is_refused(app, host):
    assert request(app, at(""), headers={"host": host}).status == 403


def test_another_page_is_refused_and_its_own_is_not(app):
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1", f"http://evil{HOST}"):
        assert request(app, at("api/session"), headers={"origin": origin}).status == 403
    assert request(app, at("api/session"), headers={"origin": f"http://{HOST}"}).status == 200


@pytest.mark.parametrize(
    "path", ["/", "/favicon.ico", f"/{TOKEN}", f"/{TOKEN[:-1]}/", f"/{TOKEN}x/", f"//{TOKEN}/", f"/{TOKEN.upper()}/"]
)
def test_without_the_token_there_is_nothing(app, path):
    answer = request(app, path)
    assert answer.status == 404
    assert b"slides" not in answer.content


PARTS = st.sampled_from(
    ["..", ".", "", "%2e%2e", "..%2f", "static", "api", "slide", "map", "slides", "session", "etc", "passwd", "study",
     "study.toml", "secret.txt", id_of("S3"), "S3", "0", "-1", "1_1.jpg", "0_0.bin", "99999999999999999999", "label",
     "macro", "\x00", "a\\b", "C:", "index.html", "vendor", "~", "explain"],
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(
    parts=st.lists(st.one_of(PARTS, st.text(string.printable, max_size=8)), min_size=1, max_size=7),
    method=st.sampled_from(["GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS"]),
)
def test_no_address_leads_out_of_the_session(app, parts, method):
    path = f"/{TOKEN}/" + "/".join(parts)
    answer = request(app, path, method=method, body=b"{}")
    assert answer.status in {200, 400, 404, 405, 422}
    assert LABEL.encode() not in answer.content
    assert b"Traceback" not in answer.content
    assert b"root:" not in answer.content


def test_label_and_macro_images_have_no_address(app):
    for name in ("label", "macro", "thumbnail", "associated"):
        for path in (f"slide/{id_of('S3')}/{name}.jpg", f"{name}/{id_of('S3')}", f"api/slides/{id_of('S3')}/{name}"):
            assert request(app, at(path)).status == 404


def test_the_command_serves_on_loopback_until_it_is_interrupted(tmp_path):
    write_tiff(tmp_path / "slide.tif", tissue(0))
    command = [sys.executable, "-m", "vitrail", "view", tmp_path, "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - our own
        address = process.stdout.readline().split()[-1]
        assert address.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(f"{address}api/session", timeout=30) as answer:  # noqa: S310 - our own
            assert json.load(answer)["slides"][0]["name"] == "slide"
        with urllib.request.urlopen(f"{address}slide/{id_of('slide')}/0/0_0.jpg", timeout=30) as answer:  # noqa: S310
            shown = simplejpeg.decode_jpeg(answer.read())
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    assert np.abs(shown.astype(int) - tissue(0)).mean() < 9  # noise survives no JPEG unchanged
