"""What a method of explanation is, and which there are.

A method is one module in this folder that ends in `METHOD = ...`: an `ExplanationMethod`. It is found by itself, and
`explain.methods` may name it; stored maps, agreement, checks, figures, whole slides and `vitrail explain --method` take
it from there.
"""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias, cast

from vitrail.classes import TissueClass
from vitrail.errors import ModelError, SettingsError
from vitrail.explain import methods
from vitrail.explain.dense import dense_network, stride_of
from vitrail.explain.fused import ExplainingClassifier, assemble, read_pass
from vitrail.explain.hooks import frozen
from vitrail.inference.predictor import Explaining
from vitrail.interop.class_map import Channel
from vitrail.models.classifier import Classifier
from vitrail.models.segmenter import Segmenter
from vitrail.models.store import model_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Generator, Tensor, nn

    from vitrail.classes import Task
    from vitrail.core.progress import Progress
    from vitrail.explain.dense import DenseNetwork
    from vitrail.explain.fused import Reader
    from vitrail.explain.layers import Layers
    from vitrail.explain.saliency import Maps
    from vitrail.explain.target import Pixels
    from vitrail.models.batches import Batches
    from vitrail.models.store import Model
    from vitrail.settings.load import Settings

Head: TypeAlias = Any
"""What a method fits is its own business; it has `fitted_on`, the digest of the model that it was fitted on."""

FIT = "remove RUN/explanations, if it is there, and fit it with: vitrail explain RUN"
"""What to do where a head is missing."""


class PoolingNetwork(Protocol):
    """A network on its device whose feature maps can be averaged over images: what an `Explainer` is."""

    device: torch.device
    batches: Batches

    @property
    def layers(self) -> Layers:
        """The layers that are pooled."""

    def pool(self, images: NDArray[np.uint8] | Tensor) -> Tensor:
        """Average feature maps over images, see `Explainer.pool`."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeadTiles:
    """What a method may fit its head on: the clear training tiles of a study, for one network.

    Attributes
    ----------
    task
        The network.
    network
        It, on its device, and the layers that heads look at.
    images
        `[all, h, w, 3]`, bytes, a memory map.
    rows
        Which of them to learn from, `[n]`.
    tumor
        `[n]`, true for tumor, false for non-tumor.
    settings
        The study's.
    unfinished
        A folder for what is needed only until the study is explained; a killed run finds it again.
    augmenter
        Makes, from a generator of the CPU, what changes intensities 0 to 1 `[n, 3, h, w]`; None leaves them.
    progress
        To be told how far the work is.
    """

    task: Task
    network: PoolingNetwork
    images: NDArray[np.uint8]
    rows: NDArray[np.int64]
    tumor: NDArray[np.bool_]
    settings: Settings
    unfinished: Path
    augmenter: Callable[[Generator], Callable[[Tensor], Tensor]] | None
    progress: Progress


class ExplanationMethod:
    """A method of explanation. A subclass overrides `reader`, or `explain`, or both.

    Attributes
    ----------
    name
        Its key in settings, files and tables: small letters, digits and underscores.
    title
        As figures and viewers show it.
    colour
        Of its channel in an OME-TIFF, red, green and blue, 0 to 255.
    passes
        Forward passes of the network an image, at most. With 1, it runs the network exactly once on the images as they
        are, and methods that have a `reader` may listen to that pass.
    gradients
        Passes back through the network an image, at most.
    complete
        Whether it claims that a map's sum is the difference of the score to that of a reference; then its maps say in
        `Maps.residue` how far they are off.
    needs_head
        Whether something has to be fitted on a network before it can be explained.
    on_slides
        Whether it can explain whole slides, window by window; then it has a `reader` for classifiers.
    any_network
        Whether it asks nothing of a network but one score an image, and so explains a user's own, see
        `vitrail.explain.own_network`.
    describes
        What it asks, as the rest of a sentence that begins with its title; none leaves the report without it.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    describes: ClassVar[str] = ""
    colour: ClassVar[tuple[int, int, int]] = (102, 102, 102)
    passes: ClassVar[int] = 1
    gradients: ClassVar[int] = 0
    complete: ClassVar[bool] = False
    needs_head: ClassVar[bool] = False
    on_slides: ClassVar[bool] = False
    any_network: ClassVar[bool] = False

    def explains(self, network: nn.Module) -> bool:
        """Tell whether the method can explain a network: every classifier and segmenter, unless it says otherwise."""
        return isinstance(network, Classifier | Segmenter)

    def records(self, network: nn.Module) -> bool:  # noqa: ARG002 - for those who say yes
        """Tell whether `explain` of a network can be recorded and compiled: whether it needs no automatic gradient."""
        return False

    def reader(self, network: nn.Module, head: Head = None) -> Reader | None:  # noqa: ARG002 - for those who read
        """Return what the method reads from a forward pass.

        Parameters
        ----------
        network
            Whose pass.
        head
            What was fitted on it.

        Returns
        -------
        Reader | None
            None where the method has to run the network itself.
        """
        return None

    def explain(
        self,
        network: nn.Module,
        images: Tensor,
        target: TissueClass = TissueClass.TUMOR,
        *,
        head: Head = None,
        pixels: Pixels = "predicted",  # noqa: ARG002 - for those who explain segmenters
        mpp: float | None = None,  # noqa: ARG002 - for those whose windows have a size
        dense: DenseNetwork | None = None,
    ) -> Maps:
        """Explain images.

        Parameters
        ----------
        network
            The network, in either mode.
        images
            `[n, 3, h, w]`, standardised.
        target
            The class.
        head
            What was fitted on the network.
        pixels
            Of a segmenter: which pixels' class is explained, see `target_pixels`.
        mpp
            Micrometres per pixel of the images, where they are known.
        dense
            The same network with more cells, for methods that show feature maps; None takes the network's own.

        Returns
        -------
        Maps
            One map an image.
        """
        reader = self.reader(network, head)
        if reader is None:
            raise NotImplementedError(f"{self.name} neither reads a pass nor explains")
        with frozen(network):
            output, sums = read_pass(network, images.detach(), [reader], dense=dense)
        shape = images.shape[1], images.shape[2], images.shape[3]
        return assemble(network, reader, sums[self.name], shape, target, output=output, dense=dense)

    def fit(self, tiles: HeadTiles) -> tuple[Head, dict[str, Any]]:
        """Fit the head on a network.

        Parameters
        ----------
        tiles
            The network and its training tiles.

        Returns
        -------
        tuple[Head, dict[str, Any]]
            The head, and what the study's summary says of it, as JSON.
        """
        raise NotImplementedError(f"{self.name} has no head to fit on {tiles.task}")

    def save(self, folder: Path, head: Head) -> None:
        """Write a head into a folder."""
        raise NotImplementedError(f"{self.name} has no {head} for {folder}")

    def load(self, folder: Path) -> Head:
        """Read a head from a folder.

        Parameters
        ----------
        folder
            Where `save` has written it.

        Returns
        -------
        Head
            As it was saved.

        Raises
        ------
        ModelError
            It is missing, or cannot be read.
        """
        raise NotImplementedError(f"{self.name} has no head in {folder}")

    def redraw(self, head: Head, seed: int) -> Head:  # noqa: ARG002 - for those who have a head
        """Return the head with random weights, for the check that a map falls with what was learnt."""
        return head


