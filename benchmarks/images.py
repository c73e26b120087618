"""Every image built on a base, then every smoke test, twice: times, sizes, and that no container is left.

    python benchmarks/images.py --base-image skeleton-lab-base:cu121 --out benchmarks/results/images_cu121.csv

Needs a Docker engine and the base (tools/make_local_base.sh). A row for each model; the second run of the smoke tests finds the
page cache warm. The images are SAL_IMAGE's (skeleton-lab), as in build_all_images.sh. Exit 1 where anything fails, 69 without an
engine. Containers of runs that are at work are nobody's leftovers and not counted.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.table_file import TableFile
from engine.environment import describe
from engine.errors import ConfigError
from engine.launch import guarded as guarded_lab
from orchestrator import leftovers
from orchestrator.connection import connect
from orchestrator.errors import guarded as guarded_engine

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = (
    "model", "build_s", "image_mb", "over_base_mb", "first_s", "second_s", "peak_rss_mib", "python", "torch", "cuda",
    "parameters", "loss",
)  # fmt: skip
_RUNS = 2


def builds(base_image: str, more: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Image -> seconds and bytes, of one run of build_all_images.sh, whose own lines are shown."""
    command = ["bash", "build_all_images.sh", "--base-image", base_image, *more]
    if subprocess.run(command, cwd=ROOT, check=False).returncode:
        raise ConfigError("the images were not built", where=" ".join(command), next_step="see the lines above")
    found = {}
    for file in sorted((ROOT / ".build/logs").glob("*.status")):
        _, seconds, size = file.read_text().split()
        found[file.stem] = (int(seconds), int(size))
    return found


def verdicts() -> dict[str, dict[str, Any]]:
    """Model -> verdict, of one run of smoke_test_all.py, whose own tables are shown."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "verdicts.json"
        command = [sys.executable, "smoke_test_all.py", "--device", "cpu", "--json", str(file)]
        code = subprocess.run(command, cwd=ROOT, check=False).returncode
        if code or not file.exists():
            raise ConfigError("a smoke test failed", where="smoke_test_all.py", next_step="see the lines above")
        return {verdict["model"]: verdict for verdict in json.loads(file.read_text())}


def left(client: Any) -> list[str]:
    """Containers whose run is over, as those of the runs here are by now, but for trainings that go on by themselves."""
    found = client.containers.list(all=True, filters={"label": leftovers.OWNER}, ignore_removed=True)
    over = {one.name for one in found if leftovers.is_dead(one.labels[leftovers.OWNER])}
    return sorted(over - set(leftovers.orphans(client)))


def run(base_image: str, out: Path, more: Sequence[str]) -> int:
    """Build, test, write; returns the exit code. Raises `OrchestratorError` where no engine answers."""
    client = connect()
    table = TableFile(out, COLUMNS, ("model",))
    command = ["benchmarks/images.py", "--base-image", base_image, *more, "--out", str(out)]
    table.begin(describe(ROOT), {"base-image": base_image, "device": "cpu"}, command)
    built = builds(base_image, more)
    first, second = (verdicts() for _ in range(_RUNS))
    for model, verdict in second.items():
        seconds, size = built[model]
        result = verdict["result"]
        table.put({
            "model": model, "build_s": seconds,
            "image_mb": f"{size / 1e6:.1f}", "over_base_mb": f"{(size - built['base'][1]) / 1e6:.2f}",
            "first_s": first[model]["seconds"], "second_s": verdict["seconds"],
            "peak_rss_mib": round(result["peak_rss_bytes"] / 2**20), "parameters": result["parameters"], "loss": result["loss"],
            **{name: result["versions"][name] for name in ("python", "torch", "cuda")},
        }, instead=True)  # fmt: skip
    names = left(client)
    print(f"containers left by runs that are over: {', '.join(names) or 'none'}")
    return 1 if names else 0


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Build every image and run every smoke test twice.", allow_abbrev=False)
    parser.add_argument("--base-image", required=True)
    parser.add_argument("--no-cache", action="store_true", help="build every layer anew")
    parser.add_argument("--out", type=Path, required=True, help="CSV file")
    given = parser.parse_args()
    more = ["--no-cache"] if given.no_cache else []
    return guarded_lab(lambda: guarded_engine(lambda: run(given.base_image, given.out, more)))


if __name__ == "__main__":
    sys.exit(main())
