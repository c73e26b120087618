"""How fast one core makes training batches, how soon the first one is there, and what memory that takes.

    python benchmarks/loader.py --data NTU60_CS.npz --window 64 --batch 64 --seconds 5 --json

In the same run, slice by slice, a clip-by-clip reader is timed (`clip_by_clip`): the ratio is what compares across machines.
Without --data a small file of made-up clips is written first (its making is not timed). Private memory is what this process
alone holds and cannot give back (/proc/self/smaps_rollup, Linux): pages of a memory-mapped file do not count.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

from benchmarks import clip_by_clip
from shared_data.batches import kernel
from shared_data.clips import Clips
from shared_data.datasets import open_data
from shared_data.errors import LabError
from shared_data.loader import Loader
from shared_data.pipelines import option_names, pipeline
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
    import_kernel(arguments.kernel)
    before = private_mib()
    began = time.perf_counter()
    data = open_data(file)
    name = arguments.pipeline or ("ctrgcn_ucla" if data.skeleton.name == "ucla20" else "ctrgcn_ntu")
    options = dict(word.split("=", 1) for word in arguments.option)
    known = option_names(name)
    options |= {key: getattr(arguments, key) for key in ("window", "stream") if key in known}
    reader = pipeline(name, **{key: _value(value) for key, value in options.items()})
    loader = Loader(data.train, reader, batch_size=arguments.batch, train=True, workers=arguments.workers)
    batches = loader.epoch(0)
    first = next(batches)
    to_first = time.perf_counter() - began
    shape = tuple(first.clips.shape)
    del first, batches
    for batch in loader.epoch(0):  # pages, caches, the compiled kernel
        del batch
    after = private_mib()

    yardstick = Yardstick(data.train, arguments) if data.skeleton.joints == 25 and data.train.rows.dtype == np.float32 else None
    rates, naive, epoch, shown, spent, cpu = [], [], 1, 0, 0.0, 0.0
    while spent < arguments.seconds:
        start, start_cpu, slice_shown = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() - start < SLICE:
            for batch in loader.epoch(epoch):
                slice_shown += len(batch.labels)
                if time.perf_counter() - start >= SLICE:
                    break
            epoch += 1
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - start_cpu
        rates.append(slice_shown / cpu_seconds)
        shown, spent, cpu = shown + slice_shown, spent + seconds, cpu + cpu_seconds
        if yardstick:
            naive.append(yardstick.rate())
    return {
        "clips_per_s": round(shown / spent),
        "clips_per_cpu_s": round(shown / cpu),
        "clips_per_cpu_s_median": round(float(np.median(rates))),
        "clips_per_cpu_s_best": round(max(rates)),
        "clip_by_clip_per_cpu_s_median": round(float(np.median(naive))) if naive else None,
        "times_clip_by_clip": round(float(np.median(np.array(rates) / np.array(naive))), 1) if naive else None,
        "first_batch_s": round(to_first, 4),
        "private_mib_above_imports": None if before is None or after is None else round(after - before, 1),
        "file": file.name,
        "layout": data.layout,
        "clips": len(data.train),
        "mean_frames": round(float(data.train.extent.mean()), 1),
        "batch_shape": shape,
        "pipeline": name,
        "options": options,
        "workers": arguments.workers,
        "kernel": arguments.kernel,
        "processor": processor(),
        "versions": {"python": platform.python_version(), "numpy": np.__version__, "torch": torch.__version__},
        "command": " ".join(["python benchmarks/loader.py", *(Path(word).name for word in sys.argv[1:])]),
        "date": time.strftime("%Y-%m-%d"),
    }


class Yardstick:
    """The clip-by-clip reader on the same clips, timed in turns with the loader."""

    def __init__(self, clips: Clips, arguments: argparse.Namespace) -> None:
        self._x = clip_by_clip.padded(clips, min(len(clips), 512))
        self._shape = arguments.window if arguments.window > 0 else 64, clips.joints, clips.max_people
        self._rng = np.random.default_rng(0)
        self._batch = arguments.batch

    def rate(self) -> float:
        """Clips per second of processor time over one slice."""
        start, shown = time.process_time(), 0
        while time.process_time() - start < SLICE:
            index = self._rng.integers(0, len(self._x), self._batch)
            shown += len(clip_by_clip.batch(self._x, index, self._rng, self._shape))
        return shown / (time.process_time() - start)


def import_kernel(wish: str) -> None:
    """Set what the loader may use; numba itself is an import like torch, so it comes before memory and time are taken."""
    os.environ["SAL_KERNEL"] = wish
    if wish == "now":
        for which in (kernel.CHANNELS, kernel.VIEWS):
            kernel.fused(np.zeros((1, 3), np.float32), which)


def _value(word: Any) -> Any:
    """A word of --option as the number, list or text it means."""
    try:
        return ast.literal_eval(word)
    except (ValueError, SyntaxError):
        return word


def main() -> int:
    """Command line; 0, or the exit code of the error printed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, help="any file `sal data check` accepts; made-up clips without it")
    parser.add_argument("--window", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--stream", default="j", help="j, b, jm or bm")
    parser.add_argument("--pipeline", default="", help="a named pipeline; default: CTR-GCN's for the data")
    parser.add_argument("--option", action="append", default=[], help="an option of the pipeline, NAME=VALUE; repeat as needed")
    parser.add_argument("--kernel", choices=("off", "now"), default="off", help="now: the compiled kernel (needs numba)")
    parser.add_argument("--workers", type=int, default=0, help="threads that make batches ahead; 0 measures one core")
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
