"""Prediction: images a second of both networks, and a whole slide from file to tile probabilities, beside the peers.

    python -m bench.predict [SLIDE] [--models RUN] [--peers FOLDER] [--rounds N] [--threads N] [--images N]

The networks are those of RUN, or untrained ones of the default size (EfficientNet-B0, 224 px). The first table feeds
tiles of the slide to each way of computing; eager float32 is what a plain script does. The second goes from the file to
the probability of each tile of tissue, with the same classifier: TIAToolbox's PatchPredictor in a process that has
imported everything before, like Vitrail, and the command `wsinfer run` beside the command `vitrail predict`, both from
their start. A peer is run where FOLDER/<name>/bin/python has it installed. Every contender has a process of its own,
and each round asks all of them, in an order that is drawn anew.
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

from vitrail.config import Settings
from vitrail.export import export_wsinfer
from vitrail.geometry import Region
from vitrail.models.spec import ClassifierSpec, SegmenterSpec
from vitrail.models.store import load_model, save_model
from vitrail.predict.ground import find_ground
from vitrail.progress import Silent
from vitrail.slides.phantom import write_slide
from vitrail.slides.slide import open_slide, read_region

TASKS = ("classifier", "segmenter")
SHARED = {
    "encoder": "efficientnet_b0",
    "side_um": 199.1,
    "side_px": 224,
    "mean": (0.7, 0.5, 0.6),
    "std": (0.2, 0.25, 0.15),
}

LOOP = """
import json, sys, time
import numpy as np, torch
from pathlib import Path
torch.set_num_threads({threads})
{code}
print("ready", flush=True)
for line in sys.stdin:
    given = json.loads(line)
    begun, used = time.perf_counter(), time.process_time()
    found = work(*given[:-1])
    spent = [time.perf_counter() - begun, time.process_time() - used]
    np.save(given[-1], found)
    print(json.dumps([*spent, len(found)]), flush=True)
"""

EAGER = """
from vitrail.models.inputs import Standardiser
from vitrail.models.store import load_model
models = {}
@torch.no_grad()
def work(folder, images):
    if folder not in models:
        models[folder] = load_model(Path(folder))
    model, images = models[folder], np.load(images)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (model.spec.mean, model.spec.std))
    outputs = []
    for start in range(0, len(images), 32):
        batch = torch.from_numpy(images[start : start + 32]).permute(0, 3, 1, 2).float().contiguous() / 255
        outputs.append(model.module((batch - mean) / std))
    return torch.cat(outputs).numpy()
"""

ENGINE = """
from vitrail.models.device import keep_memory
from vitrail.models.store import load_model
from vitrail.predict.engine import Engine
keep_memory()
engines = {{}}
def work(folder, images):
    if folder not in engines:
        engines[folder] = Engine(load_model(Path(folder)), torch.device("cpu"), engine="{engine}")
    return np.concatenate([output.numpy() for output in engines[folder].outputs(np.load(images))])
"""

SLIDE = """
import tempfile
from vitrail.config import Settings
from vitrail.models.device import keep_memory
from vitrail.models.store import load_model
from vitrail.predict.engine import Engine
from vitrail.predict.ground import find_ground
from vitrail.predict.wholeslide import SlideWork, classify_slide
from vitrail.progress import Silent
from vitrail.slides.slide import open_slide
keep_memory()
settings = Settings.model_validate({{"predict": {{"artefacts": False}}}})
engines = {{}}
def work(folder, path):
    if folder not in engines:
        engines[folder] = Engine(load_model(Path(folder)), torch.device("cpu"), engine="{engine}")
    engine, slide = engines[folder], open_slide(path)
    ground = find_ground(slide, [engine.spec], settings, Silent())
    boxes = ground.boxes[ground.tissue.shares(ground.boxes) >= settings.predict.min_tissue]
    with tempfile.TemporaryDirectory() as scratch:
        job = SlideWork(slide=slide, folder=Path(scratch), step=lambda n=1: None)
        return np.concatenate([np.load(part) for part in classify_slide(job, engine, boxes)])
