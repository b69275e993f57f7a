"""Recipes of training compared on patients of hospitals that took no part in it.

    python -m bench.recipes FOLDER [--data DATA] [--recipes NAME ...] [--seeds 0 1 2] [--workers N] [--table]

Each site of a cohort (`../shared/data`, or `--shared`) is in turn the unseen hospital; `ebhi`, which has one, is dealt
into three parts by patient. A recipe is a change of the preset `quick`; each is trained on all other patients, a part
of them for validation, once for each seed, and tried on all tiles of the unseen ones, once in one look and once in the
eight symmetries of a square. A recipe with folds trains as many networks, each validated on another part, whose mean
answers count. The first row is what a user would write with timm and segmentation_models_pytorch (`bench.plain`): one
cycle of the learning rate, batches of 32, ten epochs.

Printed are means over sites and seeds, differences to the first row of the same tiles with 95 % intervals over
patients, and seconds of training. What is trained stays in FOLDER: the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from bench.plain import plain_answers

from vitrail.classes import CLASSES, TissueClass
from vitrail.core.files import replacing
from vitrail.core.parallel import in_processes
from vitrail.core.progress import Silent
from vitrail.evaluation.tiles import is_tumor
from vitrail.inference.predictor import Predictor
from vitrail.metrics.bootstrap import Drawn, by_patient, interval, sample
from vitrail.metrics.per_patient import jaccard_scores, tile_parts
from vitrail.models.batches import tumor_score
from vitrail.models.device import keep_memory
from vitrail.models.store import load_model
from vitrail.pipeline.run import bring_run, new_run
from vitrail.settings.load import Settings, preset
from vitrail.slides.cohort import read_cohort
from vitrail.tiles.folds import fold_of_rows
from vitrail.tiles.store import read_tiles
from vitrail.training.loader import TrainingTiles
from vitrail.training.trainer import train

PLAIN = "plain script"
FOLDS = 5
TASKS = ("classifier", "segmenter")
ONE_CYCLE = {"schedule": "one_cycle", "optimizer": "adamw", "weight_decay": 0.01, "batch": 32, "learning_rate": 1e-3}
ONE_CYCLE |= {"keep": "last"}
STAIN = {"stain": 0.15}


def both(**changes):
    """Change both networks alike."""
    return {"classifier": changes, "segmenter": changes}


def merged(*changes):
    """Join changes of groups of settings; later ones win."""
    groups = {}
    for change in changes:
        for group, values in change.items():
            groups[group] = groups.get(group, {}) | values
    return groups


CYCLE = merged(both(**ONE_CYCLE), {"classifier": {"epochs": 10}, "segmenter": {"epochs": 10}})
AVERAGED = merged(CYCLE, both(ema=0.99))
STAINED = merged(AVERAGED, {"augment": STAIN})
VIRTUAL = merged(AVERAGED, {"augment": {"stain_templates": 0.5}})
OVERLAP = {"segmenter": {"loss": "jaccard_cross_entropy"}}
RECIPES = {
    "before": {},
    "one cycle": CYCLE,
    "one cycle, best epoch": merged(CYCLE, both(keep="best")),
    "+ averaged": AVERAGED,
    "+ stain": STAINED,
    "+ virtual slides": VIRTUAL,
    "+ both": merged(STAINED, VIRTUAL),
    "best": merged(STAINED, VIRTUAL, {"segmenter": {"layout": "timm"}}),
    "+ cross-entropy": merged(VIRTUAL, OVERLAP),
    "+ scale, angle": merged(VIRTUAL, {"augment": {"scale": 0.2, "rotation_step_deg": 1.0}}),
    "+ jpeg, blur": merged(VIRTUAL, {"augment": {"jpeg": 0.3}, "segmenter": {"blur_px": 1.0, "noise": 0.02}}),
    "+ smoothing": merged(VIRTUAL, both(label_smoothing=0.1)),
    "+ mixup": merged(VIRTUAL, both(mixup=0.2)),
    "+ cutmix": merged(VIRTUAL, both(cutmix=1.0)),
    "+ slow encoder": merged(VIRTUAL, both(encoder_rate=0.2)),
    "+ robust loss": merged(VIRTUAL, {"classifier": {"loss": "generalised_cross_entropy"}}),
    "+ focal": merged(VIRTUAL, both(loss="focal")),
    "+ class weights": merged(VIRTUAL, {"segmenter": {"class_weights": (1, 1, 2, 1)}}),
    "+ narrow skips": merged(VIRTUAL, {"segmenter": {"layout": "timm"}}),
}
"""By name, what each changes of the settings of before; a `+` adds to virtual slides, to averaged weights before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One training: of a network by a recipe, with a site unseen.

    Attributes
    ----------
    run
        The folder of the cohort's run, whose tiles are cut.
    unseen
        The site, or the number of a part of the patients.
    recipe, task, seed, fold
        What is trained; the fold of the seen patients that validates.
    """

    run: Path
    unseen: str
    recipe: str
    task: str
    seed: int
    fold: int

    @property
    def folder(self) -> Path:
        """Where its answers are."""
        name = f"{self.recipe}-{self.seed}-{self.fold}".replace(" ", "_").replace(",", "")
        return self.run / "cells" / self.unseen / self.task / name

    @property
    def answers(self) -> Path:
        """Its answers to the unseen tiles."""
        return self.folder / "answers.npz"


def settings_of(recipe: str, seed: int):
    """Return the settings of a recipe: the preset `quick` of before, changed."""
    plain = {"schedule": "constant", "optimizer": "adam", "weight_decay": 0.0, "ema": 0.0, "keep": "best"}
    before = {"classifier": plain | {"learning_rate": 3e-4, "epochs": 8, "batch": 128}}
    before |= {"segmenter": plain | {"learning_rate": 1e-3, "epochs": 6, "batch": 64}}
    before |= {"augment": {"stain": 0.0, "stain_templates": 0.0}}
    changes = merged(before, RECIPES.get(recipe, {}), {"compute": {"precision": "float32"}})
    return Settings.model_validate(merged(preset("quick").model_dump(exclude={"seed"}), changes) | {"seed": seed})


def groups_of(run: Path):
    """Return the unseen site of each tile: its own, or one of three parts of the patients where all are of one."""
    rows = read_tiles(run / "tiles").rows
    sites = {entry.slide_id: entry.attributes.get("site", "") for entry in read_cohort(run / "slides.csv")}
    site = rows["slide_id"].map(sites).to_numpy(str)
    names, counts = np.unique(site, return_counts=True)
    if len(names) == 1:
        return rows, fold_of_rows(rows, 3, (0,)).astype(str)
    large = {name for name, count in zip(names, counts, strict=True) if count >= len(rows) / 5}
    return rows, np.where(np.isin(site, list(large)), site, "")


def work(cell: Cell) -> float:
    """Train a cell and keep its answers; returns the seconds of training."""
    torch.set_num_threads(1)
    keep_memory()
    rows, site = groups_of(cell.run)
    tiles, seen = read_tiles(cell.run / "tiles"), np.flatnonzero(site != cell.unseen)
    fold = fold_of_rows(rows.iloc[seen], FOLDS, (cell.seed,))
    parts = TrainingTiles(tiles=tiles, train=seen[fold != cell.fold], validation=seen[fold == cell.fold])
    unseen, begun = np.flatnonzero(site == cell.unseen), time.perf_counter()
    settings = settings_of(cell.recipe, cell.seed * 100 + cell.fold)
    if cell.recipe == PLAIN:
        answers, seconds = plain_answers(cell.task, parts, settings, unseen)
    else:
        train(cell.task, parts, settings, folder=cell.folder / "model")
        seconds = time.perf_counter() - begun
        answers = symmetric_answers(
            Predictor(load_model(cell.folder / "model"), precision="float32"), tiles.images[unseen]
        )
    cell.folder.mkdir(parents=True, exist_ok=True)
    with replacing(cell.answers) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, seconds=seconds, **answers)
    return seconds


def symmetric_answers(predictor: Predictor, images):
    """Return the answers to images, as they are and as the mean over eight symmetries: logits, or classes in bytes."""
    looks = []
    for turn, mirrored in product(range(4), (False, True)):
        seen = np.rot90(images[:, :, ::-1] if mirrored else images, turn, (1, 2))
        outputs = torch.cat(list(predictor.outputs(np.ascontiguousarray(seen))))
        if outputs.ndim == 4:
            outputs = torch.rot90(outputs, -turn, (2, 3))
            outputs = outputs.flip(3) if mirrored else outputs
        looks.append(outputs)
    return {"one": packed(looks[0]), "eight": packed(torch.stack(looks).mean(0))}


def packed(logits):
    """Return a classifier's logits, or a segmenter's probabilities as bytes."""
    return (torch.softmax(logits, 1) * 255).round().byte().numpy() if logits.ndim == 4 else logits.numpy()


def scores_of(task: str, answers, truth, masks, owners, weights):
    """Return the scores of answers, means of one or more networks, as `Drawn` over the unseen patients."""
    mean = np.mean([each.astype(np.float32) for each in answers], 0)
    if task == "classifier":
        drawn = tile_parts(truth, tumor_score(torch.from_numpy(mean)), owners, 0.5).scores(weights)
        return {"AUC": drawn["auc"], "accuracy": drawn["accuracy"]}
    called = mean.argmax(1)
    share = (called == TissueClass.TUMOR).mean((1, 2))
    cells = masks.astype(np.int64) * len(CLASSES) + called
    counts = np.stack([np.bincount(cell.ravel(), minlength=len(CLASSES) ** 2) for cell in cells])
    jaccards, jaccard = jaccard_scores(by_patient(owners, counts.reshape(-1, *(len(CLASSES),) * 2)), weights)
    auc = tile_parts(truth, share, owners, 0.5).scores(weights)["auc"]
    return {"AUC": auc, "tumor Jaccard": jaccards[0], "mean Jaccard": jaccard}


def spread_out(drawn: Drawn, columns, patients: int) -> Drawn:
    """Return a statistic of some patients as one of all, of whom the others have no influence."""
    influence = np.zeros((len(drawn.value), patients))
    influence[:, columns] = drawn.influence
    return Drawn(value=drawn.value, influence=influence, scale="plain")


def rows_of(run: Path, task: str, cells, look: str):
    """Return by row, a recipe or its ensemble, the scores that all its finished cells come to, and its seconds."""
    rows, site = groups_of(run)
    table, names = read_tiles(run / "tiles"), np.unique(rows["patient_id"])
    weights, done = sample(len(names), 1000, 0), {}
    for cell in cells:
        if cell.task == task and cell.answers.is_file():
            done.setdefault((cell.recipe, cell.unseen, cell.seed), {})[cell.fold] = cell
    scored = {}
    for (recipe, unseen, seed), folds in done.items():
        index = np.flatnonzero(site == unseen)
        owners = rows["patient_id"].to_numpy(str)[index]
        columns = np.searchsorted(names, np.unique(owners))
        truth, masks = is_tumor(rows)[index], table.masks[index]
        loaded = {fold: np.load(cell.answers) for fold, cell in folds.items()}
        members = {recipe: [0] if 0 in folds else []}
        members |= {f"{recipe} x {FOLDS}": sorted(folds)} if len(folds) == FOLDS else {}
        for name, chosen in members.items():
            if chosen and look in loaded[chosen[0]]:
                answers = [loaded[fold][look] for fold in chosen]
                drawn = scores_of(task, answers, truth, masks, owners, weights[:, columns])
                seconds = sum(float(loaded[fold]["seconds"]) for fold in chosen)
                spread = {key: spread_out(value, columns, len(names)) for key, value in drawn.items()}
                scored.setdefault(name, {})[unseen, seed] = spread, seconds
    return scored, weights


def mean_over(drawn: list[Drawn]) -> Drawn:
    """Return the mean of statistics of the same patients."""
    total = drawn[0]
    for each in drawn[1:]:
        total = total + each
    return total.over(len(drawn))


def print_table(run: Path, cells) -> None:
    """Print every row beside the plain script, on the sites and seeds that both have."""
    for task, look in product(TASKS, ("one", "eight")):
        scored, weights = rows_of(run, task, cells, look)
        plain = scored.get(PLAIN) or {}
        print(f"\n{run.name}: {task}, {look} look{'s' * (look != 'one')}; difference to the plain script in one look")
        reference = rows_of(run, task, [cell for cell in cells if cell.recipe == PLAIN], "one")[0].get(PLAIN, plain)
        for name, entries in scored.items():
            keys = sorted(entries)
            shared = [key for key in keys if key in reference]
            line = f"{name:28}{len(keys):3} "
            for score in next(iter(entries.values()))[0]:
                line += f"  {score} {float(mean_over([entries[key][0][score] for key in keys])):.3f}"
                if shared and not (name == PLAIN and look == "one"):
                    each = [entries[key][0][score] - reference[key][0][score] for key in shared]
                    difference = mean_over(each)
                    low, high = interval(difference, weights)
                    line += f" ({float(difference):+.3f}, {low:+.3f} to {high:+.3f})"
            print(f"{line}  {np.mean([entries[key][1] for key in keys]):6.0f} s", flush=True)


def main(argv: list[str] | None = None) -> None:
    """Train what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shared", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--data", default="orca", choices=("orca", "ebhi", "brca_m2c"))
    parser.add_argument("--recipes", nargs="*", default=[PLAIN, *RECIPES], choices=(PLAIN, *RECIPES))
    parser.add_argument("--ensembles", nargs="*", default=[], help="recipes that are trained in all folds")
    parser.add_argument("--tasks", nargs="*", default=TASKS, choices=TASKS)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--table", action="store_true", help="print what is there, train nothing")
    options = parser.parse_args(argv)
    run = options.folder / options.data
    if not (run / "study.toml").is_file():
        changes = ["tiles.side_um=99.55"] if options.data == "brca_m2c" else []  # its fields are smaller than two tiles
        new_run(run, options.shared / options.data / "slides.csv", "quick", changes)
    if not (run / "tiles" / "stage.json").is_file():
        bring_run(run, "tiles", (), Silent())
    unseen = [name for name in np.unique(groups_of(run)[1]).tolist() if name]
    cells = [
        Cell(run=run, unseen=site, recipe=recipe, task=task, seed=seed, fold=fold)
        for seed, site, recipe in product(options.seeds, unseen, options.recipes)
        for fold in range(FOLDS if recipe in options.ensembles else 1)
        for task in options.tasks
    ]
    if not options.table:
        todo = [cell for cell in cells if not cell.answers.is_file()]
        print(f"{len(cells)} trainings, {len(todo)} to do; {len(RECIPES)} recipes in all")
        for cell, seconds in in_processes(work, todo, options.workers):
            told = {"unseen": cell.unseen, "recipe": cell.recipe, "task": cell.task, "seed": cell.seed}
            print(json.dumps(told | {"fold": cell.fold, "seconds": round(seconds)}), flush=True)
    print_table(run, cells)


if __name__ == "__main__":
    main()
