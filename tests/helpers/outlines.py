"""Made-up outlines, and slides whose bounds are not the whole."""

from __future__ import annotations

import numpy as np
import shapely
from hypothesis import strategies as st

from vitrail.geometry import Region
from vitrail.slides.outlines.writing import Outline
from vitrail.slides.slide import Slide


def made_up_slide(path, x=0, y=0, size=(1000, 800), frame=None):
    """A slide as its header would say it, without a file; its bounds begin at (x, y) of its own frame."""
    bounds = Region(x=x, y=y, width=size[0], height=size[1])
    return Slide(path=path, bounds=bounds, mpp=0.25, downsamples=(1.0,), frame=frame)


@st.composite
def stars(draw, centre, least, most):
    """A ring around a point, whose corners lie at growing angles and so cross nowhere."""
    count = draw(st.integers(3, 9))
    radii = draw(st.lists(st.floats(least, most), min_size=count, max_size=count))
    turn = np.arange(count) * (2 * np.pi / count) + draw(st.floats(0, 1))
    return np.stack([centre[0] + radii * np.cos(turn), centre[1] + radii * np.sin(turn)], axis=1)


@st.composite
def polygons(draw):
    """A polygon with up to four holes, some with an island."""
    x, y = draw(st.floats(0, 50_000)), draw(st.floats(0, 50_000))
    shell = draw(stars((x, y), 120, 200))
    spots = draw(st.lists(st.sampled_from([(-20, -20), (-20, 20), (20, -20), (20, 20)]), max_size=4, unique=True))
    holes, islands = [], []
    for dx, dy in spots:
        holes.append(draw(stars((x + dx, y + dy), 8, 12)))
        if draw(st.booleans()):
            islands.append(shapely.Polygon(draw(stars((x + dx, y + dy), 1, 3))))
    return [shapely.Polygon(shell, holes), *islands]


@st.composite
def outlines(draw, *, unnamed=True):
    """Outlines of some classes, of one or more polygons each; classes and shapes may overlap."""
    names = st.sampled_from(["Tumor", "Stroma & <fat>", 'é "x"', *([None] if unnamed else [])])
    result = []
    for shell, *islands in draw(st.lists(polygons(), min_size=1, max_size=4)):
        name = draw(names)
        result.append(Outline(name=name, area=shell))
        result += [Outline(name=draw(st.sampled_from([name, "Island"])), area=island) for island in islands]
    return result
