"""What raters have said: a file that only ever grows, one line a judgement.

`judgements.jsonl` beside a queue. A line is written whole, or is seen not to be, and is on the disk before the rater
sees the next case. Several raters, and several processes, may write at once. Taking back is a line, too.
"""

from __future__ import annotations

import json
import math
import os
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pandas as pd

from vitrail.core.files import write_csv
from vitrail.core.lock import locked_file
from vitrail.errors import RunError
from vitrail.review.queue import ANSWERS, queues_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO

    from vitrail.review.queue import Queue

FILE = "judgements.jsonl"

SKIP = "skip"
"""Instead of an answer: the case comes again once all others are judged."""

_SOON = 0.01
"""Seconds until it is tried again to write, where another one writes."""

LONGEST_NAME, LONGEST_COMMENT = 60, 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What a rater said of a case.

    Attributes
    ----------
    case
        Its number in the queue.
    rater
        Who.
    answer
        One of the question's `ANSWERS`, or `SKIP`.
    seconds
        From when it was shown until it was answered.
    shown
        Whether the rater had seen what the networks say.
    comment
        Free text.
    time
        When, in UTC, as ISO 8601.
    """

    case: int
    rater: str
    answer: str
    seconds: float
    shown: bool = False
    comment: str = ""
    time: str = ""


class Judgements:
    """The judgements of a queue.

    Parameters
    ----------
    queue
        The queue.
    """

    def __init__(self, queue: Queue) -> None:
        self.queue, self.path = queue, queue.folder / FILE

    def add(self, judgement: Judgement) -> Judgement:
        """Write a judgement; when this returns, it is on the disk.

        Parameters
        ----------
        judgement
            Without `time`, which is now.

        Returns
        -------
        Judgement
            As it was written.

        Raises
        ------
        ValueError
            It is none of this queue's.
        OSError
            The disk is full.
        """
        answers = (*ANSWERS[self.queue.spec.question], SKIP)
        if not 0 <= judgement.case < len(self.queue):
            raise ValueError(f"there is no case {judgement.case}")
        if judgement.answer not in answers:
            raise ValueError(f"an answer is one of {', '.join(answers)}")
        if len(judgement.comment) > LONGEST_COMMENT:
            raise ValueError(f"a comment has at most {LONGEST_COMMENT} letters")
        if not (math.isfinite(judgement.seconds) and judgement.seconds >= 0):
            raise ValueError("seconds are a number from 0")
        check_rater(judgement.rater)
        values = asdict(judgement) | {"time": datetime.now(UTC).isoformat(timespec="milliseconds")}
        self._append(values)
        return Judgement(**values)

    def undo(self, rater: str) -> Judgement | None:
        """Take back what a rater said last; again and again, down to the first.

        Parameters
        ----------
        rater
            Who.

        Returns
        -------
        Judgement | None
            What was taken back; None where nothing was left.
        """
        check_rater(rater)
        with self._locked() as file:
            own = [each for each in self._effective(_lines(file, self.path)) if each.rater == rater]
            if not own:
                return None
            self._write(file, {"undo": rater, "time": datetime.now(UTC).isoformat(timespec="milliseconds")})
        return own[-1]

    def read(self) -> list[Judgement]:
        """Return all judgements that stand, in the order in which they were given.

        Raises
        ------
        RunError
            The file is damaged, other than by an end that is missing.
        """
        if not self.path.is_file():
            return []
        with self.path.open("rb") as file:
            return self._effective(_lines(file, self.path))

    def latest(self, rater: str) -> dict[int, Judgement]:
        """Return a rater's last judgement of each case that they were shown, in the order in which they gave them."""
        latest: dict[int, Judgement] = {}
        for each in self.read():
            if each.rater == rater:
                latest.pop(each.case, None)
                latest[each.case] = each
        return latest

    def answered(self, case: int, rater: str) -> bool:
        """Tell whether a rater has ever answered a case, so that they may have seen what the networks say of it.

        Taking an answer back does not make them forget.
        """
        if not self.path.is_file():
            return False
        with self.path.open("rb") as file:
            lines = _lines(file, self.path)
        own = (values for values in lines if values.get("case") == case and values.get("rater") == rater)
        return any(values["answer"] != SKIP for values in own)

    def next_case(self, rater: str) -> int | None:
        """Return the first case that a rater has not seen, or else the one skipped longest ago; None at the end."""
        seen = self.latest(rater)
        fresh = (case for case in range(len(self.queue)) if case not in seen)
        skipped = (case for case, judgement in seen.items() if judgement.answer == SKIP)
        return next(fresh, next(skipped, None))

    def table(self) -> pd.DataFrame:
        """Return what stands, one row a case and rater: the columns of the queue, and those of `Judgement`.

        A rater's first answer to a case that they gave before they saw what the networks say counts as blind.
        """
        columns = ["case", "rater", "answer", "seconds", "shown", "comment", "time"]
        rows = pd.DataFrame([asdict(each) for each in self.read()], columns=columns)
        rows = rows[rows["answer"] != SKIP].drop_duplicates(["case", "rater", "shown"], keep="last")
        return rows.merge(self.queue.rows, on="case", how="left").sort_values(["case", "rater", "shown"])

    def export(self, folder: Path) -> tuple[Path, Path]:
        """Write `judgements.csv`, one row a case and rater, and `rating_sheet.csv`, one row a case.

        Parameters
        ----------
        folder
            Where.

        Returns
        -------
        tuple[Path, Path]
            The two files.
        """
        table = self.table()
        sheet = self.queue.rows.drop(columns=["reason", "of", "urgency"])
        blind = table[~table["shown"].astype(bool)]
        wide = blind.pivot_table(index="case", columns="rater", values="answer", aggfunc="last")
        wide = wide.reindex(sheet["case"]).fillna("")
        files = folder / "judgements.csv", folder / "rating_sheet.csv"
        write_csv(files[0], table)
        write_csv(files[1], pd.concat([sheet.set_index("case"), wide], axis=1).reset_index())
        return files

    def _append(self, values: dict[str, Any]) -> None:
        with self._locked() as file:
            self._write(file, values)

    def _write(self, file: BinaryIO, values: dict[str, Any]) -> None:
        """Write a line at the end; a torn one that a kill has left there stays a line of its own."""
        torn = b""
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            torn = b"" if file.read(1) == b"\n" else b"\n"
        file.write(torn + json.dumps(values, ensure_ascii=False).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())

    @contextmanager
    def _locked(self) -> Iterator[BinaryIO]:
        with self.path.open("a+b") as file, locked_file(file, lambda: time.sleep(_SOON)):
            yield file

    @staticmethod
    def _effective(lines: list[dict[str, Any]]) -> list[Judgement]:
        """Return the judgements that were not taken back."""
        standing: list[Judgement] = []
        for values in lines:
            if "undo" in values:
                own = [number for number, each in enumerate(standing) if each.rater == values["undo"]]
                del standing[own[-1] : own[-1] + 1]
            else:
                standing.append(Judgement(**values))
        return standing


def judged_queues(run: Path) -> list[Path]:
    """List the folders of a run's queues in which somebody has said something."""
    return [folder for folder in queues_of(run) if (folder / FILE).is_file()]


def check_rater(name: str) -> str:
    """Return a rater's name.

    Raises
    ------
    ValueError
        It is empty or too long, or has letters that no line can hold.
    """
    if not (0 < len(name.strip()) <= LONGEST_NAME and name.isprintable() and name == name.strip()):
        raise ValueError(f"a rater's name has 1 to {LONGEST_NAME} letters")
    return name


def _lines(file: BinaryIO, path: Path) -> list[dict[str, Any]]:
    """Read all whole lines; what a kill has left half written counts for nothing."""
    file.seek(0)
    lines = []
    for number, line in enumerate(file.read().split(b"\n"), 1):
        try:
            values = json.loads(line)
        except ValueError:
            continue  # an empty line, or one that was torn
        if not isinstance(values, dict) or not ({"undo"} <= set(values) or {"case", "rater", "answer"} <= set(values)):
            raise RunError(path, f"line {number} is no judgement", "Restore the file from a copy")
        lines.append(values)
    return lines
