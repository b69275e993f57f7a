"""Tiles without a candidate shortcut, and with it where it was not: what a network might use and should not.

Each candidate is taken away from real pixels, and put onto pixels that lack it. Beside each stands the same change
where it does not touch the candidate, matched in area and strength: what the score loses to that is what any such
change costs. Patches, such as ink, are filled with tissue of the same tile, for grey and blur are nothing that
networks know (arXiv:2408.16395); looks, such as a stain, are moved from what they are in one class to what they are in
the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from scipy import ndimage

from vitrail.quality.areas import EIGHT
from vitrail.quality.background import optical_density
from vitrail.quality.features import neutral
from vitrail.quality.rules import EOSIN, HEMATOXYLIN
from vitrail.settings.schema import ArtefactSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Images = NDArray[np.uint8]
    Mask = NDArray[np.bool_]
    Floats = NDArray[np.float64]

LIGHT = 245.0
"""What empty glass looks like, in grey levels: only densities far from 0 matter here."""

_RULES = ArtefactSettings()
_TISSUE = 0.08
"""Least mean optical density of tissue."""

_EDGE_UM = 4.0
"""By how much a patch is taken away beyond its edge, which resampling has mixed with its surroundings."""

_STEPS = 8
"""Tissue is fetched from places that lie a multiple of this part of the tile's side away."""

_RING_PX = 3
_BLOCK_PX = 16
"""Side of the blocks whose spectra are compared."""

LEAST_GAIN = 2.0
"""Bands of fine detail whose amplitudes differ between the classes by less than this factor are none to ask about.

Tissues differ, too: in clean synthetic cohorts by up to 1.4; where a scanner's focus fails, by 10 and more.
"""

