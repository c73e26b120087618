"""Where the text features of a run come from when nobody brings them: which descriptions, and what turns them into numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.errors import WorkDirError
from engine.records import read_json
from engine.zeroshot.text import clip_text, clip_tokens, descriptions, shared_words
from engine.zeroshot.text import files as text_files
from engine.zeroshot.text import rows as text_rows
from engine.zeroshot.text.clip_text import Architecture
from engine.zeroshot.text.descriptions import Descriptions, Kind
from shared_data.store import sha256

SHARED_WORDS = "shared_words"
"""Name of the features that know no meaning, where a text tower has its own."""


@dataclass(frozen=True)
class TextSource:
    """Texts, and what makes features of them.

    mode          the descriptions of a class that count: one of `text_rows.MODES`
    weights       OpenAI's file of CLIP; None: features of shared words, which know no meaning (`shared_words`)
    clip          what the weights are of
    descriptions  folder of ``{lb,ad,md}_{classes}.csv``; None: ours
    """

    mode: str = "lb"
    weights: Path | None = None
    clip: Architecture = "ViT-B/16"
    descriptions: Path | None = None

    @property
    def arch(self) -> str:
        """What the features are called: a folder, as in `sources.Source`."""
        return SHARED_WORDS if self.weights is None else self.clip


def write(root: Path, source: TextSource, classes: int, *, force: bool = False) -> list[Path]:
    """Write the features of all `classes` below ``root/text_feats``; returns the files, one for each description of the mode.

    What was made before from the same is left as it is; with `force` what was made from something else is written over.
    Raises `UsageError`, `MissingInputError`, `DataError`, `WeightsError`, `WorkDirError` and `SaveError`.
    """
    kinds: list[Kind] = [kind for kind in descriptions.KINDS if f"{kind}_{classes}.npy" in _names(source, classes)]
    described = [_described(source, kind, classes) for kind in kinds]
    folder, made_by = root / "text_feats", _made_by(source)
    files = [folder / source.arch / f"{each.kind}_{classes}.npy" for each in described]
    todo = [each for each, file in zip(described, files, strict=True) if not _is_made(file, each, made_by, force=force)]
    for each, rows in zip(todo, _features(source, todo), strict=True):
        text_files.write(folder, source.arch, each, rows, made_by)
    return files


def _names(source: TextSource, classes: int) -> list[str]:
    return text_rows.file_names(source.mode, classes)


def _described(source: TextSource, kind: Kind, classes: int) -> Descriptions:
    if source.descriptions is None:
        return descriptions.ours(kind, classes)
    return descriptions.read(source.descriptions / f"{kind}_{classes}.csv", kind, classes)


def _made_by(source: TextSource) -> dict[str, str]:
    if source.weights is None:
        return {"method": "shared words", "width": str(shared_words.WIDTH)}
    return {"method": f"text tower of CLIP {source.clip}", "weights_sha256": sha256(source.weights)}


def _features(source: TextSource, described: list[Descriptions]) -> list[NDArray[np.float32]]:
    if source.weights is None or not described:
        return [shared_words.features(each.texts) for each in described]
    tower, tokenizer = clip_text.load(source.weights, source.clip), clip_tokens.clip()
    return [clip_text.features(tower, tokenizer, each.texts) for each in described]


def _is_made(file: Path, described: Descriptions, made_by: Mapping[str, str], *, force: bool) -> bool:
    if not file.exists():
        return False
    record = read_json(file.with_suffix(".json")) or {}
    same = record.get("made_by") == dict(made_by) and record.get("texts_sha256") == described.sha256
    if same and text_files.matches_record(file):
        return True
    if not force:
        raise WorkDirError(
            "there are other text features already", where=str(file),
            expected=f"those of {described.source.name} by: {', '.join(made_by.values())}",
            next_step="choose another folder, or --force to write over them",
        )  # fmt: skip
    return False
