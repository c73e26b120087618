"""Short made-up sequences and a narrow network, for runs of seconds."""

from pathlib import Path

import pytest

from shared_data.sequence_store import write_sequences
from shared_data.synthetic_sequences import synthetic_sequences


@pytest.fixture(scope="session")
def sequences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 7 training and 3 test sequences of about 120 frames, 3 actions and background."""
    source = synthetic_sequences(classes=3, train=7, test=3, actions=2, lengths=(20, 40), pauses=(10, 20))
    return write_sequences(source, tmp_path_factory.mktemp("sequences") / "sequences.h5")


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    file.write_text(
        "model: usdrl\npipeline: normalised\ntrain_window_size: 16\nmodel_args: {backbone: sttr, width: 8}\n"
        "segment_args: {head_width: 8, head_layers: 3, boundary_stages: 1}\n"
        "num_epoch: 2\nbatch_size: 2\noptimizer: AdamW\nbase_lr: 0.003\nlr_schedule: cosine\nwarm_up_epoch: 0\n"
        "clip_grad: 1.0\nnum_worker: 0\nlog_interval: 1\ndevice: cpu\n"
    )
    return file
