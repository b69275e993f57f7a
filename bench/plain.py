"""The plain script: the same study as a user would write it today with timm and segmentation_models_pytorch.

    python -m bench.plain RUN [--seed N]

It takes a finished run's tiles, split, encoder weights, epochs, batch sizes and learning rates, trains a timm
classifier and an smp U-Net with a DataLoader and torchvision's transforms, keeps the epoch with the lowest validation
loss, and prints the test figures beside Vitrail's own.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import segmentation_models_pytorch as smp
import timm
import torch
from sklearn.metrics import accuracy_score, jaccard_score, roc_auc_score
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from vitrail.models.device import keep_memory
from vitrail.models.weights import start_weights
from vitrail.settings.load import read_settings
from vitrail.tiles.split import read_split
from vitrail.tiles.store import read_tiles

CLASSES = 4


class Tiles(Dataset):
    """Tiles of one split, standardised."""

    def __init__(self, table, rows, statistics, *, masks, train):
        self.table, self.rows, self.masks = table, rows, masks
        mean, std = statistics
        blur = [] if masks else [v2.RandomApply([v2.GaussianBlur(3, (0.1, 1.0))], 0.5)]
        changes = [
            v2.RandomHorizontalFlip(), v2.RandomVerticalFlip(),
            v2.RandomChoice([v2.RandomRotation((angle, angle)) for angle in (0, 90, 180, 270)]),
            v2.ColorJitter(0.15, 0.15, 0.2, 0.03), *blur,
        ]  # fmt: skip
        self.transform = v2.Compose(
            [*(changes if train else []), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]
        )

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        row = self.rows[i]
        image = tv_tensors.Image(torch.from_numpy(self.table.images[row].copy()).permute(2, 0, 1))
        if self.masks:
            image, mask = self.transform(image, tv_tensors.Mask(torch.from_numpy(self.table.masks[row].copy())))
            return image, mask.long()
        return self.transform(image), torch.tensor(float(self.table.rows["label"].iat[row] == "tumor"))


def fit(model, loss, sets, settings, *, one_cycle=False):
    """Train with Adam and keep the best epoch by validation loss; with one cycle the last, as the recipes do."""
    optimizer = torch.optim.Adam(model.parameters(), settings.learning_rate)
    train = DataLoader(sets["train"], settings.batch, shuffle=True, drop_last=len(sets["train"]) % settings.batch == 1)
    steps = len(train) * settings.epochs
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, steps) if one_cycle else None
    best, weights = float("inf"), None
    for epoch in range(settings.epochs):
        model.train()
        for x, y in train:
            optimizer.zero_grad()
            loss(model(x).squeeze(1), y).backward()
            optimizer.step()
            if schedule:
                schedule.step()
        outputs, truth = run(model, sets["validation"], settings.batch)
        value = float(loss(outputs, truth))
        if not one_cycle:
            print(f"  epoch {epoch + 1}/{settings.epochs}  validation loss {value:.4f}", flush=True)
        if value < best or one_cycle:
            best, weights = value, copy.deepcopy(model.state_dict())
    model.load_state_dict(weights)


@torch.no_grad()
def run(model, tiles, batch):
    """Return outputs and truth of a set of tiles."""
    model.eval()
    pairs = [(model(x).squeeze(1), y) for x, y in DataLoader(tiles, batch)]
    return torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs])


def tile_figures(truth, probability):
    """Return AUC and accuracy."""
    return {"auc": roc_auc_score(truth, probability), "accuracy": accuracy_score(truth, probability >= 0.5)}


def classifier_of(name, weights):
    """Return timm's classifier with one output."""
    network = timm.create_model(name, num_classes=1)
    network.load_state_dict(weights, strict=False)
    network.get_classifier().reset_parameters()  # timm's own start for one output is uniform in -1..1: loss near 3
    return network, torch.nn.BCEWithLogitsLoss()


def segmenter_of(name, weights):
    """Return the library's U-Net."""
    network = smp.Unet(f"tu-{name}", encoder_weights=None, classes=CLASSES)
    network.encoder.model.load_state_dict(weights, strict=False)
    return network, smp.losses.JaccardLoss("multiclass")


