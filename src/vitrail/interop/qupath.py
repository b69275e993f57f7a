"""Tiles and regions as GeoJSON that QuPath reads.

QuPath takes a FeatureCollection whose features say in `properties` what they are: `objectType` (a tile is a detection
that measurement maps can paint), `classification` with name and colour, `measurements`, `isLocked`. Its reader passes
over members that it does not know; Vitrail's own member `vitrail` says what a file's tiles have in common. Text is
plain ASCII, since QuPath reads with the encoding of the computer it runs on. Each feature has a line of its own, so
that writing a million of them needs no more memory than a few thousand.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from hashlib import sha1
from itertools import repeat
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING
from uuid import UUID

import numpy as np
import shapely

import vitrail
from vitrail.classes import CLASSES
from vitrail.core.files import exporting

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import pandas as pd
    from shapely import Polygon

    from vitrail.interop.regions import ClassRegion

PROBABILITY = "Tumor probability"
AREA = "Area mm^2"

MEASUREMENTS: Mapping[str, str] = MappingProxyType(
    {"tumor_probability": PROBABILITY, "tissue": "Tissue share", "artefact": "Artefact share"}
)
"""Columns of a tile table and what QuPath calls them."""

_NAMESPACE = UUID("c1f7a1a4-6f0b-5a52-9c43-4d3e6b1f27aa")
"""Of all identities that Vitrail gives; drawn once, never to change."""

_OTHER_RGB = [150, 150, 150]
"""Of classes that are none of Vitrail's."""

