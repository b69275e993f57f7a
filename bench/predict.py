"""Prediction: images a second of both networks, and a whole slide from file to tile probabilities, beside the peers.

    python -m bench.predict [SLIDE] [--models RUN] [--peers FOLDER] [--rounds N] [--threads N] [--images N]

The networks are those of RUN, or untrained ones of the default size (EfficientNet-B0, 224 px). The first tables feed
tiles of the slide to each way of computing; eager float32 is what a plain script does. The next goes from the file to
the probability of each tile of tissue, with the same classifier, in processes that have imported everything before:
Vitrail, alone and with the map of both explanations, as the paper's and dense; TIAToolbox's PatchPredictor; WSInfer's
command; and a plain script with OpenSlide, which is told Vitrail's tiles. Everyone else finds tissue and reduces pixels
in their own way: "the same" counts the tiles in the same places as Vitrail's, on which probabilities are compared. The
last table has the commands from their start. A peer is run where FOLDER/<name>/bin/python has it installed. Every
contender has a process of its own, and each round asks all of them, in an order that is drawn anew. Seconds of the
processor are those of the process and its workers; a ratio is taken within its round before the median over rounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from bench.explain import random_network
from bench.read import Worker
from bench.wsinfer import WITHOUT_REGISTRY

from vitrail.core.progress import Silent
from vitrail.geometry import Region
from vitrail.inference.context import find_context
from vitrail.interop.wsinfer import export_wsinfer
from vitrail.models.spec import ClassifierSpec, SegmenterSpec
from vitrail.models.store import load_model, save_model
from vitrail.settings.load import Settings
from vitrail.slides.slide import open_slide, read_region
from vitrail.synthetic import write_slide

TASKS = ("classifier", "segmenter")
TIA, PLAIN = "TIAToolbox PatchPredictor", "OpenSlide and eager torch"
MAPS = {", both maps, as the paper's": (32, 0), ", both maps, dense": (None, 32)}
"""By row, stride and margin of the maps of explanations; the last are Vitrail's own."""
NEAR = 0.01  # of a tile's side
SHARED = {
    "encoder": "efficientnet_b0",
    "side_um": 199.1,
    "side_px": 224,
    "mean": (0.7, 0.5, 0.6),
    "std": (0.2, 0.25, 0.15),
}

LOOP = """
import json, os, sys, time
import numpy as np, torch
from pathlib import Path
torch.set_num_threads({threads})
{code}
print("ready", flush=True)
for line in sys.stdin:
    given = json.loads(line)
    begun, used = time.perf_counter(), sum(os.times()[:4])
    found = work(*given[:-1])
    spent = [time.perf_counter() - begun, sum(os.times()[:4]) - used]
    np.save(given[-1], found)
    print(json.dumps([*spent, len(found)]), flush=True)
"""

EAGER = """
from segmentation_models_pytorch import Unet
from vitrail.models.store import load_model
models = {}
def plain(model):
    if model.spec.task == "classifier":
        return model.module
    spec = model.spec  # smp's own U-Net with the same weights: Vitrail's does less work
    network = Unet(f"tu-{spec.encoder}", encoder_weights=None, decoder_channels=spec.decoder, classes=4)
    network.load_state_dict(model.module.unet.state_dict())
    return network.eval()
@torch.no_grad()
def work(folder, images):
    if folder not in models:
        model = load_model(Path(folder))
        models[folder] = model, plain(model)
    (model, network), images = models[folder], np.load(images)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (model.spec.mean, model.spec.std))
    outputs = []
    for start in range(0, len(images), 32):
        batch = torch.from_numpy(images[start : start + 32]).permute(0, 3, 1, 2).float().contiguous() / 255
        outputs.append(network((batch - mean) / std))
    return torch.cat(outputs).numpy()
"""

ENGINE = """
from vitrail.models.device import keep_memory
from vitrail.models.store import load_model
from vitrail.inference.predictor import Predictor
keep_memory()
engines = {{}}
def work(folder, images):
    if folder not in engines:
        engines[folder] = Predictor(load_model(Path(folder)), torch.device("cpu"), engine="{engine}")
    return np.concatenate([output.numpy() for output in engines[folder].outputs(np.load(images))])
"""

