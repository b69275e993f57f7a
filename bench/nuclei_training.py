"""Train the small network that comes with Vitrail and finds nuclei.

    python -m bench.nuclei_training --data ../shared/data/brca_m2c [--work FOLDER] [--steps 600 450 450]

BRCA-M2C gives a point for each of 21,000 nuclei in 79 fields, not all nuclei, and no outlines. In three rounds the
outlines become those of the network itself:

1. Around each point hematoxylin is divided into two classes, and the darker one is its nucleus.
2. The outlines are smoothed, and what is dark but has no point is left out of the loss: mostly nuclei not pointed at.
3. The network outlines the fields; each point takes the piece that it lies in, and pieces without a point are left out.

A fifth of what it sees are synthetic slides, whose nuclei are all known. Colours, sharpness, noise and size vary. What
is never seen: CPM-15 and CoNSeP, on which `python -m bench.nuclei` measures it. Half an hour on one core that is free.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import shapely
import torch
from PIL import Image, ImageDraw
from safetensors.torch import save_file
from scipy import ndimage
from skimage.morphology import local_maxima
from skimage.segmentation import watershed
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from vitrail.nuclei.classical import hematoxylin, nuclear_mask
from vitrail.nuclei.network import STEP_PX, NucleusNetwork
from vitrail.nuclei.watershed import divide
from vitrail.slides.slide import open_slide, read_region
from vitrail.synthetic import write_slide
from vitrail.synthetic.truth import read_truth

SEEDS = range(901, 909)
"""Of synthetic slides, 1024 pixels of 0.5 um wide."""

STEPS, RATES = (600, 450, 450), (4e-3, 3e-3, 2e-3)
BATCH, SIDE_PX = 12, 128
STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
"""Hematoxylin, eosin and what remains, in red, green and blue; each of length one below."""

STAINS /= np.linalg.norm(STAINS, axis=1, keepdims=True)


@dataclass(kw_only=True)
class Field:
    """An image with outlines, and where nothing is known."""

    image: np.ndarray
    points: np.ndarray
    labels: np.ndarray
    unknown: np.ndarray

    def tensors(self):
        """Return pixels `[3, h, w]`, and nuclear, depth and known `[3, h, w]`."""
        targets = np.stack([self.labels > 0, depth(self.labels), ~self.unknown]).astype(np.float32)
        return torch.from_numpy(self.image).permute(2, 0, 1).float(), torch.from_numpy(targets)


def disk(radius):
    """Return a disk."""
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return x * x + y * y <= radius * radius + 0.1


def pointed_fields(folder):
    """Yield the fields of BRCA-M2C with outlines around their points."""
    cells = pd.read_csv(folder / "cells.csv")
    for path in sorted((folder / "slides").glob("*.tif")):
        points = cells.loc[cells.slide_id == path.stem, ["x", "y"]].to_numpy(float)
        if len(points) < 3:
            continue
        slide = open_slide(path)
        image = read_region(slide, slide.region, (int(slide.region.width), int(slide.region.height)))
        labels, unknown = outlined(image, points)
        yield Field(image=image, points=points, labels=labels, unknown=unknown)


def synthetic_fields(folder):
    """Yield synthetic slides, all of whose nuclei are known."""
    for seed in SEEDS:
        path = write_slide(folder, f"nuclei{seed}", side_px=1024, seed=seed)
        slide, truth = open_slide(path), read_truth(path)
        picture = Image.new("I", (1024, 1024))
        draw = ImageDraw.Draw(picture)
        for number, outline in enumerate(truth.nuclei, start=1):
            draw.polygon([(x - 0.5, y - 0.5) for x, y in shapely.get_coordinates(outline)], fill=number)
        labels = np.asarray(picture).astype(np.int32)
        image = read_region(slide, slide.region, (1024, 1024))
        yield Field(image=image, points=np.empty((0, 2)), labels=labels, unknown=labels < 0)


def nearest_point(points, shape):
    """Return the number of the nearest point from 1, and its distance, for each pixel."""
    seeds = np.zeros(shape, np.int32)
    x, y = (np.clip(np.round(axis).astype(int), 0, most - 1) for axis, most in zip(points.T, shape[::-1], strict=True))
    seeds[y, x] = np.arange(1, len(points) + 1)
    distance, (row, column) = ndimage.distance_transform_edt(seeds == 0, return_indices=True)
    return seeds[row, column], distance


def outlined(image, points):
    """Outline the nucleus at each point, and return where that failed."""
    stain = ndimage.gaussian_filter(hematoxylin(image), 1.0, truncate=3)
    nearest, distance = nearest_point(points, stain.shape)
    cell, count = np.where(distance <= 18, nearest, 0), len(points)
    inside, numbers = (distance <= 4) & (cell > 0), np.arange(count + 1)
    for _ in range(5):  # two means in each cell, and the threshold between them
        with np.errstate(invalid="ignore", divide="ignore"):
            dark = np.nan_to_num(ndimage.mean(stain, np.where(inside, cell, 0), numbers))
            pale = ndimage.mean(stain, np.where(inside | (cell == 0), count + 1, cell), numbers)
        pale = np.nan_to_num(pale, nan=float(stain.mean()))
        inside = (stain > (dark + pale)[cell] / 2) & (cell > 0) & (stain > 0.1) | (distance <= 2) & (cell > 0)
    inside = ndimage.binary_opening(inside, np.ones((3, 3)))
    middle = distance <= 2.5
    relief = ndimage.gaussian_filter(ndimage.distance_transform_edt(inside).astype(np.float32), 1)
    pieces = watershed(-relief, np.where(middle, nearest, 0), mask=inside | middle)
    labels, failed = np.zeros_like(pieces), []
    for number, box in enumerate(ndimage.find_objects(pieces, count), start=1):
        if box is None:
            failed.append(number)
            continue
        mask = ndimage.binary_opening(np.pad(pieces[box] == number, 2), disk(2))[2:-2, 2:-2]
        parts, found = ndimage.label(mask)
        if found == 0 or dark[number] - pale[number] < 0.08:
            failed.append(number)
            continue
        mask = ndimage.binary_fill_holes(parts == 1 + np.argmax(np.bincount(parts.ravel())[1:]))
        if np.count_nonzero(mask) < 30:
            failed.append(number)
        else:
            labels[box][mask] = number
    return labels, np.isin(cell, failed) & (distance < 10) & (labels == 0)


def completed(field):
    """Smooth the outlines of a field, and leave out what is dark and has no point."""
    smooth = np.zeros_like(field.labels)
    for number, box in enumerate(ndimage.find_objects(field.labels), start=1):
        if box is None:
            continue
        wide = tuple(slice(max(0, side.start - 4), side.stop + 4) for side in box)
        own = np.pad(field.labels[wide] == number, 4)
        own = ndimage.binary_fill_holes(ndimage.binary_closing(own, disk(4)))[4:-4, 4:-4]
        own = ndimage.gaussian_filter(own.astype(np.float32), 1.2) > 0.45
        free = (smooth[wide] == 0) & np.isin(field.labels[wide], (0, number))
        smooth[wide][own & free] = number
    stain = hematoxylin(field.image)
    dark = ndimage.binary_opening(nuclear_mask(stain)[0], disk(1))
    pieces, _ = ndimage.label(dark & ~ndimage.binary_dilation(smooth > 0, iterations=2))
    large = np.bincount(pieces.ravel()) >= 25
    large[0] = False
    unknown = field.unknown | ndimage.binary_dilation(large[pieces], disk(5)) & (smooth == 0)
    return Field(image=field.image, points=field.points, labels=smooth, unknown=unknown)


def refined(field, network):
    """Outline a field by the network: points take the pieces they lie in, pieces without a point are left out."""
    height, width = field.image.shape[:2]
    pixels = np.pad(field.image, ((0, -height % STEP_PX), (0, -width % STEP_PX), (0, 0)), mode="edge")
    with torch.inference_mode():
        output = network.eval()(1 - torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255)
    probability, deep = output[0, 0, :height, :width].sigmoid().numpy(), output[0, 1, :height, :width].numpy()
    mask = ndimage.binary_fill_holes(probability > 0.4)
    nearest, distance = nearest_point(field.points, mask.shape)
    middle, count = np.where(distance <= 3, nearest, 0), len(field.points)
    own = divide(probability > 0.4, ndimage.gaussian_filter(deep, 2.5, truncate=3), least=0.15)
    relief = ndimage.gaussian_filter(deep, 2.0, truncate=3)
    others = local_maxima(relief) & (relief > 0.15) & mask & (distance > 6) & ~np.isin(own, np.unique(own[middle > 0]))
    others, _ = ndimage.label(others, np.ones((3, 3)))
    pieces = watershed(-relief, np.where(others > 0, others + count, middle), mask=mask | (middle > 0))
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    labels, unknown = np.where(pieces <= count, pieces, 0), pieces > count
    for lost, margin in ((sizes < 40, 3), (sizes > 900, 0)):  # pixels: no nucleus, or several
        gone = lost[pieces] & (labels > 0)
        labels[gone] = 0
        unknown |= ndimage.binary_dilation(gone, iterations=margin) if margin else gone
    unknown |= (field.labels > 0) & (labels == 0)
    unknown = ndimage.binary_dilation(unknown, iterations=2) & (labels == 0)
    return Field(image=field.image, points=field.points, labels=labels.astype(np.int32), unknown=unknown)


def depth(labels):
    """Return the distance of each pixel from its nucleus' border, over the largest in it."""
    border = np.zeros(labels.shape, bool)
    for first, second in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        differ = labels[first] != labels[second]
        border[first] |= differ
        border[second] |= differ
    distance = ndimage.distance_transform_edt((labels > 0) & ~border) + 0.5 * (labels > 0)
    deepest = np.ones(labels.max() + 1)
    np.maximum.at(deepest, labels.ravel(), distance.ravel())
    return distance / deepest[labels]


