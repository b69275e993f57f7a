"""The nuclei of a slide on disk: one Parquet, one row a nucleus, which is a GeoParquet of their outlines, too.

Columns: `nucleus`, from 1 on; `x_um`, `y_um`, the centre from the slide's top left corner; `orientation`, radians;
every feature of `features.FEATURES`, NaN where undefined; and `geometry`, the outline in level-0 pixels as well-known
binary. The file's metadata says under `vitrail` which slide, scale and engine, and under `geo` where the outlines are,
see `vitrail.interop.geoparquet`.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from vitrail.core.files import damaged, exporting, regular_file
from vitrail.errors import RunError
from vitrail.interop.geoparquet import GEOMETRY, geo_metadata
from vitrail.nuclei.features import FEATURES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class NucleiHeader:
    """What all nuclei of a file have in common.

    Attributes
    ----------
    slide_id
        The slide.
    mpp
        Micrometres per level-0 pixel.
    engine
        What found them.
    key
        Of all that decided them: another key, other nuclei.
    """

    slide_id: str
    mpp: float
    engine: str
    key: str


@contextmanager
def writing_nuclei(path: Path, header: NucleiHeader) -> Iterator[Callable[[pd.DataFrame], None]]:
    """Write a table of nuclei, part by part; the file is whole or absent.

    Parameters
    ----------
    path
        Where to.
    header
        What the file says of itself.

    Yields
    ------
    Callable[[pd.DataFrame], None]
        Takes the next rows; a feature that they lack is NaN.

    Raises
    ------
    ExchangeError
        The file cannot be written.
    """
    numbers = ["orientation", *FEATURES]
    fields = [("nucleus", pa.int64()), ("x_um", pa.float64()), ("y_um", pa.float64())]
    fields += [(name, pa.float32()) for name in numbers]
    metadata = {"geo": geo_metadata(["Polygon"]), "vitrail": json.dumps(asdict(header))}
    schema = pa.schema([*fields, (GEOMETRY, pa.binary())], metadata=metadata)
    with exporting(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:

        def add(rows: pd.DataFrame) -> None:
            columns = [rows[name] if name in rows else pd.Series(np.nan, rows.index) for name in schema.names]
            # NaN is a number that was measured to be none: no null, so that every reader has the same column of floats
            arrays = [
                pa.array(column.to_numpy(), field.type, from_pandas=False)
                for column, field in zip(columns, schema, strict=True)
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))

        yield add


def read_header(path: Path) -> NucleiHeader:
    """Read what a file of nuclei says of itself.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    NucleiHeader
        Slide, scale, engine and key.

    Raises
    ------
    RunError
        It is missing, damaged, or none of Vitrail's.
    """
    with _opened(path) as file:
        return NucleiHeader(**json.loads(file.schema_arrow.metadata[b"vitrail"]))


def read_nuclei(path: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Read the nuclei of a slide.

    Parameters
    ----------
    path
        The file.
    columns
        Those to read; None reads all. `outlines_of` makes polygons of `geometry`.

    Returns
    -------
    pd.DataFrame
        One row a nucleus.

    Raises
    ------
    RunError
        The file is missing or damaged, or lacks a column.
    """
    parts = list(nuclei_parts(path, columns))
    return pd.concat(parts, ignore_index=True)


def nuclei_parts(path: Path, columns: Sequence[str] | None = None) -> Iterator[pd.DataFrame]:
    """Read the nuclei of a slide, some thousand at a time.

    Parameters
    ----------
    path, columns
        As of `read_nuclei`.

    Yields
    ------
    pd.DataFrame
        The next rows; at least one table, perhaps of none.

    Raises
    ------
    RunError
        The file is missing or damaged, or lacks a column.
    """
    with _opened(path) as file:
        missing = set(columns or ()) - set(file.schema_arrow.names)
        if missing:
            raise damaged(path, f"without a column {min(missing)}")
        if not file.num_row_groups:
            yield file.schema_arrow.empty_table().select(columns or file.schema_arrow.names).to_pandas()
        for number in range(file.num_row_groups):
            yield file.read_row_group(number, columns).to_pandas()


def outlines_of(rows: pd.DataFrame) -> NDArray[np.object_]:
    """Return the outlines of nuclei, `[n]` polygons in level-0 pixels."""
    return np.asarray(shapely.from_wkb(rows[GEOMETRY].to_numpy()), np.object_).reshape(len(rows))


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    """Open a Parquet; whatever fails within the block is the file's fault."""
    cure = "Run the same command again"
    try:
        with pq.ParquetFile(regular_file(path, RunError, cure)) as file:
            yield file
    except (OSError, ValueError, LookupError, TypeError, pa.ArrowException) as error:
        raise damaged(path, error) from None
