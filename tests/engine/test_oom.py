"""A GPU that is full, anywhere in a run: exit 75, the last checkpoint stands, nothing is half written, the same command goes on.

No GPU is needed: the allocator's error is raised by hand.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from engine import assembly, checkpoint, evaluate, launch, memory, scoring, step
from engine.config import RunConfig, parse
from engine.errors import OutOfMemoryError
from engine.optimizers import build_optimizer
from engine.runfolder import read_log
from engine.train import Trainer, train
from sal.__main__ import main

WORDS = "CUDA out of memory. Tried to allocate 2 GiB\nof which the tables say more"


@pytest.fixture
def flags(quick: list[str], tiny_data: Path, tmp_path: Path) -> list[str]:
    """`sal train` into tmp_path/run: two epochs of two steps, evaluation in two batches."""
    sizes = ["--max-clips", "8", "--test-batch-size", "4", "--log-interval", "1"]
    return ["train", "ctrgcn", *quick, *sizes, "--data", str(tiny_data), "--work-dir", str(tmp_path / "run")]


@pytest.fixture(scope="module")
def straight(quick: list[str], tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """What an undisturbed run ends with."""
    folder = tmp_path_factory.mktemp("straight")
    words = ["train", "ctrgcn", *quick, "--max-clips", "8", "--data", str(tiny_data), "--work-dir", str(folder)]
    assert main(words) == 0
    return checkpoint.read(folder / "checkpoints/last.safetensors")[0]


def full_at(call: int, work: Callable[..., Any]) -> Callable[..., Any]:
    """`work`, whose `call`-th call (from 1) finds the GPU full."""
    calls = 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise torch.cuda.OutOfMemoryError(WORDS)
        return work(*args, **kwargs)

    return wrapped


def full_in_backward(call: int) -> Callable[..., Any]:
    """`build_loss` of losses whose `call`-th backward pass finds the GPU full."""
    reached = full_at(call, lambda: None)

    class Passed(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, loss: torch.Tensor) -> torch.Tensor:
            return loss.clone()

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
            reached()
            return gradient

    def build(*args: Any, **kwargs: Any) -> Any:
        loss = real(*args, **kwargs)
        return lambda logits, labels: Passed.apply(loss(logits, labels))

    real = assembly.build_loss
    return build


def position(folder: Path) -> tuple[int, int]:
    """Epoch and step of the last checkpoint, which must be whole."""
    assert not [*folder.rglob("*.tmp")]
    _, header = checkpoint.read(folder / "checkpoints/last.safetensors")
    saved = json.loads(header["position"])
    return saved["epoch"], saved["step"]


@pytest.mark.parametrize(
    ("where", "call", "saved", "smaller"),
    [
        ("forward", 4, (1, 0), ["--recompute", "blocks"]),
        pytest.param("backward", 3, (1, 0), ["--recompute", "blocks"], marks=pytest.mark.slow),
        pytest.param("update", 1, (0, 0), ["--recompute", "blocks"], marks=pytest.mark.slow),
        ("evaluation", 2, (0, 2), ["--test-batch-size", "2"]),  # of the first epoch: the first call is the rehearsal
        pytest.param("evaluation", 5, (1, 2), ["--test-batch-size", "2"], marks=pytest.mark.slow),  # in its second batch
        pytest.param("save", 1, None, [], marks=pytest.mark.slow),  # the very first one
        ("save", 3, (0, 0), []),  # after the first epoch: the second is that of the best weights
    ],
)
def test_a_full_gpu_leaves_a_state_from_which_the_run_goes_on(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    straight: dict[str, torch.Tensor],
    flags: list[str],
    tmp_path: Path,
    where: str,
    call: int,
    saved: tuple[int, int] | None,
    smaller: list[str],
) -> None:
    with monkeypatch.context() as patch:
        if where == "forward":
            patch.setattr(step, "forward", full_at(call, step.forward))
        elif where == "backward":
            patch.setattr(assembly, "build_loss", full_in_backward(call))
        elif where == "update":
            patch.setattr(step, "clipped", full_at(call, step.clipped))
        elif where == "evaluation":
            patch.setattr(evaluate, "forward", full_at(call, evaluate.forward))
        else:
            patch.setattr(checkpoint, "to_bytes", full_at(call, checkpoint.to_bytes))
        assert main(flags) == 75
    said = capsys.readouterr().err
    assert "Tried to allocate 2 GiB" in said and "the tables" not in said
    assert f"where:    {'evaluation' if where == 'evaluation' else 'training'}\n" in said
    folder = tmp_path / "run"
    if saved is None:
        assert not [*folder.rglob("*.tmp")] and not (folder / "checkpoints/last.safetensors").exists()
    else:
        assert position(folder) == saved
    assert main([*flags, *smaller]) == 0
    assert ("resuming" in capsys.readouterr().out) == (saved is not None)
    assert position(folder) == (2, 0)
    state, _ = checkpoint.read(folder / "checkpoints/last.safetensors")
    assert [name for name in straight if not torch.equal(state[name], straight[name])] == []
    events = [(e["event"], e["step"] if e["event"] == "step" else e.get("epoch")) for e in read_log(folder / "log.jsonl")]
    steps = [place for event, place in events if event == "step"]
    assert steps == [1, 2, 3, 4]
    assert [place for event, place in events if event == "eval"] == [0, 1]


def test_evaluation_is_tried_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flags: list[str], tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "forward", full_at(1, evaluate.forward))
        assert main(flags) == 75
    said = capsys.readouterr().err
    assert "evaluation, tried before the first step" in said and "--test-batch-size 2" in said
    assert not (tmp_path / "run").exists()


def test_evaluation_is_tried_again_where_a_run_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flags: list[str], tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(step, "forward", full_at(3, step.forward))
        assert main(flags) == 75
        before = (tmp_path / "run/checkpoints/last.safetensors").read_bytes()
        patch.setattr(evaluate, "forward", full_at(1, evaluate.forward))
        assert main(flags) == 75
    assert "evaluation, tried before the first step" in capsys.readouterr().err
    assert (tmp_path / "run/checkpoints/last.safetensors").read_bytes() == before
    assert main(flags) == 0
    assert main(flags) == 0  # a finished run has no step before it
    monkeypatch.setattr(evaluate, "forward", full_at(1, evaluate.forward))
    assert main(flags) == 0


def test_the_rehearsal_is_the_first_test_batch_beside_what_training_keeps(
    monkeypatch: pytest.MonkeyPatch, flags: list[str]
) -> None:
    """Gradients and momentum stand beside it, and it leaves neither random numbers nor statistics changed."""
    seen: dict[str, Any] = {}

    class Enough(Exception):
        pass

    def noted(model: torch.nn.Module, clips: torch.Tensor, positions: object) -> torch.Tensor:
        assert not (model.training or torch.is_grad_enabled() or torch.is_inference_mode_enabled())
        seen["shape"], seen["first"] = clips.shape, clips.clone()
        torch.rand(3)
        return model(clips)

    held: list[torch.Tensor] = []
    real = memory.still_to_come

    def holding(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
        held.extend(real(optimizer))
        return held

    def started(trainer: Trainer) -> None:
        bits = [torch.get_rng_state(), *(value.clone() for value in trainer.model.state_dict().values())]
        state = trainer.optimizer.state_dict()
        look(trainer)
        after = [torch.get_rng_state(), *trainer.model.state_dict().values()]
        assert all(map(torch.equal, bits, after)) and trainer.optimizer.state_dict() == state
        first = next(iter(trainer.learning.test_batches.epoch(0))).clips
        assert torch.equal(seen["first"], first) and len(first) == 4
        wanted = 2 * sum(p.numel() for p in trainer.model.parameters())  # gradient and momentum
        assert sum(tensor.numel() for tensor in held) == wanted
        raise Enough

    look = Trainer.look_ahead
    monkeypatch.setattr(memory, "still_to_come", holding)
    monkeypatch.setattr(evaluate, "forward", noted)
    monkeypatch.setattr(Trainer, "look_ahead", started)
    with pytest.raises(Enough):
        train(parse(flags[2:], model="ctrgcn"), Console(quiet=True))


@pytest.mark.parametrize(("name", "copies"), [("SGD", 1), ("AdamW", 2), ("Adam", 2)])
def test_what_a_step_will_add_is_what_it_adds(name: Any, copies: int) -> None:
    model = torch.nn.Linear(3, 5)
    optimizer = build_optimizer(model.parameters(), name=name, lr=0.1)
    size = sum(p.numel() for p in model.parameters())

    def to_come() -> int:
        return sum(tensor.numel() for tensor in memory.still_to_come(optimizer))

    assert to_come() == (1 + copies) * size
    assert not optimizer.state
    model(torch.ones(2, 3)).sum().backward()
    assert to_come() == copies * size
    optimizer.step()
    assert to_come() == 0
    kept = sum(v.numel() for values in optimizer.state.values() for v in values.values() if torch.is_tensor(v) and v.ndim)
    assert kept == copies * size
    model.zero_grad()
    assert to_come() == size


def test_the_network_is_let_go_before_anybody_looks_for_an_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    networks: list[weakref.ref[torch.nn.Module]] = []

    def full(model: torch.nn.Module, *_: object) -> torch.Tensor:
        networks.append(weakref.ref(model))
        raise torch.cuda.OutOfMemoryError("")

    def answer(error: OutOfMemoryError, *_: object) -> OutOfMemoryError:
        assert [network() for network in networks] == [None]
        return error

    monkeypatch.setattr(step, "forward", full)
    monkeypatch.setattr("sal.train._with_advice", answer)
    assert main(flags) == 75
    assert networks


def test_a_test_run_is_all_evaluation(monkeypatch: pytest.MonkeyPatch, flags: list[str], tmp_path: Path) -> None:
    def full(*_: object, **__: object) -> Path:
        raise torch.cuda.OutOfMemoryError(WORDS)

    monkeypatch.setattr(scoring, "score", full)
    with pytest.raises(OutOfMemoryError) as raised:
        launch.run(parse(flags[2:], model="ctrgcn", phase="test"))
    assert raised.value.part == memory.EVALUATION and "--test-batch-size 2" in raised.value.next_step


@pytest.mark.parametrize("recompute", ["auto", "blocks"])
def test_without_a_prediction_the_answer_is_a_list_without_fit(monkeypatch: pytest.MonkeyPatch, recompute: str) -> None:
    def full(config: RunConfig, *_: object, **__: object) -> None:
        raise torch.cuda.OutOfMemoryError(WORDS)

    monkeypatch.setattr("engine.train.train", full)
    config = parse(["--recipe", "ntu60_xsub", "--device", "cpu", "--recompute", recompute], model="ctrgcn")
    with pytest.raises(OutOfMemoryError) as raised:
        launch.run(config)
    said = raised.value.next_step
    assert (raised.value.exit_code, raised.value.part) == (75, memory.TRAINING)
    assert "--fit" not in said  # it would be refused for want of a prediction
    assert "--forward-batch-size 32" in said
    if recompute == "auto":
        assert said.index("--recompute blocks") < said.index("--forward-batch-size")
    else:
        assert "--recompute" not in said
