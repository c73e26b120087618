"""How long exact neighbours among features take, and how much memory beyond the features' own files.

    python benchmarks/neighbours.py --out benchmarks/results/neighbours_cpu.csv

The features are made up, memory-mapped from .npy files, in NTU-60's cross-subject numbers: 40,091 in the gallery, 16,487 queries.
Each row is a process of its own: from opening the files to the last vote, imports not timed; its processor time (of all
threads together) says what other work on the machine has not taken part in. Peak memory is what the process had resident at most,
mapped pages of the files and Python with torch included (VmHWM), and what it alone held (RssAnon, looked at every 5 ms) over what
it held before.
    spread     features around 60 centres: float32 candidates are sure for almost all queries
    collapsed  every feature the same: all are equally near, and every query is looked at again in float64. The worst case
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

from benchmarks.full_size import Peak, private_mib
from benchmarks.table_file import TableFile
from engine.downstream.neighbours import MEMORY, accuracies, nearest
from engine.environment import describe
from engine.launch import guarded

NTU60, CLASSES, WIDTHS = (40_091, 16_487), 60, (256, 2048)
COLUMNS = (
    "features", "width", "k", "gallery", "queries", "bound_mib", "threads", "seconds", "processor_s", "peak_mib", "files_mib",
    "own_peak_mib", "top1_k1",
)  # fmt: skip
CASES = (("spread", 256, 10), ("spread", 2048, 1), ("spread", 2048, 20), ("collapsed", 2048, 1))


def write(folder: Path, kind: str, width: int) -> None:
    """The features of both parts, piece by piece."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(CLASSES, width)).astype(np.float32)
    for name, count in zip(("gallery", "queries"), NTU60, strict=True):
        labels = rng.integers(0, CLASSES, count)
        file = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float32, (count, width))
        for first in range(0, count, 4096):
            rows = slice(first, min(first + 4096, count))
            noise = rng.standard_normal((rows.stop - first, width), np.float32)
            file[rows] = centres[labels[rows]] + 4 * noise if kind == "spread" else centres[0]
        file.flush()
        np.save(folder / f"{name}_labels.npy", labels)


def run_one(folder: Path, k: int, threads: int) -> dict[str, Any]:
    """One search, in this process."""
    torch.set_num_threads(threads)
    before = private_mib()
    with Peak() as peak:
        began, processor = time.perf_counter(), time.process_time()
        gallery, queries = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("gallery", "queries"))
        found = nearest(gallery, queries, k)
        labels = [np.load(folder / f"{name}_labels.npy") for name in ("gallery", "queries")]
        top1 = accuracies(found, labels[0], labels[1], [1, k])
        seconds, processor = time.perf_counter() - began, time.process_time() - processor
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "gallery": len(gallery), "queries": len(queries), "seconds": f"{seconds:.1f}", "processor_s": f"{processor:.1f}",
        "peak_mib": f"{int(status['VmHWM'].split()[0]) / 1024:.0f}", "own_peak_mib": f"{peak.mib - before:.0f}",
        "files_mib": f"{(gallery.nbytes + queries.nbytes) / 2**20:.0f}", "top1_k1": f"{top1[1]:.4f}",
    }  # fmt: skip


def measure(out: Path, threads: int) -> int:
    """Write a row for each case."""
    table = TableFile(out, COLUMNS, ("features", "width", "k"))
    about = describe(Path(__file__).resolve().parent.parent)
    found = table.begin(about, {"threads": threads}, ["benchmarks/neighbours.py", "--out", str(out), "--threads", str(threads)])
    for kind, width, k in CASES:
        if (kind, str(width), str(k)) in found:
            continue
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), kind, width)
            command = [sys.executable, __file__, "--one", folder, "--k", str(k), "--threads", str(threads)]
            told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        made = {"features": kind, "width": width, "k": k, "bound_mib": MEMORY // 2**20, "threads": threads}
        print(" ".join(table.put({**made, **json.loads(told)}).values()), flush=True)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="the table, a CSV file")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--k", type=int, default=1, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(run_one(arguments.one, arguments.k, arguments.threads)))
        return 0
    if arguments.out is None:
        parser.error("--out is needed")
    return measure(arguments.out, arguments.threads)


if __name__ == "__main__":
    sys.exit(guarded(main))
