"""TensorBoard as an extra: the same events as the log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.errors import ConfigError


class Mirror:
    """Writes the numbers of log events below `folder/tensorboard`."""

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ConfigError(
                "--tensorboard needs the tensorboard package",
                next_step="pip install 'skeleton-action-lab[tensorboard]'",
            ) from None
        self._writer = SummaryWriter(str(folder / "tensorboard"))

    def write(self, event: str, values: dict[str, Any]) -> None:
        place = values.get("step" if event == "step" else "epoch", 0)
        for name, value in values.items():
            if isinstance(value, float):
                self._writer.add_scalar(f"{event}/{name}", value, place)
        self._writer.flush()
