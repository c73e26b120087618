"""A file as large as NTU-60's, from check to training batches: how long each step takes, and how much memory of its own.

    python benchmarks/full_size.py --folder /tmp --json

Writes made-up clips, 40,091 + 16,487 of 300 frames (10.2 GB, twice 1.6 GB more for the store; --deflated: 1.9 GB), uses them and
removes them. Every step is a process of its own. Private memory is what a process alone holds (RssAnon of /proc/self/status,
sampled every 5 ms, Linux): pages of a memory-mapped file do not count, the system takes them back when it needs them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

NTU60 = (40_091, 16_487)
BATCH, WINDOW = 64, 64


def private_mib() -> float:
    """Memory that this process alone holds now; 0 where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon")), 0.0)


class Peak:
    """The largest `private_mib` between entering and leaving."""

    def __enter__(self) -> Peak:
        self.mib, self._stop = private_mib(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(0.005):
            self.mib = max(self.mib, private_mib())

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.mib = max(self.mib, private_mib())


def write(arguments: argparse.Namespace) -> dict[str, Any]:
    """Make the file."""
    from shared_data.synthetic import write_synthetic

    sizes = (arguments.train, arguments.test)
    write_synthetic(arguments.source, classes=60, sizes=sizes, frames=300, deflated=arguments.deflated)
    return {"bytes": arguments.source.stat().st_size}


def check_step(arguments: argparse.Namespace) -> dict[str, Any]:
    """`sal data check`."""
    from shared_data.check import check

    report = check(arguments.source)
    return {"ok": report.ok, "protocol": report.protocol, "findings": [finding.code for finding in report.findings]}


def prepare_step(arguments: argparse.Namespace) -> dict[str, Any]:
    """`sal data prepare`."""
    from shared_data.store import prepare

    return {"bytes": prepare(arguments.source, arguments.store).stat().st_size}


def train(file: Path, batches: int, *, kernel: str = "off") -> dict[str, Any]:
    """Open `file` and make training batches on one core, with torch alone or with the compiled kernel."""
    import torch

    os.environ["SAL_KERNEL"] = kernel
    from shared_data.batches import kernel as optional

    optional.fused(np.zeros((1, 3), np.float32))  # numba is an import like torch

    import shared_data.store  # noqa: F401  (HDF5's own import takes 0.1 s and is none of the file's)
    from shared_data.datasets import open_data
    from shared_data.loader import Loader
    from shared_data.pipelines import pipeline

    torch.set_num_threads(1)
    imported, began = private_mib(), time.perf_counter()
    data = open_data(file)
    opened = time.perf_counter()
    loader = Loader(data.train, pipeline("ctrgcn_ntu", window=WINDOW), batch_size=BATCH, train=True, workers=0)
    steps = loader.epoch(0)
    next(steps)
    first = time.perf_counter()
    made = sum(len(batch.labels) for batch, _ in zip(steps, range(batches), strict=False))
    return {
        "open_s": round(opened - began, 4),
        "first_batch_s": round(first - began, 4),
        "clips_per_s": round(made / (time.perf_counter() - first)),
        "batches": batches,
        "imports_mib": round(imported, 1),
        "in_place": "in-place" in {finding.code for finding in data.findings},
    }


STEPS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "write the file": write,
    "check": check_step,
    "prepare": prepare_step,
    "train from the store": lambda a: train(a.store, a.batches),
    "train from the store again": lambda a: train(a.store, a.batches),
    "train from the store with the kernel": lambda a: train(a.store, a.batches, kernel="now"),
    "train from the file": lambda a: train(a.source, a.batches),
    "train from the file, never checked": lambda a: train(a.source, a.batches),
}


def run_step(arguments: argparse.Namespace) -> dict[str, Any]:
    """One step, measured in this process."""
    began, cpu = time.perf_counter(), time.process_time()
    with Peak() as peak:
        told = STEPS[arguments.step](arguments)
    return {
        "step": arguments.step,
        "seconds": round(time.perf_counter() - began, 2),
        "cpu_s": round(time.process_time() - cpu, 2),
        "peak_private_mib": round(peak.mib, 1),
        **told,
    }


def main() -> int:
    """Command line; 0, or the exit code of the step that failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0] if __doc__ else "")
    parser.add_argument("--folder", type=Path, help="where there is room (a new folder is made in it and removed)")
    parser.add_argument("--train", type=int, default=NTU60[0], help="clips")
    parser.add_argument("--test", type=int, default=NTU60[1], help="clips")
    parser.add_argument("--deflated", action="store_true", help="compress the file: a fifth of the room, no use in place")
    parser.add_argument("--batches", type=int, default=300)
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of a list")
    parser.add_argument("--step", choices=list(STEPS), help=argparse.SUPPRESS)
    parser.add_argument("--source", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--store", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        print(json.dumps(run_step(arguments)))
        return 0
    folder = Path(tempfile.mkdtemp(prefix="full_size_", dir=arguments.folder))
    steps = []
    try:
        names = ["--source", str(folder / "synthetic_ntu60.npz"), "--store", str(folder / "synthetic_ntu60.h5")]
        for step in STEPS:
            command = [sys.executable, __file__, *sys.argv[1:], *names, "--step", step]
            cache = {"XDG_CACHE_HOME": str(folder / ("none" if "never" in step else "cache"))}  # where a check leaves its index
            ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env={**os.environ, **cache})
            if ran.returncode:
                return ran.returncode
            steps.append(json.loads(ran.stdout))
            if not arguments.json:
                print(*(f"{key} {value}" for key, value in steps[-1].items()), sep=", ")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if arguments.json:
        from benchmarks.loader import processor

        flags = [word for word in sys.argv[1:] if word not in ("--folder", str(arguments.folder))]
        result = {
            "clips": [arguments.train, arguments.test],
            "deflated": arguments.deflated,
            "steps": steps,
            "processor": processor(),
            "versions": {"python": platform.python_version(), "numpy": np.__version__, "torch": version("torch")},
            "command": " ".join(["python benchmarks/full_size.py", *flags]),
            "date": time.strftime("%Y-%m-%d"),
        }
        print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
