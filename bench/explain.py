"""Explained images a second, beside the plain forward pass, pytorch-grad-cam and captum.

    python -m bench.explain [--encoder NAME] [--side PX] [--batch N] [--rounds N] [--threads N] [--no-keep-memory]

Both networks have random weights and see the same random images, standardised and in channels-last memory, on the CPU
in float32; what OpenVINO compiles standardises them itself, from bytes, within its time. All ways of explaining them
share the network object. Each round times each of them once, in an order that is drawn anew, and a ratio is taken
within its round before the median over rounds: so what else the machine does weighs on both sides. Memory is kept as
Vitrail's commands keep it (`keep_memory`), for all alike; --no-keep-memory leaves it to glibc.

The peers explain the same layer and the same score, and are used as their documentation shows: pytorch-grad-cam in its
`with` block, down to the maps that it returns, which it stretches to 0 to 1 and resizes to the image; captum down to
its attributions. For the segmenter, the predicted pixels are found within the pass that is explained. With
pytorch-grad-cam's own target, SemanticSegmentationTarget, it would need another forward pass to know them.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor, nn

from vitrail.classes import TissueClass
from vitrail.explain.explainer import Explainer
from vitrail.explain.fused import assemble, read_pass
from vitrail.explain.hooks import frozen, record_activations
from vitrail.explain.layers import default_layers, find_layers
from vitrail.explain.methods.base import METHODS
from vitrail.explain.methods.gradcam import classifier_gradcam, segmenter_gradcam
from vitrail.explain.methods.hrcam import HRCamHead, hrcam
from vitrail.explain.receptive_field import frames
from vitrail.explain.saliency import Maps
from vitrail.models.device import keep_memory
from vitrail.models.openvino import Compiled
from vitrail.models.preprocessing import FromBytes, Normalizer, intensities
from vitrail.models.spec import ClassifierSpec, ModelSpec, SegmenterSpec
from vitrail.models.store import Model, build
from vitrail.settings.load import EMBEDDED_ENCODER
from vitrail.settings.schema import ClassifierSettings, SegmenterSettings

TUMOR, CPU = TissueClass.TUMOR, torch.device("cpu")
FORWARD, GRADCAM, HRCAM, BOTH = "plain forward pass", "Vitrail Grad-CAM", "Vitrail HR-CAM", "Vitrail both in one pass"
PEER, CAPTUM = "pytorch-grad-cam", "captum LayerGradCam"
FORWARD_OV, GRADCAM_OV, BOTH_OV = "OpenVINO, forward pass", "OpenVINO, Grad-CAM", "OpenVINO, both in one pass"
EQUAL = 1e-5  # of the largest value of a map
NEAR = 1e-4  # the same, of maps that another library computes from end to end
SHARED = {"side_um": 199.1, "mean": (0.7, 0.5, 0.6), "std": (0.2, 0.25, 0.15)}

Explain = Callable[[nn.Module, Tensor], Maps]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A network and what it is asked; `score` takes its output for one image and `scores` for all."""

    name: str
    network: nn.Module
    pixels: Tensor
    images: Tensor
    layer: str
    hrcam_head: HRCamHead
    explain: Explain
    score: Callable[[Tensor], Tensor]
    scores: Callable[[Tensor], Tensor]
    compiled: Explainer | None = None
    plain: Compiled | None = None

    @property
    def module(self) -> nn.Module:
        """The layer that Grad-CAM explains."""
        return self.network.get_submodule(self.layer)


Work = Callable[[Subject], object]


def random_images(count: int, side: int) -> Tensor:
    """Draw bytes `[n, h, w, 3]`, noise fine as well as coarse: of fine noise alone all images look the same."""
    generator = torch.Generator().manual_seed(1)
    coarse = nn.functional.interpolate(torch.randn(count, 3, 7, 7, generator=generator), size=(side, side))
    noise = torch.randn(count, 3, side, side, generator=generator) + 2 * coarse
    return (noise * 28 + 150).clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous()