_VECTORS = np.array([HEMATOXYLIN, EOSIN, np.cross(HEMATOXYLIN, EOSIN)])
_UNIT = _VECTORS / np.linalg.norm(_VECTORS, axis=1, keepdims=True)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Changed:
    """Tiles after a change, `[n, h, w, 3]` each.

    Attributes
    ----------
    images
        With the candidate taken away, or put there.
    matched
        After changes as large that do not touch the candidate: one or several sets.
    """

    images: Images
    matched: tuple[Images, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Looks:
    """Training tiles that say what a class looks like.

    Attributes
    ----------
    images
        `[n, h, w, 3]`.
    patients
        Whose they are, `[n]`.
    """

    images: Images
    patients: NDArray[np.str_]


class Counterfactual(Protocol):
    """A candidate that can be taken away and put there."""

    @property
    def name(self) -> str:
        """What it is called in tables."""

    def take(self, images: Images) -> Changed:
        """Return tiles of tumor without the candidate."""

    def put(self, images: Images, donors: Images) -> Changed:
        """Return other tiles with the candidate, as the donors, tiles of tumor, have it."""


def unmix(images: Images) -> Floats:
    """Return hematoxylin, eosin and what is neither, `[..., 3]` (Ruifrok and Johnston 2001)."""
    return np.asarray(optical_density(images, LIGHT) @ np.linalg.inv(_UNIT), np.float64)


def ink(images: Images, um_per_px: float) -> Mask:
    """Return where there is coloured ink, `[n, h, w]`: a colour that no mixture of the stains has."""
    density, stains = optical_density(images, LIGHT), unmix(images)
    length = np.maximum(np.linalg.norm(density, axis=-1), 1e-6)
    hue = stains[..., 1] / length
    cool, red = hue < _RULES.ink, hue > _RULES.red_ink
    return _without_specks((length > _RULES.ink_density) & (cool | red), um_per_px)


def mark(images: Images, um_per_px: float) -> Mask:
    """Return where there is black or grey, `[n, h, w]`: print, burnt-in marks, black pen."""
    density = optical_density(images, LIGHT)
    grey = (density.max(axis=-1) > _RULES.grey_density) & neutral(density, _RULES.grey)
    return _without_specks(grey, um_per_px)


def _without_specks(masks: Mask, um_per_px: float) -> Mask:
    """Drop what is smaller than a nucleus, such as a dark nucleus' or a pigment's pixels."""
    least = max(int(_RULES.cell_um**2 / um_per_px**2), 2)
    cleaned = np.zeros_like(masks)
    for mask, clean in zip(masks, cleaned, strict=True):
        pieces, _ = ndimage.label(mask, EIGHT)
        large = np.bincount(pieces.ravel()) >= least
        large[0] = False
        clean[:] = large[pieces]
    return cleaned


def shifts_of(side_px: int) -> NDArray[np.int64]:
    """Return the shifts, rows and columns, that tissue is fetched over; nearer ones first."""
    line = np.arange(_STEPS) - _STEPS // 2
    pairs = np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 2)
    near = np.argsort(np.square(pairs).sum(axis=1), kind="stable")[1:]
    return np.asarray(pairs[near] * max(side_px // _STEPS, 1), np.int64)


def fill(image: Images, hole: Mask, never: Mask | None = None) -> Images:
    """Fill a hole with tissue of the same tile: what surrounds the hole decides from where.

    Parameters
    ----------
    image
        `[h, w, 3]`.
    hole
        What to fill, `[h, w]`.
    never
        What tissue must not be fetched from, beside the hole.

    Returns
    -------
    NDArray[np.uint8]
        `[h, w, 3]`; where no place of the tile is free, the mean of what is.
    """
    barred = hole if never is None else hole | never
    if not hole.any() or barred.all():
        return image.copy()
    ring = ndimage.binary_dilation(hole, EIGHT, iterations=_RING_PX) & ~barred
    offers = []
    for shift in shifts_of(len(image)):
        source, free = np.roll(image, shift, (0, 1)), ~np.roll(barred, shift, (0, 1))
        compared = ring & free
        error = np.abs(source[compared].astype(np.int64) - image[compared]).mean() if compared.any() else np.inf
        offers.append((float(error), source, free))
    filled, left = image.copy(), hole.copy()
    for _, source, free in sorted(offers, key=lambda offer: offer[0]):
        part = left & free
        filled[part] = source[part]
        left &= ~part
    filled[left] = image[~barred].mean(axis=0).round()
    return filled


def elsewhere(mask: Mask, image: Images) -> tuple[Mask, NDArray[np.int64]]:
    """Return a mask moved to where it covers least of itself, and then most tissue; and its shift."""
    tissue = optical_density(image, LIGHT).mean(axis=-1) > _TISSUE
    moved = [(np.roll(mask, shift, (0, 1)), shift) for shift in shifts_of(len(image))]
    return min(moved, key=lambda pair: (int((pair[0] & mask).sum()), -int((pair[0] & tissue).sum())))


@dataclass(frozen=True, slots=True, kw_only=True)
class Patches:
    """What covers tissue with a colour that tissue cannot have.

    Attributes
    ----------
    name
        In tables.
    where
        Finds it: called with tiles and micrometres per pixel.
    um_per_px
        Of the tiles.
    """

    name: str
    where: Callable[[Images, float], Mask]
    um_per_px: float

    def _holes(self, images: Images) -> Mask:
        edge = max(round(_EDGE_UM / self.um_per_px), 1)
        masks = self.where(images, self.um_per_px)
        return np.stack([ndimage.binary_dilation(mask, EIGHT, iterations=edge) for mask in masks])

    def take(self, images: Images) -> Changed:
        """Fill the patches; matched: as much tissue elsewhere in the tile is filled in the same way."""
        changed, matched = images.copy(), images.copy()
        for k, hole in enumerate(self._holes(images)):
            if hole.any():
                changed[k] = fill(images[k], hole)
                matched[k] = fill(images[k], elsewhere(hole, images[k])[0] & ~hole, hole)
        return Changed(images=changed, matched=(matched,))

    def put(self, images: Images, donors: Images) -> Changed:
        """Copy the donors' patches onto tiles; matched: pieces as large of the donors' own tissue."""
        changed, matched = images.copy(), images.copy()
        for k, hole in enumerate(self._holes(donors)):
            if hole.any():
                shift = elsewhere(hole, donors[k])[1]
                changed[k][hole] = donors[k][hole]
                matched[k][hole] = np.roll(donors[k], -shift, (0, 1))[hole]
        return Changed(images=changed, matched=(matched,))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stain:
    """How strong both stains are in one class and in the other.

    Attributes
    ----------
    name
        In tables.
    change
        Natural logarithm of hematoxylin and of eosin of other tissue over those of tumor.
    """

    name: str = "stain"
    change: Floats

    @classmethod
    def between(cls, tumor: Looks, rest: Looks) -> Stain:
        """Compare two classes patient by patient, for stains differ between slides by more than between classes.

        A tile counts by the medians of its tissue, which a few nuclei do not move.
        """
        (levels, owners), (other_levels, other_owners) = _stain_levels(tumor), _stain_levels(rest)
        common = sorted(set(owners) & set(other_owners))
        if common:
            pairs = [(levels[owners == name], other_levels[other_owners == name]) for name in common]
        elif len(levels) and len(other_levels):
            pairs = [(levels, other_levels)]
        else:
            return cls(change=np.zeros(2))
        return cls(change=np.mean([other.mean(axis=0) - own.mean(axis=0) for own, other in pairs], axis=0))

    def take(self, images: Images) -> Changed:
        """Give tumor the other tissue's stain; matched: a change as large at right angles to it, either way."""
        turned = np.array([-self.change[1], self.change[0]])
        return Changed(images=restain(images, self.change), matched=(restain(images, turned), restain(images, -turned)))

    def put(self, images: Images, donors: Images) -> Changed:  # noqa: ARG002 - a stain has no places
        """Give other tissue the tumor's stain."""
        turned = np.array([-self.change[1], self.change[0]])
        return Changed(
            images=restain(images, -self.change), matched=(restain(images, turned), restain(images, -turned))
        )


def _stain_levels(looks: Looks) -> tuple[Floats, NDArray[np.str_]]:
    """Return the logarithms of both stains' medians over the tissue of each tile that has any, and whose tile it is."""
    stains, tissue = unmix(looks.images)[..., :2], optical_density(looks.images, LIGHT).mean(axis=-1) > _TISSUE
    filled = tissue.any(axis=(1, 2))
    medians = [np.median(levels[mask], axis=0) for levels, mask in zip(stains[filled], tissue[filled], strict=True)]
    return np.log(np.maximum(np.reshape(medians, (-1, 2)), 0.01)), looks.patients[filled]


def restain(images: Images, change: Floats) -> Images:
    """Multiply hematoxylin and eosin by the exponentials of two numbers; glass stays glass."""
    stains = unmix(images)
    stains[..., :2] *= np.exp(change)
    return as_bytes(np.asarray(LIGHT * 10 ** -(stains @ _UNIT)))


def as_bytes(levels: NDArray[np.floating]) -> Images:
    """Round grey levels to bytes."""
    return np.asarray(np.clip(np.rint(levels), 0, 255), np.uint8)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sharpness:
    """The bands of fine detail in which one class is weaker than the other by far, as where a scanner's focus fails.

    Attributes
    ----------
    name
        In tables.
    band
        Which numbers of waves to a block, 0 to `_BLOCK_PX` / 2, belong to them, 0 to 1.
    rest
        Tiles of other tissue that give their detail, `[n, h, w, 3]`.
    """

    name: str = "sharpness"
    band: Floats
    rest: Images

    @classmethod
    def between(cls, tumor: Looks, rest: Looks) -> Sharpness:
        """Compare the spectra of two classes by geometric means over blocks of tissue, which few edges do not move.

        Only the shape counts: how strong coarse detail is, is a matter of tissue and stain.
        """
        first, second = (_spectrum(looks.images) for looks in (tumor, rest))
        gain = (second - first) / 2
        return cls(band=np.r_[0.0, np.abs(gain - gain[0]) > np.log(LEAST_GAIN)], rest=rest.images)

    def take(self, images: Images) -> Changed:
        """Exchange the bands for those of other tissue; matched: for those of the next tile of tumor."""
        others = self.rest[np.resize(np.arange(len(self.rest)), len(images))]
        return self._exchanged(images, others)

    def put(self, images: Images, donors: Images) -> Changed:
        """Exchange the bands for the donors'; matched: for those of the next tile of other tissue."""
        return self._exchanged(images, donors)

    def _exchanged(self, images: Images, others: Images) -> Changed:
        if not self.band.any():
            return Changed(images=images, matched=(images,))
        rows, columns = np.fft.fftfreq(images.shape[1])[:, None], np.fft.rfftfreq(images.shape[2])
        waves = np.minimum(np.hypot(rows, columns) * _BLOCK_PX, len(self.band) - 1)
        swapped = np.interp(waves, np.arange(len(self.band)), self.band)[..., None]
        own, *givers = (
            np.fft.rfft2(optical_density(each, LIGHT).astype(np.float64), axes=(1, 2))
            for each in (images, others, np.roll(images, 1, axis=0))
        )
        changed, matched = (
            as_bytes(
                LIGHT * 10 ** -np.fft.irfft2(own * (1 - swapped) + giver * swapped, s=images.shape[1:3], axes=(1, 2))
            )
            for giver in givers
        )
        return Changed(images=changed, matched=(matched,))


def _spectrum(images: Images) -> Floats:
    """Return the mean logarithm of the power of blocks of tissue at 1, 2, ... waves to a block."""
    density = optical_density(images, LIGHT).mean(axis=-1)
    count = density.shape[1] // _BLOCK_PX
    cut = density[:, : count * _BLOCK_PX, : count * _BLOCK_PX]
    blocks = cut.reshape(len(cut), count, _BLOCK_PX, count, _BLOCK_PX).swapaxes(2, 3).reshape(-1, _BLOCK_PX, _BLOCK_PX)
    means = blocks.mean(axis=(1, 2), keepdims=True)
    blocks = (blocks - means)[means.ravel() > _TISSUE]
    window = np.hanning(_BLOCK_PX + 2)[1:-1]
    power = np.log(np.abs(np.fft.rfft2(blocks * window[:, None] * window)) ** 2 + 1e-9)
    waves = np.hypot(np.fft.fftfreq(_BLOCK_PX)[:, None], np.fft.rfftfreq(_BLOCK_PX)) * _BLOCK_PX
    rings = [np.rint(waves) == number for number in range(1, _BLOCK_PX // 2 + 1)]
    return np.array([power[:, ring].mean() if len(power) else 0.0 for ring in rings])


def candidates(tumor: Looks, rest: Looks, um_per_px: float) -> list[Counterfactual]:
    """Return all candidates.

    Parameters
    ----------
    tumor, rest
        Training tiles of tumor and of other tissue.
    um_per_px
        Of the tiles.

    Returns
    -------
    list[Counterfactual]
        Coloured ink, black or grey marks, stain, sharpness.
    """
    return [
        Patches(name="ink", where=ink, um_per_px=um_per_px),
        Patches(name="mark", where=mark, um_per_px=um_per_px),
        Stain.between(tumor, rest),
        Sharpness.between(tumor, rest),
    ]
