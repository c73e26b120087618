"""Where the files of a run lie, as the official code lays them out below one folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from engine.zeroshot import features, provenance
from engine.zeroshot.plan import Plan
from engine.zeroshot.text import rows as text_rows
from engine.zeroshot.work import Data
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

    def data(self, plan: Plan, phase: Phase) -> Data:
        """Read and check what a phase needs. Raises `MissingInputError`, `DataError`, `UsageError`."""
        split = plan.split(phase)
        text = text_rows.read(self.text_folder, self.mode, split.classes)
        return Data(features.read(self.features_folder(len(split.unseen), phase), split, phase), text)
