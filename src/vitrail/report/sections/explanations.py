"""The section "Why" of the page: its figures with their captions, and what its tables and sentences hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vitrail.classes import NETWORKS
from vitrail.evaluation.groups import FEWEST_PATIENTS
from vitrail.explain.checks.store import CASCADES
from vitrail.explain.checks.verdicts import LOST
from vitrail.explain.study.store import KEYS
from vitrail.report.figures import checks
from vitrail.report.figures.agreement import agreement_figure
from vitrail.report.figures.gallery import correct_figure, disagreement_figure, key_title, wrong_figure
from vitrail.report.figures.heatmap import PERCENTILE
from vitrail.report.sections import checks as checks_tables
from vitrail.report.sections.agreement import PAIR_TITLES, accuracy_table, agreement_table, empty_table, layers_table
from vitrail.report.select import MIXED
from vitrail.report.style import CITED

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure

    from vitrail.report.data import Explained

    Plan = dict[str, tuple[Callable[[], Figure], str]]

TITLES = {key: key_title(key) for key in KEYS}
"""The name of each kind of map."""

_SCALE = (
    "Orange speaks for tumor, blue against it, the stronger the less the tissue, in grey, shows through. All maps of "
    f"one kind in the figure share one scale: full colour stands for the {PERCENTILE}th percentile of the magnitudes "
    "of their values, given at the colour bar. A map that looks empty is weak beside the others. Maps in yellow to "
    "violet have no zero: pale is less, dark is more. Colours show what a map claims; the checks ask whether the score "
    "agrees."
)
_AS_ABOVE = "Colours as above; scales of this figure's own maps."
_SPREAD = "Each patient gives one tile before any gives a second."
_BLIND = f"{_SPREAD} How a map looks plays no part in the choice."


def planned_figures(explained: Explained) -> Plan:
    """Return how to draw each figure of the section, and its caption; what there is nothing to show of is left out."""
    plan: Plan = {"why-correct": (lambda: correct_figure(explained), _correct_caption(explained))}
    if explained.examples.disagreement:
        plan["why-disagreement"] = (lambda: disagreement_figure(explained), _disagreement_caption(explained))
    if explained.examples.wrong:
        plan["why-wrong"] = (lambda: wrong_figure(explained), _wrong_caption(explained))
    stored = explained.stored
    plan["why-agreement"] = (lambda: agreement_figure(stored.agreement, stored.summary), _agreement_caption())
    return plan | (_planned_checks(explained) if explained.checked else {})


def _planned_checks(explained: Explained) -> Plan:
    checked = explained.checked
    if checked is None:
        return {}
    plan: Plan = {}
    if len(checked.perturbation):
        plan["why-perturbation"] = (lambda: checks.perturbation_figure(checked.perturbation), _perturbation_caption())
    if len(checked.randomisation):
        plan["why-randomisation"] = (
            lambda: checks.randomisation_figure(checked.randomisation),
            _randomisation_caption(),
        )
    if checked.summary["truth"]:
        plan["why-truth"] = (lambda: checks.truth_figure(checked.summary, TITLES), _truth_caption())
    return plan


def section(explained: Explained) -> dict[str, Any]:
    """Return what the template of the section needs besides figures."""
    summary, checked = explained.stored.summary, explained.checked
    layers = layers_table(summary)
    return {
        "tiles": summary["tiles"],
        "patients": summary["patients"],
        "fewest": FEWEST_PATIENTS,
        "min_share": summary["min_share"],
        "agreement": agreement_table(summary).to_dict("records"),
        "pairs": PAIR_TITLES,
        "accuracy": accuracy_table(summary).to_dict("records"),
        "layers": {network: layers[layers["network"] == network].to_dict("records") for network in NETWORKS},
        "empty": empty_table(summary).to_dict("records"),
        "kinds": TITLES,
        "wrong": bool(explained.examples.wrong),
        "checks": None if checked is None else _checks(checked.summary, checked.perturbation["tile"].nunique()),
    }


def _checks(summary: dict[str, Any], tiles: int) -> dict[str, Any]:
    return {
        "tiles": tiles,
        "patients": summary["patients"],
        "draws": max(found["draws"] for found in summary["randomisation"].values()),
        "lost": LOST,
        "sentences": checks_tables.sentences(summary, TITLES),
        "verdicts": _verdicts(summary),
        "names": {name: name.capitalize() for name in checks_tables.RIVALS},
        "truth": checks_tables.truth_table(summary).to_dict("records"),
        "regions": checks_tables.REGIONS,
    }


def _verdicts(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each kind of map and check, with what decides side by side."""
    table = checks_tables.verdict_table(summary)
    return [
        {"maps": maps, "check": check, "verdict": rows["verdict"].iloc[0], "against": rows.to_dict("records")}
        for (maps, check), rows in table.groupby(["maps", "check"], sort=False)
    ]


