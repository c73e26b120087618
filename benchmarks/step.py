"""One training step: how long it takes, what memory it needs, how many kernels it launches, and whether its losses are right.

    python benchmarks/step.py --model ctrgcn --batch 64 --precision bf16 --cuda-graphs    # on a GPU
    python benchmarks/step.py --model ctrgcn --batch 4 --device cpu --plain               # and against the plain form
    python benchmarks/step.py --model ctrgcn --batch 64 --device meta --plain             # counts alone, without a GPU
    python benchmarks/step.py --all --device cuda --out step_cuda.csv                     # the whole table (step_table.py)

The step is the trainer's own: forward, loss, backward, clipping and optimizer of the recipe, on made-up clips of the recipe's
shape; each is waited for. In the same run the losses of the first steps are compared with those of an eager fp32 network that
keeps everything, with the same start weights, clips and seeds: exit code 1 if they differ by more than rounding explains.
With --all, 1 also where a cell of the table failed.

The "plain form" is the network as its specification says it, nothing fused (`plain.py`); it is not the official code. It has no
dropout: where it is compared with, times and counts are without dropout in both networks, and a note says so. Checked are the
losses of the recipe's own network all the same, and of that the 8 GB preset is predicted.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor, nn

from benchmarks.step_counts import GIB, SMALL_GPU, counts, small_gpu
from benchmarks.step_task import EAGER, LEVELS, PAPER_BATCH, Task, task
from engine.environment import machine_line
from engine.launch import guarded
from engine.step import TrainStep, takes_positions
from planner.measure import run

WARM_UP, CHECKED = 3, 5
WITH_GRAPHS = 10
"""Steps to warm up, and to check, where a CUDA graph is replayed only after some eager ones."""
ALONE = (
    "model", "recipe", "batch", "frames", "precision", "recompute", "forward_batch_size", "cuda_graphs", "compile", "plain",
    "workspace_mib", "json",
)  # fmt: skip
"""Words for one cell, which the table sets for each of its own or has no use for."""


class Runner:
    """Repeats a step on a few made-up batches, with the same seed before step n every time."""

    def __init__(self, task: Task, step: TrainStep) -> None:
        self.step, self.done = step, 0
        self.batches = [task.batch(number, task.config.batch_size, step.device) for number in range(CHECKED)]

    def __call__(self) -> Tensor:
        torch.manual_seed(self.done)
        loss = run(self.step, self.batches[self.done % len(self.batches)])
        self.done += 1
        return loss

    def milliseconds(self) -> float:
        """Time of one step, from nothing to do until all is done."""
        return milliseconds(self, self.step.device)


def measured(task: Task, device: torch.device, steps: int, *, plain: bool) -> dict[str, Any]:
    """Times and memory of the step; interleaved with it, step by step, those of the plain form."""
    row: dict[str, Any] = {"notes": ""}

    def note(text: str) -> None:
        row["notes"] = text

    network = task.network().to(device)
    ours = Runner(task, task.step(network, device, note))
    _release(device)
    before = _resident()
    for _ in range(WITH_GRAPHS if task.config.cuda_graphs else WARM_UP):
        ours()
    _wait(device)
    if device.type == "cpu":
        row["rss_growth_mib"] = round(_resident(peak=True) - before)
    theirs = None
    if plain:
        other = task.plain()
        row["plain_difference"] = _difference_of_logits(task, other)
        theirs = Runner(task, task.having(**EAGER).step(other, device))
        theirs()
    times, ratios, plain_times = [], [], []
    for _ in range(steps):
        times.append(ours.milliseconds())
        if theirs is not None:
            plain_times.append(theirs.milliseconds())
            ratios.append(plain_times[-1] / times[-1])
    first, middle, third = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else times * 3
    row |= {"ms_median": round(middle, 2), "ms_q1": round(first, 2), "ms_q3": round(third, 2)}
    row["clips_per_s"] = round(1000 * task.config.batch_size / middle, 1)
    if ratios:
        row["plain_ms_median"] = round(statistics.median(plain_times), 2)
        row["times_plain"] = round(statistics.median(ratios), 2)
    if device.type == "cuda":
        row["allocated_gib"] = round(torch.cuda.max_memory_allocated(device) / GIB, 3)
        row["reserved_gib"] = round(torch.cuda.max_memory_reserved(device) / GIB, 3)
        row["kernels"] = _kernels(ours, note)
    return row


def _difference_of_logits(task: Task, plain: nn.Module) -> float:
    """Largest difference of the logits in evaluation, relative to the largest logit: that both compute the same."""
    ours = task.network().eval()
    clips, _, positions = task.batch(0, 2, "cpu")
    given = (clips, positions) if takes_positions(ours) else (clips,)
    with torch.no_grad():
        a, b = ours(*given), plain.eval()(*given)
    return float((a - b).abs().max() / b.abs().max())


def _kernels(ours: Runner, note: Callable[[str], None]) -> int | None:
    """Kernels, copies and fills that one step starts on the GPU, by torch's profiler; None where it sees none."""
    from torch.profiler import ProfilerActivity, profile

    try:
        with profile(activities=[ProfilerActivity.CUDA]) as seen:
            ours.milliseconds()
        started = [event for event in seen.events() if str(event.device_type).endswith("CUDA")]
    except RuntimeError as error:
        note(f"the profiler counts no kernels: {str(error).splitlines()[0]}")
        return None
    return sum(not getattr(event, "is_user_annotation", False) for event in started) or None


