"""`sal ensemble`: the logits of several runs as one. Heavy imports stay inside."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Column, Table

from engine.errors import ConfigError
from engine.parsing import lists_joined
from sal import signature
from sal.printing import PipedConsole, print_json

if TYPE_CHECKING:
    from engine.ensemble import Joined
    from engine.metrics import Scores
    from engine.score_files import ScoreFile

ORACLE = "the weights were chosen by the labels of these same test clips, as the field often does: no estimate for other clips"
EQUAL = "equal weights"


@dataclass(frozen=True)
class Choice:
    """weights in the order of the runs, where they are `from_` (as tables say it), notes, and what a search found."""

    weights: tuple[float, ...]
    from_: str
    notes: tuple[str, ...] = ()
    search: dict[str, Any] | None = None


def run(argv: list[str]) -> int:
    """The verb."""
    return signature.call(ensemble, lists_joined(argv, ["--weights"]), "sal ensemble")


def ensemble(
    runs: list[Path],
    weights: list[float] | None = None,
    official: bool = False,
    search: bool = False,
    search_on_test: bool = False,
    alpha: float | None = None,
    best: bool = False,
    labels: Path | None = None,
    split: str = "auto",
    out: Path | None = None,
    json: bool = False,
) -> int:
    """Sum the logits of several runs, clip by clip, with equal or other weights; docs/ensembles.md.

    Args:
        runs: run folders, score files (.npz) or official score pickles, all of the same clips.
        weights: a weight for each run, such as 0.6 0.6 0.4 0.4.
        official: the weights that the model is published with.
        search: search the weights on the validation clips of runs made with --protocol honest.
        search_on_test: search the weights on the test clips themselves; optimistic.
        alpha: weight of the second of two runs, the first has 1.
        best: the best epoch of each run instead of the last.
        labels: labels for score pickles: data file, label pickle or score file.
        split: protocol that divides the data file of --labels, if it is not divided yet.
        out: folder to write scores.npz and ensemble.json into.
        json: print one JSON object instead of a table.
    """
    from engine import ensemble as engine
    from engine.score_files import read_labels, read_scores

    wishes = {"weights": weights, "official": official, "search": search, "search-on-test": search_on_test, "alpha": alpha}
    _check(wishes, len(runs), weights, alpha)
    files = [read_scores(path, best=best) for path in runs]
    joined = engine.join(files, read_labels(labels, split=split) if labels else None)
    held_out = engine.join([read_scores(path, best=best, part="validation") for path in runs]) if search else None
    if out:
        engine.claim_folder(out)
    choice = _choose(wishes, files, joined, held_out, quiet=json)
    about = _report(files, joined, choice)
    if out:
        engine.write(out, joined.fused(choice.weights), about)
    if json:
        print_json(about)
    else:
        _print(about, out)
    return 0


def _check(wishes: dict[str, Any], runs: int, weights: Sequence[float] | None, alpha: float | None) -> None:
    """Refuse what contradicts itself before anything is read. Raises `ConfigError`."""
    asked = [f"--{name}" for name, value in wishes.items() if value is not None and value is not False]
    if len(asked) > 1:
        raise ConfigError(f"{' and '.join(asked)} each say which weights to take", next_step="leave one of them")
    if weights is not None and len(weights) != runs:
        raise ConfigError(f"{len(weights)} weights for {runs} runs", expected="a weight for each run, in their order")
    if alpha is not None and runs != 2:
        raise ConfigError(f"--alpha with {runs} runs", expected="two: first + alpha * second", next_step="--weights for more")
    given = [*(weights or ()), *([] if alpha is None else [alpha])]
    if not all(map(math.isfinite, given)) or (weights is not None and not any(weights)):
        raise ConfigError(f"weights {' '.join(map(str, given))}", expected="finite numbers, not all zero")


def _choose(
    wishes: dict[str, Any], files: Sequence[ScoreFile], joined: Joined, held_out: Joined | None, *, quiet: bool
) -> Choice:
    from engine.ensemble import published_weights

    if wishes["weights"] is not None:
        return Choice(tuple(wishes["weights"]), "--weights")
    if wishes["alpha"] is not None:
        return Choice((1.0, wishes["alpha"]), "first + alpha * second")
    if wishes["official"]:
        found = published_weights(files)
        return Choice(found.weights, "published weights", (f"published weights: {found.source}",))
    if held_out is not None:
        return _searched(held_out, "validation", "searched on validation clips", (), quiet)
    if wishes["search-on-test"]:
        return _searched(joined, "test", "searched on these clips", (ORACLE,), quiet)
    return Choice((1.0,) * len(files), EQUAL)


def _searched(clips: Joined, part: str, from_: str, notes: tuple[str, ...], quiet: bool) -> Choice:
    from engine.ensemble import CALLS, SEED, search, top1

    console = Console(stderr=True)
    if not quiet:
        console.print(f"searching: {CALLS} evaluations, minutes of which are the optimiser's own", highlight=False)
    with Progress(console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task("searching", total=CALLS)
        found = search(clips, calls=CALLS, seed=SEED, progress=lambda done, _: bar.update(task, completed=done))
    equal = top1(clips, [1.0] * len(clips.logits))
    about = {
        "on": part, "clips": len(clips.ids), "calls": CALLS, "seed": SEED, "top1": found.top1, "top1_of_equal_weights": equal,
    }  # fmt: skip
    told = f"searched on {len(clips.ids)} {part} clips: top-1 {found.top1:.2%} there, {equal:.2%} with equal weights"
    return Choice(found.weights, from_, (*notes, told), about)


def _report(files: Sequence[ScoreFile], joined: Joined, choice: Choice) -> dict[str, Any]:
    """What is printed, and written as ensemble.json."""
    equal = (1.0,) * len(files)
    notes = dict.fromkeys((*(note for file in files for note in file.notes), *choice.notes))  # each once, in order
    return {
        "clips": len(joined.ids), "classes": joined.logits.shape[2], "part": next((f.part for f in files if f.part), ""),
        "runs": [
            {
                "name": file.name, "model": file.settings.get("model"), "stream": file.settings.get("stream"), "weight": weight,
                **_accuracy(joined.of(number)),
            }
            for number, (file, weight) in enumerate(zip(files, choice.weights, strict=True))
        ],
        "equal": {"weights": equal, **_accuracy(joined.fused(equal))},
        "ensemble": {"weights": choice.weights, "from": choice.from_, **_accuracy(joined.fused(choice.weights))},
        "search": choice.search, "notes": list(notes),
    }  # fmt: skip


def _accuracy(scores: Scores) -> dict[str, float]:
    from engine.metrics import measure

    metrics = measure(scores, 0)
    return {"top1": metrics.top1, "top5": metrics.top5}


def _print(about: dict[str, Any], out: Path | None) -> None:
    console = PipedConsole()
    table = Table(Column("scores", overflow="fold"), "stream", "weight", "top-1", "top-5")
    for row in about["runs"]:
        table.add_row(
            escape(row["name"]),
            escape(str(row["stream"] or "")),
            f"{row['weight']:.4g}",
            f"{row['top1']:.2%}",
            f"{row['top5']:.2%}",
        )
    table.add_section()
    fused = {EQUAL: about["equal"], about["ensemble"]["from"]: about["ensemble"]}
    for name, row in fused.items():
        shown = " ".join(f"{weight:.4g}" for weight in row["weights"])
        table.add_row(name, "", shown, f"[bold]{row['top1']:.2%}[/]", f"{row['top5']:.2%}")
    console.print(table)
    console.print(f"{about['clips']} {about['part']} clips, {about['classes']} classes".replace("  ", " "), highlight=False)
    for note in about["notes"]:
        console.print(note, highlight=False, soft_wrap=True, markup=False)
    if out:
        console.print(f"scores: {out}", highlight=False, soft_wrap=True, markup=False)
