"""Outlines and masks find their slides by name.

`S1.geojson`, `S1.svs.geojson`, `S1_annotations.geojson` and `S1-labels.png` all belong to the slide S1. The name that
is closest to the slide's own wins, and among slides of one name the one that lies nearest.
"""

from __future__ import annotations

import re
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from vitrail.slides.names import slide_stem

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from vitrail.cohorts.draft import Candidate, Draft

OUTLINES = (".geojson", ".annotations", ".xml", ".json", ".csv", ".parquet")
"""What outlines may be written as; of several for one slide the first here is taken."""

MASKS = (".png", ".tif", ".tiff", ".bmp")
"""What masks may be written as."""

_WORDS = (
    r"annotations?|outlines?|labels?|labeled|masks?|groundtruth|ground[_-]truth|gt|segmentations?|seg|rois?|tumou?r"
)
_UUID = r"\.[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_ADDED = re.compile(rf"(?:[ ._-]+(?:{_WORDS})|{_UUID})$", re.IGNORECASE)
"""What people, and the GDC, add to a slide's name."""

_PREDICTED = ".tiles.parquet"
"""Beside the .geojson and .json that `vitrail predict` writes."""


def names_for(file: Path, suffixes: Collection[str]) -> list[str]:
    """Return the slides' names that a file may stand for, the closest first.

    Parameters
    ----------
    file
        Outlines or a mask.
    suffixes
        What is taken off its end first, in small letters.

    Returns
    -------
    list[str]
        In letters without case; each is its predecessor without a suffix of slides, or without a word that was added.
    """
    name = file.name.casefold()
    ending = next((suffix for suffix in suffixes if name.endswith(suffix)), "")
    name = name.removesuffix(ending)
    names = [name]
    while True:
        shorter = slide_stem(name)
        shorter = _ADDED.sub("", name) if shorter == name else shorter
        if shorter in {name, ""}:
            return names
        names.append(name := shorter)


def plain_name(file: Path) -> str:
    """Return a file's name without its suffix and the words that were added to it."""
    name = file.stem
    while (shorter := _ADDED.sub("", name)) not in {name, ""}:
        name = shorter
    return name


def without_uuid(name: str) -> str:
    """Return a slide's name without the UUID that the GDC sets behind it."""
    return re.sub(f"{_UUID}$", "", name, flags=re.IGNORECASE)


class SlideNames:
    """Slides by all that files may call them.

    Parameters
    ----------
    slides
        The slides.
    """

    def __init__(self, slides: Iterable[Candidate]) -> None:
        self._slides: dict[str, list[Candidate]] = {}
        for slide in slides:
            names = (slide.path.name, slide.path.stem, *slide.names)
            for name in dict.fromkeys(name.casefold() for name in names):
                self._slides.setdefault(name, []).append(slide)

    def find(self, names: Sequence[str], near: Path) -> tuple[int, list[Candidate]]:
        """Find the slide that a file belongs to.

        Parameters
        ----------
        names
            What it may be called, the closest first.
        near
            The file: of several slides of one name those that share the longest path with it are taken.

        Returns
        -------
        tuple[int, list[Candidate]]
            How far down the names it stands, and the slides: none, one, or several that nothing tells apart.
        """
        for rank, name in enumerate(names):
            slides = self._slides.get(name, [])
            if slides:
                shared = [_shared_parts(slide.path, near) for slide in slides]
                return rank, [slide for slide, own in zip(slides, shared, strict=True) if own == max(shared)]
        return len(names), []


def match_outlines(
    draft: Draft, files: Iterable[Path], expected: Callable[[Path], bool], suffixes: Sequence[str] = OUTLINES
) -> dict[Path, Path]:
    """Find the outlines of slides.

    Parameters
    ----------
    draft
        The slides; what does not match is noted there.
    files
        Where to look.
    expected
        Whether a file is one of outlines for sure: then it is missed where it matches no slide.
    suffixes
        Of outlines, the preferred first.

    Returns
    -------
    dict[Path, Path]
        Outlines by the path of their slide.
    """
    slides = SlideNames(draft.slides)
    paths = {slide.path for slide in draft.slides}
    present = {file: file.name.casefold() for file in files if file not in paths}
    predicted = {
        file.with_name(file.name[: -len(_PREDICTED)]) for file, name in present.items() if name.endswith(_PREDICTED)
    }
    claims: dict[Path, list[tuple[int, int, Path]]] = {}
    for file, name in present.items():
        preference = next((i for i, suffix in enumerate(suffixes) if name.endswith(suffix)), None)
        if preference is None:
            continue
        if file.with_suffix("") in predicted:
            if expected(file):
                draft.leave_out(file, "predictions, not outlines")
            continue
        rank, owners = slides.find(names_for(file, suffixes), file)
        if len(owners) > 1:
            draft.leave_out(file, "outlines that fit several slides", _listed(owner.path for owner in owners))
        elif owners:
            claims.setdefault(owners[0].path, []).append((rank, preference, file))
        elif expected(file):
            draft.leave_out(file, "outlines without a slide")
    for slide, claimed in claims.items():
        for _, _, file in sorted(claimed)[1:]:
            draft.leave_out(file, "second outlines of a slide", f"{slide} has {min(claimed)[2]}")
    return {slide: min(claimed)[2] for slide, claimed in claims.items()}


def group_masks(
    draft: Draft, masks: Iterable[Path], names: Callable[[Path], Sequence[str]]
) -> Mapping[Path, list[Path]]:
    """Find the masks of slides; a slide may have several, each of a part of it.

    Parameters
    ----------
    draft
        The slides; what does not match is noted there.
    masks
        The masks.
    names
        What each may call its slide, the closest first.

    Returns
    -------
    Mapping[Path, list[Path]]
        Masks by the path of their slide, sorted.
    """
    slides, grouped = SlideNames(draft.slides), dict[Path, list[Path]]()
    for mask in sorted(masks):
        _, owners = slides.find(names(mask), mask)
        if len(owners) == 1:
            grouped.setdefault(owners[0].path, []).append(mask)
        elif owners:
            draft.leave_out(mask, "mask that fits several slides", _listed(owner.path for owner in owners))
        else:
            draft.leave_out(mask, "mask without a slide")
    return grouped


def _listed(paths: Iterable[Path]) -> str:
    names = [str(path) for path in paths]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _shared_parts(one: Path, other: Path) -> int:
    pairs = zip(one.parent.parts, other.parent.parts, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
