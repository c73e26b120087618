"""One optimizer step of an objective without labels: whole or in micro-batches, in any precision, on any number of processes.

Where a clip's loss is its own affair and the queues', pieces and processes add up as in `engine.step`. Where it depends on the
rest of the batch (`Objective.in_batch`), the pieces go through the networks twice (gradient caching, Gao et al. 2021): once
without gradients, for what the loss of the whole batch is made of, and once more with the gradient of that loss. The result is
that of the whole batch, but for BatchNorm, which sees the pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from engine.assembly import StepConfig, new_optimizer
from engine.distributed import World
from engine.downstream.collapse import of_batch
from engine.pretraining.objective import Embedded, Objective
from engine.step import Precision, StepResult, autocast, chosen_level, updated
from layers.recompute import Level, random_numbers, random_state, recomputing, still

HALF = (torch.bfloat16, torch.float16)


class PretrainStep:
    """An `engine.learning.Step`; arguments as those of `engine.step.TrainStep`."""

    def __init__(
        self,
        objective: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        precision: Precision = "fp32",
        clip_grad: float | None = None,
        clip_each: bool = False,
        micro_batch: int | None = None,
        recompute: Level = "none",
        device: torch.device | str = "cpu",
        world: World | None = None,
        whole: int | None = None,
    ) -> None:
        self.network, self.objective, self.optimizer = objective, cast(Objective, objective), optimizer
        self.precision, self.clip_grad, self.clip_each, self.micro_batch = precision, clip_grad, clip_each, micro_batch
        self.recompute, self.device, self.world, self.whole = recompute, torch.device(device), world or World(), whole
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.terms: dict[str, Tensor] = {}  # of the last step

    def __call__(self, clips: Tensor, ids: Tensor, positions: Tensor | None = None, /) -> StepResult:
        """Train on clips (N, C, T, V, M), or K views of each (N, K, C, T, V, M), with their places in the split `ids` (N,)."""
        views = clips.unsqueeze(1) if clips.dim() == 5 else clips
        self.world.begin()
        self.optimizer.zero_grad(set_to_none=True)
        self.objective.begin()
        size = self.micro_batch or len(views)
        rows = [slice(first, first + size) for first in range(0, len(views), size)]
        part = len(views) / (self.whole or len(views))
        together = self.objective.in_batch and (len(rows) > 1 or self.world.size > 1)
        loss, terms, embedded = (self._cached if together else self._added)(views, ids, rows, part)
        none = torch.zeros((), device=views.device, dtype=torch.int64)  # nothing is right or wrong here
        loss, none, terms = self.world.summed(self.network, self.parameters, loss, none, part=part, terms=terms)
        norm = updated(self.optimizer, self.scaler, self.parameters, self.clip_grad, each=self.clip_each)
        kept = embedded if together else {name: self.world.gathered(value) for name, value in embedded.items()}
        with torch.no_grad():
            self.objective.finish(kept)
            terms |= of_batch(self.objective.features(kept))
        self.terms = terms
        return StepResult(loss, none, norm, terms)

    def _added(
        self, views: Tensor, ids: Tensor, rows: Sequence[slice], part: float
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Backward pass by backward pass, each of its share of the mean; returns the loss, its terms, what was embedded."""
        total = torch.zeros((), device=views.device, dtype=torch.float64)
        terms: dict[str, Tensor] = {}
        pieces: list[Embedded] = []
        for here in rows:
            with recomputing(self.recompute):
                embedded = self._embedded(views[here], ids[here])
                loss, found = self.objective.loss(embedded)
            own = len(embedded_rows(embedded)) / len(views)
            self.scaler.scale(loss * (own * part)).backward()
            total += loss.detach() * (own * part)
            for name, term in found.items():
                terms[name] = terms.get(name, torch.zeros_like(term)) + term.detach() * own
            pieces.append({name: value.detach() for name, value in embedded.items()})
        return total, terms, _joined(pieces)

    def _cached(
        self, views: Tensor, ids: Tensor, rows: Sequence[slice], part: float
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """The pieces twice, around the loss of the whole batch; of several processes each does so with its share."""
        states, pieces = [], []
        with torch.no_grad(), still(self.network):
            for here in rows:
                states.append(random_state(views))
                pieces.append(self._embedded(views[here], ids[here]))
        own = _joined(pieces)
        first = sum(self.world.gather(len(views))[: self.world.rank])
        whole = {name: self.world.gathered(value) for name, value in own.items()}
        leaves = {name: value.requires_grad_() if value.is_floating_point() else value for name, value in whole.items()}
        loss, terms = self.objective.loss(leaves)
        self.scaler.scale(loss * part).backward()  # the loss has parameters of its own, whose gradients the processes add up
        gradients = {name: value.grad / part for name, value in leaves.items() if value.grad is not None}
        for here, state in zip(rows, states, strict=True):
            with random_numbers(state), recomputing(self.recompute):
                embedded = self._embedded(views[here], ids[here])
            place = slice(first + here.start, first + here.start + len(embedded_rows(embedded)))
            through = [name for name in gradients if embedded[name].requires_grad]
            if through:  # else the loss alone learns
                torch.autograd.backward([embedded[name] for name in through], [gradients[name][place] for name in through])
        detached = {name: value.detach() for name, value in leaves.items()}
        return loss.detach().double() * part, {name: term.detach() for name, term in terms.items()}, detached

    def _embedded(self, views: Tensor, ids: Tensor) -> dict[str, Tensor]:
        """In float32 at least: losses compare what is embedded, and add up many small terms."""
        with autocast(self.precision, self.device):
            embedded = self.objective.embed(views, ids)
        return {
            name: value.float() if value.dtype in (torch.bfloat16, torch.float16) else value for name, value in embedded.items()
        }


def pretrain_step(
    config: StepConfig,
    objective: nn.Module,
    device: torch.device,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    world: World | None = None,
    whole: int | None = None,
) -> PretrainStep:
    """The run's step of an `objective`, which is on `device`; arguments as those of `engine.assembly.train_step`."""
    return PretrainStep(
        objective, optimizer or new_optimizer(config, objective), precision=config.precision, clip_grad=config.clip_grad,
        clip_each=config.clip_each, micro_batch=config.forward_batch_size, recompute=chosen_level(config.recompute, device),
        device=device, world=world, whole=whole,
    )  # fmt: skip


def embedded_rows(embedded: Embedded) -> Tensor:
    """Any of what is embedded: all have a row per clip."""
    return next(iter(embedded.values()))


def _joined(pieces: Sequence[Embedded]) -> dict[str, Tensor]:
    return {name: torch.cat([piece[name].detach() for piece in pieces]) for name in pieces[0]}
