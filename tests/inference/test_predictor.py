from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers.training import SPECS, make_parts, with_units
from vitrail.inference.predictor import Predictor, agreed_type
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
