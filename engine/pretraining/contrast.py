"""What contrastive objectives share: a momentum encoder and queues (MoCo, He et al. 2020), InfoNCE (van den Oord et al. 2018)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared_data.errors import require

NOBODY = -1
"""Id of a place in a queue that no clip has filled."""


@torch.no_grad()
def follow(key: nn.Module, query: nn.Module, momentum: float) -> None:
    """key <- momentum * key + (1 - momentum) * query, parameters alone: a key encoder's BatchNorm has statistics of its own."""
    keys, queries = ([p.detach() for p in module.parameters()] for module in (key, query))
    torch._foreach_mul_(keys, momentum)
    torch._foreach_add_(keys, queries, alpha=1 - momentum)


def freeze_copy(key: nn.Module, query: nn.Module) -> None:
    """Make `key` what `query` is, and no gradient ever its business."""
    key.load_state_dict(query.state_dict())
    key.requires_grad_(False)


def info_nce(queries: Tensor, positives: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """Mean over the clips of -log(e^(u.v/t) / (e^(u.v/t) + sum over n of e^(u.n/t))), all of unit length.

    queries, positives   (N, D)
    negatives            (D, K)
    """
    logits = torch.cat([(queries * positives).sum(1, keepdim=True), queries @ negatives], 1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64, device=logits.device))


class Queue(nn.Module):
    """The last `size` keys of unit length, first in, first out; at first random ones.

    features   (D, size)
    pointer    (1,) int64, where the next key goes
    ids        (size,) int64, the clips that the keys are of, `NOBODY` for the random ones
    """

    features: Tensor
    pointer: Tensor
    ids: Tensor

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        require(size >= 1, "queue size", size, "1 or more")
        self.register_buffer("features", F.normalize(torch.randn(width, size), dim=0))
        self.register_buffer("pointer", torch.zeros(1, dtype=torch.int64))
        self.register_buffer("ids", torch.full((size,), NOBODY, dtype=torch.int64))

    @torch.no_grad()
    def enqueue(self, keys: Tensor, ids: Tensor | None = None) -> None:
        """Let (N, D) `keys` of clips `ids` (N,) take the places of the oldest; of more than fit, the last stay."""
        size = self.features.shape[1]
        places = (self.pointer + torch.arange(len(keys), device=keys.device)) % size
        keep = slice(max(len(keys) - size, 0), None)
        self.features[:, places[keep]] = keys[keep].T.to(self.features.dtype)
        self.ids[places[keep]] = NOBODY if ids is None else ids[keep]
        self.pointer.copy_((self.pointer + len(keys)) % size)

    @torch.no_grad()
    def nearest(self, keys: Tensor, ids: Tensor) -> Tensor:
        """(N, D): for each of (N, D) the key in the queue that is most like it and not of the same clip."""
        alike = keys @ self.features
        alike = alike.masked_fill(self.ids == ids[:, None], -1.0)
        return self.features.T[alike.argmax(1)]
