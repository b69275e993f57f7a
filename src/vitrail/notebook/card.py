"""A card: what a notebook shows of an object, as HTML that every front end draws alike.

It is one block of elements with styles of their own, and pictures are part of it: no script, no style sheet, nothing
that is loaded. So it is the same in a saved notebook, on a page made of one, and offline. Its text has the colours of
the page around it, light or dark.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_LONGEST = 120
"""Characters of a cell or a name: headers and tables may hold anything."""

_CELL = "padding:2px 12px 2px 0;text-align:left;vertical-align:top;background:none;border:0"
_LESS = "opacity:0.65"


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture of a card.

    Attributes
    ----------
    uri
        A `data:` address, which holds all of it.
    width_px
        How wide it is shown; narrower where there is no room.
    says
        What it shows, for those who cannot see it.
    """

    uri: str
    width_px: int
    says: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Card:
    """What is shown of an object.

    Attributes
    ----------
    title
        What it is.
    rows
        Names and values.
    table
        Rows of a table below them, all of the same columns.
    picture
        Beside them, or None.
    notes
        Sentences at the end: what cannot be shown and why, what a colour means.
    """

    title: str
    rows: Mapping[str, str] = field(default_factory=dict)
    table: Sequence[Mapping[str, object]] = ()
    picture: Picture | None = None
    notes: Sequence[str] = ()

    def html(self) -> str:
        """Return the card as HTML."""
        parts = [f'<div style="font-weight:600;margin-bottom:4px">{_text(self.title)}</div>']
        if self.picture is not None:
            parts.append(
                f'<img src="{self.picture.uri}" alt="{_text(self.picture.says)}" '
                f'style="width:{self.picture.width_px}px;max-width:100%;height:auto;display:block;margin:0 0 6px 0">'
            )
        if self.rows:
            lines = (
                f'<tr style="background:none"><td style="{_CELL};{_LESS}">{_text(name)}</td>'
                f'<td style="{_CELL}">{_text(value)}</td></tr>'
                for name, value in self.rows.items()
            )
            parts.append(f'<table style="border-collapse:collapse;border:0;margin:0 0 6px 0">{"".join(lines)}</table>')
        if self.table:
            parts.append(_table(self.table))
        parts += [f'<div style="font-size:90%;{_LESS}">{_text(note, 400)}</div>' for note in self.notes]
        return f'<div class="vitrail-card" style="line-height:1.35">{"".join(parts)}</div>'


def _table(table: Sequence[Mapping[str, object]]) -> str:
    """Write a table; numbers to three digits after the point."""
    head = "".join(f'<th style="{_CELL};font-weight:600">{_text(column)}</th>' for column in table[0])
    lines = ("".join(f'<td style="{_CELL}">{_text(_cell(value))}</td>' for value in row.values()) for row in table)
    body = "".join(f'<tr style="background:none">{line}</tr>' for line in lines)
    return (
        '<div style="overflow-x:auto"><table style="border-collapse:collapse;border:0;margin:0 0 6px 0;'
        f'white-space:nowrap"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".") if math.isfinite(value) else ""
    return "" if value is None else str(value)


def _text(value: object, longest: int = _LONGEST) -> str:
    """Escape a text that may come from a file: one line, no markup, nothing that turns the line around."""
    line = "".join(character if character.isprintable() else "\N{WHITE SQUARE}" for character in str(value))
    return escape(line if len(line) <= longest else line[: longest - 1] + "\N{HORIZONTAL ELLIPSIS}", quote=True)
