"""The HTML report of a run folder: one file, no script, no address outside it."""

from __future__ import annotations

from pathlib import Path

from engine.report import page, pretraining, segmentation, zeroshot
from engine.report.reading import SEGMENT, Run, read_run
from engine.storage import write_atomically

__all__ = ["write_report"]


def write_report(run_folder: Path) -> Path:
    """Write `report.html` into a run folder, of whatever kind of run, and return its path.

    Raises `MissingInputError` for a folder that is no run's or a zero-shot run that has not come to its end, `DataError` if its
    results cannot be read, `SaveError` if the file cannot be written. Whatever else is missing is said in the report.
    """
    folder = Path(run_folder)
    if zeroshot.is_run(folder):
        content = zeroshot.page(folder)
    else:
        content = _page(read_run(folder))
    target = folder / "report.html"
    write_atomically(target, content.encode("utf-8", "replace"))  # the name of a video need not be text
    return target


def _page(run: Run) -> str:
    if run.stage == SEGMENT:
        return segmentation.page(run)
    return pretraining.page(run) if run.unlabelled else page.page(run)
