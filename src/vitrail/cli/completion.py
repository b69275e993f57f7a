"""What the shell is offered when a user presses Tab: runs, models, settings. It is quick, and never fails."""

from __future__ import annotations

import os
from contextlib import suppress
from textwrap import shorten
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROUND = str.maketrans("[]", "()")
"""Of brackets: rich would take the others for markup."""

_WIDTH = 60
"""Most letters of a description."""

_MOST = 500
"""Folders that are looked at; a larger folder is no place to choose from."""


def complete_run(incomplete: str) -> list[tuple[str, str]]:
    """Offer run folders, and folders on the way to some.

    Parameters
    ----------
    incomplete
        What is typed so far.

    Returns
    -------
    list[tuple[str, str]]
        Paths as they would go on, each with what it is.
    """
    return _folders(incomplete, "study.toml", "a run")


def complete_model(incomplete: str) -> list[tuple[str, str]]:
    """Offer model folders, and folders on the way to some; parameters and result as of `complete_run`."""
    return _folders(incomplete, "model.json", "a model")


def complete_slide(incomplete: str) -> list[tuple[str, str]]:
    """Offer run folders, other folders and files; parameters and result as of `complete_run`."""
    typed, start = os.path.split(incomplete)
    names = sorted(name for name in _entries(typed or ".", folders=False) if name.startswith(start))
    return [*complete_run(incomplete), *((os.path.join(typed, name), "a file") for name in names)]  # noqa: PTH118 - as below


def complete_setting(incomplete: str) -> list[tuple[str, str]]:
    """Offer settings as `group.key=`, each with what it means; parameters and result as of `complete_run`."""
    from vitrail.settings.load import described_settings

    texts = {key: text for key, text in described_settings().items() if key.startswith(incomplete)}
    # on one line: typer has rich fold longer ones, and a shell takes the second line for another word
    return [(f"{key}=", shorten(text.translate(_ROUND), _WIDTH, placeholder=" ...")) for key, text in texts.items()]


def complete_default(incomplete: str) -> list[tuple[str, str]]:
    """Offer what may stand in the user's `config.toml`; parameters and result as of `complete_run`."""
    from vitrail.settings.user import COMMANDS, EVERY_COMMAND, OPTIONS

    own = [*EVERY_COMMAND, *(f"{command}.{option}" for command, options in OPTIONS.items() for option in options)]
    keys = [f"{COMMANDS}.{name}=" for name in own]
    offered = [(key, "your default of an option") for key in keys if key.startswith(incomplete)]
    return offered + complete_setting(incomplete)


def _folders(incomplete: str, marker: str, title: str) -> list[tuple[str, str]]:
    """Return folders that hold a file of some name, and those that may lead to one."""
    typed, start = os.path.split(incomplete)
    matching = [name for name in sorted(_entries(typed or ".", folders=True)) if name.startswith(start)]
    paths = [os.path.join(typed, name) for name in matching]  # noqa: PTH118 - "./run" has to stay what it is
    marked = [path for path in paths if os.path.isfile(os.path.join(path, marker))]  # noqa: PTH113, PTH118 - never raises
    others = [path for path in paths if path not in marked]
    return [(path, title) for path in marked] + [(f"{path}{os.sep}", "a folder") for path in others]


def _entries(folder: str, *, folders: bool) -> Iterator[str]:
    with suppress(OSError), os.scandir(os.path.expanduser(folder)) as entries:  # noqa: PTH111 - of a text
        for entry, _count in zip(entries, range(_MOST), strict=False):
            if not entry.name.startswith(".") and entry.is_dir() == folders:
                yield entry.name
