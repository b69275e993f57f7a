"""GeoParquet, as geopandas, GDAL and Vitrail write it (GeoParquet 1.1: file metadata `geo`, geometries as WKB).

It says nothing of pixels: coordinates count from the bounds of the slide, as those of QuPath, whose GeoJSON is what
geopandas is mostly given.
"""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import shapely

from vitrail.slides.outlines.features import MOST_CORNERS, Drawn, MalformedError, as_features, text
from vitrail.slides.outlines.geojson import NOT_OUTLINES, class_name
from vitrail.slides.outlines.wellknown import wkb_polygons
from vitrail.slides.outlines.writing import Written

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vitrail.slides.outlines.features import Feature, Source
    from vitrail.slides.outlines.writing import Image, Outline

_CLASS_COLUMNS = ("classification", "class", "label", "class_name", "name", "category", "type")
_MOST_BYTES = 1 << 30
_BATCH = 4096


def recognise(document: bytes) -> bool:
    """Tell whether a file is Parquet."""
    return document[:4] == b"PAR1"


def read(source: Source) -> list[Feature]:
    """Read rows; the class is the first of the columns classification, class, label, class_name, name, category, type.

    Cells and detections of QuPath, by the column objectType, are left out.
    """
    import pyarrow as pa  # noqa: PLC0415 - other formats do without
    from pyarrow import parquet  # noqa: PLC0415 - the same

    try:
        file = parquet.ParquetFile(io.BytesIO(source.document))
        meta = json.loads((file.schema_arrow.metadata or {}).get(b"geo", b"null"))
        column = _geometry_column(meta, file.schema_arrow.names)
        folded = {name.casefold(): name for name in file.schema_arrow.names}
        named = next((folded[name] for name in _CLASS_COLUMNS if name in folded), None)
        kinds = folded.get("objecttype")
        columns = [name for name in (column, named, kinds) if name is not None]
        drawn, size = list[Drawn](), 0
        for batch in file.iter_batches(_BATCH, columns=columns):
            size += batch.nbytes
            if size > _MOST_BYTES:
                raise MalformedError(f"more than {_MOST_BYTES >> 20} MiB when unpacked")
            names = batch.column(named).to_pylist() if named else [None] * batch.num_rows
            types = batch.column(kinds).to_pylist() if kinds else [None] * batch.num_rows
            wkb = batch.column(column).to_pylist()
            if not all(each is None or isinstance(each, bytes) for each in wkb):
                raise MalformedError("its geometries are not WKB: write them with encoding WKB")
            for geometry, name, kind in zip(wkb, names, types, strict=True):
                if str(kind).casefold() not in NOT_OUTLINES:
                    drawn.append(Drawn(name=_name(name), polygons=wkb_polygons(geometry)))
            if len(drawn) > MOST_CORNERS:
                raise MalformedError(f"more than {MOST_CORNERS:,} rows")
    except (pa.ArrowException, OSError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedError(f"it cannot be read ({str(error)[:100]})") from error
    return as_features(source, drawn, "its program, as GeoParquet with WKB,")


def _geometry_column(meta: Any, names: list[str]) -> str:
    column = meta.get("primary_column") if isinstance(meta, dict) else None
    if not isinstance(column, str) or column not in names:
        raise MalformedError("Parquet, but without the metadata of GeoParquet")
    return column


def _name(value: Any) -> str | None:
    """Return a class; a classification of QuPath's GeoJSON may stand there as a record or as its JSON."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return text(value)
    try:
        return class_name({"classification": value}) if isinstance(value, dict) else text(value)
    except TypeError as error:
        raise MalformedError(str(error)) from error


def write(outlines: Sequence[Outline], image: Image | None) -> Written:  # noqa: ARG001 - as all writers
    """Write outlines, a row each, with the columns classification and geometry."""
    import pyarrow as pa  # noqa: PLC0415 - other formats do without
    from pyarrow import parquet  # noqa: PLC0415 - the same

    areas = [each.area for each in outlines]
    kinds = sorted({area.geom_type for area in areas})
    geometry: dict[str, Any] = {"encoding": "WKB", "geometry_types": kinds, "crs": None}
    if areas:
        geometry["bbox"] = shapely.total_bounds(areas).tolist()
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": geometry}}
    table = pa.table({
        "classification": pa.array([each.name for each in outlines], pa.string()),
        "objectType": pa.array(["annotation"] * len(outlines), pa.string()),
        "geometry": pa.array([shapely.to_wkb(area) for area in areas], pa.binary()),
    })  # fmt: skip
    output = io.BytesIO()
    parquet.write_table(table.replace_schema_metadata({"geo": json.dumps(geo)}), output)
    return Written(content=output.getvalue())