SLIDE = """
from vitrail.models.device import keep_memory
keep_memory()  # before a library starts a thread
import tempfile
from bench.explain import random_head
from vitrail.settings.load import Settings
from vitrail.explain.methods.base import explaining_classifier, find_heads, methods_named
from vitrail.models.store import load_model
from vitrail.inference.predictor import Predictor
from vitrail.inference.explanation_map import write_explained
from vitrail.inference.context import find_context
from vitrail.inference.outputs import MAP_PX
from vitrail.inference.sliding import blend_slide, classify_slide, explanation_layer, holding, plan_explanation
from vitrail.core.progress import Silent
from vitrail.slides.slide import open_slide
settings = Settings.model_validate({{"predict": {{"artefacts": False}}}})
engines = {{}}
def engine_of(folder, tiles=0, stride=None, margin=0):
    key = folder, tiles, stride, margin
    if key not in engines:
        model, explaining = load_model(Path(folder)), None
        if tiles:
            both = methods_named(("gradcam", "hrcam"))
            heads = find_heads(Path(folder), both)[0] or {{"hrcam": random_head(model.module)}}
            explaining = explaining_classifier(
                model, MAP_PX, both, heads, tiles=tiles, stride=stride, margin_px=margin
            )
        engines[key] = Predictor(model, torch.device("cpu"), engine="{engine}", explaining=explaining)
    return engines[key]
def work(folder, path, maps):
    engine, slide = engine_of(folder), open_slide(path)
    ground = find_context(slide, [engine.spec], settings, Silent())
    enough = ground.tissue.shares(ground.boxes) >= settings.predict.min_tissue
    boxes = ground.boxes[enough]
    with tempfile.TemporaryDirectory() as scratch:
        step = lambda n=1: None
        blocks = list(classify_slide(slide, engine, boxes, Path(scratch), step))
        if maps:
            plan, occupied = plan_explanation(ground.grid, engine.spec), enough.reshape(ground.grid.rows, -1)
            why = engine_of(folder, plan.windows.side // MAP_PX, *maps)
            keep = holding(occupied, ground.grid)
            strips = blend_slide(slide, explanation_layer(why), plan, keep, Path(scratch), step)
            path = Path(scratch) / "maps.ome.tiff"
            write_explained(path, strips, occupied, plan.windows, ground, why.channels)
        return np.column_stack([boxes[:, :2] + boxes[:, 2:] / 2, np.concatenate([np.load(part) for part in blocks])])
"""

OPENSLIDE = """
import openslide
from PIL import Image
models = {{}}
from vitrail.models.store import load_model
@torch.no_grad()
def work(folder, path, boxes):
    if folder not in models:
        models[folder] = load_model(Path(folder))
    model, boxes = models[folder], np.load(boxes)
    side, mean, std = model.spec.side_px, *(torch.tensor(v).view(1, 3, 1, 1) for v in (model.spec.mean, model.spec.std))
    def tile(x, y, width):
        level = slide.get_best_level_for_downsample(width / side)
        size = round(width / slide.level_downsamples[level])
        region = slide.read_region((round(x), round(y)), level, (size, size)).convert("RGB")
        return np.asarray(region.resize((side, side), Image.Resampling.BILINEAR))
    found = []
    with openslide.OpenSlide(path) as slide:
        for start in range(0, len(boxes), 32):
            tiles = np.stack([tile(x, y, width) for x, y, width, _ in boxes[start : start + 32].tolist()])
            batch = torch.from_numpy(tiles).permute(0, 3, 1, 2).float().contiguous() / 255
            found.append(model.module((batch - mean) / std).sigmoid().numpy())
    return np.column_stack([boxes[:, :2] + boxes[:, 2:] / 2, np.concatenate(found)])
"""

TIATOOLBOX = """
import shutil, tempfile
import zarr
from tiatoolbox import logger
from tiatoolbox.models.engine.io_config import IOPatchPredictorConfig
from tiatoolbox.models.engine.patch_predictor import PatchPredictor
from tiatoolbox.models.models_abc import ModelABC
from tiatoolbox.wsicore.wsireader import WSIReader
logger.setLevel("ERROR")
class Recorded(ModelABC):
    def __init__(self, path, mean, std):
        super().__init__()
        self.net = torch.jit.load(path).eval()
        self.mean, self.scale = (torch.tensor(v).view(1, 3, 1, 1) for v in (mean, std))
    def forward(self, images):
        return self.net((images.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.scale).softmax(1)
    @staticmethod
    def postproc(probabilities):
        return probabilities.argmax(-1)
    @staticmethod
    def infer_batch(model, batch_data, *, device):
        with torch.inference_mode():
            return model(batch_data).numpy()
def work(recorded, mean, std, mpp, side, path):
    place = {{"units": "mpp", "resolution": mpp}}
    config = IOPatchPredictorConfig(
        input_resolutions=[place], output_resolutions=[place], patch_input_shape=(side, side), stride_shape=(side, side)
    )
    predictor = PatchPredictor(Recorded(recorded, mean, std), batch_size=32, num_workers=0, verbose=False)
    out = Path(tempfile.mkdtemp())
    found = predictor.run(
        [Path(path)], patch_mode=False, ioconfig=config, save_dir=out / "out", return_probabilities=True,
        output_type="zarr",
    )
    store = zarr.open(str(next(iter(found.values()))), mode="r")
    probabilities, places = (np.asarray(store[name]) for name in ("probabilities", "coordinates"))
    shutil.rmtree(out)
    factor = mpp / WSIReader.open(Path(path)).info.mpp[0]
    return np.column_stack([places[:, :2] + places[:, 2:], 2 * probabilities[:, 1:]]) / 2 * [factor, factor, 1]
"""
"""Its model's `postproc` makes labels of probabilities, as those of its own models do."""