def checked(task: Task, device: torch.device) -> dict[str, Any]:
    """The losses of the first steps against an eager fp32 network that keeps everything.

    Where that does not fit the GPU, both take half the clips, and half again. In mixed precision dropout is off in both: numbers
    of other types are other random numbers.
    """
    if task.config.precision != "fp32":
        task = task.without_dropout()
    steps = WITH_GRAPHS if task.config.cuda_graphs else CHECKED
    while True:
        clips = task.config.batch_size
        try:
            expected = _losses(task.having(precision="fp32", **EAGER), device, steps)
            found = _losses(task, device, steps)
            break
        except torch.cuda.OutOfMemoryError:
            if clips < 4:
                raise
            pieces = min(task.config.forward_batch_size or clips, clips // 2)
            task = task.having(batch_size=clips // 2, forward_batch_size=pieces)
    worst = max(abs(a - b) / abs(b) for a, b in zip(found, expected, strict=True))
    allowed = limit(task, device)
    return {"checked_clips": clips, "difference": worst, "allowed": allowed, "right": worst <= allowed}


def limit(task: Task, device: torch.device) -> float:
    """Largest relative difference of a loss that rounding explains: none on a CPU, where recomputation gives the same bits."""
    if task.config.precision != "fp32":
        return 2e-2
    return 0.0 if device.type == "cpu" and not task.config.compile else 1e-5


def _losses(task: Task, device: torch.device, steps: int) -> list[float]:
    _release(device)
    runner = Runner(task, task.step(task.network().to(device), device, lambda _: None))
    return [float(runner()) for _ in range(steps)]


def milliseconds(work: Callable[[], object], device: torch.device) -> float:
    """Time of `work` on `device`, from nothing to do until all is done."""
    _wait(device)
    began = time.perf_counter()
    work()
    _wait(device)
    return 1000 * (time.perf_counter() - began)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _release(device: torch.device) -> None:
    """Give back what nobody holds, and let the next peaks begin here."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):  # Linux: the high-water mark of resident memory begins again
        Path("/proc/self/clear_refs").write_text("5")


def _resident(*, peak: bool = False) -> float:
    """MiB of memory that this process has, or had at most since `_release` (Linux); 0 elsewhere."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:" if peak else "VmRSS:"):
                return int(line.split()[1]) / 1024
    return 0.0


def one(given: argparse.Namespace) -> dict[str, Any]:
    """One cell: what was asked for, what was counted and, except on meta, what was measured and checked."""
    torch.set_num_threads(given.threads)
    work, device = task(given)
    config, meta = work.config, given.device == "meta"
    row: dict[str, Any] = {
        "model": work.card.name, "recipe": config.recipe, "device": "meta" if meta else device.type,
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else "", "precision": config.precision,
        "recompute": config.recompute, "cuda_graphs": config.cuda_graphs, "compile": config.compile, "batch": config.batch_size,
        "forward_batch": config.forward_batch_size or config.batch_size, "clip": "x".join(map(str, work.clip)),
        "threads": given.threads, "steps": 0 if meta else given.steps,
        "workspace_mib": "" if given.workspace_mib is None else given.workspace_mib,
    }  # fmt: skip
    timed = work.without_dropout() if given.plain else work
    if not meta:
        with _as_the_trainer():
            row |= measured(timed, device, given.steps, plain=given.plain)
            row |= checked(work, device)
    row |= counts(timed, plain=given.plain) | small_gpu(work, PAPER_BATCH.get(work.card.name, config.batch_size))
    return row | {"notes": "; ".join(filter(None, (row.get("notes"), without(work) if given.plain else "")))}


def without(work: Task) -> str:
    """What was left out of both networks to compare them; nothing where the recipe has no dropout."""
    rates = ", ".join(f"{name} {rate:g}" for name, rate in work.dropout().items())
    return f"compared without dropout in both networks: the plain form has none (recipe: {rates})" if rates else ""


@contextlib.contextmanager
def _as_the_trainer() -> Iterator[None]:
    """Its settings of torch: kernels that repeat themselves where there are some."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have a deterministic implementation.*")
        yield


def sentences(row: dict[str, Any]) -> Iterator[str]:
    """A row for a person."""
    extra = "".join(f", {word}" for word, on in (("CUDA graphs", row["cuda_graphs"]), ("compiled", row["compile"])) if on)
    yield (
        f"{row['model']} {row['recipe']}: {row['batch']} clips of {row['clip']} on {row['gpu'] or row['device']}, "
        f"{row['precision']}, recompute {row['recompute']}{extra}"
    )
    if "ms_median" in row:
        spread = f"quartiles {row['ms_q1']} to {row['ms_q3']} of {row['steps']}"
        yield f"time: {row['ms_median']} ms a step ({spread}), {row['clips_per_s']} clips/s"
    if "times_plain" in row:
        yield (
            f"plain form (not the official code): {row['plain_ms_median']} ms, {row['times_plain']} times ours; "
            f"logits differ by {row['plain_difference']:.1e}"
        )
    if "allocated_gib" in row:
        peaks = f"{row['allocated_gib']} GiB allocated, {row['reserved_gib']} reserved at most"
        yield f"memory: {peaks}; {row['kernels']} kernels a step by the profiler"
    if "rss_growth_mib" in row:
        yield f"memory: {row['rss_growth_mib']} MiB at most beyond what was there before the first step"
    if "right" in row:
        verdict = "right" if row["right"] else "WRONG"
        yield (
            f"check: losses differ by {row['difference']:.1e} from eager fp32 that keeps all, {row['allowed']:.0e} is allowed: "
            f"{verdict} ({row['checked_clips']} clips)"
        )
    if row.get("notes"):
        yield f"note: {row['notes']}"
    about = "" if row["precision"] == "fp32" else ", autocast by the CPU's list of operations"
    for ending, name in (("", "counted"), ("_plain", "counted, plain form")):
        if f"launches{ending}" in row:
            told = {key.removesuffix(ending): value for key, value in row.items() if key.endswith(ending)}
            yield (
                f"{name}{about}: {told['launches']} launches a step; per clip {told['traffic_mb_per_clip']} MB read and written, "
                f"{told['matrix_gflops_per_clip']} GFLOPs in matrices, {told['other_gflops_per_clip']} others; memory: "
                f"{told['kept_mib_per_clip']} MiB a clip kept, {told['peak_mib_per_clip']} at the peak, "
                f"{told['predicted_gib']} GiB in all"
            )
    yield (
        f"{SMALL_GPU:g} GB preset: {row['preset_8gb_clips']} clips with --recompute {row['preset_8gb']}: "
        f"{row['preset_8gb_gib']} GiB of tensors predicted, {'fits' if row['preset_8gb_fits'] else 'does NOT fit'}"
    )


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--recipe", help="default: NTU-60, cross-subject")
    parser.add_argument("--batch", type=int, help="clips per step (default: the recipe's)")
    parser.add_argument("--frames", type=int, help="frames per clip (default: the recipe's)")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--recompute", choices=LEVELS, help="default: cheap on a GPU and meta, none on a CPU")
    parser.add_argument("--forward-batch-size", type=int, help="clips per forward pass (default: the recipe's)")
    parser.add_argument("--cuda-graphs", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, a GPU's number, or meta: counts without a device")
    parser.add_argument("--steps", type=int, default=20, help="timed ones")
    parser.add_argument("--plain", action="store_true", help="compare with the plain form (cpu: its time too; meta: its counts)")
    parser.add_argument("--workspace-mib", type=int, help="the most that cuDNN may take as workspace of a convolution")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument("--all", action="store_true", help="the table of all models, each cell in a process of its own")
    parser.add_argument("--only", nargs="+", metavar="MODEL", help="with --all: these models")
    parser.add_argument(
        "--out", type=Path, help="with --all: CSV file; cells that it holds are not measured again unless they failed"
    )
    parser.add_argument("--seconds", type=float, default=540, help="with --all: after so long a cell is given up")
    return parser


def parsed(words: list[str]) -> argparse.Namespace:
    """The command line; ends the program, with a message, where words do not go together."""
    parser = arguments()
    given = parser.parse_args(words)
    if given.steps < 1 or given.threads < 1 or (given.batch is not None and given.batch < 2):
        parser.error("--steps and --threads are 1 or more, --batch is 2 or more")
    if given.plain and given.device not in ("cpu", "meta"):
        parser.error("--plain is for --device cpu or meta")
    if given.all:
        unset = object()
        asked = vars(parser.parse_args(words, argparse.Namespace(**dict.fromkeys(ALONE, unset))))
        if idle := [f"--{name.replace('_', '-')}" for name in ALONE if asked[name] is not unset]:
            parser.error(f"--all sets these for every cell itself, or has no use for them: {', '.join(idle)}; leave them out")
    elif not given.model:
        parser.error("give --model NAME or --all")
    return given


def main() -> int:
    """One cell or, with --all, the table; 1 where losses are wrong or, of the table, a cell failed."""
    words = sys.argv[1:]
    given = parsed(words)
    if given.all:
        from benchmarks.step_table import fill

        return fill(given, words)
    if given.workspace_mib is not None:
        os.environ["CUDNN_CONV_WSCAP_DBG"] = str(given.workspace_mib)  # PyTorch reads it at its first convolution
    row = one(given)
    if given.json:
        print(json.dumps(row))
    else:
        print(machine_line(), *sentences(row), sep="\n")
    return 0 if row.get("right", True) else 1


if __name__ == "__main__":
    sys.exit(guarded(main))
