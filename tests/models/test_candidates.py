from __future__ import annotations

import pytest
import torch

from helpers.training import SPECS, with_units
from vitrail.models import candidates
from vitrail.models.candidates import BATCH, Candidates, Tuning, agreed_type
from vitrail.models.openvino import BLOCK
from vitrail.models.spec import HalfCheck

CPU = torch.device("cpu")


@pytest.fixture
def installed(monkeypatch):
    """OpenVINO is there, wherever the test runs."""
    monkeypatch.setattr("vitrail.models.openvino.find_spec", lambda _: True)


def all_ways(made, best=None):
    best = best or made.default
    return [[way for way in step(best) if way != best] for step in made.steps]


def classifier(**check):
    half = HalfCheck(dtype="bfloat16", tiles=256, largest=0.0, changed=0.0)
    return SPECS["classifier"].model_copy(update={"half": half, **check})


def test_16_bits_need_a_check_of_their_own_type_that_agrees(monkeypatch):
    with_units(monkeypatch)

    def agreed(task, **seen):
        check = {"dtype": "bfloat16", "tiles": 256, "largest": 0.01, "changed": 0.001} | seen
        return agreed_type(SPECS[task].model_copy(update={"half": HalfCheck(**check)}), CPU) is not None

    assert agreed("classifier")
    assert agreed("segmenter", pixels=0.002)
    assert not agreed("segmenter")  # of a model from before, whose pixels nobody has compared
    for task in SPECS:
        for seen in ({"changed": 1 / 256}, {"largest": 0.011}, {"dtype": "float16"}):
            assert not agreed(task, pixels=0.0, **seen)
    assert not agreed("segmenter", pixels=0.0021)
    assert agreed_type(SPECS["classifier"], CPU) is None
    with_units(monkeypatch, there=False)
    assert not agreed("classifier")


@pytest.mark.usefixtures("installed")
def test_all_is_tried_that_nobody_has_decided(monkeypatch):
    with_units(monkeypatch)
    monkeypatch.setattr(candidates, "other_threads", lambda _: [3])
    made = Candidates(classifier(), CPU, "auto", "auto", Tuning())
    first = made.default
    assert (first.engine, first.precision, first.batch) == ("openvino", "float32", BLOCK)
    ways, threads, batches, formats = all_ways(made)
    assert [(each.engine, each.precision, each.batch) for each in ways] == [
        ("torch", "float32", BATCH), ("torch", "bfloat16", BATCH),
    ]  # fmt: skip
    assert ([each.threads for each in threads], [each.batch for each in batches]) == ([3], [16])
    assert formats == []  # it has no torch's memory
    assert [each.memory_format for each in all_ways(made, ways[0])[3]] == ["contiguous"]
    checked = Candidates(classifier(half_openvino=classifier().half), CPU, "auto", "auto", Tuning())
    assert [(each.engine, each.precision) for each in all_ways(checked)[0]] == [
        ("openvino", "bfloat16"), ("torch", "float32"), ("torch", "bfloat16"),
    ]  # fmt: skip


@pytest.mark.usefixtures("installed")
def test_what_is_decided_is_not_tried(monkeypatch):
    with_units(monkeypatch)
    said = Tuning(threads=5, batch=7, memory_format="contiguous")
    for engine in ("torch", "openvino"):
        for precision in ("float32", "bfloat16"):
            made = Candidates(classifier(), CPU, engine, precision, said)
            way = made.default
            assert (way.engine, way.precision, way.threads, way.batch) == (engine, precision, 5, 7)
            assert way.memory_format == "contiguous"
            assert all_ways(made) == [[]] * 4
    assert all_ways(Candidates(SPECS["classifier"], CPU, "torch", "fastest", said)) == [[]] * 4  # never checked
    assert all_ways(Candidates(classifier(), CPU, "torch", "fastest", said))[0] != []


@pytest.mark.usefixtures("installed")
def test_explanations_are_computed_by_default_one_by_one(monkeypatch):
    with_units(monkeypatch)
    made = Candidates(classifier(), CPU, "auto", "bfloat16", Tuning(batch=32), explains=True)
    assert (made.default.precision, made.default.batch, made.steps) == ("float32", 1, ())


def test_on_a_gpu_16_bits_need_no_trial(monkeypatch):
    monkeypatch.setattr(candidates, "half_type", lambda _: torch.bfloat16)
    made = Candidates(classifier(), torch.device("cuda"), "auto", "auto", Tuning())
    assert (made.default.engine, made.default.precision) == ("torch", "bfloat16")
    batches, formats = all_ways(made)
    assert ([each.batch for each in batches], [each.memory_format for each in formats]) == ([256], ["contiguous"])


@pytest.mark.usefixtures("installed")
def test_what_a_network_has_learnt_is_none_of_the_conditions_and_its_size_is(monkeypatch):
    with_units(monkeypatch)

    def conditions(spec, **said):
        return Candidates(spec, CPU, "auto", "auto", Tuning(**said)).conditions

    spec = classifier()
    usual = conditions(spec)
    assert conditions(spec.model_copy(update={"temperature": 3.0, "mean": (0.1,) * 3}), images=9999) == usual
    others = [
        conditions(spec.model_copy(update={"side_px": 96})),
        conditions(spec.model_copy(update={"half": None})),  # whose 16 bits may not be tried
        conditions(spec, batch=3),
    ]
    assert usual not in others
