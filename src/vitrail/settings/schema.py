"""Every setting of a study, in groups: its default, its limits, and where it comes from.

The defaults are the paper's (Dörrich et al. 2023, Diagn Pathol 18:121); each carries the paper's sentence, or says
that the paper is silent. The descriptions become the comments of a new `study.toml`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(ge=1e-9, le=1e9)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Repeats = Annotated[int, Field(ge=1, le=10_000)]
Grey = Annotated[float, Field(ge=1, le=255)]
Area = Annotated[float, Field(ge=0, le=1e12)]
Signed = Annotated[float, Field(ge=-1e6, le=1e6)]
Ratio = Annotated[float, Field(ge=1, le=1e6)]

SidePx = Annotated[int, Field(ge=32, le=4096)]
"""Side of a tile, in pixels."""

SideUm = Annotated[float, Field(ge=1, le=100_000)]
"""Side of a tile, in micrometres."""

Neurons = Annotated[int, Field(ge=1, le=65_536)]
DecoderChannels = Annotated[int, Field(ge=1, le=1024)]
Batch = Annotated[int, Field(ge=1, le=65_536)]
Epochs = Annotated[int, Field(ge=1, le=100_000)]
Folds = Annotated[int, Field(ge=2, le=1000)]

UnclassifiedOutlines = Literal["refuse", "tumor"]
"""What outlines without a class are: see `AnnotationSettings.unclassified`."""

UnlabelledTissue = Literal["ignore", "non_tumor"]
"""What tissue outside all outlines is: see `AnnotationSettings.unlabelled_tissue`."""

Reading = Literal["fast", "faithful"]
"""How slides are read: see `SlideSettings.reading`."""

StainNormalisation = Literal["none", "macenko", "reinhard"]
"""How colours of slides are made alike: see `SlideSettings.stain`."""

Layout = Literal["paper", "timm"]
"""Where the segmenter takes its encoder's feature maps: see `SegmenterSettings.layout`."""

Replacement = Literal["blur", "tissue", "donor"]
"""What takes the place of deleted blocks: see `CheckSettings.replacements`."""

Loss = Literal["jaccard", "jaccard_present", "jaccard_cross_entropy", "dice_cross_entropy", "cross_entropy", "focal"]
"""What the segmenter minimises: see `SegmenterSettings.loss`."""

ClassifierLoss = Literal["cross_entropy", "focal", "generalised_cross_entropy"]
"""What the classifier minimises: see `ClassifierSettings.loss`."""

Architecture = Literal["unet", "upernet", "linear"]
"""What follows the segmenter's encoder: see `SegmenterSettings.architecture`."""

Symmetries = Literal[1, 4, 8]
"""Of a square, in which a network sees an image: see `PredictSettings.symmetries`."""

PrecisionName = Literal["auto", "float32", "bfloat16", "fastest"]
"""The type that networks compute in: see `ComputeSettings.precision`."""

EngineName = Literal["auto", "torch", "openvino"]
"""What computes: see `ComputeSettings.engine`."""

MemoryFormat = Literal["channels_last", "contiguous"]
"""Whether the colours of a pixel lie side by side, or each colour in a plane of its own."""

MemoryFormatName = Literal["auto", "channels_last", "contiguous"]
"""See `ComputeSettings.memory_format`."""


