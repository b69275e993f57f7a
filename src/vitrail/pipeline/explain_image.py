"""One picture, one model: why the network says what it says."""

from __future__ import annotations

import io
import math
import warnings
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from vitrail.classes import TissueClass
from vitrail.core.files import exporting, read_regular
from vitrail.errors import SettingsError, SlideError
from vitrail.explain.explainer import Explainer
from vitrail.explain.methods.base import FIT, METHODS, find_heads
from vitrail.geometry import Region
from vitrail.inference.predictor import Predictor
from vitrail.models.classifier import Classifier
from vitrail.models.device import keep_memory, pick_device
from vitrail.models.store import load_model
from vitrail.pipeline.run import Outcome
from vitrail.report.figures.heatmap import save_overlay
from vitrail.slides.slide import open_slide, read_region

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from vitrail.explain.saliency import Saliency
    from vitrail.models.spec import ModelSpec
    from vitrail.models.store import Model

    Pixels = NDArray[np.uint8]

PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}
"""Files that are taken for a picture at the model's own resolution; every other is taken for a slide."""

_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF")
"""What such a file may hold, as Pillow calls it; it knows forty more, which nobody stores tissue in."""

_LEAST_PX = 32
_MOST_PX, _MOST_BYTES = 1 << 20, 64 << 20
"""Of a picture: 1,024 squared, which take 4.5 GB to explain; and what its file may have."""

_SHOWN = 4  # times the network's resolution, so that nuclei can be seen


def explain_picture(model_folder: Path, file: Path, corner: str | None, out: Path) -> Outcome:
    """Explain one picture, or one tile of a slide, and write its overlay and its maps.

    Parameters
    ----------
    model_folder
        A run's `classifier` or `segmenter`. HR-CAM needs the run's `explanations` beside it, made with these weights.
    file
        A picture, which must have the model's resolution; or a slide.
    corner
        `X,Y` of the tile on a slide, in level-0 pixels; None for a picture.
    out
        The folder for `<name>-<network>.png` and `<name>-<network>-<method>.npy`, the map's values.

    Raises
    ------
    ModelError
        The folder holds no model.
    SettingsError
        The corner is missing, or is none.
    SlideError
        The file cannot be read, or is too small or too large.
    ExchangeError
        A result cannot be written.
    """
    model = load_model(model_folder)
    tile, shown = _pixels(model.spec, file, corner)
    keep_memory()
    device = pick_device("auto")
    told = _told(
        Predictor(model, device, engine="torch", precision="float32"), tile
    )  # for one picture compiling takes longer
    explainer = Explainer(model, device, engine="torch")
    heads, missing = find_heads(model_folder, METHODS.values())
    names = [name for name in ("gradcam", "hrcam") if name not in missing]
    maps = [maps.saliencies()[0] for maps in next(explainer.maps(tile[None], names, heads))]
    out.mkdir(parents=True, exist_ok=True)
    place = corner.replace(" ", "").split(",") if corner else []
    name = "-".join([file.stem, *place, model.spec.task])
    picture = out / f"{name}.png"
    for saliency in maps:
        with exporting(out / f"{name}-{saliency.method}.npy") as temporary, temporary.open("wb") as values:
            np.save(values, saliency.values)
    with exporting(picture) as temporary:
        save_overlay(temporary, shown, maps, f"{file.name}, {model.spec.task}: {told}")
    lines = [f"{model.spec.task}: {told}", *(_line(saliency) for saliency in maps), str(picture)]
    left_out = [f"no {METHODS[name].title}: {reason}; {FIT}" for name, reason in missing.items()]
    return Outcome(lines=lines, warnings=left_out + _warnings(model, tile, maps), skipped=[])


def _pixels(spec: ModelSpec, file: Path, corner: str | None) -> tuple[Pixels, Pixels]:
    """Return what the network is given, and the same for the eye, `[h, w, 3]` each."""
    if file.suffix.lower() in PICTURES:
        picture = _picture(file, max(_MOST_PX, spec.side_px**2))
        return picture, picture
    if corner is None:
        raise SettingsError("--at", f"is missing, and {file.name} is a slide", "Add for example --at 10240,8192")
    slide = open_slide(file, reading=spec.reading.mode)
    x, y = _corner(corner)
    side = spec.side_um / slide.mpp
    region = Region(x=x, y=y, width=side, height=side)
    if not (0 <= x <= slide.region.width - side and 0 <= y <= slide.region.height - side):  # nor is NaN
        cure = f"It has {slide.region.width:g} x {slide.region.height:g} pixels, and a tile {side:.0f}"
        raise SlideError(file, f"a tile at {corner} lies beyond the slide", cure)
    large = spec.side_px * _SHOWN
    return read_region(slide, region, (spec.side_px, spec.side_px)), read_region(slide, region, (large, large))


def _picture(file: Path, most_px: int) -> Pixels:
    """Read a picture; how large it is stands in its header, and is looked at before its pixels are decoded."""
    content = io.BytesIO(read_regular(file, SlideError, "Give a PNG or JPEG picture, or a slide", _MOST_BYTES))
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(content, formats=_FORMATS) as opened:
            _check_size(file, opened.size, most_px)
            picture = np.asarray(opened.convert("RGB"))
    except SlideError:
        raise
    except Exception as error:  # noqa: BLE001 - broken pictures end in any type of Pillow's, of struct's and zlib's
        reason = str(error).replace(repr(content), "its content") or type(error).__name__
        raise SlideError(file, f"cannot be read ({reason})", "Give a PNG or JPEG picture, or a slide") from None
    _check_size(file, (picture.shape[1], picture.shape[0]), most_px)
    return picture


def _check_size(file: Path, size: tuple[int, int], most_px: int) -> None:
    if min(size) < _LEAST_PX:
        raise SlideError(file, f"has only {size[0]} x {size[1]} pixels", "Give at least 32 x 32")
    if math.prod(size) > most_px:
        problem = f"has {size[0]:,} x {size[1]:,} pixels, more than the {most_px:,} that can be explained at once"
        raise SlideError(file, problem, "Cut it, or give the slide that it is of, and the place with --at X,Y")


def _corner(text: str) -> tuple[float, float]:
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        raise SettingsError("--at", f"{text!r} is not X,Y", "Write for example --at 10240,8192") from None
    return x, y


def _told(engine: Predictor, tile: Pixels) -> str:
    if engine.spec.task == "classifier":
        return f"tumor probability {float(engine.tumor_probability(tile[None])[0]):.3f}"
    return f"{float((engine.pixel_classes(tile[None]) == TissueClass.TUMOR).mean()):.1%} of the pixels called tumor"


def _line(saliency: Saliency) -> str:
    low, high = float(saliency.values.min()), float(saliency.values.max())
    zero = "" if saliency.signed else "; its zero means nothing"
    return f"{saliency.method:<10} {low:.3g} to {high:.3g} for tumor{zero}"


def _warnings(model: Model, tile: Pixels, maps: list[Saliency]) -> list[str]:
    side, found = model.spec.side_px, tile.shape[:2]
    learned = f"the network learned from {side} x {side} at {model.spec.mpp:.3g} um/px"
    other = f"the picture has {found[1]} x {found[0]} pixels; {learned}"
    warnings = [] if found == (side, side) else [other]
    if all(saliency.constant for saliency in maps) and not isinstance(model.module, Classifier):
        warnings.append("the map is 0 everywhere: the network calls no pixel tumor")
    return warnings
