"""The HTML report of a run folder: one file, no script, no address outside it."""

from engine.report.page import write_report

__all__ = ["write_report"]
