"""Tiles and regions as GeoJSON that QuPath reads, and back.

QuPath takes a FeatureCollection whose features say in `properties` what they are: `objectType` (a tile is a detection
that measurement maps can paint), `classification` with name and colour, `measurements`, `isLocked`. Its reader passes
over members that it does not know; Vitrail's own member `vitrail` says what a file's tiles have in common. Text is
plain ASCII, since QuPath reads with the encoding of the computer it runs on. Each feature has a line of its own, so
that neither writing nor reading a million of them needs more memory than a few thousand.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from hashlib import sha1
from itertools import islice, repeat
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid5

import numpy as np
import pandas as pd
import shapely

import vitrail
from vitrail.classes import CLASSES, TissueClass
from vitrail.core.files import exporting, regular_file
from vitrail.errors import ExchangeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import TextIO

    from vitrail.interop.regions import ClassRegion

PROBABILITY = "Tumor probability"
AREA = "Area mm^2"

MEASUREMENTS: Mapping[str, str] = MappingProxyType(
    {"tumor_probability": PROBABILITY, "tissue": "Tissue share", "artefact": "Artefact share"}
)
"""Columns of a tile table and what QuPath calls them."""

_NAMESPACE = UUID("c1f7a1a4-6f0b-5a52-9c43-4d3e6b1f27aa")
"""Of all identities that Vitrail gives; drawn once, never to change."""

_FIXED = {"id": "object", "x": "float64", "y": "float64", "side": "float64", "label": "object"}
_CHUNK = 20_000
_START, _END = '"features":[\n', "\n]}\n"
_AGAIN = "Export it again from Vitrail or QuPath (File, Export objects as GeoJSON)"


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
    path = Path(path)
    with exporting(path) as temporary, temporary.open("w", encoding="ascii", newline="\n") as file:
        head = {"type": "FeatureCollection", "vitrail": _common(objects)}
        file.write(json.dumps(head, separators=(",", ":"))[:-1] + "," + _START)
        count = _write_lines(file, _lines(objects))
        file.write(_END)
    return count


def read_tiles_geojson(path: str | Path) -> pd.DataFrame:
    """Read the tile objects of a GeoJSON; annotations and whatever else are passed over.

    What `write_geojson` wrote comes back exactly. Files that went through QuPath are read as well; they need memory
    for the whole file, since everything stands in one line.

    Returns
    -------
    DataFrame
        Columns `id`, `x`, `y`, `side` in level-0 pixels, `label` (the key of a class, None without one), and one of
        each measurement, by its name in `MEASUREMENTS` or else in QuPath; NaN where a tile lacks it.

    Raises
    ------
    ExchangeError
        There is no such file, it is no GeoJSON, or a tile in it is not a square.
    """
    path = Path(path)
    try:
        with regular_file(path, ExchangeError, _AGAIN).open(encoding="utf-8-sig") as file:
            common, features = _opened(file)
            rows = _tiles(common, features)
            tables = [_table(common, part) for part in iter(lambda: list(islice(rows, _CHUNK)), [])]
        return _joined(common, tables)
    except OSError as error:
        raise ExchangeError(path, f"cannot be opened ({error.strerror})", _AGAIN) from error
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise ExchangeError(path, f"no GeoJSON with tiles ({error})", _AGAIN) from error


def tile_identity(slide_id: str, place: tuple[float, float, float]) -> str:
    """Return the UUID (version 5) of a tile at x, y, side."""
    x, y, side = place
    return str(uuid5(_NAMESPACE, f"{slide_id}/tile/{x!r}/{y!r}/{side!r}"))


def _common(objects: SlideObjects) -> dict[str, Any]:
    names = dict(objects.measurements)
    return {
        "version": vitrail.__version__,
        "slide": objects.slide_id,
        "side": float(objects.side),
        "measurements": names,
    }


def _lines(objects: SlideObjects) -> Iterator[str]:
    """Yield features as JSON."""
    for region in objects.regions:
        yield _region_line(objects.slide_id, region)
    for table in objects.tiles:
        for start in range(0, len(table), _CHUNK):
            yield from _tile_lines(objects, table.iloc[start : start + _CHUNK])


def _write_lines(file: TextIO, lines: Iterator[str]) -> int:
    count = -1
    for count, line in enumerate(lines):
        file.write(",\n" + line if count else line)
    return count + 1


def _region_line(slide_id: str, region: ClassRegion) -> str:
    if region.geometry.is_empty or not region.geometry.is_valid:
        raise ValueError(f"a region of {slide_id} is empty or invalid, and would break QuPath")
    name = f"{slide_id}/{region.label.key}/{region.geometry.wkb_hex}"
    geometry = shapely.to_geojson(region.geometry)
    measurements = _json({AREA: float(region.area_mm2)})
    kind = f'"annotation",{_classification(region.label)},'
    return _feature(str(uuid5(_NAMESPACE, name)), geometry, kind, measurements)


def _tile_lines(objects: SlideObjects, table: pd.DataFrame) -> Iterator[str]:
    """Yield the tiles of a table, by templates, since this is done a million times."""
    seed, end = _NAMESPACE.bytes + objects.slide_id.encode(), f"/{float(objects.side)!r}"
    kinds = {label.key: f'"tile",{_classification(label)},' for label in CLASSES}
    edges, labels = _edges(table, float(objects.side)), table["label"].tolist()
    for left, top, right, bottom, label, measured in zip(*edges, labels, _measured(objects, table), strict=True):
        ring = f"[{left},{top}],[{right},{top}],[{right},{bottom}],[{left},{bottom}],[{left},{top}]"
        geometry = f'{{"type":"Polygon","coordinates":[[{ring}]]}}'
        kind = kinds[label] if isinstance(label, str) else '"tile",'
        yield _feature(_uuid5(seed + f"/tile/{left}/{top}{end}".encode()), geometry, kind, measured)


def _edges(table: pd.DataFrame, side: float) -> tuple[list[str], list[str], list[str], list[str]]:
    """Return the left, top, right and bottom edges of tiles, as JSON that reads back exactly."""
    x, y = (table[column].to_numpy(np.float64) for column in "xy")
    if not np.isfinite([x + side, y + side]).all():
        raise ValueError("a tile's place is infinite or not a number")
    left, top, right, bottom = ([*map(repr, edge.tolist())] for edge in (x, y, x + side, y + side))
    return left, top, right, bottom


def _measured(objects: SlideObjects, table: pd.DataFrame) -> Iterable[str]:
    """Yield the measurements of each tile."""
    names = [(column, json.dumps(name)) for column, name in objects.measurements.items() if column in table]
    if not names:
        return repeat("{}", len(table))
    texts = [[_measurement(name, value) for value in table[column].astype(float).tolist()] for column, name in names]
    return (f"{{{','.join(filter(None, row))}}}" for row in zip(*texts, strict=True))


def _measurement(name: str, value: float) -> str:
    """Return one measurement, nothing for NaN, which JSON does not have."""
    if math.isinf(value):
        raise ValueError(f"the measurement {name} is infinite")
    return "" if math.isnan(value) else f"{name}:{value!r}"


def _feature(identity: str, geometry: str, what: str, measurements: str) -> str:
    return (
        f'{{"type":"Feature","id":"{identity}","geometry":{geometry},'
        f'"properties":{{"objectType":{what}"isLocked":true,"measurements":{measurements}}}}}'
    )


def _classification(label: TissueClass) -> str:
    return f'"classification":{_json({"name": label.title, "color": list(label.rgb)})}'


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _uuid5(name: bytes) -> str:
    """Return what `uuid.uuid5` does, five times as fast; `name` begins with the namespace."""
    digest = bytearray(sha1(name, usedforsecurity=False).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x50
    digest[8] = digest[8] & 0x3F | 0x80
    text = digest.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _opened(file: TextIO) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
    """Return what a file's tiles have in common, and its features, one by one where it has a line for each."""
    first = file.readline()
    if first.startswith('{"type":"FeatureCollection","vitrail":') and first.endswith(_START):
        head = json.loads(first.removesuffix(_START) + '"features":[]}')
        return head["vitrail"], _by_line(file)
    content = json.loads(first + file.read())
    features = content["features"] if isinstance(content, dict) and "features" in content else content
    return {}, iter(features if isinstance(features, list) else [features])


