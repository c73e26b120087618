"""The gradient part of a training step (all forward and backward passes), captured once and replayed: one launch, not thousands.

A replay runs the kernels of the capture on the memory of the capture, and no Python. What follows from that, and what is done:

- Batches are copied into the places that the captured kernels read; loss and counts are copied out of those they write.
- Gradients are None before the capture, so that the first backward pass writes them, and later live at the graph's own addresses.
  Each replay hands them to the parameters again, so `zero_grad` and batches of other shapes, which run as usual, do no harm.
- Whatever else is read (weights, BatchNorm statistics, the loss scaler's scale) must change in place. Optimizers, checkpoints
  and scalers do that. Numbers that Python computes are those of the capture for ever.
- Random numbers: a CUDA graph reads seed and offset of torch's generator when it is replayed, and moves the offset on by what the
  capture used. After the same `torch.manual_seed` a replay therefore draws the masks that a step without graphs draws.
- The first passes over a shape run as usual, as training steps like any other (on the stream of the capture: libraries set
  themselves up for it). Capturing runs the step once more on the side, and then replays it: both must agree, and BatchNorm's
  statistics and the random numbers are put back in between. If they do not agree, or something in the step cannot be
  captured, training goes on without graphs, and a note says so.

The capture itself is a `Backend`: CUDA's here; the tests have one for CPUs that records each operation.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from engine.errors import ConfigError

T = TypeVar("T")
Batch = tuple[Tensor, Tensor, "Tensor | None"]  # clips, labels, positions
Gradients = Callable[[Tensor, Tensor, "Tensor | None"], tuple[Tensor, Tensor]]  # leaves gradients behind; loss and correct clips
Key = tuple[tuple[torch.Size, torch.dtype] | None, ...]

WARM_UP = 3  # passes over a shape, one after the other, before it is captured: the last batch of an epoch never is


class Backend(Protocol):
    """What captures work and replays it."""

    def eagerly(self, work: Callable[[], T]) -> T:
        """``work()`` as usual, but where it would be captured."""

    def capture(self, work: Callable[[], T]) -> tuple[T, Callable[[], None]]:
        """Record `work`; returns the fixed places of its results, to be read after a replay, and what replays it.

        Raises `RuntimeError` for work that cannot be captured.
        """


class CudaGraphs:
    """`Backend` of a GPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)

    def eagerly(self, work: Callable[[], T]) -> T:
        here = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(here)
        with torch.cuda.stream(self.stream):
            result = work()
        here.wait_stream(self.stream)
        return result

    def capture(self, work: Callable[[], T]) -> tuple[T, Callable[[], None]]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self.device):
            here = torch.cuda.current_stream()
            gc.collect()
            torch.cuda.empty_cache()  # the graph's memory is its own: it cannot use what is free but reserved
            try:
                # The loader's threads go on allocating page-locked memory: that must not break the capture.
                with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
                    result = work()
            finally:
                torch.cuda.set_stream(here)  # a capture that fails in the end leaves its stream behind as the current one
        return result, graph.replay


def on_device(device: torch.device) -> CudaGraphs:
    """The backend of `device`; raises `ConfigError` if it has none."""
    if device.type != "cuda":
        raise ConfigError(
            f"--cuda-graphs needs a GPU, and the run is on the {device.type}", where="--cuda-graphs",
            next_step="leave it out, or give a GPU with --device",
        )  # fmt: skip
    return CudaGraphs(device)


@dataclass(frozen=True)
class Captured:
    """One captured shape: where its batch goes, where its results come from, and the gradient of each parameter."""

    batch: Batch
    result: tuple[Tensor, Tensor]
    gradients: list[Tensor | None]
    replay: Callable[[], None]


