"""A linear probe on kept features against one that encodes the training clips again in every epoch.

    python benchmarks/probe.py --out benchmarks/results/probe_cpu.csv

Both learn from the same features in the same steps, to the same weights, which is checked: the crop is fixed. The encoder is a
classifier of the lab with its start weights, on made-up clips. Every epoch of both is run. "encoded again" is spared what the
official loops also do in every epoch, encoding the test clips. Times are of one process after the other, everything included but
opening the data.
    kept            encode all clips once, then all epochs on what is kept
    encoded again   encode the test clips once and the training clips in every epoch
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

from benchmarks.table_file import TableFile
from engine import models
from engine.downstream.features import Features
from engine.downstream.probe import Probed, ProbeSettings, probe
from engine.encode import encode_clips, head_of
from engine.environment import describe
from engine.launch import guarded
from shared_data.clips import Clips
from shared_data.datasets import open_data
from shared_data.loader import Loader
from shared_data.pipelines import pipeline
from shared_data.synthetic import write_synthetic

COLUMNS = (
    "way", "model", "width", "train", "test", "window", "epochs", "steps", "seconds", "processor_s", "times_encoded_again",
    "times_encoded_again_processor",
)  # fmt: skip
KEPT, AGAIN = "kept", "encoded again"
CLASSES, BATCH = 8, 16


def measure(out: Path, *, model: str, clips: int, epochs: int, window: int, threads: int) -> int:
    """Write a row for each way."""
    torch.set_num_threads(threads)
    settings = {"threads": threads, "model": model, "clips": clips, "epochs": epochs, "window": window}
    told = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    table = TableFile(out, COLUMNS, ("way",))
    table.begin(describe(Path(__file__).resolve().parent.parent), settings, ["benchmarks/probe.py", "--out", str(out), *told])
    with tempfile.TemporaryDirectory() as folder:
        file = write_synthetic(Path(folder) / "synthetic.npz", classes=CLASSES, sizes=(clips, clips // 2), frames=120)
        data = open_data(file)
    card = models.find(model)
    torch.manual_seed(0)
    network = models.build(card, num_classes=CLASSES, skeleton=data.skeleton, people=data.train.max_people)
    head, reader = head_of(card, network), pipeline("scdnet_downstream", window=window)

    def encoded(part: Clips) -> Features:
        loader = Loader(part, reader, batch_size=BATCH, train=False)
        found = encode_clips(network, head, loader, device=torch.device("cpu"))
        return Features(found.scores.ids, found.scores.labels, found.features)

    recipe = ProbeSettings(0.1, BATCH, epochs, drops=(epochs * 5 // 8, epochs * 7 // 8))

    def kept() -> Probed:
        return probe(encoded(data.train), encoded(data.test), CLASSES, recipe)[0]

    def again() -> Probed:
        first = encoded(data.train)  # of epoch 0, which is not encoded twice
        return probe(
            first, encoded(data.test), CLASSES, recipe,
            each_epoch=lambda epoch: encoded(data.train).values if epoch else first.values,
        )[0]  # fmt: skip

    encoded(data.test)  # caches, and what a network makes once
    (slow, *slow_times), (fast, *fast_times) = _timed(again), _timed(kept)
    if not np.array_equal(slow.weight, fast.weight):
        raise AssertionError("the two ways learned different weights")
    for way, one, times in ((KEPT, fast, fast_times), (AGAIN, slow, slow_times)):
        row = table.put({
            "way": way, "model": model, "width": one.weight.shape[1], "train": len(data.train), "test": len(data.test),
            "window": window, "epochs": epochs, "steps": epochs * -(-len(data.train) // BATCH), "seconds": f"{times[0]:.2f}",
            "processor_s": f"{times[1]:.2f}", "times_encoded_again": f"{slow_times[0] / times[0]:.1f}",
            "times_encoded_again_processor": f"{slow_times[1] / times[1]:.1f}",
        })  # fmt: skip
        print(" ".join(row.values()), flush=True)
    return 0


def _timed(work: Callable[[], Probed]) -> tuple[Probed, float, float]:
    """What it made, seconds, and those of the processor."""
    began, processor = time.perf_counter(), time.process_time()
    made = work()
    return made, time.perf_counter() - began, time.process_time() - processor


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the table, a CSV file")
    parser.add_argument("--model", default="ctrgcn", help="the encoder, by its folder")
    parser.add_argument("--clips", type=int, default=128, help="training clips; half as many are judged")
    parser.add_argument("--epochs", type=int, default=80)
    parser.add_argument("--window", type=int, default=64, help="frames")
    parser.add_argument("--threads", type=int, default=2)
    return measure(**vars(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(guarded(main))
