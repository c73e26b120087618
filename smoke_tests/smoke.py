#!/usr/bin/env python3
"""Does this model work in this environment? Runs inside the image, and natively:

    python3 smoke_tests/smoke.py --model ctrgcn [--device cpu] [--data FILE] [--vram-limit 8]

Builds the model as the [smoke] table of its model.toml says, checks forward, backward, optimizer step, save, load, parameter
count and the loss on fixed weights and inputs, then trains through the model's own main.py: a classifier one epoch on a small
synthetic file (and on FILE), a zero-shot system a short cycle of its stages on made-up features. With --vram-limit it also says
whether the model's main recipe fits a GPU of that many GiB (`vram.py`). The last line on stdout is JSON of kind "smoke_result"
with every assertion by name.
Exit codes: 0 all assertions hold, 1 one does not, 2 wrong arguments, 78 a wrong [smoke] table, else docs/exit-codes.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    from engine.models import ModelCard

WORK_DIR = Path("/workspace/work_dir")


class Kind(Protocol):
    """The smoke test of one kind of model: a module of this folder."""

    def table(self, card: ModelCard, /) -> Any:
        """The model's [smoke] table; raises `ModelError` (exit 78)."""

    def check_network(self, card: ModelCard, spec: Any, device: str, folder: Path, /) -> tuple[dict[str, bool], dict[str, Any]]:
        """Assertions by name, and the figures behind them."""

    def check_training(self, card: ModelCard, spec: Any, device: str, data: Path | None, folder: Path, /) -> dict[str, bool]:
        """Training through the model's own main.py, on what is made up and on what is mounted."""


def kind_of(card: ModelCard) -> Kind:
    """That of a model."""
    from smoke_tests import classifier, segmenter, zeroshot

    kinds: dict[str, Kind] = {"classifier": classifier, "segmenter": segmenter, "zeroshot": zeroshot}
    return kinds[card.kind]


def measured(device: str) -> dict[str, Any]:
    """Versions and peaks; ru_maxrss of this process or its largest child."""
    import h5py
    import numpy
    import torch

    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    on_gpu = device.startswith("cuda")
    return {
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "numpy": numpy.__version__,
            "h5py": h5py.__version__,
        },
        "gpu": torch.cuda.get_device_name(device) if on_gpu else None,
        "peak_rss_bytes": peak * (1 if sys.platform == "darwin" else 1024),
    }


def smoke(model: str, device: str, data: Path | None, vram_limit: float | None = None) -> int:
    """Run everything, print the result line; returns the exit code. `vram_limit`: GiB of the card asked about."""
    from engine import models
    from shared_data.errors import MissingInputError
    from smoke_tests import vram

    started = time.monotonic()
    if data is not None and not data.exists():
        raise MissingInputError(f"no data file {data}", next_step="mount it with smoke_test_all.py --data FILE")
    card = models.find(model, None)
    kind = kind_of(card)
    spec = kind.table(card)
    budget = None if vram_limit is None else vram.budget(vram_limit, device)
    with tempfile.TemporaryDirectory(dir=WORK_DIR if WORK_DIR.is_dir() else None, prefix="smoke-") as name:
        holds, figures = kind.check_network(card, spec, device, Path(name))
        figures |= vram.own_peaks(device)
        holds |= kind.check_training(card, spec, device, data, Path(name))
    if budget is not None and vram.main_recipe(card) is None:
        figures["vram"] = None  # said, and not left out as an old image does
        print(f"{card.name} has no recipe whose memory is predicted", flush=True)
    elif budget is not None:
        figures["vram"] = judged = vram.judged(card, budget, device)
        holds |= vram.assertions(judged)
        print(f"{judged['recipe']} on {vram_limit:g} GiB: {judged['word']} {judged['reason']}".rstrip(), flush=True)
    result = {
        "kind": "smoke_result",
        "model": card.name,
        "device": device,
        "assertions": holds,
        **figures,
        **measured(device),
        "seconds": round(time.monotonic() - started, 2),
    }
    print(json.dumps(result), flush=True)
    return 0 if all(holds.values()) else 1


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Smoke test of one model.", allow_abbrev=False)
    parser.add_argument("--model", required=True, help="folder of models/")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda:N")
    parser.add_argument("--data", type=Path, help="also train on this data file")
    parser.add_argument("--vram-limit", type=float, metavar="GIB", help="also judge the model's main recipe on such a GPU")
    given = parser.parse_args(argv)

    # One thread, for main.py too: the clips are few, and threads that wait for a busy core take many times as long.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from engine.launch import guarded

    return guarded(lambda: smoke(given.model, given.device, given.data, given.vram_limit))


if __name__ == "__main__":
    sys.exit(main())
