from __future__ import annotations

import pytest

from vitrail.errors import ModelError
from vitrail.models.licences import UNKNOWN, WEIGHTS, check_licence, foreseen_terms, licence_of

OPEN = ("bioptimus/H-optimus-0", "paige-ai/Virchow", "kaiko-ai/midnight")


@pytest.mark.parametrize("name", OPEN)
def test_open_licences_say_nothing(name):
    assert check_licence(name, licence_of(name, None), accepted=False) is None
    assert foreseen_terms(f"hf-hub:{name}", "imagenet", accepted=False) == []


@pytest.mark.parametrize("name", ["paige-ai/Virchow2", "MahmoodLab/UNI2-h", "bioptimus/H-optimus-1", "owkin/phikon-v2"])
def test_a_licence_that_restricts_stops_until_it_is_accepted(name):
    licence = licence_of(name, "apache-2.0")  # the table counts before what is stated
    with pytest.raises(ModelError, match=r"licence of its weights, .*forbids commercial use.*licence_accepted = true"):
        check_licence(name, licence, accepted=False)
    line = check_licence(name, licence, accepted=True)
    assert "forbids commercial use" in line
    assert "carry it on" in line
    (foreseen,) = foreseen_terms(f"hf-hub:{name}@main", "imagenet", accepted=False)
    assert "encoder.licence_accepted = true" in foreseen
    assert foreseen_terms(f"hf-hub:{name}", "random", accepted=False) == []


def test_a_card_that_names_research_as_the_only_use_stops_too():
    with pytest.raises(ModelError, match="research as the only intended use"):
        check_licence("x", licence_of("prov-gigapath/prov-gigapath", None), accepted=False)


@pytest.mark.parametrize(
    ("stated", "restricts"),
    [
        ("cc-by-nc-4.0", "forbids commercial use"),
        ("CC-BY-NC-ND-4.0", "forbids commercial use and derivatives"),
        ("cc-by-nd-4.0", "forbids derivatives"),
        ("Some non-commercial licence", "forbids commercial use"),
        ("dinov3-license", "has terms of its own that must be accepted"),
        ("apache-2.0", ""),
        ("openrail", ""),
        ("seer-license", "forbids commercial use"),
        ("candid", ""),
    ],
)
def test_what_a_configuration_states_is_read(stated, restricts):
    assert licence_of("", stated).restricts == restricts


def test_what_is_unknown_is_said():
    licence = licence_of("nobody/nothing", None)
    assert licence.name == UNKNOWN
    assert "nobody states the licence" in check_licence("x", licence, accepted=False)
    assert "is openrail; whether it restricts" in check_licence("x", licence_of("", "openrail"), accepted=False)


def test_every_entry_says_where_it_was_read():
    assert all(licence.name and licence.source and key == key.lower() for key, licence in WEIGHTS.items())
