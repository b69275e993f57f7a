"""The manual page, made from the commands themselves: what `man vitrail` shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vitrail import __version__
from vitrail.cli.console import PROGRAM, SECTIONS, walk

if TYPE_CHECKING:
    from collections.abc import Iterator

EXIT_CODES = {
    0: "All is well.",
    1: "A fault of Vitrail itself; a traceback says where.",
    2: "Something to mend, said in one line; or some slides were skipped, each with its reason, and the rest is done.",
    130: "Stopped by Ctrl-C; the same command goes on from there.",
}
"""What each exit code means."""

FILES = {
    "RUN/study.toml": "The settings of a run.",
    "RUN/slides.csv": "Its cohort.",
    "~/.config/vitrail/config.toml": "Your own defaults, below XDG_CONFIG_HOME where that is set; see vitrail config.",
    "~/.cache/vitrail": "What can be made again, below XDG_CACHE_HOME where that is set; see vitrail clean --cache.",
}
"""Files that a user meets, and what they are; on Windows the last two are below APPDATA and LOCALAPPDATA."""

ENVIRONMENT = {
    "OMP_NUM_THREADS": "How many threads compute; last digits of results depend on it.",
    "VITRAIL_CORES": "How many cores a command may use.",
    "VITRAIL_TRIALS": "off: no way of computing is tried for speed.",
    "VITRAIL_VERBOSE": "Set by --verbose for worker processes.",
}
"""Variables of the environment that are heeded."""


def manual_page(tree: Any) -> str:
    """Return the manual page as roff, with the macros of `man`.

    Parameters
    ----------
    tree
        The command line, see `vitrail.cli.console.commands`.

    Returns
    -------
    str
        The same text for the same version, whenever it is made.
    """
    lines = [
        f'.TH {PROGRAM.upper()} 1 "" "{PROGRAM} {__version__}" "User Commands"',
        ".SH NAME",
        rf"{PROGRAM} \- {_text('networks that find and explain cancer in H&E whole slides')}",
        ".SH SYNOPSIS",
        rf".B {PROGRAM}",
        r"[\fB\-\-json\fR] [\fB\-\-quiet\fR | \fB\-\-verbose\fR]",
        r".I COMMAND",
        r"[\fIARGUMENTS\fR]",
        ".SH DESCRIPTION",
        _text(tree.help or ""),
        ".PP",
        _text(
            "What came out goes to standard output; how far the work is, warnings and errors go to standard error. "
            "Whatever is interrupted goes on where it stopped when the same command is given again."
        ),
        ".SH OPTIONS OF EVERY COMMAND",
        *_options(tree, ()),
    ]
    shared = {option for each in tree.params for option in each.opts}
    named = {name for _title, names in SECTIONS for name in names}
    rest = ("Other commands", tuple(name for name in tree.commands if name not in named))
    for title, names in (*SECTIONS, rest):
        there = [name for name in names if name in tree.commands]
        lines += [f".SH {_text(title.upper())}"] if there else []
        for name in there:
            for path, command in walk(tree.commands[name], (name,)):
                lines += [f".SS {_text(' '.join([PROGRAM, *path]))}", *_paragraphs(command.help or "")]
                lines += _options(command, path, shared)
    for title, table in (("EXIT STATUS", EXIT_CODES), ("FILES", FILES), ("ENVIRONMENT", ENVIRONMENT)):
        lines.append(f".SH {title}")
        for name, meaning in table.items():
            lines += [".TP", rf"\fB{_text(str(name))}\fR", _text(meaning)]
    return "\n".join(lines) + "\n"


def _options(command: Any, path: tuple[str, ...], without: set[str] | frozenset[str] = frozenset()) -> Iterator[str]:
    """Yield arguments and options as `--help` says them."""
    context = command.context_class(command, info_name=" ".join([PROGRAM, *path]))
    for each in command.params:
        record = each.get_help_record(context)
        if record is not None and without.isdisjoint(each.opts):
            yield from (".TP", rf"\fB{_text(record[0])}\fR", _text(record[1] or ""))


def _paragraphs(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(text.strip().split("\n\n")):
        yield from ([".PP"] if number else [])
        yield _text(paragraph)


def _text(text: str) -> str:
    """Return a text on one line, in which roff finds nothing to obey."""
    line = " ".join(text.split()).replace("\\", r"\e").replace("-", r"\-")
    return rf"\&{line}" if line.startswith((".", "'")) else line