def start(settings):
    """Return the encoder's start weights."""
    weights = start_weights(settings.encoder)
    return {key: value for key, value in weights.items() if not key.startswith("classifier.")}


def colours(table, rows):
    """Return mean and standard deviation of each channel."""
    pixels = table.images[rows].reshape(-1, 3) / 255
    return pixels.mean(0).tolist(), pixels.std(0).tolist()


def plain_answers(task, parts, settings, unseen):
    """Train one network with one cycle, batches of 32 and ten epochs; return its answers to tiles, and the seconds."""
    begun = time.perf_counter()
    torch.manual_seed(settings.seed)
    own = SimpleNamespace(learning_rate=1e-3, batch=32, epochs=10)
    rows = {"train": parts.train, "validation": parts.validation, "test": unseen}
    statistics, masks = colours(parts.tiles, parts.train), task == "segmenter"
    tiles = {name: Tiles(parts.tiles, rows[name], statistics, masks=masks, train=name == "train") for name in rows}
    make = segmenter_of if masks else classifier_of
    network, loss = make(settings.encoder.name, start(settings))
    fit(network, loss, tiles, own, one_cycle=True)
    seconds = time.perf_counter() - begun
    logits, _ = run(network, tiles["test"], own.batch)
    return {"one": (torch.softmax(logits, 1) * 255).round().byte().numpy() if masks else logits.numpy()}, seconds


def study(folder: Path, seed: int) -> dict:
    """Train both networks plainly and score them on the test tiles."""
    torch.manual_seed(seed)
    settings = read_settings(folder / "study.toml")
    table = read_tiles(folder / "tiles")
    split = read_split(folder / "split", table.rows)
    rows = {name: np.flatnonzero(split == name) for name in ("train", "validation", "test")}
    statistics, weights = colours(table, rows["train"]), start(settings)

    def sets(masks):
        return {name: Tiles(table, rows[name], statistics, masks=masks, train=name == "train") for name in rows}

    classifier, loss = classifier_of(settings.encoder.name, weights)
    tiles = sets(masks=False)
    fit(classifier, loss, tiles, settings.classifier)
    logits, truth = run(classifier, tiles["test"], settings.classifier.batch)
    figures = {"classifier": tile_figures(truth, torch.sigmoid(logits))}

    segmenter, loss = segmenter_of(settings.encoder.name, weights)
    tiles = sets(masks=True)
    fit(segmenter, loss, tiles, settings.segmenter)
    logits, masks = run(segmenter, tiles["test"], settings.segmenter.batch)
    called = logits.argmax(1)
    jaccard = jaccard_score(masks.ravel(), called.ravel(), average=None, labels=range(CLASSES))
    share = (called == 0).float().mean((1, 2))
    return figures | {
        "segmenter": tile_figures(truth, share),
        "pixels": {"mean_jaccard": jaccard.mean(), "tumor": jaccard[0]},
    }


def vitrails_own(metrics: Path) -> dict:
    """Read the run's figures, NaN where it has no report yet."""
    if not metrics.is_file():
        return defaultdict(lambda: defaultdict(lambda: float("nan")))
    test = json.loads(metrics.read_text())["test"]
    pixels = test["pixels"]
    return test | {"pixels": {"mean_jaccard": pixels["mean_jaccard"], "tumor": pixels["jaccard"]["tumor"]}}


def main() -> None:
    """Print the plain script's figures beside the run's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    keep_memory()  # changes only how long this takes
    begun = time.perf_counter()
    plain = study(options.run, options.seed)
    seconds = time.perf_counter() - begun
    ours = vitrails_own(options.run / "report" / "metrics.json")
    print(f"\n{'':<24}{'vitrail':>10}{'plain':>10}")
    for network, figures in plain.items():
        for name, value in figures.items():
            print(f"{network + ' ' + name:<24}{ours[network][name]:>10.4f}{float(value):>10.4f}")
    print(f"\nplain script: {seconds:.0f} s")


if __name__ == "__main__":
    main()