def varied(image, generator):
    """Return an image `[1, 3, h, w]` in other stains, other focus and with noise."""
    density = -torch.log((image + 1) / 256)
    other = STAINS + generator.normal(0, 0.05, STAINS.shape)
    strength = np.diag(np.exp(generator.normal(0, [0.25, 0.3, 0.2])))
    mixing = np.linalg.inv(STAINS) @ strength @ other / np.linalg.norm(other, axis=1).mean()
    density = torch.einsum("nchw,cd->ndhw", density, torch.from_numpy(mixing).float())
    haze = np.abs(generator.normal(0, 0.05, 3)) * generator.integers(2)
    density = (density + torch.from_numpy(haze).float().view(1, 3, 1, 1)) * float(np.exp(generator.normal(0, 0.15)))
    image = 256 * torch.exp(-density) - 1
    if generator.random() < 0.5:
        bell = torch.exp(-(torch.arange(-3.0, 4.0) ** 2) / 2 / generator.uniform(0.3, 1.3) ** 2)
        kernel = (bell / bell.sum()).view(1, 1, 1, 7).repeat(3, 1, 1, 1)
        image = functional.pad(image, (3, 3, 3, 3), mode="reflect")
        image = functional.conv2d(functional.conv2d(image, kernel, groups=3), kernel.transpose(2, 3), groups=3)
    return (image + torch.randn_like(image) * generator.uniform(0, 6)).clamp(0, 255)


