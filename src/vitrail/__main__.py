"""The program `vitrail`; its command line is imported when Ctrl-C is listened to."""

from __future__ import annotations

from vitrail.core.interrupt import until_interrupted


def program() -> None:
    """Run the command line of this process."""
    until_interrupted(_command_line)


def _command_line() -> None:
    from vitrail.cli import main

    main()


if __name__ == "__main__":
    program()
