#!/usr/bin/env python3
"""Does this model work in this environment? Runs inside the image, and natively:

    python3 smoke_tests/smoke.py --model ctrgcn [--device cpu] [--data FILE] [--vram-limit 8]

Builds the model as the [smoke] table of its model.toml says, checks forward, backward, optimizer step, save, load, parameter
count and the loss on fixed weights and clips, then trains one epoch through the model's own main.py on a small synthetic file
(and on FILE). With --vram-limit it also says whether the model's main recipe fits a GPU of that many GiB (`vram.py`). The last
line on stdout is JSON of kind "smoke_result" with every assertion by name.
Exit codes: 0 all assertions hold, 1 one does not, 2 wrong arguments, 78 a wrong [smoke] table, else docs/exit-codes.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    from torch import nn

    from engine.models import ModelCard

WORK_DIR = Path("/workspace/work_dir")
_STEPS = 3
_UNSUITABLE = {2: "it is not of the kind that the recipe is set for", 65: "it cannot be used"}
"""Exit codes with which main.py refuses a data file."""


@dataclass(frozen=True)
class Smoke:
    """The [smoke] table of a model.toml. `loss` and `loss_tolerance`: mean cross entropy in eval mode, float32, on CPU or GPU."""

    classes: int
    skeleton: str
    people: int
    window: int
    batch: int
    parameters: int
    loss: float
    loss_tolerance: float
    recipe: str
    model_args: dict[str, Any]


def table(card: ModelCard) -> Smoke:
    """The model's [smoke] table; raises `ModelError` (exit 78) for a missing, unknown or mistyped key."""
    from engine.models import ModelError

    given: dict[str, Any] = {"model_args": {}, **card.toml.get("smoke", {})}
    kinds: dict[str, type | tuple[type, ...]] = {
        "loss": (int, float),
        "loss_tolerance": (int, float),
        "skeleton": str,
        "recipe": str,
        "model_args": dict,
    }
    names = [entry.name for entry in dataclasses.fields(Smoke)]
    wrong = sorted(set(names) ^ given.keys())
    wrong = wrong or [name for name in names if not isinstance(given[name], kinds.get(name, int))]
    if wrong:
        raise ModelError(
            f"the [smoke] table has a missing, unknown or mistyped key: {', '.join(wrong)}",
            where=str(card.folder / "model.toml"),
            expected=", ".join(names),
        )
    return Smoke(**given)


def built(card: ModelCard, spec: Smoke, device: str) -> nn.Module:
    """A new model of the table on `device`."""
    from engine import models
    from shared_data.skeletons import skeleton

    model = models.build(card, num_classes=spec.classes, skeleton=skeleton(spec.skeleton), people=spec.people, **spec.model_args)
    return model.to(device)


def check_network(card: ModelCard, spec: Smoke, device: str, folder: Path) -> tuple[dict[str, bool], dict[str, Any]]:
    """Assertions by name, and the figures behind them."""
    import torch
    from safetensors.torch import load_file, save_file
    from torch.nn.functional import cross_entropy

    from engine.assembly import clip_shape
    from engine.config import parse
    from shared_data.skeletons import skeleton
    from smoke_tests import fingerprint

    torch.manual_seed(0)
    torch.backends.cudnn.allow_tf32 = False  # the fingerprint is one of float32
    holds: dict[str, bool] = {}
    model = built(card, spec, device)
    count = sum(parameter.numel() for parameter in model.parameters())
    holds["parameter_count"] = count == spec.parameters

    fingerprint.fill(model)
    recipe = dataclasses.replace(
        parse(["--config", str(card.recipe(spec.recipe))], model=card.name), train_window_size=spec.window
    )
    _, window, joints, _ = clip_shape(recipe, skeleton(spec.skeleton), spec.people, train=True)  # a pipeline may drop joints
    clips = fingerprint.clips(spec.batch, window, joints, spec.people).to(device)
    labels = fingerprint.labels(spec.batch, spec.classes).to(device)
    fingerprint.settle(model, clips)
    with torch.no_grad():
        logits = model(clips)
    loss = cross_entropy(logits.double(), labels).item()
    holds["forward"] = tuple(logits.shape) == (spec.batch, spec.classes) and bool(torch.isfinite(logits).all())
    holds["loss_fingerprint"] = abs(loss - spec.loss) <= spec.loss_tolerance

    model.train()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    losses: list[float] = []
    for _ in range(_STEPS):
        optimizer.zero_grad(set_to_none=True)
        step_loss = cross_entropy(model(clips), labels)
        step_loss.backward()
        if not losses:
            learned = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
            unused = card.unused_parameters(learned)
            gradients = [parameter.grad for name, parameter in learned.items() if name not in unused]
            holds["backward"] = all(g is not None and bool(torch.isfinite(g).all()) for g in gradients)
        optimizer.step()
        losses.append(step_loss.item())
    moved = [not torch.equal(before[name], parameter) for name, parameter in model.named_parameters()]
    holds["optimizer_step"] = any(moved) and losses[-1] < losses[0]

    model.eval()
    with torch.no_grad():
        trained = model(clips)
        file = folder / "smoke.safetensors"
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, str(file))
        other = built(card, spec, device)
        other.load_state_dict(load_file(str(file), device=device), strict=True)
        other.eval()
        holds["same_logits_after_reload"] = torch.equal(trained, other(clips)) and not torch.equal(trained, logits)
    return holds, {"parameters": count, "loss": loss, "step_losses": losses}


