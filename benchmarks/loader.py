"""How fast one core makes training batches, how soon the first one is there, and what memory that takes.

    python benchmarks/loader.py --data NTU60_CS.npz --window 64 --batch 64 --seconds 5 --json

Without --data a small file of made-up clips is written first (its making is not timed). Private memory is what this process
alone holds and cannot give back (/proc/self/smaps_rollup, Linux): pages of a memory-mapped file do not count.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

from shared_data.datasets import open_data
from shared_data.errors import LabError
from shared_data.loader import Loader
from shared_data.pipelines import pipeline
from shared_data.synthetic import write_synthetic

SLICE = 0.25  # seconds


def private_mib() -> float | None:
    """Private, unreclaimable memory of this process; None where the system does not tell."""
    try:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    except OSError:
        return None
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines[1:]}
    return kib["Private_Dirty"] / 1024


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def measure(arguments: argparse.Namespace, file: Path) -> dict[str, Any]:
    """One run of the benchmark."""
    before = private_mib()
    began = time.perf_counter()
    data = open_data(file)
    name = "ctrgcn_ucla" if data.skeleton.name == "ucla20" else "ctrgcn_ntu"
    options = {"stream": arguments.stream, "window": arguments.window}
    loader = Loader(data.train, pipeline(name, **options), batch_size=arguments.batch, train=True, prefetch=arguments.prefetch)
    batches = loader.epoch(0)
    first = next(batches)
    to_first = time.perf_counter() - began
    shape = tuple(first.clips.shape)
    del first, batches

    rates, shown, epoch = [], 0, 1
    start, start_cpu = time.perf_counter(), time.process_time()
    slice_start, slice_shown = start, 0
    while time.perf_counter() - start < arguments.seconds:
        for batch in loader.epoch(epoch):
            shown += len(batch.labels)
            slice_shown += len(batch.labels)
            now = time.perf_counter()
            if now - slice_start >= SLICE:
                rates.append(slice_shown / (now - slice_start))
                slice_start, slice_shown = now, 0
            if now - start >= arguments.seconds:
                break
        epoch += 1
    seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    after = private_mib()
    return {
        "clips_per_s": round(shown / seconds),
        "clips_per_cpu_s": round(shown / cpu),
        "clips_per_s_median": round(float(np.median(rates))) if rates else None,
        "clips_per_s_best": round(max(rates)) if rates else None,
        "first_batch_s": round(to_first, 4),
        "private_mib_above_imports": None if before is None or after is None else round(after - before, 1),
        "file": file.name,
        "layout": data.layout,
        "clips": len(data.train),
        "mean_frames": round(float(data.train.extent.mean()), 1),
        "batch_shape": shape,
        "pipeline": name,
        "stream": arguments.stream,
        "prefetch": arguments.prefetch,
        "processor": processor(),
        "versions": {"python": platform.python_version(), "numpy": np.__version__, "torch": torch.__version__},
        "command": " ".join(["python benchmarks/loader.py", *(Path(word).name for word in sys.argv[1:])]),
        "date": time.strftime("%Y-%m-%d"),
    }


def main() -> int:
    """Command line; 0, or the exit code of the error printed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, help="any file `sal data check` accepts; made-up clips without it")
    parser.add_argument("--window", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--stream", default="j", help="j, b, jm or bm")
    parser.add_argument("--prefetch", type=int, default=0, help="batches made ahead by a thread; 0 measures one core")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a list")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # one core is the unit of this benchmark
    try:
        with tempfile.TemporaryDirectory() as folder:
            file = arguments.data
            if file is None:
                file = write_synthetic(
                    Path(folder) / "synthetic.npz", classes=10, train_per_class=64, test_per_class=2, frames=300
                )
            result = measure(arguments, file)
    except LabError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    if arguments.json:
        print(json.dumps(result))
    else:
        for key, value in result.items():
            print(f"{key:26s} {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
