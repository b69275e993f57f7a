"""Packages of extras: imported where they are used, and one line where they are missing."""

from __future__ import annotations

import re
from importlib import import_module, metadata
from typing import Any

from vitrail.errors import ExchangeError


def import_optional(package: str, extra: str, purpose: str, least: str = "") -> Any:
    """Import a package that only an extra installs.

    Parameters
    ----------
    package
        Its name.
    extra
        Of Vitrail, that installs it.
    purpose
        What it is needed for, as the beginning of an error.
    least
        The oldest version that will do, such as `0.7.3`; empty for any.

    Returns
    -------
    ModuleType
        The package.

    Raises
    ------
    ExchangeError
        It is not installed, too old, or cannot be imported as it is.
    """
    try:
        if least and _numbers(installed := metadata.version(package)) < _numbers(least):
            problem = f"the package {package} is {installed}, and {least} or later is needed"
            raise ExchangeError(purpose, problem, f"Run: pip install --upgrade 'vitrail[{extra}]'")
        return import_module(package)
    except ImportError as error:  # of which the error of metadata is one
        missing = isinstance(error, ModuleNotFoundError) and error.name in {None, package}
        problem = "is not installed" if missing else f"cannot be imported ({error})"
        cure = f"Run: pip install {'' if missing else '--upgrade '}'vitrail[{extra}]'"
        raise ExchangeError(purpose, f"the package {package} {problem}", cure) from None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])
