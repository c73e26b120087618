"""Whether the disk has room for what a run will write, asked before its first step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from engine.environment import free_bytes
from engine.errors import SaveError
from engine.optimizers import kept_tensors

if TYPE_CHECKING:
    from engine.train import Trainer

MIB = 2**20
SMALL_FILES = 4 * MIB  # log, settings, examples, report
HEADER = 160  # bytes for the name and place of a tensor in a file


def require(run: Trainer) -> None:
    """Refuse to go on where the free space of the work folder does not hold what `run` keeps and one file in the making.

    Raises `SaveError` (exit 74). Where only the weights that --save-interval keeps have no room, the user is told.
    """
    path = run.folder.path
    free = free_bytes(path)
    if free is None:
        return
    state, weights = state_bytes(run.model, run.optimizer), weights_bytes(run.model)
    files = (run.folder.last, run.folder.previous, run.folder.best)
    there = sum({about.st_ino: about.st_size for about in (f.stat() for f in files if f.exists())}.values())
    scores = run.learning.result_bytes()
    needed = 3 * state + weights + scores + SMALL_FILES - there
    if free < needed:
        raise SaveError(
            f"the disk has {free} bytes free ({free / MIB:.0f} MiB), and the run needs {needed} more ({needed / MIB:.0f} MiB)",
            where=str(path), expected=f"room for three states of {state} bytes (the last, the one before it, the next in the "
            f"making), weights of {weights} and scores of {scores}",
            next_step="free some space, or point --work-dir elsewhere",
        )  # fmt: skip
    interval, left = run.config.save_interval, run.config.num_epoch - run.epoch
    if interval and free < needed + left // interval * weights:
        run.note(
            f"--save-interval {interval} will keep {left // interval} files of {weights} bytes; with {free} bytes free, "
            "the disk will be full before the last of them"
        )


def weights_bytes(model: nn.Module) -> int:
    """Of a file that `checkpoint.save_weights` writes, about."""
    return sum(value.nbytes + HEADER for value in model.state_dict().values())


def state_bytes(model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Of a file that `checkpoint.save_state` writes once the optimizer has its state, about."""
    kept = 0
    for group in optimizer.param_groups:
        kept += kept_tensors(group) * sum(parameter.nbytes + HEADER for parameter in group["params"])
    return weights_bytes(model) + kept
