"""Time training steps of every model found, on made-up clips: ``python3 benchmark_models.py --steps 50 --device cuda:0 --amp``.

A step is the engine's own: forward, cross entropy, backward, update (SGD). Peak memory is what torch's allocator held at most,
and is measured on GPUs only; `sal plan` predicts it without one. Exit codes: 0 all models ran, 1 one did not (the table says
why), else docs/exit-codes.md.
"""

import dataclasses
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)  # the repository, not this folder

import torch  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from engine import memory, models  # noqa: E402
from engine.assembly import choose_device, expected_shape  # noqa: E402
from engine.environment import machine_line  # noqa: E402
from engine.errors import ConfigError  # noqa: E402
from engine.launch import guarded  # noqa: E402
from engine.losses import build_loss  # noqa: E402
from engine.models import ModelCard  # noqa: E402
from engine.optimizers import build_optimizer  # noqa: E402
from engine.parsing import LabParser  # noqa: E402
from engine.step import Precision, TrainStep  # noqa: E402

WARM_UP = 3  # steps before the clock starts


@dataclass(frozen=True)
class Row:
    """One network of one model. `ms_per_step` is a mean, `peak_mib` None on the CPU, `problem` why there are no figures."""

    model: str
    model_args: Mapping[str, Any]
    batch: int
    window: int
    parameters: int | None = None
    ms_per_step: float | None = None
    clips_per_s: float | None = None
    peak_mib: float | None = None
    problem: str = ""


def networks(card: ModelCard) -> list[Mapping[str, Any]]:
    """The rows of [[expect]] to measure: those of the first one's size, which differ in `model_args`."""
    rows = card.toml.get("expect", [])
    size = ("classes", "skeleton", "people", "window")
    return [row for row in rows if all(row.get(key) == rows[0].get(key) for key in size)]


def amp_precision(device: torch.device) -> Precision:
    """bf16 where the device computes in it (CPU, GPUs since Ampere), else fp16."""
    old = device.type == "cuda" and torch.cuda.get_device_capability(device)[0] < 8
    return "fp16" if old else "bf16"


def measure(card: ModelCard, size: Mapping[str, Any], row: Row, *, steps: int, device: torch.device, precision: Precision) -> Row:
    """`row` with its figures, for the network of `size` (a row of [[expect]])."""
    torch.manual_seed(0)
    shape = expected_shape(card, size, row.window)
    told = {"frames": shape[1]} if "frames" in models.arguments(card) else {}  # of networks whose weights depend on the window
    arguments = {**told, **row.model_args}
    network = models.build(card, num_classes=size["classes"], skeleton=size["skeleton"], people=size["people"], **arguments)
    network = network.to(device).train()
    optimizer = build_optimizer(network.parameters(), lr=1e-3)
    step = TrainStep(network, optimizer, build_loss(), precision=precision, device=device)
    clips = torch.randn(row.batch, *shape, device=device)
    labels = torch.arange(row.batch, device=device) % size["classes"]
    memory.reset_peak(device)
    for _ in range(WARM_UP):
        step(clips, labels)
    wait(device)
    began = time.perf_counter()
    for _ in range(steps):
        step(clips, labels)
    wait(device)
    seconds = (time.perf_counter() - began) / steps
    return dataclasses.replace(
        row,
        parameters=sum(p.numel() for p in network.parameters()),
        ms_per_step=round(1000 * seconds, 3),
        clips_per_s=round(row.batch / seconds, 1),
        peak_mib=memory.peaks(device)["peak_allocated_mib"] if device.type == "cuda" else None,
    )


def wait(device: torch.device) -> None:
    """Until the GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def attempt(card: ModelCard, size: Mapping[str, Any], row: Row, **how: Any) -> Row:
    """`measure`, or the row with the problem: one model that fails must not hide the others."""
    try:
        return measure(card, size, row, **how)
    except torch.cuda.OutOfMemoryError:
        return dataclasses.replace(row, problem="out of GPU memory")
    except Exception as error:
        return dataclasses.replace(row, problem=(str(error) or type(error).__name__).splitlines()[0])


def table(rows: Sequence[Row], title: str) -> Table:
    """For people."""
    result = Table("model", "batch", "frames", "parameters", "ms/step", "clips/s", "peak GPU MiB", title=title)
    for row in rows:
        name = " ".join([row.model, *map(str, row.model_args.values())])
        figures = [f"{row.parameters:,}", f"{row.ms_per_step:.1f}", f"{row.clips_per_s:.0f}"] if not row.problem else [""] * 3
        peak = "–" if row.peak_mib is None else f"{row.peak_mib:.0f}"
        result.add_row(name, str(row.batch), str(row.window), *figures, row.problem or peak)
    return result


def benchmark(argv: Sequence[str]) -> int:
    """The command; returns the exit code."""
    parser = LabParser(prog="benchmark_models.py", description="Time training steps of the models on made-up clips.")
    parser.add_argument("--model", type=str, nargs="+", default=[], help="models to time (default: all that are found)")
    parser.add_argument("--steps", type=int, default=20, help=f"steps to time, after {WARM_UP} that are not")
    parser.add_argument("--seq-len", "--seq_len", type=int, default=0, help="frames per clip (default: each model's own window)")
    parser.add_argument("--batch-size", type=int, default=16, help="clips per step")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, or a GPU's number")
    parser.add_argument("--amp", action="store_true", help="autocast: bf16, or fp16 on GPUs older than Ampere")
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of a table")
    given = parser.parse_args(list(argv))
    for name, least in (("steps", 1), ("batch_size", 1), ("seq_len", 0)):
        if given[name] < least:
            raise ConfigError(f"{name} is {given[name]}", expected=f"{least} or more")
    device = choose_device(given.device)
    precision: Precision = amp_precision(device) if given.amp else "fp32"
    cards = [models.find(name) for name in given.model] or list(models.discover().values())
    rows = []
    for card in cards:
        for size in networks(card):
            window = given.seq_len or size["window"]
            row = Row(card.name, size.get("model_args", {}), given.batch_size, window)
            print(f"{row.model} {dict(row.model_args) or ''} …", file=sys.stderr)
            rows.append(attempt(card, size, row, steps=given.steps, device=device, precision=precision))
            if device.type == "cuda":
                torch.cuda.empty_cache()
    if given.json:
        about = {"kind": "benchmark_models", "machine": machine_line(), "device": str(device), "precision": precision}
        print(json.dumps({**about, "steps": given.steps, "rows": [dataclasses.asdict(row) for row in rows]}))
    else:
        console = Console()
        console.print(machine_line(), highlight=False)
        console.print(table(rows, f"training steps on {device}, {precision}, {given.steps} steps"))
    return int(any(row.problem for row in rows))


if __name__ == "__main__":
    sys.exit(guarded(lambda: benchmark(sys.argv[1:])))
