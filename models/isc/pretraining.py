"""Learning without labels by contrast (MoCo), within a representation or between two (paper, section 3; ``specs/isc.md`` 5).

Two views of a clip go in. The first is the query's, the second the key's, whose encoder follows the query's. Within one
representation the key of a clip is the query's positive, and keys of earlier clips, in a queue, are its negatives. Between two,
all of that stands across: the query of one representation meets the keys, and the queue, of the other; and the other way round.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":  # the official script of this name: ``python3 pretraining.py --data F``; see ``--help``
    sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)  # the repository, not this folder
    from sal.selfsupervised_scripts import pretraining

    sys.exit(pretraining("isc"))

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.pretraining.contrast import Queue, follow, freeze_copy, info_nce
from engine.pretraining.objective import Embedded
from models.isc.network import build_encoder
from shared_data.errors import LabError, require
from shared_data.skeletons import Skeleton

VIEWS = 2


class Branch(nn.Module):
    """An encoder, and what makes an embedding of its features: `fc`, one linear layer, or two with a ReLU between them."""

    def __init__(self, encoder: nn.Module, features: int, dim: int, *, mlp: bool) -> None:
        super().__init__()
        self.encoder = encoder
        last = nn.Linear(features, dim)
        nn.init.xavier_uniform_(last.weight)
        nn.init.zeros_(last.bias)
        self.fc = nn.Sequential(nn.Linear(features, features), nn.ReLU(), last) if mlp else last

    def forward(self, clips: Tensor) -> Tensor:
        """(N, C, T, V, M) -> (N, dim), of unit length, in float32 at least."""
        embedded = self.fc(self.encoder(clips))
        return F.normalize(embedded.to(torch.promote_types(embedded.dtype, torch.float32)), dim=1)


class MoCo(nn.Module):
    """The objective; see `engine.pretraining.objective.Objective`.

    representations   one ("seq", "image" or "graph": intra-skeleton contrast) or two (inter-skeleton)
    moco_k            keys in a queue
    moco_m            momentum with which key encoders follow
    moco_t            temperature
    mlp               two layers behind the encoder, not one
    dim               of the embeddings
    encoders          representation -> arguments of `build_encoder` for sizes other than the official ones
    """

    in_batch = False

    def __init__(
        self,
        *,
        skeleton: str | Skeleton,
        people: int,
        frames: int = 64,
        representations: Sequence[str] = ("seq",),
        moco_k: int = 16384,
        moco_m: float = 0.999,
        moco_t: float = 0.07,
        mlp: bool = True,
        dim: int = 128,
        encoders: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__()
        names, sizes = tuple(representations), dict(encoders or {})
        known = not isinstance(representations, str) and len(set(names)) == len(names) in (1, 2)
        require(known, "representations", representations, "one of seq, image, graph, or two of them, such as [seq, graph]")
        require(set(sizes) <= set(names), "encoders", sizes, f"sizes of {', '.join(names)}")
        require(0 <= moco_m <= 1, "moco_m", moco_m, "a momentum from 0 to 1")
        require(moco_t > 0, "moco_t", moco_t, "a temperature above 0")
        require(dim >= 1, "dim", dim, "1 or more")
        self.representations, self.momentum, self.temperature = names, moco_m, moco_t
        self.sizes = {name: {**({"frames": frames} if name == "image" else {}), **sizes.get(name, {})} for name in names}

        def branches() -> nn.ModuleDict:
            made = nn.ModuleDict()
            for name in names:
                encoder = build_encoder(name, skeleton, people, **{"frames": frames, **sizes.get(name, {})})
                made[name] = Branch(encoder, encoder.features, dim, mlp=mlp)
            return made

        self.query, self.key = branches(), branches()
        freeze_copy(self.key, self.query)
        self.queue = nn.ModuleDict({name: Queue(dim, moco_k) for name in names})

    def begin(self) -> None:
        """The key encoders take a small step towards the query encoders as they are, before these are updated."""
        follow(self.key, self.query, self.momentum)

    def embed(self, views: Tensor, ids: Tensor) -> Embedded:
        """Views (N, 2, C, T, V, M) -> ``query NAME`` and ``key NAME`` (N, dim) of each representation."""
        if views.dim() != 6 or views.shape[1] != VIEWS:
            raise LabError(
                f"contrast was given views of shape {tuple(views.shape)}",
                expected=f"(N, {VIEWS}, C, T, V, M): clips, a view for the query and one for the key",
                next_step="use a pipeline of two views, such as isc_pretrain",
            )
        query, key = views.unbind(1)
        embedded = {f"query {name}": self.query[name](query) for name in self.representations}
        with torch.no_grad():
            return embedded | {f"key {name}": self.key[name](key) for name in self.representations}

    def loss(self, embedded: Embedded) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum of InfoNCE over the representations, each with the keys and the queue of the other where there are two."""
        terms = {
            name: info_nce(embedded[f"query {name}"], embedded[f"key {other}"], self.queue[other].features, self.temperature)
            for name, other in self._facing()
        }
        return torch.stack(list(terms.values())).sum(), {name: term.detach() for name, term in terms.items()}

    def finish(self, embedded: Embedded) -> None:
        """The keys of the batch enter the queues."""
        for name in self.representations:
            self.queue[name].enqueue(embedded[f"key {name}"])

    def encoders(self) -> dict[str, nn.Module]:
        """The query encoders; named where there are two."""
        if len(self.representations) == 1:
            return {"": self.query[self.representations[0]].encoder}
        return {name: self.query[name].encoder for name in self.representations}

    def classifier(self, name: str) -> dict[str, Any]:
        """Its representation, and the sizes that are not the official ones."""
        representation = name or self.representations[0]
        return {"representation": representation, **self.sizes.get(representation, {})}

    def features(self, embedded: Embedded) -> Tensor:
        """(N, 2, dim): what the first term of the loss brings together."""
        name, other = self._facing()[0]
        return torch.stack([embedded[f"query {name}"], embedded[f"key {other}"]], 1)

    def _facing(self) -> list[tuple[str, str]]:
        """Each representation with the one whose keys its queries meet."""
        return list(zip(self.representations, self.representations[::-1], strict=True))