class Branch(BaseModel):
    """A group of settings: frozen, and a name that it does not know is an error.

    What is finished stays up to date when a setting is renamed or added, where its field says so:
    `json_schema_extra={"digest_as": "old_name"}` counts it under its old name, which is accepted, too, and
    `{"since": "0.12"}` counts it only where it differs from its default.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _accept_old_names(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        new = cls.renamed()  # where both names are given, the old one stays, and is an error
        return {key if new.get(key, key) in values else new[key]: value for key, value in values.items()}

    @classmethod
    def renamed(cls) -> dict[str, str]:
        """Return the settings that had another name before: `group.name` of now by that of then."""
        names = dict[str, str]()
        for name, field in cls.model_fields.items():
            schema, extra = field.annotation, field.json_schema_extra
            if isinstance(schema, type) and issubclass(schema, Branch):
                names |= {f"{name}.{old}": f"{name}.{new}" for old, new in schema.renamed().items()}
            elif isinstance(extra, dict) and "digest_as" in extra:
                names[str(extra["digest_as"])] = name
        return names

    def digest_values(self) -> dict[str, Any]:
        """Return the settings as digests count them: under old names, and without later ones that are at default.

        Returns
        -------
        dict[str, Any]
            What JSON can hold, groups within groups.
        """
        values, old = self.model_dump(mode="json"), {new: old for old, new in self.renamed().items()}
        for name, field in type(self).model_fields.items():
            value, extra = getattr(self, name), field.json_schema_extra
            if isinstance(value, Branch):
                values[name] = value.digest_values()
            elif isinstance(extra, dict) and "since" in extra and value == field.get_default():
                del values[name]
        return {old.get(name, name): value for name, value in values.items()}


class SlideSettings(Branch):
    """How slides are read."""

    mpp: Annotated[float, Field(ge=0.01, le=100)] | None = Field(
        None, description="um per level-0 pixel, for slides whose header gives none"
    )
    reading: Reading = Field(
        "fast",
        description="fast starts from the scanner's own reduced levels, and reduces JPEG while it is decoded, within a "
        "grey level on average; faithful decodes the full resolution and averages areas exactly. Stored with a model",
    )
    stain: StainNormalisation = Field(
        "none",
        description="stain normalisation: each slide's colours are moved to those of one reference before anything is "
        "cut from it. macenko: its two stain vectors (Macenko et al. 2009); reinhard: mean and spread in Lab (Reinhard "
        "et al. 2001). Stored with a model. The paper has none",
        json_schema_extra={"since": "0.3.0"},
    )


class AnnotationSettings(Branch):
    """Which outlines mean what. Case does not count; "Tumor: Invasive" is found under "Tumor"."""

    tumor: tuple[str, ...] = Field(
        ("Tumor",), description='Paper: "The tumor class includes both tumor cells and surrounding tumor stroma."'
    )
    non_tumor: tuple[str, ...] = Field(
        ("Non-tumor", "Non tumor"),
        description='Paper: "Tissues such as normal squamous epithelium, connective tissue, glands, muscle, and fat '
        'tissue were annotated as non-tumor."',
    )
    ignore: tuple[str, ...] = Field(
        (),
        description='Paper: "damaged tissue, and large regions of blood or necrosis were not annotated". Outlines with '
        "these names are cut out of those around them; one that lies wholly within such an outline stays",
    )
    unclassified: UnclassifiedOutlines = Field(
        "refuse",
        description="outlines without a class: refuse leaves them out, with a warning, and refuses a file that has no "
        "others; tumor takes them for tumor, as where nothing else was outlined",
        json_schema_extra={"since": "0.3.0"},
    )
    unlabelled_tissue: UnlabelledTissue = Field(
        "ignore",
        description="tissue outside all outlines: ignore cuts no tile from it; non_tumor takes it for non-tumor, but "
        "for artefacts and a margin, see margin_um. Only where every carcinoma of every slide is outlined; the report "
        "shows what speaks against that. The paper outlined both classes",
        json_schema_extra={"since": "0.3.0"},
    )
    margin_um: Annotated[float, Field(ge=0, le=10_000)] = Field(
        100.0,
        description="with unlabelled_tissue, how far non-tumor tissue stays away from outlines of tumor and of what is "
        "ignored, at least; what lies between is other tissue. 100 is half a tile of the paper's: outlines are drawn "
        "coarsely. On ORCA it left no tile of the tumor among the non-tumor, where 25 left 2 % and 0 left 10 %",
        json_schema_extra={"since": "0.3.0"},
    )


WhiteInside = Literal["outline", "background"]
"""What white pixels inside an outline are: see `TileSettings.white_inside`."""


class TileSettings(Branch):
    """How slides are cut into tiles."""

    side_um: SideUm = Field(199.1, description='Paper: "we extracted tiles of size 199.1 µm ..."')
    side_px: SidePx = Field(224, description='Paper: "... and resized them to 224 pixels."')
    min_annotated: Annotated[float, Field(gt=0, le=1)] = Field(
        0.30, description='Paper: "non-overlapping tiles with at least 30% annotated pixels"'
    )
    max_tumor: Count = Field(
        125, description='Paper: "We decided to extract a maximum of 125 tumor and 500 non-tumor tiles from each slide"'
    )
    max_non_tumor: Count = Field(500, description="see max_tumor")
    white: Annotated[int, Field(ge=1, le=255)] = Field(
        220,
        description='Paper: "we added a background class for white background pixels". A pixel is white when all '
        "three channels reach this (the paper is silent)",
    )
    white_inside: WhiteInside = Field(
        "outline",
        description="white pixels inside an outline: of the outline's class, as lumens, gaps and fat belong to their "
        'tissue; or "background", like all other white ones (the paper can be read either way). Which tiles are cut, '
        "and their labels, follow the outlines alone",
    )


class SplitSettings(Branch):
    """Sizes of the three parts; only their proportions count. Patients stay whole."""

    train: Positive = Field(
        70, description='Paper: "70 slides were used for training, 10 for validation, and 21 for testing."'
    )
    validation: Positive = Field(10, description="see train")
    test: Positive = Field(21, description="see train")


class EncoderSettings(Branch):
    """The encoder of both networks."""

    name: Annotated[str, Field(max_length=200)] = Field(
        "efficientnet_b0",
        description='Paper: "EfficientNet-B0 pre-trained on ImageNet". Any timm encoder by name, a convolutional '
        'network or a plain vision transformer; "hf-hub:owner/name" from a hub, as hf-hub:bioptimus/H-optimus-0; or '
        '"local-dir:" and the path, from this folder, of a folder with timm\'s config.json and weights. Encoders from '
        "hubs and folders, and frozen ones, see images standardised as when they were trained; for others the training "
        "tiles' own mean and standard deviation are taken, as in the paper",
    )
    weights: Annotated[str, Field(max_length=4096)] = Field(
        "imagenet",
        description='"imagenet" (the pretrained ones: through timm, or those of the hub or folder that name says; '
        'needs the network once, unless it is a folder), "embedded" (tf_efficientnet_lite0 only), '
        '"random", or the path of a .safetensors or .pth file, from this folder',
    )
    frozen: bool = Field(
        default=False,
        description="the encoder keeps its weights, and only what follows it is trained, on features that are computed "
        "once: of a classifier, means over tiles in the eight symmetries of a square; of a segmenter with a single "
        "map, that of each tile as it is, without augmentation; a U-Net's encoder sees each batch anew. Features "
        "computed once are not mixed (mixup, cutmix). For foundation models. The paper tunes its encoder",
        json_schema_extra={"since": "0.3.0"},
    )
    licence_accepted: bool = Field(
        default=False,
        description="that the encoder's licence, where it restricts its use (non-commercial, no derivatives, terms to "
        "be accepted), was read and allows yours",
        json_schema_extra={"since": "0.3.0"},
    )


class AugmentSettings(Branch):
    """Random changes of training tiles, and of their masks with them; 0 switches one off.

    Paper: "several transformations were randomly applied during training, including rotation, mirroring, and
    variations in hue, saturation, brightness, and contrast." It gives no strengths.
    """

    rotation_step_deg: Annotated[float, Field(ge=0, le=180)] = Field(
        90.0,
        description="tiles are turned by a random multiple of this; 90 moves pixels and keeps them, other angles "
        "interpolate, which blurs, and mirror the corners in",
    )
    mirror: Share = Field(0.5, description="probability, along each axis")
    hue: Annotated[float, Field(ge=0, le=0.5)] = Field(0.03, description="largest shift, in turns of the colour circle")
    saturation: Annotated[float, Field(ge=0, lt=1)] = Field(0.2, description="largest relative change")
    brightness: Annotated[float, Field(ge=0, lt=1)] = Field(0.15, description="largest relative change")
    contrast: Annotated[float, Field(ge=0, lt=1)] = Field(0.15, description="largest relative change")
    stain: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0,
        description="largest relative change of each stain's amount, hematoxylin, eosin and the rest apart, with a "
        "shift of each, in optical density, of an eighth of it (after Tellez et al. 2019)",
        json_schema_extra={"since": "0.3.0"},
    )
    stain_templates: Share = Field(
        0.0,
        description="probability that a tile gets mean and spread, in Lab, of a virtual slide, drawn around those of "
        "the training tiles (RandStainNA, Shen et al. 2022)",
        json_schema_extra={"since": "0.3.0"},
    )
    scale: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="largest relative change of scale", json_schema_extra={"since": "0.3.0"}
    )
    jpeg: Share = Field(
        0.0,
        description="probability that a tile is compressed as JPEG does, at a quality from 30 to 95",
        json_schema_extra={"since": "0.3.0"},
    )


class TrainingSettings(Branch):
    """How a network is trained, whichever it is; the defaults are the paper's, or do nothing."""

    optimizer: Literal["adam", "adamw"] = Field(
        "adam",
        description='Paper: "using Adam optimizer". adamw: with decoupled weight decay (Loshchilov and Hutter 2019)',
        json_schema_extra={"since": "0.3.0"},
    )
    weight_decay: Annotated[float, Field(ge=0, le=10)] = Field(
        0.0,
        description="of adamw; biases and normalisation layers have none",
        json_schema_extra={"since": "0.3.0"},
    )
    schedule: Literal["constant", "one_cycle"] = Field(
        "constant",
        description="of the learning rate over the steps. The paper names one rate. one_cycle: up to it and down to "
        "none, both along a cosine (Smith and Topin 2019)",
        json_schema_extra={"since": "0.3.0"},
    )
    warmup: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.3, description="share of the steps of one_cycle that go up", json_schema_extra={"since": "0.3.0"}
    )
    encoder_rate: Annotated[float, Field(gt=0, le=10)] = Field(
        1.0,
        description="learning rate of the encoder over that of what follows it (discriminative rates, Howard and Ruder "
        "2018)",
        json_schema_extra={"since": "0.3.0"},
    )
    min_steps: Annotated[int, Field(ge=0, le=100_000_000)] = Field(
        0,
        description="steps that a training has at least: small cohorts get more epochs",
        json_schema_extra={"since": "0.3.0"},
    )
    ema: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0,
        description="decay of an exponential moving average of the weights over the steps, which is validated and kept "
        "in their place (Polyak and Juditsky 1992); 0: none",
        json_schema_extra={"since": "0.3.0"},
    )
    keep: Literal["best", "last"] = Field(
        "best",
        description="weights that are kept: of the epoch with the lowest validation loss, or of the last",
        json_schema_extra={"since": "0.3.0"},
    )
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0,
        description="share of each label that is dealt to all classes alike, in cross-entropies (Szegedy et al. 2016)",
        json_schema_extra={"since": "0.3.0"},
    )
    mixup: Annotated[float, Field(ge=0, le=100)] = Field(
        0.0,
        description="alpha of mixup: tiles and labels are mixed in pairs (Zhang et al. 2018); 0: none",
        json_schema_extra={"since": "0.3.0"},
    )
    cutmix: Annotated[float, Field(ge=0, le=100)] = Field(
        0.0,
        description="alpha of CutMix: a rectangle of a tile is that of another one, with its label or mask (Yun et al. "
        "2019); 0: none. With mixup, one of both is drawn for each batch",
        json_schema_extra={"since": "0.3.0"},
    )
    accumulate: Batch = Field(
        1,
        description="parts that a batch passes through the network in, one after the other, before the weights change: "
        "a small card then has room for the paper's batches. Tiles are drawn and changed as without it, but batch "
        "normalisation, and losses of a whole batch such as jaccard, see one part at a time, so that numbers differ a "
        "little. compute.checkpoint_activations saves memory without that, and costs time",
        json_schema_extra={"since": "0.3.0"},
    )


