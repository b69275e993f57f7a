"""Networks of other projects that find nuclei, where the user has them: InstanSeg, StarDist, Cellpose.

Each is imported when it is asked for. InstanSeg (Goldsborough et al. 2024, doi:10.48550/arXiv.2408.15954) comes as a
TorchScript that holds its whole way from pixels to instances, and needs no package. StarDist (Weigert and Schmidt 2022,
doi:10.1109/ISBIC56247.2022.9854534) and Cellpose (Stringer et al. 2021, doi:10.1038/s41592-020-01018-x) are packages,
which download their weights themselves.
"""

from __future__ import annotations

import importlib
import io
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import torch

from vitrail.core.files import regular_file
from vitrail.errors import NucleiError
from vitrail.models.weights import first_line
from vitrail.nuclei.scales import WORKING_MPP, segment_at

if TYPE_CHECKING:
    from types import ModuleType

    from numpy.typing import ArrayLike, NDArray

    Image = NDArray[np.uint8]
    Labels = NDArray[np.int32]

_MARGIN_UM = 32.0
"""Wider than what any of them sees of a nucleus' surroundings and than half of the largest nucleus."""

_STEP_PX = 32
"""U-Nets halve their images up to five times."""

_TAILS = 0.1
"""Percentiles between which InstanSeg was trained to see each colour: 0.1 and 99.9."""

