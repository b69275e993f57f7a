"""The next slides are copied to a local disk while this one is worked at, within a budget.

A slide is read in thousands of small pieces, which a network drive answers slowly; a copy is one long read.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vitrail.core.files import read_json, write_text
from vitrail.distribute.presence import Worker
from vitrail.errors import RunError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType
    from typing import Self

_NAME = "vitrail-slides-"
"""Begins the name of a folder with copies; the rest is the command's token."""

_CHUNK = 8 << 20
"""Bytes that are copied before it is looked whether they are still wanted."""

_LEFT = 256 << 20
"""Bytes of a disk that copies leave free."""

_OF_SEVERAL_FILES = {".mrxs", ".vms", ".vmu", ".dcm"}


@dataclass(slots=True, kw_only=True)
class _Copy:
    """A copy of a slide.

    Attributes
    ----------
    path
        Where it is.
    size
        Bytes.
    state
        How far it is.
    in_use
        Whether it is being read.
    """

    path: Path
    size: int
    state: Literal["begun", "whole", "failed"] = "begun"
    in_use: bool = False


class Staging:
    """Copies of the next slides; used with `with`, behind which nothing of them is left.

    What a killed command has left is removed by the next one on the same machine.

    Parameters
    ----------
    folder
        On a local disk; None takes the system's folder for temporary files.
    budget_bytes
        That all copies have together at most.
    say
        Told of slides that are read in place although they were to be copied.

    Raises
    ------
    SettingsError
        The folder cannot be written to.
    """

    def __init__(self, folder: Path | None, budget_bytes: float, say: Callable[[str], None]) -> None:
        worker = Worker.here()
        self._base = folder or Path(tempfile.gettempdir())
        self._folder, self._budget, self._say = self._base / f"{_NAME}{worker.token}", budget_bytes, say
        self._worker = worker
        self._wanted: list[Path] = []
        self._copies: dict[Path, _Copy] = {}
        self._count, self._is_ending = 0, False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._copy_all, name="staging", daemon=True)

    def __enter__(self) -> Self:
        """Make the folder, and remove those of commands that were killed."""
        try:
            for stale in self._base.glob(f"{_NAME}*"):
                with suppress(RunError, TypeError):
                    if Worker(**read_json(stale / "worker.json")).lives() is False:
                        shutil.rmtree(stale, ignore_errors=True)
            self._folder.mkdir(parents=True)
            write_text(self._folder / "worker.json", json.dumps(asdict(self._worker)))
        except OSError as error:
            problem = f"cannot be written to ({error.strerror or error})"
            raise SettingsError(self._base, problem, "Name another compute.stage_folder") from error
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End what is being copied, and remove all."""
        with self._changed:
            self._is_ending = True
            self._changed.notify_all()
        self._thread.join()
        shutil.rmtree(self._folder, ignore_errors=True)

    def soon(self, now: Path, following: Sequence[Path]) -> None:
        """Copy slides as far as the budget goes; copies of others are removed.

        Parameters
        ----------
        now
            The slide that is read next: its copy stays, and goes on if it has been begun.
        following
            Those behind it, in their order.
        """
        wanted = ([now] if now in self._copies else []) + [*following]
        with self._changed:
            self._wanted = [path for path in wanted if path.suffix.lower() not in _OF_SEVERAL_FILES]
            for path in [path for path, copy in self._copies.items() if path not in wanted and not copy.in_use]:
                if self._copies[path].state != "begun":  # the thread sees that it is not wanted
                    self._remove(path)
            self._changed.notify_all()

    @contextmanager
    def reading(self, slide: Path) -> Iterator[Path]:
        """Give the path to read a slide from; its copy is waited for where it has been begun, and removed behind.

        Parameters
        ----------
        slide
            The slide.

        Yields
        ------
        Path
            Of the copy, or the slide itself where there is none.
        """
        with self._changed:
            copy = self._copies.get(slide)
            if copy is not None:
                copy.in_use = True
                self._changed.wait_for(lambda: copy.state != "begun")
            self._wanted = [path for path in self._wanted if path != slide]
        try:
            yield copy.path if copy is not None and copy.state == "whole" else slide
        finally:
            if copy is not None:
                with self._changed:
                    self._remove(slide)
                    self._changed.notify_all()

    def _remove(self, slide: Path) -> None:
        copy = self._copies.pop(slide)
        shutil.rmtree(copy.path.parent, ignore_errors=True)

    def _copy_all(self) -> None:
        """Copy what is wanted, one after the other, until the end."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_ending or self._next() is not None)
                slide = self._next()
                if self._is_ending or slide is None:
                    return
                self._count += 1
                copy = _Copy(path=self._folder / str(self._count) / slide.name, size=_size(slide))
                self._copies[slide] = copy
            is_near = not _is_elsewhere(slide, self._folder)
            reason = "" if is_near else self._copy(slide, copy)
            with self._changed:
                if is_near or reason:
                    copy.state, copy.size = "failed", 0
                    shutil.rmtree(copy.path.parent, ignore_errors=True)
                else:
                    copy.state = "whole"
                is_wanted = copy.in_use or slide in self._wanted
                if not is_wanted:
                    self._remove(slide)
                self._changed.notify_all()
            if reason and is_wanted and not self._is_ending:
                self._say(f"{slide.name}: read in place, since it could not be copied ({reason})")

    def _next(self) -> Path | None:
        """Return the next slide to copy, if the budget has room for it."""
        taken = sum(copy.size for copy in self._copies.values())
        slide = next((path for path in self._wanted if path not in self._copies), None)
        if slide is None:
            return None
        size = _size(slide)
        return slide if size > self._budget or taken + size <= self._budget else None

    def _copy(self, slide: Path, copy: _Copy) -> str:
        """Copy a slide; return why that did not succeed, if so."""
        try:
            if copy.size > self._budget:
                return f"it has {copy.size / 1e9:.1f} GB, more than compute.stage_gb"
            if shutil.disk_usage(self._folder).free < copy.size + _LEFT:
                return f"no room in {self._base}"
            copy.path.parent.mkdir()
            with slide.open("rb") as source, copy.path.open("wb") as target:
                while chunk := source.read(_CHUNK):
                    if self._is_ending or not (copy.in_use or slide in self._wanted):
                        return "no longer wanted"
                    target.write(chunk)
                if target.tell() != copy.size:
                    return "it changed meanwhile"
        except OSError as error:
            return error.strerror or str(error)
        return ""


def _size(slide: Path) -> int:
    """Return a file's bytes; 0 where it cannot be looked at, which whoever reads it says."""
    try:
        return slide.stat().st_size
    except OSError:
        return 0


def _is_elsewhere(slide: Path, folder: Path) -> bool:
    """Tell whether a slide lies on another file system than a folder: else a copy is no nearer."""
    try:
        return slide.stat().st_dev != folder.stat().st_dev
    except OSError:
        return False
