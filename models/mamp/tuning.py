"""STARS: the upper half of a trained encoder is tuned with nearest neighbours (Mehraban et al., 2024, after NNCLR).

A clip has to predict the neighbour that it, or another view of it, has among the clips before it. Officially nothing augments the
clips, so that both views are the same: one view is enough then, with the same loss.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.pretraining.contrast import Queue
from engine.pretraining.objective import Embedded
from models.mamp.network import Encoder, over_batch
from shared_data.errors import LabError, require, require_known
from shared_data.skeletons import Skeleton

Learns = Literal["head", "upper", "full"]


class Head(nn.Module):
    """BatchNorm projects features; two linear layers with BatchNorm and ReLU between them predict from that."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.projector = nn.BatchNorm1d(width)
        self.fc1, self.bn, self.fc2 = nn.Linear(width, hidden, bias=False), nn.BatchNorm1d(hidden), nn.Linear(hidden, width)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, D) to projections and predictions (N, D), of unit length."""
        projected = over_batch(self.projector, features)
        predicted = self.fc2(torch.relu(over_batch(self.bn, self.fc1(projected))))
        return F.normalize(projected), F.normalize(predicted.to(projected.dtype))


class Neighbours(nn.Module):
    """The objective, of one view of each clip or two.

    learns       what does: the "head" alone, with it the "upper" half of the blocks and the last norm, or everything ("full")
    block_decay  factor of the learning rate from each block to the one below it: 0.45 NTU-60, 0.40 NTU-120, 0.35 PKU-MMD
    hidden       channels inside the predictor
    queue_size   clips among which a neighbour is looked for
    temperature  of the softmax over the batch
    others       see `Encoder`

    Other clips of the batch are the negatives, and BatchNorm in the head sees all of them: the head belongs to the loss, which
    has the whole batch, however small the pieces are, and however many processes share it.
    """

    in_batch = True

    def __init__(
        self,
        *,
        skeleton: str | Skeleton = "ntu25",
        people: int = 2,
        frames: int = 120,
        in_channels: int = 3,
        width: int = 256,
        depth: int = 8,
        heads: int = 8,
        mlp_ratio: float = 4.0,
        patch: int = 4,
        learns: str = "upper",
        block_decay: float = 0.45,
        hidden: int = 4096,
        queue_size: int = 32768,
        temperature: float = 0.07,
    ) -> None:
        super().__init__()
        require_known("learns", learns, get_args(Learns))
        require(0 < block_decay <= 1, "block_decay", block_decay, "a factor above 0, at most 1")
        require(hidden >= 1, "hidden", hidden, "1 or more channels")
        require(temperature > 0, "temperature", temperature, "more than 0")
        self.encoder = Encoder(
            skeleton=skeleton, people=people, frames=frames, in_channels=in_channels, width=width, depth=depth, heads=heads,
            mlp_ratio=mlp_ratio, patch=patch,
        )  # fmt: skip
        self.head = Head(width, hidden)
        self.queue = Queue(width, queue_size)
        self.temperature, self.block_decay = temperature, block_decay
        self.frozen = {"head": depth + 2, "upper": (depth + 1) // 2 + 1, "full": 0}[learns]
        """Layers (see `Encoder.layer_ids`) that do not learn: those below this one."""
        self.projected: Tensor | None = None  # of the first view, from `loss` to `finish`: weights move between these
        for name, parameter in self.encoder.named_parameters():
            parameter.requires_grad_(self.encoder.layer_ids()[name] >= self.frozen)

    def begin(self) -> None:
        """Nothing: there is no momentum encoder."""

    def embed(self, views: Tensor, ids: Tensor) -> Embedded:
        """Of views (N, K, C, T, V, M), K one or two, of clips `ids` (N,): features (N, K, D)."""
        if views.shape[1] not in (1, 2):
            raise LabError(f"{views.shape[1]} views of each clip", expected="one, or two")
        return {"features": self.pooled(views.flatten(0, 1)).unflatten(0, views.shape[:2]), "ids": ids}

    def pooled(self, clips: Tensor) -> Tensor:
        """Clips (N, C, T, V, M) to features (N, D); what does not learn keeps nothing for a backward pass."""
        encoder, below = self.encoder, max(self.frozen - 1, 0)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            tokens = encoder.embedded(encoder.patches(clips))
            for block in encoder.blocks[:below]:
                tokens = block(tokens)
        tokens = encoder.encoded(tokens, first=below)
        return tokens.mean(1).unflatten(0, (len(clips), -1)).mean(1)

    def loss(self, embedded: Embedded) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy: of all predictions of the batch a clip's neighbour is nearest to that of the clip, of its other view."""
        ids, truth = embedded["ids"], torch.arange(len(embedded["ids"]), device=embedded["ids"].device)
        each = [self.head(view) for view in embedded["features"].unbind(1)]  # BatchNorm sees one view at a time
        neighbours = [self.queue.nearest(projected.detach(), ids) for projected, _ in reversed(each)]
        terms = [
            F.cross_entropy(neighbour @ predicted.T / self.temperature, truth)
            for neighbour, (_, predicted) in zip(neighbours, each, strict=True)
        ]
        self.projected = each[0][0].detach()
        loss = torch.stack(terms).mean()
        return loss, {"neighbour_entropy": loss.detach()}

    def finish(self, embedded: Embedded) -> None:
        """The projections of the first view take the places of the oldest."""
        assert self.projected is not None
        self.queue.enqueue(self.projected, embedded["ids"])
        self.projected = None

    def encoders(self) -> dict[str, nn.Module]:
        """The encoder that is tuned."""
        return {"": self.encoder}

    def classifier(self, name: str) -> dict[str, Any]:
        """The arguments of a classifier with such an encoder."""
        return self.encoder.arguments

    def features(self, embedded: Embedded) -> Tensor:
        """(N, D), or of two views (N, 2, D): what the encoder makes of a clip."""
        features = embedded["features"].detach()
        return features.squeeze(1) if features.shape[1] == 1 else features

    def parameter_scales(self) -> dict[str, float]:
        """Parameter name -> factor of its learning rate: `block_decay` to the power of the layers above it in the encoder."""
        layers = self.encoder.layer_ids()
        top = max(layers.values())
        scales = {f"encoder.{name}": self.block_decay ** (top - layer) for name, layer in layers.items()}
        return {name: scales.get(name, 1.0) for name, p in self.named_parameters() if p.requires_grad}
