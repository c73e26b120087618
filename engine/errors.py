"""Errors of training and evaluation, each with its documented exit code (docs/exit-codes.md)."""

from __future__ import annotations

from shared_data.errors import LabError, UsageError


class ConfigError(UsageError):
    """A wrong flag, key or value of a run."""


class WeightsError(LabError):
    """A checkpoint that does not belong to this model, or is damaged, or may not be opened."""

    exit_code = 65


class DivergedError(LabError):
    """The loss is not a number; the batch is named and the last good checkpoint stands."""

    exit_code = 70


class WorkDirError(LabError):
    """The work folder cannot be written, is in use, or belongs to another run."""

    exit_code = 73


class SaveError(LabError):
    """A checkpoint or log could not be written (disk full, file too large); the last good one stands."""

    exit_code = 74


class OutOfMemoryError(LabError):
    """The GPU ran out of memory; a smaller setting would fit.

    part   of the run that found it full: one of those that `engine.memory` names
    """

    exit_code = 75

    def __init__(self, what: str, *, part: str, expected: str = "", next_step: str = "") -> None:
        super().__init__(what, where=part, expected=expected, next_step=next_step)
        self.part = part


class Interrupted(LabError):
    """Stopped by a signal after the state was saved; exit code 128 + signal number."""

    def __init__(self, signal_number: int, what: str, *, next_step: str = "") -> None:
        super().__init__(what, next_step=next_step)
        self.exit_code = 128 + signal_number
