"""Nuclei for other programs: detections of QuPath with measurements, and AnnData.

GeoParquet needs no export: the table of a slide's nuclei is one (see `store`).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import shapely

import vitrail
from vitrail.core.files import exporting
from vitrail.interop.geoparquet import GEOMETRY
from vitrail.interop.qupath import feature_json, identity_of
from vitrail.interop.scverse import Observations, as_anndata
from vitrail.nuclei.features import FEATURES
from vitrail.nuclei.store import outlines_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from vitrail.nuclei.store import NucleiHeader

CLASS = '"classification":{"name":"Nucleus","color":[70,70,200]},'
"""As a member of a feature's properties."""


def measurement_names() -> dict[str, str]:
    """Return what each feature's column is called in QuPath, such as `Nucleus: Area µm^2`."""
    units = {name: feature.unit.replace("um", "µm").replace("2", "^2") for name, feature in FEATURES.items()}
    return {name: f"Nucleus: {FEATURES[name].title} {unit}".strip() for name, unit in units.items()}


def write_detections(
    path: Path, header: NucleiHeader, tables: Iterable[pd.DataFrame], more: Mapping[str, str] | None = None
) -> int:
    """Write nuclei as a GeoJSON of QuPath: locked detections, outlines in level-0 pixels, every digit.

    Identities follow from the slide and the outline alone, so that writing again gives the same file.

    Parameters
    ----------
    path
        The file; it is whole or absent.
    header
        Of the nuclei.
    tables
        With the columns of `store`; one after the other, so that they need not fit in memory.
    more
        Further columns of numbers, and what QuPath is to call them.

    Returns
    -------
    int
        How many nuclei were written.

    Raises
    ------
    ExchangeError
        The file cannot be written, or the disk is full.
    ValueError
        A measurement is infinite.
    """
    measurements, count = measurement_names() | dict(more or {}), 0
    common = {"version": vitrail.__version__, "slide": header.slide_id, "mpp": header.mpp, "engine": header.engine}
    with exporting(path) as temporary, temporary.open("w", encoding="ascii", newline="\n") as file:
        file.write(f'{{"type":"FeatureCollection","vitrail":{json.dumps(common)},"features":[\n')
        for table in tables:
            named = {json.dumps(name): column for column, name in measurements.items() if column in table}
            # of float32 the shortest digits that read back as the same
            columns = {name: [*map(str, table[column].to_numpy())] for name, column in named.items()}
            for name, column in named.items():
                if np.isinf(table[column].to_numpy(np.float64)).any():
                    raise ValueError(f"the measurement {name} is infinite")
            rows = zip(*columns.values(), strict=True)
            outlines = shapely.to_geojson(outlines_of(table)).tolist()
            for outline, key, values in zip(outlines, table[GEOMETRY], rows, strict=True):
                pairs = zip(columns, values, strict=True)
                # JSON has no NaN: what was not measured is left out
                measured = ",".join(f"{name}:{value}" for name, value in pairs if value != "nan")
                identity = identity_of(header.slide_id, f"nucleus/{bytes(key).hex()}")
                feature = feature_json(identity, outline, "detection", CLASS, f"{{{measured}}}")
                file.write(",\n" + feature if count else feature)
                count += 1
        file.write("\n]}\n")
    return count


def described_features(names: Sequence[str]) -> pd.DataFrame:
    """Return title, unit, definition and group of features, a row each, with their names as the index."""
    about = {key: [getattr(FEATURES[name], key) for name in names] for key in ("title", "unit", "definition", "group")}
    return pd.DataFrame(about, index=pd.Index(names))


def nuclei_observations(table: pd.DataFrame, header: NucleiHeader) -> Observations:
    """Return nuclei as observations: features as variables, with title, unit and definition of each.

    Parameters
    ----------
    table
        With the columns of `store`, and others.
    header
        Of the nuclei.

    Returns
    -------
    Observations
        A row a nucleus, called `<slide>:<number>`; its other columns but the outline are in `rows`.
    """
    names = [name for name in FEATURES if name in table]
    others = [str(name) for name in table if name not in {*names, GEOMETRY}]
    return Observations(
        values=table[names].to_numpy(np.float32),
        variables=described_features(names),
        rows=table[others].set_axis([f"{header.slide_id}:{number}" for number in table["nucleus"]], axis="index"),
        centres_um=table[["x_um", "y_um"]].to_numpy(np.float64),
        about={
            "version": vitrail.__version__, "slide_id": header.slide_id, "mpp": header.mpp, "engine": header.engine,
        },
    )  # fmt: skip


def to_anndata(table: pd.DataFrame, header: NucleiHeader) -> Any:
    """Return nuclei as an AnnData: a row of `X` is a nucleus, a column a feature.

    `obs` has the other columns, `var` title, unit and definition of each feature, `obsm["spatial"]` the centres in um
    from the slide's top left corner, as squidpy takes them, and `uns["vitrail"]` the header.

    Parameters
    ----------
    table
        With the columns of `store`.
    header
        Of the nuclei.

    Returns
    -------
    anndata.AnnData
        In memory; `write_h5ad` writes it.

    Raises
    ------
    ExchangeError
        The package anndata is not installed.
    """
    return as_anndata(nuclei_observations(table, header))
