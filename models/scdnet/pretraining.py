"""What SCD-Net learns from clips without labels: each clue is to be told from the whole, and the whole from each clue.

A branch embeds a clip three times: "t" of its temporal feature, "s" of its spatial one, "i" of both. The query branch sees the
first view of a clip and learns; the key branch sees the second and follows the query branch slowly (MoCo, He et al. 2020).
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":  # the official script of this name: ``python3 pretraining.py --data F``; see ``--help``
    sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)  # the repository, not this folder
    from sal.selfsupervised_scripts import pretraining

    sys.exit(pretraining("scdnet"))

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.pretraining.contrast import Queue, follow, freeze_copy, info_nce
from engine.pretraining.objective import Embedded
from models.scdnet.network import Encoder, start
from shared_data.errors import require
from shared_data.skeletons import Skeleton

KINDS = ("t", "s", "i")
TERMS = {"loss_ti": ("t", "i", "i"), "loss_si": ("s", "i", "i"), "loss_it": ("i", "t", "t"), "loss_is": ("i", "s", "s")}
"""Term of the loss -> kinds of its query, of its positive key, and of the queue of its negatives. Never a kind with itself."""


class Branch(nn.Module):
    """An encoder and a projector per kind: clips (N, 3, T, V, M) to a mapping from kind to (N, dim), not of unit length."""

    def __init__(self, encoder: Encoder, dim: int) -> None:
        super().__init__()
        self.encoder, w = encoder, encoder.width
        widths = {"t": w, "s": w, "i": 2 * w}
        self.projectors = nn.ModuleDict(
            {kind: nn.Sequential(nn.Linear(widths[kind], w), nn.ReLU(), nn.Linear(w, dim)) for kind in KINDS}
        )
        start(self.projectors)

    def forward(self, clips: Tensor) -> dict[str, Tensor]:
        both = self.encoder(clips)
        temporal, spatial = both.chunk(2, 1)
        features = {"t": temporal, "s": spatial, "i": both}
        return {kind: projector(features[kind]) for kind, projector in self.projectors.items()}


class Disentanglement(nn.Module):
    """The objective (see `engine.pretraining.objective.Objective`), of two views of each clip.

    dim            numbers of an embedding
    queue_size     keys that each of the three queues holds
    key_momentum   share of itself that the key branch keeps in each step
    temperature    of the four contrasts
    The other arguments are those of the encoder.
    """

    in_batch = False

    def __init__(
        self,
        *,
        skeleton: Skeleton,
        people: int,
        frames: int = 64,
        width: int = 2048,
        heads: int = 8,
        layers: int = 1,
        dropout: float = 0.1,
        dim: int = 128,
        queue_size: int = 8192,
        key_momentum: float = 0.999,
        temperature: float = 0.2,
    ) -> None:
        super().__init__()
        require(dim >= 1, "dim", dim, "1 or more")
        require(0 <= key_momentum <= 1, "key_momentum", key_momentum, "0 to 1")
        require(temperature > 0, "temperature", temperature, "more than 0")
        self.key_momentum, self.temperature = key_momentum, temperature
        self.arguments: dict[str, Any] = {
            "frames": frames, "width": width, "heads": heads, "layers": layers, "dropout": dropout,
        }  # fmt: skip

        def branch() -> Branch:
            return Branch(Encoder(skeleton=skeleton, people=people, **self.arguments), dim)

        self.query, self.key = branch(), branch()
        freeze_copy(self.key, self.query)
        self.queues = nn.ModuleDict({kind: Queue(dim, queue_size) for kind in KINDS})

    def begin(self) -> None:
        """The key branch follows."""
        follow(self.key, self.query, self.key_momentum)

    def embed(self, views: Tensor, ids: Tensor) -> Embedded:
        """Views (N, 2, 3, T, V, M) to queries "q_t", "q_s", "q_i" and keys "k_t", "k_s", "k_i", (N, dim) of unit length."""
        require(views.shape[1] == 2, "views", views.shape[1], "2, the query's and the key's")
        queries = self.query(views[:, 0])
        with torch.no_grad():
            keys = self.key(views[:, 1])
        made = {"q": queries, "k": keys}
        return {f"{who}_{kind}": F.normalize(made[who][kind], dim=1) for who in made for kind in KINDS}

    def loss(self, embedded: Embedded) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of the four `TERMS`."""
        terms = {
            name: info_nce(embedded[f"q_{query}"], embedded[f"k_{key}"], self.queues[queue].features, self.temperature)
            for name, (query, key, queue) in TERMS.items()
        }
        return torch.stack(list(terms.values())).sum(), terms

    def finish(self, embedded: Embedded) -> None:
        """Every queue takes the keys of its kind."""
        for kind, queue in self.queues.items():
            queue.enqueue(embedded[f"k_{kind}"])

    def encoders(self) -> dict[str, nn.Module]:
        return {"": self.query.encoder}

    def classifier(self, name: str) -> dict[str, Any]:
        """What its encoder was made with."""
        return dict(self.arguments)

    def features(self, embedded: Embedded) -> Tensor:
        """The embeddings of the whole, (N, 2, dim): of the first view as a query, of the second as a key."""
        return torch.stack([embedded["q_i"], embedded["k_i"]], 1)