def _by_line(file: TextIO) -> Iterator[dict[str, Any]]:
    for line in file:
        if line.startswith("]}"):
            return
        if feature := line.strip().rstrip(","):  # a file without features has an empty line
            yield json.loads(feature)
    raise ValueError("it is cut short")


def _tiles(common: dict[str, Any], features: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield a row for each tile."""
    columns = {name: column for column, name in (common.get("measurements") or MEASUREMENTS).items()}
    keys = {label.title: label.key for label in CLASSES}
    for feature in features:
        properties = feature["properties"]
        if properties.get("objectType") != "tile":
            continue
        x, y, side = _square(feature["geometry"]["coordinates"][0])
        label = keys.get(str((properties.get("classification") or {}).get("name")))
        measured = {columns.get(name, name): value for name, value in (properties.get("measurements") or {}).items()}
        yield {"id": feature["id"], "x": x, "y": y, "side": common.get("side", side), "label": label, **measured}


def _square(ring: list[list[float]]) -> tuple[float, float, float]:
    across, down = zip(*ring, strict=True)
    x, y, width, height = min(across), min(down), max(across) - min(across), max(down) - min(down)
    if not math.isclose(width, height, rel_tol=1e-6) or len(set(across)) != 2 or len(set(down)) != 2:
        raise ValueError(f"a tile at x {x}, y {y} is not a square")
    return float(x), float(y), float(width)


def _table(common: dict[str, Any], rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Return the rows of some tiles; the measurements come in the order in which they were written."""
    found = dict.fromkeys(name for row in rows for name in row if name not in _FIXED)
    declared = [column for column in common.get("measurements", ()) if column in found]
    measured = [*declared, *(name for name in found if name not in declared)]
    types = {**_FIXED, **dict.fromkeys(measured, "float64")}
    return pd.DataFrame(rows, columns=list(types)).astype(types)


def _joined(common: dict[str, Any], tables: list[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(tables, ignore_index=True) if tables else _table(common, [])
