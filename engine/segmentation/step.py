"""One optimizer step of a network that segments: whole or in micro-batches, in any precision, on any number of processes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engine.assembly import StepConfig, new_optimizer
from engine.distributed import World
from engine.segmentation.losses import segmentation_loss
from engine.segmentation.settings import Settings
from engine.step import Precision, StepResult, autocast, chosen_level, updated
from layers.recompute import Level, recomputing
from shared_data.sequences import PADDING


class SegmentStep:
    """An `engine.learning.Step`; arguments as those of `engine.step.TrainStep`, and

    chosen       what the loss is made of
    pos_weight   of frames that are boundaries: frames by boundaries of the training set
    Micro-batches add up to the whole batch; so do processes, but for the classes' term and the accuracy, means over the frames of
    each's share.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        chosen: Settings,
        *,
        pos_weight: float,
        precision: Precision = "fp32",
        clip_grad: float | None = None,
        clip_each: bool = False,
        micro_batch: int | None = None,
        recompute: Level = "none",
        device: torch.device | str = "cpu",
        world: World | None = None,
    ) -> None:
        self.network, self.optimizer, self.chosen, self.pos_weight = network, optimizer, chosen, pos_weight
        self.precision, self.clip_grad, self.clip_each, self.micro_batch = precision, clip_grad, clip_each, micro_batch
        self.recompute, self.device, self.world = recompute, torch.device(device), world or World()
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def __call__(self, features: Tensor, labels: Tensor, boundary: Tensor, mask: Tensor, /) -> StepResult:
        """Train on features (B, M C, V, T), labels (B, T), boundary (B, 1, T) and mask (B, 1, T), on its device.

        The result's terms are those of the loss, and "accuracy" over the known frames, in percent as everywhere.
        """
        self.world.begin()
        self.optimizer.zero_grad(set_to_none=True)
        size, known = self.micro_batch or len(features), (labels != PADDING).sum().clamp(min=1)
        part = len(features) / sum(self.world.gather(len(features)))  # the last batch of an epoch may be smaller
        total = torch.zeros((), device=features.device, dtype=torch.float64)
        right = torch.zeros((), device=features.device, dtype=torch.int64)
        terms: dict[str, Tensor] = {}
        for first in range(0, len(features), size):
            rows = slice(first, first + size)
            own = len(features[rows]) / len(features)
            share = (labels[rows] != PADDING).sum().to(features.dtype) / known / own
            with recomputing(self.recompute), autocast(self.precision, self.device):
                scores = self.network(features[rows], mask[rows])
                loss, found = segmentation_loss(
                    scores, features[rows], labels[rows], boundary[rows], mask[rows], smoothing=self.chosen.smoothing,
                    pos_weight=self.pos_weight, smoothing_weight=self.chosen.smoothing_weight,
                    boundary_weight=self.chosen.boundary_weight, class_share=share,
                )  # fmt: skip
            self.scaler.scale(loss * (own * part)).backward()
            total += loss.detach() * (own * part)
            right += (scores.classes[-1].detach().argmax(1) == labels[rows]).sum()
            for name, term in found.items():
                terms[name] = terms.get(name, torch.zeros_like(term)) + term * own
        none = torch.zeros((), device=features.device, dtype=torch.int64)
        terms["accuracy"] = 100 * right / known
        loss, none, terms = self.world.summed(self.network, self.parameters, total, none, part=part, terms=terms)
        norm = updated(self.optimizer, self.scaler, self.parameters, self.clip_grad, each=self.clip_each)
        return StepResult(loss, none, norm, terms)


def segment_step(
    config: StepConfig,
    network: nn.Module,
    chosen: Settings,
    device: torch.device,
    *,
    pos_weight: float,
    optimizer: torch.optim.Optimizer | None = None,
    world: World | None = None,
) -> SegmentStep:
    """The run's step of a `network`, which is on `device`; arguments as those of `engine.assembly.train_step`."""
    return SegmentStep(
        network, optimizer or new_optimizer(config, network), chosen, pos_weight=pos_weight, precision=config.precision,
        clip_grad=config.clip_grad, clip_each=config.clip_each, micro_batch=config.forward_batch_size,
        recompute=chosen_level(config.recompute, device), device=device, world=world,
    )  # fmt: skip
