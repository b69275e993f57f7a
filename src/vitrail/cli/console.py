"""How the command line speaks: to a person or to a script, little or much.

What a command says at its end goes to standard output; how far it is, warnings and errors go to standard error. With
`--json` standard output is one JSON object, whatever becomes of the command; see `answer`.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer
from typer.core import TyperGroup
from typer.main import get_command

from vitrail import __version__
from vitrail.errors import VitrailError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Self

    from vitrail.core.progress import Progress
    from vitrail.pipeline.outcome import Outcome

PROGRAM = "vitrail"

SECTIONS = (
    ("A study, from slides to its report", ("import", "init", "run", "status", "report")),
    ("Its stages one by one", ("tiles", "classifier", "segmenter", "predict", "explain", "nuclei", "search")),
    ("Looking and judging", ("view", "review")),
    ("For other programs", ("export",)),
    ("This machine and this program", ("demo", "doctor", "clean", "config", "man")),
)
"""Commands by what they are for, in the order of the help and of the manual."""

USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[2]
"""What is raised where a command line cannot be understood: the error of the click that this typer brings with it."""


class Console:
    """What this call of the command line is to say, and in which form; used with `with`.

    Attributes
    ----------
    command
        The command's name, such as `export qupath`; empty until it is clear.
    is_quiet
        Whether nothing is said but warnings, errors and the path of the result.
    is_verbose
        Whether it is said, too, what is decided and why.
    defaults
        Of options, as the user's own file says; those of one command are in a dictionary of its name.
    is_helper
        Whether this process only helps the one that answers, see `vitrail.training.torchrun`.
    """

    def __init__(self) -> None:
        self.command, self.is_quiet, self.is_verbose = "", False, False
        self.defaults: dict[str, Any] = {}
        self.is_helper = False
        self._stdout: TextIO | None = None
        self._outcome: Outcome | None = None
        self._is_answered = False
        self._held = ExitStack()

    def __enter__(self) -> Self:
        """Be the console of what is called from here."""
        token = _CONSOLE.set(self)
        self._held.callback(_CONSOLE.reset, token)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave standard output as it was."""
        self._held.close()

    @property
    def answers_in_json(self) -> bool:
        """Whether standard output is one JSON object."""
        return self._stdout is not None

    def answer_in_json(self) -> None:
        """Keep standard output for the JSON object; whatever else is printed there goes to standard error."""
        if self._stdout is None:
            self._stdout = stdout = sys.stdout
            sys.stdout = sys.stderr
            self._held.callback(setattr, sys, "stdout", stdout)

    def be_quiet(self) -> None:
        """Say nothing but warnings, errors and the path of the result."""
        self.is_quiet, self.is_verbose = True, False

    def be_verbose(self) -> None:
        """Say what is decided and why, on standard error; the last of `--quiet` and `--verbose` counts."""
        from vitrail.core.progress import decisions_said

        if not self.is_verbose:
            self._held.enter_context(decisions_said())
        self.is_quiet, self.is_verbose = False, True

    def default_of(self, option: str) -> Any:
        """Return the user's own default of an option of this command, such as `--out`; None where there is none."""
        own = self.defaults.get(self.command, {})
        return own.get(option.strip("-")) if isinstance(own, dict) else None

    def progress(self) -> Progress:
        """Return what tells a person at this terminal how far the work is."""
        from vitrail.core.progress import Silent, for_terminal

        return Silent() if self.is_quiet else for_terminal()

    def say(self, outcome: Outcome) -> None:
        """Say what came out: at once to a person, at the end to a script."""
        for line in outcome.warnings:
            typer.echo(f"warning: {line}", err=True)
        for line in outcome.skipped:
            typer.echo(f"skipped: {line}", err=True)
        self._outcome = outcome
        if not self.answers_in_json:
            for line in outcome.lines[-1:] if self.is_quiet else outcome.lines:
                typer.echo(line)

    def say_now(self, outcome: Outcome) -> None:
        """Say what came out of a command that goes on working: at once, to a script, too."""
        self.say(outcome)
        self.answer()

    def answer(self, code: int = 0, error: Exception | None = None) -> None:
        """Say the error in one line, where there is one; and give the script its object, unless it has that already.

        Parameters
        ----------
        code
            The exit code.
        error
            What ended the command.
        """
        if isinstance(error, USAGE_ERROR):
            self.command = _path_of(getattr(error, "ctx", None))
        if error is not None:
            line = error if isinstance(error, VitrailError) else VitrailError(*described(error))
            print(f"{PROGRAM}: {line}", file=sys.stderr)  # noqa: T201 - the one line
        if self._stdout is None or self._is_answered or self.is_helper:
            return
        self._is_answered, outcome = True, self._outcome
        values: dict[str, Any] = {
            "command": self.command,
            "version": __version__,
            "ok": code == 0 and error is None,
            "lines": outcome.lines if outcome else [],
            "warnings": outcome.warnings if outcome else [],
            "skipped": outcome.skipped if outcome else [],
            "results": dict(outcome.results) if outcome else {},
        }
        if error is not None:
            where, problem, cure = described(error)
            kind = "UsageError" if isinstance(error, USAGE_ERROR) else type(error).__name__
            values["error"] = {"type": kind, "where": where, "problem": problem, "cure": cure}
        try:
            self._stdout.write(json_text(values))
            self._stdout.flush()
        except BrokenPipeError:  # whoever reads has had enough; nor is it tried again when the process ends
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stdout.fileno())


