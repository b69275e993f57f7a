from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
import torch

from helpers.training import SPECS, make_parts, with_units
from vitrail.inference.predictor import Predictor, agreed_type
from vitrail.models.join import joined
from vitrail.models.spec import HalfCheck
from vitrail.models.store import Model, build

CPU = torch.device("cpu")


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


@pytest.mark.parametrize(("gain", "dtype"), [(1.3, torch.bfloat16), (1.1, torch.float32)])
def test_16_bits_are_taken_where_they_were_measured_to_be_faster(tmp_path, monkeypatch, gain, dtype):
    """Measured once: the second predictor is not asked again, and would come to the other answer."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with_units(monkeypatch)
    half = HalfCheck(dtype="bfloat16", tiles=256, largest=0.0, changed=0.0)
    model = Model(spec=SPECS["classifier"].model_copy(update={"half": half}), module=build(SPECS["classifier"]))
    images = make_parts().tiles.images[:4]
    for answer in (gain, 2.4 - gain):
        monkeypatch.setattr("vitrail.models.half_precision._gain", lambda *_, answer=answer: answer)
        auto = Predictor(model, CPU, engine="torch").tumor_logits(images)
        fixed = Predictor(model, CPU, engine="torch", precision=str(dtype).removeprefix("torch.")).tumor_logits(images)
        np.testing.assert_array_equal(auto, fixed)
    assert len(list(tmp_path.rglob("*.json"))) == 1


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


ENGINES = ["torch", *(["openvino"] if find_spec("openvino") else [])]


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