Activation = Literal["linear", "relu"]
"""Of the classifier's dense layer: see `ClassifierSettings.activation`."""


class ClassifierSettings(TrainingSettings):
    """The classification network: encoder, global average pooling, dense layer, dropout, one logit."""

    dense: Neurons = Field(1024, description='Paper: "a global average pooling layer, a dense layer with 1024 neurons"')
    activation: Activation = Field(
        "linear",
        description="of the dense layer. The paper names one for the last layer alone, and without a name Keras' dense "
        'layers have none: "linear". With "relu" the network is more than a weighted sum of its pooled features',
    )
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.2, description='Paper: "Dropout"; it gives no rate. This is EfficientNet-B0\'s own (Tan and Le 2019)'
    )
    blur_px: Annotated[float, Field(ge=0, le=8)] = Field(
        1.0,
        description='Paper: "In the training of the classification network, blurring and additive gaussian noise were '
        'also applied." Largest Gaussian sigma',
    )
    noise: Annotated[float, Field(ge=0, le=0.5)] = Field(
        0.02, description="see blur_px; largest standard deviation, of intensities from 0 to 1"
    )
    glass: Annotated[float, Field(ge=0, le=0.5)] = Field(
        0.0,
        description="tiles of empty glass, drawn at random, that are learnt as non-tumor beside each batch, as a share "
        "of its tiles. The paper has none; no outlined tile shows glass alone, and such a network may call it anything",
    )
    loss: ClassifierLoss = Field(
        "cross_entropy",
        description="focal: counts clear tiles less (gamma 2, Lin et al. 2017); generalised_cross_entropy: counts "
        "tiles that contradict everything else less, which are often labelled wrong (q 0.7, Zhang and Sabuncu 2018)",
        json_schema_extra={"since": "0.3.0"},
    )
    learning_rate: Positive = Field(1e-5, description='Paper: "The learning rate was set to 10^-5"')
    batch: Batch = Field(128, description='Paper: "and the batch size to 128"')
    epochs: Epochs = Field(50, description="the paper is silent; the epoch with the lowest validation loss is kept")


