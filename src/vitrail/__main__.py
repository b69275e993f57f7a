"""The program `vitrail`; its command line is imported when Ctrl-C is listened to."""

from __future__ import annotations

import ctypes
import io
import os
import sys
from contextlib import suppress

from vitrail.core.interrupt import until_interrupted

_ARENA_MAX = -8  # the option's number in malloc.h


def program() -> None:
    """Run the command line of this process."""
    until_interrupted(_command_line)


def _command_line() -> None:
    for stream in (sys.stdout, sys.stderr):
        # a name that a terminal's encoding lacks, as of Windows' code pages, is shown by its code rather than an error
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
    # Threads of their own arenas would map each large block of a network anew. The first thread that any library starts
    # fixes how many there may be, so that `vitrail.models.device.keep_memory`, which keeps these blocks, is too late.
    with suppress(AttributeError, OSError, TypeError):  # glibc alone has it
        ctypes.CDLL(None).mallopt(_ARENA_MAX, 1)
    # numpy's products are small here: OpenBLAS takes longer to share one than to compute it, and its threads wait on
    # cores that networks and decoders need (whole slides 1.6 times as long); its sums are the same whatever the cores
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from vitrail.cli import main

    main()


if __name__ == "__main__":
    program()
