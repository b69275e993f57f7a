from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from helpers.networks import PAPER, SEGMENTER, random_network
from helpers.training import SPECS, make_parts, with_units
from vitrail.inference.predictor import Predictor
from vitrail.models.candidates import Tuning
from vitrail.models.join import joined
from vitrail.models.spec import HalfCheck
from vitrail.models.store import Model, build
from vitrail.models.trial import LEAST_IMAGES

CPU = torch.device("cpu")
ENGINES = ["torch", *(["openvino"] if find_spec("openvino") else [])]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_many_images_are_computed_as_a_trial_says_and_few_by_default(monkeypatch, precision):
    with_units(monkeypatch)
    half = HalfCheck(dtype="bfloat16", tiles=256, largest=0.0, changed=0.0)
    model = Model(spec=SPECS["classifier"].model_copy(update={"half": half}), module=build(SPECS["classifier"]))
    images = make_parts().tiles.images[:4]
    asked = []

    def choose(trial):
        assert [way.precision for way in trial.steps[0](trial.default)] == ["float32", "bfloat16"]
        for way in (trial.default, replace(trial.default, memory_format="contiguous")):
            trial.work(way)()
        asked.append(trial.title)
        return replace(trial.default, precision=precision)

    monkeypatch.setattr("vitrail.inference.predictor.Trial.choose", choose)
    many = Predictor(model, CPU, engine="torch", tuning=Tuning(images=LEAST_IMAGES))
    few = Predictor(model, CPU, engine="torch", tuning=Tuning(images=LEAST_IMAGES - 1))
    fixed = {
        name: Predictor(model, CPU, engine="torch", precision=name).tumor_logits(images)
        for name in ("float32", "bfloat16")
    }
    np.testing.assert_array_equal(many.tumor_logits(images), fixed[precision])
    np.testing.assert_array_equal(few.tumor_logits(images), fixed["float32"])
    for count, name in ((LEAST_IMAGES - 1, "float32"), (LEAST_IMAGES, precision), (1, "float32")):
        many.expect(count)
        np.testing.assert_array_equal(many.tumor_logits(images), fixed[name])
        assert many.execution.precision == name
    assert asked == ["classifier, test_efficientnet, 32 px"]


def test_what_is_computed_with_does_not_change_the_answer():
    """Threads not even the last bits; in float32 the rest no more than these."""
    torch.manual_seed(1)
    images = make_parts().tiles.images[:21]
    threads = torch.get_num_threads()
    said = [{}, {"threads": 2}, {"batch": 5}, {"memory_format": "contiguous"}]
    for task, engine in [*((task, "torch") for task in SPECS), *(("classifier", engine) for engine in ENGINES[1:])]:
        model = Model(spec=SPECS[task], module=build(SPECS[task]))
        first, *others = (
            torch.cat(list(Predictor(model, CPU, engine=engine, tuning=Tuning(**each)).outputs(images)))
            for each in (said if engine == "torch" else [*said[:2], {"threads": 3}])
        )
        assert len(first) == 21
        for each in others:
            torch.testing.assert_close(each, first, rtol=0, atol=1e-4)
        if engine == "openvino":
            for each in others:
                torch.testing.assert_close(each, first, rtol=0, atol=0)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("task", SPECS)
