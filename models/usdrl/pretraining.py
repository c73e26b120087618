"""USDRL's objective (specification, section 3): views of a clip agree, and the features of different clips do not repeat.

Letters in the shapes: N clips, K views, W channels of the encoder, D numbers of a projection.

All views go through the encoder in one pass: nothing in it depends on the batch. The projectors do (BatchNorm, a view at a
time), so they belong to the loss, which always has the whole batch.

No D x D matrix is ever made. The squares of all entries of Z^T Z are those of Z Z^T, which is N x N, and the squares of all
entries of A^T B sum to the sum of the products of the entries of A A^T and B B^T; diagonals are subtracted.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":  # the official script of this name: ``python3 pretraining.py --data F``; see ``--help``
    sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)  # the repository, not this folder
    from sal.selfsupervised_scripts import pretraining

    sys.exit(pretraining("usdrl"))

import contextlib
import itertools
from typing import Any

import torch
from torch import Tensor, nn

from engine.pretraining.objective import Embedded, TooFewClips
from models.usdrl.network import Encoder
from shared_data.errors import UsageError
from shared_data.skeletons import Skeleton

VIEWS = 4
WORTH = {"i": 1.0, "t": 0.5, "s": 0.5}
"""What the terms of the features of the whole clip, of the frames' and of the joints' count."""
EPSILON = 1e-4  # of the deviation that is to be 1 or more
VARIANCE = 5.0  # what it counts beside the covariance
OFF_DIAGONAL = 0.005


class Projector(nn.Module):
    """Linear, BatchNorm, ReLU, twice, and linear."""

    def __init__(self, c_in: int, hidden: int, c_out: int) -> None:
        super().__init__()
        self.hidden = nn.ModuleList([nn.Linear(c_in, hidden), nn.Linear(hidden, hidden)])
        self.norms = nn.ModuleList([nn.BatchNorm1d(hidden), nn.BatchNorm1d(hidden)])
        self.out = nn.Linear(hidden, c_out)
        for layer in (*self.hidden, self.out):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, views: Tensor) -> Tensor:
        """(K, N, C_in) -> (K, N, D): each view is a batch of BatchNorm's, and moves its running statistics, in order."""
        x = views
        for layer, norm in zip(self.hidden, self.norms, strict=True):
            x = torch.relu(torch.stack([norm(view) for view in layer(x)]))
        projected: Tensor = self.out(x)
        return projected