class MethodRegistry(MutableMapping[str, ExplanationMethod]):
    """The methods by name. The modules of the folder are looked through when one is first asked for."""

    def __init__(self) -> None:
        self._methods: dict[str, ExplanationMethod] | None = None

    def _all(self) -> dict[str, ExplanationMethod]:
        if self._methods is None:
            self._methods = {}
            for module in pkgutil.iter_modules(methods.__path__, f"{methods.__name__}."):
                method = getattr(import_module(module.name), "METHOD", None)
                if isinstance(method, ExplanationMethod):
                    self[method.name] = method
        return self._methods

    def __getitem__(self, name: str) -> ExplanationMethod:
        """Return the method of a name."""
        return self._all()[name]

    def __setitem__(self, name: str, method: ExplanationMethod) -> None:
        """Add a method, or put another in its place."""
        if name != method.name or not re.fullmatch("[a-z][a-z0-9_]*", name):
            raise ValueError(f"{name!r} is no name of a method: small letters, digits and underscores")
        self._all()[name] = method

    def __delitem__(self, name: str) -> None:
        """Forget a method."""
        del self._all()[name]

    def __iter__(self) -> Iterator[str]:
        """Go through the names."""
        return iter(self._all())

    def __len__(self) -> int:
        """Count the methods."""
        return len(self._all())


METHODS = MethodRegistry()
"""Every method there is, by name."""


def methods_named(names: Iterable[str], where: str = "explain.methods") -> tuple[ExplanationMethod, ...]:
    """Return methods by their names.

    Parameters
    ----------
    names
        The names.
    where
        Where they stand, for the error.

    Returns
    -------
    tuple[ExplanationMethod, ...]
        In the order of the names.

    Raises
    ------
    SettingsError
        There is no method of a name, or one is named twice, or none is.
    """
    names = tuple(names)
    wrong = next((name for name in names if name not in METHODS), None)
    if wrong is not None:
        raise SettingsError(where, f"there is no method {wrong!r}", f"There are {', '.join(METHODS)}")
    if not names or len(set(names)) < len(names):
        raise SettingsError(where, "a method is named twice" if names else "names no method", "Name each once")
    return tuple(METHODS[name] for name in names)


