"""The main job, once through: the machine, the data, what fits, a training run, its report."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from sal.printing import PipedConsole

MODEL = "ctrgcn"
RECIPE = "tiny_cpu"
ASKED = "*ntu60_xsub*"
"""Recipes that are asked about: those of the benchmark that most models have. All of them take minutes the first time."""
CPU_CLIPS = 400  # clips of a real file that two CPU cores can train on while one waits


def run(data: Path | None, work_dir: Path, epochs: int) -> int:
    """See `sal demo`. Returns 0 or raises a `LabError`."""
    import torch

    from engine.environment import machine_line
    from engine.errors import WorkDirError
    from sal.train import launch
    from shared_data.check import check

    console = PipedConsole()
    try:
        work_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkDirError(f"cannot write the work folder: {error.strerror}", where=str(work_dir)) from error
    console.rule("[bold]1  which models fit", align="left")
    _show_plan(console, work_dir)

    console.rule("[bold]2  this machine", align="left")
    console.print(machine_line(), highlight=False)

    console.rule("[bold]3  the data", align="left")
    file = data or _own_data(work_dir, console)
    report = check(file)
    report.render(console)
    if not report.ok:
        return 65

    console.rule(f"[bold]4  training {MODEL}", align="left")
    flags = ["--recipe", RECIPE, "--data", str(file), "--num-epoch", str(epochs)]
    folder = work_dir / f"{MODEL}_{file.stem}_{epochs}_epochs"
    flags += ["--work-dir", str(folder)]
    if data is not None and not torch.cuda.is_available():
        console.print(f"no GPU: training on {CPU_CLIPS} clips of each split, evenly spaced", highlight=False)
        flags += ["--max-clips", str(CPU_CLIPS)]
    return launch(flags, model=MODEL, phase="train", prog="sal demo")


def _show_plan(console: Console, work_dir: Path) -> None:
    """Recipes for NTU-60 on the GPU here, or on one with 8 GiB; the answers also as a page."""
    import torch

    from sal.plan import plan

    if not torch.cuda.is_available():
        console.print("no GPU here, so the question is asked for one with 8 GiB", highlight=False)
    plan(recipe=ASKED, html=work_dir / "plan.html")
    console.print("these are recipes for NTU-60, cross-subject; all recipes and models: sal plan", highlight=False)


def _own_data(work_dir: Path, console: Console) -> Path:
    """A small NTU-shaped file of made-up, learnable actions; written once."""
    from shared_data.synthetic import write_synthetic

    file = work_dir / "synthetic_actions.npz"
    if not file.exists():
        console.print(f"no data given: writing made-up actions to {file}", highlight=False, soft_wrap=True)
        write_synthetic(file, classes=10, train_per_class=32, test_per_class=12)
    return file