_CHUNK = 20_000
"""Tiles that are in memory at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlideObjects:
    """What is to be shown on one slide.

    Attributes
    ----------
    slide_id
        Part of every object's identity.
    side
        Side of a tile in level-0 pixels.
    tiles
        Tables with the columns `x`, `y` (top left corner in level-0 pixels), `label` (the key of a class, or missing)
        and any of `measurements`; NaN is no measurement. One table or many, so that they need not fit in memory.
    regions
        Regions with their outlines.
    measurements
        Columns and their names in QuPath.
    """

    slide_id: str
    side: float
    tiles: Iterable[pd.DataFrame] = ()
    regions: Iterable[ClassRegion] = ()
    measurements: Mapping[str, str] = field(default_factory=lambda: MEASUREMENTS)


def write_geojson(path: str | Path, objects: SlideObjects) -> int:
    """Write a GeoJSON for QuPath: regions as locked annotations, tiles as locked tile objects.

    Identities follow from the slide, the place and the class alone, so that writing again gives the same file.

    Parameters
    ----------
    path
        The file; it is whole or absent.
    objects
        What to write.

    Returns
    -------
    int
        How many objects were written.

    Raises
    ------
    ExchangeError
        The file cannot be written, or the disk is full.
    ValueError
        A place or a measurement is infinite, a place is not a number, or a region is empty or invalid.
    """
    path, count = Path(path), 0
    common = {
        "version": vitrail.__version__,
        "slide": objects.slide_id,
        "side": float(objects.side),
        "measurements": dict(objects.measurements),
    }
    with exporting(path) as temporary, temporary.open("w", encoding="ascii", newline="\n") as file:
        file.write(f'{{"type":"FeatureCollection","vitrail":{_json(common)},"features":[\n')
        for count, feature in enumerate(_features(objects), start=1):
            file.write(",\n" + feature if count > 1 else feature)
        file.write("\n]}\n")
    return count


def _features(objects: SlideObjects) -> Iterator[str]:
    """Yield features as JSON; tiles by templates, since there may be a million."""
    classes = {
        label.key: f'"classification":{_json({"name": label.title, "color": list(label.rgb)})},' for label in CLASSES
    }
    for region in objects.regions:
        if region.geometry.is_empty or not region.geometry.is_valid:
            raise ValueError(f"a region of {objects.slide_id} is empty or invalid, and would break QuPath")
        identity = identity_of(objects.slide_id, f"{region.label.key}/{region.geometry.wkb_hex}")
        measured = _json({AREA: float(region.area_mm2)})
        yield feature_json(
            identity, shapely.to_geojson(region.geometry), "annotation", classes[region.label.key], measured
        )
    side = float(objects.side)
    names = {column: json.dumps(name) for column, name in objects.measurements.items()}
    parts = (table.iloc[at : at + _CHUNK] for table in objects.tiles for at in range(0, len(table), _CHUNK))
    for part in parts:
        x, y = (part[column].to_numpy(np.float64) for column in "xy")
        if not np.isfinite([x + side, y + side]).all():
            raise ValueError("a tile's place is infinite or not a number")
        edges = ([*map(repr, edge.tolist())] for edge in (x, y, x + side, y + side))  # JSON that reads back exactly
        columns = {name: part[column].astype(float).tolist() for column, name in names.items() if column in part}
        for name, values in columns.items():
            if any(map(math.isinf, values)):
                raise ValueError(f"the measurement {name} is infinite")
        rows = zip(*columns.values(), strict=True) if columns else repeat(())
        for left, top, right, bottom, key, values in zip(*edges, part["label"].tolist(), rows, strict=bool(columns)):
            ring = f"[{left},{top}],[{right},{top}],[{right},{bottom}],[{left},{bottom}],[{left},{top}]"
            geometry = f'{{"type":"Polygon","coordinates":[[{ring}]]}}'
            # JSON has no NaN: what was not measured is left out.
            measured = ",".join([f"{name}:{v!r}" for name, v in zip(columns, values, strict=True) if not math.isnan(v)])
            identity = identity_of(objects.slide_id, f"tile/{left}/{top}/{side!r}")
            classification = classes[key] if isinstance(key, str) else ""
            yield feature_json(identity, geometry, "tile", classification, f"{{{measured}}}")


def write_outlines(path: Path, slide_id: str, outlines: Iterable[tuple[str, Polygon]]) -> int:
    """Write outlines of any classes as a GeoJSON for QuPath: locked annotations, every digit of their coordinates.

    Parameters
    ----------
    path
        The file; it is whole or absent.
    slide_id
        Part of every outline's identity.
    outlines
        Classes and polygons in level-0 pixels; `Tumor: Invasive` has the colour of `Tumor`.

    Returns
    -------
    int
        How many were written.

    Raises
    ------
    ExchangeError
        The file cannot be written, or the disk is full.
    """
    count, colours = 0, {label.title: list(label.rgb) for label in CLASSES}
    with exporting(path) as temporary, temporary.open("w", encoding="ascii", newline="\n") as file:
        file.write(f'{{"type":"FeatureCollection","vitrail":{_json({"version": vitrail.__version__})},"features":[\n')
        for count, (name, polygon) in enumerate(outlines, start=1):
            colour = colours.get(name.partition(":")[0], _OTHER_RGB)
            identity = identity_of(slide_id, f"{name}/{polygon.wkb_hex}")
            classification = f'"classification":{_json({"name": name, "color": colour})},'
            feature = feature_json(identity, shapely.to_geojson(polygon), "annotation", classification, "{}")
            file.write(",\n" + feature if count > 1 else feature)
        file.write("\n]}\n")
    return count


def identity_of(slide_id: str, what: str) -> str:
    """Return the identity of an object of a slide, a UUID that follows from the two texts alone.

    Parameters
    ----------
    slide_id
        The slide.
    what
        Which of its objects.

    Returns
    -------
    str
        What `uuid.uuid5` returns, several times as fast.
    """
    digest = bytearray(sha1(_NAMESPACE.bytes + f"{slide_id}/{what}".encode(), usedforsecurity=False).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x50
    digest[8] = digest[8] & 0x3F | 0x80
    text = digest.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def feature_json(identity: str, geometry: str, kind: str, classification: str, measurements: str) -> str:
    """Return a locked object as QuPath's GeoJSON has it.

    Parameters
    ----------
    identity
        A UUID.
    geometry
        GeoJSON.
    kind
        `annotation`, `detection` or `tile`.
    classification
        The member with its comma, or nothing.
    measurements
        A JSON object.

    Returns
    -------
    str
        A feature, in one line.
    """
    return (
        f'{{"type":"Feature","id":"{identity}","geometry":{geometry},"properties":{{"objectType":"{kind}",'
        f'{classification}"isLocked":true,"measurements":{measurements}}}}}'
    )


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)
