"""A model that pretrains, in place of the repository's: toys."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine import models

NETWORK = """
from torch import nn
from tests.engine.pretraining.toys import Encoder

class Net(nn.Module):
    def __init__(self, num_classes: int, *, skeleton, people, dropout: float = 0.0):
        super().__init__()
        self.encoder, self.fc = Encoder(skeleton.joints, people, dropout), nn.Linear(8, num_classes)

    def forward(self, clips):
        return self.fc(self.encoder(clips))

    def layer_ids(self):
        return {name: int(name.startswith("fc")) for name, _ in self.named_parameters()}
"""
PRETRAINING = """
from tests.engine.pretraining.toys import Together, Toy

class Contrast(Toy):
    def __init__(self, *, skeleton, people, queue: int = 7, dropout: float = 0.0):
        super().__init__(joints=skeleton.joints, people=people, queue=queue, dropout=dropout)

class Dense(Together):
    def __init__(self, *, skeleton, people):
        super().__init__(joints=skeleton.joints, people=people)
"""
TOML = """
title = "Toy"
status = "experimental"
entry = "network:Net"
head = "fc"
streams = ["j"]
pretraining = "pretraining:Contrast"
tuning = "pretraining:Dense"
"""
RECIPE = """
model: planted_toy
pipeline: isc_pretrain
num_epoch: 3
batch_size: 4
base_lr: 0.1
warm_up_epoch: 0
log_interval: 1
device: cpu
"""
DOWNSTREAM = RECIPE.replace("isc_pretrain", "isc_downstream") + "test_batch_size: 12\n"


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "models" / "planted_toy"
    for stage, text in (("pretrain", RECIPE), ("tune", RECIPE), ("recipes", DOWNSTREAM)):
        (folder / stage).mkdir(parents=True)
        (folder / stage / "small.yaml").write_text(text)
    for name, text in {"__init__.py": "", "model.toml": TOML, "network.py": NETWORK, "pretraining.py": PRETRAINING}.items():
        (folder / name).write_text(text)
    monkeypatch.setenv(models.MODELS_VARIABLE, str(tmp_path / "models"))
    return folder
