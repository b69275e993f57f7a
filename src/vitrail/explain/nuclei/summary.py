"""What the tables of the stage `nuclei` come to: what groups of nuclei carry of the score, and sentences."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from vitrail.classes import NETWORKS, TissueClass
from vitrail.explain.nuclei.association import LEVEL
from vitrail.explain.nuclei.contrasts import sentences
from vitrail.explain.nuclei.verdicts import AGAINST, FOR, HARMLESS, change_of_tumor_free, judge_removals
from vitrail.nuclei.features import FEATURES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

SETS = {
    "largest": "the largest tenth",
    "darkest": "the darkest tenth",
    "irregular": "the most irregular tenth",
    "lymphocytes": "small, round and dark nuclei",
    "all": "all nuclei",
}
"""What groups of nuclei are called."""


def removed(groups: pd.DataFrame, network: str, seed: int) -> list[dict[str, Any]]:
    """Say what removing groups of nuclei does to the logit of tumor, on tiles that a network rightly calls tumor.

    Parameters
    ----------
    groups
        The table.
    network
        Whose.
    seed
        Draws the patients of the intervals.

    Returns
    -------
    list[dict[str, Any]]
        By group, all nuclei first: `group`; `nuclei`, the mean number of a tile; as `[value, low, high]`, null for what
        is undefined, `effect`, `control`, `beyond_control` and `beyond_random`; `tiles`, `patients`; and `verdict`, see
        `vitrail.explain.nuclei.verdicts.judge_removals`.
    """
    own = groups[(groups["network"] == network) & (groups["tiles"] == "tumor")]
    entries = []
    for row in judge_removals(own, seed).to_dict("records") if len(own) else ():
        numbers = own.loc[own["group"] == row["group"], "nuclei"]
        estimates = {name: _numbers(row, name) for name in ("effect", "control", "beyond_control", "beyond_random")}
        counts = {name: int(row[name]) for name in ("tiles", "patients")}
        entries.append(
            {"group": row["group"], "nuclei": float(numbers.mean())} | estimates | counts | {"verdict": row["verdict"]}
        )
    return entries


def painting_harm(groups: pd.DataFrame, network: str, seed: int) -> dict[str, Any] | None:
    """Say whether removing all nuclei leaves the score of tumor-free tiles as it is; None without such tiles.

    Parameters
    ----------
    groups, network, seed
        As for `removed`.

    Returns
    -------
    dict[str, Any] | None
        `tiles` and `patients` without tumor, `effect` and `share` as `[value, low, high]`, and `harmless`, see
        `vitrail.explain.nuclei.verdicts.change_of_tumor_free`.
    """
    own = groups[groups["network"] == network]
    if not len(own) or not (own["label"] != TissueClass.TUMOR.key).any():
        return None
    row = change_of_tumor_free(own, seed).to_dict("records")[0]
    estimates = {name: _numbers(row, name) for name in ("effect", "share")}
    patients = int(own.loc[own["label"] != TissueClass.TUMOR.key, "patient_id"].nunique())
    counts = {"tiles": int(row["tiles"]), "patients": patients}
    return counts | estimates | {"harmless": bool(row["harmless"]) and patients > 1}


def _numbers(row: Mapping[Any, Any], name: str) -> list[float | None]:
    values = (float(row[f"{name}{end}"]) for end in ("", "_low", "_high"))
    return [value if np.isfinite(value) else None for value in values]


def removal_sentences(entries: Sequence[Mapping[str, Any]], harm: Mapping[str, Any] | None, network: str) -> list[str]:
    """Say in words what `removed` and `painting_harm` found.

    Parameters
    ----------
    entries
        What `removed` returned.
    harm
        What `painting_harm` returned.
    network
        Whose.

    Returns
    -------
    list[str]
        A sentence for each group that speaks for or against tumor, one for those of which that cannot be told, and one
        for the painting.
    """
    title, lines, undecided = NETWORKS.get(network, network).lower(), list[str](), list[str]()
    for entry in entries:
        name = SETS.get(entry["group"], entry["group"])
        value, low, high = entry["effect"]
        if value is None or entry["verdict"] not in {FOR, AGAINST}:
            undecided.append(name)
            continue
        sign = 1 if entry["verdict"] == FOR else -1
        ends = "" if low is None else f" (95 % interval {min(sign * low, sign * high):.2g} to "
        ends += "" if low is None else f"{max(sign * low, sign * high):.2g}, {entry['patients']} patients)"
        words = f"Without {name} ({entry['nuclei']:.0f} a tile) the {title}'s logit of tumor "
        words += f"{'falls' if sign > 0 else 'rises'} by {sign * value:.2g}{ends}"
        if entry["control"][0] is not None:
            words += f", painting over as much elsewhere takes {entry['control'][0]:.2g}"
        beyond, least, most = entry["beyond_random"]
        if least is not None and (least > 0 or most < 0):
            words += f"; as many other nuclei of that area carry {abs(beyond):.2g} {'less' if beyond > 0 else 'more'}"
        lines.append(with_minus(f"{words}."))
    if undecided:
        lines.append(f"Of {listed(undecided)} it cannot be told whether the {title}'s score rests on them.")
    if harm is not None:
        lines.append(_painting_sentence(harm, title))
    return lines


def _painting_sentence(harm: Mapping[str, Any], title: str) -> str:
    share, low, high = harm["share"]
    where = f"{harm['tiles']} tumor-free {'tile' if harm['tiles'] == 1 else 'tiles'}"
    undecided = low is None or (not harm["harmless"] and low <= HARMLESS and high >= -HARMLESS)
    if share is None or undecided or harm["patients"] < 2:
        return f"Whether painting itself moves the {title}'s score cannot be told from {where}."
    numbers = f"by {100 * share:.0f} % (95 % interval {100 * low:.0f} to {100 * high:.0f} %) of what parts them"
    does = "hardly moves" if harm["harmless"] else "itself moves"
    return with_minus(f"Painting {does} the {title}'s score: {where} move {numbers} from tumor without nuclei.")


def with_minus(words: str) -> str:
    """Return a sentence with minus signs before its numbers instead of hyphens."""
    return re.sub(r"(?<![\w\N{MINUS SIGN}])-(?=\d)", "\N{MINUS SIGN}", words)


def map_sentences(tables: Mapping[str, pd.DataFrame], network: str, methods: Mapping[str, str]) -> dict[str, list[str]]:
    """Say of each outcome which features of nuclei go with it, as far as the numbers carry it.

    Parameters
    ----------
    tables
        With `associations` and `contrasts`.
    network
        Whose.
    methods
        The title of each method, by its name.

    Returns
    -------
    dict[str, list[str]]
        By outcome; of the effect on tiles that are rightly called tumor, of maps on all tiles.
    """
    title, result = NETWORKS.get(network, network).lower(), {}
    titles = titles_in_sentences()
    for outcome in ("effect", *methods):
        tiles = "tumor" if outcome == "effect" else "all"
        own = [
            each[(each["network"] == network) & (each["outcome"] == outcome) & (each["tiles"] == tiles)]
            for each in (tables["associations"], tables["contrasts"])
        ]
        if len(own[0]):
            called = outcome if outcome == "effect" else f"relevance by {methods[outcome]}"
            result[outcome] = sentences(own[0], own[1], network=f"the {title}", outcome=called, titles=titles)
    return result


def concept_sentences(concepts: pd.DataFrame, network: str) -> list[str]:
    """Say which features of a tile's nuclei a network holds, and uses.

    Parameters
    ----------
    concepts
        The table.
    network
        Whose.
    """
    own = concepts[(concepts["network"] == network) & (concepts["verdict"] != "undefined")]
    title = NETWORKS.get(network, network).lower()
    if not len(own):
        return []
    used = {
        verdict: [
            f"{titles_in_sentences().get(row['concept'], row['concept'])} (R\N{SUPERSCRIPT TWO} {row['r2']:.2f})"
            for row in own[own["verdict"] == verdict].to_dict("records")
        ]
        for verdict in ("more", "less")
    }
    lines = [
        f"In the {title}'s own space its logit of tumor {'rises' if verdict == 'more' else 'falls'} with the mean "
        f"{listed(names)} of a tile's nuclei; in brackets how well left-out patients are predicted."
        for verdict, names in used.items()
        if names
    ]
    if lines:
        return lines
    held = int(own["verdict"].isin(["as_null", "undecided"]).sum())
    read = f"Of {len(own)} concepts, mean features of a tile's nuclei, {held or 'none'} can be read in the {title}'s"
    return [f"{read} own space, and of none it can be told that its logit goes with it."]


def shared_sentences(comparison: pd.DataFrame, reliability: pd.DataFrame) -> list[str]:
    """Say in which features the two networks differ, and how far the features themselves can be trusted.

    Parameters
    ----------
    comparison, reliability
        The tables.
    """
    lines, called = [], titles_in_sentences()
    own = comparison[comparison["outcome"] == "effect"]
    for row in own[own["marginal_q"] < LEVEL].to_dict("records"):
        more = "more" if row["marginal_difference"] > 0 else "less"
        numbers = f"{row['marginal_difference']:+.2f}, 95 % interval {row['marginal_low']:+.2f} to "
        lines.append(
            with_minus(
                f"The effect goes {more} with {called[row['feature']]} in the classification network than in the "
                f"segmentation network (difference of standardised coefficients {numbers}{row['marginal_high']:+.2f})."
            )
        )
    if len(own) and not lines:
        lines.append("No feature was found with which the effect goes more in one network than in the other.")
    known = reliability.dropna(subset=["icc"])
    if len(known):
        least = str(known.sort_values("icc")["feature"].iloc[0])
        lines.append(
            f"Where nuclei are segmented anew, the intraclass correlation of features is {known['icc'].min():.2f} to "
            f"{known['icc'].max():.2f}; least reliable is {called[least]}."
        )
    return lines


def titles_in_sentences() -> dict[str, str]:
    """Return what each feature is called within a sentence, by its name."""
    return {
        name: (feature.title[:1].lower() + feature.title[1:]).replace(" um", " \N{MICRO SIGN}m")
        for name, feature in FEATURES.items()
    }


def listed(names: Sequence[str]) -> str:
    """Return "a", "a and b", or "a, b and c"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def summarise(
    tables: Mapping[str, pd.DataFrame], networks: Sequence[str], methods: Mapping[str, str], seed: int
) -> dict[str, Any]:
    """Sum up the tables.

    Parameters
    ----------
    tables
        By the names of `vitrail.explain.nuclei.results.COLUMNS`.
    networks
        Whose.
    methods
        The title of each method, by its name.
    seed
        Draws the patients of the intervals.

    Returns
    -------
    dict[str, Any]
        As JSON: the numbers of `tiles`, `patients` and `nuclei`; `removals`, by network the changed tiles
        that stand in the tables; `removed` and `painting`, by network what the functions of these names return (the
        second is `painting_harm`); `sentences`, by network; `shared_sentences`, of both; `map_sentences`, by network
        and method; `methods`.
    """
    seen = tables["groups"], tables["effects"], tables["controls"]
    carried = {network: removed(tables["groups"], network, seed) for network in networks}
    harm = {network: painting_harm(tables["groups"], network, seed) for network in networks}
    told = {network: map_sentences(tables, network, methods) for network in networks}
    return {
        "tiles": len(tables["tiles"]),
        "patients": int(tables["tiles"]["patient_id"].nunique()),
        "nuclei": len(tables["nuclei"]),
        "removals": {network: sum(int((each["network"] == network).sum()) for each in seen) for network in networks},
        "removed": carried,
        "painting": harm,
        "sentences": {
            network: [
                *removal_sentences(entries, harm[network], network),
                *told[network].pop("effect", []),
                *concept_sentences(tables["concepts"], network),
            ]
            for network, entries in carried.items()
        },
        "shared_sentences": shared_sentences(tables["comparison"], tables["reliability"]),
        "map_sentences": told,
        "methods": dict(methods),
    }
