"""Features of tiles as HDF5, as TRIDENT and STAMP write and read them.

TRIDENT (Zhang et al. 2025, doi:10.48550/arXiv.2502.06750): a dataset `features` `[n, d]`, and `coords` `[n, 2]`, whole
numbers, x and y of each patch's corner in level-0 pixels of the file, with attributes on `coords`: `patch_size`, pixels
at which the encoder saw it; `patch_size_level0`; `level0_magnification` and `target_magnification`, whose ratio is
theirs; `overlap`, `name`. Files of CLAM (`patch_size`, `patch_level`) are read, too.

STAMP (El Nahhas et al. 2025, doi:10.1038/s41596-024-01047-2): `feats` `[n, d]`, and `coords` `[n, 2]`, the corners in
um, with attributes of the file: `unit`, `tile_size_um`, `tile_size_px`, `extractor`, `feat_type`, `stamp_version`.

Both count from the corner of the slide's file, and Vitrail from that of its bounds: `origin` is the difference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from vitrail import __version__
from vitrail.core.files import exporting, regular_file
from vitrail.core.optional import import_optional
from vitrail.errors import ExchangeError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

Layout = Literal["trident", "stamp"]
LAYOUTS: tuple[Layout, ...] = ("trident", "stamp")

MOST_TILES, MOST_BYTES = 10_000_000, 16 << 30
"""A file that says that it holds more tiles, or features that are larger as floats, is refused."""

STAMP_LAYOUT = "2.1.0"
"""The version of STAMP that has come to this layout: newer ones read it, older ones refuse it."""

_CURE = "Write it again with TRIDENT or STAMP"
_MAGNIFICATIONS = ((0.16, 80), (0.2, 60), (0.3, 40), (0.6, 20), (1.2, 10), (2.4, 5))
"""The magnification that TRIDENT takes a slide to have: the first whose um per pixel are above the slide's."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TileFeatures:
    """What an encoder has made of the tiles of a slide.

    Attributes
    ----------
    name
        Of the slide.
    corners
        `[n, 2]`, x and y of each tile's top left corner, in level-0 pixels; in um where `side_um` is not None.
    side_px
        Side of a tile in level-0 pixels; None where the file has it in um alone.
    side_um
        Side of a tile in um; None where the file has it in pixels alone.
    features
        `[n, d]`, float32.
    encoder
        What made them; empty where the file does not say.
    seen_px
        Pixels of a tile's side as the encoder saw it; None where the file does not say.
    magnification
        Of level 0, as the file has it; None where it does not say.
    """

    name: str
    corners: NDArray[np.float64]
    features: NDArray[np.float32]
    side_px: float | None = None
    side_um: float | None = None
    encoder: str = ""
    seen_px: int | None = None
    magnification: float | None = None

    @property
    def nominal_mpp(self) -> float | None:
        """Micrometres per level-0 pixel by the magnification: 10 at 1 x; None where it is not known."""
        return None if self.magnification is None else 10 / self.magnification

    def tiles(self, mpp: float, origin: tuple[float, float] = (0.0, 0.0)) -> pd.DataFrame:
        """Return the tiles as a table of Vitrail's: `slide_id`, and `x`, `y` and `side` in level-0 pixels.

        Parameters
        ----------
        mpp
            Micrometres per level-0 pixel.
        origin
            Where the slide's bounds begin in its file, x and y in level-0 pixels: `Slide.bounds`.

        Returns
        -------
        pd.DataFrame
            A row a tile, in the order of the features.
        """
        scale = 1.0 if self.side_um is None else 1 / mpp
        side = self.side_px if self.side_um is None else self.side_um / mpp
        x, y = (self.corners * scale - origin).T
        return pd.DataFrame({"slide_id": self.name, "x": x, "y": y, "side": float(side or np.nan)})


def write_features(
    path: Path,
    data: TileFeatures,
    layout: Layout,
    *,
    mpp: float,
    origin: tuple[float, float] = (0.0, 0.0),
) -> None:
    """Write features of tiles; the same features give the same bytes.

    Parameters
    ----------
    path
        The file, `.h5`; it is whole or absent.
    data
        With `side_px` and corners in level-0 pixels.
    layout
        Whose.
    mpp
        Micrometres per level-0 pixel.
    origin
        Where the slide's bounds begin in its file, x and y in level-0 pixels.

    Raises
    ------
    ExchangeError
        The package h5py is not installed, or the file cannot be written.
    ValueError
        The features have no side in level-0 pixels.
    """
    h5py = import_optional("h5py", "hdf5", "HDF5 export")
    if data.side_px is None:
        raise ValueError("features to be written need side_px")
    corners = data.corners + np.asarray(origin)
    features = np.ascontiguousarray(data.features, np.float32)
    with exporting(path) as temporary, h5py.File(temporary, "w") as file:
        if layout == "trident":
            magnification = next((own for above, own in _MAGNIFICATIONS if mpp < above), 2)
            seen_px = data.seen_px or round(data.side_px)
            target = magnification * seen_px / data.side_px
            coords = file.create_dataset("coords", data=np.rint(corners).astype(np.int64))
            made = file.create_dataset("features", data=features)
            made.attrs.update({"name": data.name, "savetodir": "", "encoder": data.encoder})
            coords.attrs.update(
                {
                    "patch_size": seen_px,
                    "patch_size_level0": round(data.side_px),
                    "level0_magnification": magnification,
                    "target_magnification": int(target) if target.is_integer() else target,
                    "overlap": 0,
                    "name": data.name,
                    "savetodir": "",
                }
            )
            return
        file.create_dataset("coords", data=(corners * mpp).astype(np.float32))
        file.create_dataset("feats", data=features)
        side_um = data.side_px * mpp
        file.attrs.update(
            {
                "stamp_version": STAMP_LAYOUT,
                "extractor": data.encoder,
                "unit": "um",
                "tile_size_um": side_um,
                "tile_size_px": data.seen_px or round(data.side_px),
                "feat_type": "tile",
                "vitrail_version": __version__,
            }
        )