class SegmenterSettings(TrainingSettings):
    """The segmentation network: a U-Net on the encoder, softmax over four classes, Jaccard loss."""

    decoder: Annotated[tuple[DecoderChannels, ...], Field(min_length=5, max_length=5)] = Field(
        (256, 128, 64, 32, 16),
        description='Paper: "The decoder consists of five decoder blocks"; channels as in its library',
    )
    layout: Layout = Field(
        "paper",
        description="where the decoder takes the encoder's feature maps. paper: as the library that the paper names, "
        "from the activations behind the expanding convolutions (of EfficientNet-B0 96, 144, 240, 672 and 1280 "
        "channels); timm: what the stages give (16, 24, 40, 112 and 320). Encoders without such convolutions always "
        "have timm's",
    )
    loss: Loss = Field(
        "jaccard",
        description='Paper: "We chose to minimize the Jaccard loss function". jaccard: as in its library, the mean '
        "over the four classes; a class that the batch lacks counts with nearly 1, whatever is predicted. "
        "jaccard_present: such a class counts as 0; jaccard_cross_entropy, dice_cross_entropy: the mean over the "
        "classes that are there plus the pixels' cross-entropy; focal: the latter with gamma 2 (Lin et al. 2017)",
    )
    class_weights: tuple[Positive, Positive, Positive, Positive] = Field(
        (1.0, 1.0, 1.0, 1.0),
        description="of tumor, non-tumor, other and background in the loss",
        json_schema_extra={"since": "0.3.0"},
    )
    blur_px: Annotated[float, Field(ge=0, le=8)] = Field(
        0.0,
        description="largest Gaussian sigma of a blur; the paper has it for the classifier",
        json_schema_extra={"since": "0.3.0"},
    )
    noise: Annotated[float, Field(ge=0, le=0.5)] = Field(
        0.0, description="see blur_px; as in [classifier]", json_schema_extra={"since": "0.3.0"}
    )
    architecture: Architecture = Field(
        "unet",
        description='Paper: "a U-Net". upernet: a pyramid of maps and means over large parts of the image (Xiao et al. '
        "2018); linear: a 1x1 convolution on the last map, enlarged. Vision transformers need one of these two",
        json_schema_extra={"since": "0.3.0"},
    )
    learning_rate: Positive = Field(1e-4, description='Paper: "using Adam optimizer with a learning rate of 10^-4"')
    batch: Batch = Field(
        64, description='Paper: "We chose to minimize the Jaccard loss function and set the batch size to 64."'
    )
    epochs: Epochs = Field(50, description="the paper is silent; the epoch with the lowest validation loss is kept")


