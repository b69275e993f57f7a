"""The viewer from Python and in notebooks: served in a thread, until it is closed or Python ends."""

from __future__ import annotations

import atexit
import threading
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from vitrail.errors import SettingsError
from vitrail.slides.slide import Slide
from vitrail.stage import Run
from vitrail.viewer.launch import prepare
from vitrail.viewer.session import Session, id_of, session_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Self

HEIGHT_PX = 560
"""Of the viewer within a notebook."""

_CLOSING_S = 5.0


class View:
    """The viewer, open on this machine alone; `view` opens one.

    It is a context manager, too. What is not closed is closed when Python ends.

    Parameters
    ----------
    session
        What is shown.
    port
        0 takes a free one.
    place
        Of the page, where it opens.
    height_px
        How high a notebook shows it.

    Attributes
    ----------
    address
        Of the page, on 127.0.0.1. It holds a token that nobody can guess: whoever has it on this machine sees the
        slides, for as long as the view is open.

    Raises
    ------
    SettingsError
        What the viewer needs is not installed or was not fetched, or the port is taken.
    """

    def __init__(self, session: Session, *, port: int = 0, place: str = "", height_px: int = HEIGHT_PX) -> None:
        self._served = prepare(session, port=port, place=place, framed=True)
        self.address, self._height_px, self._slides = self._served.address, height_px, len(session.slides)
        # a thread has an event loop of its own, so that it does not matter whether a notebook's loop runs in this one
        self._thread = threading.Thread(target=self._run, name="vitrail view", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def _run(self) -> None:
        with self._served.socket:
            self._served.server.run(sockets=[self._served.socket])

    @property
    def is_open(self) -> bool:
        """Whether the page can be reached."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Stop serving; to close what is closed does nothing."""
        self._served.server.should_exit = True
        self._thread.join(_CLOSING_S)
        atexit.unregister(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        slides = "1 slide" if self._slides == 1 else f"{self._slides} slides"
        return f"<View of {slides} at {self.address}>" if self.is_open else f"<View of {slides}, closed>"

    def _repr_html_(self) -> str:
        """Return a link, and the viewer itself."""
        if not self.is_open:
            return f"<div>{escape(repr(self))}</div>"
        address = escape(self.address, quote=True)
        return (
            f'<div class="vitrail-view"><a href="{address}" target="_blank" rel="noreferrer">Open the viewer</a>'
            '<span style="opacity:0.65"> (on this machine only, until it is closed)</span>'
            f'<iframe src="{address}" title="Vitrail viewer" style="width:100%;height:{self._height_px}px;border:0;'
            'display:block;margin-top:4px" allowfullscreen></iframe></div>'
        )


def view(
    shown: str | Path | Slide | Run | Iterable[str | Path | Slide],
    *,
    maps: str | Path | None = None,
    slide: str | None = None,
    port: int = 0,
    height_px: int = HEIGHT_PX,
) -> View:
    """Open the viewer on slides or a study, in a notebook or from any program.

    The server listens on 127.0.0.1 alone, behind a token. Where Python runs on another machine than the browser, bring
    its port over, as with `ssh -L 8000:127.0.0.1:8000 MACHINE` and `port=8000`.

    Parameters
    ----------
    shown
        A `Study` or its folder, a `Slide`, the file of one, several of them, or a folder of slides.
    maps
        The folder that `predict_slides` wrote for the slides; None looks beside them.
    slide
        Which of the slides is open at first, by its name; None shows all of them, small.
    port
        0 takes a free one.
    height_px
        How high a notebook shows it.

    Returns
    -------
    View
        Its `address`; a notebook shows a link and the viewer itself. Close it with `close()` or use it in a `with`.

    Raises
    ------
    SettingsError
        What the viewer needs is not installed or was not fetched, the port is taken, or there is no such slide.
    RunError, CohortError, SlideError
        What is to be shown cannot be read.
    """
    if isinstance(shown, Run):
        shown = shown.folder
    items = [shown] if isinstance(shown, str | Path | Slide) else list(shown)
    opened = {id_of(item.path.stem): item for item in items if isinstance(item, Slide)}
    paths = [item.path if isinstance(item, Slide) else Path(item) for item in items]
    session = session_of(paths, None if maps is None else Path(maps))
    for name, viewed in session.slides.items():
        if name in opened:  # as it was opened, whatever its header says
            session.slides[name] = replace(viewed, mpp=opened[name].mpp)
    if slide is not None and id_of(slide) not in session.slides:
        names = ", ".join(each.name for each in list(session.slides.values())[:5])
        raise SettingsError("slide", f"there is no slide {slide!r} to be shown", f"There are {names}")
    first = id_of(slide) if slide else next(iter(session.slides)) if len(session.slides) == 1 else None
    return View(session, port=port, place=f"#slide={first}" if first else "", height_px=height_px)
