"""Where the files of a run lie, as the official code lays them out below one folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from engine.zeroshot import features, provenance
from engine.zeroshot.plan import Plan
from engine.zeroshot.text import rows as text_rows
from engine.zeroshot.work import Data
from shared_data.errors import MissingInputError, nearest
from shared_data.zeroshot_splits import Phase


@dataclass(frozen=True)
class Source:
    """Skeleton features in ``<root>/sk_feats/<extractor>_5_r``, text in ``<root>/text_feats/<arch>``.

    arch       the text tower, a folder such as ``ViT-B/16``
    mode       the descriptions of a class that count: one of `text_rows.MODES`
    extractor  what made the skeleton features, ``shift`` officially
    skeletons  the folder that holds those of skeleton features, where it is not ``<root>/sk_feats``
    """

    root: Path
    arch: str = "ViT-B/16"
    mode: str = "lb"
    extractor: str = features.EXTRACTOR
    skeletons: Path | None = None

    def features_folder(self, unseen: int, phase: Phase) -> Path:
        """That of a phase with so many unseen classes."""
        folder = self.root / "sk_feats" if self.skeletons is None else self.skeletons
        return folder / features.folder_name(unseen, phase, extractor=self.extractor)

    @property
    def text_folder(self) -> Path:
        """That of the text tower."""
        return self.root / "text_feats" / self.arch

    def about(self, plan: Plan) -> dict[str, Any]:
        """For the results, with what made the features of each phase; no path of this machine."""
        made = {
            phase: provenance.of_folder(self.features_folder(len(plan.split(phase).unseen), phase)) for phase in get_args(Phase)
        }
        return {"text": self.arch, "mode": self.mode, "features": self.extractor, "backbone": made}

    def require_files(self, plan: Plan, phases: Sequence[Phase]) -> None:
        """Raises `MissingInputError` that names every file of text and features that `phases` read and that is not there."""
        needed = {self.text_folder: text_rows.file_names(self.mode, plan.test.classes)}
        for phase in phases:
            needed[self.features_folder(len(plan.split(phase).unseen), phase)] = features.file_names(phase)
        absent = {
            folder: names for folder, all_names in needed.items()
            if (names := [name for name in all_names if not (folder / name).is_file()])
        }  # fmt: skip
        if not absent:
            return
        lines = [
            f"{folder}{'' if folder.is_dir() else ' (no such folder' + self._meant(folder) + ')'}: {', '.join(names)}"
            for folder, names in absent.items()
        ]
        raise MissingInputError(
            "missing files: " + "; ".join(lines), where=str(self.root.absolute()),
            expected="sk_feats/ and text_feats/ as docs/zero-shot.md lays them out",
            next_step="--root FOLDER if they are elsewhere; sal zeroshot text makes the text, --backbone features from skeletons",
        )  # fmt: skip

    def _meant(self, folder: Path) -> str:
        """The nearest of the folders that are there in place of `folder`."""
        try:
            if folder == self.text_folder:
                base = self.root / "text_feats"
                known = {str(file.parent.relative_to(base)) for file in base.glob("**/*.npy")}
                return nearest(self.arch, sorted(known))
            tail = folder.name.removeprefix(self.extractor)  # of the same task and phase
            makers = [other.name.removesuffix(tail) for other in folder.parent.iterdir() if other.name.endswith(tail)]
            return nearest(self.extractor, sorted(maker for maker in makers if not maker.endswith("_val")))
        except OSError:
            return ""

    def data(self, plan: Plan, phase: Phase) -> Data:
        """Read and check what a phase needs. Raises `MissingInputError`, `DataError`, `UsageError`."""
        split = plan.split(phase)
        text = text_rows.read(self.text_folder, self.mode, split.classes)
        return Data(features.read(self.features_folder(len(split.unseen), phase), split, phase), text)