def random_network(spec: ModelSpec, images: Tensor) -> nn.Module:
    """Build an untrained network whose normalisation knows the images, so that activations stay within bounds."""
    torch.manual_seed(0)
    network = build(spec).to(memory_format=torch.channels_last)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # running statistics become the mean over passes
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.bias, 0, 0.1)
    with torch.no_grad():
        network.train()(images)
    return network.eval()


def random_head(network: nn.Module) -> HRCamHead:
    """Draw HR-CAM's dense layer over the default layers."""
    layers = find_layers(network)
    weights = torch.randn(sum(layers.channels), generator=torch.Generator().manual_seed(2))
    return HRCamHead(layers=layers, weights=weights, bias=0.0, l2=1.0)


def standardised(spec: ModelSpec, pixels: Tensor) -> Tensor:
    """Return what a network takes, `[n, 3, h, w]`."""
    return Normalizer(spec, torch.device("cpu"))(intensities(pixels))


def classifier(encoder: str, pixels: Tensor) -> Subject:
    """Return a classifier of the default size; its score is the logit of tumor."""
    settings = ClassifierSettings()
    spec = ClassifierSpec(
        **SHARED, encoder=encoder, side_px=pixels.shape[1], dense=settings.dense, dropout=settings.dropout
    )
    images, compiles = standardised(spec, pixels), find_spec("openvino") is not None
    network = random_network(spec, images)
    explainer = Explainer(Model(spec=spec, module=network), CPU, len(pixels)) if compiles else None
    return Subject(
        name="classifier", network=network, pixels=pixels, images=images, layer=default_layers(network)[-1],
        hrcam_head=random_head(network), explain=classifier_gradcam, score=torch.Tensor.clone,
        scores=torch.Tensor.clone, compiled=explainer,
        plain=Compiled(FromBytes(network, spec)) if compiles else None,
    )  # fmt: skip


def segmenter(encoder: str, pixels: Tensor) -> Subject:
    """Return a segmenter of the default size; its score is the sum of tumor's logits where tumor is predicted."""
    spec = SegmenterSpec(**SHARED, encoder=encoder, side_px=pixels.shape[1], decoder=SegmenterSettings().decoder)
    images = standardised(spec, pixels)
    network = random_network(spec, images)
    return Subject(
        name="segmenter", network=network, pixels=pixels, images=images, layer=default_layers(network)[-1],
        hrcam_head=random_head(network), explain=segmenter_gradcam,
        score=lambda logits: (logits[TUMOR] * (logits.argmax(0) == TUMOR)).sum(),
        scores=lambda logits: (logits[:, TUMOR] * (logits.argmax(1) == TUMOR)).sum((1, 2)),
    )  # fmt: skip


@torch.no_grad()
def forward(subject: Subject):
    """Predict and nothing else."""
    return subject.network(subject.images)


def vitrail_gradcam(subject: Subject):
    """Explain with the Grad-CAM of this kind of network."""
    return subject.explain(subject.network, subject.images).saliencies()


def vitrail_hrcam(subject: Subject):
    """Explain with HR-CAM."""
    return hrcam(subject.network, subject.images, subject.hrcam_head).saliencies()


def vitrail_both(subject: Subject):
    """Explain with both, as `Explainer.maps` does; but that standardises bytes, which the others here need not."""
    network, images, found = subject.network, subject.images, {}
    readers = [METHODS["gradcam"].reader(network), METHODS["hrcam"].reader(network, subject.hrcam_head)]
    readers = [reader for reader in readers if reader]

    def lead():
        found["gradcam"] = subject.explain(network, images)

    with frozen(network):
        _, sums = read_pass(network, images, readers, None if len(readers) == 2 else lead)
    found |= {r.method: assemble(network, r, sums[r.method], tuple(images.shape[1:])) for r in readers}
    return found["gradcam"].saliencies(), found["hrcam"].saliencies()


def forward_openvino(subject: Subject):
    """Predict from bytes, compiled."""
    return subject.plain(subject.pixels.numpy())


def gradcam_openvino(subject: Subject):
    """Explain from bytes, compiled."""
    return subject.compiled.gradcam(subject.pixels.numpy())