class Replayed:
    """`gradients`, replayed for batches of a shape that was captured.

    gradients        what to capture; it sets the gradients of all `parameters` to None first
    tolerance        largest relative difference of loss and gradient norm between a replay and the same pass without graphs
    without_random   whether `gradients` may not draw random numbers: the first pass refuses a network that does (`ConfigError`)
    note             is told why a run goes on without graphs
    warm_up          passes over a shape before it is captured
    """

    def __init__(
        self,
        gradients: Gradients,
        model: nn.Module,
        parameters: Sequence[nn.Parameter],
        *,
        backend: Backend,
        tolerance: float,
        without_random: bool = False,
        note: Callable[[str], None] = print,
        warm_up: int = WARM_UP,
    ) -> None:
        self.gradients, self.model, self.parameters, self.backend = gradients, model, parameters, backend
        self.tolerance, self.without_random, self.note, self.warm_up = tolerance, without_random, note, warm_up
        self.captured: dict[Key, Captured] = {}
        self.failed = False
        self._last: Key | None = None
        self._times = 0

    def __call__(self, clips: Tensor, labels: Tensor, positions: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Loss and number of correct clips; the gradients are in the parameters."""
        batch = (clips, labels, positions)
        if self.failed:
            return self.gradients(*batch)
        key = tuple(None if part is None else (part.shape, part.dtype) for part in batch)
        self._times = self._times + 1 if key == self._last else 1
        self._last = key
        if key in self.captured:
            return self._replay(self.captured[key], batch)
        if self._times <= self.warm_up:
            return self._eagerly(batch)
        return self._capture(key, batch)

    def _eagerly(self, batch: Batch) -> tuple[Tensor, Tensor]:
        before = _random_state(batch[0].device) if self.without_random else []
        result = self.backend.eagerly(lambda: self.gradients(*batch))
        if self.without_random and not _equal(before, _random_state(batch[0].device)):
            raise ConfigError(
                "CUDA graphs cannot compute blocks again that draw random numbers, and this network has dropout in training",
                where="--cuda-graphs with --recompute blocks",
                next_step="--recompute cheap, or leave out --cuda-graphs, or set the network's dropout rates to 0 (--model-args)",
            )
        return result

    def _capture(self, key: Key, batch: Batch) -> tuple[Tensor, Tensor]:
        """The step that captures its shape: computed as usual, captured, replayed and compared."""
        before = _State(self.model, batch[0].device)
        expected = self._measure(self._eagerly(batch))
        before.restore()
        problem = ""
        try:
            captured = self._captured(batch)
            before.restore()
            result = self._replay(captured, batch)
            found = self._measure(result)
            if not all(map(self._agree, expected, found)):
                problem = f"loss and gradient norm are {found} replayed and {expected} otherwise"
        except RuntimeError as error:
            problem = (str(error) or type(error).__name__).splitlines()[0]
        if not problem:
            self.captured[key] = captured
            return result
        self.note(f"CUDA graphs are off from here on, training goes on without them: {problem}")
        self.failed = True
        self.captured.clear()
        before.restore()
        return self.gradients(*batch)

    def _captured(self, batch: Batch) -> Captured:
        clips, labels, positions = batch
        places = clips.clone(), labels.clone(), None if positions is None else positions.clone()
        for parameter in self.parameters:
            parameter.grad = None
        result, replay = self.backend.capture(lambda: self.gradients(*places))
        return Captured(places, result, [p.grad for p in self.parameters], replay)

    def _replay(self, captured: Captured, batch: Batch) -> tuple[Tensor, Tensor]:
        for place, given in zip(captured.batch, batch, strict=True):
            if place is not None and given is not None:
                place.copy_(given, non_blocking=True)
        captured.replay()
        for parameter, gradient in zip(self.parameters, captured.gradients, strict=True):
            parameter.grad = gradient
        loss, correct = captured.result
        return loss.clone(), correct.clone()  # the next replay writes into theirs

    def _measure(self, result: tuple[Tensor, Tensor]) -> tuple[float, float]:
        norms = [torch.linalg.vector_norm(p.grad) for p in self.parameters if p.grad is not None]
        return float(result[0]), float(torch.linalg.vector_norm(torch.stack(norms))) if norms else 0.0

    def _agree(self, a: float, b: float) -> bool:
        """Infinite gradients of a loss scaler that starts too high agree with each other."""
        return abs(a - b) <= self.tolerance * abs(a) if math.isfinite(a) else not math.isfinite(b)


class _State:
    """What a pass over a batch moves besides the gradients: the buffers of the network and the random numbers."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
        self.device, self.random = device, _random_state(device)

    def restore(self) -> None:
        for buffer, value in self.buffers:
            buffer.copy_(value)
        torch.set_rng_state(self.random[0])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(self.random[1], self.device)


def _random_state(device: torch.device) -> list[Tensor]:
    """State of the CPU's generator, and of the GPU's; neither waits for the GPU."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def _equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(map(torch.equal, a, b))