WSINFER = """
import os, shutil, tempfile
import pandas as pd
import wsinfer_zoo.client as zoo
zoo.load_registry = lambda: zoo.ModelRegistry(models={{}})
from wsinfer.cli.cli import cli
def work(recorded, path):
    out = Path(tempfile.mkdtemp())
    (out / "wsi").mkdir()
    (out / "wsi" / Path(path).name).symlink_to(Path(path).resolve())
    cli.main(
        ["run", "--wsi-dir", str(out / "wsi"), "--results-dir", str(out / "results"), "--num-workers", "1",
         "--model-path", f"{{recorded}}/torchscript_model.pt", "--config", f"{{recorded}}/config.json"],
        standalone_mode=False,
    )
    rows = pd.read_csv(out / "results" / "model-outputs-csv" / f"{{Path(path).stem}}.csv")
    shutil.rmtree(out)
    return np.column_stack(
        [rows["minx"] + rows["width"] / 2, rows["miny"] + rows["height"] / 2, rows["prob_Tumor"]]
    )
"""
"""The command itself, in a process that has imported it; its list of the zoo's own models is not downloaded."""


def networks(options: argparse.Namespace, folder: Path) -> Path:
    """Return a folder with both models."""
    if options.models:
        return options.models
    for spec in (
        ClassifierSpec(**SHARED, dense=1024, dropout=0.2),
        SegmenterSpec(**SHARED, decoder=(256, 128, 64, 32, 16)),
    ):
        images = torch.randn(8, 3, 224, 224, generator=torch.Generator().manual_seed(1))
        save_model(folder / spec.task, random_network(spec, images), spec)
    return folder


def tissue_boxes(path: Path, spec, least: float = 0.05):
    """Find the tiles that hold tissue: x, y, width and height."""
    settings = Settings.model_validate({"predict": {"artefacts": False}})
    ground = find_context(open_slide(path), [spec], settings, Silent())
    return ground.boxes[ground.tissue.shares(ground.boxes) >= least]


def tiles_of(path: Path, spec, count: int):
    """Read tiles of tissue at a model's resolution, again and again where there are too few."""
    slide = open_slide(path)
    boxes = tissue_boxes(path, spec, 0.5)
    regions = [Region(x=x, y=y, width=w, height=h) for x, y, w, h in boxes[np.arange(count) % len(boxes)].tolist()]
    return np.stack([read_region(slide, region, (spec.side_px, spec.side_px)) for region in regions])


def rounds(workers: dict[str, Worker], questions: dict[str, tuple], options: argparse.Namespace):
    """Return seconds and processor seconds of each contender in each round; the first, which compiles, is left out."""
    order, spent = np.random.default_rng(0), {name: [] for name in workers}
    for number in range(options.rounds + 1):
        for name in order.permutation(list(workers)).tolist():
            answer = workers[name].ask(*questions[name])
            if answer is None:
                print(f"{name}: fails ({workers.pop(name).failure()[:100]})")
                spent.pop(name)
            elif number:
                spent[name].append(answer)
    return {name: np.array(each) for name, each in spent.items()}


def started(scripts: dict[str, tuple[Path, str]], threads: int) -> dict[str, Worker]:
    """Start a process for each contender that is installed, and say which are not."""
    workers = {}
    for name, (python, code) in scripts.items():
        if not python.is_file():
            print(f"{name}: not installed")
            continue
        worker = Worker(python, LOOP.format(threads=threads, code=code))
        if worker.runs:
            workers[name] = worker
        else:
            print(f"{name}: does not start ({worker.failure()[:100]})")
    return workers


