"""Where each tissue lies: the map of tissue types at one eighth of the resolution, and distances within it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from vitrail.quality.areas import drop_small_pieces
from vitrail.synthetic.fields import Mask, Plane, around, blend, smooth_noise
from vitrail.synthetic.spec import LAYOUT_STEP, SlideSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray


class TissueType(IntEnum):
    """The code of each tissue in the true map (`truth/<slide_id>.npz`, array `types`)."""

    GLASS = 0
    TUMOR_NEST = 1
    TUMOR_STROMA = 2
    KERATIN = 3
    NECROSIS = 4
    EPITHELIUM = 5
    CONNECTIVE = 6
    FAT = 7
    MUSCLE = 8
    GLAND = 9
    LYMPHOID = 10
    BLOOD = 11


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """What differs between slides, drawn once for each.

    Attributes
    ----------
    tumor_share
        Share of the tissue that the carcinoma with its stroma takes; 0 and 1 happen.
    nest_level
        Threshold of the nests' noise field: the higher, the smaller the nests.
    lymphoid_level
        Threshold of the lymphocytes' noise field.
    necrotic
        Whether large nests have dead centres.
    folded
        Whether the section has a fold.
    preference
        How readily fat, muscle and glands appear, in standard deviations.
    fibre_angle
        Main direction of collagen and muscle in radians.
    """

    tumor_share: float
    nest_level: float
    lymphoid_level: float
    necrotic: bool
    folded: bool
    preference: tuple[float, float, float]
    fibre_angle: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Fields at one eighth of the resolution, all `[side / 8, side / 8]`.

    Attributes
    ----------
    types
        Codes of `TissueType`.
    zone
        True where the carcinoma with its stroma lies, whatever the type there.
    nest_um
        Distance from the border of the tumor nests, positive inside.
    basal_um, surface_um
        Within epithelium: distance from the basement membrane; everywhere: distance from the tissue's edge.
    keratin_um
        Depth within keratin.
    infiltrate
        Standard normal field: where lymphocytes wander.
    fold
        Where the section lies double: 1 on the fold, 0 elsewhere.
    across, along
        Coordinates of the fibres in level-0 pixels: fibres follow the lines of equal `across`.
    """

    types: NDArray[np.uint8]
    zone: Mask
    nest_um: Plane
    basal_um: Plane
    surface_um: Plane
    keratin_um: Plane
    infiltrate: Plane
    fold: Plane
    across: Plane
    along: Plane


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sheet:
    """The empty sheet that a layout is drawn on: a random generator, its side, and the scale."""

    rng: np.random.Generator
    side_px: int
    um_per_px: float

    def noise(self, scale_um: float) -> Plane:
        return smooth_noise(self.rng, self.side_px, scale_um / self.um_per_px)

    def part(self, share: float, least_um: float) -> float:
        """Return a share of the side in micrometres, but not less than what a structure needs."""
        return max(share * self.side_px * self.um_per_px, least_um)

    def depth(self, mask: Mask) -> Plane:
        """Return the distance to the nearest pixel outside the mask, in micrometres."""
        distance = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
        return np.asarray(ndimage.gaussian_filter(distance.astype(np.float32) * self.um_per_px, 0.8), dtype=np.float32)

    def axes(self, angle: float) -> tuple[Plane, Plane]:
        """Return coordinates from -1 to 1, turned by an angle: across and along."""
        line = np.linspace(-1, 1, self.side_px, dtype=np.float32)
        c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        return c * line[:, None] - s * line, s * line[:, None] + c * line

    def discs(self, room: Plane, um2_each: float, radii_um: tuple[float, float], rim: float, rim_um: float) -> Plane:
        """Scatter discs, and return the distance from their centres in radii, as far as 1.5 radii.

        A disc is left out where there is less `room` (in micrometres) around its centre than `rim` radii and `rim_um`.
        """
        count = int(room.size * self.um_per_px**2 / um2_each)
        rows, columns = self.rng.integers(0, self.side_px, (2, count))
        distance = np.full(room.shape, np.inf, np.float32)
        for row, column, radius_um in zip(rows, columns, self.rng.uniform(*radii_um, count), strict=True):
            if room[row, column] > rim * radius_um + rim_um:
                radius = radius_um / self.um_per_px
                near, distance_px = around(distance, (row, column), int(1.5 * radius) + 1)
                np.minimum(near, distance_px / radius, out=near)
        return distance


