"""The steps of a network that segments, run on tensors without values and watched, as a classifier's steps are.

A batch is of sequences of one length, as the loader pads them, or of windows. Evaluation is that of one sequence after the other:
its features lie in the host's memory, and so do the scores that were made; what of it is on the device is a matter of the windows
that go through the encoder together and of the head's pieces, not of the length, but for a network of its own kind.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from unittest import mock

import torch
from torch import Tensor, nn

from engine.segmentation import stream
from engine.segmentation.network import Segmenter, WindowSegmenter
from engine.segmentation.settings import Settings
from engine.segmentation.step import segment_step
from engine.step import Precision
from planner.steps.tracing import Bench, Kernels, StepSettings, Task

POS_WEIGHT = 1.0
"""Of boundaries: whatever it is, it takes no memory."""
RESOLUTION = 64
"""Frames from one length to the next that is looked at for the hardest one."""


class SegmentBench(Bench):
    """`Bench` for sequences; `clip_shape` is (M C, V, T) of an item of a training batch.

    chosen    what the step's loss is made of
    longest   frames of the longest sequence that is evaluated
    """

    def __init__(
        self,
        model: nn.Module,
        clip_shape: tuple[int, ...],
        num_classes: int,
        settings: StepSettings,
        *,
        fake: bool,
        kernels: Kernels = "cuda",
        chosen: Settings,
        longest: int,
    ) -> None:
        super().__init__(model, clip_shape, num_classes, settings, fake=fake, kernels=kernels)
        self.chosen, self.longest = chosen, longest

    def _clips(self, task: Task) -> list[Tensor]:
        """Features, labels, boundaries and mask of a training batch; nothing of an evaluation pass lies on the device before."""
        if task.phase == "eval":
            return []
        frames = self.clip_shape[-1]
        return [
            torch.empty(task.batch, *self.clip_shape, device=self.device),
            torch.empty(task.batch, frames, dtype=torch.int64, device=self.device),
            torch.empty(task.batch, 1, frames, device=self.device),
            torch.empty(task.batch, 1, frames, dtype=torch.bool, device=self.device),
        ]

    def _step(self, task: Task, batch: list[Tensor]) -> None:
        self.model.train(task.phase == "train")
        precision: Precision = "fp32" if task.precision == "fp32" else "bf16"
        if task.phase == "eval":
            with self._beside_a_host(autocast=precision != "fp32") as host:
                for frames in self._lengths(task.batch):
                    shown = torch.empty(*self.clip_shape[:-1], frames, device=host)
                    stream.sequence_scores(
                        self.model, shown, device=torch.device(self.device), precision=precision, clips=task.batch,
                        piece=stream.PIECE,
                    )  # fmt: skip
            return
        if self.optimizer is None:
            raise ValueError("no parameter of the network needs a gradient")
        config = self._config(precision, task.micro_batch, task.recompute)
        cpu = torch.device("cpu")  # what autocast goes by in a trace
        segment_step(config, self.model, self.chosen, cpu, pos_weight=POS_WEIGHT, optimizer=self.optimizer)(*batch)

    @contextlib.contextmanager
    def _beside_a_host(self, *, autocast: bool) -> Iterator[str]:
        """Inside, results leave the device as they do from a GPU; yields the device that stands for the host's memory.

        Without `autocast` none is entered, as there is none for tensors without values.
        """
        host = "cpu" if self.device == "meta" else "meta"

        def left(tensor: Tensor) -> Tensor:
            return torch.empty_like(tensor, device=host)

        with contextlib.ExitStack() as stack:
            stack.enter_context(mock.patch.object(torch.Tensor, "cpu", left))
            if not autocast:
                stack.enter_context(mock.patch.object(stream, "autocast", lambda *_: contextlib.nullcontext()))
            yield host

    def _lengths(self, clips: int) -> list[int]:
        """Of the sequences up to the longest those whose evaluation may take most, `clips` windows at a time."""
        if not isinstance(self.model, Segmenter):
            most = clips * self.model.window if isinstance(self.model, WindowSegmenter) else self.longest
            return [min(self.longest, most)]
        chunk, piece, reach = clips * self.model.hop, stream.PIECE, self.model.head.reach
        longest = min(self.longest, 4 * piece + 2 * chunk + reach)  # longer ones repeat what was seen
        hardest = max(range(longest, 0, -RESOLUTION), key=lambda frames: _through_the_head(frames, chunk, piece, reach))
        return list(dict.fromkeys([longest, hardest]))


def _through_the_head(frames: int, chunk: int, piece: int, reach: int) -> int:
    """The most frames that `stream.sequence_scores` shows the head at once; `chunk` enter at a time."""
    most = done = known = 0
    while done < frames:
        known = min(known + chunk, frames)
        while done < frames and (known == frames or known >= done + piece + reach):
            end = frames if known == frames and frames - done <= 2 * piece else done + piece
            most = max(most, min(end + reach, known) - max(done - reach, 0))
            done = end
    return most
