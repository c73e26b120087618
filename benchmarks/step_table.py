"""The table of `step.py --all`: every published network in every way of running it, a process for each cell, a CSV row for each.

Rows are written as they come. The same command goes on where it was cut off: rows that the file holds stay as they are, but those
with an error are measured again. A file begun at another revision, on another machine or with other settings is refused.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.step_task import LEVELS, PAPER_BATCH
from benchmarks.table_file import TableFile
from engine import compiling
from engine.environment import describe
from engine.errors import ConfigError

FRAMES = 64  # of MS-G3D too, whose recipe has 300: the official figures are of 64
SMALL_BATCH, CPU_BATCH = 16, 4
WORKSPACE_MIB = 128  # for cuDNN where memory is short

# The official code: forward, cross-entropy, backward and optimizer step on made-up clips (N, 3, 64, 25, 2), SkateFormer
# (N, 3, 64, 24, 2); one NVIDIA H200, torch 2.11.0+cu130 with its default TF32 settings, median of 8 steps after 3 to 4,
# 2026-11-20. Memory as torch counts it. "compile" is torch.compile in its default mode. FreqMixFormer's code fails in bf16.
# model, precision, mode, batch: ms, GiB allocated, GiB reserved
OFFICIAL: dict[tuple[str, str, str, int], tuple[float, float, float]] = {
    ("ctrgcn", "fp32", "eager", 64): (82.23, 8.234, 8.705),
    ("ctrgcn", "fp32", "eager", 16): (70.28, 2.141, 2.338),
    ("ctrgcn", "bf16", "eager", 64): (86.06, 4.398, 4.693),
    ("ctrgcn", "bf16", "eager", 16): (91.08, 1.155, 1.260),
    ("ctrgcn", "fp32", "compile", 64): (64.27, 8.023, 8.521),
    ("ctrgcn", "bf16", "compile", 64): (54.49, 4.149, 4.529),
    ("msg3d", "fp32", "eager", 16): (49.88, 3.366, 3.816),
    ("msg3d", "fp32", "eager", 32): (74.31, 6.639, 7.029),
    ("msg3d", "bf16", "eager", 16): (51.74, 1.771, 1.973),
    ("msg3d", "bf16", "eager", 32): (60.04, 3.445, 3.594),
    ("msg3d", "fp32", "compile", 32): (62.34, 6.543, 7.418),
    ("freqmixformer", "fp32", "eager", 16): (614.22, 3.157, 3.645),
    ("freqmixformer", "fp32", "eager", 128): (846.44, 24.525, 27.590),
    ("skateformer", "fp32", "eager", 128): (188.77, 29.861, 31.172),
    ("skateformer", "fp32", "eager", 16): (61.09, 3.833, 4.102),
    ("skateformer", "bf16", "eager", 128): (145.05, 20.223, 21.977),
    ("skateformer", "bf16", "eager", 16): (80.98, 2.631, 2.936),
    ("skateformer", "fp32", "compile", 128): (149.83, 29.582, 29.941),
    ("skateformer", "bf16", "compile", 128): (79.48, 16.225, 18.172),
    ("hypergcn", "fp32", "eager", 64): (117.68, 8.550, 10.205),
    ("hypergcn", "fp32", "eager", 16): (66.53, 2.206, 2.672),
    ("hypergcn", "bf16", "eager", 64): (93.28, 4.675, 5.160),
    ("hypergcn", "bf16", "eager", 16): (73.92, 1.229, 1.342),
    ("hypergcn", "fp32", "compile", 64): (86.52, 7.843, 9.662),
    ("hypergcn", "bf16", "compile", 64): (71.68, 4.191, 5.336),
}

COUNTED = (
    "launches", "traffic_mb_per_clip", "matrix_gflops_per_clip", "other_gflops_per_clip", "kept_mib_per_clip",
    "peak_mib_per_clip", "predicted_gib",
)  # fmt: skip
KEY = ("model", "way", "precision", "batch")
COLUMNS = (
    *KEY, "recipe", "clip", "recompute", "gpu", "threads", "steps", "workspace_mib", "ms_median", "ms_q1", "ms_q3", "clips_per_s",
    "allocated_gib", "reserved_gib", "rss_growth_mib", "kernels", "checked_clips", "difference", "allowed", "right",
    "plain_ms_median", "times_plain", "plain_difference", *COUNTED, *(f"{name}_plain" for name in COUNTED),
    "preset_8gb", "preset_8gb_clips", "preset_8gb_gib", "preset_8gb_fits",
    "official_ms", "official_allocated_gib", "official_reserved_gib", "official_fp32_ms", "official_fp32_allocated_gib",
    "time_of_official_fp32", "memory_of_official_fp32", "notes", "error",
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """A network, a way of running it ("default", "graphs", "none", ...), a precision and a batch; `words` for step.py."""

    model: str
    way: str
    precision: str
    batch: int
    words: tuple[str, ...]

    @property
    def key(self) -> tuple[str, ...]:
        return self.model, self.way, self.precision, str(self.batch)


def cells(device: str, chosen: list[str]) -> Iterator[Cell]:
    """The cells of the table for "cuda", "cpu" or "meta"."""
    for model in chosen:
        if device == "cpu":
            for level in LEVELS:
                yield Cell(model, level, "fp32", CPU_BATCH, ("--recompute", level, "--plain"))
        elif device == "meta":
            for level in LEVELS:
                yield Cell(model, level, "fp32", PAPER_BATCH[model], ("--recompute", level))
            # a row of its own: the levels are counted with the recipe's dropout, the comparison without any
            yield Cell(model, "plain", "fp32", PAPER_BATCH[model], ("--recompute", LEVELS[0], "--plain"))
        else:
            for batch in (PAPER_BATCH[model], SMALL_BATCH):
                for precision in ("fp32", "bf16"):
                    for way, words in GPU_WAYS.items():
                        yield Cell(model, way, precision, batch, words)


GPU_WAYS: dict[str, tuple[str, ...]] = {
    "default": (),
    "graphs": ("--cuda-graphs",),
    "blocks": ("--recompute", "blocks", "--workspace-mib", str(WORKSPACE_MIB)),
    "compile": ("--compile",),
}


def fill(given: argparse.Namespace, words: list[str]) -> int:
    """Measure what the file lacks, print a line for each cell.

    Returns 1 if, of the cells asked for, the file now holds one that failed or whose losses are wrong. Raises `ConfigError` for
    an unknown model, and for a file from another machine, torch or revision, or with other settings.
    """
    device = given.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if unknown := set(given.only or ()) - set(PAPER_BATCH):
        raise ConfigError(f"no published network {', '.join(sorted(unknown))}", where="--only", expected=", ".join(PAPER_BATCH))
    chosen = [model for model in PAPER_BATCH if not given.only or model in given.only]
    out = given.out or Path(f"step_{device}.csv")
    file = TableFile(out, COLUMNS, KEY)
    settings = {"device": device, "threads": given.threads, "steps": given.steps}
    rows = file.begin(describe(), settings, ["benchmarks/step.py", *words])
    kind = device if device in ("cpu", "meta") else "cuda"
    skipped = compiling.missing(torch.device(device)) if kind == "cuda" and torch.cuda.is_available() else []
    if skipped:
        print(f"note: nothing is compiled here: {'; '.join(skipped)}")
    wanted = [cell for cell in cells(kind, chosen) if not (skipped and cell.way == "compile")]
    for cell in wanted:
        before = rows.pop(cell.key, None)
        if before and before["error"] == "":  # None: the line was cut off
            rows[cell.key] = before
            continue
        row = with_official({**measure(cell, device, given), **dict(zip(KEY, cell.key, strict=True))})
        rows[cell.key] = file.put(row, instead=before is not None)  # who stops this while it measures keeps the old line
        print(in_short(row), flush=True)
    return 1 if _complained(out, [rows[cell.key] for cell in wanted]) else 0


def _complained(out: Path, rows: list[dict[str, str]]) -> bool:
    """Whether some of `rows` failed or are wrong; says how many."""
    failed, wrong = sum(bool(row["error"]) for row in rows), sum(row["right"] == "False" for row in rows)
    if failed:
        print(f"{failed} of {len(rows)} cells FAILED (column error of {out.name}); the same command measures them again")
    if wrong:
        print(f"{wrong} of {len(rows)} cells have WRONG losses (column right of {out.name})")
    return failed + wrong > 0


def measure(cell: Cell, device: str, given: argparse.Namespace) -> dict[str, Any]:
    """The row of one cell, from a process of its own; where that fails, its reason as `error`."""
    command = [
        sys.executable, str(Path(__file__).with_name("step.py")), "--json", "--model", cell.model, "--device", device,
        "--precision", cell.precision, "--batch", str(cell.batch), "--forward-batch-size", str(cell.batch),
        "--frames", str(FRAMES), "--threads", str(given.threads), "--steps", str(given.steps), *cell.words,
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": str(given.threads)}
    try:
        ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=given.seconds, env=environment)
    except subprocess.TimeoutExpired:
        return {"error": f"given up after {given.seconds:g} s"}
    try:
        row: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return {"error": reason(ran.stderr) or f"exit code {ran.returncode}"}
    return row


def reason(said: str) -> str:
    """The line of a program's last words that says what was wrong, without the folders of this machine."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    line = next((line for line in lines if line.startswith("error:")), lines[-1] if lines else "")
    return re.sub(r"(?<!\w)~?(?:/[^\s/:'\"]+)+/", "", line)[:200]


