"""Every classifier gives features: what goes into its head, which makes its logits of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from engine import models
from engine.assembly import expected_shape
from engine.encode import encode, head_of
from engine.step import forward, takes_positions
from smoke_tests.fingerprint import fill, settle

CARDS = models.discover()
ROWS = {(name, str(row.get("model_args"))): row for name, card in CARDS.items() for row in card.toml["expect"][::-1]}
"""One size of each variant of each model; the quick tests look at the first."""
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("variant", "row"),
    [
        pytest.param(*item, marks=[] if item[1] is CARDS[item[0][0]].toml["expect"][0] else pytest.mark.slow)
        for item in ROWS.items()
    ],
    ids=map(" ".join, ROWS),
)
def test_features_are_what_the_head_makes_the_logits_of(variant: tuple[str, str], row: dict[str, Any]) -> None:
    card = CARDS[variant[0]]
    torch.manual_seed(0)
    sizes = {key: row[key] for key in ("skeleton", "people")}
    network = models.build(card, num_classes=row["classes"], **sizes, **row.get("model_args", {}))
    clips = torch.randn(2, *expected_shape(card, row, row["window"]))
    fill(network)
    settle(network, clips)
    head = head_of(card, network)
    positions = torch.linspace(-1, 0.9, clips.shape[2]).expand(2, -1) if takes_positions(network) else None
    with torch.no_grad():
        features, logits = encode(network.eval(), head, clips, positions, device=CPU)
        assert features.shape == (2, head.in_features) and logits.shape == (2, row["classes"])
        assert torch.equal(logits, forward(network, clips, positions)) and torch.equal(head(features), logits)
    assert not head._forward_pre_hooks and not torch.allclose(features[0], features[1])