def draw_style(spec: SlideSpec) -> Style:
    """Draw what sets this slide apart from the others."""
    rng = spec.rng(1)
    chance = rng.random()
    mixed = rng.uniform(0.4, 0.65)
    share = 0.0 if chance < 0.06 else 1.0 if chance > 0.9 else mixed
    return Style(
        tumor_share=float(share),
        nest_level=float(rng.uniform(-0.4, 0.2)),
        lymphoid_level=float(rng.uniform(1.2, 1.7)),
        necrotic=bool(rng.random() < 0.35),
        folded=bool(rng.random() < 0.3),
        preference=tuple(rng.uniform(-0.2, 0.7, 3).tolist()),
        fibre_angle=float(rng.uniform(0, np.pi)),
    )


def draw_layout(spec: SlideSpec, style: Style) -> Layout:
    """Lay out the tissues of a slide."""
    sheet = _Sheet(rng=spec.rng(2), side_px=spec.side_px // LAYOUT_STEP, um_per_px=spec.mpp * LAYOUT_STEP)
    # the section is an uneven oval on empty glass
    across, along = sheet.axes(sheet.rng.uniform(0, np.pi))
    radius = np.hypot(along, across / sheet.rng.uniform(0.72, 0.95))
    wavy = 0.12 * sheet.noise(sheet.part(0.22, 60)) + 0.02 * sheet.noise(sheet.part(0.06, 40)) + 0.004 * sheet.noise(18)
    line = np.abs(np.linspace(-1, 1, sheet.side_px, dtype=np.float32))
    outward = np.maximum(line[:, None], line)
    rim = 0.85 * blend(0.62, 1.0, outward + 0.06 * sheet.noise(sheet.part(0.15, 60)))
    oval = (0.98 - radius + wavy > rim) & (outward < 0.98)
    tissue: Mask = ndimage.binary_fill_holes(drop_small_pieces(oval, oval.size // 100))
    surface = sheet.depth(tissue)
    # one side of it, behind an uneven front, is the carcinoma's
    across, _ = sheet.axes(sheet.rng.uniform(0, 2 * np.pi))
    front = across + 0.28 * sheet.noise(sheet.part(0.25, 90)) + 0.05 * sheet.noise(sheet.part(0.06, 40))
    if style.tumor_share in (0.0, 1.0):
        zone = tissue & bool(style.tumor_share)
    else:
        zone = tissue & (front < np.quantile(front[tissue], style.tumor_share))
    types = np.zeros(tissue.shape, np.uint8)
    _fill_normal(sheet, types, tissue & ~zone, surface, style)
    _fill_tumor(sheet, types, zone, style, keratinising=spec.keratinising)
    _fill_stroma(sheet, types, style)
    # fibres follow a straight frame that smooth noise bends
    across, along = sheet.axes(style.fibre_angle)
    half, px = sheet.side_px * LAYOUT_STEP / 2, LAYOUT_STEP / sheet.um_per_px
    across = across * half + px * (70 * sheet.noise(420) + 26 * sheet.noise(130) + 6 * sheet.noise(42))
    along = along * half + px * 25 * sheet.noise(130)
    nest = np.isin(types, (TissueType.TUMOR_NEST, TissueType.KERATIN, TissueType.NECROSIS))
    return Layout(
        types=types,
        zone=zone,
        nest_um=sheet.depth(nest) - sheet.depth(~nest),
        basal_um=sheet.depth((types == TissueType.EPITHELIUM) | ~tissue),
        surface_um=surface,
        keratin_um=sheet.depth(types == TissueType.KERATIN),
        infiltrate=sheet.noise(60),
        fold=_draw_fold(sheet, surface) if style.folded else np.zeros_like(surface),
        across=across.astype(np.float32),
        along=along.astype(np.float32),
    )


def _fill_normal(sheet: _Sheet, types: NDArray[np.uint8], normal: Mask, surface: Plane, style: Style) -> None:
    """Line the edge with squamous epithelium; put fat, muscle and glands into connective tissue below it."""
    types[normal] = TissueType.CONNECTIVE
    thickness = min(sheet.part(0.16, 75), 190) * (1 + 0.15 * sheet.noise(150)) + 26 * sheet.noise(34)
    lined = sheet.noise(sheet.part(0.3, 100)) > -0.75
    epithelium = normal & lined & (surface < np.maximum(thickness, 40))
    epithelium = drop_small_pieces(epithelium, int(3000 / sheet.um_per_px**2))
    deep = normal & (sheet.depth(~epithelium) > sheet.part(0.02, 25)) & (surface > sheet.part(0.015, 15))
    fields = [sheet.noise(sheet.part(0.13, 80)) + preference for preference in style.preference]
    strongest = np.argmax(fields, axis=0)
    for number, kind in enumerate((TissueType.FAT, TissueType.MUSCLE, TissueType.GLAND)):
        types[deep & (strongest == number) & (fields[number] > 0.55)] = kind
    types[epithelium] = TissueType.EPITHELIUM


def _fill_tumor(sheet: _Sheet, types: NDArray[np.uint8], zone: Mask, style: Style, *, keratinising: bool) -> None:
    """Strew nests through a desmoplastic stroma; give large ones keratin pearls or dead centres."""
    types[zone] = TissueType.TUMOR_STROMA
    shape = sheet.noise(85) + 0.5 * sheet.noise(38) + 0.1 * sheet.noise(17)
    nest = zone & (shape > style.nest_level)
    types[nest] = TissueType.TUMOR_NEST
    depth = sheet.depth(nest)
    if style.necrotic:
        types[nest & (depth + 8 * sheet.noise(25) > 62)] = TissueType.NECROSIS
    if keratinising:
        alive = types == TissueType.TUMOR_NEST
        # a rim of living cells stays around each pearl
        pearls = sheet.discs(sheet.depth(alive), 30_000, (14, 34), 1.35, 0)
        types[alive & (pearls * (1 + 0.13 * sheet.noise(14)) < 1)] = TissueType.KERATIN


def _fill_stroma(sheet: _Sheet, types: NDArray[np.uint8], style: Style) -> None:
    """Add what occurs in tumor and normal stroma alike: lymphocytes, vessels, bleeding."""
    stroma = (types == TissueType.TUMOR_STROMA) | (types == TissueType.CONNECTIVE)
    types[stroma & (sheet.noise(48) + 0.4 * sheet.noise(16) > style.lymphoid_level)] = TissueType.LYMPHOID
    vessels = sheet.discs(sheet.depth(stroma), 9_000, (7, 18), 1, 6)
    bleeding = sheet.noise(sheet.part(0.05, 40)) > 2.0
    types[stroma & ((vessels * (1 + 0.2 * sheet.noise(12)) < 1) | bleeding)] = TissueType.BLOOD


def _draw_fold(sheet: _Sheet, surface: Plane) -> Plane:
    """Fold the section along a winding line of limited length."""
    across, along = sheet.axes(sheet.rng.uniform(0, np.pi))
    half_um = sheet.side_px * sheet.um_per_px / 2
    winding = across + 0.12 * sheet.noise(sheet.part(0.25, 90)) - sheet.rng.uniform(-0.4, 0.4)
    distance = np.asarray(np.abs(winding) * half_um, dtype=np.float32)
    length = sheet.rng.uniform(0.2, 0.45)
    from_middle = np.abs(along - sheet.rng.uniform(-0.4, 0.4)).astype(np.float32)
    width = np.float32(11) * blend(length, 0.4 * length, from_middle)
    return np.where(surface > 0, blend(0.0, 4.0, width - distance), np.float32(0))
