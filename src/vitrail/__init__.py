"""Train, check, apply and explain convolutional networks that find head and neck cancer in H&E whole slides.

The names below are the public face; each is loaded when it is first used, so that `import vitrail` is quick. Everything
else may change from version to version.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitrail.errors import (
        AnnotationError,
        CohortError,
        ExchangeError,
        ModelError,
        NucleiError,
        RunError,
        SettingsError,
        SlideError,
        TileError,
        VitrailError,
    )
    from vitrail.evaluation.load import evaluate
    from vitrail.evaluation.results import Evaluation
    from vitrail.explain.explainer import Explainer
    from vitrail.explain.methods.gradcam import Score, gradcam
    from vitrail.explain.methods.hrcam import hrcam
    from vitrail.explain.own_network import explain_network
    from vitrail.explain.saliency import Saliency
    from vitrail.geometry import Region
    from vitrail.inference.predictor import Predictor
    from vitrail.models.store import Model, load_model
    from vitrail.notebook.cards import html_of
    from vitrail.pipeline.library import cut_tiles, measure_nuclei, predict_slides
    from vitrail.pipeline.study import Study, open_study, run_study
    from vitrail.quality.artefacts import Artefacts, find_artefacts
    from vitrail.quality.tissue import Tissue, find_tissue
    from vitrail.slides.cohort import Cohort, read_cohort
    from vitrail.slides.slide import Slide, open_slide, read_region
    from vitrail.tiles.store import TileTable
    from vitrail.viewer.window import View, view

__version__ = "0.1.0"

__all__ = [
    "AnnotationError", "Artefacts", "Cohort", "CohortError", "Evaluation", "ExchangeError", "Explainer", "Model",
    "ModelError", "NucleiError", "Predictor", "Region", "RunError", "Saliency", "Score", "SettingsError", "Slide",
    "SlideError", "Study", "TileError", "TileTable", "Tissue", "View", "VitrailError", "cut_tiles", "evaluate",
    "explain_network", "find_artefacts", "find_tissue", "gradcam", "hrcam", "html_of", "load_model", "measure_nuclei",
    "open_slide", "open_study", "predict_slides", "read_cohort", "read_region", "run_study", "view",
]  # fmt: skip

_MODULES = {
    "evaluation.load": ("evaluate",),
    "evaluation.results": ("Evaluation",),
    "explain.explainer": ("Explainer",),
    "explain.methods.gradcam": ("Score", "gradcam"),
    "explain.methods.hrcam": ("hrcam",),
    "explain.own_network": ("explain_network",),
    "explain.saliency": ("Saliency",),
    "geometry": ("Region",),
    "inference.predictor": ("Predictor",),
    "models.store": ("Model", "load_model"),
    "notebook.cards": ("html_of",),
    "pipeline.library": ("cut_tiles", "measure_nuclei", "predict_slides"),
    "pipeline.study": ("Study", "open_study", "run_study"),
    "quality.artefacts": ("Artefacts", "find_artefacts"),
    "quality.tissue": ("Tissue", "find_tissue"),
    "slides.cohort": ("Cohort", "read_cohort"),
    "slides.slide": ("Slide", "open_slide", "read_region"),
    "tiles.store": ("TileTable",),
    "viewer.window": ("View", "view"),
}
"""Where each name lives; errors live in `vitrail.errors`."""


if not TYPE_CHECKING:  # or every misspelt name would pass a type checker as Any

    def __getattr__(name: str) -> Any:
        """Load a name of the public face (PEP 562)."""
        if name not in __all__:
            raise AttributeError(f"module 'vitrail' has no attribute {name!r}")
        module = next((module for module, names in _MODULES.items() if name in names), "errors")
        value = globals()[name] = getattr(import_module(f"vitrail.{module}"), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
