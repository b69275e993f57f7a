"""How many of the artefacts drawn on unseen synthetic slides are found, and how much of clean slides is called one.

    python -m bench.artefacts [FOLDER] [--slides N] [--side PX] [--clean SLIDE...]

It draws N spoilt slides and N / 3 clean ones into FOLDER (kept for the next time), from seeds that no threshold was
chosen on, and prints for each kind: recall of cells (8 um) that are spoilt for the most part; precision, a cell that
touches a spoilt one counting as right; and of tiles (199.1 um) with at least a tenth spoilt, how many are found so,
and of tiles without any, how many are called spoilt. Blood within vessels and stroma, which is drawn as tissue, counts
neither way, nor do folds and defocus under ink, blood, bubbles and debris. Further slides given with --clean are only
measured.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy import ndimage

from vitrail.classes import ARTEFACTS, ArtefactKind
from vitrail.quality.artefacts import Artefacts, find_artefacts
from vitrail.quality.background import find_glass, local_std, optical_density
from vitrail.slides.slide import open_slide, read_thumbnail
from vitrail.synthetic import SlideSpec, TissueType, write_slide
from vitrail.synthetic.layout import draw_layout, draw_style
from vitrail.synthetic.spec import LAYOUT_STEP

FIRST_SEED, TILE_UM, TENTH = 9900, 199.1, 0.1
MIXES = (
    ("pen_blue", "blur", "dust"),
    ("pen_black", "fold", "bubble"),
    ("pen_green", "blood", "text"),
    ("pen_red", "blur", "fibre"),
    ("fold", "bubble", "blood", "dust"),
    ("blur", "blood", "fold", "bubble"),
)


def draw(folder: Path, number: int, side_px: int) -> tuple[Path, dict[ArtefactKind, np.ndarray], np.ndarray]:
    """Draw a slide; return it, its truth at 1/8 of the resolution, and its tissue types."""
    seed, mix = FIRST_SEED + number, MIXES[number % len(MIXES)]
    path = write_slide(folder, f"A{number:02d}", side_px=side_px, seed=seed, artefacts=mix)
    with np.load(folder / "truth" / f"A{number:02d}.artefacts.npz") as truth:
        masks = {kind: truth[kind.key] for kind in ARTEFACTS}
    with np.load(folder / "truth" / f"A{number:02d}.npz") as truth:
        return path, masks, truth["types"]


def draw_clean(folder: Path, number: int, side_px: int) -> tuple[Path, dict[ArtefactKind, np.ndarray], np.ndarray]:
    """Draw a slide with no artefact but the fold that its layout may have."""
    seed = FIRST_SEED + 500 + number
    path = write_slide(folder, f"C{number:02d}", side_px=side_px, seed=seed)
    spec = SlideSpec(slide_id="", side_px=side_px, seed=(seed,), keratinising=seed % 3 > 0)
    layout = draw_layout(spec, draw_style(spec))
    masks = {kind: np.zeros(layout.types.shape, bool) for kind in ARTEFACTS}
    masks[ArtefactKind.FOLD] = (layout.fold > 0.5) | (layout.types == TissueType.BLOOD)  # neither is a false alarm
    return path, masks, layout.types


def shrink(mask: np.ndarray) -> np.ndarray:
    """Average squares of 2 x 2: from the truth's 4 um to cells of 8 um."""
    return mask.reshape(mask.shape[0] // 2, 2, mask.shape[1] // 2, 2).mean(axis=(1, 3))


def tiles(side_px: int, mpp: float) -> np.ndarray:
    """Return the rectangles of whole tiles, level-0 pixels."""
    side = TILE_UM / mpp
    x, y = (v.ravel() * side for v in np.meshgrid(*[np.arange(int(side_px / side))] * 2))
    return np.stack([x, y, np.full_like(x, side), np.full_like(x, side)], axis=1)


def free_of(share_map: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return which tiles have nothing of a kind at all, given its share of cells of 8 um (16 level-0 pixels)."""
    return (
        Artefacts(masks=(share_map > 0)[None], cell=2.0 * LAYOUT_STEP, cell_um=8.0).shares(boxes, (ArtefactKind(0),))
        == 0
    )


HIDDEN, RED = (ArtefactKind.FOLD, ArtefactKind.BLUR), (ArtefactKind.PEN, ArtefactKind.BLOOD)


def count(artefacts, masks: dict[ArtefactKind, np.ndarray], types: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return for each kind and for any: cells true, found; cells called, right; tiles true, found; free, called."""
    rows = []
    blood = ndimage.binary_dilation(shrink(types == TissueType.BLOOD) > 0, iterations=2)
    for kinds in (*[(kind,) for kind in ARTEFACTS], RED, ARTEFACTS):
        truth = np.any([masks[kind] for kind in kinds], axis=0)
        if kinds[0] in HIDDEN:
            truth &= ~np.any([masks[kind] for kind in ARTEFACTS if kind not in HIDDEN], axis=0)
        share = shrink(truth)
        called = artefacts.mask(kinds)[: share.shape[0], : share.shape[1]]
        any_share = shrink(np.any([masks[kind] for kind in kinds], axis=0))
        near = ndimage.binary_dilation(any_share > 0, np.ones((3, 3)))
        judged = called & (~blood | near) if ArtefactKind.BLOOD in kinds else called
        reference = Artefacts(masks=truth[None], cell=float(LAYOUT_STEP), cell_um=LAYOUT_STEP / 2)
        true, called_shares = reference.shares(boxes, (ArtefactKind(0),)), artefacts.shares(boxes, kinds)
        spoilt, free = true >= TENTH, free_of(any_share, boxes)
        counts = [(share > 0.5).sum(), (called & (share > 0.5)).sum(), judged.sum(), (judged & near).sum()]
        rows.append(
            [
                *counts,
                spoilt.sum(),
                (called_shares[spoilt] >= TENTH).sum(),
                free.sum(),
                (called_shares[free] >= TENTH).sum(),
            ]
        )
    return np.array(rows)


def show(total: np.ndarray) -> None:
    """Print the table."""
    print(f"{'kind':9} {'recall':>7} {'precision':>9} {'tiles found':>14} {'tiles false':>14}")
    for name, row in zip([*(kind.key for kind in ARTEFACTS), "pen/blood", "any"], total, strict=True):
        recall, precision = row[1] / max(row[0], 1), row[3] / max(row[2], 1)
        print(f"{name:9} {recall:7.3f} {precision:9.3f} {row[5]:6} of {row[4]:4} {row[7]:6} of {row[6]:4}")


def clean_share(path: Path, folds: np.ndarray | None = None) -> str:
    """Return what is called an artefact on a slide, in percent of what is not glass; real folds and blood left out."""
    slide = open_slide(path, fallback_mpp=0.25)
    begun = time.perf_counter()
    artefacts = find_artefacts(slide)
    taken = time.perf_counter() - begun
    thumbnail = read_thumbnail(slide, 1024)
    density = optical_density(thumbnail)
    glass = find_glass(thumbnail, density, local_std(density.mean(axis=-1)))
    tissue = (optical_density(thumbnail, glass.rgb or 245.0).mean(axis=-1) > 0.08).mean()
    cells = slide.region.width * slide.region.height / artefacts.cell**2 * tissue
    masks = artefacts.masks.copy()
    if folds is not None:
        near = ndimage.binary_dilation(shrink(folds) > 0, iterations=2)
        masks[:, : near.shape[0], : near.shape[1]] &= ~near
    shares = "  ".join(f"{kind.key} {100 * masks[kind].sum() / max(cells, 1):5.2f}" for kind in ARTEFACTS)
    return f"{path.stem[:24]:24} {shares}  any {100 * masks.any(axis=0).sum() / max(cells, 1):5.2f} %  {taken:.1f} s"


def main() -> None:
    """Draw, find, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--slides", type=int, default=12)
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--clean", type=Path, nargs="*", default=[])
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp())
    total: np.ndarray | int = 0
    boxes = tiles(options.side, 0.5)
    for number in range(options.slides):
        path, masks, types = draw(folder, number, options.side)
        rows = count(find_artefacts(open_slide(path)), masks, types, boxes)
        total = total + rows
        words = [f"{kind.key} {row[1] / row[0]:.2f}" for kind, row in zip(ARTEFACTS, rows, strict=False) if row[0]]
        print(f"{path.stem}: recall {', '.join(words)}", flush=True)
    show(np.asarray(total))
    print("\ncalled an artefact, percent of tissue")
    for number in range(options.slides // 3):
        path, masks, _ = draw_clean(folder, number, options.side)
        print(clean_share(path, masks[ArtefactKind.FOLD]), flush=True)
    for path in options.clean:
        print(clean_share(path), flush=True)


if __name__ == "__main__":
    main()
