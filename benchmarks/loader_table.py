"""All rows of the loader's table, one process after the other: `benchmarks/loader.py` for every kind of batch.

    python benchmarks/loader_table.py --out benchmarks/results/loader_cpu.jsonl

Made-up clips of NTU-60's lengths are written and prepared first. Prints a Markdown table, writes the JSON of every run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from shared_data.store import prepare
from shared_data.synthetic import write_synthetic

ROOT = Path(__file__).resolve().parent.parent
CLIPS = (2_000, 120)  # train, test
# What is measured, further words for loader.py, and the clips/s of the official reader on one core: recorded once with its own
# code on a machine of this kind, where CTR-GCN's made 2,530. The clip-by-clip reader of a run says what this machine makes of it.
ROWS: tuple[tuple[str, tuple[str, ...], int], ...] = (
    ("CTR-GCN, crop and rotation, window 64", (), 2_530),
    ("the same, bone motion", ("--stream", "bm"), 1_670),
    ("MAMP, window 120", ("--pipeline", "mamp_ntu", "--window", "120"), 2_320),
    ("Hyper-GCN", ("--pipeline", "hypergcn_ntu"), 2_385),
    ("SkateFormer, all augmentations", ("--pipeline", "skateformer_ntu"), 1_395),
    ("MS-G3D, 300 frames as they are", ("--pipeline", "msg3d_ntu", "--window", "-1"), 14_000),
    ("Skeleton-Contrastive, two views", ("--pipeline", "isc_pretrain"), 3_670),
    ("SCD-Net, two views", ("--pipeline", "scdnet_pretrain"), 2_080),
    ("USDRL, four views", ("--pipeline", "usdrl_pretrain"), 1_750),
    ("CTR-GCN with two worker threads", ("--workers", "2"), 3_480),
)


def run(file: Path, words: tuple[str, ...], seconds: float) -> dict[str, Any]:
    """One run of loader.py."""
    command = [sys.executable, str(ROOT / "benchmarks" / "loader.py"), "--data", str(file), "--seconds", str(seconds), "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run([*command, *words], check=True, stdout=subprocess.PIPE, text=True, env=environment)
    result: dict[str, Any] = json.loads(ran.stdout)
    return result


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=3.0, help="per run")
    parser.add_argument("--out", type=Path, help="file for the JSON lines")
    arguments = parser.parse_args()
    if arguments.out:
        arguments.out.write_text("")
    print("| batch | official reader, recorded | torch alone | x clip by clip | compiled kernel | x clip by clip |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        npz = write_synthetic(Path(folder) / "synthetic_ntu60.npz", classes=60, sizes=CLIPS, frames=300)
        file = prepare(npz, Path(folder) / "synthetic_ntu60.h5")
        for title, words, official in ROWS:
            cells = []
            for kernel in ("off", "now"):
                result = run(file, (*words, "--kernel", kernel), arguments.seconds)
                if arguments.out:
                    with arguments.out.open("a") as lines:
                        print(json.dumps({"row": title, **result}), file=lines)
                rate = result["clips_per_s"] if "--workers" in words else result["clips_per_cpu_s_median"]
                cells += [f"{rate:,}", f"{result['times_clip_by_clip']}"]
            print(f"| {title} | {official:,} | {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