def train(card: ModelCard, recipe: str, device: str, data: Path, work_dir: Path) -> int:
    """One epoch through the model's own main.py on at most 100 clips of each split; returns its exit code."""
    command = [
        sys.executable, "main.py", "--recipe", recipe, "--data", str(data), "--work-dir", str(work_dir), "--device", device,
        "--num-epoch", "1", "--batch-size", "4", "--test-batch-size", "4", "--num-worker", "0", "--debug",
    ]  # fmt: skip
    sys.stdout.flush()
    if code := subprocess.run(command, cwd=card.folder, check=False).returncode:
        print(f"main.py ended with exit code {code}: {' '.join(command)}", flush=True)
    return code


def trained(card: ModelCard, work_dir: Path) -> bool:
    """Whether a run left finite losses, metrics and weights."""
    events = [json.loads(line) for line in (work_dir / "log.jsonl").read_text().splitlines()]
    losses = [event["loss"] for event in events if event["event"] in ("step", "epoch", "eval")]
    metrics = json.loads((work_dir / "metrics.json").read_text())
    weights = work_dir / "checkpoints" / "last.safetensors"
    return bool(losses) and all(map(math.isfinite, losses)) and metrics["model"] == card.name and weights.stat().st_size > 0


def check_training(card: ModelCard, spec: Smoke, device: str, data: Path | None, folder: Path) -> dict[str, bool]:
    """Training on a synthetic file, and on the mounted one."""
    from shared_data.synthetic import write_synthetic

    small = write_synthetic(folder / "synthetic.npz", classes=4, train_per_class=4, test_per_class=2, frames=64, seed=0)
    run = folder / "run"
    holds = {"trains": train(card, spec.recipe, device, small, run) == 0 and trained(card, run)}
    if data is not None:
        run = folder / "run_on_data"
        code = train(card, spec.recipe, device, data, run)
        holds["trains_on_data"] = code == 0 and trained(card, run)
        if holds["trains"] and code in _UNSUITABLE:  # the same command did on the synthetic file
            print(f"{data} does not suit {card.name}'s recipe {spec.recipe!r}: {_UNSUITABLE[code]}; main.py says above why",
                  flush=True)  # fmt: skip
    return holds


def measured(device: str) -> dict[str, Any]:
    """Versions and peaks; ru_maxrss of this process or its largest child."""
    import h5py
    import numpy
    import torch

    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    on_gpu = device.startswith("cuda")
    return {
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "numpy": numpy.__version__,
            "h5py": h5py.__version__,
        },
        "gpu": torch.cuda.get_device_name(device) if on_gpu else None,
        "peak_rss_bytes": peak * (1 if sys.platform == "darwin" else 1024),
    }


def smoke(model: str, device: str, data: Path | None, vram_limit: float | None = None) -> int:
    """Run everything, print the result line; returns the exit code. `vram_limit`: GiB of the card asked about."""
    from engine import models
    from shared_data.errors import MissingInputError
    from smoke_tests import vram

    started = time.monotonic()
    if data is not None and not data.exists():
        raise MissingInputError(f"no data file {data}", next_step="mount it with smoke_test_all.py --data FILE")
    card = models.find(model)
    spec = table(card)
    budget = None if vram_limit is None else vram.budget(vram_limit, device)
    with tempfile.TemporaryDirectory(dir=WORK_DIR if WORK_DIR.is_dir() else None, prefix="smoke-") as name:
        holds, figures = check_network(card, spec, device, Path(name))
        figures |= vram.own_peaks(device)
        holds |= check_training(card, spec, device, data, Path(name))
    if budget is not None:
        figures["vram"] = judged = vram.judged(card, budget, device)
        holds |= vram.assertions(judged)
        print(f"{judged['recipe']} on {vram_limit:g} GiB: {judged['word']} {judged['reason']}".rstrip(), flush=True)
    result = {
        "kind": "smoke_result",
        "model": card.name,
        "device": device,
        "assertions": holds,
        **figures,
        **measured(device),
        "seconds": round(time.monotonic() - started, 2),
    }
    print(json.dumps(result), flush=True)
    return 0 if all(holds.values()) else 1


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Smoke test of one model.", allow_abbrev=False)
    parser.add_argument("--model", required=True, help="folder of models/")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda:N")
    parser.add_argument("--data", type=Path, help="also train on this data file")
    parser.add_argument("--vram-limit", type=float, metavar="GIB", help="also judge the model's main recipe on such a GPU")
    given = parser.parse_args(argv)

    # One thread, for main.py too: the clips are few, and threads that wait for a busy core take many times as long.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from engine.launch import guarded

    return guarded(lambda: smoke(given.model, given.device, given.data, given.vram_limit))


if __name__ == "__main__":
    sys.exit(main())
