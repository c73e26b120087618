"""What every command runs in (`guarded`), and a run from its settings to its end, with errors that a user can act on."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console

from engine.errors import Interrupted
from engine.signals import end_undisturbed
from shared_data.atomic import WriteError
from shared_data.errors import LabError

if TYPE_CHECKING:
    from pathlib import Path

    from engine.config import RunConfig
    from engine.learning import Learning
    from engine.memory import Expect
    from engine.train import Trainer

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
        if isinstance(error, Interrupted):
            end_undisturbed()
        if not _told_elsewhere(error):
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


def _told_elsewhere(error: LabError) -> bool:
    """Whether this is one of several processes, another of which says it."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return False
    from engine.distributed import told_elsewhere

    return told_elsewhere(error)


def _silence() -> None:
    """What still waits to be printed would fail a second time when the interpreter ends, with an exit code of its own."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run(
    config: RunConfig, keep: Mapping[str, Any] | None = None, *, lines: Sequence[str] = (), expect: Expect | None = None
) -> int:
    """Train or test as `config` says; returns 0 or raises. Under torchrun this is one process of a run of several.

    keep     file name -> what the run folder keeps there, as JSON: of training from its start, of a test once it has scores
    lines    for the user; of training once data and settings are found to agree
    expect   predicts the memory of training on a GPU, see `engine.train.train`
    """
    # cuBLAS repeats itself only with a fixed workspace, and reads this before its first call.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch

    from engine import distributed, memory
    from engine.assembly import choose_device
    from engine.errors import OutOfMemoryError
    from engine.train import train

    try:
        with distributed.joined(config, choose_device(config.device)) as world:
            console = Console(quiet=not world.first)
            if config.phase == "test":
                for line in lines:
                    world.by_first(print, line, flush=True)
                _tester(config)(config, console, keep, world=world)
            else:
                if world.size > 1:  # what is predicted is a step of one process with the whole batch
                    expect = None
                train(config, console, keep, lines=lines, expect=expect, world=world, learning=_learning(config))
        return 0
    except torch.cuda.OutOfMemoryError as error:
        words = memory.first_line(error)
        usual = memory.EVALUATION if config.phase == "test" else memory.TRAINING
        part = error.part if isinstance(error, memory.RanOut) else usual
    # Past the handler the traceback is gone, and with it the network and all that a step kept.
    memory.release(choose_device(config.device))
    raise OutOfMemoryError(f"the GPU ran out of memory: {words}", part=part, next_step="; ".join(_smaller(config, part)))


def _learning(config: RunConfig) -> Callable[[Trainer], Learning]:
    """What is learnt in the stage of the run."""
    if config.stage == "segment":
        from engine.segmentation.framewise import FrameWise

        return FrameWise
    if config.stage == "supervised":
        from engine.supervised import Supervised

        return Supervised
    from engine.pretraining.unlabelled import Unlabelled

    return Unlabelled


def _tester(config: RunConfig) -> Callable[..., Path]:
    """What tests given weights in the stage of the run."""
    if config.stage == "segment":
        from engine.segmentation.trained import score as segmented

        return segmented
    from engine.scoring import score

    return score


def _smaller(config: RunConfig, part: str) -> list[str]:
    """What needs less GPU memory, the cheapest first, where nothing is predicted and so --fit cannot choose."""
    from engine import distributed, memory

    if part != memory.TRAINING:
        if config.test_batch_size == 1:
            return ["--precision bf16 (other rounding)", "a larger GPU"]
        return [f"--test-batch-size {config.test_batch_size // 2} (no number changes); the same command goes on with it"]
    wishes = []
    if config.recompute != "blocks":
        wishes.append("--recompute blocks (no number changes)")
    if config.precision == "fp32":
        wishes.append("--precision bf16 (other rounding)")
    share = -(-config.batch_size // distributed.place().size)
    piece = min(config.forward_batch_size or share, share)
    if piece > 1:
        wishes.append(f"--forward-batch-size {piece // 2} (same optimizer step, BatchNorm sees the pieces)")
    return [*(wishes or ["a larger GPU"]), "with --force a training run goes on from its last checkpoint"]
