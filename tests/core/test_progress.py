"""What is said of long work goes to standard error; what is decided, to whoever listens."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import warnings

from vitrail.core.progress import Lines, Silent, decisions_said


def test_lines_go_to_standard_error(capsys):
    with Lines(every=0).task("tiles", 2) as step:
        step(1, "S0")
        step(1)
    said = capsys.readouterr()
    assert said.out == ""
    assert [line.partition(",")[0] for line in said.err.splitlines()] == ["tiles: 1/2", "tiles: 2/2"]
    with Silent().task("tiles", 1) as step:
        step(1)
    assert capsys.readouterr() == ("", "")


def test_decisions_and_warnings_are_said_within_the_block_alone(capsys):
    logger, filters = logging.getLogger("vitrail.somewhere"), warnings.filters[:]
    with decisions_said():
        logger.info("the reader is %s", "OpenSlide")
        warnings.warn("something old", DeprecationWarning, stacklevel=1)
        logging.getLogger("another.library").info("chatter")
    said = capsys.readouterr().err
    assert said.startswith("vitrail.somewhere: the reader is OpenSlide\npy.warnings: ")
    assert "DeprecationWarning: something old" in said
    assert "chatter" not in said
    logger.info("nobody listens")
    assert capsys.readouterr().err == ""
    assert (warnings.filters, logging.getLogger("vitrail").handlers) == (filters, [])
    assert "VITRAIL_VERBOSE" not in os.environ


def test_worker_processes_say_them_as_their_parent_does():
    code = (
        "import gc, logging; from vitrail.core.progress import say_decisions_as_parent; say_decisions_as_parent();"
        "gc.collect(); logging.getLogger('vitrail.x').info('hello')"
    )
    for verbose, said in (("1", "vitrail.x: hello\n"), ("", "")):
        environment = os.environ | {"VITRAIL_VERBOSE": verbose}
        command = [sys.executable, "-c", code]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)  # noqa: S603 - our own
        assert ended.stderr == said
