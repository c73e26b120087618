"""One training step of Hyper-GCN on random clips of the size of NTU-60, without any data file.

    python3 smoke_test_kaggle.py --device cuda:0 --batch-size 2 --window-size 48

Settings are those of the recipe `smoke`. Exit code 0: loss and all gradients are finite numbers; 1: one is not; 2: wrong
arguments. `python3 main.py --recipe smoke --data NTU60_CS.npz` trains a short epoch on a data file instead.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)  # the repository, not this folder

from engine.launch import guarded  # noqa: E402

CLASSES, SKELETON, PEOPLE = 60, "ntu25", 2


def step(device_name: str, batch_size: int, window: int) -> int:
    """The training step; prints what came of it and returns the exit code."""
    import torch

    from engine import models
    from engine.assembly import choose_device, train_step
    from engine.config import parse
    from engine.errors import ConfigError
    from shared_data.skeletons import skeleton

    if batch_size < 1 or window < 1 or batch_size * window < 2:
        raise ConfigError(
            f"{batch_size} clips of {window} frames", expected="--batch-size and --window-size 1 or more, and not one frame alone"
        )
    card, device = models.find("hypergcn"), choose_device(device_name)
    config = parse(["--recipe", "smoke"], model=card.name)
    torch.manual_seed(config.seed)
    network = models.build(card, num_classes=CLASSES, skeleton=SKELETON, people=PEOPLE, **config.model_args).to(device)
    clips = torch.randn(batch_size, 3, window, skeleton(SKELETON).joints, PEOPLE).to(device)
    labels = (torch.arange(batch_size) % CLASSES).to(device)
    result = train_step(config, network.train(), device)(clips, labels)
    loss, norm = float(result.loss), float(result.grad_norm)
    fine = bool(torch.isfinite(torch.tensor([loss, norm])).all())
    print(f"{card.title} on {device}, clips {tuple(clips.shape)}: loss {loss:.4f}, gradient norm {norm:.3f}")
    return 0 if fine else 1


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="One training step of Hyper-GCN on random clips.", allow_abbrev=False)
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda:N, or a GPU's number")
    parser.add_argument("--batch-size", type=int, default=4, help="clips (default 4)")
    parser.add_argument("--window-size", type=int, default=48, help="frames (default 48)")
    given = parser.parse_args(argv)
    return guarded(lambda: step(given.device, given.batch_size, given.window_size))


if __name__ == "__main__":
    sys.exit(main())