def _correct_caption(explained: Explained) -> str:
    return (
        "Test tiles that the classification network calls correctly, and below each the map of what it saw. "
        f"(a) Tumor tiles with Grad-CAM: those with at least {100 * MIXED:g} % tumor and {100 * MIXED:g} % tissue that "
        "is not come first, then the highest probability p. (b) Further tumor tiles with HR-CAM, highest p first. (c) "
        f"Non-tumor tiles with both maps, lowest p first. {_BLIND} A tile is {explained.side_um:g} "
        f"\N{MICRO SIGN}m wide, read again from its slide. {_SCALE} Corresponds to Fig. 5 of {CITED}."
    )


def _disagreement_caption(explained: Explained) -> str:
    found = explained.stored.summary["agreement"]["gradcam_classifier_segmenter"]
    return (
        "Test tiles where the Grad-CAMs of the two networks correlate least, with their annotated class. p: the "
        "classification network's tumor probability, and the fraction of pixels that the segmentation network calls "
        f"tumor. r: Pearson's coefficient of the two maps. {_SPREAD} {found['constant']:,} of {len(explained.stored):,}"
        " tiles have no such coefficient, because one of the maps is constant: the segmentation network's is 0 where "
        f"it calls no pixel tumor. {_AS_ABOVE} Corresponds to Fig. 6 of {CITED}."
    )


def _wrong_caption(explained: Explained) -> str:
    return (
        "Test tiles that at least one network calls wrongly, with their annotated class and both maps of both "
        f"networks. p as above; at {explained.threshold:g} and more a tile is called tumor. The largest errors come "
        f"first. {_BLIND} {_AS_ABOVE} The paper has no such figure."
    )


def _agreement_caption() -> str:
    return (
        "How Pearson's coefficient of two maps over a tile's pixels is distributed over the test tiles, in 30 equal "
        "bins. Filled: the maps as they are; outline: after ReLU, without what speaks against tumor, where both are "
        "signed. The mode is the centre of the fullest bin of the former; dots: their mean, with its 95 % interval "
        "over patients. Tiles with a constant map have no coefficient and are left out. Triangles mark the modes that "
        f"{CITED} report for their own data. "
        "Corresponds to Fig. S4 there."
    )


def _perturbation_caption() -> str:
    return (
        "Deletion: blocks of a tile are blurred one after the other, those first that a map calls most important; the "
        "sooner the network's tumor score falls, the truer the map. Insertion: blocks are brought back into the "
        "blurred tile; the sooner the score rises, the better. Dotted and dash-dotted: blocks in random order, and "
        "from the centre outwards. Means over the checked tiles. The paper has no such figure."
    )


def _randomisation_caption() -> str:
    return (
        "A map has to change when the network forgets: its weights are randomised from the top down, and each step's "
        "map is correlated with that of the untouched network. Grey: the correlation with another tile's map, which is "
        f"what chance gives. Means of the magnitude over tiles and draws: {CASCADES} at most for the steps, all for "
        "the last. After Adebayo et al. 2018; the paper has no such figure."
    )


def _truth_caption() -> str:
    return (
        "On synthetic slides the cause of tumor is known: atypical nuclei. The share of a map's positive weight (of a "
        "map without a zero: above its lowest value) inside "
        "these, inside all nuclei and in stroma, over the share of the area that they fill. Bars: 95 % intervals over "
        "patients, cut off at the frame. Grey: the same of maps that know nothing of the tile, which is what chance "
        "gives. The paper has no such figure."
    )
