"""The one seam between an objective that needs no labels and the engine that trains it.

A model that pretrains names its objective in model.toml (``pretraining = "pretraining:MoCo"``), a network whose state is all that
a run has beside its optimizer: encoders, momentum encoders, projectors, queues. A step is

    objective.begin()                              once: a momentum encoder follows its query
    embedded = objective.embed(views, ids)         of the whole batch, or piece by piece
    loss, terms = objective.loss(embedded)         backward, update
    objective.finish(embedded)                     once, of the whole batch: new keys enter the queues

so that pieces of a batch, and processes that share one, meet in two places alone: what is embedded, and the queues.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, cast

from torch import Tensor, nn

from shared_data.errors import LabError

Embedded = Mapping[str, Tensor]
"""Name -> (N, ...), a row per clip. Those that need no gradient are keys: they are gathered for `Objective.finish`."""


class TooFewClips(LabError):
    """A batch so small that its clips cannot be compared with each other."""


class Objective(Protocol):
    """An `nn.Module` made by ``Class(skeleton=..., people=..., frames=..., **objective_args)``; `frames` if it takes them.

    in_batch   whether a clip's loss depends on other clips of the batch (negatives, covariances): then `loss` is always given the
               whole batch, however small the pieces are that go through the networks
    """

    in_batch: bool

    def begin(self) -> None:
        """Before a step, once, whatever pieces it has."""
        ...

    def embed(self, views: Tensor, ids: Tensor) -> Embedded:
        """What the loss is made of, of views (N, K, C, T, V, M) of clips `ids` (N,) int64, their places in the training split.

        Depends on the clips, the state and torch's random numbers alone, and changes no queue.
        """
        ...

    def loss(self, embedded: Embedded) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, a mean over the clips unless it is `in_batch`, and its terms by name, all (). It may have parameters."""
        ...

    def finish(self, embedded: Embedded) -> None:
        """After a step: keep what later steps need of the whole batch, which has no gradients any more."""
        ...

    def encoders(self) -> dict[str, nn.Module]:
        """What a run is for: name ("" if there is but one) -> encoder, whose keys are ``encoder.*`` of the model's classifier."""
        ...

    def classifier(self, name: str) -> dict[str, Any]:
        """The model arguments of the classifier whose encoder is that called `name`."""
        ...

    def features(self, embedded: Embedded) -> Tensor:
        """(N, D) or (N, 2, D): the embeddings by which a collapse is seen; two views of a clip where there are two."""
        ...


def is_objective(network: nn.Module) -> bool:
    """Whether `network` learns without labels."""
    return hasattr(network, "embed") and hasattr(network, "encoders")


def encoder_pass(objective: nn.Module, clips: Tensor) -> Tensor:
    """Features (N, D) by the first encoder of `objective`, of clips (N, C, T, V, M) or the first of views (N, K, C, T, V, M)."""
    views = clips if clips.dim() == 5 else clips[:, 0]
    features: Tensor = next(iter(cast(Objective, objective).encoders().values()))(views)
    return features
