"""Two small objectives: one with a momentum encoder and a queue, one whose loss is of the whole batch."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.pretraining.contrast import Queue, follow, freeze_copy, info_nce


class Encoder(nn.Module):
    """(N, 3, T, V, M) -> (N, 8): a linear layer on means over frames, with dropout."""

    def __init__(self, joints: int, people: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.linear, self.dropout = nn.Linear(3 * joints * people, 8), nn.Dropout(dropout)

    def forward(self, clips: Tensor) -> Tensor:
        out: Tensor = torch.tanh(self.linear(self.dropout(clips.mean(2).flatten(1))))
        return out


class Toy(nn.Module):
    """MoCo."""

    in_batch = False

    def __init__(self, *, joints: int = 4, people: int = 1, queue: int = 7, dropout: float = 0.0) -> None:
        super().__init__()
        self.query, self.key = Encoder(joints, people, dropout), Encoder(joints, people, dropout)
        freeze_copy(self.key, self.query)
        self.queue = Queue(8, queue)

    def begin(self) -> None:
        follow(self.key, self.query, 0.9)

    def embed(self, views: Tensor, ids: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            key = F.normalize(self.key(views[:, 1]), dim=1)
        return {"query": F.normalize(self.query(views[:, 0]), dim=1), "key": key, "ids": ids}

    def loss(self, embedded: Any) -> tuple[Tensor, dict[str, Tensor]]:
        loss = info_nce(embedded["query"], embedded["key"], self.queue.features, 0.2)
        return loss, {"nce": loss}

    def finish(self, embedded: Any) -> None:
        self.queue.enqueue(embedded["key"], embedded["ids"])

    def encoders(self) -> dict[str, nn.Module]:
        return {"": self.query}

    def classifier(self, name: str) -> dict[str, Any]:
        return {}

    def features(self, embedded: Any) -> Tensor:
        return torch.stack([embedded["query"], embedded["key"]], 1)


class Together(nn.Module):
    """Views alike, and covariances of the batch like the identity."""

    in_batch = True

    def __init__(self, *, joints: int = 4, people: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        self.encoder, self.projector = Encoder(joints, people, dropout), nn.Linear(8, 8, bias=False)

    def begin(self) -> None: ...

    def embed(self, views: Tensor, ids: Tensor) -> dict[str, Tensor]:
        return {"one": self.encoder(views[:, 0]), "two": self.encoder(views[:, 1])}

    def loss(self, embedded: Any) -> tuple[Tensor, dict[str, Tensor]]:
        alike = F.mse_loss(embedded["one"], embedded["two"])
        projected = self.projector(embedded["one"])
        centred = projected - projected.mean(0)
        covariance = (centred.T @ centred / (len(centred) - 1) - torch.eye(8, device=alike.device)).square().sum()
        return alike + covariance, {"alike": alike, "covariance": covariance}

    def finish(self, embedded: Any) -> None: ...

    def encoders(self) -> dict[str, nn.Module]:
        return {"": self.encoder}

    def classifier(self, name: str) -> dict[str, Any]:
        return {}

    def features(self, embedded: Any) -> Tensor:
        out: Tensor = embedded["one"]
        return out
