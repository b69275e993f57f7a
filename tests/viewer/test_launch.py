from __future__ import annotations

import socket

import numpy as np
import pytest

from helpers.cohort import write_tiff
from vitrail.errors import SettingsError
from vitrail.viewer import launch

uvicorn = pytest.importorskip("uvicorn")


@pytest.fixture
def slide(tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "LIBRARY", ("static", "index.html"))  # nothing is fetched for these tests
    return write_tiff(tmp_path / "slide.tif", np.full((256, 256, 3), 200, np.uint8))


def test_whoever_has_the_address_is_let_in_at_once_and_never_waits_for_an_acknowledgement(slide, monkeypatch):
    served, lines = [], []

    def run(_server, sockets):
        served.extend(sockets)
        # the browser may be faster than the server: it is not refused
        with socket.create_connection(sockets[0].getsockname(), timeout=5):
            pass

    monkeypatch.setattr(uvicorn.Server, "run", run)
    launch.view([slide], browser=False, say=lines.append)
    assert served[0].proto == socket.IPPROTO_TCP  # asyncio sets TCP_NODELAY on no other
    assert lines[0].startswith("1 slides at http://127.0.0.1:")


def test_without_what_the_page_is_made_of_the_viewer_says_how_to_get_it(slide, monkeypatch):
    monkeypatch.setattr(launch, "LIBRARY", ("static", "vendor", "none.js"))
    with pytest.raises(SettingsError, match=r"static/vendor/none\.js is missing.*make viewer"):
        launch.view([slide], browser=False)


def test_a_port_in_use_is_named(slide):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(SettingsError, match="cannot be used"):
            launch.view([slide], port=taken.getsockname()[1], browser=False)
