"""The command line in this process."""

from __future__ import annotations

import pytest

from vitrail import cli


def vitrail(*arguments):
    """Run the command line in this process and return its exit code."""
    with pytest.raises(SystemExit) as ended:
        cli.main([str(argument) for argument in arguments])
    return ended.value.code


def error_lines(said):
    """Return the lines on standard error that say what ended a command; how far it was is said there, too."""
    return [line for line in said.splitlines() if line.startswith("vitrail: ")]
