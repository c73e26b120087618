"""From a command line to a finished run: what `sal train`, `sal test` and every model's `main.py` call."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

from rich.console import Console

from shared_data.atomic import WriteError
from shared_data.errors import LabError

NEEDED_FOR_TRAINING = ("torch", "numpy", "h5py", "safetensors", "einops", "torch_dct")


def guarded(work: Callable[[], int]) -> int:
    """Run a command; turn a `LabError` into its message on stderr and its exit code."""
    try:
        try:
            return work()
        finally:  # also where --help leaves by SystemExit
            if sys.stdout is not None:  # it may have been closed
                sys.stdout.flush()
    except LabError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        if error.name not in NEEDED_FOR_TRAINING:
            raise
        print(f"error: this needs {error.name}, which is not installed", file=sys.stderr)
        print("  next:     pip install 'skeleton-action-lab[train]'", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `sal models | head`
        _silence()
        return 0
    except OSError as error:
        if error.filename is not None:
            raise
        _silence()  # files are written under their names: this was the standard output, on a full disk
        print(f"error: could not write to the standard output: {error.strerror or error}", file=sys.stderr)
        print("  next:     free some space, or send it elsewhere, then run the same command again", file=sys.stderr)
        return WriteError.exit_code


def _silence() -> None:
    """What still waits to be printed would fail a second time when the interpreter ends, with an exit code of its own."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(model: str, argv: Sequence[str] | None = None) -> int:
    """`python3 main.py …` in a model's folder. Exit codes: docs/exit-codes.md."""
    words = list(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: launch(words, model=model, prog="python3 main.py"))


def launch(argv: Sequence[str], *, model: str = "", phase: str = "", prog: str = "sal train") -> int:
    """Parse, then train or test; returns 0 or raises."""
    from engine.config import parse

    config = parse(argv, model=model, phase=phase, prog=prog)
    # cuBLAS repeats itself only with a fixed workspace, and reads this before its first call.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch

    from engine.errors import OutOfMemoryError
    from engine.scoring import score
    from engine.train import train

    try:
        (score if config.phase == "test" else train)(config, Console())
    except torch.cuda.OutOfMemoryError as error:
        smaller = max((config.forward_batch_size or config.batch_size) // 2, 1)
        raise OutOfMemoryError(
            f"the GPU ran out of memory: {str(error).splitlines()[0]}",
            next_step=f"--forward-batch-size {smaller} (same optimizer step, BatchNorm sees the pieces), --precision bf16, or "
            f"--test-batch-size {max(config.test_batch_size // 2, 1)} if it was during evaluation; with --force it goes on "
            "from the last checkpoint",
        ) from None
    return 0