class EnsembleSettings(Branch):
    """Several networks of each kind in the place of one: the paper has one of each."""

    folds: Annotated[int, Field(ge=0, le=100)] = Field(
        0,
        description="the patients of training and validation are dealt into so many parts, and as many networks are "
        "trained, each validated on one part: their mean answers count, and how far they differ says how sure that is "
        "(Lakshminarayanan et al. 2017); 0 or 1: one network, trained and validated as [split] says",
        json_schema_extra={"since": "0.3.0"},
    )


class PredictSettings(Branch):
    """What the trained networks are applied to, beside all tiles."""

    slides: Count = Field(
        3,
        description="test slides that are mapped as a whole, from the classifier's best to its worst; those with both "
        "classes come first",
    )
    window: Annotated[int, Field(ge=0, le=8)] = Field(
        1,
        description="side of the segmenter's windows on whole slides, in tiles. Paper: \"Both networks yielded "
        'predictions for individual tiles." 0: 2, in which it sees more around each pixel; but 1 for encoders with '
        "squeeze-and-excitation, which weigh their channels by means over the whole window and lose in others",
    )
    overlap: Annotated[float, Field(ge=0, le=0.5)] = Field(
        0.0,
        description="of these windows, as a share of a tile; neighbours are blended, so that no border shows. 0 sets "
        'them side by side. Paper: "This resulted in undesirable, tile-shaped class boundaries"; 0.25 has none',
    )
    test_time_augmentation: bool = Field(
        default=False,
        json_schema_extra={"digest_as": "mirror"},
        description="show the segmenter each window in four mirrorings and take the mean; takes four times as long",
    )
    symmetries: Symmetries = Field(
        1,
        description="show both networks each tile and window in so many symmetries of a square and take the mean of "
        "their answers: 4 without, 8 with quarter turns (test-time augmentation); takes as many times as long. With "
        "more than 1, test_time_augmentation adds nothing",
        json_schema_extra={"since": "0.3.0"},
    )
    uncertainty: bool = Field(
        default=False,
        description="write a map of how far networks and symmetries differ, too, for QuPath and the viewer; it takes "
        "an ensemble or symmetries",
        json_schema_extra={"since": "0.3.0"},
    )
    min_tissue: Share = Field(0.05, description="a tile with a smaller share of tissue is background")
    background: bool = Field(
        default=True, description='classify background tiles, too (Paper: "including background tiles", Fig. S3)'
    )
    artefacts: bool = Field(
        default=False,
        description='find artefacts, and leave them out of maps and statistics. The paper kept them; "we recommend '
        'applying a preceding artifact removal", it says',
    )
    explained: bool = Field(
        default=False,
        description="explain the classifier on whole slides, too: on windows of several tiles that overlap and are "
        "blended, so that no border of a tile shows. The paper explains tiles alone",
    )
    calibrated: bool = Field(
        default=False,
        description="divide logits by the temperature that the validation tiles asked for, so that probabilities mean "
        "what they say. The paper did not: what is called at a threshold of 0.5 stays the same, and so does every AUC; "
        "ensembles take the probabilities as the networks give them",
    )