class DenseDecorrelation(nn.Module):
    """Features of four views of a clip, projected: of its frames, of its joints, and of both (`engine.pretraining.objective`).

    sim_weight, vac_weight, xcorr_weight   of the terms: distance of the views; variance and covariance; cross-correlation
    hidden                                 width of the projectors and D of those of frames and joints, half of that of both;
                                           None: 2 W
    and the arguments of `Encoder`
    """

    in_batch = True

    def __init__(
        self,
        *,
        skeleton: str | Skeleton = "ntu25",
        people: int = 2,
        frames: int = 64,
        in_channels: int = 3,
        backbone: str = "sttr",
        modality: str = "joint",
        width: int = 1024,
        heads: int = 1,
        layers: int = 2,
        alpha: float = 0.5,
        gap: int = 4,
        drop_path: float = 0.1,
        hidden: int | None = None,
        sim_weight: float = 5.0,
        vac_weight: float = 1.0,
        xcorr_weight: float = 1e-3,
    ) -> None:
        super().__init__()
        self.arguments: dict[str, Any] = {
            "frames": frames, "in_channels": in_channels, "backbone": backbone, "modality": modality, "width": width,
            "heads": heads, "layers": layers, "alpha": alpha, "gap": gap, "drop_path": drop_path,
        }  # fmt: skip
        self.encoder = Encoder(skeleton=skeleton, people=people, **self.arguments)
        d = hidden or 2 * width
        self.projectors = nn.ModuleDict(
            {"t": Projector(width, d, d), "s": Projector(width, d, d), "i": Projector(2 * width, d, 2 * d)}
        )
        self.weights = {"sim": sim_weight, "vac": vac_weight, "xcorr": xcorr_weight}

    def begin(self) -> None:
        """Nothing follows anything."""

    def embed(self, views: Tensor, ids: Tensor) -> Embedded:
        """Views (N, 4, C, T, V, M) -> `features` (N, 4, 2 W). Raises `LabError` for another number of views."""
        if views.shape[1] != VIEWS:
            raise UsageError(
                f"USDRL compares {VIEWS} views of a clip and was given {views.shape[1]}", where="pipeline",
                expected="usdrl_pretrain, or another pipeline with the option views: 4",
            )  # fmt: skip
        return {"features": self.encoder(views.flatten(0, 1)).unflatten(0, views.shape[:2])}

    def loss(self, embedded: Embedded) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum of three terms, and the terms: of each projection (``sim_t`` ...) and together (``sim`` ...)."""
        views = embedded["features"].transpose(0, 1)
        if views.shape[1] < 2:
            raise TooFewClips(
                "the batch is one clip", where="batch_size", expected="2 or more: clips are compared with each other"
            )
        of_frames, of_joints = views.chunk(2, -1)
        terms: dict[str, Tensor] = {}
        for name, features in (("t", of_frames), ("s", of_joints), ("i", views)):
            found = decorrelation(self.projectors[name](features))
            terms |= {f"{term}_{name}": value for term, value in found.items()}
        sums = {term: sum(worth * terms[f"{term}_{name}"] for name, worth in WORTH.items()) for term in self.weights}
        return sum(weight * sums[term] for term, weight in self.weights.items()), terms | sums

    def finish(self, embedded: Embedded) -> None:
        """Nothing outlives a step."""

    def encoders(self) -> dict[str, nn.Module]:
        """The one encoder."""
        return {"": self.encoder}

    def classifier(self, name: str) -> dict[str, Any]:
        """What its encoder was made with."""
        return dict(self.arguments)

    def features(self, embedded: Embedded) -> Tensor:
        """(N, 2, 2 W): of the first two views."""
        return embedded["features"][:, :2]


def decorrelation(views: Tensor) -> dict[str, Tensor]:
    """The terms ``sim``, ``vac`` and ``xcorr`` of projections (4, N, D), in float32 or wider whatever autocast says."""
    with _as_given(views):
        z = views.to(torch.promote_types(views.dtype, torch.float32))
        centred = z - z.mean(1, keepdim=True)
        variance = centred.square().sum(1) / (z.shape[1] - 1)  # (4, D)
        return {"sim": similarity(z), "vac": redundancy(centred, variance), "xcorr": cross_correlation(centred, variance)}


def similarity(z: Tensor) -> Tensor:
    """(4, N, D): mean squared distances of the first three views to the fourth, and to their own mean."""
    first, last = z[:3], z[3:]
    per_view = z.shape[1] * z.shape[2]
    return ((first - last).square().sum() + (first - first.mean(0)).square().sum()) / per_view


def redundancy(centred: Tensor, variance: Tensor) -> Tensor:
    """(4, N, D) and (4, D), summed over views: 5 mean(relu(1 - deviation)) + squares of the covariances of two numbers / D."""
    _, n, d = centred.shape
    spread = torch.relu(1.0 - (variance + EPSILON).sqrt()).mean(1)
    covariances = (centred @ centred.transpose(1, 2)).square().sum((1, 2)) / (n - 1) ** 2
    return (VARIANCE * spread + (covariances - variance.square().sum(1)) / d).sum()


def cross_correlation(centred: Tensor, variance: Tensor) -> Tensor:
    """(4, N, D) and (4, D), over pairs of views: how far correlations of the same number are from 1, of others from 0."""
    n = centred.shape[1]
    z = centred / variance.sqrt().unsqueeze(1)
    gram = (z @ z.transpose(1, 2)).flatten(1)  # (4, N N)
    everything = (gram @ gram.T).triu(1).sum() / n**2
    same = torch.stack([(a * b).sum(0) for a, b in itertools.combinations(z, 2)]) / n  # (6, D)
    return (same - 1.0).square().sum() + OFF_DIAGONAL * (everything - same.square().sum())


def _as_given(like: Tensor) -> contextlib.AbstractContextManager[object]:
    """No autocast on the device of `like`."""
    return contextlib.nullcontext() if like.is_meta else torch.autocast(like.device.type, enabled=False)
