"""Compare the exported classifier in the real WSInfer with Vitrail.

    python -m bench.wsinfer RUN/classifier --environment ENV [--folder FOLDER] [--side 4096]

ENV is a virtual environment with WSInfer in it: `python -m venv ENV && ENV/bin/pip install wsinfer "zarr<3"
"tiffslide<2.5" openslide-python openslide-bin` (WSInfer 0.6.1 does not start with a newer zarr). The command `wsinfer
run` is given a synthetic slide twice: at 0.5 um per pixel, which it scales itself, and scaled by Vitrail to the model's
mpp, so that both see the same pixels. Each tile it chose is then classified by Vitrail.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import tifffile
import torch
from PIL import Image

from vitrail.geometry import Region
from vitrail.interop.wsinfer import export_wsinfer
from vitrail.models.preprocessing import Normalizer, intensities
from vitrail.models.store import load_model
from vitrail.slides.slide import open_slide, read_region
from vitrail.synthetic import write_slide

WITHOUT_REGISTRY = (
    "import wsinfer_zoo.client as zoo; zoo.load_registry = lambda: zoo.ModelRegistry(models={}); "
    "from wsinfer.cli.cli import cli; cli()"
)
"""The command itself, without the list of the zoo's own models that it downloads whenever it starts."""


def run_wsinfer(environment: Path, slide: Path, model: Path) -> pd.DataFrame:
    """Run `wsinfer run` on one slide and return its table: a row per tile."""
    results = slide.parent.with_name(f"{slide.stem}_results")
    command = [
        environment.absolute() / "bin" / "python", "-c", WITHOUT_REGISTRY, "run", "--wsi-dir", slide.parent,
        "--results-dir", results, "--model-path", model / "torchscript_model.pt", "--config", model / "config.json",
        "--num-workers", "1",
    ]  # fmt: skip
    done = subprocess.run(command, env=os.environ | {"HOME": str(results.parent)}, capture_output=True, check=False)  # noqa: S603 - the user's own environment
    table = results / "model-outputs-csv" / f"{slide.stem}.csv"
    if done.returncode or not table.is_file():
        sys.exit(f"wsinfer did not finish:\n{done.stdout.decode()[-2000:]}\n{done.stderr.decode()[-2000:]}")
    return pd.read_csv(table)


def write_scaled(path: Path, slide, side_px: int, mpp: float) -> Path:
    """Write a slide at the model's mpp, scaled by Vitrail, without loss."""
    count = int(slide.region.width * slide.mpp / mpp / side_px)
    side = count * side_px
    region = Region(x=0, y=0, width=side * mpp / slide.mpp, height=side * mpp / slide.mpp)
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(
        path, read_region(slide, region, (side, side)), tile=(256, 256), photometric="rgb", compression="zlib",
        metadata=None, resolution=(1e4 / mpp, 1e4 / mpp), resolutionunit="CENTIMETER",
    )  # fmt: skip
    return path


def by_area(slide, region: Region, side_px: int):
    """Scale a tile as Vitrail does."""
    return read_region(slide, region, (side_px, side_px))


def by_pillow(slide, region: Region, side_px: int):
    """Scale a tile as WSInfer does."""
    pixels = read_region(slide, region, (round(region.width), round(region.height)))
    return np.asarray(Image.fromarray(pixels).resize((side_px, side_px), Image.Resampling.BILINEAR))


@torch.inference_mode()
def vitrails(model, slide, rows: pd.DataFrame, scale):
    """Classify WSInfer's tiles with Vitrail, in float32."""
    regions = (
        Region(x=x, y=y, width=w, height=h) for x, y, w, h in rows[["minx", "miny", "width", "height"]].to_numpy()
    )
    tiles = torch.tensor(np.stack([scale(slide, region, model.spec.side_px) for region in regions]))
    standardise = Normalizer(model.spec, torch.device("cpu"))
    return torch.cat([model.module(standardise(intensities(part))).sigmoid() for part in tiles.split(32)]).numpy()


def report(name: str, probabilities, expected) -> None:
    """Print one line of the table."""
    apart = np.abs(probabilities - expected)
    flips = int(((probabilities >= 0.5) != (expected >= 0.5)).sum())
    r = np.corrcoef(probabilities, expected)[0, 1]
    print(f"{name:<44}{len(probabilities):>6}{apart.mean():>11.2e}{apart.max():>11.2e}{flips:>7}{r:>9.5f}", flush=True)


def compare(options: argparse.Namespace, folder: Path) -> None:
    """Run WSInfer on both slides and print how far its probabilities are from Vitrail's."""
    model = load_model(options.classifier)
    spec = model.spec
    exported = export_wsinfer(options.classifier, folder / "model")
    phantom = write_slide(folder / "phantom", "phantom", side_px=options.side, seed=options.seed)
    scaled = write_scaled(folder / "scaled" / "scaled.tif", open_slide(phantom), spec.side_px, spec.mpp)
    tables = {path: run_wsinfer(options.environment, path, exported) for path in (scaled, phantom)}
    print(f"{'WSInfer against Vitrail':<44}{'tiles':>6}{'mean':>11}{'largest':>11}{'flips':>7}{'r':>9}")
    cases = (
        ("the same pixels", scaled, by_area),
        ("end to end", phantom, by_area),
        ("end to end, Vitrail scaling as WSInfer does", phantom, by_pillow),
    )
    for name, path, scale in cases:
        rows = tables[path]
        report(name, rows["prob_Tumor"].to_numpy(), vitrails(model, open_slide(path), rows, scale))


def main() -> None:
    """Compare, or say what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("classifier", type=Path)
    parser.add_argument("--environment", type=Path, help="a virtual environment with wsinfer")
    parser.add_argument("--folder", type=Path, help="where to keep what is made; a temporary folder without it")
    parser.add_argument("--side", type=int, default=4096, help="of the synthetic slide, in pixels")
    parser.add_argument("--seed", type=int, default=7, help="of the synthetic slide")
    options = parser.parse_args()
    if options.environment is None or not (options.environment / "bin" / "wsinfer").is_file():
        sys.exit("--environment: no virtual environment with the command wsinfer in it; see --help for how to make one")
    with tempfile.TemporaryDirectory() as temporary:
        compare(options, options.folder or Path(temporary))


if __name__ == "__main__":
    main()
