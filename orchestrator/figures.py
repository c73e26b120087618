"""The verdicts as tables and sentences, before a terminal or a page shows them.

A container may say anything: what is none of the expected kind counts as not said, and what cannot be printed is written out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.verdict import Verdict, is_figure, vram_of

NONE = "-"
"""In a cell of which nothing is known."""
PASSED, FAILED = "passed", "FAILED"
_MIB = 2**20


@dataclass(frozen=True)
class Column:
    """A column. Where room is short, the one with the lowest `leaves` goes first; 0 never goes."""

    title: str
    leaves: int = 0
    number: bool = True


@dataclass(frozen=True)
class Grid:
    """A table before it is drawn, in a terminal or on a page; in every row the first cell names it."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]

    def only(self, kept: Sequence[int]) -> Grid:
        """The columns of these numbers, in this order."""
        return replace(self, columns=[self.columns[i] for i in kept], rows=[[row[i] for i in kept] for row in self.rows])


def plain(text: str) -> str:
    """`text` with what cannot be printed written out (\\x1b): a container's log must not drive the reader's terminal."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text.expandtabs(4))


def verdict_grid(verdicts: Sequence[Verdict]) -> Grid:
    """One row for each verdict, in their order; columns of GPU memory only where a GPU was used."""
    columns = (
        Column("model", number=False), Column("verdict", number=False), Column("s"), Column("peak RSS MiB", 10),
        Column("GPU MiB allocated", 9), Column("GPU MiB reserved", 7), Column("image MB", 2), Column("python", 1, number=False),
        Column("torch", 5, number=False), Column("CUDA", 3, number=False), Column("parameters", 6), Column("loss", 4),
    )  # fmt: skip
    grid = Grid("smoke tests", columns, [_figures(verdict) for verdict in verdicts])
    of_gpu = {i for i, column in enumerate(columns) if column.title.startswith("GPU")}
    if any(row[i] != NONE for row in grid.rows for i in of_gpu):
        return grid
    return grid.only([i for i in range(len(columns)) if i not in of_gpu])


def vram_grid(verdicts: Sequence[Verdict]) -> Grid | None:
    """What each model's main recipe reserves of a GPU's memory, predicted and measured; None where nobody asked."""
    judged = _judged(verdicts)
    if not judged:
        return None
    columns = (
        Column("model", number=False), Column("recipe", 2, number=False), Column("batch", 1),
        Column("predicted training", number=False), Column("predicted evaluation", 3, number=False),
        Column("measured", 4, number=False), Column("verdict", number=False),
    )  # fmt: skip
    title = f"on {judged[0][1]['limit_gib']:g} GiB of GPU memory, MiB"
    return Grid(title, columns, [_vram_figures(model, vram) for model, vram in judged])


def vram_remarks(verdicts: Sequence[Verdict]) -> list[str]:
    """How the tight ones fit; a "no" is told with the failures."""
    judged = _judged(verdicts)
    return [f"{model}: {plain(vram['reason'])}" for model, vram in judged if vram["reason"] and vram["word"] != "no"]


def summary(verdicts: Sequence[Verdict], models: Sequence[str]) -> str:
    """How many of the `models` asked about passed, and which were not reached."""
    passed = sum(verdict.passed for verdict in verdicts)
    reached = {verdict.model for verdict in verdicts}
    missing = [model for model in models if model not in reached]
    return f"{passed} of {len(models)} passed" + (f"; not run: {', '.join(missing)}" if missing else "")


def versions(verdict: Verdict) -> dict[str, str]:
    """Name -> version in a container, {} where it told none."""
    told = verdict.result.get("versions")
    return {str(name): plain(str(version)) for name, version in told.items() if version} if isinstance(told, dict) else {}


def _figures(verdict: Verdict) -> tuple[str, ...]:
    result, told = verdict.result, versions(verdict)
    count, loss = result.get("parameters"), result.get("loss")
    return (
        verdict.model,
        PASSED if verdict.passed else FAILED,
        f"{verdict.seconds:.1f}",
        _amount(result.get("peak_rss_bytes"), _MIB),
        _amount(result.get("peak_cuda_bytes"), _MIB),
        _amount(result.get("peak_cuda_reserved_bytes"), _MIB),
        _amount(verdict.image_bytes, 10**6),
        *(told.get(name, NONE) for name in ("python", "torch", "cuda")),
        f"{count:,}" if isinstance(count, int) and is_figure(count) else NONE,
        f"{loss:.6f}" if is_figure(loss) else NONE,
    )


def _vram_figures(model: str, vram: Mapping[str, Any]) -> tuple[str, ...]:
    predicted = (f"{vram['predicted_mib'][phase]:.0f} ({' to '.join(f'{bound:.0f}' for bound in vram['interval'][phase])})"
                 for phase in ("train", "eval"))  # fmt: skip
    allocated, reserved = vram["measured_allocated_mib"], vram["measured_reserved_mib"]
    measured = plain(vram["measured_note"]) if reserved is None else f"{allocated:.0f} allocated, {reserved:.0f} reserved"
    return (model, plain(vram["recipe"]), str(vram["batch"]), *predicted, measured, plain(vram["word"]))


def _judged(verdicts: Sequence[Verdict]) -> list[tuple[str, Mapping[str, Any]]]:
    return [(verdict.model, vram) for verdict in verdicts if (vram := vram_of(verdict.result)) is not None]


def _amount(value: Any, unit: int) -> str:
    return f"{value / unit:.0f}" if is_figure(value) and value else NONE
