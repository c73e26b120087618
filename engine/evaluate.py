"""Logits of a network over one split."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from engine.errors import DivergedError
from engine.metrics import Scores
from engine.step import Precision, autocast, forward
from shared_data.loader import Loader


def evaluate(
    model: nn.Module,
    loader: Loader,
    *,
    device: torch.device,
    precision: Precision = "fp32",
    after_batch: Callable[[], None] = lambda: None,
) -> Scores:
    """Evaluation-mode logits of every clip of `loader`, in its order; `after_batch` may raise to stop early."""
    model.eval()
    ids, labels, logits = [], [], []
    with torch.inference_mode():
        for batch in loader.epoch(0):
            with autocast(precision, device):
                positions = None if batch.positions is None else batch.positions.to(device, non_blocking=True)
                output = forward(model, batch.clips.to(device, non_blocking=True), positions)
            logits.append(output.float().cpu().numpy())
            labels.append(batch.labels.numpy())
            ids.append(batch.ids)
            after_batch()
    scores = Scores(np.concatenate(ids), np.concatenate(labels), np.concatenate(logits))
    if not np.isfinite(scores.logits).all():
        wrong = scores.ids[~np.isfinite(scores.logits).all(1)]
        raise DivergedError(
            f"the network's output is not a number for {len(wrong)} of {len(scores.ids)} clips",
            where=f"first: {', '.join(wrong[:5])}",
            next_step="resume from an earlier checkpoint with a smaller --base-lr or --precision fp32",
        )
    return scores
