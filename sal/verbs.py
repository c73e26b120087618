"""The verbs of `sal`, each a typed function whose signature is its command line. Heavy imports stay inside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from engine import models
from sal import signature
from sal.printing import print_json


def typed(function: Callable[..., int], word: str = "") -> Callable[[list[str]], int]:
    """A verb whose flags are the parameters of `function`."""
    return lambda argv: signature.call(function, argv, f"sal {word or _word(function)}")


def _word(function: Callable[..., int]) -> str:
    return function.__name__.removeprefix("list_").replace("_", " ")


def plan(model: str | None = None, /, *, vram: float = 8.0) -> int:
    """Which models and recipes fit into a GPU's memory; needs no GPU.

    Args:
        model: one model only.
        vram: memory of the GPU in GiB.
    """
    from planner.table import plan as make_plan
    from planner.table import render

    render(make_plan(vram, models.discover(), [model] if model else None), Console())
    return 0


def doctor(json: bool = False) -> int:
    """Say what this machine is and what would keep a run from working; exit 1 if anything would.

    Args:
        json: print one JSON object.
    """
    from engine.environment import describe, findings, machine_line

    found = findings()
    if json:
        print_json({"environment": describe(), "findings": [finding._asdict() for finding in found]})
    else:
        console = Console()
        console.print(machine_line(), highlight=False)
        if not found:
            console.print("nothing found that would keep a run from working")
        for finding in found:
            console.print(f"[bold]{finding.severity:8}[/] {finding.code}: {finding.message}", highlight=False)
            if finding.fix:
                console.print(f"         fix: {finding.fix}", highlight=False)
    return int(any(finding.severity == "error" for finding in found))


def parity(fixtures: list[Path]) -> int:
    """Compare with numbers recorded from the official code; exit 0 if all are within their limits, 1 if not, 2 for a wrong file.

    Args:
        fixtures: parity, pipeline or trajectory fixtures (NPZ).
    """
    from engine.parity.judge import judge

    failed = 0
    for fixture in fixtures:
        print(f"{fixture}")
        lines = judge(fixture)
        if not lines:
            print("  clips that other fixtures are about: nothing to judge")
        for line in lines:
            failed += not line.ok
            print(f"  {'ok  ' if line.ok else 'FAIL'} {line.quantity:58} {line.error:9.2e}  limit {line.limit:.0e}")
        for reason in dict.fromkeys(line.reason for line in lines if line.reason):
            print(f"  limits wider than usual: {reason}")
    print(f"{failed} quantities out of limits" if failed else "all quantities within their limits")
    return int(failed > 0)


def export(run: Path, *, out: Path) -> int:
    """Write the best weights of a run as an ONNX file that takes any number of clips (needs the extra onnx).

    Args:
        run: a run folder.
        out: the file to write; one that is there is not replaced.
    """
    from engine.export import export_run

    print(export_run(run, out))
    return 0


def report(run: Path) -> int:
    """Write the HTML report of a run folder again.

    Args:
        run: a run folder.
    """
    from engine.report import write_report

    print(write_report(run))
    return 0


def demo(data: Path | None = None, work_dir: Path = Path("work_dir/demo"), epochs: int = 5) -> int:
    """From a data file to a trained, evaluated, reported CTR-GCN; makes its own data if none is given.

    Args:
        data: a data file of yours (NTU60_CS.npz, ...).
        work_dir: folder of the run and of the made-up data.
        epochs: epochs to train.
    """
    from sal.demo import run

    return run(data, work_dir, epochs)