def test_it_divides_by_the_temperature_and_calls_the_same(task):
    torch.manual_seed(1)
    network, images = build(SPECS[task]), make_parts().tiles.images[:5]
    spec = SPECS[task].model_copy(update={"temperature": 2.5})
    warm = Predictor(Model(spec=spec, module=network), CPU, engine="torch")
    raw = Predictor(Model(spec=spec, module=network), CPU, engine="torch", calibrated=False)
    if task == "classifier":
        logits = warm.tumor_logits(images)
        np.testing.assert_allclose(warm.tumor_probability(images), 1 / (1 + np.exp(-logits / 2.5)), rtol=1e-12)
        np.testing.assert_allclose(raw.tumor_probability(images), 1 / (1 + np.exp(-logits)), rtol=1e-12)
    else:
        powered = raw.class_probabilities(images) ** (1 / 2.5)
        expected = powered / powered.sum(1, keepdims=True)
        np.testing.assert_allclose(warm.class_probabilities(images), expected, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(warm.pixel_classes(images), raw.pixel_classes(images))


def ensemble(task, count=3):
    """Networks with random weights, and a predictor of their ensemble."""
    torch.manual_seed(2)
    members = [Model(spec=SPECS[task].model_copy(update={"temperature": 2.0}), module=build(SPECS[task]).eval())
               for _ in range(count)]  # fmt: skip
    return members, joined({str(number): member for number, member in enumerate(members)})


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("task", SPECS)
def test_an_ensembles_answer_is_the_mean_and_its_spread_that_of_its_members(task, engine):
    members, model = ensemble(task)
    images = make_parts().tiles.images[:9]
    alone = [Predictor(member, CPU, engine="torch") for member in members]
    together = Predictor(model, CPU, engine=engine)
    assert together.looks == 3
    logits = torch.stack([torch.cat(list(each.outputs(images))) for each in alone])
    (answers,) = together.answers(images)
    torch.testing.assert_close(answers.logits, logits.mean(0), rtol=0, atol=1e-4)
    probabilities = (logits / 2).sigmoid() if task == "classifier" else (logits / 2).softmax(2)[:, :, 0]
    torch.testing.assert_close(answers.spread.float(), probabilities.std(0, correction=0), rtol=0, atol=1e-5)
    torch.testing.assert_close(
        torch.cat(list(together.member(1).outputs(images))), logits[1], rtol=0, atol=1e-4 * (engine != "torch")
    )


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("task", SPECS)
@pytest.mark.parametrize("count", [4, 8])
def test_symmetries_are_undone_and_averaged(task, count, engine):
    torch.manual_seed(1)
    model, images = Model(spec=SPECS[task], module=build(SPECS[task])), make_parts().tiles.images[:5]
    single = Predictor(model, CPU, engine="torch")
    logits = []
    for quarters in range(0, 4, 8 // count):
        for step in (1, -1):
            shown = np.ascontiguousarray(np.rot90(images, quarters, (1, 2))[:, :, ::step])
            output = torch.cat(list(single.outputs(shown))).numpy()
            logits.append(output if task == "classifier" else np.rot90(output[..., ::step], -quarters, (2, 3)))
    (answers,) = Predictor(model, CPU, engine=engine, symmetries=count).answers(images)
    np.testing.assert_allclose(answers.logits, np.mean(logits, 0), atol=1e-4)
    tumor = torch.from_numpy(np.stack(logits))
    tumor = tumor.sigmoid() if task == "classifier" else tumor.softmax(2)[:, :, 0]
    np.testing.assert_allclose(answers.spread, tumor.std(0, correction=0), atol=1e-5)


def test_with_all_symmetries_an_image_and_its_turned_one_get_the_same_answer():
    """What the network says of a turned image is the turned answer, which single networks do not hold."""
    torch.manual_seed(1)
    model = Model(spec=SPECS["segmenter"], module=build(SPECS["segmenter"]))
    images = make_parts().tiles.images[:2]
    turned = np.ascontiguousarray(np.rot90(images, axes=(1, 2)))
    gaps = []
    for count in (1, 8):
        predictor = Predictor(model, CPU, engine="torch", symmetries=count)
        first, second = (predictor.class_probabilities(each) for each in (images, turned))
        gaps.append(np.abs(np.rot90(first, axes=(2, 3)) - second).max())
    assert gaps[0] > 1e-2
    assert gaps[1] < 1e-5


def test_who_looks_once_has_no_spread_and_twins_none_to_speak_of():
    torch.manual_seed(1)
    model = Model(spec=SPECS["classifier"], module=build(SPECS["classifier"]))
    images = make_parts().tiles.images[:4]
    (answers,) = Predictor(model, CPU, engine="torch").answers(images)
    assert answers.spread.isnan().all()
    twins = joined({"a": model, "b": model})
    (answers,) = Predictor(twins, CPU, engine="torch").answers(images)
    assert (answers.spread == 0).all()


@pytest.mark.parametrize("engine", ENGINES)
def test_the_network_stays_one_that_can_be_trained(engine):
    spec = SPECS["classifier"]
    predictor = Predictor(Model(spec=spec, module=build(spec).eval()), CPU, engine=engine)
    predictor.tumor_probability(np.zeros((1, spec.side_px, spec.side_px, 3), np.uint8))
    assert not any(parameter.is_inference() for parameter in predictor.module.parameters())


@pytest.mark.parametrize(("spec", "streams"), [(SEGMENTER, 2), (PAPER, 1)])
def test_networks_that_keep_what_they_see_are_asked_one_at_a_time(spec, streams):
    """Timm's hooks hold the maps of the paper's layout in the encoder: a second call at once would mix them."""
    predictor = Predictor(Model(module=random_network(spec), spec=spec), torch.device("cpu"), engine="torch")
    predictor.execution = replace(predictor.execution, threads=2)
    assert predictor.streams() == streams
