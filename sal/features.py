"""`sal features`: what the network of a finished run makes of every clip. Heavy imports stay inside."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from engine.trained import TrainedRun


def features(
    run: Path,
    *,
    out: Path,
    data: Path | None = None,
    seen_only: bool = False,
    extractor: str = "",
    weights: Literal["last", "best"] = "last",
    full_validation_list: bool = False,
    device: str = "auto",
    test_batch_size: int | None = None,
    force: bool = False,
) -> int:
    """Write the features of all clips of a finished run's data: what goes into the layer that makes the logits.

    Without --seen-only: OUT/EXTRACTOR/train.npz and test.npz with ids, labels, features and logits. With it, from a run that left
    classes out: the folder OUT/sk_feats/EXTRACTOR_5_r, or EXTRACTOR_val_5_r, that sal zeroshot run reads. What was written before
    from the same is left as it is.

    Args:
        run: a run folder.
        out: folder to write into.
        data: the data of the run, if it is not where it was.
        seen_only: the folder of zero-shot features of the phase that the run was trained for.
        extractor: name of what made the features (default: the model).
        weights: of the last epoch, or of the best one on the run's test clips, which were looked at for that.
        full_validation_list: in validation of 120/10 all 100 seen classes, not the 81 of the official list.
        device: auto, cpu, cuda, or a GPU's number.
        test_batch_size: clips per pass, in place of the run's.
        force: make again what was made from another run.
    """
    from engine import feature_files
    from engine.config import RANGES
    from engine.errors import ConfigError
    from engine.trained import open_run

    least = RANGES["test_batch_size"][0]
    if test_batch_size is not None and test_batch_size < least:
        raise ConfigError(f"test_batch_size is {test_batch_size}", expected=f"{least:.0f} or more")
    trained = open_run(run, data=data, weights=weights, device=device, test_batch_size=test_batch_size)
    name = _name(extractor or trained.config.model)
    if trained.config.weights:
        print(f"note: this run began with the weights {trained.config.weights}; what these had seen, it has seen")
    if seen_only:
        return _seen_only(trained, out, name, truncated=not full_validation_list, force=force)
    if full_validation_list:
        raise ConfigError("--full-validation-list is about the folder of zero-shot features", next_step="add --seen-only")
    made = feature_files.write(out / name, trained, force=force)
    print(f"{out / name}" if made else f"{out / name}: done before, from the same run")
    return 0


def _seen_only(trained: TrainedRun, out: Path, name: str, *, truncated: bool, force: bool) -> int:
    from engine.zeroshot import from_skeletons

    split = from_skeletons.split_of(trained, truncated=truncated)
    folder, counts = from_skeletons.write(out, trained, split, extractor=name, force=force)
    print(f"{folder}" if counts else f"{folder}: done before, from the same run")
    for part, count in (counts or {}).items():
        print(f"  {part:6} {count:,} clips")
    return 0


def _name(extractor: str) -> str:
    """Raises `ConfigError` for what is no name of a folder."""
    import re

    from engine.errors import ConfigError

    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", extractor):
        raise ConfigError(f"{extractor!r} is no name", where="--extractor", expected="letters, digits, . _ and -")
    return extractor
