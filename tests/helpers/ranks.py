"""Processes of this machine that share trainings, as torchrun starts them; their modules are imported once for all."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import time

import torch

PATIENCE_S = 300
"""Longer than anything here takes on a busy machine: what hangs is ended."""


def together(folder, command, *arguments, ranks=2):
    """Run a function of a module in several processes; return exit codes, and what each has written to its streams."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["vitrail.training.torchrun"])  # what takes time to import
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(ranks):
        place = {"RANK": rank, "WORLD_SIZE": ranks, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        variables = {key: str(value) for key, value in place.items()}
        started.append(context.Process(target=_be, args=(variables, folder / f"rank-{rank}.txt", command, arguments)))
        started[-1].start()
    last = time.monotonic() + PATIENCE_S
    for process in started:
        process.join(max(0.0, last - time.monotonic()))
    codes = [process.exitcode for process in started]
    for process in started:
        process.kill()
    return codes, [(folder / f"rank-{rank}.txt").read_text() for rank in range(ranks)]


def _be(variables, output, command, arguments):
    os.environ.update(variables)
    torch.set_num_threads(1)
    with output.open("w") as stream:
        for number in (1, 2):
            os.dup2(stream.fileno(), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    command(*arguments)
