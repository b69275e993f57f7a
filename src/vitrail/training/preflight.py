"""Preflight: what can be known to fail before hours of cutting tiles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from vitrail.errors import ModelError
from vitrail.models.device import pick_device
from vitrail.models.store import build
from vitrail.models.weights import check_terms, check_weights, first_line
from vitrail.training.tasks import TRAINING_TASKS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vitrail.models.spec import ModelSpec
    from vitrail.settings.load import Settings

_ANY_COLOURS = ([0.5] * 3, [0.25] * 3)


def check_start(settings: Settings) -> list[str]:
    """Make sure that both trainings can start, as far as that shows without tiles; no weights are read or downloaded.

    Weights that would have to be downloaded count as reachable where the hub answers within 5 seconds.

    Parameters
    ----------
    settings
        The study's.

    Returns
    -------
    list[str]
        Warnings: what the licence of the encoder's weights restricts.

    Raises
    ------
    SettingsError
        The device that the settings ask for is not there.
    ModelError
        The encoder is unknown or does not fit a network or the tiles' size, its weights cannot be had, or restrictions
        of their licence were not accepted.
    """
    pick_device(settings.compute.device)
    terms = check_terms(settings.encoder)
    check_weights(settings.encoder)
    for objective in TRAINING_TASKS.values():
        check_fit(objective.spec(settings, _ANY_COLOURS), objective.settings(settings).batch)
    return [terms] if terms else []


def check_classifier(settings: Settings, sides_px: Iterable[int], *, here: bool = True) -> None:
    """Make sure, as `check_start` does, that the classifier can be trained on tiles of several sides.

    Parameters
    ----------
    settings
        The study's.
    sides_px
        Sides of tiles.
    here
        Whether this machine trains; if not, its devices do not matter.

    Raises
    ------
    SettingsError, ModelError
        As `check_start`.
    """
    if here:
        pick_device(settings.compute.device)
    check_terms(settings.encoder)
    check_weights(settings.encoder)
    for side_px in sides_px:
        own = settings.model_copy(update={"tiles": settings.tiles.model_copy(update={"side_px": side_px})})
        check_fit(TRAINING_TASKS["classifier"].spec(own, _ANY_COLOURS), settings.classifier.batch)


def check_fit(spec: ModelSpec, batch: int) -> None:
    """Make sure that a network can be trained on tiles of its size, by a try on the CPU with an untrained one.

    Torch's generators are put back.

    Parameters
    ----------
    spec
        The network.
    batch
        Tiles at once.

    Raises
    ------
    ModelError
        The encoder is unknown, or its feature maps get too small for it on tiles of this size.
    """
    # two tiles stand for all larger batches, and 1024 pixels for all larger tiles: memory is bounded
    side_px = min(spec.side_px, 1024)
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            build(spec).train()(torch.zeros(min(batch, 2), 3, side_px, side_px))
    except (RuntimeError, ValueError, IndexError) as error:
        problem = f"cannot be trained on tiles of {spec.side_px} pixels, {batch} a batch ({first_line(error)})"
        cure = f"Raise tiles.side_px or {spec.task}.batch, or take another encoder"
        raise ModelError(f"encoder {spec.encoder!r}, {spec.task}", problem, cure) from None
