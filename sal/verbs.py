"""The verbs of `sal`, each a typed function whose signature is its command line. Heavy imports stay inside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sal import signature


def typed(function: Callable[..., int], word: str = "") -> Callable[[list[str]], int]:
    """A verb whose flags are the parameters of `function`."""
    return lambda argv: signature.call(function, argv, f"sal {word or _word(function)}")


def _word(function: Callable[..., int]) -> str:
    return function.__name__.removeprefix("list_").replace("_", " ")


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
