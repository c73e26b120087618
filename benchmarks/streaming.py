"""Memory and time of segmenting sequences of several lengths, streamed and in one piece.

    python benchmarks/streaming.py --out benchmarks/results/streaming_cpu.csv

Each cell is a process of its own with one thread: USDRL's STTR of `--width` under the usual head, start weights, random
coordinates of 2 x 25 joints. It first segments 100 frames, then the sequence.
    streamed       `engine.segmentation.stream.sequence_scores`, as evaluation, `sal segment test` and `predict` do
    in one piece   the network shown the whole sequence, without gradients; the scores of both are compared
memory_mib is what the process held at most beyond what it held before: without the sequence itself (features_mib), with the
scores (scores_mib; held twice for a moment, in pieces and joined). glibc is told to give back at once what is freed (MALLOC).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from benchmarks.table_file import TableFile
from engine import models
from engine.environment import describe
from engine.launch import guarded
from engine.memory import peaks
from engine.segmentation.network import build
from engine.segmentation.settings import Settings
from engine.segmentation.stream import sequence_scores
from shared_data.skeletons import NTU25

ROOT = Path(__file__).resolve().parent.parent
STREAMED, WHOLE = "streamed", "in one piece"
COLUMNS = ("way", "frames", "features_mib", "scores_mib", "memory_mib", "seconds", "frames_per_s", "checksum")
CPU = torch.device("cpu")
MIB = 2**20
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
CLASSES = 52


def one(way: str, frames: int, width: int) -> dict[str, object]:
    """A cell, in this process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = build(
        models.find("usdrl"), classes=CLASSES, skeleton=NTU25, people=2, window=64, chosen=Settings(), backbone="sttr",
        width=width,
    ).eval()  # fmt: skip
    features = torch.randn(6, NTU25.joints, frames)
    _scores(network, way, features[..., :100])
    before, began = peaks(CPU)["rss_mib"], time.perf_counter()
    scores = _scores(network, way, features)
    seconds = time.perf_counter() - began
    return {
        "way": way, "frames": frames, "features_mib": f"{features.numel() * 4 / MIB:.0f}",
        "scores_mib": f"{(CLASSES + 1) * frames * 4 / MIB:.0f}", "memory_mib": f"{peaks(CPU)['rss_mib'] - before:.0f}",
        "seconds": f"{seconds:.2f}",
        "frames_per_s": f"{frames / seconds:.0f}", "checksum": f"{scores.double().abs().mean():.6f}",
    }  # fmt: skip


def _scores(network: torch.nn.Module, way: str, features: torch.Tensor) -> torch.Tensor:
    """Class scores (K, T)."""
    if way == STREAMED:
        return sequence_scores(network, features, device=CPU)[0]
    mask = torch.ones(1, 1, features.shape[-1], dtype=torch.bool)
    with torch.no_grad():
        found: torch.Tensor = network(features.unsqueeze(0), mask).classes[-1][0]
    return found


def measure(out: Path, *, lengths: list[int], width: int) -> int:
    """Write a row for each way and length that is not there yet."""
    table = TableFile(out, COLUMNS, ("way", "frames"))
    settings = {"width": width}
    done = table.begin(describe(ROOT), settings, ["benchmarks/streaming.py", "--out", str(out), "--width", str(width)])
    for frames in lengths:
        for way in (STREAMED, WHOLE):
            if (way, str(frames)) not in done:
                words = [sys.executable, __file__, "--one", way, str(frames), "--width", str(width)]
                told = subprocess.run(words, capture_output=True, text=True, check=True, env=os.environ | MALLOC)
                print(table.put(json.loads(told.stdout)), flush=True)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("streaming.csv"))
    parser.add_argument("--frames", type=int, nargs="+", default=[1000, 10000, 50000, 100000])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--one", nargs=2, metavar=("WAY", "FRAMES"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(one(given.one[0], int(given.one[1]), given.width)))
        return 0
    return guarded(lambda: measure(given.out, lengths=given.frames, width=given.width))


if __name__ == "__main__":
    sys.exit(main())