def both_openvino(subject: Subject):
    """Explain from bytes with both, compiled."""
    heads = {"hrcam": subject.hrcam_head}
    grad, high = next(subject.compiled.maps(subject.pixels.numpy(), ("gradcam", "hrcam"), heads))
    return grad.saliencies(), high.saliencies()


def pytorch_grad_cam() -> Work:
    """Return how a user of grad-cam explains."""
    from pytorch_grad_cam import GradCAM  # noqa: PLC0415 - it may be missing

    def work(subject: Subject):
        with GradCAM(model=subject.network, target_layers=[subject.module]) as cam:
            return cam(input_tensor=subject.images, targets=[subject.score] * len(subject.images))

    return work


def captum() -> Work:
    """Return how a user of captum explains."""
    from captum.attr import LayerGradCam  # noqa: PLC0415 - it may be missing

    def work(subject: Subject):
        return LayerGradCam(lambda x: subject.scores(subject.network(x)), subject.module).attribute(subject.images)

    return work


def contenders() -> dict[str, Work | str]:
    """Return what is timed by name; of a peer that cannot be imported, the reason."""
    works: dict[str, Work | str] = {
        FORWARD: forward, GRADCAM: vitrail_gradcam, HRCAM: vitrail_hrcam, BOTH: vitrail_both,
    }  # fmt: skip
    for name, peer in ((PEER, pytorch_grad_cam), (CAPTUM, captum)):
        try:
            works[name] = peer()
        except ImportError as error:
            works[name] = f"not installed ({error})"
    return works


def seconds(work: Work, subject: Subject) -> float:
    """Time one repetition, and clear away the gradients that it may leave behind."""
    begun = time.perf_counter()
    work(subject)
    taken = time.perf_counter() - begun
    subject.network.zero_grad()
    return taken


COMPILED = {FORWARD_OV: forward_openvino, GRADCAM_OV: gradcam_openvino, BOTH_OV: both_openvino}
"""For the classifier alone: a segmenter's maps are torch's."""


def works_of(subject: Subject, works: dict[str, Work | str]) -> dict[str, Work]:
    """Return what can be timed."""
    works = {name: work for name, work in works.items() if not isinstance(work, str)}
    return works | (COMPILED if subject.compiled else {})


def measure(subject: Subject, works: dict[str, Work], rounds: int) -> dict[str, np.ndarray]:
    """Return each contender's seconds in each round; a first round that warms up is left out."""
    order, taken = np.random.default_rng(0), {name: np.zeros(rounds + 1) for name in works}
    for number in range(rounds + 1):
        for name in order.permutation(list(works)):
            taken[name][number] = seconds(works[name], subject)
    return {name: each[1:] for name, each in taken.items()}


def ratio(taken: dict[str, np.ndarray], name: str, to: str) -> np.ndarray:
    """Return how many times longer one takes than another in each round; nothing where one of them is missing."""
    return taken[name] / taken[to] if {name, to} <= set(taken) else np.empty(0)


def times(ratios: np.ndarray) -> str:
    """Write the median of ratios."""
    return f"{np.median(ratios):.2f}" if len(ratios) else "-"


def row(subject: Subject, name: str, taken: dict[str, np.ndarray]) -> str:
    """Write a contender's line of the table."""
    rates = len(subject.images) / taken[name]
    spread = f"({rates.min():.1f}..{rates.max():.1f})"
    cost, gain = times(ratio(taken, name, FORWARD)), times(ratio(taken, PEER, name))
    return f"  {name:26}{np.median(rates):8.1f} {spread:17}{cost:>12}{gain:>18}"


def show(subject: Subject, works: dict[str, Work | str], taken: dict[str, np.ndarray]) -> None:
    """Print a network's part of the table."""
    print(subject.name)
    compiled = "not installed" if subject.compiled is None else forward_openvino
    more = dict.fromkeys(COMPILED, compiled) if subject.name == "classifier" else {}
    for name, work in (works | more).items():
        print(f"  {name:26}{work}" if isinstance(work, str) else row(subject, name, taken))


