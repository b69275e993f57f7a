from __future__ import annotations

import asyncio
import http.server
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest

import vitrail
from helpers.browser import NEEDS_BROWSER
from helpers.cohort import tissue, write_cohort, write_tiff
from helpers.viewing import unpack_run
from vitrail.errors import SettingsError
from vitrail.viewer import launch
from vitrail.viewer.session import id_of

pytest.importorskip("uvicorn")


@pytest.fixture(autouse=True)
def _no_library(monkeypatch, request):
    if "chromium" not in request.fixturenames:
        monkeypatch.setattr(launch, "LIBRARY", ("static", "index.html"))  # nothing is fetched for these tests


@pytest.fixture
def slide(tmp_path):
    return write_tiff(tmp_path / "S1.tif", tissue(0))


def fetch(address, path="", **headers):
    with urllib.request.urlopen(urllib.request.Request(address.partition("#")[0] + path, headers=headers)) as answer:  # noqa: S310 - ours
        return answer.read(), answer.headers


def refused(address):
    try:
        fetch(address)
    except OSError:
        return True
    return False


def test_a_view_serves_until_it_is_closed(slide):
    view = vitrail.view(vitrail.open_slide(slide, mpp=2.0))
    assert urlsplit(view.address).hostname == "127.0.0.1"
    assert view.address.endswith(f"#slide={id_of('S1')}")
    assert (
        b'"mpp":2.0' in fetch(view.address, f"api/slides/{id_of('S1')}")[0]
    )  # as it was opened, not as its header says
    html = view._repr_html_()
    assert html.count(view.address) == 2
    assert "<iframe" in html
    assert view.address in repr(view)
    view.close()
    view.close()
    assert not view.is_open
    assert refused(view.address)
    assert repr(view) == "<View of 1 slide, closed>"
    assert "iframe" not in view._repr_html_()


def test_several_views_stand_side_by_side_each_behind_its_own_token(slide, tmp_path):
    cohort = write_cohort(tmp_path / "cohort").parent
    with vitrail.view(slide) as first, vitrail.view(cohort, slide="S2") as second:
        assert len({first.address, second.address, *(urlsplit(each.address).port for each in (first, second))}) == 4
        assert second.address.endswith(f"#slide={id_of('S2')}")
        tokens = [urlsplit(each.address).path for each in (first, second)]
        other = first.address.replace(tokens[0], tokens[1])
        with pytest.raises(urllib.error.HTTPError, match="404"):
            fetch(other)
        assert b"<title>" in fetch(second.address)[0]
    assert refused(first.address)
    assert refused(second.address)


def test_a_study_is_viewed_as_its_run(tmp_path):
    study = vitrail.open_study(unpack_run(tmp_path))
    with vitrail.view(study) as view:
        assert b'"run":true' in fetch(view.address, "api/session")[0]
        assert "of 5 slides" in repr(view)


def test_it_works_while_a_notebooks_loop_runs_in_this_thread(slide):
    async def cell():
        with vitrail.view([slide]) as view:
            return await asyncio.to_thread(fetch, view.address)

    assert b"<title>" in asyncio.run(cell())[0]


def test_only_pages_of_this_machine_may_frame_it_and_the_commands_pages_nobody(slide):
    with vitrail.view(slide) as view:
        policy = fetch(view.address)[1]["Content-Security-Policy"]
        with pytest.raises(urllib.error.HTTPError, match="403"):
            fetch(view.address, Origin="http://localhost:8888")  # to show it is not to read it
    (allowed,) = [part.split()[1:] for part in policy.split("; ") if part.startswith("frame-ancestors")]
    assert all(urlsplit(each).hostname in {"localhost", "127.0.0.1"} or each.startswith("vscode-") for each in allowed)
    served = launch.prepare(launch.session_of([slide]))
    with served.socket:
        thread = threading.Thread(target=served.server.run, kwargs={"sockets": [served.socket]}, daemon=True)
        thread.start()
        assert "frame-ancestors 'none'" in fetch(served.address)[1]["Content-Security-Policy"]
        served.server.should_exit = True
        thread.join()


def test_what_cannot_be_viewed_is_said(slide, tmp_path):
    with pytest.raises(SettingsError, match=r"there is no slide 'S9' to be shown.*There are S1"):
        vitrail.view(slide, slide="S9")
    with pytest.raises(vitrail.SlideError, match="no such file"):
        vitrail.view(tmp_path / "none.tif")


def test_python_ends_though_a_view_is_open(slide):
    code = (
        "import sys, vitrail; from vitrail.viewer import launch; launch.LIBRARY = ('static', 'index.html');"
        "print(vitrail.view(sys.argv[1]).is_open)"
    )
    ended = subprocess.run(  # noqa: S603 - our own
        [sys.executable, "-c", code, slide], capture_output=True, text=True, check=True, timeout=60
    )
    assert (ended.stdout, ended.stderr) == ("True\n", "")


@contextmanager
def page_of_a_notebook(html):
    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(html.encode())

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://localhost:{server.server_port}/"
        server.shutdown()


class TestInABrowser:
    pytestmark = NEEDS_BROWSER

    def test_a_notebook_shows_the_viewer_within_its_page(self, slide, chromium):
        with vitrail.view(slide) as view, page_of_a_notebook(f"<!doctype html>{view._repr_html_()}") as address:
            page = chromium.new_page()
            page.goto(address)
            frame = page.frame_locator("iframe")
            frame.locator("canvas").first.wait_for(timeout=20_000)
            assert "S1" in frame.locator("body").inner_text()
            page.close()