def engines(task: str, models: Path, options: argparse.Namespace, folder: Path) -> None:
    """Print images a second of one network."""
    spec, own = load_model(models / task).spec, Path(sys.executable)
    np.save(folder / "images.npy", tiles_of(options.slide, spec, options.images))
    scripts = {
        "eager float32": (own, EAGER),
        "Vitrail, torch": (own, ENGINE.format(engine="torch")),
        "Vitrail, OpenVINO": (own, ENGINE.format(engine="openvino")),
    }
    workers = started(scripts, options.threads)
    out = {name: folder / f"{number}.npy" for number, name in enumerate(workers)}
    questions = {name: (str(models / task), str(folder / "images.npy"), str(out[name])) for name in workers}
    try:
        spent = rounds(workers, questions, options)
    finally:
        for worker in workers.values():
            worker.close()
    base, truth = spent["eager float32"], np.load(out["eager float32"])
    print(f"\n{task}, {options.images} tiles of {spec.side_px} px, {options.rounds} rounds, {options.threads} threads")
    print(f"{'':<20}{'images/s':>9}{'(min to max)':>16}{'x':>7}{'x CPU':>7}{'largest diff.':>15}{'other class':>13}")
    for name, times in spent.items():
        rates, answer = options.images / times[:, 0], np.load(out[name])
        faster, cheaper = (np.median(base[:, i] / times[:, i]) for i in (0, 1))
        apart, other = agreement(answer, truth)
        spread = f"({rates.min():.0f} to {rates.max():.0f})"
        print(
            f"{name:<20}{np.median(rates):>9.1f}{spread:>16}{faster:>7.2f}{cheaper:>7.2f}{apart:>15.1e}{other:>13.3%}"
        )


def agreement(outputs, truth) -> tuple[float, float]:
    """Return the largest difference of probabilities, and the share of tiles or pixels of another class."""
    logits = [torch.from_numpy(each).double() for each in (outputs, truth)]
    if truth.ndim == 1:
        first, second = (each.sigmoid() for each in logits)
        return float((first - second).abs().max()), float(((first >= 0.5) != (second >= 0.5)).double().mean())
    first, second = (each.softmax(1) for each in logits)
    return float((first - second).abs().max()), float((first.argmax(1) != second.argmax(1)).double().mean())


def command(name: str, arguments: list, folder: Path, rounds_: int) -> None:
    """Time a command from its start."""
    seconds = []
    for number in range(rounds_):
        begun = time.perf_counter()
        filled = [str(each).replace("{out}", str(folder / f"{name}-{number}")) for each in arguments]
        done = subprocess.run(filled, env=os.environ | {"HOME": str(folder)}, capture_output=True, check=False)  # noqa: S603 - own
        if done.returncode:
            print(f"{name:<34}failed: {done.stderr.decode().strip().splitlines()[-1:]}")
            return
        seconds.append(time.perf_counter() - begun)
    print(f"{name:<34}{statistics.median(seconds):>9.2f} s  ({min(seconds):.2f} to {max(seconds):.2f})")


def contenders(models: Path, options: argparse.Namespace, folder: Path):
    """Start whoever goes from the file to probabilities; returns the processes, and what each is asked."""
    spec, own = load_model(models / "classifier").spec, Path(sys.executable)
    recorded = export_wsinfer(models / "classifier", folder / "recorded")
    np.save(folder / "boxes.npy", tissue_boxes(options.slide, spec))
    python = {peer: options.peers / peer / "bin" / "python" for peer in ("tiatoolbox", "wsinfer")}
    scripts = {
        "Vitrail, torch": (own, SLIDE.format(engine="torch")),
        "Vitrail, OpenVINO": (own, SLIDE.format(engine="openvino")),
        PLAIN: (own, OPENSLIDE.format()),
        TIA: (python["tiatoolbox"], TIATOOLBOX.format()),
        "WSInfer": (python["wsinfer"], WSINFER.format()),
    }
    workers, classifier, slide = (
        started(scripts, options.threads),
        str(models / "classifier"),
        str(options.slide.resolve()),
    )
    network = str(recorded / "torchscript_model.pt"), spec.mean, spec.std, spec.mpp, spec.side_px
    asked = {TIA: (*network, slide), "WSInfer": (str(recorded), slide)}
    asked[PLAIN] = classifier, slide, str(folder / "boxes.npy")
    for name in ("Vitrail, torch", "Vitrail, OpenVINO"):
        if name in workers:
            asked[name] = classifier, slide, ()
            for maps, geometry in MAPS.items():
                workers[f"{name}{maps}"] = workers[name]
                asked[f"{name}{maps}"] = classifier, slide, geometry
    out = {name: folder / f"slide-{number}.npy" for number, name in enumerate(workers)}
    return workers, {name: (*asked[name], str(out[name])) for name in workers}, out


