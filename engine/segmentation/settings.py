"""How frames are segmented: the settings in `segment_args`, those of a run with ``stage: segment``."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from engine.errors import ConfigError
from shared_data.errors import nearest, require

Mode = Literal["full", "window"]
Smoothing = Literal["class", "time"]
Measure = Literal["accuracy", "edit", "f1_10", "f1_25", "f1_50"]
WHERE = "segment_args"


@dataclass(frozen=True)
class Settings:
    """Those of `model.toml`'s own segmenters (kind "segmenter") are the loss's and the selection's alone.

    mode              full: whole sequences, the encoder by windows, the head over all frames; window: windows of the encoder's
                      length alone, each frame of which is classified
    head_width        channels of the head
    head_layers       dilated layers of each of its stages: 10 see 1,023 frames to either side
    class_stages      stages that refine the classes
    boundary_stages   stages that refine the boundaries
    dropout           of the head's layers
    hop               frames from one window to the next, where the encoder says one thing of a whole window; 0: a quarter
    encoder_scale     factor of the encoder's learning rate
    frozen            the encoder learns nothing
    smoothing         what log probabilities are normalised over in the smoothing term (`engine.segmentation.losses`)
    smoothing_weight  of that term
    boundary_weight   of the boundaries' cross-entropy
    background_share  window mode: share of background among the frames shown; None: as it is
    chosen_by         of the refined predictions, where there are boundaries: what the best epoch is best in
    official_ends     count the last segment of a sequence one frame short, as published numbers do
    """

    mode: Mode = "full"
    head_width: int = 64
    head_layers: int = 10
    class_stages: int = 1
    boundary_stages: int = 2
    dropout: float = 0.5
    hop: int = 0
    encoder_scale: float = 0.1
    frozen: bool = False
    smoothing: Smoothing = "class"
    smoothing_weight: float = 1.0
    boundary_weight: float = 0.1
    background_share: float | None = None
    chosen_by: Measure = "f1_50"
    official_ends: bool = False

    def __post_init__(self) -> None:
        for name, least in (("head_width", 1), ("head_layers", 1), ("class_stages", 0), ("boundary_stages", 0), ("hop", 0)):
            require(getattr(self, name) >= least, f"{WHERE}: {name}", getattr(self, name), f"{least} or more")
        require(self.head_layers <= 16, f"{WHERE}: head_layers", self.head_layers, "at most 16: they double what is seen")
        require(0 <= self.dropout < 1, f"{WHERE}: dropout", self.dropout, "a rate, 0 or more and below 1")
        for name in ("encoder_scale", "smoothing_weight", "boundary_weight"):
            require(getattr(self, name) >= 0, f"{WHERE}: {name}", getattr(self, name), "0 or more")
        share = self.background_share
        require(share is None or 0 <= share <= 1, f"{WHERE}: background_share", share, "0 to 1")


def settings(given: Mapping[str, Any]) -> Settings:
    """`segment_args` checked. Raises `ConfigError` for a key that is none, naming the nearest, or a value of another kind."""
    hints = typing.get_type_hints(Settings)
    for key, value in given.items():
        if key not in hints:
            raise ConfigError(f"there is no setting {key!r}{nearest(key, hints)}", where=WHERE, expected=", ".join(hints))
        if not _fits(value, hints[key]):
            raise ConfigError(f"{key} is {value!r}", where=WHERE, expected=_called(hints[key]))
    values: dict[str, Any] = {key: float(value) if hints[key] is float else value for key, value in given.items()}
    return Settings(**values)


def _fits(value: Any, hint: Any) -> bool:
    if isinstance(hint, types.UnionType):
        return any(_fits(value, each) for each in typing.get_args(hint))
    if typing.get_origin(hint) is Literal:
        return value in typing.get_args(hint)
    kinds: dict[Any, tuple[type, ...]] = {float: (int, float), int: (int,), bool: (bool,), types.NoneType: (types.NoneType,)}
    return isinstance(value, kinds[hint]) and (hint is bool or not isinstance(value, bool))


def _called(hint: Any) -> str:
    if isinstance(hint, types.UnionType):
        return " or ".join(_called(each) for each in typing.get_args(hint))
    return ", ".join(typing.get_args(hint)) if typing.get_origin(hint) is Literal else str(getattr(hint, "__name__", hint))


def as_dict(chosen: Settings) -> dict[str, Any]:
    """For a file of weights, which `settings` reads back."""
    return dataclasses.asdict(chosen)
