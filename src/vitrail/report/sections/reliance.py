"""What the section "What the network relies on" of the page holds besides its figure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vitrail.classes import NETWORKS
from vitrail.explain.checks.reliance import LEAST_SHARE, TITLES, conclusion

if TYPE_CHECKING:
    from collections.abc import Mapping


def reliance_section(summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what the template of the section needs; None for checks of before, or with nothing to measure on.

    Parameters
    ----------
    summary
        That of the checks.

    Returns
    -------
    dict[str, Any] | None
        `rows`, one a network and cause; `conclusions` and `sentences`, by the network's title; `least`, the
        shares beyond which patches and looks are named; `known`, whether the slides were drawn from any cause.
    """
    reliance = summary.get("reliance") or {}
    if not any(reliance.values()):
        return None
    titles = {network: NETWORKS.get(network, network) for network in reliance}
    return {
        "rows": [
            entry | {"network": titles[network], "title": TITLES.get(entry["cause"], entry["cause"]).capitalize()}
            for network, entries in reliance.items()
            for entry in entries
        ],
        "conclusions": {titles[network]: conclusion(entries) for network, entries in reliance.items()},
        "sentences": [
            entry["sentence"] for entries in reliance.values() for entry in entries if entry["named"] or entry["known"]
        ],
        "least": [LEAST_SHARE["ink"], LEAST_SHARE["stain"]],
        "known": any(entry["known"] for entries in reliance.values() for entry in entries),
    }