class ExplainSettings(Branch):
    """Why both networks say what they say, on every test tile."""

    methods: tuple[str, ...] = Field(
        ("gradcam", "hrcam"),
        description="methods of explanation, by name; the paper has these two",
        json_schema_extra={"since": "0.1.0"},
    )
    stride: Literal[4, 8, 16, 32] | None = Field(
        None,
        description="pixels between two cells of Grad-CAM and of other methods that show feature maps, where the "
        "network's own lie further apart: its last strides are taken out, its weights stay (a vision transformer's "
        "cells stay its patches). Empty: as many as give a tile 12 cells along a side, or more. 32, and a margin of 0: "
        "the paper's maps (of 224 pixels 7 x 7 cells)",
        json_schema_extra={"since": "0.2.0"},
    )
    margin_px: Annotated[int, Field(ge=0, le=512)] = Field(
        32,
        description="by how much tiles are continued by their mirror image for these maps. 0, as in the paper: cells "
        "at the border see zeros, and maps are blobs in the middle",
        json_schema_extra={"since": "0.2.0"},
    )
    show: tuple[str, ...] = Field(
        (),
        description="methods whose maps are shown of example tiles, by name, beside the paper's; none: those that the "
        "checks recommend",
        json_schema_extra={"since": "0.1.0"},
    )
    classifier_layers: tuple[str, ...] = Field(
        (),
        description="layers that HR-CAM looks at, by name; none: the encoder's last map at each stride, and the final "
        "convolution (the paper's Table 1)",
    )
    segmenter_layers: tuple[str, ...] = Field(
        (), description="see classifier_layers; of layout timm without the final one"
    )
    min_share: Annotated[float, Field(gt=0.5, le=1)] = Field(
        0.8,
        description='Paper: "We re-trained both models to classify tiles containing at least 80% tumor or 80% '
        'non-tumor ..." Less, where a class has no such tile',
    )
    training: Literal["exact", "epochs"] = Field(
        "epochs",
        description="of HR-CAM's dense layer over the frozen network. epochs: as the paper did, with augmentation; "
        "exact: each tile is pooled once, and the convex problem solved to convergence, which needs l2",
    )
    epochs: Epochs = Field(50, description='Paper: "... for 50 epochs"; for training = "epochs"')
    learning_rate: Positive = Field(1e-2, description='the paper is silent; for training = "epochs"')
    l2: Area = Field(
        0.0,
        description="penalty on the dense layer's weights over standardised features (the paper names none). There are "
        "about as many features as tiles: with less than 1 the weights follow chance, and with it the maps",
    )


class CheckSettings(Branch):
    """Whether the explanations are true: checks on some test tiles. The paper has none."""

    tiles: Count = Field(64, description="test tiles that are called tumor and are, drawn with the seed")
    steps: Annotated[int, Field(ge=2, le=1000)] = Field(12, description="steps of the deletion and insertion curves")
    replacements: Annotated[tuple[Replacement, ...], Field(min_length=1)] = Field(
        ("blur", "tissue", "donor"),
        description="what takes the place of deleted blocks: the tile blurred; its dark half painted over from its "
        "pale half; another tile that is not tumor, and is called so. Only what takes the evidence away is a test",
        json_schema_extra={"since": "0.1.0"},
    )
    draws: Repeats = Field(
        12,
        description="times that the weights are randomised: draws differ as much as patients do, and a verdict needs "
        "to know by how much, which one draw does not tell. The first two are explained step by step, the others at "
        "the end",
    )


class NucleiSettings(Branch):
    """Which nuclei the networks look at: the paper's future work. Slides of more than 0.6 um a pixel are too coarse."""

    engine: Literal["embedded", "classical", "instanseg", "stardist", "cellpose", "geojson", "labels"] = Field(
        "embedded",
        description="what finds nuclei. embedded: a small network that comes with Vitrail; classical: thresholds and a "
        "watershed; instanseg, stardist, cellpose: networks that you have; geojson, labels: detections of QuPath, or "
        "label images, one file a slide",
    )
    model: str = Field(
        "", description="of an engine that needs one: a path or an address; of geojson and labels the folder"
    )
    tiles: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        24, description="test tiles whose nuclei are measured and removed, drawn with the seed; 0: none"
    )
    removals: Annotated[int, Field(ge=48, le=1_000_000)] = Field(
        128,
        description="images of a tile without some of its nuclei that each network is shown, at most: a tile with more "
        "nuclei loses only some of them one by one",
    )


class ShiftSettings(Branch):
    """How far the test slides lie from the training slides, and what stain, focus and compression do to the scores."""

    tiles: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        512,
        description="test tiles that are shown with other stain, focus and compression, drawn with the seed; 0: none",
    )


