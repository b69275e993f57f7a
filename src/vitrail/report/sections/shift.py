"""What the section "Another hospital" of the page holds besides its figures."""

from __future__ import annotations

from math import isnan
from typing import TYPE_CHECKING, Any

from vitrail.evaluation.shift import SCORES
from vitrail.quality.appearance import GROUPS
from vitrail.shift.simulate import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Mapping

_PROBED = {
    ("features", "site"): "The classification network's features tell hospitals apart",
    ("appearance", "site"): "Stain, focus and scanner alone tell hospitals apart",
    ("features", "tumor"): "For scale: the features tell tumor from non-tumor tissue",
}


def shift_section(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the template of the section needs.

    Parameters
    ----------
    metrics
        The part `shift` of `metrics.json`.

    Returns
    -------
    dict[str, Any]
        `training`, its slides and patients; `groups` of slides, rows of a table, `columns`, its groups of measures;
        `sentences`; `probes`, rows of a table with a `title`; and `refused`, why there are not more.
    """
    return {
        "training": metrics["training"],
        "groups": metrics["groups"],
        "columns": GROUPS,
        "sentences": [*_distance_sentences(metrics), *_shift_sentences(metrics)],
        "refused": metrics["refused"],
        "probes": [own | {"title": _PROBED[own["of"], own["tells"]]} for own in metrics["probes"]],
    }


def _distance_sentences(metrics: Mapping[str, Any]) -> list[str]:
    """Say how many test slides are beyond training, and how scores follow the distance."""
    training, groups = metrics["training"], {own["name"]: own for own in metrics["groups"]}
    lines = []
    test = groups.get("test")
    if test is not None and training["patients"] >= training["fewest"]:
        lines.append(
            f"{test['beyond']} of {test['slides']} test slides lie beyond the training: farther from it than 99 % of "
            f"its own {training['slides']} slides do when their patient is left out."
        )
    elif training["patients"] < training["fewest"]:
        lines.append(
            f"The training has {training['patients']} patients: too few to say which slides lie beyond it "
            f"({training['fewest']} are needed)."
        )
    for name, title in SCORES.items():
        own = metrics["by_distance"][name]
        low, high = own["interval"]
        if not isnan(low):
            lines.append(
                f"{title} of a test slide and its distance from training: rank correlation {_signed(own['value'])} "
                f"(95 % interval {_signed(low)} to {_signed(high)}; {own['slides']} slides of {own['patients']} "
                "patients)."
            )
    return lines


def _shift_sentences(metrics: Mapping[str, Any]) -> list[str]:
    """Name for each score the simulated shift that takes most of it, of those whose whole interval is a loss."""
    lines = []
    for name, title in SCORES.items():
        rows = [(shift, shift["scores"][name]) for shift in metrics["simulated"]["shifts"]]
        losses = [(shift, own) for shift, own in rows if own["interval"][1] < 0]
        if losses:
            shift, own = min(losses, key=lambda row: row[1]["change"])
            low, high = own["interval"]
            lines.append(
                f"Of {len(rows)} simulated changes {described(shift['family'], shift['strength'])} takes most of the "
                f"{title[0].lower()}{title[1:]}: {-own['change']:.3f} "
                f"(95 % interval {-high:.3f} to {-low:.3f}), from {metrics['simulated']['unchanged'][name]:.3f}."
            )
    return lines


def described(family: str, strength: float) -> str:
    """Say what a shift is.

    Parameters
    ----------
    family, strength
        As in `vitrail.shift.simulate.Shift`.
    """
    if family == "hue":
        return "bluer colours" if strength > 0 else "redder colours"
    if family == "focus":
        return f"a blur of {strength:g} \N{MICRO SIGN}m"
    if family == "jpeg":
        return f"JPEG of quality {strength:g}"
    return f"{FAMILIES[family].split(',')[0].lower()} times {strength:g}"


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")
