"""The program `vitrail`; its command line is imported when Ctrl-C is listened to."""

from __future__ import annotations

from vitrail.core.interrupt import until_interrupted


def program() -> None:
    """Run the command line of this process."""
    until_interrupted(_command_line)


def _command_line() -> None:
    from vitrail.cli import main  # noqa: PLC0415 - an interrupt may come while it is imported

    main()


if __name__ == "__main__":
    program()
