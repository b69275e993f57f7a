"""The user's own defaults, `config.toml`: settings of new studies, and options of commands.

The file is a `study.toml` that holds only what its user wants otherwise, and a table `commands`. `vitrail init` writes
the settings into the `study.toml` of a new run, and from then on that alone counts: no run depends on whose it is.
Nothing heavy is imported until a file is there, for it is looked for whenever a command starts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vitrail.core.cache import user_folder
from vitrail.core.files import write_text
from vitrail.errors import SettingsError
from vitrail.settings.toml import parsed_toml, toml_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

COMMANDS = "commands"
"""The table of options; all others are groups of settings."""

EVERY_COMMAND: dict[str, type] = {"quiet": bool, "verbose": bool}
"""Options of all commands that may have another default, and the type of their values."""

OPTIONS: dict[str, dict[str, type]] = {
    "init": {"preset": str},
    "predict": {"out": str},
    "explain": {"out": str},
    "nuclei": {"out": str},
    "view": {"port": int, "browser": bool},
    "review": {"port": int, "browser": bool},
}
"""The same of one command each; none of them changes what a run holds."""

_TITLE = """\
# Defaults of Vitrail for this user. Settings, in groups as in study.toml, are written into new runs by vitrail init.
# [commands] holds options: quiet, verbose; [commands.view] port, browser; [commands.predict] out ...
"""

_NAMES = {str: "a text", int: "a whole number", bool: "true or false"}


@dataclass(frozen=True, slots=True, kw_only=True)
class UserDefaults:
    """What a user's `config.toml` says.

    Attributes
    ----------
    path
        The file; it need not be there. None of a user without a home folder.
    settings
        Groups of settings, as TOML gives them, not checked yet.
    commands
        Options of all commands, and of one command each in a table of its name.
    """

    path: Path | None
    settings: dict[str, Any] = field(default_factory=dict)
    commands: dict[str, Any] = field(default_factory=dict)

    def changes(self) -> list[str]:
        """Return the settings as `key=value`, such as `--set` takes.

        Returns
        -------
        list[str]
            In the order of the file.

        Raises
        ------
        SettingsError
            One of them does not exist, or has a value that it cannot have.
        """
        if not self.settings or self.path is None:
            return []
        import tomlkit  # noqa: PLC0415 - see the module's description

        from vitrail.settings.load import checked_settings  # noqa: PLC0415 - the same

        checked_settings(self.path, self.settings)
        pairs = [
            (f"{group}.{key}", value) if isinstance(values, dict) else (group, values)
            for group, values in self.settings.items()
            for key, value in (values.items() if isinstance(values, dict) else [("", values)])
        ]
        return [f"{key}={tomlkit.item(value).as_string()}" for key, value in pairs]


def config_file() -> Path | None:
    """Return where the user's defaults are; the file need not be there.

    Returns
    -------
    Path | None
        `vitrail/config.toml` below `XDG_CONFIG_HOME`, on Windows `APPDATA`, or else `~/.config`; None of a user without
        a home folder.
    """
    folder = user_folder("XDG_CONFIG_HOME", "APPDATA", ".config")
    return folder and folder / "config.toml"


def read_user_defaults() -> UserDefaults:
    """Read the user's defaults.

    Returns
    -------
    UserDefaults
        Empty where there is no file.

    Raises
    ------
    SettingsError
        The file cannot be read, is no TOML, or names an option that cannot have a default.
    """
    path = config_file()
    if path is None or not path.exists():
        return UserDefaults(path=path)
    return _checked(path, parsed_toml(path, toml_text(path, "Remove it, or make it a file")))


def change_user_defaults(changes: Sequence[str], unset: Iterable[str] = ()) -> UserDefaults:
    """Write values into the user's `config.toml`, or take them out; it is whole at any moment.

    Parameters
    ----------
    changes
        `key=value`: a setting, such as `compute.workers=4`, or an option, such as `commands.view.port=8000`.
    unset
        Keys that are to be left to Vitrail's own default again.

    Returns
    -------
    UserDefaults
        What the file says now.

    Raises
    ------
    SettingsError
        A key does not exist, or a value is one that it cannot have; the file stays as it was.
    """
    import tomlkit  # noqa: PLC0415 - see the module's description

    from vitrail.settings.load import apply_change  # noqa: PLC0415 - the same

    path = config_file()
    if path is None:
        raise SettingsError("vitrail config", "there is no home folder", "Set XDG_CONFIG_HOME to a folder")
    text = toml_text(path, "Remove it, or make it a file") if path.exists() else _TITLE
    parsed_toml(path, text)  # says better what is wrong
    document = tomlkit.parse(text)
    for change in changes:
        if any("\ud800" <= letter <= "\udfff" for letter in change):  # bytes of the command line that are no UTF-8
            raise SettingsError("--set", f"{change[:80]!r} is no text in UTF-8", "Write it in UTF-8")
        key, equals, value = change.partition("=")
        path_to = [part.strip() for part in key.split(".")]
        if path_to[0] != COMMANDS:
            apply_change(document, change)
            continue
        if not equals or len(path_to) not in {2, 3}:
            raise SettingsError("--set", f"{change!r} is not key=value", "Write for example commands.view.port=8000")
        table: Any = document
        for part in path_to[:-1]:
            table = table.setdefault(part, tomlkit.table())
            if not isinstance(table, dict):
                raise SettingsError("--set", f"{part!r} is a value, not a table", f"Mend it in {path}")
        try:
            table[path_to[-1]] = parsed_toml("--set", f"value = {value.strip()}")["value"]
        except SettingsError:
            table[path_to[-1]] = value.strip()
    for key in unset:
        *tables, name = key.split(".")
        table = document
        for part in tables:
            table = table.get(part) if isinstance(table, dict) else None
        if not isinstance(table, dict) or name not in table:
            raise SettingsError("--unset", f"{path} does not hold {key!r}", "See: vitrail config")
        del table[name]
    defaults = _checked(path, document.unwrap())
    defaults.changes()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, tomlkit.dumps(document))
    except OSError as error:
        raise SettingsError(path, f"cannot be written ({error.strerror})", "Check its permissions") from None
    return defaults


def _checked(path: Path, values: dict[str, Any]) -> UserDefaults:
    """Tell settings and options apart, and look at the latter."""
    commands = values.pop(COMMANDS, {})
    if not isinstance(commands, dict):
        raise SettingsError(path, f"{COMMANDS} is a value, not a table", f"Write [{COMMANDS}]")
    for name, value in commands.items():
        if isinstance(value, dict) and name in OPTIONS:
            for option, own in value.items():
                _check(path, f"{COMMANDS}.{name}.{option}", own, OPTIONS[name].get(option), OPTIONS[name])
        else:
            _check(path, f"{COMMANDS}.{name}", value, EVERY_COMMAND.get(name), [*EVERY_COMMAND, *OPTIONS])
    return UserDefaults(path=path, settings=values, commands=commands)


def _check(path: Path, key: str, value: object, kind: type | None, names: Iterable[str]) -> None:
    if kind is None:
        raise SettingsError(path, f"there is no default {key[:80]!r}", f"There are: {', '.join(names)}")
    if type(value) is not kind:
        raise SettingsError(path, f"{key} is {str(value)[:80]!r}", f"Write {_NAMES[kind]}")
