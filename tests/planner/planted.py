"""Models made for a test: a folder of small networks and recipes, in place of the repository's."""

from pathlib import Path

import pytest

from engine import models as registry

NETWORK = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, *, skeleton, people, width: int = 16):
        super().__init__()
        self.enter = nn.Conv2d(3, width, 1)
        self.bn = nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, num_classes)

    def forward(self, x):
        n, c, t, v, m = x.shape
        x = x.permute(0, 4, 1, 2, 3).reshape(n * m, c, t, v)
        return self.fc(torch.relu(self.bn(self.enter(x))).mean((2, 3)).view(n, m, -1).mean(1))
"""
READS_VALUES = NETWORK.replace("return self.fc(", "assert x.sum().item() < 1e9\n        return self.fc(")


def write_model(folder: Path, name: str, network: str, **recipes: str) -> None:
    (folder / name / "recipes").mkdir(parents=True)
    (folder / name / "__init__.py").touch()
    (folder / name / "model.toml").write_text(f'title = "{name}"\nentry = "network:Net"\nstatus = "experimental"\n')
    (folder / name / "network.py").write_text(network)
    for recipe, text in recipes.items():
        (folder / name / "recipes" / f"{recipe}.yaml").write_text(f"model: {name}\n{text}")


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    monkeypatch.setenv(registry.MODELS_VARIABLE, str(folder))
    write_model(
        folder, "planted_small", NETWORK,
        ntu60="dataset: ntu60\nbatch_size: 64\n",
        ntu60_wide="dataset: ntu60\nsplit: xsub\nbatch_size: 64\nmodel_args: {width: 4096}\n",
        ntu60_wide_pieces="dataset: ntu60\nsplit: xsub\nbatch_size: 64\nforward_batch_size: 8\nmodel_args: {width: 4096}\n",
        nw_ucla="dataset: nw_ucla\nbatch_size: 16\ntrain_window_size: 52\ntest_window_size: 52\n",
    )  # fmt: skip
    return folder