class EvaluationSettings(Branch):
    """How predictions become figures."""

    threshold: Share = Field(0.5, description='Paper: "assigning class labels with a threshold of 0.5"')
    resamples: Count = Field(2000, description="bootstrap samples of the patients, for intervals (the paper has none)")
    stacking_iterations: Repeats = Field(
        10, description='Paper: stacking "using iterated 2-fold cross-validation"; how often, it does not say'
    )
    sensitivity: Annotated[float, Field(gt=0, le=1)] = Field(
        0.95, description="wished, of the threshold that validation tiles choose for it (the paper has none)"
    )


class ComputeSettings(Branch):
    """What the work runs on. These change how fast a result comes, and redo nothing, but for a precision by name."""

    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="auto takes a CUDA GPU where there is one"
    )
    engine: EngineName = Field(
        "auto",
        description="of predictions and of the classifier's explanations; auto takes OpenVINO on a CPU where it is "
        "installed, with the same results but for rounding, unless torch was measured to be faster on this machine",
    )
    precision: PrecisionName = Field(
        "auto",
        description="that networks compute in. auto: on a CPU training is in float32, and predictions are in bfloat16 "
        "only where that was measured to be at least 1.2 times as fast on this machine and the model's own check "
        "allows it; on a GPU both are in 16 bits. fastest: training, too, is in bfloat16 where that was measured to be "
        "at least 1.2 times as fast. float32, bfloat16: always. Explanations stay in float32",
    )
    threads: Annotated[int, Field(ge=0, le=1024)] = Field(
        0,
        description="of the CPU, that predictions are computed with; 0: as many as are fastest on this machine",
        json_schema_extra={"since": "0.3.0"},
    )
    batch: Annotated[int, Field(ge=0, le=4096)] = Field(
        0,
        description="images in one pass of predictions; 0: as many as are fastest on this machine",
        json_schema_extra={"since": "0.3.0"},
    )
    memory_format: MemoryFormatName = Field(
        "auto",
        description="of torch's tensors in predictions; auto: what is fastest on this machine",
        json_schema_extra={"since": "0.3.0"},
    )
    workers: Annotated[int, Field(ge=0, le=1024)] = Field(
        0, description="processes that cut slides, and on a CPU train the networks of an ensemble; 0 means one a core"
    )
    checkpoint_activations: bool = Field(
        default=False,
        description="trainings compute activations a second time instead of keeping them: less memory, the same "
        "numbers, longer by up to a third",
        json_schema_extra={"since": "0.3.0"},
    )
    stage_gb: Annotated[float, Field(ge=0, le=1e6)] = Field(
        0.0,
        description="GB of the next slides that vitrail predict and nuclei copy to this machine while one is mapped; "
        "of slides on another file system than stage_folder, such as a network drive; 0 copies none",
        json_schema_extra={"since": "0.3.0"},
    )
    stage_folder: str = Field(
        "",
        description="where to; empty: the system's folder for temporary files, which must not be memory",
        json_schema_extra={"since": "0.3.0"},
    )

    @property
    def named_precision(self) -> PrecisionName | None:
        """What these settings add to the digest of what networks compute; None where the precision is chosen.

        A precision by name changes numbers; nothing else here does, beyond rounding.
        """
        return None if self.precision == "auto" else self.precision


class SearchSettings(Branch):
    """The grid search of `vitrail search`: every size at every resolution, by iterated k-fold cross-validation.

    It trains classifiers on the patients of train and validation; those of test take no part.
    """

    side_um: Annotated[tuple[SideUm, ...], Field(min_length=1, max_length=100)] = Field(
        (99.6, 149.4, 199.1),
        description='Paper: "the sizes 99.6, 149.4, and 199.1 µm and resolutions ranging from 64 to 512 pixels"',
    )
    side_px: Annotated[tuple[SidePx, ...], Field(min_length=1, max_length=100)] = Field(
        (64, 128, 224, 256, 384, 512), description="see side_um; the paper does not list those between"
    )
    cut_px: SidePx = Field(
        512,
        description="each size is cut once, at this, and averaged down to each resolution (the paper cut 512 to 1024 "
        "pixels and resized them); exact where it is a multiple",
    )
    folds: Folds = Field(5, description='Paper: "iterated 5-fold cross-validation"')
    iterations: Repeats = Field(3, description="times that patients are dealt into folds anew; the paper is silent")
    epochs: Epochs | None = Field(None, description="of each training; empty: those of [classifier]")
    keep: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0,
        description="share of the combinations that go on after each iteration (successive halving with 0.5); 1 "
        "abandons none",
    )
    tolerance: Share = Field(
        0.005,
        description="of accuracy: of the combinations so close to the best, the fewest pixels are chosen. Paper: "
        '"the highest score was reached using a tile size of 199.1 µm [...] and resampled resolutions of 224 to 512 '
        'pixels", and 224 was taken',
    )
    keep_models: bool = Field(
        default=False,
        description="keep each training's network, in search/models, and join those of the chosen combination's first "
        "iteration to an ensemble, search/ensemble, for vitrail predict",
        json_schema_extra={"since": "0.3.0"},
    )

    @model_validator(mode="after")
    def _cut_is_finest(self) -> Self:
        if max(self.side_px) > self.cut_px:
            raise ValueError(f"search.cut_px = {self.cut_px} is less than the largest of search.side_px")
        return self


