"""What commands of the command line share: options, refusals, how they end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from vitrail.cli.completion import complete_run, complete_setting
from vitrail.cli.console import console
from vitrail.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from vitrail.core.progress import Progress
    from vitrail.pipeline.outcome import Outcome

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="The run folder.", autocompletion=complete_run)]
Changes = Annotated[
    Optional[list[str]],  # noqa: UP045 - typer reads this at run time
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a setting in study.toml first, such as tiles.side_px=128.",
        autocompletion=complete_setting,
    ),
]
Shard = Annotated[
    Optional[str],  # noqa: UP045 - typer reads this at run time
    typer.Option("--shard", metavar="I/N", help="Share the work with other commands; begin with part I of N: 3/16."),
]
Scheduler = Annotated[
    Optional[str],  # noqa: UP045 - the same
    typer.Option("--scheduler", metavar="TCP://HOST:PORT", help="Work on this dask cluster (needs vitrail[cluster])."),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Where to write.")]


def refuse(option: str, value: object, problem: str, cure: str) -> None:
    """Refuse an option that has no meaning here, where it is given.

    Raises
    ------
    SettingsError
        It is given, and not only the user's own default.
    """
    if value is not None and str(value) != str(console().default_of(option)):
        raise SettingsError(option, problem, cure)


def refuse_spread(shard: str | None, scheduler: str | None, problem: str) -> None:
    """Refuse to spread what is done in one process."""
    refuse("--shard", shard, problem, "Leave it out")
    refuse("--scheduler", scheduler, problem, "Leave it out")


def finish(outcome: Outcome) -> None:
    """Say what came out and what was skipped; something skipped is exit code 2, although the rest is done."""
    console().say(outcome)
    if outcome.skipped:
        raise typer.Exit(2)


def say(line: str) -> None:
    """Say a line of what came out before the rest is clear."""
    if not console().is_quiet:
        typer.echo(line)


def finish_file(path: Path) -> None:
    """Say which file or folder was written."""
    from vitrail.pipeline.outcome import Outcome

    finish(Outcome(lines=[str(path)], results={"path": path}))


def warn(lines: Iterable[str]) -> None:
    """Say warnings before the work begins."""
    for line in lines:
        typer.echo(f"warning: {line}", err=True)


def serving(what: Sequence[Path]) -> Callable[[str], None]:
    """Return what says the lines of a server, which does not end: a script hears its address at once.

    Parameters
    ----------
    what
        The paths that are shown.
    """
    from vitrail.pipeline.outcome import Outcome

    def speak(line: str) -> None:
        _, _, address = line.partition(" at ")
        if address.startswith("http://"):
            console().say_now(Outcome(lines=[line], results={"address": address, "shown": list(what)}))
        else:
            say(line)

    return speak


def progress() -> Progress:
    """Return what tells a person at this terminal how far the work is."""
    return console().progress()
