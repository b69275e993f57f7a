"""What takes the place of the blocks of a tile that are deleted, in deletion and insertion.

Whatever it is, it must take the evidence away and yet be something that the network has learnt to read. In histology a
blurred or grey tile is not: blurred images lie off the distribution of tissue, and replacing by tissue without tumor
raised the share of methods that are ranked rightly from 42 to 71 % (Afshar et al. 2024, "IBO", arXiv:2408.16395; they
paint it by a diffusion model). Nothing here has a network of its own that would have to be believed, too:

- `blur`: the tile, blurred until no nucleus is left (RISE, arXiv:1806.07421).
- `tissue`: the tile, its dark half painted over from its pale half by normalised convolution (Knutsson and Westin 1993,
  doi:10.1109/CVPR.1993.341081). A blur mixes nuclei into the ground and leaves crowded places purple; the mean colour
  of a tumor tile is as dark as its nuclei are many. This has the colour of the stroma and cytoplasm around each place.
- `donor`: a tile that has no evidence, since it is not tumor and both networks say so; of the same slide or patient,
  so that stain and scanner are the same. Its pixels are in distribution by construction.

Which of them is a test for a network is measured, see `vitrail.explain.checks.results.left_over`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from vitrail.classes import TASKS, TissueClass
from vitrail.explain.checks.perturbation import PER_SIDE

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd
    from numpy.typing import NDArray

    Image = NDArray[np.uint8]
    Floats = NDArray[np.float64]
    Positions = NDArray[np.int64]

GLASS = 0.08
"""Below this mean optical density a pixel is glass, as for artefacts (`[artefacts] tissue`)."""

CALLED = 0.5
"""Tumor scores from which a network calls a tile tumor."""

_FAR = 1e-3  # weight of the mean colour: it decides only where no pale pixel is near


def density(image: Image) -> Floats:
    """Return the optical (decadic) density of each pixel and channel of an image, counted from white."""
    return -np.log10(np.maximum(image, 1) / 255.0)


def blurred(image: Image) -> Image:
    """Blur an image `[h, w, 3]` until no nucleus is left, mirrored beyond its edges.

    The standard deviation is one block, 17 um of a tile of 199 um.
    """
    sigma = image.shape[0] / PER_SIDE
    soft = ndimage.gaussian_filter(image.astype(np.float32), (sigma, sigma, 0), mode="reflect")
    return np.rint(soft).astype(np.uint8)


def painted(image: Image) -> Image:
    """Paint the dark half of an image's tissue, and its glass, over from the pale half.

    Parameters
    ----------
    image
        `[h, w, 3]`.

    Returns
    -------
    NDArray[np.uint8]
        As large; of glass alone, the image blurred.
    """
    dense = density(image).mean(2)
    tissue = dense > GLASS
    if not tissue.any():
        return blurred(image)
    pale = (tissue & (dense <= np.median(dense[tissue]))).astype(np.float64)[..., None]
    sigma = image.shape[0] / PER_SIDE
    mean = (image * pale).sum((0, 1)) / pale.sum()
    colours: Floats = ndimage.gaussian_filter(image * pale, (sigma, sigma, 0), mode="reflect") + _FAR * mean
    colours /= ndimage.gaussian_filter(pale, (sigma, sigma, 0), mode="reflect") + _FAR
    return np.rint(colours).astype(np.uint8)


def without_evidence(rows: pd.DataFrame, networks: Iterable[str] = TASKS) -> NDArray[np.bool_]:
    """Tell which tiles are not tumor, and are called so.

    Parameters
    ----------
    rows
        The rows of the explanations: `label`, and by network its score.
    networks
        Those that have to be right.

    Returns
    -------
    NDArray[np.bool_]
        `[rows]`.
    """
    right = (rows[list(networks)] < CALLED).all(axis=1) & (rows["label"] == TissueClass.NON_TUMOR.key)
    return right.to_numpy(np.bool_)


def choose_donors(rows: pd.DataFrame, chosen: Positions, images: Image, seed: tuple[int, ...]) -> Positions:
    """Choose for each tile a tile without evidence whose pixels take the place of its own.

    Of those of the same slide, or else of the same patient, one is drawn. Where there is none, it is the one whose mean
    optical density is nearest in all three channels.

    Parameters
    ----------
    rows
        The rows of the explanations.
    chosen
        The tiles, as positions in `rows`.
    images
        Of all of the run's tiles, which `rows["tile"]` counts.
    seed
        Numbers that decide what is drawn.

    Returns
    -------
    NDArray[np.int64]
        Positions in `rows`, one for each of `chosen`; empty where there is no tile without evidence.
    """
    donors = np.flatnonzero(without_evidence(rows))
    if not len(donors):
        return donors
    tiles, owners = rows["tile"].to_numpy(), [rows[name].to_numpy() for name in ("slide_id", "patient_id")]
    stains: dict[int, Floats] = {}

    def stain(position: int) -> Floats:
        if position not in stains:
            stains[position] = density(np.asarray(images[tiles[position]])).mean((0, 1))
        return stains[position]

    result = np.empty(len(chosen), np.int64)
    for number, position in enumerate(chosen.tolist()):
        own = next((near for owner in owners if len(near := donors[owner[donors] == owner[position]])), donors[:0])
        if len(own):
            result[number] = np.random.default_rng([*seed, position]).choice(own)
        else:
            far = [np.square(stain(donor) - stain(position)).sum() for donor in donors.tolist()]
            result[number] = donors[int(np.argmin(far))]
    return result


def replacements(image: Image, donor: Image | None, names: Iterable[str]) -> dict[str, Image]:
    """Return what takes the place of an image.

    Parameters
    ----------
    image
        `[h, w, 3]`.
    donor
        A tile without evidence, as large; None where there is none.
    names
        Of `check.replacements`.

    Returns
    -------
    dict[str, NDArray[np.uint8]]
        By name; `donor` is left out where there is none.
    """
    made: dict[str, Image] = {}
    for name in names:
        if name == "donor":
            made |= {} if donor is None else {name: donor}
        else:
            made[name] = blurred(image) if name == "blur" else painted(image)
    return made
