"""A finished run to look at, and a browser's requests without a browser."""

from __future__ import annotations

import asyncio
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from vitrail.settings.load import change_settings

ARCHIVE = Path(__file__).parents[1] / "fixtures" / "run-2026-11.tar.xz"
TOKEN = "a-token-of-the-tests"  # noqa: S105 - it opens nothing
HOST = "127.0.0.1:8000"


def unpack_run(folder):
    """Return the run folder of the archive: five slides, one of them mapped and explained as a whole."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder / "study" / "run"


def unpack_one_class_run(folder):
    """Return the same run as if only tumor had been outlined: all other tissue is non-tumor, and no outline says so."""
    run = unpack_run(folder)
    change_settings(run / "study.toml", ["annotations.unlabelled_tissue=non_tumor"])
    for path in (run.parent / "cohort").glob("*.geojson"):
        content = json.loads(path.read_text())
        outlines = [each for each in content["features"] if each["properties"]["classification"]["name"] == "Tumor"]
        path.write_text(json.dumps(content | {"features": outlines}))
    for table in ("tiles", "predictions"):
        rows = pd.read_parquet(run / table / "tiles.parquet")
        rows.assign(unlabelled=rows["label"] == "non_tumor").to_parquet(run / table / "tiles.parquet")
    return run


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def json(self):
        return json.loads(self.content)


def request(app, path, *, method="GET", body=b"", headers=(), raw=None, query=b""):
    """Send an application one request, as a server would."""
    sent, chunks = {}, []
    given = {"host": HOST} | dict(headers)
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
        "path": path, "raw_path": raw or path.encode(), "query_string": query, "root_path": "",
        "headers": [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in given.items()],
        "client": ("127.0.0.1", 50000), "server": ("127.0.0.1", 8000),
    }  # fmt: skip

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message):
        if message["type"] == "http.response.start":
            sent["status"] = message["status"]
            sent["headers"] = {name.decode().lower(): value.decode() for name, value in message["headers"]}
        else:
            chunks.append(message.get("body", b""))

    asyncio.run(app(scope, receive, send))
    return Answer(status=sent["status"], headers=sent["headers"], content=b"".join(chunks))