"""

TIATOOLBOX = """
import shutil, tempfile
from tiatoolbox import logger
from tiatoolbox.models.engine.io_config import IOPatchPredictorConfig
from tiatoolbox.models.engine.patch_predictor import PatchPredictor
from tiatoolbox.models.models_abc import ModelABC
logger.setLevel("ERROR")
class Recorded(ModelABC):
    def __init__(self, path, mean, std):
        super().__init__()
        self.net = torch.jit.load(path).eval()
        self.mean, self.scale = (torch.tensor(v).view(1, 3, 1, 1) for v in (mean, std))
    def forward(self, images):
        return self.net((images.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.scale).softmax(1)
    @staticmethod
    def infer_batch(model, batch_data, *, device):
        with torch.inference_mode():
            return model(batch_data).numpy()
def work(recorded, mean, std, mpp, side, path):
    place = {{"units": "mpp", "resolution": mpp}}
    config = IOPatchPredictorConfig(
        input_resolutions=[place], output_resolutions=[place], patch_input_shape=(side, side), stride_shape=(side, side)
    )
    predictor = PatchPredictor(Recorded(recorded, mean, std), batch_size=32, num_workers=0)
    out = Path(tempfile.mkdtemp())
    found = predictor.run(
        [Path(path)], patch_mode=False, ioconfig=config, save_dir=out / "out", return_probabilities=True,
        output_type="zarr",
    )
    import zarr
    store = zarr.open(str(next(iter(found.values()))), mode="r")
    probabilities = np.asarray(store["probabilities"])
    shutil.rmtree(out)
    return probabilities
"""


def networks(given: argparse.Namespace, folder: Path) -> Path:
    """Return a folder with both models."""
    if given.models:
        return given.models
    for spec in (
        ClassifierSpec(**SHARED, dense=1024, dropout=0.2),
        SegmenterSpec(**SHARED, decoder=(256, 128, 64, 32, 16)),
    ):
        images = torch.randn(8, 3, 224, 224, generator=torch.Generator().manual_seed(1))
        save_model(folder / spec.task, random_network(spec, images), spec)
    return folder


def tiles_of(path: Path, spec, count: int):
    """Read tiles of tissue at a model's resolution, again and again where there are too few."""
    slide = open_slide(path)
    ground = find_ground(slide, [spec], Settings.model_validate({"predict": {"artefacts": False}}), Silent())
    boxes = ground.boxes[ground.tissue.shares(ground.boxes) >= 0.5]
    regions = [Region(x=x, y=y, width=w, height=h) for x, y, w, h in boxes[np.arange(count) % len(boxes)].tolist()]
    return np.stack([read_region(slide, region, (spec.side_px, spec.side_px)) for region in regions])


def rounds(workers: dict[str, Worker], questions: dict[str, tuple], given: argparse.Namespace):
    """Return seconds and processor seconds of each contender in each round; the first, which compiles, is left out."""
    order, spent = np.random.default_rng(0), {name: [] for name in workers}
    for number in range(given.rounds + 1):
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


def engines(task: str, models: Path, given: argparse.Namespace, folder: Path) -> None:
    """Print images a second of one network."""
    spec, own = load_model(models / task).spec, Path(sys.executable)
    np.save(folder / "images.npy", tiles_of(given.slide, spec, given.images))
    scripts = {
        "eager float32": (own, EAGER),
        "Vitrail, torch": (own, ENGINE.format(engine="torch")),
        "Vitrail, OpenVINO": (own, ENGINE.format(engine="openvino")),
    }
    workers = started(scripts, given.threads)
    out = {name: folder / f"{number}.npy" for number, name in enumerate(workers)}
    questions = {name: (str(models / task), str(folder / "images.npy"), str(out[name])) for name in workers}
    try:
        spent = rounds(workers, questions, given)
    finally:
        for worker in workers.values():
            worker.close()
    base, truth = spent["eager float32"], np.load(out["eager float32"])
    print(f"\n{task}, {given.images} tiles of {spec.side_px} px, {given.rounds} rounds, {given.threads} threads")
    print(f"{'':<20}{'images/s':>9}{'(min to max)':>16}{'x':>7}{'x CPU':>7}{'largest diff.':>15}{'other class':>13}")
    for name, times in spent.items():
        rates, found = given.images / times[:, 0], np.load(out[name])
        faster, cheaper = (np.median(base[:, i] / times[:, i]) for i in (0, 1))
        apart, other = agreement(found, truth)
        spread = f"({rates.min():.0f} to {rates.max():.0f})"
        print(
            f"{name:<20}{np.median(rates):>9.1f}{spread:>16}{faster:>7.2f}{cheaper:>7.2f}{apart:>15.1e}{other:>13.3%}"
        )


def agreement(found, truth) -> tuple[float, float]:
    """Return the largest difference of probabilities, and the share of tiles or pixels of another class."""
    logits = [torch.from_numpy(each).double() for each in (found, truth)]
    if truth.ndim == 1:
        one, other = (each.sigmoid() for each in logits)
        return float((one - other).abs().max()), float(((one >= 0.5) != (other >= 0.5)).double().mean())
    one, other = (each.softmax(1) for each in logits)
    return float((one - other).abs().max()), float((one.argmax(1) != other.argmax(1)).double().mean())


def command(name: str, arguments: list, folder: Path, rounds_: int) -> None:
    """Time a command from its start."""
    seconds = []
    for number in range(rounds_):
        begun = time.perf_counter()
        filled = [str(each).format(out=folder / f"{name}-{number}") for each in arguments]
        done = subprocess.run(filled, env=os.environ | {"HOME": str(folder)}, capture_output=True, check=False)  # noqa: S603 - own
        if done.returncode:
            print(f"{name:<34}failed: {done.stderr.decode().strip().splitlines()[-1:]}")
            return
        seconds.append(time.perf_counter() - begun)
    print(f"{name:<34}{statistics.median(seconds):>9.2f} s  ({min(seconds):.2f} to {max(seconds):.2f})")


def whole_slide(models: Path, given: argparse.Namespace, folder: Path) -> None:
    """Print the time from file to probabilities."""
    spec, own = load_model(models / "classifier").spec, Path(sys.executable)
    recorded = export_wsinfer(models / "classifier", folder / "recorded")
    peer = given.peers / "tiatoolbox" / "bin" / "python"
    scripts = {
        "Vitrail, torch": (own, SLIDE.format(engine="torch")),
        "Vitrail, OpenVINO": (own, SLIDE.format(engine="openvino")),
        "TIAToolbox PatchPredictor": (peer, TIATOOLBOX.format()),
    }
    workers = started(scripts, given.threads)
    asked = (str(models / "classifier"), str(given.slide))
    network = (str(recorded / "torchscript_model.pt"), spec.mean, spec.std, spec.mpp, spec.side_px, str(given.slide))
    questions = {
        name: (*(network if name.startswith("TIA") else asked), str(folder / f"s{number}.npy"))
        for number, name in enumerate(workers)
    }
    try:
        spent = rounds(workers, questions, given)
    finally:
        for worker in workers.values():
            worker.close()
    print(f"\n{given.slide.name}, from file to tile probabilities, tiles of {spec.side_px} px")
    base = spent.get("TIAToolbox PatchPredictor", next(iter(spent.values())))
    for name, times in spent.items():
        seconds = times[:, 0]
        ratio = np.median(base[:, 0] / seconds)
        spread = f"({seconds.min():.2f} to {seconds.max():.2f})"
        print(f"{name:<34}{np.median(seconds):>9.2f} s  {spread:<18}{ratio:>6.1f} x  {times[0, 2]:.0f} tiles")
    vitrail = [own.with_name("vitrail"), "predict", given.slide, "--classifier", models / "classifier", "--set",
               "predict.artefacts=false", "--out", "{out}"]  # fmt: skip
    command("command vitrail predict", vitrail, folder, min(given.rounds, 3))
    python = given.peers / "wsinfer" / "bin" / "python"
    if not python.is_file():
        print("wsinfer run: not installed")
        return
    (folder / "wsi").mkdir()
    (folder / "wsi" / given.slide.name).symlink_to(given.slide.resolve())
    run = [python, "-c", WITHOUT_REGISTRY, "run", "--wsi-dir", folder / "wsi", "--results-dir", "{out}", "--model-path",
           recorded / "torchscript_model.pt", "--config", recorded / "config.json", "--num-workers", "1"]  # fmt: skip
    command("command wsinfer run", run, folder, min(given.rounds, 3))


def main() -> None:
    """Measure both networks, then the whole slide."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", type=Path, nargs="?", help="a phantom without it")
    parser.add_argument("--models", type=Path, metavar="RUN", help="a run with classifier/ and segmenter/")
    parser.add_argument("--peers", type=Path, default=Path("peers"), help="a folder of virtual environments")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--images", type=int, default=64, help="of each round")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        given.slide = given.slide or write_slide(folder, "phantom", side_px=8192, seed=7)
        models = networks(given, folder / "models")
        for task in TASKS:
            engines(task, models, given, folder)
        whole_slide(models, given, folder)


if __name__ == "__main__":
    main()
