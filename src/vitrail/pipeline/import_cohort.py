"""`vitrail import`: from the folders of a cohort to its slides.csv, and from masks to outlines."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from filecmp import cmp
from pathlib import Path
from typing import TYPE_CHECKING

from vitrail.classes import SPLITS as PARTS
from vitrail.cohorts.draft import Candidate, Draft, count_reasons, write_draft, write_unmatched
from vitrail.cohorts.duplicates import drop_duplicates
from vitrail.cohorts.folder import FolderRules, read_folder
from vitrail.cohorts.hancock import SETTINGS, SPLITS, read_hancock
from vitrail.cohorts.listing import list_files
from vitrail.cohorts.mask_classes import parse_classes
from vitrail.cohorts.masks import Mask, Placement, is_part, name_of_whole, place_mask, write_mask_outlines
from vitrail.cohorts.matching import MASKS, group_masks, match_outlines, names_for, plain_name
from vitrail.cohorts.opening import BROKEN_OUTLINES, BROKEN_SLIDE, open_all
from vitrail.cohorts.tcga import read_tcga, short_names
from vitrail.core.files import not_written, temporary_path
from vitrail.core.progress import Silent
from vitrail.errors import ExchangeError, SettingsError, SlideError
from vitrail.pipeline.outcome import Outcome
from vitrail.slides.slide import open_slide

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vitrail.cohorts.mask_classes import MaskClasses
    from vitrail.cohorts.tcga import Kind
    from vitrail.core.progress import Progress

BROKEN_MASK, OTHER_OUTLINES = "mask that cannot be used", "other outlines that are there already"

_SKIPPED = {BROKEN_SLIDE, BROKEN_OUTLINES, BROKEN_MASK, OTHER_OUTLINES}

_MOST_LINES = 20
"""Of broken files that are named one by one; all are in the table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """Where an import writes to, and how it looks.

    Attributes
    ----------
    out
        The slides.csv; what did not match is written beside it, as `slides.unmatched.csv`.
    check
        Whether every slide and all outlines are opened.
    progress
        Told how far it is.
    """

    out: Path
    check: bool = False
    progress: Progress | None = None

    @property
    def unmatched(self) -> Path:
        """The table of what did not match."""
        return self.out.with_name(f"{self.out.stem}.unmatched.csv")


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskRules:
    """How masks are read.

    Attributes
    ----------
    folder
        Where they are.
    classes
        What their values mean, see `parse_classes`.
    tolerance_px
        How far outlines may be moved to have fewer corners, in pixels of the mask.
    outlines
        The folder that their outlines go to.
    """

    folder: Path
    classes: str
    outlines: Path
    tolerance_px: float = 0.0


def import_hancock(
    root: Path, to: Destination, split: str | None = None, validation: float = 0.125, seed: int = 0
) -> Outcome:
    """Write the slides.csv of HANCOCK.

    Parameters
    ----------
    root
        The folder that its archives were unpacked in.
    to
        Where to.
    split, validation, seed
        As of `read_hancock`.

    Returns
    -------
    Outcome
        What was written, and the settings that a study of it needs.

    Raises
    ------
    CohortError
        The cohort is wrong, or nothing is left of it.
    SettingsError
        There is no such split, or the share is none.
    ExchangeError
        A table cannot be written.
    """
    if split is not None and split not in SPLITS:
        raise SettingsError("--split", f"there is no official split {split!r}", f"Name one of {', '.join(SPLITS)}")
    if not 0 < validation < 1:
        raise SettingsError("--validation", f"{validation} is no share", "Give a number between 0 and 1")
    return _write(read_hancock(root, split, validation, seed), to, SETTINGS)


def import_tcga(
    folder: Path,
    to: Destination,
    annotations: Path | None = None,
    kind: Kind = "all",
    metadata: Path | None = None,
) -> Outcome:
    """Write the slides.csv of slides of TCGA.

    Parameters
    ----------
    folder, annotations, kind, metadata
        As of `read_tcga`.
    to
        Where to.

    Returns
    -------
    Outcome
        What was written.

    Raises
    ------
    CohortError
        The cohort is wrong, or nothing is left of it.
    ExchangeError
        A table cannot be written.
    """
    return _write(read_tcga(folder, annotations, kind, metadata), to)


