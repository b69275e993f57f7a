"""The viewer's addresses. Everything lies behind a token, and nothing is reached by a path of this computer.

/TOKEN/                                            the page
/TOKEN/static/NAME                                 what it is made of
/TOKEN/report/NAME                                 the run's report, whose slides and tiles lead into the viewer
/TOKEN/api/session                                 title, classes, networks, slides
/TOKEN/api/slides/ID                               a slide and its maps
/TOKEN/api/slides/ID/outlines                      its outlines, GeoJSON; POST features: a further version
/TOKEN/api/slides/ID/combine      POST             an outline with what was drawn added to it or taken away
/TOKEN/api/slides/ID/region?x=&y=                  the connected region of the map of classes at this place
/TOKEN/api/slides/ID/explain      POST x, y        why the networks say so, at this place
/TOKEN/api/slides/ID/what_if      POST x, y, discs the scores without what was brushed away
/TOKEN/api/slides/ID/nearest?x=&y=                 the training tiles that are most alike
/TOKEN/api/review                                  the queues of raters
/TOKEN/api/review/QUEUE/next?rater=                the case that a rater judges next
/TOKEN/api/review/QUEUE/judge     POST             what a rater says of a case
/TOKEN/api/review/QUEUE/undo      POST rater       taking the last one back
/TOKEN/api/review/QUEUE/results                    what all raters said, in numbers
/TOKEN/slide/ID/LEVEL/COLUMN_ROW.jpg               a square of a slide
/TOKEN/map/ID/KEY/LEVEL/COLUMN_ROW.bin             a square of a map, raw numbers
/TOKEN/thumbnail/ID.jpg, /TOKEN/tile/ROW.jpg       small pictures
"""

from __future__ import annotations

import json
import math
import mimetypes
import re
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from shapely.geometry import mapping
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.routing import Route

from vitrail.classes import NETWORK_COLOURS, NETWORKS
from vitrail.errors import VitrailError
from vitrail.slides.slide import read_thumbnail
from vitrail.viewer.drawing import combine, drawn_shape, polygons_of, region_at
from vitrail.viewer.pyramid import encode, slide_sizes, slide_square
from vitrail.viewer.reviewing import Reviews
from vitrail.viewer.session import describe, map_classes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from vitrail.geometry import Region
    from vitrail.slides.slide import Slide
    from vitrail.viewer.asking import Networks
    from vitrail.viewer.session import Session, ViewedSlide

SQUARES = 2048
"""Squares of slides that are kept in memory: about 60 MB."""

THUMBNAIL_PX = 360

MOST_BODY = 1 << 16
"""Bytes of a question: a few thousand brushed discs."""

MOST_OUTLINES = 1 << 24
"""Bytes of a slide's outlines: half a million corners."""

MOST_DISCS = 1000

_STATIC = re.compile(r"(?:[a-z0-9_-]+/){0,3}[A-Za-z0-9_-][A-Za-z0-9._-]*")

_REPORT = re.compile(r"index\.html|metrics\.json|(?:figures|tables|qupath)/[A-Za-z0-9_-][A-Za-z0-9._-]*")
"""Files of a report that are served."""

_POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; style-src 'self' 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors {frames}"
)
"""The content security policy of every answer."""

_HEADERS = {
    "Referrer-Policy": "no-referrer",  # the address holds the token
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_NOTEBOOKS = (
    "http://localhost:* http://127.0.0.1:* https://localhost:* https://127.0.0.1:* vscode-webview: vscode-file:"
)
"""Who may show a page within a page of their own that was opened for a notebook: what runs on this machine."""

_LASTING, _FRESH = "private, max-age=86400", "no-store"


class _Guard:
    """Lets only those in who name this server and know the token; and tells no other page anything.

    `Host` is checked because a page elsewhere can point a name of its own at this computer (DNS rebinding).
    """

    def __init__(self, app: ASGIApp, token: str, hosts: frozenset[str], *, framed: bool) -> None:
        self.app, self.token, self.hosts = app, token, hosts
        self.policy = _POLICY.format(frames=_NOTEBOOKS if framed else "'none'").encode("ascii")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # the server speaks nothing else
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        send = self._with_policy(send)
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1").rpartition(":")[0].lower()
        origin = headers.get(b"origin", b"").decode("latin-1")
        own = f"//{headers.get(b'host', b'').decode('latin-1')}"
        if host not in self.hosts or (origin and not origin.endswith(own)):
            await _plain(403, "Open the address that vitrail view has printed.")(scope, receive, send)
        elif not scope["path"].startswith(f"/{self.token}/"):
            await _plain(404, "Open the address that vitrail view has printed.")(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _with_policy(self, send: Send) -> Send:
        """Give every answer the content security policy."""

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], (b"content-security-policy", self.policy)]}
            await send(message)

        return guarded


