"""One picture, one model: why the network says what it says."""

from __future__ import annotations

import io
import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from vitrail.core.files import exporting, read_regular
from vitrail.errors import ModelError, SettingsError, SlideError
from vitrail.explain.explainer import Explainer
from vitrail.explain.methods.base import FIT, find_heads, methods_named
from vitrail.geometry import Region
from vitrail.inference.predictor import Predictor
from vitrail.models.batches import tumor_score
from vitrail.models.device import keep_memory, pick_device
from vitrail.models.store import load_model
from vitrail.pipeline.outcome import Outcome
from vitrail.report.figures.heatmap import save_overlay
from vitrail.settings.load import read_settings
from vitrail.settings.schema import ExplainSettings
from vitrail.slides.slide import open_slide, read_region
from vitrail.slides.stain import fit_picture, stain_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from vitrail.classes import Task
    from vitrail.models.spec import ModelSpec

    Pixels = NDArray[np.uint8]

PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}
"""Files that are taken for a picture at the model's own resolution; every other is taken for a slide."""

_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF")
"""What such a file may hold, as Pillow calls it; it knows forty more, which nobody stores tissue in."""

_LEAST_PX = 32
_MOST_PX, _MOST_BYTES = 1 << 20, 64 << 20
"""Of a picture: 1,024 squared, which take 4.5 GB to explain; and what its file may have."""

_SHOWN = 4  # times the network's resolution, so that nuclei can be seen


