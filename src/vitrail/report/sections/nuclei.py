"""What the section "Which nuclei" of the page holds besides its figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vitrail.classes import NETWORKS
from vitrail.evaluation.groups import FEWEST_PATIENTS
from vitrail.explain.nuclei.summary import SETS

if TYPE_CHECKING:
    from vitrail.explain.nuclei.results import NucleiStudy


def nuclei_section(study: NucleiStudy) -> dict[str, Any] | None:
    """Return what the template of the section needs; None where nobody wanted to know, and no slide was refused.

    Parameters
    ----------
    study
        What was measured.

    Returns
    -------
    dict[str, Any] | None
        `refused`, why slides or tiles are left out, a line each; the numbers of `tiles`, `patients` and `nuclei`, and
        `fewest`, the patients below which little can be said; `engine`; `removals`, of both networks; `sentences` by
        the network's title, `shared_sentences` of both, and `map_sentences`, what goes with relevance; `coarse`,
        sentences about maps that cannot point at a nucleus; `removed`, rows of the table.
    """
    summary = study.summary
    if not summary["tiles"]:
        return {"tiles": 0, "refused": summary["refused"]} if summary["refused"] else None
    titles = {network: NETWORKS.get(network, network) for network in summary["removed"]}
    return {
        "tiles": summary["tiles"],
        "patients": summary["patients"],
        "nuclei": summary["nuclei"],
        "fewest": FEWEST_PATIENTS,
        "engine": summary["engine"],
        "removals": sum(summary["removals"].values()),
        "refused": summary["refused"],
        "sentences": {titles[network]: summary["sentences"][network] for network in titles},
        "shared_sentences": summary["shared_sentences"],
        "map_sentences": [
            line for own in summary["map_sentences"].values() for lines in own.values() for line in lines
        ],
        "coarse": [entry["sentence"] for entry in summary["maps"].values() if entry["too_coarse"]],
        "removed": [
            entry | {"network": titles[network], "title": SETS.get(entry["group"], entry["group"]).capitalize()}
            for network, entries in summary["removed"].items()
            for entry in entries
        ],
    }
