"""Every model's training step can be captured in a CUDA graph, and makes no GPU wait: shown on a CPU and on the meta device.

A replay of recorded operations (tests/engine/recording.py) does what a graph does. What only a GPU can show is in test_graphs.py,
marked `gpu`.
"""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from engine import models
from engine.assembly import clip_shape, model_arguments
from engine.config import RunConfig, parse
from engine.losses import build_loss
from engine.optimizers import build_optimizer
from engine.step import TrainStep, takes_positions
from layers.recompute import Level
from shared_data.skeletons import skeleton
from tests.engine.recording import Recorder, tensors, waits_for_the_gpu

CARDS = models.discover()
STEPS = 6
Batch = tuple[Tensor, Tensor, "Tensor | None"]


LIGHT = ("baselines", "ctrgcn", "usdrl")
"""A model of convolutions, one whose graph is learnt, one of attention: those that the quick tests look at."""


def every_model(test: Any) -> Any:
    names = [pytest.param(name, marks=[] if name in LIGHT else pytest.mark.slow) for name in sorted(CARDS)]
    return pytest.mark.parametrize("name", names)(test)


@dataclass(frozen=True)
class Case:
    """A model as its smoke recipe trains it, in batches of a few short clips, without dropout or with some at every place."""

    name: str
    clips: int = 1
    random: bool = False

    @property
    def config(self) -> RunConfig:
        row = CARDS[self.name].toml["smoke"]
        return dataclasses.replace(parse(["--recipe", row["recipe"]], model=self.name), train_window_size=row["window"])

    @property
    def size(self) -> tuple[int, str, int]:
        row = CARDS[self.name].toml["smoke"]
        return row["classes"], row["skeleton"], row["people"]

    def network(self) -> nn.Module:
        card, (classes, layout, people) = CARDS[self.name], self.size
        given = model_arguments(self.config, classes, skeleton(layout), people)
        rates = {key: 0.1 * self.random for key in models.arguments(card) if "drop" in key}
        torch.manual_seed(0)
        return models.build(card, num_classes=classes, skeleton=layout, people=people, **(given | rates)).train()

    def batch(self, step: int, network: nn.Module) -> Batch:
        classes, layout, people = self.size
        shape = clip_shape(self.config, skeleton(layout), people, train=True)
        generator = torch.Generator().manual_seed(step)
        clips = torch.randn(self.clips, *shape, generator=generator)
        labels = torch.randint(classes, (self.clips,), generator=generator)
        return clips, labels, torch.rand(self.clips, shape[1], generator=generator) if takes_positions(network) else None

    def step(self, network: nn.Module, *, optimizer: str = "", **options: Any) -> TrainStep:
        config = self.config
        made = build_optimizer(
            network.parameters(), name=optimizer or config.optimizer, lr=config.base_lr, weight_decay=config.weight_decay
        )  # type: ignore[arg-type]
        return TrainStep(
            network, made, build_loss(config.loss_type, label_smoothing=config.label_smoothing), clip_grad=config.clip_grad,
            penalty=config.penalty_weight, **options,
        )  # fmt: skip


def trained(case: Case, steps: int, *, change: Callable[[nn.Module], nn.Module] = lambda n: n, **options: Any) -> dict[str, Any]:
    """What `steps` steps leave behind: losses, counts, gradient norms, weights and buffers."""
    network = change(case.network())
    step = case.step(network, **options)
    if step.replayed:
        step.replayed.warm_up = 0
    left: dict[str, Any] = {}
    for i in range(steps):
        torch.manual_seed(i)
        result = step(*case.batch(i, network))
        left |= {f"loss {i}": result.loss, f"correct {i}": result.correct, f"norm {i}": result.grad_norm}
    return left | network.state_dict()


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    assert one.keys() == other.keys()
    return [key for key in one if not torch.equal(one[key], other[key])]


def refuse(text: str) -> None:
    raise AssertionError(text)


@every_model
def test_replayed_steps_are_eager_steps(name: str) -> None:
    """Bit for bit, whatever is computed again: every one of the steps is a replay, of a recording made at the first."""
    case = Case(name)
    eager = trained(case, STEPS)
    for recompute in ("none", "cheap"):
        recorder = Recorder()
        assert differing(eager, trained(case, STEPS, recompute=recompute, backend=recorder, note=refuse)) == [], recompute
        assert (recorder.recordings, recorder.replays) == (1, STEPS)


