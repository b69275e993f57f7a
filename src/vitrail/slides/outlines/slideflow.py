"""Slideflow's regions of interest: a CSV with a row for each corner.

Columns `roi_name`, `x_base`, `y_base` and perhaps `label`, in any order and case (Slideflow's documentation, "Regions
of interest"). A region inside another one of the same label is a hole in it: so Slideflow writes holes. Its pixels are
those of the whole slide, unless it was told to use the bounds.
"""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from vitrail.slides.outlines.features import MOST_CORNERS, Drawn, MalformedError, as_features, number, text
from vitrail.slides.outlines.rings import nested

if TYPE_CHECKING:
    from vitrail.slides.outlines.features import Feature, Ring, Source

_REQUIRED = ("roi_name", "x_base", "y_base")


def recognise(document: str) -> bool:
    """Tell whether a CSV is Slideflow's by its first row."""
    header = document.partition("\n")[0]
    return set(_REQUIRED) <= {name.strip(' "\r').casefold() for name in header.split(",")}


def read(source: Source) -> list[Feature]:
    """Read regions; the label is the class."""
    try:
        rows = csv.reader(io.StringIO(source.document, newline=""), strict=True)
        header = [name.strip().casefold() for name in next(rows)]
        at = [header.index(name) for name in _REQUIRED]
        label_at = header.index("label") if "label" in header else None
        rings, labels = dict[str, list[tuple[float, float]]](), dict[str, str | None]()
        for count, row in enumerate(rows):
            if not any(row):
                continue
            if len(row) != len(header) or count > MOST_CORNERS:
                raise MalformedError(f"row {count + 2} has {len(row)} cells, where the header has {len(header)}")
            name, x, y = (row[i] for i in at)
            rings.setdefault(name, []).append((number(x, "x_base"), number(y, "y_base")))
            labels.setdefault(name, None if label_at is None else text(row[label_at]))
    except csv.Error as error:
        raise MalformedError(f"no CSV ({error})") from error
    drawn = []
    for label in dict.fromkeys(labels.values()):
        own: list[Ring] = [ring for name, ring in rings.items() if labels[name] == label]
        drawn += [Drawn(name=None if label in {"None", "nan"} else label, polygons=[each]) for each in nested(own)]
    return as_features(source, drawn, "Slideflow")
