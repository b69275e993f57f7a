"""The explanations in numbers: what `metrics.json` holds of them, and one table for each question.

How far maps agree, how good the classifier is that HR-CAM puts on each network, and what the checks measured. Verdicts
are decided where the maps are checked, see `vitrail.explain.checks.results`; here they are only listed. A `summary` is
that of `Stored` for agreement, accuracy, layers and empty maps, and that of `Checked` for truth and verdicts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vitrail.explain.checks.localisation import CAUSE
from vitrail.explain.checks.results import open_checked
from vitrail.explain.study.store import open_stored

if TYPE_CHECKING:
    from pathlib import Path

    from vitrail.explain.checks.results import Checked
    from vitrail.explain.study.store import Stored

PAPER_MODES = {
    "classifier_gradcam_hrcam": 0.7000,
    "gradcam_classifier_segmenter": 0.2333,
    "segmenter_gradcam_hrcam": 0.3667,
    "hrcam_classifier_segmenter": 0.5667,
}
"""The modes of agreement that the paper gives for its own data (Additional file 1, Fig. S4 a to d)."""

STATISTICS = ("pearson", "spearman", "top10")
"""What is measured of two maps beside maps of other tiles: Pearson's and Spearman's coefficient, and the share of the
strongest tenth of their places that they have in common."""

COMPARISONS = {
    "deletion": ("over_random", "over_blob"),
    "insertion": ("over_random", "over_blob"),
    "randomisation": ("excess",),
    "stability": ("excess",),
    "localisation": ("over_others", "over_turned"),
}
"""By check, what its verdict rests on: names of estimates in the summary."""


def open_explanations(run: Path) -> tuple[Stored, Checked | None] | None:
    """Open the explanations of a run folder, and what their checks measured.

    Returns
    -------
    tuple[Stored, Checked | None] | None
        None where nothing was explained; no `Checked` where nobody has checked.

    Raises
    ------
    RunError
        A folder is there but not complete.
    """
    explanations, checks = (run / name for name in ("explanations", "checks"))
    if not (explanations / "summary.json").is_file():
        return None
    return open_stored(explanations), open_checked(checks) if (checks / "summary.json").is_file() else None


def explanation_metrics(stored: Stored, checked: Checked | None) -> dict[str, Any]:
    """Return what `metrics.json` holds about explanations.

    Parameters
    ----------
    stored
        The explanations.
    checked
        What their checks measured, if anybody checked.

    Returns
    -------
    dict[str, Any]
        `agreement` and `agreement_relu` by pair of maps, `hrcam_accuracy` by network where there is HR-CAM,
        `min_share` (the tiles it learnt from hold at least this share of one class), `empty` (maps that are 0
        everywhere after ReLU) by kind, the numbers of `tiles` and `patients`, `represented` by network where that is an
        ensemble, and `checks`, None where nobody has checked.
    """
    names = ("agreement", "agreement_relu", "hrcam_accuracy", "min_share", "empty", "tiles", "patients", "represented")
    measured = {name: stored.summary[name] for name in names if name in stored.summary}  # HR-CAM may not be among them
    return measured | {"checks": checked.summary if checked else None}


def explanation_tables(stored: Stored) -> dict[str, pd.DataFrame]:
    """Return every table about explanations, by the name of its file."""
    return {
        "agreement": agreement_table(stored.summary),
        "hrcam_accuracy": accuracy_table(stored.summary),
        "layers": layers_table(stored.summary),
        "empty_maps": empty_table(stored.summary),
    }


def check_tables(checked: Checked) -> dict[str, pd.DataFrame]:
    """Return every table about checks, by the name of its file."""
    tables = {
        "checks": verdict_table(checked.summary),
        "checks_perturbation": replacement_curves(checked.perturbation),
        "checks_randomisation": randomisation_curves(checked.randomisation),
    }
    if "ranking" in checked.summary:  # not in older runs
        tables |= {
            "checks_ranking": ranking_table(checked.summary),
            "checks_replacements": replacement_table(checked.summary),
            "checks_stability": stability_table(checked.stability),
            "checks_maps": maps_table(checked.summary),
        }
    if checked.summary["truth"]:
        floors = checked.summary.get("floors", {}).get("truth") or {}
        tables["checks_truth"] = truth_table({"truth": checked.summary["truth"] | floors})
    return tables


def agreement_table(summary: dict[str, Any]) -> pd.DataFrame:
    """Return the agreement of each pair of maps, signed and after ReLU, and the paper's mode beside it.

    Pairs with a kind of maps whose zero means nothing have no row after ReLU; pairs that the paper lacks have no mode.
    Of each statistic of `STATISTICS` there are the mean, what maps of other tiles give (`_null`), and what is beyond
    that with its interval; NaN in rows after ReLU, and in runs of before these were measured.
    """
    rows, numbers = [], ["mode", "mean", "mean_low", "mean_high"]
    for maps, name in (("as they are", "agreement"), ("relu", "agreement_relu")):
        for pair, measured in summary[name].items():
            row = {
                "pair": pair, "maps": maps, "mode": measured["mode"], "mean": measured["mean"],
                "mean_low": measured["interval"][0], "mean_high": measured["interval"][1], "n": measured["n"],
                "constant": measured["constant"], "mode_in_the_paper": PAPER_MODES.get(pair, np.nan),
            }  # fmt: skip
            for statistic in STATISTICS:
                own = measured.get(statistic, {"value": None, "null": None, "beyond": [None] * 3})
                row |= {statistic: own["value"], f"{statistic}_null": own["null"]}
                row |= dict(zip(_beyond(statistic), own["beyond"], strict=True))
            rows.append(row)
    numbers += [name for each in STATISTICS for name in (each, f"{each}_null", *_beyond(each))]
    return pd.DataFrame(rows).astype(dict.fromkeys(numbers, np.float64) if rows else {})


def _beyond(statistic: str) -> tuple[str, str, str]:
    """Name the columns of what a statistic has beyond chance, and of the ends of its interval."""
    return f"{statistic}_beyond", f"{statistic}_beyond_low", f"{statistic}_beyond_high"


def metric_ranks(summary: dict[str, Any]) -> pd.DataFrame:
    """Return how the metrics rank the methods and floors of each network, best first; no row in checks of before.

    One row a `network`, `method` and `metric`, with `value` and `rank`, NaN where a method has none, the method's
    `mean_rank`, and whether it is a `floor`, which no network has made, or `recommended`.
    """
    rows = []
    for network, ranked in summary.get("ranking", {}).items():
        order = sorted(ranked["values"], key=lambda name: ranked["mean_rank"].get(name, np.inf))
        rows += [
            {
                "network": network, "method": method, "metric": metric, "value": ranked["values"][method].get(metric),
                "rank": ranked["ranks"].get(method, {}).get(metric), "mean_rank": ranked["mean_rank"].get(method),
                "floor": method in ranked["floors"], "recommended": method in ranked["recommended"],
            }
            for method in order
            for metric in ranked["metrics"]
        ]  # fmt: skip
    columns = ["network", "method", "metric", "value", "rank", "mean_rank", "floor", "recommended"]
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(("value", "rank", "mean_rank"), np.float64))


def shared_by_kind(summary: dict[str, Any]) -> dict[str, float | None]:
    """Return how much maps of different tiles share, by kind of map: their mean correlation, null where undefined."""
    older = {key: measured["shared"] for key, measured in summary["randomisation"].items()}
    newer = {key: value[0] if isinstance(value, list) else value for key, value in summary.get("shared", {}).items()}
    return {key: newer.get(key, value) for key, value in older.items()}


def accuracy_table(summary: dict[str, Any]) -> pd.DataFrame:
    """Return the accuracy of HR-CAM's own classifier over each network; no row without HR-CAM."""
    rows = []
    for network, measured in summary.get("hrcam_accuracy", {}).items():
        low, high = measured["interval"]
        others = {name: value for name, value in measured.items() if name not in {"accuracy", "interval"}}
        rows.append({"network": network, "accuracy": measured["accuracy"], "low": low, "high": high} | others)
    columns = ["network", "accuracy", "low", "high", "tiles", "train_accuracy", "train_tiles"]
    numbers = dict.fromkeys(("accuracy", "low", "high", "train_accuracy"), np.float64)
    return pd.DataFrame(rows, columns=columns).astype(numbers)


