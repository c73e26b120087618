"""The verbs of `sal`, each a typed function whose signature is its command line. Heavy imports stay inside."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from rich.console import Console
from rich.table import Table

from engine import models
from engine.errors import ConfigError
from sal import signature
from shared_data.errors import nearest

if TYPE_CHECKING:
    from shared_data.formats.source import ReadOptions


def typed(function: Callable[..., int]) -> Callable[[list[str]], int]:
    """A verb whose flags are the parameters of `function`."""
    return lambda argv: signature.call(function, argv, f"sal {_word(function)}")


def group(functions: dict[str, Callable[..., int]]) -> Callable[[list[str]], int]:
    """A verb with sub-verbs."""

    def verb(argv: list[str]) -> int:
        names = " | ".join(functions)
        if not argv or argv[0] in ("-h", "--help"):
            print(f"usage: sal data {names}   (sal data check --help)")
            return 0
        if argv[0] not in functions:
            raise ConfigError(f"no verb 'data {argv[0]}'{nearest(argv[0], list(functions))}", expected=names)
        return typed(functions[argv[0]])(argv[1:])

    return verb


def _word(function: Callable[..., int]) -> str:
    return function.__name__.removeprefix("list_").replace("_", " ")


def data_check(
    file: Path,
    layout: str = "auto",
    num_classes: int | None = None,
    split: str = "auto",
    skip_list: Path | None = None,
    on_bad: str = "refuse",
    json: bool = False,
) -> int:
    """Say what a data file holds and whether it can be trusted; exit 65 if not.

    Args:
        file: NPZ file, NW-UCLA folder or zip, or prepared store.
        layout: auto, or one of those in docs/your-data.md.
        num_classes: number of classes the labels must fit in.
        split: protocol that divides the clips of a file which is not divided yet (xsub, xview, xset ...).
        skip_list: text file naming clips to leave out, one per line.
        on_bad: refuse or drop clips with NaN, infinity or no content.
        json: print one JSON object instead of tables.
    """
    from shared_data.check import check

    report = check(file, layout=layout, options=_options(num_classes, split, skip_list), on_bad=_bad_policy(on_bad))
    if json:
        _print_json(report.as_dict())
    else:
        report.render(Console())
    return 0 if report.ok else 65


def data_prepare(
    file: Path,
    out: Path,
    layout: str = "auto",
    num_classes: int | None = None,
    split: str = "auto",
    skip_list: Path | None = None,
    on_bad: str = "refuse",
) -> int:
    """Convert a data file to the store: ragged, checked, memory-mapped at use.

    Args:
        file: file or folder to convert.
        out: the store to write, a .h5 file.
        layout: auto, or one of those in docs/your-data.md.
        num_classes: number of classes the labels must fit in.
        split: protocol that divides the clips of a file which is not divided yet (xsub, xview, xset ...).
        skip_list: text file naming clips to leave out, one per line.
        on_bad: refuse or drop clips with NaN, infinity or no content.
    """
    from shared_data.store import prepare

    options = _options(num_classes, split, skip_list)
    print(prepare(file, out, layout=layout, options=options, on_bad=_bad_policy(on_bad)))
    return 0


def _options(num_classes: int | None, split: str, skip_list: Path | None) -> ReadOptions:
    from shared_data.formats.source import ReadOptions

    if num_classes is not None and num_classes < 1:
        raise ConfigError(f"--num-classes is {num_classes}", expected="1 or more")
    return ReadOptions(num_classes, split, skip_list)


def _bad_policy(word: str) -> Literal["refuse", "drop"]:
    if word not in ("refuse", "drop"):
        raise ConfigError(f"--on-bad is {word!r}", expected="refuse or drop")
    return cast('Literal["refuse", "drop"]', word)


def data_info(file: Path) -> int:
    """Print what a prepared store or data file says about itself.

    Args:
        file: store, NPZ, folder or zip.
    """
    from shared_data.store import info

    _print_json(info(file))
    return 0


def list_models(json: bool = False) -> int:
    """List the models, their recipes and published accuracies.

    Args:
        json: print one JSON object instead of tables.
    """
    cards = models.discover()
    if json:
        _print_json({name: {**card.toml, "recipes": sorted(card.recipes)} for name, card in cards.items()})
        return 0
    table = Table("model", "paper", "status", "recipes", "published top-1 (source in model.toml)")
    for card in cards.values():
        table.add_row(
            card.name, f"{card.toml['title']}, {card.toml['paper']['venue']} {card.toml['paper']['year']}",
            card.toml["status"], "\n".join(sorted(card.recipes)), "\n".join(_published(card.toml)),
        )  # fmt: skip
    Console().print(table)
    return 0


def _published(toml: Mapping[str, Any]) -> list[str]:
    return [f"{r['dataset']} {r['protocol']} {r['stream']}: {r['top1']}" for r in toml.get("published", [])]


def plan(vram: float = 8.0, model: str | None = None) -> int:
    """Which models and recipes fit into a GPU's memory; needs no GPU.

    Args:
        vram: memory of the GPU in GiB.
        model: one model only.
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
        _print_json({"environment": describe(), "findings": [finding._asdict() for finding in found]})
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
        for line in judge(fixture):
            failed += not line.ok
            print(f"  {'ok  ' if line.ok else 'FAIL'} {line.quantity:58} {line.error:9.2e}  limit {line.limit:.0e}")
    print(f"{failed} quantities out of limits" if failed else "all quantities within their limits")
    return int(failed > 0)


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


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, default=str))
