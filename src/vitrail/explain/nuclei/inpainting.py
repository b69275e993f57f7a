"""Nuclei painted over from the tissue between them, so that what is left looks as if there had been none.

What a nucleus does to a score is measured by taking it away, and that asks for pixels to put there which do nothing
themselves. They are made of two parts. The colour comes from the rim: the harmonic function through the tissue around
the nucleus, smoothed, as smooth as a soap film over it. The grain comes from tissue nearby that has the same colour:
what is there beyond its own smooth colour, moved as one piece. Neither ever comes from a nucleus: where nuclei touch
each other, colour is drawn in from beyond all of them. So one painting of a tile serves for all nuclei in any
combination, and taking a nucleus away twice, or after another, changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage, sparse

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Image = NDArray[np.uint8]
    Mask = NDArray[np.bool_]
    Labels = NDArray[np.int32]
    Planes = NDArray[np.float32]

HALO_UM = 1.0
"""How far beyond its outline a nucleus is painted over: its edge is blurred, and outlines are drawn inside it."""

_GRAIN_UM = 3.0
"""Standard deviation of the blur that parts the colour of tissue from its grain."""

_BOUND_UM = 3.0
"""How far from tissue that is left the grain may carry its colour away from the smooth one."""

_REACH_UM = 60.0
"""How far away grain is fetched, at most."""

_SHIFTS = 64
"""Places where it is looked for."""

_LOOKED_AT = 64
"""Pixels of a piece, or up to twice as many, that are compared with each of these places."""

_PLACES = 6
"""Places from which the grain of one piece may come."""

_CALM = 3.0
"""Grey levels of grain that are never too much."""

_SWEEPS, _OVER = 24, 1.8
"""Relaxations at each scale, and by how much each pixel goes further than to the mean of its neighbours."""


def with_halo(labels: Labels, mpp: float, halo_um: float = HALO_UM) -> Labels:
    """Give each nucleus the pixels around it that it is painted over with.

    Parameters
    ----------
    labels
        `[h, w]`: the number of the nucleus, 0 where there is none.
    mpp
        Micrometres per pixel.
    halo_um
        How far each grows; where two meet, each pixel belongs to the nearer one.

    Returns
    -------
    NDArray[np.int32]
        `[h, w]`: every nucleus with its halo, none over another.
    """
    if not labels.any():
        return labels.astype(np.int32)
    far, nearest = ndimage.distance_transform_edt(labels == 0, return_indices=True)
    return np.where(far <= max(halo_um / mpp, 1.0), labels[tuple(nearest)], 0).astype(np.int32)


def inpaint(
    image: Image, mask: Mask | Labels, *, mpp: float = 0.5, barred: Mask | None = None, seed: tuple[int, ...] = (0,)
) -> Image:
    """Paint over what a mask covers.

    Parameters
    ----------
    image
        `[h, w, 3]`.
    mask
        What is painted over, `[h, w]`: booleans, or numbers above 0 of pieces, each of which gets grain of one place.
    mpp
        Micrometres per pixel.
    barred
        What nothing is to be taken from, beside the mask, such as all other nuclei, `[h, w]`.
    seed
        Numbers that decide where grain comes from.

    Returns
    -------
    NDArray[np.uint8]
        `[h, w, 3]`; outside the mask nothing changes. An image without any free pixel is left as it is.
    """
    pieces = np.asarray(ndimage.label(mask)[0] if mask.dtype == np.bool_ else mask, np.int32)
    inside = pieces > 0
    closed = inside if barred is None else inside | barred
    if not inside.any() or closed.all():
        return image.copy()
    free = ~closed
    smooth = _smooth(image, free, _GRAIN_UM / mpp)
    rough = np.abs(image - smooth).mean(2, keepdims=True)
    filled = harmonic_fill(np.concatenate([smooth, _smooth(rough, free, _GRAIN_UM / mpp)], axis=2), closed)
    colour, usual = filled[..., :3], filled[..., 3]
    residual = np.where(free[..., None], image - colour, np.float32(0))
    bend, pull = _grain(residual, colour.mean(2), usual, pieces, free, mpp=mpp, seed=seed), (mpp / _BOUND_UM) ** 2 / 4
    painted = image.copy()
    painted[inside] = np.clip(np.rint(colour + harmonic_fill(residual, closed, bend, pull)), 0, 255)[inside]
    return painted


def _smooth(image: Image | Planes, free: Mask, sigma_px: float) -> Planes:
    """Blur an image among its free pixels alone (normalised convolution)."""
    weight = free.astype(np.float32)[..., None]
    spread = (sigma_px, sigma_px, 0.0)
    sums = ndimage.gaussian_filter(image * weight, spread, mode="reflect", truncate=3.0)
    return np.asarray(sums / np.maximum(ndimage.gaussian_filter(weight, spread, mode="reflect", truncate=3.0), 1e-6))


def harmonic_fill(planes: Planes, hole: Mask, bend: Planes | None = None, pull: float = 0.0) -> Planes:
    """Fill a hole with what is as smooth as can be: each pixel the mean of its four neighbours.

    First at half the resolution, then relaxed; the image goes on beyond its border as its mirror image.

    Parameters
    ----------
    planes
        `[h, w, c]`.
    hole
        `[h, w]`; what `planes` has there does not count.
    bend
        How much more than that mean each pixel shall be, `[h, w, c]`: the hole then has this grain. None is 0.
    pull
        How strongly each pixel is drawn to 0, beside a neighbour's pull of a quarter: what happens further away than
        half of one over its root, in pixels, hardly counts.

    Returns
    -------
    NDArray[np.float32]
        `[h, w, c]`, as it was outside the hole. Where all is hole, 0.
    """
    filled = np.where(hole[..., None], np.float32(0), planes)
    if not hole.any() or hole.all():
        return filled
    height, width = hole.shape
    if min(height, width) > 1:
        odd = ((0, height % 2), (0, width % 2))
        weight = np.pad(~hole, odd).astype(np.float32)[..., None]
        count = _halved(weight)
        means = np.asarray(_halved(np.pad(filled, (*odd, (0, 0))) * weight) / np.maximum(count, 1), np.float32)
        # on a grid of twice the step a function bends four times as much, and the mean of four is a quarter of the sum
        wider = None if bend is None else _halved(np.pad(np.where(hole[..., None], bend, 0), (*odd, (0, 0))))
        coarse = harmonic_fill(means, count[..., 0] == 0, wider, 4 * pull)
        filled[hole] = _doubled(coarse)[:height, :width][hole]
    else:
        filled[hole] = filled[~hole].mean(0)
    return _relaxed(filled, hole, bend, pull)


def _halved(planes: Planes) -> Planes:
    height, width, channels = planes.shape
    return np.asarray(planes.reshape(height // 2, 2, width // 2, 2, channels).sum((1, 3)))


def _doubled(planes: Planes) -> Planes:
    """Enlarge planes to twice their sides, bilinearly."""
    for axis in (0, 1):
        edge = [(1, 1) if own == axis else (0, 0) for own in range(3)]
        padded = np.moveaxis(np.pad(planes, edge, mode="edge"), axis, 0)
        middle = padded[1:-1]
        pairs = np.stack([0.75 * middle + 0.25 * padded[:-2], 0.75 * middle + 0.25 * padded[2:]], axis=1)
        planes = np.moveaxis(pairs.reshape(-1, *middle.shape[1:]), 0, axis).astype(np.float32)
    return planes


def _relaxed(planes: Planes, hole: Mask, bend: Planes | None, pull: float) -> Planes:
    """Move the pixels of a hole towards the mean of their neighbours, `_SWEEPS` times, both colours of a chessboard."""
    height, width = hole.shape
    rows, columns = np.nonzero(hole)
    order = np.argsort((rows + columns) % 2, kind="stable")
    rows, columns = rows[order], columns[order]
    own, even = rows * width + columns, int(np.count_nonzero((rows + columns) % 2 == 0))
    up, left = np.minimum(np.abs(rows - 1), height - 1), np.minimum(np.abs(columns - 1), width - 1)
    down = np.maximum(np.minimum(rows + 1, 2 * height - 3 - rows), 0)
    right = np.maximum(np.minimum(columns + 1, 2 * width - 3 - columns), 0)
    near = np.stack([up * width + columns, down * width + columns, rows * width + left, rows * width + right])
    number = np.full(height * width, -1)
    number[own] = np.arange(len(own))
    flat, inside = planes.reshape(-1, planes.shape[2]), number[near] >= 0
    fixed = np.where(inside[..., None], 0, flat[near]).sum(0) / 4
    if bend is not None:
        fixed += bend.reshape(flat.shape)[own]
    which, at = np.nonzero(inside)
    matrix = sparse.csr_array(
        (np.full(len(at), 0.25, np.float32), (at, number[near[which, at]])), shape=(len(own), len(own))
    )
    values = flat[own]
    halves = [(part, matrix[part]) for part in (slice(0, even), slice(even, None))]
    for _ in range(_SWEEPS):
        for part, rule in halves:
            step = (rule @ values + fixed[part]) / np.float32(1 + pull) - values[part]
            values[part] += np.float32(_OVER) * step
    flat[own] = values
    return planes


def _grain(
    residual: Planes, grey: Planes, usual: Planes, pieces: Labels, free: Mask, *, mpp: float, seed: tuple[int, ...]
) -> Planes:
    """Fetch grain for each piece from a free place of about its colour and roughness, and what that lacks from others.

    Grain is how much more a pixel is than the mean of its neighbours.
    """
    height, width = pieces.shape
    cross = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]], np.float32)[..., None] / -4
    grain, free = ndimage.correlate(residual, cross, mode="mirror"), ndimage.binary_erosion(free, border_value=1)
    rough = np.abs(residual).mean(2)
    rng = np.random.default_rng(seed)
    angle, reach = rng.uniform(0, 2 * np.pi, _SHIFTS), _REACH_UM / mpp * np.sqrt(rng.uniform(0.01, 1, _SHIFTS))
    shifts = np.rint(np.stack([reach * np.sin(angle), reach * np.cos(angle)], 1)).astype(np.int64)

    def offers(own: NDArray[np.int64], moves: NDArray[np.int64]) -> tuple[NDArray[np.int64], Mask, Planes]:
        """Return the pixels `[moves, n]` that grain could come from, whether it can, and how unlike they are."""
        to = own + moves[:, None]
        within = ((to >= 0) & (to < [height, width])).all(2)
        here, there = own[:, 0] * width + own[:, 1], np.where(within, to[..., 0] * width + to[..., 1], 0)
        rougher = rough.ravel()[there] - usual.ravel()[here]
        usable = within & free.ravel()[there] & (rougher <= 2 * usual.ravel()[here] + _CALM)  # no borders of tissue
        return there, usable, np.abs(grey.ravel()[there] - grey.ravel()[here]) + np.abs(rougher)

    flat, result = grain.reshape(-1, grain.shape[2]), np.zeros_like(grain)
    boxes = dict(enumerate(ndimage.find_objects(pieces), 1))
    for number in np.unique(pieces[pieces > 0]).tolist():
        box = boxes[number]
        left = np.argwhere(pieces[box] == number) + np.array([box[0].start, box[1].start])
        for _ in range(_PLACES):
            _, usable, unlike = offers(left[:: max(len(left) // _LOOKED_AT, 1)], shifts)
            covered = usable.sum(1)
            if not covered.any():
                break
            mean = (unlike * usable).sum(1) / np.maximum(covered, 1)
            best = int(np.argmin(np.where(covered >= 0.9 * covered.max(), mean, np.inf)))
            there, usable, _ = offers(left, shifts[best : best + 1])
            part = usable[0]
            fetched = flat[there[0, part]]
            result[left[part, 0], left[part, 1]] = fetched - fetched.mean(0)  # else the colour would bulge
            left = left[~part]
            if not len(left):
                break
    return result