def pytorch_grad_cam_raw(subject: Subject) -> Tensor:
    """Return pytorch-grad-cam's maps before it drops negative values, stretches and resizes them."""
    from pytorch_grad_cam import GradCAM  # noqa: PLC0415 - it may be missing

    raw_maps = []

    class Signed(GradCAM):
        def get_cam_image(self, *args, **kwargs):
            raw_maps.append(super().get_cam_image(*args, **kwargs))
            return raw_maps[-1]

    with Signed(model=subject.network, target_layers=[subject.module]) as cam:
        cam(input_tensor=subject.images, targets=[subject.score] * len(subject.images))
    return torch.from_numpy(raw_maps[0])


def captum_raw(subject: Subject) -> Tensor:
    """Return captum's maps, which are signed and of the feature map's resolution."""
    return captum()(subject)[:, 0].detach()


@torch.no_grad()
def naive_hrcam(subject: Subject) -> Tensor:
    """Write HR-CAM out: enlarge every feature map to the places of the finest one's cells, then weight, then add up."""
    network, images, hrcam_head = subject.network, subject.images, subject.hrcam_head
    names = hrcam_head.layers.names
    with record_activations(network, names, lambda _, maps: maps.clone()) as maps:
        network(images)
    layer_frames = frames(network, tuple(images.shape[1:]), names, hrcam_head.layers.strides)
    at = layer_frames[0].centres(tuple(maps[names[0]].shape[2:]))
    enlarged = [sample(maps[name], frame, at) for name, frame in zip(names, layer_frames, strict=True)]
    return torch.einsum("nchw,c->nhw", torch.cat(enlarged, 1), hrcam_head.weights)


def sample(maps: Tensor, frame, at: tuple[np.ndarray, np.ndarray]) -> Tensor:
    """Interpolate feature maps at rows and columns of the image with torch's own sampler."""
    axes = zip(at, frame.span_px, frame.shift_px, strict=True)
    rows, columns = (torch.from_numpy(2 * (centres - shift) / span - 1).float() for centres, span, shift in axes)
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij")[::-1], -1).expand(len(maps), -1, -1, -1)
    return nn.functional.grid_sample(maps.contiguous(), grid, padding_mode="border", align_corners=False)


def stacked(saliencies) -> Tensor:
    """Return the values of maps, `[n, h, w]`."""
    return torch.from_numpy(np.stack([each.values for each in saliencies]))


def compare(
    name: str, maps: Tensor, expected: Callable[[Subject], Tensor], subject: Subject, most: float = EQUAL
) -> bool:
    """Print how far maps are from others; tell whether they are equal."""
    try:
        other = expected(subject)
    except ImportError as error:
        print(f"  {name:48}not installed ({error})")
        return True
    subject.network.zero_grad()
    largest, apart = float(other.abs().max()), float((maps - other).abs().max())
    equal = 0 < largest < np.inf and apart <= most * largest
    share, word = apart / (largest or 1), "equal" if equal else "DIFFERENT"
    print(f"  {name:48}{apart:11.1e}{largest:15.1e}{share:10.1e}  {word}")
    return equal


def check(subject: Subject) -> bool:
    """Print whether maps are what others compute; tell whether all are."""
    grad, high = stacked(vitrail_gradcam(subject)), stacked(vitrail_hrcam(subject))
    both = [stacked(each) for each in vitrail_both(subject)]
    name = subject.name
    compiled = []
    if subject.compiled is not None:
        first, second = (stacked(each) for each in both_openvino(subject))
        compiled = [
            compare(f"{name}: Grad-CAM of OpenVINO, of torch", first, lambda _: grad, subject, NEAR),
            compare(f"{name}: HR-CAM of OpenVINO, of torch", second, lambda _: high, subject, NEAR),
        ]
    return all(
        [
            *compiled,
            compare(f"{name}: Grad-CAM, captum", grad, captum_raw, subject),
            compare(f"{name}: Grad-CAM, pytorch-grad-cam", grad, pytorch_grad_cam_raw, subject),
            compare(f"{name}: HR-CAM, written out naively", high, naive_hrcam, subject),
            compare(f"{name}: Grad-CAM of one pass for both, alone", both[0], lambda _: grad, subject),
            compare(f"{name}: HR-CAM of one pass for both, alone", both[1], lambda _: high, subject),
        ]
    )