@every_model
def test_replays_draw_the_random_numbers_of_eager_steps(name: str) -> None:
    """Steps with dropout, in bf16, and in micro-batches of one clip."""
    case = Case(name, clips=2, random=True)
    options: dict[str, Any] = {"precision": "bf16", "micro_batch": 1, "recompute": "cheap"}
    assert differing(trained(case, 2, **options), trained(case, 2, backend=Recorder(), note=refuse, **options)) == []


class Reads(nn.Module):
    """A network that looks at a value."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *given: Tensor) -> Tensor:
        return self.inner(*given) * (1.0 if given[0].sum().item() > 0 else 2.0)


class Counts(Reads):
    """A network with a number of its own in Python, which a graph does not see change, neither does a look at one step."""

    calls = 0

    def forward(self, *given: Tensor) -> Tensor:
        self.calls += 1
        return self.inner(*given) * (1.0 if self.calls <= 4 else 1.1)


class Copies(Reads):
    """A network that makes a tensor of Python's numbers in each pass."""

    def forward(self, *given: Tensor) -> Tensor:
        return self.inner(*given) * torch.tensor([2.0])


@pytest.mark.parametrize("kind", [Reads, Copies])
def test_what_cannot_be_captured_is_found(kind: type[Reads]) -> None:
    """The check above can fail: this network is not captured, and the steps go on without."""
    case, notes, recorder = Case("baselines"), [], Recorder()
    replayed = trained(case, 3, change=kind, backend=recorder, note=notes.append)
    assert recorder.recordings == 0 and "not permitted" in notes[0] and len(notes) == 1
    assert differing(trained(case, 3, change=kind), replayed) == []


def test_python_that_a_replay_leaves_out_shows() -> None:
    """The check above can fail: this network is captured, and its replays are not its steps."""
    case = Case("baselines")
    assert differing(trained(case, STEPS, change=Counts), trained(case, STEPS, change=Counts, backend=Recorder(), note=refuse))


class NoWaiting(TorchDispatchMode):
    """Collects the operations that would make the host wait for a GPU, or bring in numbers of the host."""

    def __init__(self, *, home: str) -> None:
        super().__init__()
        self.home, self.found = home, set[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        reason = waits_for_the_gpu(func, args)
        if not reason and any(t.device.type != self.home for t in tensors((args, kwargs))):
            reason = f"{func} with a tensor of another device"
        if reason:
            ours = [f for f in traceback.extract_stack() if "/models/" in f.filename or "/layers/" in f.filename]
            self.found.add(f"{reason}{f', {ours[-1].name}: {ours[-1].line}' if ours else ''}")
        return func(*args, **(kwargs or {}))


def waiting(case: Case, home: str, *, change: Callable[[nn.Module], nn.Module] = lambda n: n, **options: Any) -> set[str]:
    """Why a training step of the model on `home` would wait for a GPU. SGD: Adam on a CPU counts its steps there."""
    network = change(case.network())
    batch = [None if part is None else part.to(home) for part in case.batch(0, network)]
    network = network.to(home)
    step = case.step(network, optimizer="SGD", **options)
    with NoWaiting(home=home) as mode:
        step(*batch)
    return mode.found


@pytest.mark.parametrize("home", ["cpu", "meta"])
@pytest.mark.parametrize("recompute", ["none", pytest.param("cheap", marks=pytest.mark.slow), "blocks"])
@pytest.mark.parametrize("name", sorted(CARDS))
def test_no_step_waits_for_a_gpu(name: str, recompute: Level, home: str) -> None:
    """Neither a value read nor, with meta standing for the GPU, a tensor of the host in any operation; update included."""
    assert waiting(Case(name, random=True), home, recompute=recompute) == set()


class Mixes(Reads):
    def forward(self, *given: Tensor) -> Tensor:
        return self.inner(*given) * torch.ones(())


class Masks(Reads):
    def forward(self, *given: Tensor) -> Tensor:
        logits = self.inner(*given)
        return logits + logits[logits > 0].sum()


@pytest.mark.parametrize(
    ("kind", "home", "word"),
    [(Reads, "cpu", "_local_scalar_dense"), (Copies, "cpu", "lift_fresh"), (Masks, "cpu", "mask"), (Mixes, "meta", "device")],
)
def test_waiting_is_found(kind: type[Reads], home: str, word: str) -> None:
    """The check above can fail."""
    found = waiting(Case("baselines"), home, change=kind)
    assert any(word in reason for reason in found), found