def import_folder(folder: Path, to: Destination, rules: FolderRules, masks: MaskRules | None = None) -> Outcome:
    """Write the slides.csv of any folder of slides; of masks, outlines are made first.

    Parameters
    ----------
    folder
        Where the slides are.
    to
        Where to.
    rules
        How they are read.
    masks
        Masks of the slides; None where they have outlines already.

    Returns
    -------
    Outcome
        What was written.

    Raises
    ------
    CohortError
        The cohort is wrong, or nothing is left of it.
    SettingsError
        A pattern or a table of classes is none.
    ExchangeError
        A file cannot be written.
    """
    classes = None if masks is None else parse_classes(masks.classes)
    draft, listing = read_folder(folder, rules)
    sure = {".geojson", ".annotations"}
    outlines = match_outlines(
        draft, listing.files, lambda file: rules.annotations is not None or file.suffix.lower() in sure
    )
    if masks is not None and classes is not None:
        outlined, _ = _outline_masks(draft, _masks_of_slides(draft, masks.folder), masks, classes, to.progress)
        for slide, file in outlines.items():
            if slide in outlined and not file.samefile(outlined[slide]):
                draft.leave_out(file, "second outlines of a slide", f"those of its mask are taken: {outlined[slide]}")
        outlines |= outlined
    draft.give_outlines(outlines)
    return _write(draft, to)


def import_masks(masks: MaskRules, slides: Path | None = None, progress: Progress | None = None) -> Outcome:
    """Make outlines of masks.

    Parameters
    ----------
    masks
        The masks; the folder of their outlines is made.
    slides
        The folder of the slides that they cover, which says how they are scaled; without one a mask is taken to have
        the size of its slide.
    progress
        Told of every mask.

    Returns
    -------
    Outcome
        What was written; masks that could not be read are skipped.

    Raises
    ------
    CohortError
        There is no such folder.
    SettingsError
        The table of classes is none.
    ExchangeError
        There is no mask that outlines could be made of, or a file cannot be written.
    """
    classes = parse_classes(masks.classes)
    draft = Draft()
    if slides is None:
        for file in list_files(masks.folder).files:
            if file.suffix.lower() in MASKS:
                draft.slides.append(Candidate(path=file, slide_id=plain_name(file), patient_id=""))
        groups: Mapping[Path, list[Path]] = {slide.path: [slide.path] for slide in draft.slides}
    else:
        draft.slides = read_folder(slides, FolderRules(masks=masks.folder))[0].slides
        groups = _masks_of_slides(draft, masks.folder)
    outlines, counts = _outline_masks(draft, groups, masks, classes, progress)
    table = masks.outlines / "unmatched.csv"
    write_unmatched(draft, table)
    if not outlines:
        said = ", ".join(count_reasons(draft.unmatched)) or "the folder holds no PNG, BMP or TIFF"
        raise ExchangeError(masks.folder, f"no outlines could be made ({said})", f"See {table}")
    classes_said = ", ".join(f"{name} ({count:,})" for name, count in counts.items())
    return Outcome(
        lines=[
            f"outlines of {len(outlines):,} slides: {classes_said}",
            *_unmatched_lines(draft, table),
            str(masks.outlines),
        ],
        skipped=_broken(draft),
        results={
            "outlines": {slide.slide_id: str(outlines[slide.path]) for slide in draft.slides if slide.path in outlines},
            "classes": dict(counts),
            "unmatched": str(table),
        },
    )


def _masks_of_slides(draft: Draft, folder: Path) -> Mapping[Path, list[Path]]:
    """Find the masks of slides; those of a part of a slide are named by its barcode, and by where they lie on it."""

    def names(mask: Path) -> list[str]:
        whole = names_for(mask, MASKS)
        return [*whole, *names_for(mask.with_stem(name_of_whole(mask)), MASKS), *short_names(mask.name)]

    return group_masks(draft, (file for file in list_files(folder).files if file.suffix.lower() in MASKS), names)