def explain_picture(
    model_folder: Path, file: Path, corner: str | None, out: Path, methods: Sequence[str] = ()
) -> Outcome:
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
    methods
        Names of the methods, all of which must be possible. None takes what the model's run was explained with, and
        leaves out what is not possible.

    Returns
    -------
    Outcome
        What the network says, the range of each map, and where the overlay is.

    Raises
    ------
    ModelError
        The folder holds no model, or what a method needs was not fitted on it.
    SettingsError
        The corner is missing, or is none; or a method is unknown, or does not explain such a network.
    SlideError
        The file cannot be read, or is too small or too large.
    ExchangeError
        A result cannot be written.
    """
    model, study = load_model(model_folder), model_folder.resolve().parent / "study.toml"
    settings = read_settings(study).explain if study.is_file() else ExplainSettings()
    chosen = methods_named(methods or settings.methods, "--method" if methods else "explain.methods")
    heads, missing = find_heads(model_folder, chosen)
    task, side_px = model.spec.task, model.spec.side_px
    if methods:
        for name, reason in missing.items():
            raise ModelError(f"--method {name}", reason, FIT)
    able = [m.name for m in chosen if m.explains(model.explained.module) and m.name not in missing]
    if not able or (methods and len(able) < len(chosen)):
        names = ", ".join(method.name for method in chosen if method.name not in able)
        raise SettingsError("--method", f"{names} cannot explain this {task}", "Name another method")

    tile, picture, problem = _pixels(model.spec, file, corner)
    keep_memory()
    device = pick_device("auto")
    predictor = Predictor(model, device, engine="torch", precision="float32")  # compiling takes longer than one picture
    score = _score(predictor, tile)
    answer = _answer(task, score)
    explainer = Explainer(model, device, engine="torch", stride=settings.stride, margin_px=settings.margin_px)
    (batch,) = explainer.maps(tile[None], able, heads)
    maps = [each.saliencies()[0] for each in batch]

    out.mkdir(parents=True, exist_ok=True)
    name = "-".join([file.stem, *(corner.replace(" ", "").split(",") if corner else []), task])
    overlay, lines, written = out / f"{name}.png", [f"{task}: {answer}"], dict[str, dict[str, Any]]()
    for saliency in maps:
        path = out / f"{name}-{saliency.method}.npy"
        with exporting(path) as temporary, temporary.open("wb") as values:
            np.save(values, saliency.values)
        low, high = float(saliency.values.min()), float(saliency.values.max())
        written[saliency.method] = {"path": path, "minimum": low, "maximum": high, "signed": saliency.signed}
        zero = "" if saliency.signed else "; its zero means nothing"
        lines.append(f"{saliency.method:<10} {low:.3g} to {high:.3g} for tumor{zero}")
    with exporting(overlay) as temporary:
        save_overlay(temporary, picture, maps, f"{file.name}, {task}: {answer}")

    notes = [f"no {method.title}: {missing[method.name]}; {FIT}" for method in chosen if method.name in missing]
    notes += [problem] if problem else []
    if model.spec.represented:
        alone = _answer(task, _score(predictor.member(model.spec.representative), tile))
        notes.append(f"explained is {model.spec.represented}, which stands for all; it alone says: {alone}")
    if tile.shape[:2] != (side_px, side_px):
        learned = f"the network learned from {side_px} x {side_px} at {model.spec.mpp:.3g} um/px"
        notes.append(f"the picture has {tile.shape[1]} x {tile.shape[0]} pixels; {learned}")
    if all(saliency.constant for saliency in maps) and task == "segmenter":
        notes.append("the map is 0 everywhere: the network calls no pixel tumor")
    results = {"network": task, "answer": answer, "score": score, "overlay": overlay, "maps": written}
    return Outcome(lines=[*lines, str(overlay)], warnings=notes, results=results)


def _score(predictor: Predictor, tile: Pixels) -> float:
    """Return how much tumor a network sees in a tile: a probability, or a share of its pixels."""
    return float(tumor_score(next(predictor.outputs(tile[None])), 1 / predictor.spec.temperature)[0])


def _answer(task: Task, score: float) -> str:
    """Return the same in words."""
    if task == "classifier":
        return f"tumor probability {score:.3f}"
    return f"{score:.1%} of the pixels called tumor"


def _pixels(spec: ModelSpec, file: Path, corner: str | None) -> tuple[Pixels, Pixels, str]:
    """Return what the network is given, the same for the eye, `[h, w, 3]` each, and what is wrong with its colours."""
    if file.suffix.lower() in PICTURES:
        picture = read_picture(file, max(_MOST_PX, spec.side_px**2))
        stain = fit_picture(picture, spec.mpp, spec.reading.stain)
        return stain.apply(picture), picture, stain.problem
    if corner is None:
        raise SettingsError("--at", f"is missing, and {file.name} is a slide", "Add for example --at 10240,8192")
    slide = open_slide(file, reading=spec.reading.mode, stain=spec.reading.stain)
    try:
        x, y = (float(part) for part in corner.split(","))
    except ValueError:
        raise SettingsError("--at", f"{corner!r} is not X,Y", "Write for example --at 10240,8192") from None
    side = spec.side_um / slide.mpp
    region = Region(x=x, y=y, width=side, height=side)
    if not (0 <= x <= slide.region.width - side and 0 <= y <= slide.region.height - side):  # nor is NaN
        cure = f"It has {slide.region.width:g} x {slide.region.height:g} pixels, and a tile {side:.0f}"
        raise SlideError(file, f"a tile at {corner} lies beyond the slide", cure)
    large = spec.side_px * _SHOWN
    tile, picture = (read_region(slide, region, (side_px, side_px)) for side_px in (spec.side_px, large))
    stain = stain_of(slide)
    return stain.apply(tile), picture, stain.problem


def read_picture(file: Path, most_px: int) -> Pixels:
    """Read a picture; how large it is stands in its header, and is looked at before its pixels are decoded.

    Parameters
    ----------
    file
        PNG, JPEG, BMP, WebP or TIFF.
    most_px
        Pixels that it may have.

    Returns
    -------
    NDArray[np.uint8]
        `[h, w, 3]`.

    Raises
    ------
    SlideError
        The file cannot be read, or is too small or too large.
    """
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
    _check_size(file, (picture.shape[1], picture.shape[0]), most_px)  # the header may have lied
    return picture


def _check_size(file: Path, size: tuple[int, int], most_px: int) -> None:
    if min(size) < _LEAST_PX:
        raise SlideError(file, f"has only {size[0]} x {size[1]} pixels", "Give at least 32 x 32")
    if math.prod(size) > most_px:
        problem = f"has {size[0]:,} x {size[1]:,} pixels, more than the {most_px:,} that can be explained at once"
        raise SlideError(file, problem, "Cut it, or give the slide that it is of, and the place with --at X,Y")
