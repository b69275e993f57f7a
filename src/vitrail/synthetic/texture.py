"""What each tissue looks like between its nuclei: concentrations of hematoxylin, eosin and orange (keratin, blood)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vitrail.synthetic.block import Block, textures
from vitrail.synthetic.fields import Mask, Plane, blend, enlarge, look_up
from vitrail.synthetic.layout import TissueType

if TYPE_CHECKING:
    from collections.abc import Callable

    from vitrail.synthetic.cells import Cells

_NONE = np.float32(0)
_MUSCLE_UM = 25.0


_Stains = tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.floating] | np.float32]


@dataclass(frozen=True, kw_only=True)
class _Spot:
    """The n pixels of one tissue in a block, and what each tissue looks like there.

    Every plane is `[n]`, in micrometres where it is a length.
    """

    block: Block
    mask: Mask

    @cached_property
    def index(self) -> NDArray[np.intp]:
        """Where they are in the raveled block."""
        return np.flatnonzero(self.mask)

    def noise(self, name: str) -> Plane:
        """Return a texture lying still on the slide."""
        return self.block.texture(name).ravel()[self.index]

    def field(self, name: str) -> Plane:
        """Return a field of the layout."""
        return enlarge(getattr(self.block.layout, name), self.block.frame).ravel()[self.index]

    def cells(self, grid: str) -> Cells:
        """Return the cells of a grid."""
        return self.block.grids[grid].around(self.block.window, self.mask)

    def strands(self, name: str, across: Plane, along: Plane) -> Plane:
        """Return a texture drawn out along the lines of equal `across` (both in level-0 pixels)."""
        return look_up(textures(self.block.mpp)[name], across, along)

    def collagen(self) -> _Stains:
        """Wavy bundles of mature collagen with clefts between them."""
        across, along = self.field("across"), self.field("along")
        across += 3.5 / self.block.mpp * np.sin(along * (self.block.mpp / 9) + across * 0.01)
        bundle = self.strands("bundle", across, along)
        eosin = 0.30 + 0.045 * bundle + 0.045 * self.strands("fibre", across, along) + 0.03 * self.noise("cloud")
        eosin += 0.018 * self.noise("grain") + 0.015 * self.noise("mottle")
        loose = blend(-0.6, 0.6, self.noise("cloud"))
        eosin *= 1 - 0.88 * loose * blend(0.75, 1.5, -bundle + 0.25 * self.noise("mottle"))
        return 0.035 + 0.08 * eosin, eosin, _NONE

    def desmoplasia(self) -> _Stains:
        """Loose, bluish, cell-rich stroma around nests, torn from some of them as in real sections."""
        across, along = self.field("across"), self.field("along")
        across = across + 2.5 / self.block.mpp * np.sin(along * (self.block.mpp / 7))
        bundle, cloud = self.strands("bundle", across, along), self.noise("cloud")
        eosin = 0.235 + 0.045 * bundle + 0.04 * self.strands("fibre", across, along) - 0.03 * cloud
        cleft = 0.8 * blend(1.2, 1.9, -bundle + 0.3 * self.noise("mottle"))
        torn = blend(-6.5, -4.0, self.field("nest_um")) * blend(
            0.75, 1.1, cloud + 0.3 * self.strands("cord", across, along)
        )
        gap = np.maximum(cleft, 0.95 * torn)
        return (0.075 + 0.02 * cloud) * (1 - gap), eosin * (1 - gap), _NONE

    def tumor(self) -> _Stains:
        """Crowded cells of uneven colour; membranes show here and there."""
        cells = self.cells("tumor")
        grain, cloud = self.noise("grain"), self.noise("cloud")
        uneven = cells.tint - 0.5
        eosin = 0.25 + 0.11 * uneven + 0.03 * cloud + 0.022 * grain
        eosin += 0.09 * blend(1.4, 0.3, cells.border_um) * blend(-0.6, 0.8, cloud)
        blue = 0.155 - 0.08 * uneven - 0.03 * cloud + 0.025 * self.noise("mottle")
        clear = blend(0.93, 0.96, cells.tint) * blend(0.5, 2.0, cells.border_um)
        return blue * (1 - 0.6 * clear), eosin * (1 - 0.55 * clear), _NONE

    def pale(self) -> _Stains:
        """Cells of the nests as they would be in the spinous layer: pale, with bright borders."""
        cells = self.cells("tumor")
        border = blend(1.7, 0.5, cells.border_um)
        eosin = 0.225 + 0.13 * border + 0.05 * (cells.tint - 0.5) + 0.012 * self.noise("grain")
        return 0.085 + 0.03 * border, eosin, _NONE

    def keratin(self) -> _Stains:
        """Whorls of orange-pink lamellae."""
        depth = self.field("keratin_um") / self.block.mpp
        rings = self.strands("bundle", 1.3 * depth + 2.5 * self.noise("mottle"), self.field("along"))
        gap = 0.85 * blend(1.1, 1.8, -rings)
        eosin = (0.41 + 0.09 * rings + 0.02 * self.noise("grain")) * (1 - gap)
        return 0.03 * (1 - gap), eosin, (0.10 + 0.03 * rings) * (1 - gap)

    def necrosis(self) -> _Stains:
        """Granular pink debris."""
        mottle, grain, cloud = self.noise("mottle"), self.noise("grain"), self.noise("cloud")
        eosin = 0.31 + 0.05 * mottle + 0.05 * grain + 0.04 * cloud
        dust = blend(1.4, 2.4, mottle + grain)
        return 0.05 + 0.5 * dust + 0.03 * mottle, eosin, _NONE

    def epithelium(self) -> _Stains:
        """Layers: a blue basal row, polygonal spinous cells with bright borders, flat pink surface cells."""
        basal, surface = self.field("basal_um"), self.field("surface_um")
        height = basal / (basal + surface + 1)
        cells = self.cells("spinous")
        mpp = self.block.mpp
        lamella = self.strands("bundle", 1.8 * surface / mpp + 1.5 * self.noise("mottle"), self.field("along"))
        flat, deep = blend(0.5, 0.85, height), blend(24, 5, basal)
        border = blend(1.7, 0.5, cells.border_um)
        halo = blend(2.9, 3.3, cells.centre_um) * blend(5.0, 3.6, cells.centre_um)
        spinous = 0.225 + 0.13 * border - 0.05 * halo + 0.05 * (cells.tint - 0.5) + 0.012 * self.noise("grain")
        eosin = spinous * (1 - flat) + flat * (0.29 + 0.06 * lamella + 0.02 * border)
        blue = (0.085 + 0.03 * border) * (1 - flat) + 0.03 * flat + 0.15 * deep
        return blue, eosin, 0.05 * flat

    def fat(self) -> _Stains:
        """Empty cells with thin walls."""
        cells = self.cells("fat")
        wobble = 0.5 * self.noise("mottle")
        wall = blend(3.0, 1.4, cells.border_um + wobble)
        return 0.045 * wall, 0.3 * wall, _NONE

    def muscle(self) -> _Stains:
        """Long fibres, cross-striated, with pale gaps between them."""
        mpp = self.block.mpp
        across, along = self.field("across"), self.field("along")
        course = across * mpp / _MUSCLE_UM + 0.13 * self.strands("cord", across, along)
        number, within = np.floor(course), course - np.floor(course)
        edge = np.minimum(within, 1 - within) * _MUSCLE_UM
        tint = np.sin(number * 12.9898) * 43758.547
        tint -= np.floor(tint)
        bands = np.sin(2 * np.pi * mpp / 2.6 * along + 1.2 * self.noise("mottle") + 9 * tint)
        eosin = 0.40 + 0.07 * (tint - 0.5) + 0.03 * bands + 0.03 * self.strands("fibre", across, along)
        gap = blend(1.9, 0.7, edge + 0.5 * self.noise("mottle"))
        return 0.05 * (1 - gap), eosin * (1 - 0.85 * gap), 0.04 * (1 - gap)

    def gland(self) -> _Stains:
        """Acini, pale mucous or granular serous, around narrow lumens, in delicate stroma."""
        cells = self.cells("gland")
        grain, mottle = self.noise("grain"), self.noise("mottle")
        acinus = blend(3.0, 4.2, cells.border_um + 0.6 * mottle)
        serous = blend(0.5, 0.55, cells.tint)
        lumen = blend(1.0, -0.5, cells.centre_um - 1.5 + 0.5 * mottle - 20 * (cells.tint % 0.2))
        eosin = 0.07 + 0.05 * np.abs(mottle) + serous * (0.15 + 0.03 * grain)
        blue = 0.09 + 0.03 * mottle + serous * (0.13 + 0.05 * grain)
        inside = acinus * (1 - lumen)
        stroma = (1 - acinus) * (0.2 + 0.03 * grain)
        return inside * blue + 0.15 * stroma, inside * eosin + stroma, _NONE

    def lymphoid(self) -> _Stains:
        """Show the little that there is between lymphocytes."""
        cloud, grain = self.noise("cloud"), self.noise("grain")
        return 0.14 + 0.03 * cloud, 0.15 - 0.02 * cloud + 0.02 * grain + 0.03 * self.noise("mottle"), _NONE

    def blood(self) -> _Stains:
        """Red cells, crowded or loose."""
        cells = self.cells("blood")
        present = blend(-1.2, -0.9, self.noise("cloud") + 1.4 * (cells.tint - 0.5))
        disc = blend(3.4, 2.7, cells.centre_um) * present
        dimple = 1 - 0.22 * blend(1.8, 0.4, cells.centre_um)
        red = disc * dimple
        return 0.0 * red, 0.06 + 0.34 * red, (0.20 + 0.1 * (cells.tint - 0.5)) * red


_MATERIALS: dict[TissueType, Callable[[_Spot], _Stains]] = {
    TissueType.TUMOR_NEST: _Spot.tumor,
    TissueType.TUMOR_STROMA: _Spot.desmoplasia,
    TissueType.KERATIN: _Spot.keratin,
    TissueType.NECROSIS: _Spot.necrosis,
    TissueType.EPITHELIUM: _Spot.epithelium,
    TissueType.CONNECTIVE: _Spot.collagen,
    TissueType.FAT: _Spot.fat,
    TissueType.MUSCLE: _Spot.muscle,
    TissueType.GLAND: _Spot.gland,
    TissueType.LYMPHOID: _Spot.lymphoid,
    TissueType.BLOOD: _Spot.blood,
}
"""How each tissue is stained; glass is not."""

_NORMAL: dict[str, tuple[TissueType, Callable[[_Spot], _Stains]]] = {
    "cytoplasm": (TissueType.TUMOR_NEST, _Spot.pale),
    "stroma": (TissueType.TUMOR_STROMA, _Spot.collagen),
}
"""What a tissue of the carcinoma is painted as where a cause is taken away."""


def paint(block: Block, without: tuple[str, ...] = ()) -> Plane:
    """Stain everything but the nuclei.

    Parameters
    ----------
    block
        What to stain.
    without
        As `SlideSpec.without`.

    Returns
    -------
    NDArray[np.float32]
        Concentrations `[3, side, side]`: hematoxylin, eosin, orange.
    """
    stains = np.zeros((3, *block.types.shape), np.float32)
    for code, material in {**_MATERIALS, **dict(_NORMAL[name] for name in without if name in _NORMAL)}.items():
        mask = block.types == code
        if mask.any():
            spot = _Spot(block=block, mask=mask)
            for plane, values in zip(stains, material(spot), strict=True):
                plane.ravel()[spot.index] = values
    np.maximum(stains, 0, out=stains)
    return stains
