"""A vision transformer of a few thousand weights, by itself and as a folder that timm can read."""

from __future__ import annotations

import json

import torch
from safetensors.torch import save_file

from helpers.networks import SHARED
from vitrail.models.encoder import build_timm
from vitrail.models.spec import ClassifierSpec, SegmenterSpec

NAME = "vit_tiny_patch16_224"
ARGUMENTS = (("depth", 4), ("embed_dim", 32), ("img_size", 32), ("num_heads", 2), ("patch_size", 8), ("reg_tokens", 2))
MEAN, STD = (0.7, 0.6, 0.7), (0.2, 0.25, 0.15)
VIT = SHARED | {"encoder": NAME, "encoder_arguments": ARGUMENTS}
CLASSIFIER = ClassifierSpec(**VIT, dense=16, dropout=0.5, activation="relu")
LINEAR, UPERNET = (
    SegmenterSpec(**VIT, decoder=(16, 8, 8, 8, 8), architecture=name, head_px=1) for name in ("linear", "upernet")
)


def write_folder(folder, **changes):
    """Write `config.json` and random weights as timm's own `save_for_hf` lays them out."""
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        network = build_timm(NAME, ARGUMENTS)
    own = {"mean": MEAN, "std": STD, "input_size": [3, 32, 32], "license": "mit", "num_classes": 0}
    config = {
        "architecture": NAME, "num_classes": 0, "num_features": 32, "global_pool": "token",
        "model_args": dict(ARGUMENTS) | {"num_classes": 0, "dynamic_img_size": True},
        "pretrained_cfg": own | {"first_conv": "patch_embed.proj", "classifier": "head", "fixed_input_size": True},
    }  # fmt: skip
    config["pretrained_cfg"] |= changes
    (folder / "config.json").write_text(json.dumps(config))
    save_file(network.state_dict(), folder / "model.safetensors")
    return network
