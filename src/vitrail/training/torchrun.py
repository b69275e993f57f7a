"""A command on several processes, as `torchrun` starts them: one does the work, the others help it to train.

Every process is given the same command. The first runs it as if it were alone: it holds the run's lock, writes all
files and says all lines. The others wait until it calls them into a training, take part in that, and end with it. What
goes wrong anywhere is said once, by the first process, and ends all of them with the same exit code.

The processes speak through the key-value store that torchrun has set up for them.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
import traceback
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined] # it does not say that it exports them

from vitrail.core.interrupt import INTERRUPTED
from vitrail.errors import SettingsError, VitrailError
from vitrail.tiles.store import read_tiles
from vitrail.training.ranks import GRACE_S, Ranks, collective
from vitrail.training.trainer import take_part

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vitrail.training.trainer import SharedTraining

TIMEOUT = timedelta(hours=2)
"""For what all processes do together: the slowest may be that much later, as where it computes more features."""

_REACHED = timedelta(minutes=5)
_INTERVAL_S = 0.3  # between two looks into the store
_FAILED, _HEARD, _ENDED, _LEFT = "failed", "heard", "ended", "left"  # keys


class _Processes:
    """The processes that torchrun has started, as its environment describes them to this one.

    Attributes
    ----------
    rank, size
        Number of this process, and how many there are.
    trainings
        In how many it has taken part.
    """

    def __init__(self) -> None:
        self.rank, self.size, self.trainings = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), 0
        self._serves = self.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        self._store, self._leaves = self._client("said", serves=self._serves), threading.Event()

    def _client(self, purpose: str, *, serves: bool = False) -> Store:
        """Connect to the store; a client is locked while one thread waits for something, so that each has its own."""
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        try:
            store = TCPStore(address, port, is_master=serves, wait_for_workers=False, timeout=_REACHED)
        except (RuntimeError, ValueError) as error:
            problem = f"is not where the first process is reached ({' '.join(str(error).split())[:200]})"
            raise SettingsError(f"{address}:{port}", problem, "Start the command with torchrun") from None
        attempt = (os.environ.get(f"TORCHELASTIC_{name}", "") for name in ("RUN_ID", "RESTART_COUNT"))
        return PrefixStore("/".join(("vitrail", *attempt, purpose)), store)

    def say(self, key: str, text: str) -> None:
        """Leave a text for the others."""
        with suppress(RuntimeError):  # the store has ended with the first process
            self._store.set(key, text)

    def said(self, key: str) -> str | None:
        """Return the text under a key, if there is one; where the store is gone, the first process has failed."""
        try:
            return self._store.get(key).decode() if self._store.check([key]) else None
        except RuntimeError:
            return "2" if key == _ENDED else None

    def is_said(self, key: str, within_s: float) -> bool:
        """Tell whether a text comes within some seconds."""
        last = time.monotonic() + within_s
        while self.said(key) is None:
            if time.monotonic() > last:
                return False
            time.sleep(_INTERVAL_S)
        return True

    def meet(self, device: str, message: Any = None) -> Any:
        """Meet the other processes on a kind of device; return what the first one brings."""
        if not dist.is_initialized():
            if device == "cuda":
                _take_gpu(self.rank)
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo", store=self._client("exchanged"),
                rank=self.rank, world_size=self.size, timeout=TIMEOUT,
            )  # fmt: skip
        self.trainings += 1
        messages = [message]
        dist.broadcast_object_list(messages, src=0, device=torch.device("cpu"))
        return messages[0]

    def call(self, tiles: Path, shared: SharedTraining) -> Ranks:
        """Call the other processes into a training."""
        device, checkpoint = shared.precision.device.type, shared.checkpoint
        # another machine may have another working folder
        shared = replace(shared, checkpoint=replace(checkpoint, folder=checkpoint.folder.resolve()))
        self.say(f"training {self.trainings + 1}", device)
        with collective():
            self.meet(device, (shared, tiles))
        return Ranks(rank=0, size=self.size)

    def help(self) -> int:
        """Take part in the trainings that the first process calls for; return its exit code when it has ended."""
        while (code := self.said(_ENDED)) is None:
            device = self.said(f"training {self.trainings + 1}")
            if device is None:
                time.sleep(_INTERVAL_S)
                continue
            with collective():
                shared, tiles = self.meet(device)
            take_part(shared, read_tiles(tiles), Ranks(rank=self.rank, size=self.size))
        return int(code)

    def end(self, code: int) -> None:
        """Let the others end with this process, which is the first."""
        self._leaves.set()
        self.say(_ENDED, str(code))
        self._await_others()
        if code == 0 and dist.is_initialized():
            dist.destroy_process_group()  # else NCCL warns of it

    def leave(self) -> None:
        """Do not look into the store any more, which ends with the first process."""
        self._leaves.set()
        self.say(f"{_LEFT} {self.rank}", "")

    def _await_others(self) -> None:
        """Wait until the others have read what was said last, where the store is this process's."""
        if self._serves:
            for rank in range(1, self.size):
                self.is_said(f"{_LEFT} {rank}", GRACE_S)

    def watch(self) -> None:
        """End this process where another one has failed, whatever it is waiting for: in a thread."""
        while not self._leaves.wait(_INTERVAL_S):
            line, code = self.said(_FAILED), self.said(_ENDED)
            if self.rank == 0 and line is not None:
                cursor = "\x1b[?25h" if sys.stderr.isatty() else ""  # a bar hides it
                print(f"{cursor}vitrail: {line}", file=sys.stderr, flush=True)  # noqa: T201 - the one line
                self.say(_HEARD, "")
                self._await_others()
                os._exit(2)
            if self.rank and (line or code) is not None:
                if self._leaves.wait(GRACE_S):
                    return
                self.leave()
                os._exit(int(code or 2))


