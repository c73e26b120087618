"""Errors of training and evaluation, each with its documented exit code (docs/exit-codes.md)."""

from __future__ import annotations

import signal

from shared_data.errors import LabError, UsageError

TIME_IS_UP = signal.SIGUSR1
"""What schedulers send to a run whose time is nearly up; a --time-limit counts as it."""
RESUME_ME = 85
"""Exit code of a run that stopped because its time was up: HTCondor's example for it, and Linux's number of ERESTART."""


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


class PeerError(LabError):
    """Another process of a run of several failed, whose exit code this is, or is gone (69).

    told   whether another process tells the user
    """

    def __init__(self, exit_code: int, what: str, *, told: bool = False, next_step: str = "") -> None:
        super().__init__(what, next_step=next_step)
        self.exit_code, self.told = exit_code, told


class Interrupted(LabError):
    """Stopped by a signal after the state was saved; exit code 128 + signal number, or `RESUME_ME` where the time was up."""

    def __init__(self, signal_number: int, what: str, *, next_step: str = "") -> None:
        super().__init__(what, next_step=next_step)
        self.exit_code = RESUME_ME if signal_number == TIME_IS_UP else 128 + signal_number
