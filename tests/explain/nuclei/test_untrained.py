from __future__ import annotations

import copy
from functools import partial

import numpy as np
import pytest
import torch

from helpers.networks import CLASSIFIER, random_network
from vitrail.explain.explainer import Explainer
from vitrail.explain.nuclei.untrained import untrained_model
from vitrail.models.store import Model

CPU = torch.device("cpu")


def test_a_network_with_random_weights_forgets_the_trained_one_and_leaves_it_as_it_is():
    rng = np.random.default_rng(4)
    images = rng.integers(0, 256, (4, 64, 64, 3)).astype(np.uint8)
    model = Model(spec=CLASSIFIER, module=random_network(CLASSIFIER).eval())
    before = copy.deepcopy(model.module.state_dict())
    explaining = partial(Explainer, device=CPU, engine="torch")
    other = untrained_model(model, images, CPU, 1)
    trained, random = (torch.cat([*explaining(each).outputs(images)]) for each in (model, other))
    assert not torch.allclose(trained, random)
    assert random == pytest.approx(torch.cat([*explaining(untrained_model(model, images, CPU, 1)).outputs(images)]))
    assert all(torch.equal(before[name], value) for name, value in model.module.state_dict().items())
