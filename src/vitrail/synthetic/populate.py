"""Where the nuclei are: candidates for every tissue, thinned until none overlaps another too far."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

from vitrail.synthetic.cells import CellGrid
from vitrail.synthetic.fields import Mask, Plane, sample
from vitrail.synthetic.layout import Layout, TissueType
from vitrail.synthetic.nuclei import ATYPICAL, KIND_NAMES, KINDS, turned

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vitrail.synthetic.spec import SlideSpec

_NEIGHBOURS_UM = 9.0
_OVERLAP = 0.72
_RIM_UM = 5.0
_APART, _APART_UM = 1.25, 17.0
"""Where the carcinoma's nuclei are not crowded: the least distance of two in sums of their radii, and the largest."""

_CALM = {"fibroblast": ("fibrocyte", 0.52), "lymphocyte": ("plasma", 0.45)}
"""What cells of the tumor's stroma are in normal stroma, and how many there are for each of them."""

_ROOM = 10
"""Number of the generator that takes cells away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Nuclei:
    """The n nuclei of a slide (or candidates for them).

    Attributes
    ----------
    x, y
        Centres `[n]`, level-0 pixels, whole numbers: the middle of the pixel there.
    kind
        Index into `KIND_NAMES`, `[n]`.
    drawing
        Index into the kind's bank, `[n]`.
    gain
        Factor on the hematoxylin, `[n]`.
    """

    x: NDArray[np.int32]
    y: NDArray[np.int32]
    kind: NDArray[np.int32]
    drawing: NDArray[np.int32]
    gain: Plane

    def where(self, keep: Mask | NDArray[np.intp]) -> Nuclei:
        """Return some of the nuclei."""
        return Nuclei(**{field.name: getattr(self, field.name)[keep] for field in fields(self)})

    @classmethod
    def join(cls, *groups: Nuclei) -> Nuclei:
        """Return the nuclei of all groups, one group after the other."""
        return cls(**{f.name: np.concatenate([getattr(group, f.name) for group in groups]) for f in fields(cls)})

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Points:
    """Points on the slide that may become nuclei."""

    planter: _Planter
    x: Plane
    y: Plane

    def field(self, name: str) -> Plane:
        return np.asarray(sample(getattr(self.planter.layout, name), self.x, self.y))

    def on(self, *types: TissueType) -> _Points:
        return self.where(np.isin(self.field("types"), types))

    def where(self, keep: Mask) -> _Points:
        return _Points(planter=self.planter, x=self.x[keep], y=self.y[keep])

    def some(self, share: float | Plane) -> _Points:
        return self.where(self.planter.rng.random(len(self.x)) < share)

    def as_nuclei(self, kind: str | NDArray[np.int32], angle: Plane | None = None) -> Nuclei:
        rng, n = self.planter.rng, len(self.x)
        direction = rng.uniform(0, np.pi, n).astype(np.float32) if angle is None else angle
        kinds = np.full(n, KIND_NAMES.index(kind), np.int32) if isinstance(kind, str) else kind
        return Nuclei(
            x=self.x.astype(np.int32),
            y=self.y.astype(np.int32),
            kind=kinds,
            drawing=turned(direction, rng),
            gain=np.clip(rng.normal(1, 0.07, n), 0.8, 1.2).astype(np.float32),
        )

    def along_fibres(self) -> Plane:
        spread = self.planter.rng.normal(0, 0.22, len(self.x)).astype(np.float32)
        return np.asarray(sample(self.planter.fibre_angle, self.x, self.y)) + spread

    def towards_surface(self) -> Plane:
        return np.asarray(sample(self.planter.upright_angle, self.x, self.y))

    def height(self) -> Plane:
        """Return how far up the epithelium they lie: 0 at the basement membrane, nearly 1 at the surface."""
        basal, surface = self.field("basal_um"), self.field("surface_um")
        return np.asarray(basal / (basal + surface + 1), dtype=np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Planter:
    """Draws the candidates of each tissue; angles are fields of the layout, in radians."""

    spec: SlideSpec
    layout: Layout
    grids: dict[str, CellGrid]
    rng: np.random.Generator
    fibre_angle: Plane
    upright_angle: Plane

    def scatter(self, pitch_um: float, jitter: float = 0.5) -> _Points:
        """Return new points all over the slide."""
        room = int(self.rng.integers(1 << 31))
        return self.points(CellGrid.draw(self.spec, room, pitch_um, jitter))

    def points(self, grid: CellGrid) -> _Points:
        """Return a grid's centres."""
        x, y = grid.within(self.spec.side_px)
        return _Points(planter=self, x=x, y=y)

    def tumor(self) -> Nuclei:
        """Fill the nests: crowded, of all sizes, in all directions, some dividing."""
        points = self.points(self.grids["tumor"]).on(TissueType.TUMOR_NEST).some(0.95)
        dice = self.rng.random(len(points.x))
        names = ("mitosis", "giant", "hyperchromatic", "pyknotic", "atypical")
        kinds = np.array([KIND_NAMES.index(name) for name in names], np.int32)
        return points.as_nuclei(kinds[np.searchsorted((0.012, 0.10, 0.30, 0.315), dice)])

    def basal(self) -> Nuclei:
        """Line the basement membrane with one palisade, and crowd the row above it."""
        near = self.scatter(3.4, 0.35).on(TissueType.EPITHELIUM)
        depth = near.field("basal_um")
        row = near.where((depth > 1.5) & (depth < 6.5))
        palisade = row.as_nuclei("basal", row.towards_surface())
        rest = self.scatter(6.4, 0.25).on(TissueType.EPITHELIUM)
        depth = rest.field("basal_um")
        above = rest.where((depth >= 8) & (depth < 20))
        return Nuclei.join(palisade, above.as_nuclei("basal", above.towards_surface()))

    def spinous(self) -> Nuclei:
        """Give every spinous cell its small round nucleus; towards the surface fewer and flat ones."""
        points = self.points(self.grids["spinous"]).on(TissueType.EPITHELIUM)
        points = points.where(points.field("basal_um") >= 18)
        share = np.interp(points.height(), (0.45, 0.8, 0.97), (1.0, 0.5, 0.15)).astype(np.float32)
        points = points.some(share)
        high = points.height() > 0.66
        rounded, flat = points.where(~high), points.where(high)
        return Nuclei.join(
            rounded.as_nuclei("epithelial"),
            flat.as_nuclei("flat", flat.towards_surface() + np.float32(np.pi / 2)),
        )

    def glandular(self) -> Nuclei:
        """Ring every acinus with nuclei near its edge."""
        points = self.scatter(5.6, 0.3).on(TissueType.GLAND)
        border_um = self.grids["gland"].at(points.x, points.y).border_um
        return points.where((border_um > 7) & (border_um < 12.5)).as_nuclei("glandular")

    def lymphoid(self) -> Nuclei:
        """Pack aggregates with lymphocytes, and let some wander through stroma and, rarely, through tumor."""
        packed = self.scatter(6.3, 0.4).on(TissueType.LYMPHOID).as_nuclei("lymphocyte")
        points = self.scatter(8.5)
        share = np.interp(points.field("infiltrate"), (-0.5, 1.0, 2.2), (0.03, 0.25, 0.8)).astype(np.float32)
        wandering = points.some(share)
        loose = wandering.on(TissueType.TUMOR_STROMA).as_nuclei("lymphocyte")
        sparse = wandering.on(TissueType.CONNECTIVE).some(0.45).as_nuclei("plasma")
        intruders = wandering.on(TissueType.TUMOR_NEST, TissueType.EPITHELIUM).some(0.07).as_nuclei("lymphocyte")
        return Nuclei.join(packed, loose, sparse, intruders)

    def stromal(self) -> Nuclei:
        """Lay fibroblasts and fibrocytes along the fibres."""
        plump = self.scatter(11.5).on(TissueType.TUMOR_STROMA).some(0.8)
        thin = self.scatter(15.5).on(TissueType.CONNECTIVE).some(0.75)
        few = self.scatter(22).on(TissueType.LYMPHOID, TissueType.GLAND).some(0.5)
        groups = ((plump, "fibroblast"), (thin, "fibrocyte"), (few, "endothelial"))
        return Nuclei.join(*[points.as_nuclei(kind, points.along_fibres()) for points, kind in groups])

    def others(self) -> Nuclei:
        """Add the flat nuclei of muscle and fat, and the debris of necrosis and pearls."""
        muscle = self.scatter(19).on(TissueType.MUSCLE).some(0.75)
        fat = self.scatter(7.0).on(TissueType.FAT)
        grid = self.grids["fat"]
        wall = fat.where(grid.at(fat.x, fat.y).border_um < 1.5).some(0.4)
        debris = self.scatter(8.0).on(TissueType.NECROSIS).some(0.35)
        ghosts = self.scatter(11.0).on(TissueType.KERATIN).some(0.12)
        pyknotic = [points.as_nuclei("pyknotic") for points in (debris, ghosts)]
        # nuclei of fat lie along the border of two cells
        step = np.float32(2)
        right = grid.at(wall.x + step, wall.y).border_um - grid.at(wall.x - step, wall.y).border_um
        down = grid.at(wall.x, wall.y + step).border_um - grid.at(wall.x, wall.y - step).border_um
        return Nuclei.join(
            muscle.as_nuclei("myocyte", muscle.along_fibres()),
            wall.as_nuclei("adipocyte", np.asarray(np.arctan2(right, -down), dtype=np.float32)),
            *pyknotic,
        )


