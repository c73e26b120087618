"""Skeleton-Contrastive (Thoker, Doughty and Snoek, ACM MM 2021): three encoders of one clip, each of its own representation.

What makes it more than three known networks is in `pretraining`: they learn from each other, without labels. Here are their
sizes, and a classifier on the features of one of them.
"""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor, nn

from models.isc.clips import ClipSize
from models.isc.graph import GraphEncoder
from models.isc.image import ImageEncoder
from models.isc.sequence import SequenceEncoder
from shared_data.errors import require, require_known
from shared_data.skeletons import Skeleton
from shared_data.skeletons import skeleton as skeleton_named

Representation = Literal["seq", "image", "graph"]
Encoder = SequenceEncoder | ImageEncoder | GraphEncoder


def build_encoder(
    representation: str,
    skeleton: str | Skeleton,
    people: int,
    *,
    frames: int = 64,
    in_channels: int = 3,
    width: int | None = None,
    layers: int = 3,
    dropout: float = 0.5,
) -> Encoder:
    """The encoder of a `representation`: clips (N, C, T, V, M) -> features (N, encoder.features).

    frames    T, which "image" has built in; the others take any
    width     hidden units of the GRUs of "seq" (1024), or channels of the first layers of "image" and "graph" (64)
    layers    of "seq"
    dropout   rate in "image"
    """
    require_known("representation", representation, get_args(Representation))
    require(width is None or width >= 1, "width", width, "1 or more")
    require(layers >= 1, "layers", layers, "1 or more")
    require(frames >= 1, "frames", frames, "1 or more")
    layout = skeleton_named(skeleton) if isinstance(skeleton, str) else skeleton
    size = ClipSize(in_channels, frames if representation == "image" else None, layout.joints, people)
    if representation == "seq":
        return SequenceEncoder(size, width=width or 1024, layers=layers)
    if representation == "image":
        return ImageEncoder(size, width=width or 64, dropout=dropout)
    require((width or 64) % 4 == 0, "width", width, "a multiple of 4")
    return GraphEncoder(size, layout, width=width or 64)


class Classifier(nn.Module):
    """Skeleton clips to class scores, by the features of one encoder.

    num_classes      K
    skeleton         joint layout, by name or as an object
    people           M of the clips; absent people are zero
    representation   what the encoder sees of a clip: "seq", a vector per frame; "image", joints by frames; "graph", the skeleton
    frames, in_channels, width, layers, dropout   see `build_encoder`
    """

    def __init__(
        self,
        num_classes: int,
        *,
        skeleton: str | Skeleton = "ntu25",
        people: int = 2,
        representation: str = "seq",
        frames: int = 64,
        in_channels: int = 3,
        width: int | None = None,
        layers: int = 3,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.encoder_name = representation
        self.encoder = build_encoder(
            representation, skeleton, people,
            frames=frames, in_channels=in_channels, width=width, layers=layers, dropout=dropout,
        )  # fmt: skip
        self.fc = nn.Linear(self.encoder.features, num_classes)
        nn.init.xavier_uniform_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)

    def forward(self, clips: Tensor) -> Tensor:
        """Clips (N, C, T, V, M) to logits (N, K). Raises `LabError` for another shape."""
        out: Tensor = self.fc(self.encoder(clips))
        return out
