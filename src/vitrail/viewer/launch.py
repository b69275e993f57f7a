"""The viewer's server: on loopback alone, at a port and behind a token that nobody can guess."""

from __future__ import annotations

import secrets
import socket
import threading
import webbrowser
from contextlib import suppress
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

from vitrail.errors import SettingsError, VitrailError
from vitrail.explain.study.store import split_key
from vitrail.review.judgements import Judgements
from vitrail.review.queue import QueueSpec, open_queue, read_queue
from vitrail.stage import open_run
from vitrail.viewer.session import session_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import uvicorn

    from vitrail.review.queue import Order, Question
    from vitrail.viewer.asking import Networks
    from vitrail.viewer.session import Session

LOOPBACK = "127.0.0.1"

LIBRARY = ("static", "vendor", "openseadragon", "openseadragon.min.js")
"""What the page cannot do without, fetched when Vitrail is built."""

_PATIENCE_S = 2
"""How long answers may take that are under way when the viewer ends."""

INSTALL = "Install it with: pip install 'vitrail[viewer]'"


def view(
    paths: Sequence[Path],
    *,
    maps: Path | None = None,
    mpp: float | None = None,
    port: int = 0,
    browser: bool = True,
    say: Callable[[str], None] = print,
) -> None:
    """Serve slides until Ctrl-C.

    Parameters
    ----------
    paths
        A run, a folder of slides, or slides.
    maps
        Where `vitrail predict --out` has put their maps; None looks beside the slides.
    mpp
        um per level-0 pixel of slides whose header lacks it.
    port
        0 takes a free one.
    browser
        Whether to open the page.
    say
        Is told the address.

    Raises
    ------
    VitrailError
        See `session_of` and `serve`.
    """
    serve(session_of(paths, maps, mpp), port=port, browser=browser, say=say)


def review(  # noqa: PLR0913 - the options of the command
    run: Path,
    by: Order,
    name: str,
    cases: int,
    *,
    about: str | None = None,
    split: str = "",
    port: int = 0,
    browser: bool = True,
    say: Callable[[str], None] = print,
) -> None:
    """Serve a queue of cases to raters until Ctrl-C.

    Parameters
    ----------
    run
        The run folder.
    by, name, cases, split
        Of the queue, see `open_queue`.
    about
        The map that is asked about, `<network>_<method>`; None asks for the tile's class.
    port, browser, say
        As of `view`.

    Raises
    ------
    VitrailError
        See `open_queue` and `serve`.
    """
    run = open_run(run).folder
    network, method = split_key(about) if about else ("", "")
    question: Question = "explanation" if about else "class"
    seed = open_run(run).settings.seed
    spec = QueueSpec(by=by, question=question, network=network, method=method, cases=cases, split=split, seed=seed)
    queue = open_queue(run, name, spec)
    say(f"{len(queue)} cases in {queue.folder}")
    serve(session_of([run]), port=port, browser=browser, say=say, place=f"#review={name}")


def export_queue(run: Path, name: str, folder: Path) -> tuple[Path, Path]:
    """Write what raters said in a queue; see `Judgements.export`.

    Raises
    ------
    RunError
        There is no such queue, or it is damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return Judgements(read_queue(open_run(run).folder / "review" / name)).export(folder)


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A session at an address, whose server is ready to run.

    Attributes
    ----------
    address
        Of the page; it holds the token.
    server
        Serves once it runs, with `socket`.
    socket
        Listens already: who comes before the server runs waits, and is not refused.
    """

    address: str
    server: uvicorn.Server
    socket: socket.socket


def serve(
    session: Session,
    *,
    port: int = 0,
    browser: bool = True,
    say: Callable[[str], None] = print,
    place: str = "",
) -> None:
    """Serve a session until Ctrl-C.

    Parameters
    ----------
    session
        What is shown.
    port, browser, say
        As of `view`.
    place
        Of the page, where it opens.

    Raises
    ------
    SettingsError
        As of `prepare`.
    """
    served = prepare(session, port=port, place=place)
    say(f"{len(session.slides)} slides at {served.address}")
    say("Ctrl-C ends it.")
    if browser:
        threading.Timer(0.5, webbrowser.open, (served.address,)).start()
    with served.socket:
        served.server.run(sockets=[served.socket])


def prepare(session: Session, *, port: int = 0, place: str = "", framed: bool = False) -> Served:
    """Open a port of loopback for a session, behind a new token.

    Parameters
    ----------
    session
        What is shown.
    port
        0 takes a free one.
    place
        Of the page, where it opens.
    framed
        Whether pages of this machine may show the page within them, as notebooks do.

    Returns
    -------
    Served
        Whose server the caller runs.

    Raises
    ------
    SettingsError
        What the viewer needs is not installed or was not fetched, or the port is taken.
    """
    try:
        import uvicorn  # noqa: PLC0415 - an extra

        from vitrail.viewer.server import viewer_app  # noqa: PLC0415 - the same
    except ImportError as error:
        raise SettingsError("vitrail view", f"{error.name} is not installed", INSTALL) from None
    from vitrail.viewer.asking import Networks  # noqa: PLC0415 - torch takes seconds

    if not resources.files("vitrail.viewer").joinpath(*LIBRARY).is_file():
        raise SettingsError("vitrail view", f"{'/'.join(LIBRARY)} is missing", "Fetch it with: make viewer")
    networks = None
    if session.run is not None:
        asked = Networks(session.run, session.settings)
        networks = asked if asked.tasks else None
    token = secrets.token_urlsafe(24)
    # asyncio sends at once (TCP_NODELAY) only where the protocol is named; else each answer waits 40 ms for an ACK
    opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((LOOPBACK, port))
        opened.listen(128)  # who comes before the server runs waits, and is not refused
    except OSError as error:
        opened.close()
        raise SettingsError("--port", f"{port} cannot be used ({error.strerror})", "Name another, or none") from None
    address = f"http://{LOOPBACK}:{opened.getsockname()[1]}/{token}/{place}"
    app = viewer_app(session, token, networks, framed=framed)
    # no access log: addresses hold the token
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, ws="none", lifespan="off",
        timeout_graceful_shutdown=_PATIENCE_S,
    )  # fmt: skip
    if networks is not None:
        threading.Thread(target=_warm_up, args=(networks,), daemon=True).start()
    return Served(address=address, server=uvicorn.Server(config), socket=opened)


def _warm_up(networks: Networks) -> None:
    with suppress(VitrailError):  # it is said to whoever asks
        networks.warm_up()
