"""Tables with outlines as GeoParquet, which geopandas, GDAL, DuckDB and QGIS read.

Version 1.1.0 of the specification: geometries are well-known binary (ISO) in a column `geometry`, and the file's
metadata say so under `geo`. The reference system is null, which the specification has for "unknown": coordinates are
level-0 pixels of a slide, from the top left corner of its bounds, and y points down. Under `vitrail` the metadata say
which slide it is, and how many um a pixel has.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from vitrail.core.files import exporting

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

GEOMETRY = "geometry"
"""The column of outlines."""


def geo_metadata(types: Sequence[str], bounds: Sequence[float] | None = None) -> str:
    """Return what the metadata of a file say under `geo`.

    Parameters
    ----------
    types
        Of geometries that the column holds, such as `Polygon`.
    bounds
        Least x and y, and largest ones, in level-0 pixels; None leaves them out.

    Returns
    -------
    str
        JSON.
    """
    column: dict[str, Any] = {"encoding": "WKB", "geometry_types": [*types], "crs": None, "edges": "planar"}
    if bounds is not None:
        column["bbox"] = [*bounds]
    return json.dumps({"version": "1.1.0", "primary_column": GEOMETRY, "columns": {GEOMETRY: column}})


def write_geoparquet(path: Path, rows: pd.DataFrame, outlines: NDArray[np.object_], about: Mapping[str, Any]) -> None:
    """Write a table with an outline for each row; the same table gives the same bytes.

    Parameters
    ----------
    path
        The file; it is whole or absent.
    rows
        The other columns.
    outlines
        `[n]`, geometries in level-0 pixels.
    about
        What is said of the file under `vitrail`, as JSON can hold it.

    Raises
    ------
    ExchangeError
        The file cannot be written.
    ValueError
        A coordinate is no number.
    """
    bounds = [float(each) for each in shapely.total_bounds(outlines)] if len(outlines) else None
    if bounds is not None and not np.isfinite(shapely.get_coordinates(outlines)).all():
        raise ValueError(f"{path}: an outline has coordinates that are no numbers")
    types = sorted({outline.geom_type for outline in outlines})
    table = pa.Table.from_pandas(rows, preserve_index=False)
    table = table.append_column(GEOMETRY, pa.array(shapely.to_wkb(outlines, flavor="iso"), pa.binary()))
    said = {"geo": geo_metadata(types, bounds), "vitrail": json.dumps(dict(about), allow_nan=False)}
    with exporting(path) as temporary:
        pq.write_table(table.replace_schema_metadata({**(table.schema.metadata or {}), **said}), temporary)


def tile_outlines(rows: pd.DataFrame) -> NDArray[np.object_]:
    """Return the outlines of tiles, `[n]` squares in level-0 pixels, from `x`, `y` and `side`."""
    x, y, side = (rows[name].to_numpy(np.float64) for name in ("x", "y", "side"))
    return np.asarray(shapely.box(x, y, x + side, y + side), np.object_).reshape(len(rows))