def _outline_masks(
    draft: Draft,
    groups: Mapping[Path, list[Path]],
    rules: MaskRules,
    classes: MaskClasses,
    progress: Progress | None,
) -> tuple[dict[Path, Path], Counter[str]]:
    """Write the outlines of masks.

    Returns
    -------
    tuple[dict[Path, Path], Counter[str]]
        The file of each slide that has outlines now, and how many there are of each class.
    """
    slides = {slide.path: slide for slide in draft.slides}
    written, counts, names = dict[Path, Path](), Counter[str](), set[str]()
    try:
        rules.outlines.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise not_written(rules.outlines, error) from error
    with (progress or Silent()).task("masks", sum(map(len, groups.values()))) as step:
        for path, files in sorted(groups.items()):
            target = rules.outlines / f"{slides[path].slide_id}.geojson"
            step(len(files))
            if target.name.casefold() in names:
                draft.leave_out(files[0], "second mask of a name", f"{target} is taken")
                continue
            # what is there may be drawn by hand: it is never written over
            attempt = temporary_path(target, "new") if target.exists() else target
            try:
                placed = [_placed(file, slides[path]) for file in files]
                own = write_mask_outlines(attempt, slides[path].slide_id, placed, classes, rules.tolerance_px)
                same = attempt == target or not own or cmp(attempt, target, shallow=False)
            except (ExchangeError, SlideError) as error:
                if error.where == str(attempt):
                    raise  # the disk is full
                draft.leave_out(error.where, BROKEN_MASK, f"{error.problem}. {error.cure}")
                continue
            finally:
                if attempt != target:
                    attempt.unlink(missing_ok=True)
            if not own:
                draft.leave_out(files[0], "mask without any class")
            elif not same:
                draft.leave_out(target, OTHER_OUTLINES, f"not those of {files[0]}: remove them, or name another folder")
            else:
                written[path] = target
                names.add(target.name.casefold())
                counts.update(own)
    return written, counts


def _placed(file: Path, slide: Candidate) -> tuple[Mask, Placement]:
    """Open a mask, and find out how it lies on its slide; one without a slide lies on itself."""
    mask = Mask(file)
    if slide.path == file:
        return mask, Placement()
    part = is_part(file) and not is_part(slide.path)
    # the scale of a slide matters only where a mask covers a part of it
    opened = open_slide(slide.path, mpp=slide.mpp, fallback_mpp=None if part else 1.0)
    return mask, place_mask(file, mask.size, opened, part=part)


def _write(draft: Draft, to: Destination, settings: Sequence[str] = ()) -> Outcome:
    """Write a cohort without what is there twice or broken, and say what became of it."""
    drop_duplicates(draft, to.progress)
    classes = open_all(draft, to.progress) if to.check else None
    slides = write_draft(draft, to.out, to.unmatched)
    patients, sites = {slide.patient_id for slide in slides}, Counter(slide.attributes.get("site") for slide in slides)
    parts = Counter(slide.split for slide in slides if slide.split)
    counted = f"{len(slides):,} slides of {len(patients):,} patients"
    lines = [counted]
    if any(sites):
        listed = (f"{site or 'none'} ({sites[site]:,})" for site in sorted(sites, key=str))
        lines.append(f"sites: {', '.join(listed)}")
    if parts:
        lines.append(f"split: {', '.join(f'{parts[part]:,} {part}' for part in PARTS)}")
    if classes is not None:
        named = (f"{name or 'no class'} ({count:,})" for name, count in classes.most_common(_MOST_LINES))
        lines.append(f"classes of outlines, and in how many files: {', '.join(named)}")
    lines += _unmatched_lines(draft, to.unmatched)
    chosen = "".join(f" --set {change}" for change in settings)
    lines += [f"next: vitrail init RUN --slides {to.out}{chosen}", str(to.out)]
    results = {
        "slides": len(slides),
        "patients": len(patients),
        "sites": {site or "": count for site, count in sites.items()},
        "unmatched": dict(Counter(each.reason for each in draft.unmatched)),
        "settings": list(settings),
        "files": {"slides": str(to.out), "unmatched": str(to.unmatched)},
    }
    return Outcome(lines=lines, warnings=draft.warnings, skipped=_broken(draft), results=results)


def _unmatched_lines(draft: Draft, table: Path) -> list[str]:
    reasons = count_reasons(draft.unmatched)
    return [f"{table} lists what did not match:", *(f"  {reason}" for reason in reasons)] if reasons else []


def _broken(draft: Draft) -> list[str]:
    """Return a line for each broken file, up to a number."""
    broken = [each for each in draft.unmatched if each.reason in _SKIPPED]
    lines = [f"{each.file}: {each.reason}: {each.detail}" for each in broken[:_MOST_LINES]]
    return lines + ([f"and {len(broken) - _MOST_LINES:,} more"] if len(broken) > _MOST_LINES else [])