def whole_slide(models: Path, options: argparse.Namespace, folder: Path) -> None:
    """Print the time from file to probabilities."""
    workers, questions, out = contenders(models, options, folder)
    try:
        spent = rounds(workers, questions, options)
    finally:
        for worker in set(workers.values()):
            worker.close()
    spec = load_model(models / "classifier").spec
    print(
        f"\n{options.slide.name}, from file to tile probabilities, tiles of {spec.side_px} px, {options.rounds} rounds"
    )
    print(f"{'':<46}{'s':>7}  {'(min to max)':<18}{'CPU s':>7}{'tiles':>7}{'the same':>10}{'mean diff.':>12}{'r':>8}")
    base = np.load(out["Vitrail, torch"])
    for name, times in spent.items():
        seconds, answer = times[:, 0], np.load(out[name])
        spread, cpu = f"({seconds.min():.2f} to {seconds.max():.2f})", np.median(times[:, 1])
        print(f"{name:<46}{np.median(seconds):>7.2f}  {spread:<18}{cpu:>7.2f}{len(answer):>7}{compared(answer, base)}")
    goals(spent)


def compared(answer, base) -> str:
    """Compare the probabilities of tiles that lie in the same places, to within a hundredth of a tile's side."""
    side = np.median(np.diff(np.unique(base[:, 0].round(3))))
    apart = np.abs(answer[:, None, :2] - base[None, :, :2]).max(2)
    mine, theirs = np.arange(len(answer)), apart.argmin(1)
    same = apart[mine, theirs] <= NEAR * side
    first, second = answer[same, 2], base[theirs[same], 2]
    if len(first) < 2:
        return f"{len(first):>10}"
    return f"{len(first):>10}{np.abs(first - second).mean():>12.1e}{np.corrcoef(first, second)[0, 1]:>8.4f}"


def goals(spent: dict[str, np.ndarray]) -> None:
    """Print how many times faster than the peers, and what explanations cost, within rounds before the median."""
    print(f"\n{'':<64}{'x clock':>9}{'x CPU':>9}")
    fastest = "Vitrail, OpenVINO" if "Vitrail, OpenVINO" in spent else "Vitrail, torch"
    pairs = [(f"{fastest} over {peer}, goal 8", peer, fastest) for peer in (TIA, "WSInfer", PLAIN)]
    pairs += [(f"{name}{maps}, over without", f"{name}{maps}", name) for maps in MAPS for name in spent]
    for text, slower, faster in pairs:
        if {slower, faster} <= set(spent):
            clock, cpu = (np.median(spent[slower][:, i] / spent[faster][:, i]) for i in (0, 1))
            print(f"{text:<64}{clock:>9.2f}{cpu:>9.2f}")


def commands(models: Path, options: argparse.Namespace, folder: Path) -> None:
    """Print the time of the commands, from their start."""
    print("\nthe command from its start")
    vitrail = [Path(sys.executable).with_name("vitrail"), "predict", options.slide, "--classifier",
               models / "classifier", "--set", "predict.artefacts=false", "--out", "{out}"]  # fmt: skip
    command("vitrail predict", vitrail, folder, min(options.rounds, 3))
    command("vitrail predict --explain", [*vitrail, "--explain"], folder, min(options.rounds, 3))
    python, recorded = options.peers / "wsinfer" / "bin" / "python", folder / "recorded"
    if not python.is_file():
        print("wsinfer run: not installed")
        return
    (folder / "wsi").mkdir()
    (folder / "wsi" / options.slide.name).symlink_to(options.slide.resolve())
    run = [python, "-c", WITHOUT_REGISTRY, "run", "--wsi-dir", folder / "wsi", "--results-dir", "{out}", "--model-path",
           recorded / "torchscript_model.pt", "--config", recorded / "config.json", "--num-workers", "1"]  # fmt: skip
    command("wsinfer run", run, folder, min(options.rounds, 3))


def main() -> None:
    """Measure both networks, then the whole slide."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", type=Path, nargs="?", help="a phantom without it")
    parser.add_argument("--models", type=Path, metavar="RUN", help="a run with classifier/ and segmenter/")
    parser.add_argument("--peers", type=Path, default=Path("peers"), help="a folder of virtual environments")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--images", type=int, default=64, help="of each round")
    parser.add_argument("--only-slide", action="store_true", help="leave out the tables of images a second")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        options.slide = options.slide or write_slide(folder, "phantom", side_px=8192, seed=7)
        models = networks(options, folder / "models")
        for task in TASKS:
            if not options.only_slide:
                engines(task, models, options, folder)
        whole_slide(models, options, folder)
        commands(models, options, folder)


if __name__ == "__main__":
    main()
