"""What every smoke test asserts of a network, whatever kind of model it is of, and what its parts share besides.

Each kind says how its network is built, what it puts out for fixed inputs and what its loss is; `check` does the rest.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from engine.models import ModelCard

_STEPS = 3
Table = TypeVar("Table")


class Expected(Protocol):
    """What the [smoke] table of a model.toml records. The loss: on the weights and inputs of `fingerprint`, float32."""

    @property
    def parameters(self) -> int: ...
    @property
    def loss(self) -> float: ...
    @property
    def loss_tolerance(self) -> float: ...


@dataclass(frozen=True)
class Subject:
    """A network to be tried on fixed inputs.

    build      a new one, on the device
    shape      of what it puts out
    settle     -> evaluation mode, with the statistics that training would have left
    output     what it puts out: classes' scores
    loss       of a network in evaluation mode and its output, a number
    step_loss  of a training step
    optimizer  for all of its parameters
    unused     names of parameters -> those of them that never get a gradient
    """

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    settle: Callable[[nn.Module], object]
    output: Callable[[nn.Module], Tensor]
    loss: Callable[[nn.Module, Tensor], float]
    step_loss: Callable[[nn.Module], Tensor]
    optimizer: Callable[[nn.Module], Optimizer]
    unused: Callable[[set[str]], set[str]] = field(default=lambda names: set())


def check(subject: Subject, expected: Expected, folder: Path) -> tuple[dict[str, bool], dict[str, Any]]:
    """Six assertions by name, and the figures behind them; `folder` is for a file of weights."""
    import torch
    from safetensors.torch import load_file, save_file

    from smoke_tests import fingerprint

    torch.manual_seed(0)
    torch.backends.cudnn.allow_tf32 = False  # the fingerprint is one of float32
    holds: dict[str, bool] = {}
    model = subject.build()
    count = sum(parameter.numel() for parameter in model.parameters())
    holds["parameter_count"] = count == expected.parameters

    fingerprint.fill(model)
    subject.settle(model)
    with torch.no_grad():
        output = subject.output(model)
        loss = subject.loss(model, output)
    holds["forward"] = tuple(output.shape) == subject.shape and bool(torch.isfinite(output).all())
    holds["loss_fingerprint"] = abs(loss - expected.loss) <= expected.loss_tolerance

    model.train()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = subject.optimizer(model)
    losses: list[float] = []
    for _ in range(_STEPS):
        optimizer.zero_grad(set_to_none=True)
        step_loss = subject.step_loss(model)
        torch.autograd.backward(step_loss)
        if not losses:
            learned = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
            unused = subject.unused(set(learned))
            gradients = [parameter.grad for name, parameter in learned.items() if name not in unused]
            holds["backward"] = all(g is not None and bool(torch.isfinite(g).all()) for g in gradients)
        optimizer.step()
        losses.append(step_loss.item())
    moved = [not torch.equal(before[name], parameter) for name, parameter in model.named_parameters()]
    holds["optimizer_step"] = any(moved) and losses[-1] < losses[0]

    model.eval()
    with torch.no_grad():
        trained = subject.output(model)
        file = folder / "smoke.safetensors"
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, str(file))
        other = subject.build()
        other.load_state_dict(load_file(str(file), device=str(output.device)), strict=True)
        other.eval()
        holds["same_logits_after_reload"] = torch.equal(trained, subject.output(other)) and not torch.equal(trained, output)
    return holds, {"parameters": count, "loss": loss, "step_losses": losses}


def table(card: ModelCard, form: type[Table], **usual: Any) -> Table:
    """The model's [smoke] table as the dataclass `form`; `usual` are keys that may be left out.

    Raises `ModelError` (exit 78) for a missing, unknown or mistyped key.
    """
    from engine.models import ModelError

    given: dict[str, Any] = {**usual, **card.toml.get("smoke", {})}
    kinds: dict[str, type | tuple[type, ...]] = {"int": int, "float": (int, float), "str": str, "dict[str, Any]": dict}
    fields = {entry.name: kinds[str(entry.type)] for entry in dataclasses.fields(form)}  # type: ignore[arg-type]
    wrong = sorted(fields.keys() ^ given.keys()) or [name for name, kind in fields.items() if not isinstance(given[name], kind)]
    if wrong:
        raise ModelError(
            f"the [smoke] table has a missing, unknown or mistyped key: {', '.join(wrong)}",
            where=str(card.folder / "model.toml"),
            expected=", ".join(fields),
        )
    return form(**given)


def run_main(card: ModelCard, *words: str) -> int:
    """The model's own main.py with these words, in its folder; returns its exit code."""
    command = [sys.executable, "main.py", *words]
    sys.stdout.flush()
    if code := subprocess.run(command, cwd=card.folder, check=False).returncode:
        print(f"main.py ended with exit code {code}: {' '.join(command)}", flush=True)
    return code