def batch(real, synthetic, generator):
    """Draw a batch: absorbed light and targets, `[n, 3, h, w]` each."""
    images, targets = [], []
    for _ in range(BATCH):
        pool = synthetic if generator.random() < 0.2 else real
        image, target = pool[generator.integers(len(pool))]
        side = min(int(np.ceil(SIDE_PX * np.exp(generator.uniform(*np.log([0.7, 1.4]))))), *image.shape[1:])
        y, x = (generator.integers(length - side + 1) for length in image.shape[1:])
        pair = torch.cat([image, target])[None, :, y : y + side, x : x + side]
        pair = functional.interpolate(pair, (SIDE_PX, SIDE_PX), mode="bilinear", antialias=True, align_corners=False)
        pair = torch.cat([varied(pair[:, :3], generator), pair[:, 3:]], dim=1)
        pair = torch.rot90(pair, int(generator.integers(4)), (2, 3))
        pair = pair.flip(3) if generator.integers(2) else pair
        images.append(1 - pair[:, :3] / 255)
        targets.append(pair[:, 3:])
    return torch.cat(images), torch.cat(targets)


def loss_of(output, target):
    """Return cross-entropy and Dice loss of nuclear pixels, and Huber loss of the depth, where something is known."""
    nuclear, deep, known = target[:, 0], target[:, 1], (target[:, 2] > 0.99).float()
    entropy = functional.binary_cross_entropy_with_logits(output[:, 0], nuclear, reduction="none") * known
    likely = output[:, 0].sigmoid() * known
    dice = 1 - (2 * (likely * nuclear).sum() + 1) / ((likely + nuclear * known).sum() + 1)
    error = functional.smooth_l1_loss(output[:, 1], deep, beta=0.2, reduction="none") * known * (1 + 2 * nuclear)
    return (entropy.sum() + 3 * error.sum()) / known.sum() + dice / 2