def layers_table(summary: dict[str, Any]) -> pd.DataFrame:
    """Return the layers that HR-CAM looks at (the paper's Table 1)."""
    rows = [{"network": network} | layer for network, layers in summary["layers"].items() for layer in layers]
    return pd.DataFrame(rows, columns=["network", "name", "stride", "channels", "size_px"])


def empty_table(summary: dict[str, Any]) -> pd.DataFrame:
    """Return how many maps of each kind are 0 everywhere after ReLU."""
    empty = summary["empty"]
    return pd.DataFrame({"maps": list(empty), "empty_after_relu": list(empty.values()), "tiles": summary["tiles"]})


def perturbation_curves(perturbation: pd.DataFrame) -> pd.DataFrame:
    """Return the mean score over the tiles by `network`, `replacement`, `kind`, `order` and `fraction`.

    Checks of before know one replacement, the blurred tile.
    """
    table = perturbation if "replacement" in perturbation else perturbation.assign(replacement="blur")
    by = ["network", "replacement", "kind", "order", "fraction"]
    return table.groupby(by, sort=True, as_index=False)[["score"]].mean()


def replacement_curves(perturbation: pd.DataFrame) -> pd.DataFrame:
    """Return the mean `score` and `logit` by `network`, `replacement`, `kind`, `order` and `fraction`."""
    by = ["network", "replacement", "kind", "order", "fraction"]
    return perturbation.groupby(by, sort=True, as_index=False)[["score", "logit"]].mean()


