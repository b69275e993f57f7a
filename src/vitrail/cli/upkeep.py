"""Commands about a run as a folder, and about this program: `status`, `clean`, `config`, `man`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from vitrail.cli.completion import complete_default, complete_run
from vitrail.cli.console import console
from vitrail.cli.options import RunFolder, finish, refuse
from vitrail.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence


def status(run: RunFolder) -> None:
    """Say how far a run is, who is at work in it, what was skipped, and what it takes of the disk."""
    from vitrail.pipeline.status import run_status

    finish(run_status(run))


def clean(  # noqa: PLR0917 - each is an option of the command
    run: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads this at run time
        typer.Argument(metavar="RUN", help="The run folder.", autocompletion=complete_run),
    ] = None,
    stages: Annotated[
        Optional[list[str]],  # noqa: UP045 - the same
        typer.Option("--stage", metavar="NAME", help="Remove this finished stage, or search, too; may be repeated."),
    ] = None,
    maps: Annotated[bool, typer.Option("--maps", help="Remove whole-slide maps, too.")] = False,  # noqa: FBT002 - a flag
    interrupted: Annotated[bool, typer.Option("--interrupted", help="Remove work that could go on, too.")] = False,  # noqa: FBT002 - a flag
    cache: Annotated[bool, typer.Option("--cache", help="Remove your cache, instead of a run's.")] = False,  # noqa: FBT002 - a flag
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,  # noqa: FBT002 - a flag
    dry: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,  # noqa: FBT002 - a flag
) -> None:
    """Remove what a run need not keep, after asking; finished results go only where they are named."""
    from vitrail.pipeline.clean import Named, clean_cache, clean_run

    def may_remove(lines: Sequence[str]) -> bool:
        for line in lines:
            typer.echo(line, err=not dry)
        if yes or dry:
            return not dry
        if console().answers_in_json or not sys.stdin.isatty():
            raise SettingsError("vitrail clean", "nobody can be asked here", "Add --yes, or --dry-run to see what goes")
        return typer.confirm("Remove these?", err=True)

    if cache:
        refuse("RUN", run, "--cache is yours, not a run's", "Give one of them")
        finish(clean_cache(may_remove))
        return
    if run is None:
        raise SettingsError("vitrail clean", "no run is named", "Give a run folder, or --cache")
    finish(clean_run(run, Named(stages=stages or (), interrupted=interrupted, maps=maps), may_remove))


def config(
    changes: Annotated[
        Optional[list[str]],  # noqa: UP045 - typer reads this at run time
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Keep a default, such as compute.workers=4 or commands.view.port=8000.",
            autocompletion=complete_default,
        ),
    ] = None,
    unset: Annotated[
        Optional[list[str]],  # noqa: UP045 - the same
        typer.Option("--unset", metavar="KEY", help="Leave it to Vitrail's own default again."),
    ] = None,
) -> None:
    """Show, or change, your own defaults: settings of new runs, and options of commands."""
    from vitrail.pipeline.outcome import Outcome
    from vitrail.settings.user import change_user_defaults, read_user_defaults

    defaults = change_user_defaults(changes or (), unset or ()) if changes or unset else read_user_defaults()
    options = [
        f"commands.{name}.{key} = {own}" if key else f"commands.{name} = {own}"
        for name, value in defaults.commands.items()
        for key, own in (value.items() if isinstance(value, dict) else [("", value)])
    ]
    lines = [*(change.replace("=", " = ", 1) for change in defaults.changes()), *options]
    results = {"path": defaults.path, "settings": defaults.settings, "commands": defaults.commands}
    finish(Outcome(lines=[*(lines or ["no defaults of your own"]), str(defaults.path)], results=results))


def man(
    context: typer.Context,
    out: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads this at run time
        typer.Option("--out", "-o", help="Write the page there, such as ~/.local/share/man/man1/vitrail.1."),
    ] = None,
) -> None:
    """Print the manual page, for the man program: vitrail man -o vitrail.1, then man -l vitrail.1."""
    from vitrail.cli.manual import manual_page
    from vitrail.pipeline.outcome import Outcome

    page = manual_page(context.find_root().command)
    if out is None:
        finish(Outcome(lines=[page.rstrip("\n")], results={"page": page}))
        return
    from vitrail.core.files import exporting

    with exporting(out) as temporary:
        temporary.write_text(page, encoding="utf-8")
    finish(Outcome(lines=[str(out)], results={"path": out}))
