"""TOML as text and as values, read within bounds; nothing heavy is imported."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Any

from vitrail.core.files import read_regular
from vitrail.errors import SettingsError

if TYPE_CHECKING:
    from pathlib import Path

MOST_SETTINGS_BYTES = 1 << 20
"""Of a `study.toml`; with all its comments it has 16 KiB."""


def toml_text(path: Path, cure: str) -> str:
    """Read the text of a file of settings.

    Parameters
    ----------
    path
        The file.
    cure
        What to do where there is none.

    Returns
    -------
    str
        Its lines, however they end.

    Raises
    ------
    SettingsError
        The file is missing or too large, or no text.
    """
    try:
        return read_regular(path, SettingsError, cure, MOST_SETTINGS_BYTES).decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise SettingsError(path, f"not a text in UTF-8 ({error})", "Save it as UTF-8") from None


def parsed_toml(where: Path | str, text: str) -> dict[str, Any]:
    """Parse TOML.

    Parameters
    ----------
    where
        What an error names.
    text
        The TOML.

    Returns
    -------
    dict[str, Any]
        Its values.

    Raises
    ------
    SettingsError
        It is not valid.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(where, f"not valid TOML ({error})", "Mend that line") from None
    except ValueError:  # Python reads no number of more than 4,300 digits
        raise SettingsError(where, "not valid TOML (a number of thousands of digits)", "Mend that number") from None
    except RecursionError:
        raise SettingsError(where, "not valid TOML (lists within lists, too deep)", "Mend that list") from None
