"""A session of the viewer whose pixels are formulas, its server in a thread, and networks that answer at once."""

from __future__ import annotations

import base64
import threading
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
from shapely.geometry import box

from helpers.cohort import outline, write_outlines, write_tiff
from vitrail.geometry import Region
from vitrail.viewer.rasters import array_raster
from vitrail.viewer.session import Session, ViewedSlide, id_of

WIDTH, HEIGHT, MPP = 1024, 768, 0.5
DARK = (320, 192, 384, 256)
"""Left, top, right and lower end of the only dark square of the slide."""

CELL = 16
"""Pixels of the slide along a pixel of its small maps."""

TILE = 128
SPOT = (12, 20)
"""Row and column of the only cell of the map HR-CAM that is not 0."""

KEYS = ("classifier", "classes", "segmenter", "classifier_gradcam", "classifier_hrcam")
"""The maps, in the order of the keys 1 to 5."""


def pixel(x, y):
    """Return the slide's colour at a pixel, outside of the dark square."""
    return np.stack([140 + x / 10, 150 + y / 10, np.full_like(x, 200.0)], axis=-1)


def share(row, column):
    return ((7 * column + 13 * row) % 100) / 100


def signed(row, column):
    return (column - 32) / 200 + 0 * row


def fine(row, column):
    return column / WIDTH + 0 * row


def picture():
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float64)
    image = pixel(x, y)
    image[DARK[1] : DARK[3], DARK[0] : DARK[2]] = 20
    return image.round().astype(np.uint8)


def layers():
    """Make the maps: small ones whose cells are squares of 16 pixels, and one of as many pixels as the slide."""
    row, column = np.mgrid[: HEIGHT // CELL, : WIDTH // CELL]
    spot = np.zeros(row.shape)
    spot[SPOT] = 1
    fine_row, fine_column = np.mgrid[:HEIGHT, :WIDTH]
    values = {
        "classifier": (share(row, column), "share", CELL, (0, 1)),
        "classes": ((column // 16 + row // 16) % 5, "class", CELL, (0, 255)),
        "segmenter": (fine(fine_row, fine_column), "share", 1, (0, 1)),
        "classifier_gradcam": (signed(row, column), "signed", CELL, (-0.16, 0.16)),
        "classifier_hrcam": (spot, "signed", CELL, (-1, 1)),
    }
    titles = {"classifier_gradcam": "Grad-CAM", "classifier_hrcam": "HR-CAM"}
    return {
        key: array_raster(
            array.astype(np.uint8 if kind == "class" else np.float32), key=key, title=titles.get(key, key), kind=kind,
            network="segmenter" if key in {"classes", "segmenter"} else "classifier", cell=float(cell), limits=limits,
        )
        for key, (array, kind, cell, limits) in values.items()
    }  # fmt: skip


class Networks:
    """What answers: the score is where the tile lies; the map of a tile is its columns."""

    tasks = ("classifier", "segmenter")

    def __init__(self):
        self.questions = []

    def place(self, slide, x, y):
        del slide
        return Region(x=x // TILE * TILE, y=y // TILE * TILE, width=TILE, height=TILE)

    def explain(self, slide, tile, names=()):
        del slide
        self.questions.append(("explain", tile.x, tile.y, tuple(names)))
        values = np.tile(np.linspace(-1, 1, 8, dtype="<f4"), (8, 1))
        maps = [
            {
                "method": name, "title": name, "signed": True, "height": 8, "width": 8, "low": -1.0, "high": 1.0,
                "values": base64.b64encode(values.tobytes()).decode(),
            }
            for name in names or ("gradcam", "hrcam")
        ]  # fmt: skip
        methods = [
            {"name": name, "title": name, "quick": name != "occlusion"} for name in ("gradcam", "hrcam", "occlusion")
        ]
        answer = {"title": "network", "score": tile.x / WIDTH, "maps": maps, "methods": methods}
        return {
            "tile": {"x": tile.x, "y": tile.y, "side": tile.width}, "networks": dict.fromkeys(self.tasks, answer),
            "agreement": {each["method"]: 0.25 for each in maps}, "seconds": 0.0,
        }  # fmt: skip

    def what_if(self, slide, tile, brushed, by="tissue"):
        del slide
        self.questions.append(("what_if", tile.x, tile.y, tuple(brushed), by))
        return {"networks": {key: {"before": 0.75, "after": 0.125} for key in self.tasks}, "share": 0.1}

    def nearest(self, slide, tile):
        del slide, tile
        return [{"row": 3, "slide": "T7", "label": "tumor", "similarity": 0.5}]

    def picture(self, row):
        return np.full((32, 32, 3), 40 * row, np.uint8)


def session(folder):
    """Write a slide with maps, one without, and a file that is none."""
    one = write_tiff(folder / "one.tif", picture(), MPP)
    two = write_tiff(folder / "two.tif", np.full((300, 500, 3), 200, np.uint8), MPP)
    broken = folder / "broken.tif"
    broken.write_text("no slide")
    lines = write_outlines(
        folder / "one.geojson", outline("Tumor", box(600, 100, 900, 400)), outline("Non-tumor", box(50, 500, 400, 700))
    )
    counts = {"tiles": 48, "tumor_tiles": 12, "classifier_tumor": 12, "segmenter_tumor": 24}
    wrong = {"classifier_wrong": 0, "segmenter_wrong": 12, "disagree": 12}
    slides = [
        ViewedSlide(
            id=id_of("one"), name="one", path=one, annotations=lines,
            facts={"patient": "P1", "split": "test", "groups": {"site": "larynx"}} | counts | wrong,
        ),
        ViewedSlide(
            id=id_of("two"), name="two", path=two,
            facts={"patient": "P2", "split": "train", "groups": {"site": "tongue"}},
        ),
        ViewedSlide(id=id_of("broken"), name="broken", path=broken, facts={"patient": "P3", "split": "", "groups": {}}),
    ]  # fmt: skip
    shown = Session("formulas", slides)
    shown._rasters[id_of("one")] = layers()
    shown._rasters[id_of("two")] = {}
    return shown


@contextmanager
def served(shown, networks=None, port=0):
    """Serve a session on a port of this machine, a free one by default, and yield the page's address."""
    import uvicorn  # noqa: PLC0415 - an extra

    from vitrail.viewer.server import viewer_app  # noqa: PLC0415 - the same

    config = uvicorn.Config(
        viewer_app(shown, "token", networks), port=port, log_level="warning", lifespan="off", ws="none"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not (server.started and server.servers):
        thread.join(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield SimpleNamespace(address=f"http://127.0.0.1:{port}/token/", networks=networks)
    finally:
        server.should_exit = True
        thread.join()
