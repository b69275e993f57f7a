"""Model folders: `weights.safetensors` and, written last, `model.json`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import nn

from vitrail.core.digest import combined_digest, file_digest, json_digest
from vitrail.core.files import regular_file, replacing, write_text
from vitrail.core.shown import Shown
from vitrail.errors import ModelError
from vitrail.models.ensemble import Ensemble
from vitrail.models.spec import ClassifierSpec, SegmenterSpec, read_spec

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from vitrail.models.classifier import Classifier
    from vitrail.models.segmenter import Segmenter
    from vitrail.models.spec import ModelSpec

    Network: TypeAlias = Classifier | Segmenter | Ensemble

WEIGHTS, JSON = "weights.safetensors", "model.json"
_FINGERPRINT = "fingerprint"
_COPY = "Copy the whole model folder, or train it again"


class Model(Shown):
    """A network, or an ensemble, and what it needs to be used: in eval mode and on the CPU when it is read.

    Parameters
    ----------
    spec
        What it is.
    module
        The network; or what builds it when it is first asked for, which takes seconds: timm has to be imported.
    digest
        Computes the digest of the specification and the weights that the network will be built with.

    Attributes
    ----------
    spec
        What it is.
    """

    def __init__(
        self, *, spec: ModelSpec, module: Network | Callable[[], Network], digest: Callable[[], str] = str
    ) -> None:
        self.spec, self._module, self._digest = spec, module, digest

    def __repr__(self) -> str:
        spec = self.spec
        return f"<Model {spec.task}: {spec.encoder}, tiles of {spec.side_um:g} um as {spec.side_px} px>"

    @property
    def module(self) -> Network:
        """The network."""
        if not isinstance(self._module, nn.Module):
            with torch.inference_mode(mode=False):  # it may be asked for within; weights are for more than inference
                self._module = self._module()
        return cast("Network", self._module)

    @property
    def digest(self) -> str:
        """Of specification and weights; empty once the network is built, because then anybody may change it."""
        return "" if isinstance(self._module, nn.Module) else self._digest()

    def member(self, number: int) -> Model:
        """Return a member of an ensemble as a model of its own, which shares its weights; a single network as it is.

        Nobody has looked whether 16 bits would do for the member alone.
        """
        if self.spec.members == 1:
            return self

        def module() -> Any:
            ensemble: Any = self.module
            return ensemble.members[number]

        return Model(spec=member_spec(self.spec, number), module=module)

    @property
    def explained(self) -> Model:
        """The network that explanations are about: of an ensemble its representative member."""
        return self.member(self.spec.representative)


def member_spec(spec: ModelSpec, number: int) -> ModelSpec:
    """Return the specification of a member of an ensemble; its temperature is the ensemble's."""
    own = spec.colours[number] if spec.colours else spec
    unknown = {"half": None, "half_openvino": None}
    alone = {"members": 1, "representative": 0, "colours": (), "mean": own.mean, "std": own.std} | unknown
    return spec.model_copy(update=alone)


def build(spec: ModelSpec) -> Classifier | Segmenter | Ensemble:
    """Build the untrained network of a specification; its weights come from torch's global generator.

    Parameters
    ----------
    spec
        A `ClassifierSpec` or a `SegmenterSpec`.

    Returns
    -------
    Classifier | Segmenter | Ensemble
        In training mode, on the CPU; an ensemble where it has several members.

    Raises
    ------
    ModelError
        The encoder is unknown or does not fit.
    """
    if spec.members > 1:
        return Ensemble((build_single(member_spec(spec, number)) for number in range(spec.members)), spec)
    return build_single(spec)


def build_single(spec: ModelSpec) -> Classifier | Segmenter:
    """Build the untrained network of a specification of one member, as `build` does."""
    # here, because timm takes seconds to import, and a network that is compiled already is not built
    from vitrail.models.classifier import Classifier  # noqa: PLC0415
    from vitrail.models.segmenter import Segmenter  # noqa: PLC0415

    match spec:
        case ClassifierSpec():
            return Classifier(spec)
        case SegmenterSpec():
            return Segmenter(spec)
    raise TypeError(f"neither ClassifierSpec nor SegmenterSpec: {type(spec).__name__}")