def find_heads(
    model_folder: Path, methods: Iterable[ExplanationMethod], digest: str | None = None
) -> tuple[dict[str, Head], dict[str, str]]:
    """Look up what a model's run has fitted for methods, and whether it was fitted on these weights.

    Parameters
    ----------
    model_folder
        A run's `classifier` or `segmenter`.
    methods
        Those that need no head are passed over.
    digest
        The model's `model_digest`, where the caller has it.

    Returns
    -------
    tuple[dict[str, Head], dict[str, str]]
        By the method's name the head; or the reason why there is none.

    Raises
    ------
    ModelError
        A head is there, but cannot be read.
    """
    own = model_folder.resolve()
    folder = own.parent / "explanations" / own.name
    heads: dict[str, Head] = {}
    missing: dict[str, str] = {}
    for method in methods:
        if not method.needs_head:
            continue
        if not folder.is_dir():
            missing[method.name] = f"its run has no dense layer for {method.title}"
            continue
        head = method.load(folder)
        if head.fitted_on == (digest or model_digest(model_folder)):
            heads[method.name] = head
        else:
            problem = "dense layer was fitted on other weights, or before its file said on which"
            missing[method.name] = f"{method.title}'s {problem}"
    return heads, missing


def fitted_heads(model_folder: Path, methods: Iterable[ExplanationMethod]) -> dict[str, Head]:
    """Return what a model's run has fitted for methods, where all of them need it.

    Parameters
    ----------
    model_folder, methods
        As for `find_heads`.

    Returns
    -------
    dict[str, Head]
        By the method's name.

    Raises
    ------
    ModelError
        One is missing, was fitted on other weights, or cannot be read.
    """
    heads, missing = find_heads(model_folder, methods)
    for reason in missing.values():  # a run's own stages find one, unless files were exchanged by hand
        folder = model_folder.resolve().parent / "explanations"
        raise ModelError(model_folder, reason, f"Remove {folder}, if it is there, and run: vitrail explain RUN")
    return heads


def explaining_classifier(
    model: Model,
    pixels: int,
    methods: Iterable[ExplanationMethod],
    heads: Mapping[str, Head],
    *,
    tiles: int = 1,
    stride: int | None = 0,
    margin_px: int = 0,
) -> Explaining:
    """Make a classifier say why on whole slides.

    Parameters
    ----------
    model
        What `load_model` returned.
    pixels
        Of the maps, along a tile.
    methods
        Those that need more than a forward pass, or lack their head, are left out.
    heads
        By the method's name.
    tiles
        Along a side of the windows that are explained.
    stride, margin_px
        As of an `Explainer`.

    Returns
    -------
    Explaining
        With at least one method, for a `Predictor`.

    Raises
    ------
    ModelError
        It is no classifier.
    SettingsError
        No method is left.
    """
    readers, side_px = slide_readers(model, methods, heads), model.spec.side_px
    dense = dense_network(model.module, stride_of(stride, side_px), margin_px)
    module = ExplainingClassifier(
        cast("Classifier", model.module), list(readers.values()), dense, pixels=pixels, side_px=side_px, tiles=tiles
    )
    channels = {method.name: Channel(name=method.title, rgb=method.colour) for method in readers}
    return Explaining(module=module, methods=module.methods, channels=channels)


def slide_readers(
    model: Model, methods: Iterable[ExplanationMethod], heads: Mapping[str, Head]
) -> dict[ExplanationMethod, Reader]:
    """Return what the methods read that can explain a classifier on whole slides.

    Parameters
    ----------
    model, methods, heads
        As of `explaining_classifier`.

    Returns
    -------
    dict[ExplanationMethod, Reader]
        One or more, in the methods' order.

    Raises
    ------
    ModelError
        It is no classifier.
    SettingsError
        No method is left.
    """
    if not isinstance(model.module, Classifier):
        raise ModelError(f"the {model.spec.task}", "cannot be explained on whole slides", "Give a classifier")
    ready = [method for method in methods if method.on_slides and not (method.needs_head and method.name not in heads)]
    readers = {m: reader for m in ready if (reader := m.reader(model.module, heads.get(m.name))) is not None}
    if not readers:
        names = ", ".join(name for name, method in METHODS.items() if method.on_slides)
        raise SettingsError("explain.methods", "names none that can explain whole slides", f"Add one of {names}")
    return readers