def viewer_app(
    session: Session,
    token: str,
    networks: Networks | None = None,
    hosts: Sequence[str] = ("127.0.0.1", "localhost"),
    *,
    framed: bool = False,
) -> ASGIApp:
    """Make the application that serves a session.

    Parameters
    ----------
    session
        What is shown.
    token
        What every address begins with; whoever knows it sees the slides.
    networks
        What answers questions about tiles; None where no network is trained.
    hosts
        Names under which this server may be addressed.
    framed
        Whether notebooks of this machine may show its page within theirs.

    Returns
    -------
    ASGIApp
        For uvicorn.
    """
    api = _Api(session, networks)
    routes = [
        Route("/", api.page),
        Route("/static/{name:path}", api.static),
        Route("/report/{name:path}", api.report),
        Route("/api/session", api.session),
        Route("/api/slides/{slide}", api.slide),
        Route("/api/slides/{slide}/outlines", api.outlines),
        Route("/api/slides/{slide}/outlines", api.correct, methods=["POST"]),
        Route("/api/slides/{slide}/combine", api.combine, methods=["POST"]),
        Route("/api/slides/{slide}/region", api.region),
        Route("/api/slides/{slide}/explain", api.explain, methods=["POST"]),
        Route("/api/slides/{slide}/what_if", api.what_if, methods=["POST"]),
        Route("/api/slides/{slide}/nearest", api.nearest),
        Route("/api/review", api.queues),
        Route("/api/review/{queue}/next", api.next_case),
        Route("/api/review/{queue}/judge", api.judge, methods=["POST"]),
        Route("/api/review/{queue}/undo", api.undo, methods=["POST"]),
        Route("/api/review/{queue}/results", api.results),
        Route("/slide/{slide}/{level:int}/{column:int}_{row:int}.jpg", api.square),
        Route("/map/{slide}/{key}/{level:int}/{column:int}_{row:int}.bin", api.map_square),
        Route("/thumbnail/{slide}.jpg", api.thumbnail),
        Route("/tile/{row:int}.jpg", api.tile),
    ]
    inner = Starlette(
        routes=[Route(f"/{token}{route.path}", route.endpoint, methods=route.methods) for route in routes]
    )
    inner.router.redirect_slashes = False  # an address is right or leads nowhere
    return _Guard(inner, token, frozenset(hosts), framed=framed)


def _plain(status: int, text: str) -> Response:
    return Response(text, status, _HEADERS | {"Cache-Control": _FRESH}, "text/plain; charset=utf-8")


def _json(values: Any, status: int = 200) -> Response:
    content = json.dumps(_finite(values), allow_nan=False, separators=(",", ":"))
    return Response(content, status, _HEADERS | {"Cache-Control": _FRESH}, "application/json")