def train(network, real, synthetic, steps, rate):
    """Train a network for one round."""
    generator, network = np.random.default_rng(0), network.train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.15)
    for step in range(steps):
        images, targets = batch(real, synthetic, generator)
        loss = loss_of(network(images.to(memory_format=torch.channels_last)), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 49:
            print(f"  step {step + 1}: loss {loss.item():.3f}", flush=True)


def export(network, path):
    """Write the weights in 16 bits, batch normalisation made part of the convolutions."""
    plain = NucleusNetwork()
    for name, module in network.eval().named_modules():
        if isinstance(module, torch.nn.Sequential) and len(module) == 3 and isinstance(module[1], torch.nn.BatchNorm2d):
            fused = fuse_conv_bn_eval(module[0], module[1])
            plain.get_submodule(name)[0].load_state_dict(fused.state_dict())
        elif isinstance(module, torch.nn.Conv2d) and module.bias is not None:
            plain.get_submodule(name).load_state_dict(module.state_dict())
    save_file({name: tensor.half().contiguous() for name, tensor in plain.state_dict().items()}, path)


def main():
    """Train, and write the weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of BRCA-M2C: slides/ and cells.csv")
    parser.add_argument("--work", type=Path, default=Path("bench-nuclei"), help="where slides and weights are written")
    parser.add_argument("--steps", type=int, nargs=3, default=STEPS, help="of each round")
    options = parser.parse_args()
    torch.manual_seed(0)
    fields = list(pointed_fields(options.data))
    synthetic = [field.tensors() for field in synthetic_fields(options.work / "synthetic")]
    network = NucleusNetwork(normalised=True).to(memory_format=torch.channels_last)
    for number, (steps, rate) in enumerate(zip(options.steps, RATES, strict=True), start=1):
        print(f"round {number}")
        if number == 2:
            fields = [completed(field) for field in fields]
        if number == 3:
            fields = [refined(field, network) for field in fields]
        train(network, [field.tensors() for field in fields], synthetic, steps, rate)
    export(network, options.work / "network.safetensors")
    print(f"written: {options.work / 'network.safetensors'}")


if __name__ == "__main__":
    main()