_CONSOLE: ContextVar[Console] = ContextVar("console")


def console() -> Console:
    """Return the console of this call; of a command that is called as a function, one that speaks to a person."""
    return _CONSOLE.get(None) or Console()


def described(error: Exception) -> tuple[str, str, str]:
    """Return where an error is, what is wrong and how to mend it, whatever raised it."""
    if isinstance(error, VitrailError):
        return error.where, error.problem, error.cure
    if isinstance(error, USAGE_ERROR):
        path = _path_of(getattr(error, "ctx", None))
        problem = " ".join(str(error.format_message()).split()).rstrip(".")  # type: ignore[attr-defined] # click's
        return path or "command line", problem, f"See: {' '.join([PROGRAM, *path.split()])} --help"
    if isinstance(error, OSError):
        problem = error.strerror or str(error)
        return str(error.filename or "file system"), problem, "Check the path, its permissions and the disk"
    return type(error).__name__, " ".join(str(error).split()), "This is a fault of Vitrail: report its traceback"


def json_text(values: Any) -> str:
    """Return values as JSON that every reader takes: paths as texts, numbers of numpy as numbers, NaN as null."""
    return json.dumps(_plain(values), indent=1, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    """Return a value as JSON holds it."""
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(each) for each in value]
    if hasattr(value, "tolist"):  # numpy's numbers and arrays
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def _path_of(context: Any) -> str:
    """Return a command's name, such as `export qupath`; empty of the whole program."""
    names = []
    while context is not None and context.parent is not None:
        names.append(context.info_name)
        context = context.parent
    return " ".join(reversed(names))


def _json(context: typer.Context, is_set: bool) -> None:  # noqa: FBT001 - typer calls it with the flag's value
    if context.resilient_parsing:  # completing
        return
    console().command = _path_of(context)  # the innermost one is parsed last
    if is_set:
        console().answer_in_json()


def _quiet(context: typer.Context, is_set: bool) -> None:  # noqa: FBT001 - the same
    if is_set and not context.resilient_parsing:
        console().be_quiet()


def _verbose(context: typer.Context, is_set: bool) -> None:  # noqa: FBT001 - the same
    if is_set and not context.resilient_parsing:
        console().be_verbose()


def _shared(
    as_json: Annotated[  # noqa: FBT002 - a flag
        bool,
        typer.Option("--json", callback=_json, is_eager=True, expose_value=False, help="Answer with one JSON object."),
    ] = False,
    quiet: Annotated[  # noqa: FBT002 - the same
        bool,
        typer.Option("--quiet", "-q", callback=_quiet, expose_value=False, help="Say warnings and the result alone."),
    ] = False,
    verbose: Annotated[  # noqa: FBT002 - the same
        bool,
        typer.Option("--verbose", "-v", callback=_verbose, expose_value=False, help="Say what is decided, and why."),
    ] = False,
) -> None:
    """Hold the options of every command."""


class Sections(TyperGroup):
    """The program's commands, in sections by what they are for, each with its whole first sentence."""

    def format_commands(self, _ctx: Any, formatter: Any) -> None:
        """Write the commands into the help; those that no section names come last."""
        names = {name for _title, own in SECTIONS for name in own}
        rest = ("Other commands", tuple(name for name in self.commands if name not in names))
        for title, own in (*SECTIONS, rest):
            rows = [(name, self.commands[name].get_short_help_str(limit=500)) for name in own if name in self.commands]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


def commands(app: typer.Typer) -> Any:
    """Return the whole command line, in which every command and group has the shared options, too.

    Parameters
    ----------
    app
        Without them.

    Returns
    -------
    Any
        click's group: `vitrail --json run RUN` and `vitrail run RUN --json` mean the same.
    """
    holder = typer.Typer(add_completion=False, rich_markup_mode=None)
    holder.command()(_shared)
    shared = [each for each in get_command(holder).params if each.name != "help"]
    tree = get_command(app)
    for _path, command in walk(tree):
        own = {option for each in command.params for option in each.opts}
        command.params.extend(each for each in shared if own.isdisjoint(each.opts))
    return tree


def walk(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every group and command with the words that name it, the program's own name left out.

    Parameters
    ----------
    tree
        A group or command of click.
    path
        The words before it.

    Yields
    ------
    tuple[tuple[str, ...], Any]
        The words, and the group or command.
    """
    yield path, tree
    for name, command in getattr(tree, "commands", {}).items():
        yield from walk(command, (*path, name))