def _finite(values: Any) -> Any:
    """Return JSON's values with null for what is no number."""
    if isinstance(values, dict):
        return {str(key): _finite(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_finite(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values


def _answers(
    method: Callable[[_Api, Request], Awaitable[Response]],
) -> Callable[[_Api, Request], Awaitable[Response]]:
    """Turn what a user can cause into an answer: 404 for what is not there, 422 with the one line for the rest."""

    async def answer(api: _Api, request: Request) -> Response:
        try:
            return await method(api, request)
        except LookupError:
            return _json({"error": "there is no such thing in this session"}, 404)
        except (VitrailError, OSError) as error:
            return _json({"error": str(error)}, 422)
        except ValueError as error:
            return _json({"error": f"not understood: {error}"}, 400)

    return answer


class _Api:
    def __init__(self, session: Session, networks: Networks | None) -> None:
        self.shown, self.networks, self.reviews = session, networks, Reviews(session)
        # what lru_cache keeps goes with this object
        self._square = lru_cache(SQUARES)(self._read_square)
        self._small = lru_cache(SQUARES)(self._read_thumbnail)

    @_answers
    async def page(self, _request: Request) -> Response:
        return await run_in_threadpool(_resource, "index.html")

    @_answers
    async def static(self, request: Request) -> Response:
        return await run_in_threadpool(_resource, request.path_params["name"])

    @_answers
    async def report(self, request: Request) -> Response:
        return await run_in_threadpool(self._report, request.path_params["name"])

    @_answers
    async def session(self, _request: Request) -> Response:
        shown = self.shown
        tasks = [] if self.networks is None else self.networks.tasks
        return _json({
            "title": shown.title,
            "run": shown.run is not None,
            "report": shown.run is not None and (shown.run / "report" / "index.html").is_file(),
            "classes": map_classes(),
            "threshold": shown.settings.evaluation.threshold,
            "networks": {task: {"title": NETWORKS[task], "colour": NETWORK_COLOURS[task]} for task in tasks},
            "slides": [{"id": each.id, "name": each.name, **shown.summary(each)} for each in shown.slides.values()],
        })  # fmt: skip

    @_answers
    async def slide(self, request: Request) -> Response:
        slide = self._slide(request)
        return _json(await run_in_threadpool(describe, slide, self.shown))

    @_answers
    async def outlines(self, request: Request) -> Response:
        features = await run_in_threadpool(self.shown.outlines, self._slide(request).id)
        return _json({"type": "FeatureCollection", "features": features})

    @_answers
    async def correct(self, request: Request) -> Response:
        features = (await _question(request, MOST_OUTLINES)).get("features")
        if not isinstance(features, list):
            raise ValueError("features are a list")  # noqa: TRY004 - all that is wrong is one kind of answer
        version = await run_in_threadpool(self.shown.correct, self._slide(request).id, features)
        return _json({"version": version})

    @_answers
    async def combine(self, request: Request) -> Response:
        values, slide = await _question(request, MOST_OUTLINES), self._slide(request)
        outline, drawn, by = polygons_of(values.get("outline")), values.get("drawn"), values.get("by", "add")
        if isinstance(drawn, dict):
            shape = polygons_of(drawn)
        elif isinstance(drawn, list) and all(isinstance(each, list) and len(each) == 2 for each in drawn):
            points = [(_number({"x": x}, "x"), _number({"y": y}, "y")) for x, y in drawn]
            size = slide_sizes(slide.open())[0]
            shape = await run_in_threadpool(drawn_shape, points, _number(values, "radius"), size)
        else:
            raise ValueError("what is drawn is a list of x and y, or a geometry")
        return _json({"geometry": mapping(await run_in_threadpool(combine, outline, shape, by))})

    @_answers
    async def region(self, request: Request) -> Response:
        slide = self._slide(request)
        x, y = (_number(dict(request.query_params), name) for name in ("x", "y"))

        def read() -> Any:
            return mapping(region_at(self.shown.rasters(slide.id)["classes"], x, y))

        return _json({"geometry": await run_in_threadpool(read)})

    @_answers
    async def explain(self, request: Request) -> Response:
        values = await _question(request)
        names = values.get("methods", [])
        if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise ValueError("methods are a list of names")
        x, y = _number(values, "x"), _number(values, "y")

        def ask(networks: Networks, slide: Slide, tile: Region) -> dict[str, Any]:
            return networks.explain(slide, tile, names)

        return _json(await run_in_threadpool(self._at, self._slide(request), x, y, ask))

    @_answers
    async def what_if(self, request: Request) -> Response:
        values = await _question(request)
        discs = values.get("discs")
        if not (isinstance(discs, list) and len(discs) <= MOST_DISCS):
            raise ValueError(f"discs are a list of at most {MOST_DISCS}")
        brushed = [(_number(disc, "x"), _number(disc, "y"), _number(disc, "r")) for disc in discs]
        by = values.get("by", "tissue")
        if by not in {"tissue", "blur"}:
            raise ValueError("by is tissue or blur")
        x, y = _number(values, "x"), _number(values, "y")

        def ask(networks: Networks, slide: Slide, tile: Region) -> dict[str, Any]:
            return networks.what_if(slide, tile, brushed, by)

        return _json(await run_in_threadpool(self._at, self._slide(request), x, y, ask))

    @_answers
    async def nearest(self, request: Request) -> Response:
        x, y = (_number(dict(request.query_params), name) for name in ("x", "y"))

        def ask(networks: Networks, slide: Slide, tile: Region) -> list[dict[str, Any]]:
            return networks.nearest(slide, tile)

        return _json({"tiles": await run_in_threadpool(self._at, self._slide(request), x, y, ask)})

    @_answers
    async def queues(self, _request: Request) -> Response:
        return _json({"queues": await run_in_threadpool(self.reviews.describe)})

    @_answers
    async def next_case(self, request: Request) -> Response:
        rater = request.query_params.get("rater", "")
        return _json(await run_in_threadpool(self.reviews.next_case, request.path_params["queue"], rater))

    @_answers
    async def judge(self, request: Request) -> Response:
        values = await _question(request)
        return _json(await run_in_threadpool(self.reviews.judge, request.path_params["queue"], values))

    @_answers
    async def undo(self, request: Request) -> Response:
        rater = str((await _question(request)).get("rater", ""))
        return _json(await run_in_threadpool(self.reviews.undo, request.path_params["queue"], rater))

    @_answers
    async def results(self, request: Request) -> Response:
        return _json(await run_in_threadpool(self.reviews.results, request.path_params["queue"]))

    @_answers
    async def square(self, request: Request) -> Response:
        slide, at = self._slide(request), _place(request)
        content = await run_in_threadpool(self._square, slide.id, *at)
        return Response(content, 200, _HEADERS | {"Cache-Control": _LASTING}, "image/jpeg")

    @_answers
    async def map_square(self, request: Request) -> Response:
        slide, at = self._slide(request), _place(request)

        def read() -> bytes:
            return self.shown.rasters(slide.id)[request.path_params["key"]].square(*at)

        content = await run_in_threadpool(read)
        return Response(content, 200, _HEADERS | {"Cache-Control": _LASTING}, "application/octet-stream")

    @_answers
    async def thumbnail(self, request: Request) -> Response:
        content = await run_in_threadpool(self._small, self._slide(request).id)
        return Response(content, 200, _HEADERS | {"Cache-Control": _LASTING}, "image/jpeg")

    @_answers
    async def tile(self, request: Request) -> Response:
        if self.networks is None:
            raise LookupError("no run")
        content = encode(await run_in_threadpool(self.networks.picture, request.path_params["row"]))
        return Response(content, 200, _HEADERS | {"Cache-Control": _LASTING}, "image/jpeg")

    def _slide(self, request: Request) -> ViewedSlide:
        return self.shown.slide(request.path_params["slide"])

    def _at(self, slide: ViewedSlide, x: float, y: float, ask: Callable[[Networks, Slide, Region], Any]) -> Any:
        """Ask the networks about the tile that a point of a slide lies in."""
        if self.networks is None:
            raise LookupError("no network")
        opened = slide.open()
        return ask(self.networks, opened, self.networks.place(opened, x, y))

    def _report(self, name: str) -> Response:
        """Return a file of the run's report; the page gets a script that turns names of slides into links."""
        if self.shown.run is None or not _REPORT.fullmatch(name):
            raise LookupError(name)
        folder = (self.shown.run / "report").resolve()
        file = (folder / name).resolve()
        if not (file.is_relative_to(folder) and file.is_file()):
            raise LookupError(name)
        content = file.read_bytes()
        if name == "index.html":
            content += b'<script type="module" src="../static/report.js"></script>\n'
        return Response(content, 200, _HEADERS | {"Cache-Control": _FRESH}, _media_type(name))

    def _read_square(self, slide_id: str, level: int, column: int, row: int) -> bytes:
        return slide_square(self.shown.slide(slide_id).open(), level, column, row)

    def _read_thumbnail(self, slide_id: str) -> bytes:
        return encode(read_thumbnail(self.shown.slide(slide_id).open(), THUMBNAIL_PX))


def _resource(name: str) -> Response:
    """Return a file of the page; names that lead elsewhere are none of it."""
    if not _STATIC.fullmatch(name) or ".." in name:
        raise LookupError(name)
    file = resources.files("vitrail.viewer").joinpath("static", *name.split("/"))
    if not file.is_file():
        raise LookupError(name)
    return Response(file.read_bytes(), 200, _HEADERS | {"Cache-Control": "no-cache"}, _media_type(name))


_TYPES = mimetypes.MimeTypes()
"""Python's own: Windows' registry has other types for style sheets where a program has set them."""


def _media_type(name: str) -> str:
    kind = "text/javascript" if name.endswith((".js", ".mjs")) else _TYPES.guess_type(name)[0]
    text = kind is not None and (kind.startswith("text/") or kind.endswith(("json", "xml")))
    return f"{kind}; charset=utf-8" if text else kind or "application/octet-stream"


def _place(request: Request) -> tuple[int, int, int]:
    level, column, row = (request.path_params[name] for name in ("level", "column", "row"))
    return level, column, row


async def _question(request: Request, most: int = MOST_BODY) -> dict[str, Any]:
    """Read the JSON of a question.

    Raises
    ------
    ValueError
        It is none, or too long.
    """
    content = b""
    async for part in request.stream():
        content += part
        if len(content) > most:
            raise ValueError("too long")
    try:
        values = json.loads(content)
    except RecursionError:
        raise ValueError("lists within lists, too deep") from None
    if not isinstance(values, dict):
        raise ValueError("no object")  # noqa: TRY004 - all that is wrong with a question is one kind of answer
    return values


def _number(values: Any, name: str) -> float:
    """Return a finite number of a question.

    Raises
    ------
    ValueError
        It is missing, or none.
    """
    try:
        value = float(values[name])
    except (KeyError, TypeError, OverflowError):
        raise ValueError(f"{name} is missing, or no number") from None
    if not math.isfinite(value):
        raise ValueError(f"{name} is not finite")
    return value
