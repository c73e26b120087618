"""What each network costs, without a GPU and without values: parameters, operations, memory that training keeps per clip.

    python benchmarks/networks.py --out benchmarks/results/networks.jsonl

Every size that a model.toml expects, on the meta device in fp32. "Kept" is what is alive between forward and backward, beyond
weights and input: the difference between batches of 4 and 8 clips, per clip, at each level of --recompute. "Peak" is the slope of
the planner's law, all of a step, at the level that a GPU uses unless told otherwise (cheap). Prints a Markdown table, writes one
JSON object per size. Launches and traffic of a step: `step.py --device meta`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine import models
from engine.assembly import expected_shape
from engine.environment import describe
from engine.launch import guarded
from engine.models import ModelCard
from layers.recompute import Level, recomputing
from planner.steps.kernels import FusedAttention
from planner.steps.lifetimes import Lifetimes
from planner.steps.peak import predict
from shared_data.skeletons import skeleton

MIB = 2**20
LEVELS: tuple[Level, ...] = ("none", "cheap", "blocks")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSONL file to write")
    parser.add_argument("--models", nargs="+", help="default: all")
    given = parser.parse_args()
    rows = []
    print("| model | classes, joints, frames, settings | parameters | GFLOPs | kept, MiB per clip (none, cheap, blocks) | peak |")
    print("|---|---|---|---|---|---|")
    for card in [models.find(name) for name in given.models] if given.models else models.discover().values():
        for expected in card.toml["expect"]:
            row = cost(card, expected)
            rows.append(row)
            size = f"{row['classes']}, {row['skeleton']}, {row['frames']}, {row['model_args'] or ''}".rstrip(", ")
            kept = ", ".join(f"{row['kept_mib_per_clip'][level]:.1f}" for level in LEVELS)
            peak = f"{row['peak_mib_per_clip']:.1f}"
            print(f"| {card.name} | {size} | {row['parameters']:,} | {row['gflops']:.3f} | {kept} | {peak} |", flush=True)
    if given.out:
        about = {"kind": "networks", "command": "python benchmarks/networks.py", **describe()}
        given.out.write_text("".join(json.dumps(line) + "\n" for line in [about, *rows]))
    return 0


def cost(card: ModelCard, expected: dict[str, Any]) -> dict[str, Any]:
    """One line of the table: an [[expect]] row of `card` and what it costs."""
    layout, people, arguments = skeleton(expected["skeleton"]), expected["people"], expected.get("model_args", {})
    shape = expected_shape(card, expected)

    def build() -> nn.Module:
        return models.build(card, num_classes=expected["classes"], skeleton=layout, people=people, **arguments)

    kept = {level: round((alive(build, shape, 8, level) - alive(build, shape, 4, level)) / 4 / MIB, 2) for level in LEVELS}
    peak = predict(build, shape, expected["classes"], recompute="cheap").train.slope
    return {
        "kind": "network", "model": card.name, "classes": expected["classes"], "skeleton": layout.name, "people": people,
        "frames": shape[1], "model_args": arguments, "parameters": expected["parameters"], "gflops": expected["gflops"],
        "kept_mib_per_clip": kept, "peak_mib_per_clip": round(peak, 2),
    }  # fmt: skip


def alive(build: Callable[[], nn.Module], shape: tuple[int, ...], clips: int, level: Level = "none") -> int:
    """Bytes alive on the meta device after a forward pass of `clips` clips in training mode, loss included."""
    with torch.device("meta"):
        network, batch = build().train(), torch.empty(clips, *shape)
        labels = torch.empty(clips, dtype=torch.int64)
        memory = Lifetimes()
        with memory, FusedAttention(), recomputing(level):
            loss = nn.functional.cross_entropy(network(batch), labels)
            left = memory.live
        del loss
    return left


if __name__ == "__main__":
    sys.exit(guarded(main))
