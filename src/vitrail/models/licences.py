"""Under which licences encoders' weights are, and what these restrict.

Facts about licences, no legal advice. Those of hubs' repositories were read in November 2026, each where its entry
says; a repository may change its terms, and what its card says then counts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from vitrail.errors import ModelError
from vitrail.settings.load import HUB

UNKNOWN = "unknown"
"""The name of a licence that nobody has stated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Licence:
    """The licence of an encoder's weights.

    Attributes
    ----------
    name
        SPDX identifier where there is one.
    restricts
        What its terms restrict, as the rest of a sentence that begins with the licence; empty where nothing is known.
    source
        Where that was read; empty for what a model's own configuration states.
    """

    name: str
    restricts: str = ""
    source: str = ""


_TRIDENT = "README.md of the repository mahmoodlab/TRIDENT, table of patch encoders"
_NC_ND = "forbids commercial use and derivatives"
_NO_COMMERCE = "forbids commercial use"

WEIGHTS = {
    "bioptimus/h-optimus-0": Licence(name="Apache-2.0", source=_TRIDENT),
    "bioptimus/h-optimus-1": Licence(name="CC-BY-NC-ND-4.0", restricts=_NC_ND, source=_TRIDENT),
    "bioptimus/h0-mini": Licence(name="CC-BY-NC-ND-4.0", restricts=_NC_ND, source=_TRIDENT),
    "paige-ai/virchow": Licence(name="Apache-2.0", source="model card"),
    "paige-ai/virchow2": Licence(name="CC-BY-NC-ND-4.0", restricts=_NC_ND, source="model card"),
    "mahmoodlab/uni": Licence(name="CC-BY-NC-ND-4.0", restricts=_NC_ND, source="model card"),
    "mahmoodlab/uni2-h": Licence(name="CC-BY-NC-ND-4.0", restricts=_NC_ND, source=_TRIDENT),
    "mahmoodlab/conch": Licence(name="CC-BY-NC-ND-4.0", restricts=_NC_ND, source=_TRIDENT),
    "mahmoodlab/conchv1_5": Licence(name="CC-BY-NC-ND-4.0", restricts=_NC_ND, source=_TRIDENT),
    "prov-gigapath/prov-gigapath": Licence(
        name="Apache-2.0",
        restricts="comes with a card that names research as the only intended use, and no clinical or deployed one",
        source=f"licence: {_TRIDENT}; card: README.md of the repository prov-gigapath/prov-gigapath",
    ),
    "prov-gigapath/prov-gigapath-flash": Licence(
        name="Apache-2.0",
        restricts="may come with a card that names research as the only intended use, as that of prov-gigapath",
        source=f"licence: {_TRIDENT}; card: not read",
    ),
    "kaiko-ai/midnight": Licence(name="MIT", source="model card"),
    "owkin/phikon": Licence(
        name="Owkin non-commercial", restricts=_NO_COMMERCE, source="LICENSE.txt of repository owkin/HistoSSLscaling"
    ),
    "owkin/phikon-v2": Licence(name="Owkin non-commercial", restricts=_NO_COMMERCE, source="model card"),
    "sophontai/openmidnight": Licence(name="Apache-2.0", source="model card"),
    "xtxx/digepath": Licence(name="CC-BY-NC-4.0", restricts=_NO_COMMERCE, source=_TRIDENT),
}  # fmt: skip
"""By the repository's name on a hub, in small letters."""

_OPEN = frozenset({"apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc-by-4.0", "cc0-1.0", "isc", "unlicense"})
_OF_ITS_OWN = {
    "dinov3-license": "has terms of its own that must be accepted",
    "apple-amlr": "allows research only",
    "seer-license": _NO_COMMERCE,
}


def licence_of(repository: str, stated: str | None) -> Licence:
    """Return the licence of an encoder's weights.

    Parameters
    ----------
    repository
        Its name on a hub; empty where it has none. What the table says of it counts before what is stated.
    stated
        What its configuration, or timm, says.

    Returns
    -------
    Licence
        `UNKNOWN` where nobody says anything.
    """
    known = WEIGHTS.get(repository.partition("@")[0].lower())
    if known:
        return known
    name = (stated or "").strip()
    if not name or name.lower() in _OPEN:
        return Licence(name=name or UNKNOWN)
    terms = re.split(r"[^a-z0-9]+", name.lower())
    limits = [what for word, what in (("nc", "commercial use"), ("nd", "derivatives")) if word in terms]
    if "noncommercial" in re.sub(r"[^a-z]", "", name.lower()):
        limits = limits or ["commercial use"]
    restricts = f"forbids {' and '.join(limits)}" if limits else _OF_ITS_OWN.get(name.lower(), "")
    return Licence(name=name, restricts=restricts)


def foreseen_terms(encoder: str, weights: str, *, accepted: bool) -> list[str]:
    """Say what a hub's repository restricts, as far as the table knows, before anything is read.

    Parameters
    ----------
    encoder, weights
        `encoder.name` and `encoder.weights`.
    accepted
        `encoder.licence_accepted`.

    Returns
    -------
    list[str]
        No line or one.
    """
    known = encoder.replace("hf_hub:", HUB).startswith(HUB) and weights == "imagenet"
    licence = licence_of(encoder.partition(":")[2], None) if known else None
    if licence is None or not licence.restricts:
        return []
    try:
        return [str(check_licence(encoder, licence, accepted=accepted))]
    except ModelError as error:
        return [str(error)]


def check_licence(encoder: str, licence: Licence, *, accepted: bool) -> str | None:
    """Make sure that restrictions of an encoder's licence were accepted.

    Parameters
    ----------
    encoder
        `encoder.name`.
    licence
        Of its weights.
    accepted
        `encoder.licence_accepted`.

    Returns
    -------
    str | None
        A line that says what the licence restricts, or that nobody states one; None where there is nothing to say.

    Raises
    ------
    ModelError
        They were not accepted.
    """
    where = f"encoder {encoder!r}"
    if licence.restricts:
        sentence = f"the licence of its weights, {licence.name}, {licence.restricts}"
        if accepted:
            return f"{where}: {sentence}; models that are trained from them carry it on"
        cure = "Read it, and if it allows your use set encoder.licence_accepted = true; or take another encoder"
        raise ModelError(where, sentence, cure)
    if licence.name.lower() in _OPEN:
        return None
    if licence.name == UNKNOWN:
        return f"{where}: nobody states the licence of its weights; ask before you use them"
    return f"{where}: the licence of its weights is {licence.name}; whether it restricts your use is for you to read"
