"""Feature folders from skeletons: what a backbone of the lab, trained without the unseen classes, makes of every clip.

Which phase a run is for follows from what it left out (`withheld`). Clips are seen as in evaluation, without augmentation.
Source: the specification, sections 2.2 and 8.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine import records
from engine.encode import Encoded
from engine.errors import ConfigError
from engine.feature_files import made_from
from engine.trained import TrainedRun
from engine.zeroshot import features
from engine.zeroshot.features import Features, Judged
from engine.zeroshot.task import Rows
from shared_data import withheld
from shared_data.clips import Clips
from shared_data.errors import DataError
from shared_data.zeroshot_splits import Split


def split_of(run: TrainedRun, *, truncated: bool = True) -> Split:
    """The split that `run` was trained for; `truncated` as in `splits.published`.

    Raises `ConfigError` for a run that left no class out, and for one of the validation phase that held no clips out.
    """
    left = withheld.read(run.config.leave_out)
    if not left.classes:
        raise ConfigError(
            "the run was trained on all classes, so none is unseen", where=str(run.folder),
            expected="a run with --leave-out", next_step="train one: sal train MODEL ... --leave-out 60/5",
        )  # fmt: skip
    split = left.split(run.data.num_classes, truncated=truncated)
    if left.phase == "val" and not run.config.hold_out:
        count = withheld.suitable_count(run.data, left)
        raise ConfigError(
            "the run was trained on all clips of its seen classes, so none is left that it has not seen", where=str(run.folder),
            expected="for validation: a run with --hold-out",
            next_step=f"train one: sal train MODEL ... --leave-out {run.config.leave_out} --hold-out {count}",
        )  # fmt: skip
    return split


def write(
    root: Path, run: TrainedRun, split: Split, *, extractor: str, force: bool = False
) -> tuple[Path, dict[str, int] | None]:
    """Write the folder of `run`'s phase, of `split`, below ``root/sk_feats``; returns it, and how many clips are in its parts.

    extractor  first part of the folder's name
    force      make again what was made from something else, see `records.is_made`

    None in place of the counts: that was done before, from the same. The record beside the files says what made them, and
    names the clips that were held out. Raises `DataError` if the data is not that of the run, or lacks what a part needs,
    `ConfigError`, `WorkDirError`, `WriteError`, `DivergedError` and `OutOfMemoryError`.
    """
    left = withheld.read(run.config.leave_out)
    _require_unseen(run, split)
    run.require_its_clips()
    folder = root / "sk_feats" / features.folder_name(len(split.unseen), left.phase, extractor=extractor)
    from_this = made_from(run, phase=left.phase, seen=split.seen, unseen=split.unseen)
    if records.is_made(folder, from_this, force=force):
        return folder, None
    made = _test(run, split) if left.phase == "test" else _val(run, split)
    parts = dict(zip(("train", "unseen", "rest"), (made.train, made.unseen.rows, made.rest.rows), strict=True))
    counts = {name: len(rows.labels) for name, rows in parts.items()}
    held = sorted(run.data.train.ids[_held_out(run, split)].tolist()) if left.phase == "val" else []
    features.write(folder, made, made_from=from_this, found={"clips": counts, "held_out": held})
    return folder, counts


def _test(run: TrainedRun, split: Split) -> Features:
    train = _taken(run, "train", run.data.train, np.isin(run.data.train.labels, split.seen))
    everything = run.encoded(run.data.test)
    unseen = np.isin(everything.scores.labels, split.unseen)
    ztest = _require_some(Rows("ztest", everything.features[unseen], everything.scores.labels[unseen]), run)
    return Features("test", split, _rows("train", train), Judged(ztest, None), _judged("gtest", everything))


def _val(run: TrainedRun, split: Split) -> Features:
    held = _held_out(run, split)
    train = _taken(run, "train", run.data.train, np.isin(run.data.train.labels, split.seen) & ~held)
    unseen = _taken(run, "ztest", run.data.test, np.isin(run.data.test.labels, split.unseen))
    rest = _taken(run, "val", run.data.train, held)
    return Features("val", split, _rows("train", train), _judged("ztest", unseen), _judged("val", rest))


def _held_out(run: TrainedRun, split: Split) -> NDArray[np.bool_]:
    """(N,) of the training clips: whether it is of a seen class and the run held it out."""
    clips = run.data.train
    return withheld.held_out(clips, run.config.hold_out) & np.isin(clips.labels, split.seen)


def _taken(run: TrainedRun, name: str, clips: Clips, mask: NDArray[np.bool_]) -> Encoded:
    if not mask.any():
        raise DataError(f"no clip for {name}", where=str(run.data.path), expected="clips of the task's classes in both parts")
    return run.encoded(clips.subset(mask))


def _require_some(rows: Rows, run: TrainedRun) -> Rows:
    if not len(rows.labels):
        raise DataError(f"no clip for {rows.name}", where=str(run.data.path), expected="test clips of unseen classes")
    return rows


def _rows(name: str, found: Encoded) -> Rows:
    return Rows(name, found.features, found.scores.labels)


def _judged(name: str, found: Encoded) -> Judged:
    return Judged(_rows(name, found), found.scores.logits)


def _require_unseen(run: TrainedRun, split: Split) -> None:
    """The backbone must have left out all that is unseen in `split`, and seen nothing else of it less."""
    left = withheld.read(run.config.leave_out)
    own = left.split(run.data.num_classes, truncated=False)
    if split.unseen != own.unseen or not set(split.seen) <= set(own.seen) or split.classes != own.classes:
        raise ConfigError(
            f"the run left out {run.config.leave_out}, the split has the unseen classes {', '.join(map(str, split.unseen))}",
            where=str(run.folder), expected="the features of the split that the run was trained for",
        )  # fmt: skip
