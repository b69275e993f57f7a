"""What stands below each figure: its number, as in the paper, and what it shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from markupsafe import Markup

from vitrail.report.style import CITED

if TYPE_CHECKING:
    from vitrail.report.data import CutExample, Overlaid, SlideMaps
    from vitrail.settings.schema import EvaluationSettings

LABELS = {
    "cohort": "Figure 1",
    "cut": "Figure 2",
    "roc": "Figure 3 a\N{EN DASH}c",
    "confusion": "Figure 3 d\N{EN DASH}f",
    "why-correct": "Figure 5",
    "why-disagreement": "Figure 6",
    "search": "Figure S1",
    "overlaid": "Figure S2",
    "why-agreement": "Figure S4",
    "calibration": "Figure A",
    "shares": "Figure B",
    "patients": "Figure C",
    "groups": "Figure D",
    "training": "Figure E",
    "why-wrong": "Figure F",
    "why-perturbation": "Figure G",
    "why-randomisation": "Figure H",
    "why-truth": "Figure I",
}
"""The number of each figure: the paper's, or a letter for what the paper lacks. A missing figure keeps its letter."""

_LACKS = "The paper has no such figure."


def captions(evaluation: EvaluationSettings) -> dict[str, str]:
    """Return what is said below each figure of cohort, training and scores."""
    threshold = f"{evaluation.threshold:g}"
    return {
        "roc": "Receiver operating characteristic on the test tiles, and the area under each curve (AUC) with its 95 % "
        "interval over patients. (a) Both networks; the segmentation network's score is the fraction of a tile's "
        "pixels that it calls tumor. (b) Voting: the mean of both. (c) Stacking: a logistic regression on both; its "
        "curve by cross-validation on the test tiles is the mean over the iterations. Dots mark the threshold "
        f"{threshold}. Corresponds to Fig. 3a, b and c of {CITED}.",
        "confusion": "Confusion matrices on the test data; each row sums to 100 %, counts below. (d) Classification "
        "network, tiles. (e) Segmentation network, tiles. (f) Segmentation network, every pixel of the same tiles, in "
        f"all four classes. Corresponds to Fig. 3d, e and f of {CITED}.",
        "training": "Loss and validation score of each epoch. The dotted line marks the epoch whose weights were kept, "
        f"the one with the lowest validation loss. {_LACKS}",
        "cohort": "Slides and tiles in each part of the cohort, and the patients' characteristics where slides.csv "
        f"gives any. Corresponds to Fig. 1 of {CITED}.",
        "calibration": "Reliability on the test tiles: what share of the tiles with about the same predicted "
        "probability is tumor. On the dotted line a network is as sure as it is right; above it, it is tumor more "
        "often than predicted. Hollow: before the classification network's logits were divided by its temperature, "
        "which the validation tiles chose; voting takes the probabilities before that. The segmentation network's is "
        f"its share of tumor pixels. Below: how many tiles have which probability. {_LACKS}",
        "shares": "Tumor share of each test slide, predicted against annotated (a, c), and the difference of the two "
        "against their mean (b, d; Bland and Altman 1986). Solid: bias; dashed: limits of agreement, between which "
        "95 % of slides are expected; shaded: their 95 % intervals over patients. Classification network: share of the "
        "tiles called and labelled tumor. Segmentation network: share of the pixels annotated tumor or non-tumor. "
        f"Shares are of the tiles that were cut, whose number for each class is capped. {_LACKS}",
        "patients": "Share of each test patient's tiles that the networks call correctly, the lowest of the "
        f"classification network first. {_LACKS}",
        "groups": "Accuracy and AUC on the test tiles of each group of patients, with 95 % intervals over its patients."
        " A triangle and hollow marks: too small a group to say anything. The dotted line is the classification "
        f"network's value on all test tiles. {_LACKS}",
    }


def slide_caption(maps: SlideMaps, threshold: float) -> Markup:
    """Say what a slide's figure shows; its name stands apart, so that no character in it can turn the text around."""
    return Markup(
        "Slide <bdi>{}</bdi>: (a) the slide; (b) its annotation, with tissue that was not annotated in grey; (c) the "
        "class of each tile, tumor where the classification network's probability reaches {:g}, tiles without tissue "
        "left out; (d) the class of each pixel to which the segmentation network gives the highest probability. "
        "Artefacts are dark grey. Corresponds to Fig. 4 of {}."
    ).format(maps.slide_id, threshold, CITED)


def probability_caption(maps: SlideMaps) -> Markup:
    """Say what a slide's figure of probabilities shows."""
    return Markup(
        "Slide <bdi>{}</bdi>: (a) the slide; (b) its annotation; then the tumor probability of each tile by the "
        "classification network, without and, where they were predicted (predict.background), with background tiles. "
        "Corresponds to Fig. S3 of {}."
    ).format(maps.slide_id, CITED)


def cut_caption(cut: CutExample) -> Markup:
    """Say what the figure of a slide's tiles, masks and labels shows."""
    return Markup(
        "From slide to tiles, masks and labels. (a) Slide <bdi>{}</bdi> with its outlines, tumor solid and non-tumor "
        "dashed, and a square for each tile that was cut; tiles of non-tumor are hatched. (b) Up to two tiles of each "
        "label, those with the most mixed masks, as the networks get them; beside each its mask, in which every "
        "pixel has one of four classes, and their shares. The label is the outlined class with the most pixels. "
        "Corresponds to Fig. 2 of {}."
    ).format(cut.slide_id, CITED)


def overlaid_caption(overlaid: Overlaid, threshold: float) -> Markup:
    """Say what the figure of a slide beneath its maps shows."""
    letters = "cde"[: len(overlaid.sections)]
    enlarged = {0: "", 1: f" ({letters}) A section of both maps, enlarged."}.get(
        len(letters), f" ({letters[:1]}) to ({letters[-1:]}) Sections of both maps, enlarged."
    )
    return Markup(
        "Predictions over slide <bdi>{}</bdi>, as a viewer such as QuPath shows them; the slide is in grey. (a) "
        "Classification map: a tile is tumor where its probability reaches {:g}. (b) Segmentation map: the likeliest "
        "class of each pixel.{} Around tumor runs a dark line. Background is left out. Corresponds to Fig. S2 of {}."
    ).format(overlaid.maps.slide_id, threshold, enlarged, CITED)