def _take_gpu(rank: int) -> None:
    """Let "cuda" mean this process's own GPU."""
    processes, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if processes > gpus:
        problem = f"{processes} processes on {socket.gethostname()}, which has {gpus} GPUs"
        raise SettingsError("torchrun --nproc-per-node", problem, "Start one process a GPU, or lower it")
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", rank % gpus)))


_leading: ContextVar[_Processes | None] = ContextVar("leading", default=None)
"""The processes that wait for this one: of this process alone, worker processes of it have none."""


def run_together(command: Callable[[], None]) -> None:
    """Run a command in the first process, and let the others help it.

    Parameters
    ----------
    command
        Of the first process; it returns, or raises SystemExit.

    Raises
    ------
    SystemExit
        In the other processes, with the first one's exit code, when that has ended.
    SettingsError
        The first process is not reached.
    """
    processes = _Processes()
    threading.Thread(target=processes.watch, daemon=True).start()
    if processes.rank:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first one hears it, and the others end with that
        sys.exit(_helped(processes))
    token, code = _leading.set(processes), 1
    try:
        command()
        code = 0
    except BaseException as end:
        code = _exit_code(end)
        raise
    finally:
        _leading.reset(token)
        processes.end(code)


def _exit_code(end: BaseException) -> int:
    """Return the exit code of a process that an exception ends."""
    if isinstance(end, SystemExit):
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    if isinstance(end, KeyboardInterrupt):
        return INTERRUPTED
    return 2 if isinstance(end, (VitrailError, OSError)) else 1


def _helped(processes: _Processes) -> int:
    """Help the first process, and return the exit code; what goes wrong is left to it to say."""
    try:
        code = processes.help()
        if code == 0 and dist.is_initialized():
            dist.destroy_process_group()
    except Exception as error:  # noqa: BLE001 - whatever it is
        code = 2
        if not processes.is_said(_ENDED, GRACE_S):  # else the first one has met the same
            if not isinstance(error, VitrailError):
                traceback.print_exc()
            line = str(error) if isinstance(error, VitrailError) else f"{error!r}, see its traceback"
            processes.say(_FAILED, f"process {processes.rank} on {socket.gethostname()}: {line}")
            processes.is_said(_HEARD, GRACE_S)
    processes.leave()
    return code


def helpers(tiles: Path) -> Callable[[SharedTraining], Ranks] | None:
    """Return what calls the other processes into a training.

    Parameters
    ----------
    tiles
        The folder of the tile table, which all of them see.

    Returns
    -------
    Callable[[SharedTraining], Ranks] | None
        For `train`; None where this process is alone.
    """
    processes = _leading.get()
    return None if processes is None else partial(processes.call, tiles.resolve())