def randomisation_curves(randomisation: pd.DataFrame) -> pd.DataFrame:
    """Return the mean magnitude of the correlation by `network`, `method`, `number` and `step`, and that of chance.

    Tiles and draws count alike; those where a map is constant are left out.
    """
    magnitudes = randomisation.assign(**{name: randomisation[name].abs() for name in ("correlation", "chance")})
    by = ["network", "method", "number", "step"]
    return magnitudes.groupby(by, sort=True, as_index=False)[["correlation", "chance"]].mean()


def truth_table(summary: dict[str, Any]) -> pd.DataFrame:
    """Return by kind of map and region the weight over the area, what chance gives, and the differences."""
    nulls = [f"{name}{end}" for name in ("over_others", "over_turned") for end in ("", "_low", "_high")]
    names = ["ratio", "low", "high", "others", "turned", *nulls]
    rows = [
        (
            key, region, measured["ratio"], *measured["interval"], measured["others"], measured["turned"],
            *measured["over_others"], *measured["over_turned"], measured["tiles"],
        )
        for key, regions in (summary["truth"] or {}).items()
        for region, measured in regions.items()
    ]  # fmt: skip
    types = {"maps": str, "region": str} | dict.fromkeys(names, float) | {"tiles": int}
    return pd.DataFrame(rows, columns=list(types)).astype(types)


def ranking_table(summary: dict[str, Any]) -> pd.DataFrame:
    """Return by network and method or floor every metric and its rank, and what is recommended."""
    rows = []
    for network, ranked in summary["ranking"].items():
        for method, values in ranked["values"].items():
            faithful = ranked.get("faithfulness", {}).get(method, [None] * 3)
            row = {"network": network, "method": method, "floor": method in ranked["floors"]}
            row |= {"recommended": method in ranked["recommended"], "mean_rank": ranked["mean_rank"].get(method)}
            row |= dict(zip(("faithfulness", "faithfulness_low", "faithfulness_high"), faithful, strict=True))
            ranks = {f"rank_{metric}": ranked["ranks"][method][metric] for metric in ranked["metrics"]}
            rows.append(row | values | ranks | {"concordance": ranked["concordance"]})
    table = pd.DataFrame(rows)
    names = {"network", "method", "floor", "recommended"}
    return table.astype({name: np.float64 for name in table if name not in names})


def replacement_table(summary: dict[str, Any]) -> pd.DataFrame:
    """Return by network and replacement the scores that decide whether it is a test, and whether it is."""
    rows = []
    for network, judged in summary["replacements"].items():
        for name, entry in judged.items():
            scores = {each: entry.get(each) for each in ("tile", "replaced", "without")}
            left = dict(zip(("left", "left_low", "left_high"), entry.get("left", [None] * 3), strict=True))
            rows.append({"network": network, "replacement": name} | scores | left | {"test": entry["test"]})
    numbers = dict.fromkeys(("tile", "replaced", "without", "left", "left_low", "left_high"), np.float64)
    table = pd.DataFrame(rows, columns=["network", "replacement", *numbers, "test"])
    return table.astype(numbers)


def stability_table(stability: pd.DataFrame) -> pd.DataFrame:
    """Return the mean correlation after each change, and that of chance, by `network`, `method` and `change`."""
    by = ["network", "method", "change"]
    return stability.groupby(by, sort=True, as_index=False)[["correlation", "chance"]].mean()


def maps_table(summary: dict[str, Any]) -> pd.DataFrame:
    """Return by kind of map, floors included, its cells, its sparseness, what maps share, and the completeness gap."""
    rows = []
    for key, correlation in summary["shared"].items():
        height, width = summary["cells"].get(key, (None, None))
        row: dict[str, Any] = {"maps": key, "height": height, "width": width}
        for name, numbers in (("sparseness", summary["sparseness"][key]), ("shared", correlation)):
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), numbers, strict=True))
        gaps = summary["completeness"].get(key, {})
        rows.append(row | {f"gap_{name}": gaps.get(name) for name in ("median", "largest")})
    table = pd.DataFrame(rows)
    return table.astype({name: np.float64 for name in table if name != "maps"})


def verdict_table(summary: dict[str, Any]) -> pd.DataFrame:
    """Return one row a kind of map, check and comparison: by how much, and the check's verdict."""
    rows = []
    for key, verdicts in summary["verdicts"].items():
        for check, verdict in verdicts.items():
            if check == "localisation":
                measured = summary["truth"][key].get(CAUSE, {})
            elif check in {"randomisation", "stability"}:
                measured = summary[check][key]
            else:
                measured = summary["perturbation"][key][check]
            for name in COMPARISONS[check]:
                numbers = [np.nan if value is None else float(value) for value in measured.get(name, [None] * 3)]
                rows.append((key, check, name, *numbers, verdict))
    return pd.DataFrame(rows, columns=["maps", "check", "compared", "difference", "low", "high", "verdict"])
