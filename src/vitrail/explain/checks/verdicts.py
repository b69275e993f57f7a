"""Whether a kind of map passes a check, decided here and nowhere else: `checks/summary.json` holds it for all others.

What a check compares has a 95 % interval. A map passes where the whole interval of each comparison says so, fails where
that of any says the contrary, and is undecided else: where patients, tiles or draws are too few to tell, it has not
failed. Simulated maps that know nothing of their tile pass the localisation check in less than 1 % of cohorts of 2 to
15 patients, and fail it in 2 to 5 %.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from vitrail.explain.study.store import KEYS

if TYPE_CHECKING:
    from collections.abc import Mapping

    Verdict = Literal["passes", "fails", "undecided"]
    Numbers = list[float | None]

LOST = 0.1
"""A randomised network's map passes as another one while its correlation is above chance by less than this.

The number is a convention, no finding: a correlation that explains one per cent of a map's variance is called lost.
"""

LEAST_FALL = 0.1
"""Where blurring whole tiles lowers a network's mean score by less, its curves say nothing about maps."""

CAUSE = "atypical_nuclei"
"""The region that makes a synthetic tile tumor, on which a map has to lie."""

_KINDS = ("deletion", "insertion")


def verdicts(summary: Mapping[str, Any]) -> dict[str, dict[str, Verdict]]:
    """Decide every check of every kind of map.

    Parameters
    ----------
    summary
        The other content of `checks/summary.json`.

    Returns
    -------
    By key of a map, the verdict on:

    `deletion` and `insertion`: passes where the map beats both the random order and the centred blob; undecided, too,
    where blurring does not disturb the network.

    `randomisation`: passes where less than `LOST` beyond chance is left with all weights randomised.

    `localisation`, on synthetic slides alone: passes where the map has more of its weight on the cause of tumor than
    both the maps of other tiles and itself turned and mirrored. These are what chance gives; the area is not.
    """
    return {key: _verdicts(summary, key) for key in KEYS}


def _verdicts(summary: Mapping[str, Any], key: str) -> dict[str, Verdict]:
    curves, deaf = summary["perturbation"][key], fall(summary, key) < LEAST_FALL
    decided = {
        kind: "undecided" if deaf else beyond(curves[kind]["over_random"], curves[kind]["over_blob"])
        for kind in _KINDS
    }  # fmt: skip
    decided["randomisation"] = beyond([_minus(end) for end in summary["randomisation"][key]["excess"]], limit=-LOST)
    if summary["truth"] is not None:
        found = summary["truth"][key].get(CAUSE)
        decided["localisation"] = beyond(found["over_others"], found["over_turned"]) if found else "undecided"
    return decided


def _minus(number: float | None) -> float | None:
    return None if number is None else -number


def beyond(*estimates: Numbers, limit: float = 0.0) -> Verdict:
    """Decide whether statistics are all above a limit, each given as value and both ends of its interval.

    An end that is not known decides nothing.
    """
    ends = [[end for end in numbers[1:] if end is not None] for numbers in estimates]
    if not all(ends):
        return "undecided"
    if all(min(pair) > limit for pair in ends):
        return "passes"
    return "fails" if any(max(pair) < limit for pair in ends) else "undecided"


def fall(summary: Mapping[str, Any], key: str) -> float:
    """Return by how much blurring whole tiles lowers the mean score of a map's network; infinite where not known."""
    ends = summary["ends"].get(key.partition("_")[0])
    return float("inf") if ends is None else float(ends["tile"] - ends["blurred"])