def save_model(folder: Path, module: nn.Module, spec: ModelSpec, fingerprint: str = "") -> None:
    """Write a model folder; a folder with `model.json` is whole.

    Parameters
    ----------
    folder
        Made where it is missing.
    module
        The network.
    spec
        What it is.
    fingerprint
        Of what the weights follow from; it goes into their file, where `saved_fingerprint` finds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / JSON).unlink(missing_ok=True)
    save_tensors(folder / WEIGHTS, module.state_dict(), {_FINGERPRINT: fingerprint} if fingerprint else None)
    write_text(folder / JSON, spec.model_dump_json(indent=2) + "\n", flush=True)


def saved_fingerprint(folder: Path) -> str | None:
    """Return the fingerprint that a whole model folder was saved with; None without one, or without a model."""
    if not (folder / JSON).is_file():
        return None
    try:
        with safe_open(folder / WEIGHTS, "pt") as file:
            return (file.metadata() or {}).get(_FINGERPRINT)
    except (FileNotFoundError, SafetensorError):
        return None


def model_digest(folder: Path) -> str:
    """Return the SHA-256 of the SHA-256 digests of `model.json` and `weights.safetensors`."""
    return combined_digest(file_digest(folder / name) for name in (JSON, WEIGHTS))


def load_model(folder: str | Path, *, later: bool = False) -> Model:
    """Read a model folder.

    Parameters
    ----------
    folder
        With `model.json` and `weights.safetensors`.
    later
        Whether the network is built only when it is first asked for. Weights that do not fit raise their `ModelError`
        then, and so do those that somebody has replaced meanwhile.

    Returns
    -------
    Model
        In eval mode, on the CPU.

    Raises
    ------
    ModelError
        `model.json` is missing or not valid, or the weights are missing, unreadable or of another network.
    """
    folder = Path(folder)
    spec = read_spec(folder / JSON)
    if not later:
        return Model(spec=spec, module=_with_weights(spec, folder / WEIGHTS))
    path = regular_file(folder / WEIGHTS, ModelError, _COPY)
    opened = _stamp(path)

    def same() -> Path:
        if _stamp(path) != opened:
            raise ModelError(path, "was replaced while it was in use", "Run the same command again")
        return path

    return Model(
        spec=spec,
        module=lambda: _with_weights(spec, same()),
        digest=lambda: json_digest([spec.model_dump(mode="json"), file_digest(same())]),
    )


def _stamp(path: Path) -> tuple[int, ...]:
    """Return what tells a file from one that has replaced it."""
    about = path.stat()
    return about.st_mtime_ns, about.st_size, about.st_ino


def _with_weights(spec: ModelSpec, path: Path) -> Network:
    """Build the network of a specification with a file's weights; in eval mode."""
    module = build(spec)
    try:
        module.load_state_dict(load_file(regular_file(path, ModelError, _COPY)))
    except (SafetensorError, RuntimeError, OSError) as error:
        problem = f"does not fit {JSON} ({' '.join(str(error).split())[:200]})"
        raise ModelError(path, problem, _COPY) from None
    return module.eval()


def load_explained(folder: str | Path) -> Model:
    """Read the network of a model folder that explanations are about, see `Model.explained`.

    Parameters
    ----------
    folder
        As for `load_model`, whose errors this raises, too.

    Returns
    -------
    Model
        One network, in eval mode, on the CPU.
    """
    return load_model(folder).explained


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors to a `.safetensors` file that is either the old one or the whole new one, even after a kill.

    Parameters
    ----------
    path
        The file.
    tensors
        By name.
    metadata
        Texts to store with them: one entry alone, because safetensors writes several in an order that varies.
    """
    content = save({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, metadata)
    with replacing(path, flush=True) as temporary:
        temporary.write_bytes(content)  # save_file would make a file that only its owner can read
