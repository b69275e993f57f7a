"""One look for every figure, and files that are the same bytes whenever they are written."""

from __future__ import annotations

import base64
import io
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.font_manager import findfont, get_font
from PIL import Image

from vitrail.classes import NETWORK_COLOURS
from vitrail.core.files import write_text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAPER, INK, MUTED, LINE = "#fefefe", "#1c2530", "#5f6b78", "#d3d9df"
"""Background, text, lesser text and rules: nothing else has these colours, so that a page can swap them when dark."""

FIRST, SECOND = NETWORK_COLOURS.values()
"""Classifier and segmenter; their lines also differ in dash."""

DASHES: dict[str, str | tuple[float, tuple[float, ...]]] = {FIRST: "-", SECOND: (0, (5, 1.6))}

DPI = 200
"""Pixels an inch of PNG files, and of pictures within SVG files."""

CITED = "D\N{LATIN SMALL LETTER O WITH DIAERESIS}rrich et al. 2023"
"""How captions name the paper."""

_FAST = 2  # of PNG files: a fifth of the time for a few percent more bytes

_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans", "font.size": 9, "text.parse_math": False, "text.color": INK,
    "axes.titlesize": 10, "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.titlepad": 9,
    "axes.titlecolor": INK, "axes.labelcolor": INK, "axes.edgecolor": MUTED, "axes.linewidth": 0.8,
    "axes.facecolor": "none", "axes.axisbelow": True, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.color": LINE, "grid.linewidth": 0.7,
    "xtick.color": MUTED, "ytick.color": MUTED, "xtick.labelcolor": INK, "ytick.labelcolor": INK,
    "xtick.labelsize": 8.5, "ytick.labelsize": 8.5, "xtick.major.size": 3, "ytick.major.size": 3,
    "legend.frameon": True, "legend.facecolor": PAPER, "legend.edgecolor": "none",
    "figure.constrained_layout.h_pad": 0.09, "figure.constrained_layout.w_pad": 0.07,
    "legend.fontsize": 8.5, "lines.linewidth": 1.8,
    "figure.facecolor": PAPER, "figure.titlesize": 11.5, "figure.titleweight": "bold",
    "savefig.facecolor": "auto", "svg.fonttype": "path",
}  # fmt: skip


@contextmanager
def style() -> Iterator[None]:
    """Draw and save within this: the project's look, whatever the user's own matplotlib settings are."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


def save(figure: Figure, folder: Path, name: str) -> str:
    """Write a figure as SVG and PNG, free of dates and versions; call it within `style()`.

    Photographs within the SVG are JPEGs; in the PNG they are as they were.

    Parameters
    ----------
    figure
        What to write.
    folder, name
        Where to, without an ending.

    Returns
    -------
    str
        The text of the SVG.
    """
    written = io.StringIO()
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)  # once, not anew for either file, and without a drawing for its sake
        figure.set_layout_engine("none")
    with mpl.rc_context({"svg.hashsalt": name}):
        nameless = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        FigureCanvasSVG(figure).print_figure(written, format="svg", dpi=DPI, metadata=nameless)
    text = re.sub(r"data:image/png;base64,([A-Za-z0-9+/=\s]+)", lambda match: _lighter(match[1]), written.getvalue())
    text = re.sub(r'(<image\b[^>]*?)\s+id="[^"]*"', r"\1", text)  # named by content: two alike would have one name
    write_text(folder / f"{name}.svg", text)
    save_png(figure, folder / f"{name}.png")
    return text


def save_png(figure: Figure, path: Path | io.BytesIO, dpi: int | None = None) -> None:
    """Write a PNG, free of dates and versions; call it within `style()`.

    Parameters
    ----------
    figure
        What to write.
    path
        The file, or what is written to instead.
    dpi
        Pixels an inch; None takes `DPI`.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    FigureCanvasAgg(figure).print_figure(
        path, format="png", dpi=dpi or DPI, metadata={"Software": None}, pil_kwargs={"compress_level": _FAST}
    )


def data_uri(figure: Figure, dpi: int) -> str:
    """Return a figure as a `data:` address for a page: a JPEG where it is a photograph; call it within `style()`."""
    written = io.BytesIO()
    save_png(figure, written, dpi)
    return _lighter(base64.b64encode(written.getvalue()).decode())


def _lighter(png: str) -> str:
    """Return the data URI of a picture: a JPEG where that halves it, as photographs do, otherwise the PNG."""
    raw = "".join(png.split())
    picture = Image.open(io.BytesIO(base64.b64decode(raw))).convert("RGBA")
    out = io.BytesIO()
    picture.convert("RGB").save(out, "JPEG", quality=90)
    jpeg = base64.b64encode(out.getvalue()).decode()
    if 2 * len(jpeg) > len(raw) or int(np.asarray(picture)[..., 3].min()) < 255:
        return f"data:image/png;base64,{raw}"
    return f"data:image/jpeg;base64,{jpeg}"


def drawable(text: object, longest: int = 48) -> str:
    """Shorten a user's text to one line, with a box for every character that the font lacks."""
    font = get_font(findfont("DejaVu Sans"))  # both remember what they return
    line = "".join(c if c.isprintable() and font.get_char_index(ord(c)) else "\N{WHITE SQUARE}" for c in str(text))
    return line if len(line) <= longest else line[: longest - 1] + "\N{HORIZONTAL ELLIPSIS}"


def bare(axes: Axes) -> None:
    """Take the grid, the spines and the tick marks away."""
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
