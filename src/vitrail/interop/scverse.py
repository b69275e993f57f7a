"""Tables, outlines and maps as the packages of scverse have them: AnnData and SpatialData.

`obsm["spatial"]` holds centres in um from the top left corner of the slide's bounds, and so does the coordinate system
`global` of a SpatialData: outlines are in level-0 pixels and maps in pixels of their own, each with the scale that
leads there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vitrail.core.files import exporting, exporting_folder
from vitrail.core.optional import import_optional
from vitrail.interop.class_map import TILE_PX
from vitrail.interop.ome_zarr import MARK

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from vitrail.interop.class_map import ClassMap

REGION, INSTANCE = "region", "instance"
"""Columns of a table that say which outlines its rows are about, and which of them."""

_EXTRA = "scverse"
SPATIALDATA = "0.7.3"
"""Its oldest version that writes images of several blocks with today's ome-zarr, and imports beside any setuptools."""

_CHUNK_PX = 4 * TILE_PX


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Observations:
    """Tiles or nuclei with what was measured of each.

    Attributes
    ----------
    values
        `[n, variables]`.
    variables
        A row for each variable, its name as the index.
    rows
        A row for each observation, its name as the index: numbers, truth values and texts.
    centres_um
        `[n, 2]`, x and y.
    about
        What all have in common: version, slide, scale, model.
    """

    values: NDArray[np.floating[Any]]
    variables: pd.DataFrame
    rows: pd.DataFrame
    centres_um: NDArray[np.float64]
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shapes:
    """Outlines of a slide, and the table that is about them.

    Attributes
    ----------
    outlines
        `[n]`, polygons in level-0 pixels; or points, circles with a radius.
    radius
        Of circles, `[n]`, in level-0 pixels; None where outlines are polygons.
    table
        One row an outline, in the same order.
    """

    outlines: NDArray[np.object_]
    table: Observations
    radius: NDArray[np.float64] | None = None


def as_anndata(data: Observations) -> Any:
    """Return observations as an AnnData in memory.

    Parameters
    ----------
    data
        What it is to hold.

    Returns
    -------
    anndata.AnnData
        `X` in float32, `obs`, `var`, `obsm["spatial"]` in um, and `uns["vitrail"]`.

    Raises
    ------
    ExchangeError
        The package anndata is not installed.
    """
    anndata = import_optional("anndata", _EXTRA, "AnnData export")
    return anndata.AnnData(
        X=np.ascontiguousarray(data.values, np.float32),
        obs=_plain(data.rows),
        var=_plain(data.variables),
        obsm={"spatial": np.ascontiguousarray(data.centres_um, np.float64)},
        uns={"vitrail": dict(data.about)},
    )


def write_h5ad(path: Path, data: Observations) -> None:
    """Write observations as an AnnData file, `.h5ad`; the same observations give the same bytes.

    Parameters
    ----------
    path
        The file; it is whole or absent.
    data
        What it is to hold.

    Raises
    ------
    ExchangeError
        The package anndata is not installed, or the file cannot be written.
    """
    made = as_anndata(data)
    with exporting(path) as temporary:
        made.write_h5ad(temporary)


def write_spatialdata(
    path: Path, mpp: float, shapes: Mapping[str, Shapes], images: Mapping[str, ClassMap], about: Mapping[str, Any]
) -> None:
    """Write what is known of a slide as a SpatialData, a Zarr.

    Images are copied block by block, their levels as they are.

    Parameters
    ----------
    path
        The folder; it is whole or absent.
    mpp
        um per level-0 pixel.
    shapes
        Outlines by name; their tables are called `<name>_table`. Such without a row are left out.
    images
        Maps by name.
    about
        What is said of the whole, as JSON can hold it.

    Raises
    ------
    ExchangeError
        The packages are not installed, a map cannot be read, or the folder cannot be written.
    """
    spatialdata = import_optional("spatialdata", _EXTRA, "SpatialData export", SPATIALDATA)
    models, scale = spatialdata.models, spatialdata.transformations.Scale
    geopandas = import_optional("geopandas", _EXTRA, "SpatialData export")
    in_um = {"global": scale([mpp, mpp], axes=("x", "y"))}
    elements: dict[str, Any] = {name: _image(stored, spatialdata) for name, stored in images.items()}
    for name, own in shapes.items():
        if not len(own.outlines):
            continue
        number = pd.Index(np.arange(len(own.outlines)), name=INSTANCE)
        columns = {} if own.radius is None else {"radius": own.radius}
        frame = geopandas.GeoDataFrame(columns, geometry=own.outlines, index=number)
        elements[name] = models.ShapesModel.parse(frame, transformations=in_um)
        made = as_anndata(own.table)
        made.obs[REGION], made.obs[INSTANCE] = pd.Categorical([name] * len(number)), number.to_numpy()
        elements[f"{name}_table"] = models.TableModel.parse(made, region=name, region_key=REGION, instance_key=INSTANCE)
    whole = spatialdata.SpatialData.init_from_elements(elements, attrs={"vitrail": dict(about)})
    anndata = import_optional("anndata", _EXTRA, "SpatialData export")
    # files as they are in every version: chunks joined to shards are to come
    with exporting_folder(path, MARK) as temporary, anndata.settings.override(auto_shard_zarr_v3=False):
        whole.write(temporary, update_sdata_path=False)


def _image(stored: ClassMap, spatialdata: Any) -> Any:
    """Return a map as an image of SpatialData whose blocks are read when they are written."""
    dask_array = import_optional("dask.array", _EXTRA, "SpatialData export")
    xarray = import_optional("xarray", _EXTRA, "SpatialData export")
    header, levels = stored.header, {}
    names = [channel.name for channel in header.channels]
    for level, (width, height) in enumerate(header.levels):

        def block(block_info: Any = None, level: int = level) -> NDArray[Any]:
            _, (top, bottom), (left, right) = block_info[None]["array-location"]
            return stored.planes(slice(top, bottom), slice(left, right), level)

        chunks = ((len(names),), _cut(height), _cut(width))
        pixels = dask_array.map_blocks(block, chunks=chunks, dtype=header.depth, meta=np.empty((0, 0, 0), header.depth))
        array = xarray.DataArray(pixels, dims=("c", "y", "x"), coords={"c": names}, name="image")
        levels[f"scale{level}"] = xarray.Dataset({"image": array})
    scale = spatialdata.transformations.Scale([header.mpp, header.mpp], axes=("x", "y"))
    if len(levels) == 1:
        only = levels["scale0"]["image"]
        return spatialdata.models.Image2DModel.parse(only, c_coords=names, transformations={"global": scale})
    tree = xarray.DataTree.from_dict(levels)
    spatialdata.transformations.set_transformation(tree, {"global": scale}, set_all=True)
    spatialdata.models.Image2DModel().validate(tree)
    return tree


def _cut(length: int) -> tuple[int, ...]:
    return tuple(min(_CHUNK_PX, length - at) for at in range(0, length, _CHUNK_PX))


def _plain(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table whose texts are categories of objects, which every version of AnnData writes."""
    plain = table.set_axis(pd.Index([*map(str, table.index)], dtype=object), axis="index")
    for name, column in table.items():
        if column.dtype.kind not in "biuf":
            texts = column.astype(object).to_numpy()
            kinds = pd.Index(sorted({text for text in texts if isinstance(text, str)}), dtype=object)
            plain[name] = pd.Categorical(texts, categories=kinds)
    return plain