_SCRIPT = "instanseg.pt"
_SCRIPT_CURE = (
    f"Give nuclei.model a TorchScript of InstanSeg: a {_SCRIPT}, the folder or zip of a release, or the address of one"
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InstanSeg:
    """InstanSeg as TorchScript; of models for nuclei and cells the nuclei.

    Attributes
    ----------
    script
        From float RGB `[1, 3, h, w]` to instances `[1, 1 or 2, h, w]`.
    where
        What it was loaded from.
    """

    script: Any
    where: str
    name: str = "instanseg"
    margin_um: float = _MARGIN_UM

    @classmethod
    def load(cls, model: str) -> InstanSeg:
        """Load the TorchScript.

        Parameters
        ----------
        model
            A `.pt` file, a folder or zip with `instanseg.pt`, or the address of a `.pt` or zip, which is downloaded
            once into the cache of torch.

        Returns
        -------
        InstanSeg
            Ready, on the CPU.

        Raises
        ------
        NucleiError
            There is none, it cannot be downloaded, or it is no TorchScript.
        """
        path = _downloaded(model) if urlsplit(model).scheme in {"http", "https"} else Path(model).expanduser()
        path = regular_file(path / _SCRIPT if path.is_dir() else path, NucleiError, _SCRIPT_CURE)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", r"`torch\.jit\.")  # InstanSeg comes in no other form
                script = torch.jit.load(_unpacked(path), map_location="cpu")  # type: ignore[no-untyped-call]
        except (RuntimeError, OSError, ValueError, zipfile.BadZipFile) as error:
            raise NucleiError(path, f"no TorchScript ({first_line(error)})", _SCRIPT_CURE) from error
        return cls(script=script.eval(), where=model)

    def __call__(self, image: Image, mpp: float) -> Labels:
        """Segment nuclei; see `vitrail.nuclei.engines.Engine`."""
        return segment_at(image, mpp, WORKING_MPP, self._segment)

    def _segment(self, image: Image) -> ArrayLike:
        height, width = image.shape[:2]
        pixels = np.moveaxis(image, -1, 0).astype(np.float32)
        low, high = np.percentile(pixels, (_TAILS, 100 - _TAILS), axis=(1, 2), keepdims=True)
        pixels = ((pixels - low) / np.maximum(high - low, 1e-3)).astype(np.float32)
        pixels = np.pad(pixels, ((0, 0), (0, -height % _STEP_PX), (0, -width % _STEP_PX)), mode="edge")
        try:
            with torch.inference_mode():
                instances = self.script(torch.from_numpy(pixels)[None])
        except RuntimeError as error:
            problem = f"the model fails on an image ({first_line(error)})"
            raise NucleiError(self.where, problem, _SCRIPT_CURE) from error
        if not isinstance(instances, torch.Tensor) or instances.ndim != 4 or instances.shape[-2:] != pixels.shape[-2:]:
            raise NucleiError(self.where, "the model gives no label image", _SCRIPT_CURE)
        labels: NDArray[np.float32] = instances[0, 0, :height, :width].numpy()
        return labels.astype(np.int64)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StarDist:
    """StarDist, as the package `stardist` runs it.

    Attributes
    ----------
    network
        A `StarDist2D`.
    normalize
        From pixels to what it was trained on.
    """

    network: Any
    normalize: Any
    name: str = "stardist"
    margin_um: float = _MARGIN_UM

    @classmethod
    def load(cls, model: str) -> StarDist:
        """Load a model.

        Parameters
        ----------
        model
            The name of a pretrained one, or the folder of an own one.

        Returns
        -------
        StarDist
            Ready.

        Raises
        ------
        NucleiError
            The package is not installed, or it has no such model.
        """
        models, tools = _package("stardist.models", "stardist"), _package("csbdeep.utils", "csbdeep")
        folder = Path(model).expanduser()
        try:
            if folder.is_dir():
                network = models.StarDist2D(None, name=folder.name, basedir=str(folder.parent))
            else:
                network = models.StarDist2D.from_pretrained(model)
        except Exception as error:
            # its errors come from tensorflow, from its downloads, and from its JSON
            raise _no_model("stardist", model, error) from error
        if network is None:  # what the package answers to a name that it does not know
            raise _no_model("stardist", model, ValueError("unknown name"))
        return cls(network=network, normalize=tools.normalize)

    def __call__(self, image: Image, mpp: float) -> Labels:
        """Segment nuclei; see `vitrail.nuclei.engines.Engine`."""

        def segment(pixels: Image) -> ArrayLike:
            labels: ArrayLike = self.network.predict_instances(self.normalize(pixels, 1, 99.8, axis=(0, 1)))[0]
            return labels

        return segment_at(image, mpp, WORKING_MPP, segment)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cellpose:
    """Cellpose, as the package `cellpose` runs it, from version 3.

    Attributes
    ----------
    network
        A `CellposeModel`.
    """

    network: Any
    name: str = "cellpose"
    margin_um: float = _MARGIN_UM

    @classmethod
    def load(cls, model: str) -> Cellpose:
        """Load a model.

        Parameters
        ----------
        model
            The name or path of a pretrained one; empty for the package's own.

        Returns
        -------
        Cellpose
            Ready.

        Raises
        ------
        NucleiError
            The package is not installed, or it has no such model.
        """
        models = _package("cellpose.models", "cellpose")
        try:
            network = models.CellposeModel(pretrained_model=model) if model else models.CellposeModel()
        except Exception as error:
            # its errors come from its downloads and from torch
            raise _no_model("cellpose", model, error) from error
        return cls(network=network)

    def __call__(self, image: Image, mpp: float) -> Labels:
        """Segment nuclei; see `vitrail.nuclei.engines.Engine`."""

        def segment(pixels: Image) -> ArrayLike:
            labels: ArrayLike = self.network.eval(pixels)[0]
            return labels

        return segment_at(image, mpp, WORKING_MPP, segment)


def _downloaded(address: str) -> Path:
    """Download a file once."""
    path = Path(torch.hub.get_dir()) / "vitrail" / (Path(urlsplit(address).path).name or _SCRIPT)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(address, str(path), progress=False)
        except OSError as error:  # urllib's errors are, too
            raise NucleiError(address, f"cannot be downloaded ({first_line(error)})", _SCRIPT_CURE) from error
    return path


def _unpacked(path: Path) -> Any:
    """Return what torch loads: the file itself, which is a zip, or the one in the zip of a release."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for inner in archive.namelist():
                if Path(inner).name == _SCRIPT:
                    return io.BytesIO(archive.read(inner))
    return path


def _package(module: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        cure = f"Install it with: pip install {package}, or set nuclei.engine to embedded"
        raise NucleiError("nuclei.engine", f"the package {package} cannot be imported ({error})", cure) from error


def _no_model(package: str, model: str, error: Exception) -> NucleiError:
    cure = f"Give nuclei.model a model that {package} has or can download, or set nuclei.engine to embedded"
    return NucleiError(f"nuclei.model {model!r}", f"{package} cannot load it ({first_line(error)})", cure)
