"""Curves as polylines that leave them by at most a quarter of a pixel."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

TOLERANCE_PX = 0.25
_MOST_SEGMENTS = 5_000
"""Of one curve: a circle as large as the largest slide needs as many."""

_SHORTEST_SPAN = 1e-18
"""Square of half the distance of the ends of an arc, in radii: where they are one point nothing tells the ellipse."""

Points = NDArray[np.float64]


def ellipse(centre: tuple[float, float], radii: tuple[float, float], angle: float = 0.0) -> Points:
    """Return an ellipse.

    Parameters
    ----------
    centre
        x and y.
    radii
        Along its own two axes; signs do not matter.
    angle
        Between x and the first axis, in radians, from x towards y.

    Returns
    -------
    Points
        `[n, 2]`, on the ellipse; not closed.
    """
    count = max(8, _segments_of_turn(max(map(abs, radii)), 2 * math.pi))
    turn = np.arange(count) * (2 * math.pi / count)
    x, y = radii[0] * np.cos(turn), radii[1] * np.sin(turn)
    cosine, sine = math.cos(angle), math.sin(angle)
    return np.stack([centre[0] + x * cosine - y * sine, centre[1] + x * sine + y * cosine], axis=1)


def bezier(*control: tuple[float, float]) -> Points:
    """Return a Bezier curve of any degree without its first point.

    How many chords it needs follows from the second differences of its control points (Wang's bound, in Goldman,
    Pyramid Algorithms, 2003).

    Parameters
    ----------
    *control
        Its control points.

    Returns
    -------
    Points
        `[n, 2]`; the last is the last control point itself.
    """
    corners = np.asarray(control, np.float64)
    degree = len(corners) - 1
    bend = np.linalg.norm(np.diff(corners, n=2, axis=0), axis=1).max(initial=0.0)
    count = math.ceil(min(_MOST_SEGMENTS, max(1.0, math.sqrt(degree * (degree - 1) / 8 * bend / TOLERANCE_PX))))
    t = (np.arange(1, count + 1) / count)[:, None]
    curve = sum(
        (math.comb(degree, i) * t**i * (1 - t) ** (degree - i) * corner for i, corner in enumerate(corners)),
        start=np.zeros((count, 2)),
    )
    curve[-1] = corners[-1]
    return curve


def arc(
    start: tuple[float, float], radii: tuple[float, float], angle: float, flags: tuple[bool, bool],
    end: tuple[float, float],
) -> Points:  # fmt: skip
    """Return an elliptical arc of an SVG path without its first point (SVG 2, appendix B.2).

    Parameters
    ----------
    start, end
        Its ends.
    radii
        Of the ellipse; enlarged where it does not reach from one end to the other.
    angle
        Between x and the ellipse's first axis, in radians.
    flags
        Whether the longer of the two arcs is meant, and whether it turns from x towards y.

    Returns
    -------
    Points
        `[n, 2]`; the last is `end`.
    """
    rx, ry = abs(radii[0]), abs(radii[1])
    if not min(rx, ry) or start == end:
        return np.asarray([end], np.float64)
    large, sweep = flags
    cosine, sine = math.cos(angle), math.sin(angle)
    dx, dy = (start[0] - end[0]) / 2, (start[1] - end[1]) / 2
    x, y = cosine * dx + sine * dy, cosine * dy - sine * dx
    grow = math.sqrt(max(1.0, (x / rx) ** 2 + (y / ry) ** 2))
    rx, ry = rx * grow, ry * grow
    span = (x / rx) ** 2 + (y / ry) ** 2
    if span < _SHORTEST_SPAN:
        return np.asarray([end], np.float64)
    root = math.sqrt(max(0.0, 1 / span - 1)) * (-1 if large == sweep else 1)
    cx, cy = root * rx * y / ry, -root * ry * x / rx
    first = math.atan2((y - cy) / ry, (x - cx) / rx)
    turn = math.atan2((-y - cy) / ry, (-x - cx) / rx) - first
    if sweep and turn < 0:
        turn += 2 * math.pi
    elif not sweep and turn > 0:
        turn -= 2 * math.pi
    count = _segments_of_turn(max(rx, ry), abs(turn))
    t = first + turn * np.arange(1, count + 1) / count
    px, py = cx + rx * np.cos(t), cy + ry * np.sin(t)
    middle = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
    curve = np.stack([middle[0] + cosine * px - sine * py, middle[1] + sine * px + cosine * py], axis=1)
    curve[-1] = end
    return curve


def _segments_of_turn(radius: float, turn: float) -> int:
    """Return how many chords a turn needs: each leaves the circle by radius times 1 - cos(half its angle)."""
    if radius <= TOLERANCE_PX:
        return max(1, math.ceil(turn * 2 / math.pi))
    most = 2 * math.acos(1 - TOLERANCE_PX / radius)
    return max(1, min(_MOST_SEGMENTS, math.ceil(turn / most)))
