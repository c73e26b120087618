"""The folder of one run: who may write it, what is in it, and how its log survives being cut off anywhere."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from engine.config import RunConfig
from engine.errors import SaveError, WorkDirError
from engine.storage import append_line, patiently, sweep_temporaries, write_atomically
from shared_data.atomic import flush

FIT = "fit.json"
"""What was chosen so that the run fits a GPU: `planner.fit` makes it, who starts the run gives it along, the run keeps it."""

CALIBRATION_ROW = "calibration_row.csv"
"""What the run has seen of the GPU where a prediction was off (`planner.expectation`), ready for a calibration file."""

NEVER_SEEN = ("leave_out", "hold_out")
"""Settings that say what a run has not seen."""


LAST, PREVIOUS, DAMAGED = "last.safetensors", "previous.safetensors", "damaged.safetensors"
"""States of a run, in `checkpoints/`: the newest, the one before it, and one that could not be read when the run went on."""


class RunFolder:
    """A locked run folder: `config.yaml env.json log.jsonl metrics.json scores.npz checkpoints/ report.html`.

    One process at a time may hold it; the lock goes with the process, however that ends.
    """

    def __init__(self, path: Path, *, force: bool = False, writes: bool = True) -> None:
        """Create or open and lock. Raises `WorkDirError` (exit 73), also for a folder of something else unless `force`.

        writes   False: this only says where things are, as another process of the run holds the folder
        """
        self.path = path
        self._lock: int | None = None
        self._new = writes and not path.exists()
        if not writes:
            return
        self._refuse_foreign(force)
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
            raise WorkDirError(
                f"cannot write the work folder: {getattr(error, 'strerror', error)}",
                where=str(path),
                next_step="give another --work-dir",
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = (path / ".lock").read_text(errors="replace").strip() or "another process"
            os.close(self._lock)
            raise WorkDirError(
                f"the work folder is in use by {holder}",
                where=str(path),
                next_step="wait for it, or give another --work-dir",
            ) from None
        except OSError as error:
            os.close(self._lock)
            raise WorkDirError(
                f"the work folder cannot be locked: {error.strerror}", where=str(path / ".lock"),
                next_step="give a --work-dir on a file system that has locks",
            ) from error  # fmt: skip
        since = datetime.datetime.now(datetime.timezone.utc).isoformat(sep=" ", timespec="seconds")
        try:
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, f"process {os.getpid()} on {os.uname().nodename} since {since}\n".encode(), 0)
        except OSError as error:
            if self._new:
                self._remove_if_empty()
            self.release()
            raise SaveError(f"could not write the lock: {error.strerror}", where=str(path / ".lock")) from error
        for folder in (self.path, self.checkpoints):
            sweep_temporaries(folder)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None and self._new:
            self._remove_if_empty()
        self.release()

    def _remove_if_empty(self) -> None:
        """A start that was refused leaves no folder behind."""
        with contextlib.suppress(OSError):  # somebody else may have removed it
            if {entry.name for entry in self.path.iterdir()} == {".lock", "checkpoints"} and not any(self.checkpoints.iterdir()):
                shutil.rmtree(self.path, ignore_errors=True)

    def release(self) -> None:
        """Let another process have the folder."""
        if self._lock is not None:
            os.close(self._lock)

    def _refuse_foreign(self, force: bool) -> None:
        """Nothing is made, swept or written in a folder that holds something else."""
        try:
            names = {entry.name for entry in self.path.iterdir()} if self.path.is_dir() else set()
        except (OSError, ValueError) as error:
            raise WorkDirError(f"cannot read the work folder: {error}", where=repr(str(self.path))) from error
        if names and not names & {".lock", "config.yaml"} and not force:
            raise WorkDirError(
                "the work folder is not empty and not a run of this lab", where=str(self.path),
                next_step="give an empty or new --work-dir, or --force to write into it",
            )  # fmt: skip

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def last(self) -> Path:
        return self.checkpoints / LAST

    @property
    def previous(self) -> Path:
        return self.checkpoints / PREVIOUS

    @property
    def best(self) -> Path:
        return self.checkpoints / "best.safetensors"

    @property
    def log(self) -> Path:
        return self.path / "log.jsonl"

    def claim(self, config: RunConfig) -> bool:
        """Take the folder for `config`; True if an interrupted run of the same settings is to be resumed.

        A run of other settings is refused with the differences, unless `config.force`. Nothing is written: a start that
        fails for another reason leaves no trace that would stand in the way of the next one.
        """
        kept = [p for p in (self.best, self.path / "metrics.json", *self.checkpoints.glob("runs-*")) if p.exists()]
        begun = has_state(self.path)
        if config.phase == "train" and kept and not begun and not config.force:
            raise WorkDirError(
                "the work folder holds results but no checkpoint to go on from; starting over would remove them",
                where=", ".join(map(str, kept[:3])), next_step="give another --work-dir, or --force to start over",
            )  # fmt: skip
        if config.phase == "test" and begun:
            raise WorkDirError(
                "the work folder holds a training run, whose scores and metrics would be written over",
                where=str(self.path), next_step="give another --work-dir",
            )  # fmt: skip
        if (begun or kept) and not config.force:
            differences = config.differences(self._saved_settings())
            if differences:
                raise WorkDirError(
                    "the work folder holds another run; these settings differ (saved -> asked):\n    "
                    + "\n    ".join(differences),
                    where=str(self.path),
                    next_step="give another --work-dir, or --force to go on with the new settings",
                )
        resume = config.resume == "auto" and begun
        if resume and config.force:
            self._refuse_seen(config)
        if begun and not resume and not config.force:
            raise WorkDirError(
                "the work folder holds a run, and --resume never would write over it", where=str(self.path),
                next_step="give another --work-dir, or --force to start over",
            )  # fmt: skip
        return resume

    def _refuse_seen(self, config: RunConfig) -> None:
        """Weights do not forget: a run that is to have seen less than the one here cannot go on from it, forced or not."""
        asked = {key: getattr(config, key) for key in NEVER_SEEN if getattr(config, key)}
        saved = self._saved_settings() if asked else {}
        for key, value in asked.items():
            if saved.get(key) != value:
                raise WorkDirError(
                    f"{key} is {value!r}, and the run in this work folder began with {saved.get(key)!r}: it has seen other clips",
                    where=str(self.path), next_step="give another --work-dir, or --resume never --force to start over",
                )  # fmt: skip

    def _saved_settings(self) -> dict[str, Any]:
        """What `record` wrote. Raises `WorkDirError` where it cannot be read."""
        file = self.path / "config.yaml"
        try:
            saved = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            saved = None
        if not isinstance(saved, dict):
            raise WorkDirError(
                "the settings of the run in this work folder cannot be read", where=str(file),
                next_step="give another --work-dir, or --force to go on with the settings asked for",
            )  # fmt: skip
        return saved

    def record(self, config: RunConfig) -> None:
        """Write the settings down, once the run can begin."""
        self.write("config.yaml", config.to_yaml().encode())

    def fall_back(self) -> None:
        """Make the previous state the last one; the last one, if there, stays under a name that nothing is read from."""
        try:
            with contextlib.suppress(FileNotFoundError):
                self.last.replace(self.checkpoints / DAMAGED)
            self.previous.replace(self.last)
        except OSError as error:
            raise SaveError(f"could not put the damaged state aside: {error.strerror}", where=str(self.last)) from error

    def clear(self) -> None:
        """Remove what a run writes, for starting over; its states first, so that it is not gone on with if this is cut off."""
        names = ("log.jsonl", "metrics.json", "report.html", "examples.npz", "diverged.json", FIT, CALIBRATION_ROW)
        files = [self.previous, self.last, *self.checkpoints.glob("*.safetensors")]
        files += [*(self.path / name for name in names), *self.path.glob("scores*.npz")]
        for file in files:
            file.unlink(missing_ok=True)
        shutil.rmtree(self.path / "tensorboard", ignore_errors=True)

    def write(self, name: str, content: bytes) -> None:
        write_atomically(self.path / name, content)

    def write_json(self, name: str, value: Any) -> None:
        self.write(name, (json.dumps(value, indent=1) + "\n").encode())

    def write_arrays(self, name: str, **arrays: np.ndarray) -> None:
        """An NPZ of plain arrays; object arrays would be pickled and are refused."""
        assert not any(array.dtype.hasobject for array in arrays.values())
        buffer = BytesIO()
        np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # the stub of numpy 2 takes every name for its flag
        self.write(name, buffer.getvalue())

    def append_log(self, event: str, **values: Any) -> None:
        """One JSON line, handed to the system at once."""
        append_line(self.log, (json.dumps({"event": event, **values}) + "\n").encode())

    def settle_log(self) -> int:
        """Flush the log to the disk: no state shall remember lines that a loss of power takes. Returns its size in bytes."""
        if not self.log.exists():
            return 0
        try:
            patiently(lambda: flush(self.log), f"flush {self.log}")
        except OSError as error:
            raise SaveError(f"could not flush the log: {error.strerror}", where=str(self.log)) from error
        return self.log.stat().st_size

    def cut_log(self, size: int) -> None:
        """Drop what was logged after the checkpoint that is resumed, a torn last line included."""
        if self.log.exists():
            os.truncate(self.log, self.log.read_bytes()[:size].rfind(b"\n") + 1)


def has_state(path: Path) -> bool:
    """Whether the run in folder `path` was begun: there is a state to go on from, whole or not."""
    # Not Path.exists, which may raise for some names.
    return any(os.path.exists(path / "checkpoints" / name) for name in (LAST, PREVIOUS))  # noqa: PTH110


def fit_to_resume(config: RunConfig, path: Path) -> dict[str, Any] | None:
    """What is kept of the fit with which the run in folder `path` was begun, if `config` is to resume it and there was one.

    Its "fit" is text. Raises `WorkDirError` where that cannot be read.
    """
    there = has_state(path) and os.path.exists(path / FIT)  # noqa: PTH110  # as in has_state
    if config.phase != "train" or config.resume != "auto" or not there:
        return None
    try:
        kept = json.loads((path / FIT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        kept = None
    if not isinstance(kept, dict) or not isinstance(kept.get("fit"), str):
        raise WorkDirError(
            "for what GPU memory the run in this work folder was fitted cannot be read", where=str(path / FIT),
            next_step="say it, such as --fit 8GiB, or --fit '' to go on without",
        )  # fmt: skip
    return kept


def read_log(path: Path) -> Iterator[dict[str, Any]]:
    """Events of a log; a torn last line is skipped."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            continue