def populate(spec: SlideSpec, layout: Layout, grids: dict[str, CellGrid]) -> Nuclei:
    """Place the nuclei of a slide: candidates for every tissue, of which those stay that were placed first."""
    down, right = np.gradient(layout.across)
    basal_down, basal_right = np.gradient(layout.basal_um - layout.surface_um)
    planter = _Planter(
        spec=spec,
        layout=layout,
        grids=grids,
        rng=spec.rng(4),
        fibre_angle=np.arctan2(right, -down).astype(np.float32),
        upright_angle=np.arctan2(basal_down, basal_right).astype(np.float32),
    )
    nuclei = Nuclei.join(
        planter.tumor(), planter.basal(), planter.spinous(), planter.glandular(),
        planter.lymphoid(), planter.stromal(), planter.others(),
    )  # fmt: skip
    depth = np.asarray(sample(layout.surface_um, nuclei.x, nuclei.y), dtype=np.float32)
    nuclei = nuclei.where(depth > _RIM_UM)
    nuclei = nuclei.where(_apart(nuclei, spec.mpp, _OVERLAP, _NEIGHBOURS_UM))
    return _without(nuclei, spec, layout) if spec.without else nuclei


def _apart(nuclei: Nuclei, mpp: float, radii: float, reach_um: float) -> Mask:
    """Return which nuclei stay if none may be nearer to an earlier one than their radii's sum times `radii`."""
    radius = np.array([KINDS[name].radius_um[0] for name in KIND_NAMES], np.float32)[nuclei.kind] / mpp
    tree = cKDTree(np.stack([nuclei.x, nuclei.y], axis=1))
    pairs = tree.query_pairs(reach_um / mpp, output_type="ndarray")
    first, second = pairs.T
    distance = np.hypot(nuclei.x[first] - nuclei.x[second], nuclei.y[first] - nuclei.y[second])
    return _independent(pairs[distance < radii * (radius[first] + radius[second])], len(nuclei))