def with_official(row: dict[str, Any]) -> dict[str, Any]:
    """The row with the official figures of the same batch; the ratios only on the kind of GPU on which these were measured."""
    model, batch, precision = row["model"], int(row["batch"]), row["precision"]
    same = OFFICIAL.get((model, precision, "compile" if row["way"] == "compile" else "eager", batch))
    fp32 = OFFICIAL.get((model, "fp32", "eager", batch))
    if same:
        row |= dict(zip(("official_ms", "official_allocated_gib", "official_reserved_gib"), same, strict=True))
    if fp32:
        row |= {"official_fp32_ms": fp32[0], "official_fp32_allocated_gib": fp32[1]}
        if "H200" in row.get("gpu", "") and "ms_median" in row:
            row["time_of_official_fp32"] = round(row["ms_median"] / fp32[0], 3)
            row["memory_of_official_fp32"] = round(row["allocated_gib"] / fp32[1], 3)
    return row


def in_short(row: dict[str, Any]) -> str:
    """A row for a person who waits."""
    told = [f"{row['model']:14}{row['way']:8}{row['precision']:5}{row['batch']:>4}"]
    if row.get("error"):
        return f"{told[0]}  error: {row['error']}"
    if "ms_median" in row:
        told.append(f"{row['ms_median']:9.2f} ms ({row['ms_q1']} to {row['ms_q3']})")
        told.append("right" if row["right"] else f"WRONG by {row['difference']:.1e}")
    told += [f"{value} {unit}" for key, unit in SHORT.items() if (value := row.get(key)) not in (None, "")]
    return "  ".join(told)


SHORT = {
    "times_plain": "x plain form", "allocated_gib": "GiB allocated", "reserved_gib": "reserved", "kernels": "kernels",
    "time_of_official_fp32": "of the official fp32 time", "memory_of_official_fp32": "of its memory", "launches": "launches",
    "launches_plain": "in the plain form", "traffic_mb_per_clip": "MB/clip", "traffic_mb_per_clip_plain": "in the plain form",
    "kept_mib_per_clip": "MiB/clip kept", "predicted_gib": "GiB predicted", "preset_8gb": "on 8 GB", "notes": "",
}  # fmt: skip
