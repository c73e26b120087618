"""What a run came to, over its seeds: for programs, for people, and in the official log's form."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from engine import records
from engine.zeroshot import COLUMNS, RESULTS, provenance
from engine.zeroshot.pipeline import Outcome
from engine.zeroshot.plan import Deviation, deviations
from engine.zeroshot.selection import Selection
from engine.zeroshot.work import FORMAT, Work

TABLE = "results.txt"
CAUTION = "comparable with published figures only on the authors' own feature files, and over several seeds"
MEANING: dict[Selection, str] = {
    "last": "the last cycle; no accuracy was looked at",
    "val": "the best cycle on the validation split, whose unseen classes are others",
    "oracle": "the best cycle on the test clips themselves, as officially: better than a user could have known",
}


def accuracies(outcome: Outcome) -> dict[str, float]:
    """Those of one seed by column: ZSL, then seen, unseen and harmonic mean of GZSL; fractions."""
    both = outcome.generalised
    return dict(zip(COLUMNS, (outcome.zero_shot, both.seen, both.unseen, both.harmonic), strict=True))


def summary(work: Work, outcomes: Sequence[Outcome], about: dict[str, Any] | None = None) -> dict[str, Any]:
    """Everything about a run that JSON can hold; `about` says where its features and texts are from.

    The spread is the standard deviation over seeds (of a sample), None for a single one.
    """
    rows = [accuracies(outcome) for outcome in outcomes]
    columns = {name: [row[name] for row in rows] for name in COLUMNS}
    plan = work.plan
    found = {
        "format": FORMAT,
        "model": work.name,
        "title": work.system.title,
        "classes": plan.test.classes,
        "unseen": list(plan.test.unseen),
        "chance": 1 / len(plan.test.unseen),
        "selection": {"rule": plan.selection, "meaning": MEANING[plan.selection]},
        "caution": CAUTION,
        "deviations": [asdict(d) for d in (*deviations(plan), *provenance.deviations((about or {}).get("backbone", {})))],
        "plan": plan.as_json(),
        "about": about or {},
        "inputs": {phase: work.inputs(phase) for phase in ("test", "val")},
        "findings": [
            {"phase": phase, **finding.as_dict()} for phase in ("test", "val") for finding in work.data(phase).findings()
        ],
        "seeds": [
            {
                "seed": outcome.seed,
                "cycle": outcome.cycle,
                **row,
                "gate": asdict(outcome.gate),
                "curves": outcome.curves,
                "confusions": outcome.confusions,
            }
            for outcome, row in zip(outcomes, rows, strict=True)
        ],
        "mean": {name: statistics.fmean(values) for name, values in columns.items()},
        "spread": {name: statistics.stdev(values) if len(values) > 1 else None for name, values in columns.items()},
    }
    return dict(records.plain(found))


def table(summary: dict[str, Any]) -> str:
    """The same for people: percent, one line per seed, then mean and spread, then what to know about them."""
    task = f"{summary['classes']} classes, {len(summary['unseen'])} unseen"
    lines = [
        f"{summary['title']}, {task} (chance of ZSL {100 * summary['chance']:.1f} %)",
        "",
        _line("seed", "cycle", *COLUMNS),
        *(_line(row["seed"], row["cycle"] + 1, *(_percent(row[name]) for name in COLUMNS)) for row in summary["seeds"]),
        _line("mean", "", *(_percent(summary["mean"][name]) for name in COLUMNS)),
    ]
    if len(summary["seeds"]) > 1:
        lines.append(_line("spread", "", *(_percent(summary["spread"][name]) for name in COLUMNS)))
    else:
        lines += ["", "One seed says little: differences below two points mean nothing. Give at least five."]
    lines += ["", f"selection: {summary['selection']['rule']}: {summary['selection']['meaning']}"]
    lines += [f"backbone ({phase}): {provenance.words(made)}" for phase, made in summary["about"].get("backbone", {}).items()]
    lines += [deviation_line(Deviation(**d)) for d in summary["deviations"]]
    lines += [
        f"{f['severity']} ({f['phase']}): {f['message']}" + (f" [{f['where']}]" if f["where"] else "")
        for f in summary["findings"]
    ]
    lines += [f"note: {summary['caution']}"]
    return "\n".join(lines) + "\n"


def deviation_line(deviation: Deviation) -> str:
    """One, for people."""
    return f"not as published: {deviation.name} {deviation.value} (published: {deviation.published})"


def write(work: Work, outcomes: Sequence[Outcome], about: dict[str, Any] | None = None) -> dict[str, Any]:
    """Write ``results.json`` and ``results.txt`` into the work folder; returns the summary. Raises `SaveError`."""
    found = summary(work, outcomes, about)
    records.write_json(work.folder.path / RESULTS, found)
    work.folder.write(TABLE, table(found).encode())
    return found


def official_log_name(classes: int, arch: str, latent: int, steps: int) -> str:
    """That of the official text file; `arch` is a folder such as ``ViT-B/16``, of which the last part counts."""
    return f"ntu{classes}-B{arch.rstrip('/').rsplit('/', 1)[-1]}-ls{latent}-nepc{steps}.txt"


def write_official_log(work: Work, outcomes: Sequence[Outcome], arch: str) -> str:
    """Stage 5 in the official form: a line of ZSL, S, U and H in percent for each seed; returns the file's name.

    The file is written whole: running it again adds nothing twice. Raises `SaveError`.
    """
    settings = work.plan.settings
    name = official_log_name(work.plan.test.classes, arch, settings.latent, settings.steps)
    lines = [" ".join(_percent(value) for value in accuracies(outcome).values()) for outcome in outcomes]
    work.folder.write(name, ("\n".join(lines) + "\n").encode())
    return name


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


def _line(*cells: object) -> str:
    return "".join(f"{cell!s:>8}" for cell in cells)