class TissueSettings(Branch):
    """How tissue is told from glass. Densities are optical (decadic) and count from the slide's own glass.

    The paper is silent on all of this; what is left empty is found on each slide.
    """

    um_per_px: Annotated[float, Field(ge=1, le=64)] = Field(
        8.0, description="um per pixel of the mask; slides too large for it get larger pixels"
    )
    glass: tuple[Grey, Grey, Grey] | None = Field(None, description="red, green and blue of empty glass, 0 to 255")
    density: Positive | None = Field(None, description="least density of tissue, in its strongest colour")
    texture: Positive | None = Field(
        None, description="least standard deviation of the density, over 3 by 3 pixels, of pale tissue"
    )
    stain_share: Share = Field(0.12, description="share of the slide's typical density that tissue has at least")
    noise_factor: Positive = Field(6.0, description="standard deviations of glass that noise does not reach")
    close_um: Annotated[float, Field(ge=0, le=200)] = Field(
        16.0, description="gaps up to about twice this are bridged, as torn walls of fat cells; 0 switches it off"
    )
    max_hole_um2: Area = Field(
        10_000.0, description="smaller holes are filled: fat cells, lumens and clefts of up to 0.1 mm are tissue"
    )
    min_piece_um2: Area = Field(10_000.0, description="smaller pieces are dust, or at most a twentieth of the slide")


class ArtefactSettings(Branch):
    """What counts as an artefact. The paper has no such step; the defaults were found on synthetic slides."""

    cell_um: Annotated[float, Field(ge=1, le=1000)] = Field(8.0, description="side of a cell of the masks")
    pixel_um: Annotated[float, Field(ge=0.1, le=1000)] = Field(
        2.0, description="side of the pixels that are measured; coarser slides give their own"
    )
    tissue: Positive = Field(0.08, description="optical density from which a cell holds something")
    ink: Signed = Field(
        -0.05, description="pen: share of eosin, negative where red is absorbed more than hematoxylin does"
    )
    ink_density: Positive = Field(0.12, description="pen: least optical density (length of the vector)")
    grey: Share = Field(
        0.78, description="black ink, dust, print: least absorbed channel over the most absorbed; tissue stays below"
    )
    grey_density: Positive = Field(
        0.3, description="black ink, dust, print: least optical density of a cell's densest channel"
    )
    black: Positive = Field(0.45, description="the same, of a pixel's")
    opaque: Positive = Field(0.95, description="a pixel so dense in all channels is black, whatever its hue")
    pen_um: Positive = Field(48.0, description="black strokes at least so wide are pen, narrower ones debris")
    speck: Share = Field(0.25, description="dust, print: share of a cell that must be black")
    bubble_um: Positive = Field(80.0, description="least diameter of a bubble")
    round: Share = Field(
        0.75, description="bubble: area of what a ring encloses over that of a disc as widely spread; 1 for a disc"
    )
    red: Positive = Field(0.075, description="blood: shift of hue off the slide's own, towards red and orange")
    eosin: Share = Field(0.8, description="blood: least share of eosin; hematoxylin lowers it")
    red_density: Positive = Field(0.35, description="blood: least optical density (length of the vector)")
    red_ink: Positive = Field(1.05, description="red pen: least median share of eosin, which real blood seldom has")
    stroke: Ratio = Field(3.0, description="red pen: least length over width; blood lies in lakes")
    blood_um: Positive = Field(60.0, description="blood: least diameter; vessels are smaller")
    fold: Ratio = Field(1.5, description="fold: density of both stains over that on both sides")
    fold_density: Positive = Field(1.5, description="fold: density over the median of the slide's tissue")
    fold_um: Positive = Field(200.0, description="fold: least length")
    fold_slim: Ratio = Field(3.0, description="fold: least ratio of length to width")
    blur: Positive = Field(0.30, description="out of focus: energy of detail at pixel_um over that at cell_um")
    blur_edge: Positive = Field(0.45, description="out of focus: the same, beside places that are out of focus")
    blur_blocks: Repeats = Field(2, description="out of focus: least number of 64-um blocks")
