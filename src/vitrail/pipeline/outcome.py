"""What a command has to say at its end, to a person and to a script."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a command has to say at its end.

    Attributes
    ----------
    lines
        What came out; the last is a path.
    warnings
        What was mended on the way, and settings that are called by an old name.
    skipped
        Slides that gave nothing, each with its reason.
    results
        The same for a script, as JSON can hold it: files, numbers.
    """

    lines: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    results: Mapping[str, Any] = field(default_factory=dict)