def _without(nuclei: Nuclei, spec: SlideSpec, layout: Layout) -> Nuclei:
    """Take away what `spec.without` names and is a matter of which nuclei there are; none moves."""
    keep, kind = np.ones(len(nuclei), np.bool_), nuclei.kind.copy()
    if "crowding" in spec.without:
        atypical = np.flatnonzero(np.isin(nuclei.kind, ATYPICAL))
        keep[atypical] = _apart(nuclei.where(atypical), spec.mpp, _APART, _APART_UM)
    if "stroma" in spec.without:
        dice = spec.rng(_ROOM).random(len(nuclei))
        stroma = np.asarray(sample(layout.types, nuclei.x, nuclei.y)) == TissueType.TUMOR_STROMA
        for name, (calm, share) in _CALM.items():
            changed = stroma & (nuclei.kind == KIND_NAMES.index(name))
            kind[changed] = KIND_NAMES.index(calm)
            keep[changed] = dice[changed] < share
    return replace(nuclei, kind=kind).where(keep)


def _independent(pairs: NDArray[np.intp], count: int) -> Mask:
    """Return which of `count` items stay if an item falls to any earlier one that stays and is paired with it."""
    undecided, stays = np.ones(count, np.bool_), np.zeros(count, np.bool_)
    while len(pairs):  # in rounds, so that no more are lost than need be
        blocked = np.zeros(count, np.bool_)
        blocked[pairs[:, 1]] = True
        stays |= undecided & ~blocked
        undecided &= blocked
        undecided[pairs[stays[pairs[:, 0]], 1]] = False
        pairs = pairs[undecided[pairs[:, 1]] & undecided[pairs[:, 0]]]
    return stays | undecided
