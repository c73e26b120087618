"""Replaying captured gradients, with a recorder in place of a GPU (tests/engine/recording.py); the last tests need the GPU."""

from __future__ import annotations

import copy
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine.checkpoint import load_state, save_state
from engine.errors import ConfigError
from engine.graphs import WARM_UP, CudaGraphs, on_device
from engine.losses import build_loss
from engine.optimizers import build_optimizer
from engine.step import TrainStep
from layers.recompute import segment
from tests.engine.recording import Recorder

STEPS = WARM_UP + 4
needs_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


class Net(nn.Module):
    """BatchNorm, dropout, and a parameter that gets no gradient."""

    def __init__(self, dropout: float = 0.5) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 6, (3, 1), padding=(1, 0)), nn.BatchNorm2d(6)
        self.dropout, self.head = nn.Dropout(dropout), nn.Linear(6, 3)
        self.unused = nn.Parameter(torch.ones(2))

    def forward(self, clips: Tensor) -> Tensor:
        return self.head(self.dropout(self.bn(self.conv(clips.mean(4))).relu().mean((2, 3))))


class Segmented(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.net = Net(dropout)

    def forward(self, clips: Tensor) -> Tensor:
        return segment(self.net, clips)


def refuse(text: str) -> None:
    raise AssertionError(text)


def batch(i: int, clips: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(i)
    return torch.randn(clips, 3, 4, 5, 2, generator=generator), torch.randint(3, (clips,), generator=generator)


def made(network: Callable[[], nn.Module] = Net, **options: Any) -> TrainStep:
    torch.manual_seed(0)
    model = network().train().to(options.get("device", "cpu"))
    optimizer = build_optimizer(model.parameters(), lr=0.1, weight_decay=1e-3)
    return TrainStep(model, optimizer, build_loss(), **({"note": refuse} | options))


def go(step: TrainStep, steps: Any, size: Callable[[int], int] = lambda i: 8) -> dict[str, Tensor]:
    """All that the steps leave behind, in the order of a run; seeds are a function of the step, as in `sal train`."""
    left: dict[str, Tensor] = {}
    for i in steps:
        torch.manual_seed(i)
        result = step(*(part.to(step.device) for part in batch(i, size(i))))
        left |= {f"loss {i}": result.loss, f"correct {i}": result.correct, f"norm {i}": result.grad_norm}
        left |= {f"random {i}": torch.get_rng_state()}
    return left | {k: v.clone() for k, v in step.model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    assert one.keys() == other.keys()
    return all(torch.equal(value.nan_to_num(-1.0), other[key].nan_to_num(-1.0)) for key, value in one.items())


def graphs_of(step: TrainStep) -> Any:
    assert step.replayed is not None
    return step.replayed


@pytest.mark.parametrize(
    "options",
    [{}, {"micro_batch": 3}, {"clip_grad": 0.1}, {"precision": "bf16"}, {"precision": "fp16"}, {"recompute": "cheap"}],
    ids=str,
)
def test_a_run_with_graphs_is_the_run_without(options: dict[str, Any]) -> None:
    """Weights, statistics (moved once a step, capture included), losses, masks and random numbers, bit for bit."""
    recorder = Recorder()
    assert same(go(made(**options), range(STEPS)), go(made(backend=recorder, **options), range(STEPS)))
    assert (recorder.recordings, recorder.replays) == (1, STEPS - WARM_UP)


def test_the_loss_scaler_goes_on_inside_and_outside_of_the_graph() -> None:
    """The scale halves at an infinite gradient, and grows: the replay reads the one of now."""
    eager, replayed = (made(precision="fp16", **more) for more in ({}, {"backend": Recorder()}))
    for step in (eager, replayed):
        step.scaler.set_growth_interval(2)
        step.scaler.load_state_dict(step.scaler.state_dict() | {"scale": 2.0**60})  # every step overflows at first
        step.scaler.scale(torch.zeros(()))
    assert same(go(eager, range(60)), go(replayed, range(60)))
    assert eager.scaler.get_scale() == replayed.scaler.get_scale() != 2.0**60


def test_batches_of_another_shape_run_as_usual() -> None:
    """Also when they come first, and twice in a row; they are captured when they stay, and disturb no captured gradients."""

    def size(i: int) -> int:
        return 8 if i < 6 or i in (7, 10, 11) else 5

    recorder = Recorder()
    assert same(go(made(), range(20), size), go(made(backend=recorder), range(20), size))
    assert recorder.recordings == 2 and recorder.replays == 3 + 3 + 5


def test_the_last_batch_of_an_epoch_is_never_captured() -> None:
    recorder = Recorder()
    go(made(backend=recorder), range(30), lambda i: 5 if i % 5 == 4 else 8)
    assert recorder.recordings == 1


def test_gradients_stay_where_the_graph_writes_them_whatever_others_do() -> None:
    eager, replayed = made(), made(backend=Recorder())
    places: set[tuple[int, ...]] = set()
    for step in (eager, replayed):
        go(step, range(WARM_UP + 1))
        for i in range(WARM_UP + 1, WARM_UP + 4):
            step.optimizer.zero_grad(set_to_none=True)
            go(step, [i])
            if step is replayed:
                places.add(tuple(p.grad.data_ptr() for p in step.parameters if p.grad is not None))
            for p in step.parameters:
                p.grad = torch.full_like(p, torch.nan)
    assert len(places) == 1
    assert same(go(eager, [99]), go(replayed, [99]))
    unused = next(p for name, p in replayed.model.named_parameters() if name == "unused")
    assert unused.grad is None


def test_results_outlive_the_next_replay() -> None:
    step = made(backend=Recorder())
    go(step, range(WARM_UP + 1))
    first = step(*batch(50))
    loss = float(first.loss)
    step(*batch(51))
    assert float(first.loss) == loss


def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    """Saved after a replay, restored before the first step and, once more, into steps that are captured already."""
    whole = go(made(backend=Recorder()), range(12))
    first = made(backend=Recorder())
    go(first, range(6))
    save_state(tmp_path / "s", first.model, first.optimizer, first.scaler, {"epoch": 0, "step": 6, "data": 0, "log_size": 0})
    second, third = made(backend=Recorder()), made(backend=Recorder())
    go(third, range(30, 36))
    for step in (second, third):
        load_state(tmp_path / "s", step.model, step.optimizer, step.scaler)
        rest = go(step, range(6, 12))
        assert all(torch.equal(whole[key], value) for key, value in rest.items())


class Counting(Net):
    passes = 0

    def forward(self, clips: Tensor) -> Tensor:
        self.passes += 1
        return super().forward(clips) * self.passes


def test_the_check_at_the_capture_finds_numbers_of_python() -> None:
    """The capture is a pass of its own, so a count differs in it: graphs are off, with a note, and BatchNorm moved once."""
    notes: list[str] = []
    recorder = Recorder()
    step = made(Counting, backend=recorder, note=notes.append)
    left = go(step, range(STEPS))
    assert recorder.recordings == 1 == recorder.replays == len(notes)
    assert "off" in notes[0] and "loss" in notes[0]
    assert int(left["bn.num_batches_tracked"]) == STEPS


class Lying(Recorder):
    """A backend whose replays give other gradients."""

    def capture(self, work: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        result, replay = super().capture(work)
        gradient = self.step.model.head.weight.grad

        def wrong() -> None:
            replay()
            gradient.mul_(1.1)

        return result, wrong


def test_a_replay_with_other_gradients_is_not_used() -> None:
    notes: list[str] = []
    backend = Lying()
    backend.step = step = made(backend=backend, note=notes.append)
    assert same(go(made(), range(STEPS)), go(step, range(STEPS)))
    assert len(notes) == 1 and graphs_of(step).failed


def test_blocks_that_draw_random_numbers_are_refused_before_the_first_update() -> None:
    step = made(lambda: Segmented(0.5), recompute="blocks", backend=Recorder())
    before = copy.deepcopy(dict(step.model.named_parameters()))
    with pytest.raises(ConfigError, match="random numbers") as caught:
        go(step, range(1))
    assert "--recompute cheap" in caught.value.next_step and caught.value.exit_code == 2
    assert all(torch.equal(before[k], p) for k, p in step.model.named_parameters())


def test_blocks_without_random_numbers_give_the_same_run() -> None:
    """Captured, or, as long as a block asks for the state of the random numbers, without graphs and with a note."""
    notes: list[str] = []
    step = made(lambda: Segmented(0.0), recompute="blocks", backend=Recorder(), note=notes.append)
    assert same(go(made(lambda: Segmented(0.0), recompute="blocks"), range(STEPS)), go(step, range(STEPS)))
    assert len(notes) == graphs_of(step).failed


def test_a_cpu_is_refused_before_the_data_is_read(
    quick: list[str], tmp_path: Path, run_main: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    with pytest.raises(ConfigError, match="needs a GPU"):
        on_device(torch.device("cpu"))
    done = run_main(*quick, "--cuda-graphs", "--data", str(tmp_path / "none.npz"), "--work-dir", str(tmp_path / "run"))
    assert done.returncode == 2 and "--cuda-graphs needs a GPU" in done.stderr, done.stderr
    assert not (tmp_path / "run").exists()


def on_gpu(test: Any) -> Any:
    for mark in needs_gpu:
        test = mark(test)
    return test


def close(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float) -> None:
    for key, value in one.items():
        if not key.startswith("random"):
            torch.testing.assert_close(other[key], value, rtol=tolerance, atol=tolerance, msg=key)


@on_gpu
@pytest.mark.parametrize(("options", "tolerance"), [({}, 1e-5), ({"micro_batch": 3}, 1e-5), ({"precision": "fp16"}, 1e-2)])
def test_cuda_graphs_of_steps_with_dropout(options: dict[str, Any], tolerance: float) -> None:
    """The dropout masks, too, are those of steps without graphs: with others the losses would be far off."""
    device = torch.device("cuda")
    eager = go(made(device=device, **options), range(STEPS))
    step = made(device=device, backend=CudaGraphs(device), **options)
    close(eager, go(step, range(STEPS)), tolerance)
    assert len(graphs_of(step).captured) == 1


@on_gpu
def test_a_capture_that_fails_leaves_a_gpu_that_goes_on() -> None:
    class Reads(Net):
        def forward(self, clips: Tensor) -> Tensor:
            return super().forward(clips) * float(clips.sum() > -1e9)

    device, notes = torch.device("cuda"), list[str]()
    here = torch.cuda.current_stream()
    step = made(Reads, device=device, backend=CudaGraphs(device), note=notes.append)
    close(go(made(Reads, device=device), range(STEPS)), go(step, range(STEPS)), 1e-5)
    assert len(notes) == 1 and torch.cuda.current_stream() == here


@on_gpu
def test_no_step_waits_for_the_gpu() -> None:
    device = torch.device("cuda")
    step = made(device=device, backend=CudaGraphs(device))
    go(step, range(WARM_UP + 1))
    given = [part.to(device) for part in batch(77)]
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(*given)
    finally:
        torch.cuda.set_sync_debug_mode("default")
