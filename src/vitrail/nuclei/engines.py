"""What finds nuclei, behind one call.

    image, um per pixel -> labels             embedded, classical, instanseg, stardist, cellpose: they look at pixels
    slide, region, um per pixel -> labels     geojson, labels: nuclei that another program has already outlined

A new engine is a class with a name, a margin and `__call__`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from vitrail.errors import SettingsError
from vitrail.nuclei.classical import CLASSICAL_MARGIN_UM, segment_classical
from vitrail.nuclei.networks import Cellpose, InstanSeg, StarDist
from vitrail.nuclei.segmentation import MARGIN_UM, segment_nuclei
from vitrail.nuclei.stored import DetectionFolder, LabelFolder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vitrail.geometry import Region
    from vitrail.settings.schema import NucleiSettings
    from vitrail.slides.slide import Slide


class Engine(Protocol):
    """Segments nuclei in any image."""

    @property
    def name(self) -> str:
        """As in the settings."""

    @property
    def margin_um(self) -> float:
        """How far outside a window pixels change what is found inside, in micrometres."""

    def __call__(self, image: NDArray[np.uint8], mpp: float) -> NDArray[np.int32]:
        """Segment nuclei.

        Parameters
        ----------
        image
            `[h, w, 3]`, RGB.
        mpp
            Its micrometres per pixel.

        Returns
        -------
        NDArray[np.int32]
            `[h, w]`, 0 none, 1 to n the nuclei.
        """


@runtime_checkable
class SlideEngine(Protocol):
    """Knows the nuclei of one slide."""

    @property
    def name(self) -> str:
        """As in the settings."""

    def read(self, slide: Slide, region: Region, mpp: float) -> NDArray[np.int32]:
        """Return the nuclei of a region whose centre lies inside.

        Parameters
        ----------
        slide
            The slide.
        region
            Of it, in level-0 pixels.
        mpp
            Micrometres per pixel of the result.

        Returns
        -------
        NDArray[np.int32]
            `[h, w]`, 0 none, 1 to n the nuclei.
        """


@runtime_checkable
class StoredEngine(Protocol):
    """Knows the nuclei of slides, one file a slide."""

    @property
    def name(self) -> str:
        """As in the settings."""

    def for_slide(self, slide_id: str) -> SlideEngine:
        """Open the nuclei of a slide.

        Parameters
        ----------
        slide_id
            As in slides.csv.

        Returns
        -------
        SlideEngine
            They, at any place and scale.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """The engine that comes with Vitrail: a small network, see `vitrail.nuclei.segmentation`."""

    name: str = "embedded"
    margin_um: float = MARGIN_UM

    def __call__(self, image: NDArray[np.uint8], mpp: float) -> NDArray[np.int32]:
        """Segment nuclei; see `Engine`."""
        return segment_nuclei(image, mpp)


@dataclass(frozen=True, slots=True, kw_only=True)
class Classical:
    """The engine without a network: `vitrail.nuclei.classical`."""

    name: str = "classical"
    margin_um: float = CLASSICAL_MARGIN_UM

    def __call__(self, image: NDArray[np.uint8], mpp: float) -> NDArray[np.int32]:
        """Segment nuclei; see `Engine`."""
        return segment_classical(image, mpp)


def engine_of(settings: NucleiSettings) -> Engine | StoredEngine:
    """Return the engine that the settings name.

    Parameters
    ----------
    settings
        `nuclei.engine`, and in `nuclei.model` the path or address that it needs.

    Returns
    -------
    Engine | StoredEngine
        Give it to `vitrail.nuclei.regions.segment_region`.

    Raises
    ------
    SettingsError
        The engine needs a model or folder, and none is named.
    NucleiError
        Its package is not installed, or its file is none.
    """
    model = settings.model.strip()
    match settings.engine:
        case "embedded":
            return Embedded()
        case "classical":
            return Classical()
        case "stardist":
            return StarDist.load(model or "2D_versatile_he")
        case "cellpose":
            return Cellpose.load(model)
    if not model:
        needs = {
            "instanseg": "a path or address of InstanSeg's TorchScript, such as brightfield_nuclei/instanseg.pt",
            "geojson": "a folder of QuPath detections, <slide_id>.geojson each",
            "labels": "a folder of label images, <slide_id>.png or .tif each",
        }
        cure = f"Name {needs[settings.engine]}"
        raise SettingsError("nuclei.model", f"the engine {settings.engine!r} has nothing to work with", cure)
    match settings.engine:
        case "instanseg":
            return InstanSeg.load(model)
        case "geojson":
            return DetectionFolder(folder=Path(model).expanduser())
        case "labels":
            return LabelFolder(folder=Path(model).expanduser())
