"""What the sections "How sure the networks are" and "How true the labels are" of the page hold but for figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from vitrail.classes import LABELS
from vitrail.evaluation.certainty import GOALS
from vitrail.evaluation.names import CERTAINTIES, ROWS, SINGLE

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from vitrail.evaluation.results import Evaluation

HALF = 0.5
"""Share of the tiles that a sentence is about."""


def certainty_section(evaluation: Evaluation) -> dict[str, Any]:
    """Return what the template says of the networks' certainty.

    Parameters
    ----------
    evaluation
        With test tiles.

    Returns
    -------
    dict[str, Any]
        `sentences`; `areas`, the rows of the table of orders; `review`, those of the tiles that a person has to see;
        `differences` of orders; `slides`, those of the calibration of slides; and by which tiles limits are chosen.
    """
    certainty = evaluation.certainty
    if certainty is None:
        raise ValueError("there are no test tiles")
    found = certainty.metrics
    areas, differences = [], []
    for name in SINGLE:
        own = found["tiles"][name]
        rows = [{"title": CERTAINTIES[kind]} | entry for kind, entry in own["by"].items()]
        areas.append({"title": ROWS[name], "rows": rows, "random": own["error"], "ideal": own["ideal"]})
        for pair, entry in own["differences"].items():
            later, earlier = (CERTAINTIES[kind] for kind in pair.split("_minus_"))
            differences.append({"title": f"{ROWS[name]}: {later} less {earlier}"} | entry)
    if (pixels := found["pixels"]) is not None:
        rows = [{"title": CERTAINTIES["probability"]} | pixels]
        areas.append({"title": "Pixels", "rows": rows, "random": pixels["error"], "ideal": pixels["ideal"]})
    return {
        "sentences": [
            *_kept_sentences(certainty.curves),
            *_review_sentences(found, evaluation.held_out_title),
            *_slide_sentences(found),
        ],
        "areas": areas,
        "differences": differences,
        "goals": GOALS,
        "review": [
            {"title": ROWS[name], "kind": CERTAINTIES[row["certainty"]]} | row
            for name in SINGLE
            for row in found["tiles"][name]["review"]
        ],
        "slides": [{"title": ROWS[name]} | found["slides"][name] for name in SINGLE],
        "held_out": evaluation.held_out_title,
    }


def labels_section(evaluation: Evaluation) -> dict[str, Any]:
    """Return what the template says of the labels.

    Parameters
    ----------
    evaluation
        With test tiles.

    Returns
    -------
    dict[str, Any]
        `tiles` and `patients` that were looked at and `whose`; `rows` of the table; `listed`, how many tiles are
        contradicted; and `sentences`.
    """
    labels = evaluation.metrics["labels"]
    listed = labels["contradicted"]
    total = sum(listed.values())
    kinds = " and ".join(f"{listed[label.key]:,} labelled {label.title.lower()}" for label in LABELS)
    of = {"train": "training", "validation": "validation", "test": "test"}
    sentences = [
        f"Both networks contradict the label of {total:,} of {labels['tiles']:,} {_tiles(labels['tiles'])}: {kinds}."
        if total
        else "There is no tile whose label both networks confidently contradict.",
    ]
    noise, (low, high) = labels["voting"]["noise"], labels["voting"]["interval"]["noise"]
    if np.isfinite(low):
        sentences.append(
            f"Taken together they confidently contradict {noise:.1%} of the labels, scaled to those of which they are "
            f"confident (95 % interval over patients {low:.1%} to {high:.1%}). If every label were true, networks that "
            f"tell the classes apart as well as these would contradict about {labels['voting']['by_errors']:.1%} by "
            "errors of their own."
        )
    return {
        "tiles": labels["tiles"],
        "patients": labels["patients"],
        "whose": _and([of[name] for name in of if labels["split"].get(name)]),
        "rows": [(ROWS[name], labels[name]) for name in SINGLE],
        "listed": total,
        "sentences": sentences,
    }


def _kept_sentences(curves: pd.DataFrame) -> list[str]:
    """Say what is right of the surer half of the tiles."""
    sentences = []
    for name in ("classifier", "segmenter"):
        own = curves[(curves["network"] == name) & (curves["certainty"] == "probability")]
        half = own.iloc[(own["coverage"] - HALF).abs().argmin()]
        sentences.append(
            f"The {ROWS[name].lower()} calls {own['accuracy'].iloc[0]:.1%} of all test tiles rightly, and of the "
            f"{half['coverage']:.0%} of which its probability is surest {half['accuracy']:.1%}{_ends(half)}."
        )
    return sentences


def _review_sentences(found: dict[str, Any], held_out: str) -> list[str]:
    """Say how many tiles a person has to see."""
    sentences = []
    for name in ("classifier", "segmenter"):
        for row in found["tiles"][name]["review"]:
            if row["certainty"] != "probability" or row["goal"] != GOALS[0]:
                continue
            start = f"To have {row['goal']:.0%} right of the others, by the {ROWS[name].lower()}'s probability"
            if not np.isfinite(row["limit"]):
                sentences.append(f"{start} every tile has to be seen: no limit reaches it on the {held_out} tiles.")
            elif row["seen"] == 0:
                sentences.append(f"{start} no tile has to be seen{_outcome(row, held_out)}.")
            else:
                share = row["seen"] / row["tiles"]
                sentences.append(
                    f"{start} a person would see {row['seen']:,} of {row['tiles']:,} test tiles "
                    f"({share:.0%}){_outcome(row, held_out)}."
                )
    return sentences


def _outcome(row: dict[str, Any], held_out: str) -> str:
    if not np.isfinite(row["accuracy"]):
        return f", by the limit that the {held_out} tiles choose; none is left"
    return f", by the limit that the {held_out} tiles choose; of the others {row['accuracy']:.1%} are right{_ends(row)}"


def _slide_sentences(found: dict[str, Any]) -> list[str]:
    """Say how far slides differ, and what chance makes of that."""
    own = found["slides"]["classifier"]
    if not np.isfinite(own["spread"]):
        return []
    return [
        (
            "From slide to slide the classification network's predicted less observed tumor share has a standard "
            f"deviation of {own['spread']:.3f}; were its probabilities right on each of the {own['slides']:,} slides, "
            f"chance would give {own['chance']:.3f}, and more than {own['chance_95']:.3f} once in twenty times."
        )
    ]


def _ends(row: Any) -> str:
    low, high = row["accuracy_low"], row["accuracy_high"]
    return f" ({low:.1%} to {high:.1%})" if np.isfinite(low) else ""


def _tiles(count: int) -> str:
    return "tile" if count == 1 else "tiles"


def _and(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]])) if words else ""