def read_features(path: Path) -> TileFeatures:
    """Read features of tiles that TRIDENT, CLAM, STAMP or Vitrail wrote.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    TileFeatures
        Its tiles, counted from the corner of the slide's file, and their features.

    Raises
    ------
    ExchangeError
        The package h5py is not installed, there is no such file, it is damaged or too large, is of another layout, or
        values are no numbers.
    """
    h5py = import_optional("h5py", "hdf5", "HDF5 import")
    regular_file(path, ExchangeError, _CURE)
    try:
        with h5py.File(path, "r") as file:
            stamp = "feats" in file
            features = _values(file, "feats" if stamp else "features", h5py, path)
            coords = _values(file, "coords", h5py, path)
            said = dict(file.attrs) if stamp else dict(file["coords"].attrs)
            encoder = file.attrs.get("extractor", "") if stamp else file["features"].attrs.get("encoder", "")
    except (OSError, KeyError, RuntimeError, ValueError, TypeError) as error:
        raise ExchangeError(path, f"cannot be read ({' '.join(str(error).split())[:200]})", _CURE) from None
    if len(features) != len(coords) or coords.shape[1] != 2:
        problem = f"has {len(features)} features, and coordinates of shape {list(coords.shape)}"
        raise ExchangeError(path, problem, _CURE)
    try:
        size = _stamp_size(said, coords) if stamp else _trident_size(said)
        name = path.stem if stamp else str(said.get("name") or path.stem)
    except (ValueError, TypeError, OverflowError, ZeroDivisionError) as error:
        raise ExchangeError(path, f"does not say how large its tiles are ({error})", _CURE) from None
    return TileFeatures(
        name=name,
        corners=coords.astype(np.float64) * size.pop("scale", 1.0),
        features=features.astype(np.float32),
        encoder=str(encoder),
        **size,
    )


def _values(file: Any, name: str, h5py: Any, path: Path) -> NDArray[Any]:
    """Read a dataset `[n, d]` of numbers; one with a batch axis before them, `[1, n, d]`, too."""
    link = file.get(name, getlink=True)
    if link is None:
        raise ExchangeError(path, f"has no dataset {name!r}: it is none of TRIDENT's or STAMP's", _CURE)
    stored = file[name] if isinstance(link, h5py.HardLink) else None
    if not isinstance(stored, h5py.Dataset) or stored.is_virtual or stored.external:
        raise ExchangeError(path, f"{name!r} is no dataset of this file", _CURE)
    shape = stored.shape[1:] if stored.ndim == 3 and stored.shape[0] == 1 else stored.shape
    if len(shape) != 2 or stored.dtype.kind not in "iuf":
        raise ExchangeError(path, f"{name!r} is {stored.dtype} of shape {list(stored.shape)}, not [n, d]", _CURE)
    if shape[0] > MOST_TILES or shape[0] * shape[1] * max(stored.dtype.itemsize, 4) > MOST_BYTES:
        raise ExchangeError(path, f"{name!r} is too large, of shape {list(shape)}", "Write fewer tiles to a file")
    values = np.asarray(stored[()]).reshape(shape)
    if not np.isfinite(values).all():
        raise ExchangeError(path, f"{name!r} has values that are no numbers", _CURE)
    return values


def _trident_size(said: dict[str, Any]) -> dict[str, Any]:
    """Return what TRIDENT, or CLAM, says of its patches."""
    seen_px = int(_positive(said.get("patch_size"), "patch_size"))
    level0, target = said.get("level0_magnification"), said.get("target_magnification")
    if (side := said.get("patch_size_level0")) is not None:
        side_px = _positive(side, "patch_size_level0")
    elif level0 is not None and target is not None:
        side_px = seen_px * _positive(level0, "level0_magnification") / _positive(target, "target_magnification")
    elif int(said.get("patch_level", -1)) == 0:
        side_px = seen_px * _positive(said.get("custom_downsample", 1), "custom_downsample")
    else:
        raise ValueError("no patch_size_level0")
    magnification = None if level0 is None else _positive(level0, "level0_magnification")
    return {"seen_px": seen_px, "side_px": side_px, "magnification": magnification}


def _stamp_size(said: dict[str, Any], coords: NDArray[Any]) -> dict[str, Any]:
    """Return what STAMP says of its tiles; before version 2 coordinates were in 256 um by 224 pixels."""
    seen = said.get("tile_size_px")
    seen_px = None if seen is None else int(_positive(seen, "tile_size_px"))
    size = said.get("tile_size_um", said.get("tile_size") if said.get("unit") == "um" else None)
    if size is not None:
        return {"seen_px": seen_px, "side_um": _positive(size, "tile_size_um")}
    steps = np.concatenate([np.diff(np.unique(axis)) for axis in coords.T])
    if len(steps) and round(float(steps.min())) == 224:
        return {"seen_px": 224, "side_um": 256.0, "scale": 256 / 224}
    raise ValueError("no tile_size_um")


def _positive(value: Any, name: str) -> float:
    number = float(value) if value is not None else np.nan
    if not (np.isfinite(number) and number > 0):
        raise ValueError(f"{name} is {value}")
    return number