def tumor_found(subject: Subject) -> str:
    """Say how much the segmenter calls tumor: where there is nothing, there is nothing to explain."""
    called = forward(subject).argmax(1) == TUMOR
    with_tumor = int(called.any(2).any(1).sum())
    return (
        f"segmenter: {100 * called.float().mean():.0f} % of pixels are tumor, in {with_tumor} of {len(called)} images"
    )


def goal(text: str, ratios: np.ndarray, *, at_most: float = np.inf, at_least: float = 0.0) -> None:
    """Print a goal and whether this run meets it."""
    if not len(ratios):
        print(f"  {text:68} not measured")
        return
    value = float(np.median(ratios))
    word = "met" if at_least <= value <= at_most else "NOT MET"
    print(f"  {text:68} {value:5.2f} ({ratios.min():.2f}..{ratios.max():.2f})  {word}")


def goals(tiles: dict[str, np.ndarray], pixels: dict[str, np.ndarray]) -> None:
    """Print the goals; ratios are the median over rounds, and their spread."""
    goal("classifier, both methods: at most 1.15 times a forward pass", ratio(tiles, BOTH, FORWARD), at_most=1.15)
    goal("classifier, Grad-CAM: at least 4 times as fast as pytorch-grad-cam", ratio(tiles, PEER, GRADCAM), at_least=4)
    goal("the same, compiled", ratio(tiles, PEER, GRADCAM_OV), at_least=4)
    goal("classifier, both methods, compiled: at most 1.10 times its forward pass", ratio(tiles, BOTH_OV, FORWARD_OV),
         at_most=1.10)  # fmt: skip
    goal("segmenter, Grad-CAM: at most 1.8 times a forward pass", ratio(pixels, GRADCAM, FORWARD), at_most=1.8)


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="efficientnet_b0", help=f"timm's name, such as {EMBEDDED_ENCODER}")
    parser.add_argument("--side", type=int, default=224, help="of an image, in pixels")
    parser.add_argument("--batch", type=int, default=16, help="images in one pass")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument(
        "--keep-memory", action=argparse.BooleanOptionalAction, default=True, help="let glibc keep large blocks"
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Time, check, print; the exit status is 1 where maps differ."""
    options = arguments(argv)
    keeps_memory = options.keep_memory and keep_memory()
    torch.set_num_threads(options.threads)
    images, works = random_images(options.batch, options.side), contenders()
    subjects = [make(options.encoder, images) for make in (classifier, segmenter)]
    print(
        f"{options.encoder}, {options.side} px, batches of {options.batch}, {options.rounds} rounds, "
        f"{options.threads} threads, torch {torch.__version__}, "
        f"large blocks {'kept' if keeps_memory else 'left to glibc'}, load of the machine {os.getloadavg()[0]:.1f}\n"
    )
    print(f"{'':28}{'images/s':>8} {'(min..max)':17}{'time over':>12}{'speed over':>18}")
    print(f"{'':28}{'median':>8} {'':17}{'forward':>12}{'pytorch-grad-cam':>18}")
    taken = []
    for subject in subjects:
        taken.append(measure(subject, works_of(subject, works), options.rounds))
        show(subject, works, taken[-1])
    print(f"\n{'Maps of Vitrail, and of the other':50}{'difference':>11}{'largest value':>15}{'ratio':>10}")
    equal = [check(subject) for subject in subjects]
    print(f"  {tumor_found(subjects[1])}\n\nGoals: median ratio (min..max over rounds)")
    goals(*taken)
    print(f"\nload of the machine at the end {os.getloadavg()[0]:.1f}")
    return 0 if all(equal) else 1


if __name__ == "__main__":
    raise SystemExit(main())
