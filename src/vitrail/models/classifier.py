"""The classifier: encoder, global average pooling, a dense layer, dropout, one logit (Dörrich et al. 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from vitrail.models.encoder import TokenEncoder, check_side, create_encoder, feature_channels

if TYPE_CHECKING:
    from torch import Tensor

    from vitrail.models.spec import ClassifierSpec


class Classifier(nn.Module):
    """Tells tumor from non-tumor tiles.

    `features` and `head` are apart because Grad-CAM takes its gradient through the head alone.

    Parameters
    ----------
    spec
        Encoder and sizes; the weights start random.

    Raises
    ------
    ModelError
        The encoder is unknown or gives no feature maps, or tiles do not divide into its patches.
    """

    def __init__(self, spec: ClassifierSpec) -> None:
        super().__init__()
        channels = feature_channels(spec.encoder, spec.encoder_arguments)
        check_side(spec.encoder, spec.encoder_arguments, spec.side_px)
        self.encoder = create_encoder(spec.encoder, spec.encoder_arguments)
        self.dense = nn.Linear(channels, spec.dense)
        self.activation = spec.activation
        self.dropout = nn.Dropout(spec.dropout)
        self.logit = nn.Linear(spec.dense, 1)

    stages = "encoder"
    """The submodule whose stages can be looked at."""

    @property
    def backbone(self) -> nn.Module:
        """The part that start weights are loaded into."""
        return self.encoder.model if isinstance(self.encoder, TokenEncoder) else self.encoder

    @property
    def patch_px(self) -> int | None:
        """Side of the encoder's patches in pixels, where it is a vision transformer: images must divide into them."""
        return self.encoder.stride if isinstance(self.encoder, TokenEncoder) else None

    def features(self, x: Tensor) -> Tensor:
        """Map standardised images `[n, 3, h, w]` to the final feature map `[n, c, h', w']`."""
        return cast("Tensor", cast("Any", self.encoder).forward_features(x))

    def head(self, features: Tensor) -> Tensor:
        """Map feature maps `[n, c, h', w']` to logits `[n]`, in float32: in bfloat16 scores would tie."""
        with torch.autocast(features.device.type, enabled=False):
            hidden = self.activated(self.dense(features.float().mean((2, 3))))
            return cast("Tensor", self.logit(self.dropout(hidden)).squeeze(1))

    def activated(self, hidden: Tensor) -> Tensor:
        """Apply the dense layer's activation to its values."""
        return hidden.relu() if self.activation == "relu" else hidden

    def slope(self, hidden: Tensor) -> Tensor:
        """Return the derivative of the activation at the dense layer's values."""
        return (hidden > 0).to(hidden) if self.activation == "relu" else torch.ones_like(hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Map standardised images `[n, 3, h, w]` to logits `[n]`; the sigmoid is the probability of tumor."""
        return self.head(self.features(x))
