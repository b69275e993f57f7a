"""Packages of extras: imported where they are used, and one line where they are missing."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from vitrail.errors import ExchangeError


def import_optional(package: str, extra: str, purpose: str) -> Any:
    """Import a package that only an extra installs.

    Parameters
    ----------
    package
        Its name.
    extra
        Of Vitrail, that installs it.
    purpose
        What it is needed for, as the beginning of an error.

    Returns
    -------
    ModuleType
        The package.

    Raises
    ------
    ExchangeError
        It is not installed, or cannot be imported as it is.
    """
    try:
        return import_module(package)
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name in {None, package}
        problem = "is not installed" if missing else f"cannot be imported ({error})"
        cure = f"Run: pip install {'' if missing else '--upgrade '}'vitrail[{extra}]'"
        raise ExchangeError(purpose, f"the package {package} {problem}", cure) from None
