"""Official constructor arguments and checkpoints of SkateFormer."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from engine import models
from engine.errors import WeightsError
from models.skateformer.network import SkateFormer
from shared_data.errors import UsageError
from tests.models.against_slow import assert_there_and_back
from tests.models.skateformer.naive import NaiveSkateFormer

CARD = models.find("skateformer")
NAMES = models.official_module(CARD)
SMALL = {
    "num_classes": 5, "num_people": 1, "num_points": 4, "num_heads": 8,
    "type_1_size": [1, 2], "type_2_size": [1, 4], "type_3_size": [1, 2], "type_4_size": [1, 4],
}  # fmt: skip


def test_constructor() -> None:
    assert NAMES.constructor({}) == {"num_classes": 60, "people": 2, "points": 24, "skeleton": "ntu25"}
    given = {
        "in_channels": 3, "num_classes": 10, "num_people": 1, "num_points": 20, "num_frames": 32, "kernel_size": 5,
        "num_heads": 16, "attn_drop": 0, "head_drop": 0.1, "rel": True, "drop_path": 0, "mlp_ratio": 1, "index_t": False,
        "type_1_size": [4, 4], "type_2_size": [4, 5], "type_3_size": [2, 4], "type_4_size": [4, 10],
    }  # fmt: skip
    network = models.build(CARD, **NAMES.constructor(given))
    assert isinstance(network, SkateFormer)
    assert (network.joints, network.people, network.frames) == (20, 1, 32)
    assert network.sizes == ((4, 4), (4, 5), (2, 4), (4, 10))
    assert network.dropout.p == 0.1 and network.blocks[0].attention.dropout.p == 0.0
    assert network.blocks[0].temporal.kernel_size == (5, 1) and network.embedding.shape == (32, 20, 96)
    assert network(torch.zeros(2, 3, 32, 20, 1)).shape == (2, 10)


@pytest.mark.parametrize("given", [{"num_clas": 10}, {"graph": "ntu"}, {"num_points": 25}])
def test_constructor_refuses(given: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        models.build(CARD, **NAMES.constructor(given))


@pytest.mark.parametrize(
    "options", [{}, {"index_t": False, "num_frames": 8}, {"rel": False}], ids=["default", "table", "no bias"]
)
def test_checkpoint_there_and_back(options: dict[str, Any]) -> None:
    network = models.build(CARD, **NAMES.constructor({**SMALL, **options}))
    assert_there_and_back(network, NaiveSkateFormer(**SMALL, **options), NAMES)


def test_checkpoint_that_does_not_fit() -> None:
    official = dict(NaiveSkateFormer(**SMALL).state_dict())
    del official["stages.0.blocks.1.transformer.attention.2.relative_position_bias_table"]
    official["extra"] = torch.zeros(1)
    network = models.build(CARD, **NAMES.constructor({**SMALL, "num_classes": 6}))
    with pytest.raises(WeightsError, match=r"(?s)1 missing.*1 unexpected: extra.*head.weight: 5x192 in the file, 6x192"):
        NAMES.from_official(official, network)
