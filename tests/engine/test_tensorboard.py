"""The TensorBoard extra, with a stand-in for the package, and its absence."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from engine.errors import ConfigError
from engine.tensorboard import Mirror


def test_numbers_of_events_are_mirrored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    written: list[tuple[str, float, int]] = []

    class Writer:
        def __init__(self, folder: str) -> None:
            assert folder == str(tmp_path / "tensorboard")

        def add_scalar(self, *values: Any) -> None:
            written.append(values)

        def flush(self) -> None:
            pass

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    mirror = Mirror(tmp_path)
    mirror.write("step", {"step": 7, "epoch": 1, "loss": 0.5})
    mirror.write("eval", {"epoch": 1, "top1": 0.25, "note": "x"})
    assert written == [("step/loss", 0.5, 7), ("eval/top1", 0.25, 1)]


def test_without_the_package_the_flag_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match="tensorboard"):
        Mirror(tmp_path)
