"""Models of one kind joined into an ensemble."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vitrail.errors import ModelError
from vitrail.models.ensemble import Ensemble
from vitrail.models.spec import Colours
from vitrail.models.store import Model, load_model, save_model

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_OWN = {
    "mean", "std", "training", "temperature", "half", "half_openvino", "vitrail", "members", "representative",
    "colours",
}  # fmt: skip
"""What members may differ in."""


def join_models(folders: Sequence[str | Path], out: str | Path) -> Model:
    """Join model folders of one kind into the folder of an ensemble, whose members count alike.

    Networks that standardise their inputs with other means and deviations go together: each keeps its own. Ensembles
    are joined by all their members. The temperature is the mean of the models', for there are no tiles to fit one on;
    the first model's explained network stands for all in explanations.

    Parameters
    ----------
    folders
        Of trained models, two or more.
    out
        The folder to write.

    Returns
    -------
    Model
        The ensemble, in eval mode, on the CPU.

    Raises
    ------
    ModelError
        There are fewer than two folders, one cannot be read, or differs from the first in more than what was learnt.
    """
    if len(folders) < 2:
        raise ModelError("ensemble", f"{len(folders)} models make none", "Name two model folders or more")
    ensemble = joined({str(folder): load_model(folder) for folder in folders})
    save_model(Path(out), ensemble.module, ensemble.spec)
    return ensemble


def joined(models: Mapping[str, Model]) -> Model:
    """Join models of one kind, which share their weights with the ensemble.

    Parameters
    ----------
    models
        By what an error calls them.

    Returns
    -------
    Model
        As `join_models` writes it; its module is in the mode that the networks are in.

    Raises
    ------
    ModelError
        One differs from the first in more than what was learnt.
    """
    (first_name, first), *others = models.items()
    wanted = first.spec.model_dump(exclude=_OWN)
    for name, model in others:
        found = model.spec.model_dump(exclude=_OWN)
        wrong = next((key for key in wanted | found if wanted.get(key) != found.get(key)), None)
        if wrong:
            problem = f"has {wrong} = {found.get(wrong)!r}, and {first_name} {wanted.get(wrong)!r}"
            raise ModelError(name, problem, "Join models that were trained with the same settings")
    members = [model.member(number) for model in models.values() for number in range(model.spec.members)]
    colours = tuple(Colours(mean=each.spec.mean, std=each.spec.std) for each in members)
    spec = first.spec.model_copy(
        update={
            "members": len(members),
            "colours": colours if len(set(colours)) > 1 else (),
            "temperature": float(np.mean([model.spec.temperature for model in models.values()])),
            "half": None,
            "half_openvino": None,
        }
    )
    return Model(spec=spec, module=Ensemble((each.module for each in members), spec).train(first.module.training))
