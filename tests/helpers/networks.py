"""Small untrained networks whose every layer does something."""

from __future__ import annotations

import torch
from torch import nn

from vitrail.explain.methods.hrcam import HRCamHead
from vitrail.models.spec import ClassifierSpec, SegmenterSpec
from vitrail.models.store import build

SHARED = {
    "encoder": "test_efficientnet",
    "side_um": 199.1,
    "side_px": 64,
    "mean": (0.7, 0.5, 0.6),
    "std": (0.2, 0.25, 0.15),
}


CLASSIFIER = ClassifierSpec(**SHARED, dense=16, dropout=0.5)


SEGMENTER = SegmenterSpec(**SHARED, decoder=(16, 8, 8, 8, 8))


def random_network(spec, seed=0, most=2.5):
    """An untrained network whose normalisation layers and biases are random, too; in deep ones they must not be large.

    Otherwise rounding grows from layer to layer.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build(spec)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
                nn.init.uniform_(module.weight, 0.5, most)
                nn.init.normal_(module.bias, 0, 0.3)
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.bias, 0, 0.1)
    return network


PAPER = SegmenterSpec(**SHARED | {"encoder": "mobilenetv2_035"}, decoder=(16, 8, 8, 8, 8), layout="paper", head_px=1)


def random_head(layers, seed=2):
    generator = torch.Generator().manual_seed(seed)
    return HRCamHead(layers=layers, weights=torch.randn(sum(layers.channels), generator=generator), bias=0.25, l2=0.1)
