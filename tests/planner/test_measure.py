"""What a measurement asks of a device, and in which order; a fake one on the CPU stands for a GPU."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch

from engine import assembly, models
from engine.config import RunConfig, parse
from engine.step import TrainStep
from planner import measure
from planner.costs import size_of
from planner.measure import Figures, Gpu, Measured, NoGpu, measured, measured_phase

CARD = models.find("baselines")
SIZE = size_of("ntu60")


def config(*words: str) -> RunConfig:
    small = ["--recipe", "stgcn", "--batch-size", "4", "--test-batch-size", "6", "--device", "cpu"]
    windows = ["--train-window-size", "8", "--test-window-size", "8"]
    return parse([*small, *windows, *words], model="baselines")


class Fake:
    """A device of the CPU that writes down what it is asked, and tells times and peaks from a list."""

    torch = torch.device("cpu")

    def __init__(self, *times: float) -> None:
        self.asked: list[str] = []
        self.times = list(times)
        self.on_release: Callable[[], None] = lambda: None
        self.on_reset: Callable[[], None] = lambda: None

    def release(self) -> None:
        self.asked.append("release")
        self.on_release()

    def reset(self) -> None:
        self.asked.append("reset")
        self.on_reset()

    def peaks(self) -> tuple[float, float]:
        self.asked.append("peaks")
        return 100.0, 120.0

    def seconds(self, work: Callable[[], object]) -> float:
        self.asked.append("seconds")
        work()
        return self.times.pop(0)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[TrainStep]:
    """The training steps that a measurement makes."""
    steps: list[TrainStep] = []

    def remembered(*args: Any, **kwargs: Any) -> TrainStep:
        steps.append(assembly.train_step(*args, **kwargs))
        return steps[-1]

    monkeypatch.setattr(measure, "train_step", remembered)
    return steps


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, int]]:
    """(whether in training mode, clips) of every forward pass."""
    passes: list[tuple[bool, int]] = []
    build = models.build

    def watched(*args: Any, **kwargs: Any) -> Any:
        network = build(*args, **kwargs)
        network.register_forward_pre_hook(lambda module, given: passes.append((module.training, len(given[0]))))
        return network

    monkeypatch.setattr(models, "build", watched)
    return passes


def test_training_is_looked_at_from_its_second_step_on(made: list[TrainStep], seen: list[tuple[bool, int]]) -> None:
    device = Fake(10.0, 5.0, 20.0)
    before: list[tuple[int, int]] = []
    device.on_reset = lambda: before.append((len(seen), len(made[0].optimizer.state)))
    figures = measured_phase("train", config(), CARD, SIZE, device, steps=15)
    assert before == [(1, len(made[0].parameters))]  # one step is over, and every parameter has its momentum
    assert device.asked == ["release", "reset", *["seconds"] * 3, "peaks"]
    assert seen == [(True, 4)] * (1 + measure.WARM_UP + 15)
    assert figures == Figures(100.0, 120.0, 10.0 / 5, 15)  # the middle of three times of five steps in a row


def test_evaluation_has_gradients_and_optimizer_state_beside_it(made: list[TrainStep], seen: list[tuple[bool, int]]) -> None:
    device = Fake(1.0)
    alive: list[bool] = []
    device.on_reset = lambda: alive.append(all(p.grad is not None and made[0].optimizer.state[p] for p in made[0].parameters))
    figures = measured_phase("eval", config(), CARD, SIZE, device, steps=2, warm_up=1)
    assert alive == [True]
    assert seen == [(True, measure.FEW), (False, 6), (False, 6), (False, 6)]
    assert device.asked == ["release", "release", "reset", "seconds", "peaks"]  # what training reserved is not evaluation's
    assert figures == Figures(100.0, 120.0, 0.5, 2)


def test_out_of_memory_is_an_answer_and_nothing_stays_behind(monkeypatch: pytest.MonkeyPatch, made: list[TrainStep]) -> None:
    usual = TrainStep.__call__

    def full(self: TrainStep, clips: torch.Tensor, *rest: Any) -> Any:
        if len(clips) > measure.FEW:
            raise torch.cuda.OutOfMemoryError("tried to allocate")
        return usual(self, clips, *rest)

    monkeypatch.setattr(TrainStep, "__call__", full)
    device = Fake(1.0)
    left: list[bool] = []

    def released() -> None:
        gc.collect()
        left.append(any(network() is not None for network in networks))

    networks: list[weakref.ref[Any]] = []
    monkeypatch.setattr(measure, "run", _forgetting(made, networks))
    device.on_release = released
    assert measured(config(), CARD, SIZE, device, steps=1) == Measured(None, Figures(100.0, 120.0, 1.0, 1))
    assert left == [False, False, False, True] and len(networks) == 2  # alive but while it evaluates


def _forgetting(made: list[TrainStep], networks: list[weakref.ref[Any]]) -> Callable[..., Any]:
    """`measure.run` that keeps no step alive itself but through what is measured."""
    run = measure.run

    def once(step: TrainStep, batch: measure.Batch) -> Any:
        made.clear()
        networks.append(weakref.ref(step.model))
        return run(step, batch)

    return once


def test_other_errors_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("CUDA out of memory, says a text")

    monkeypatch.setattr(TrainStep, "__call__", broken)
    with pytest.raises(RuntimeError, match="says a text"):
        measured_phase("train", config(), CARD, SIZE, Fake(), steps=1)


def test_the_kernels_are_those_of_the_run_and_afterwards_as_before() -> None:
    device, during = Fake(1.0, 1.0), []
    device.on_reset = lambda: during.append(torch.are_deterministic_algorithms_enabled())
    before = torch.are_deterministic_algorithms_enabled()
    for wish in ("true", "false"):
        measured_phase("train", config("--deterministic", wish), CARD, SIZE, device, steps=1, warm_up=0)
    assert during == [True, False] and torch.are_deterministic_algorithms_enabled() == before


def test_made_up_clips_are_the_same_everywhere() -> None:
    clips, labels, positions = measure.made_up(3, 5, (3, 8, 25, 2), 60)
    again, other = measure.made_up(3, 5, (3, 8, 25, 2), 60), measure.made_up(4, 5, (3, 8, 25, 2), 60)
    assert torch.equal(clips, again[0]) and torch.equal(labels, again[1]) and not torch.equal(clips, other[0])
    assert clips.shape == (5, 3, 8, 25, 2) and positions.shape == (5, 8) and 0 <= int(labels.min()) <= int(labels.max()) < 60
    assert positions[2, 0] == -1 and positions[2, -1] == 1


def test_without_a_gpu_the_user_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(NoGpu, match="sal doctor") as refused:
        Gpu(0)
    assert refused.value.exit_code == 69
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(NoGpu, match="torch sees 2"):
        Gpu(2)
    assert Gpu(1).torch == torch.device("cuda", 1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu() -> None:
    found = measured(config("--device", "0", "--recompute", "none"), CARD, SIZE, Gpu(0), steps=2)
    assert found.train is not None and found.eval is not None
    assert found.train.allocated_mib > found.eval.allocated_mib > 0 < found.train.seconds
    assert found.train.reserved_mib >= found.train.allocated_mib
