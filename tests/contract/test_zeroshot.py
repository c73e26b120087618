"""What every zero-shot system found under models/ must do, whatever it is. A new one is covered by being there."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from engine import models
from engine.zeroshot import official
from engine.zeroshot.network import Sizes
from engine.zeroshot.system import find
from shared_data.zeroshot_splits import UNSEEN

CARDS = models.discover("zeroshot")
TASKS = {(f"ntu{classes}", unseen) for classes, unseen in UNSEEN}


def every_system(test: Any) -> Any:
    return pytest.mark.parametrize("name", sorted(CARDS))(test)


def sizes_of(row: dict[str, Any]) -> Sizes:
    return Sizes(row["skeleton"], row["text"], row["latent"])


def test_there_are_systems() -> None:
    assert CARDS


@every_system
def test_card_is_complete(name: str) -> None:
    card = CARDS[name]
    assert card.status in ("verified", "experimental") and card.title == find(name).title
    assert {"title", "venue", "year", "url"} <= set(card.toml["paper"])
    assert card.toml["provenance"] and card.toml["summary"] and card.toml["expect"]
    published = card.toml["published"]
    assert all({"dataset", "unseen", "zsl", "harmonic", "source"} <= set(row) for row in published)
    assert {(row["dataset"], row["unseen"]) for row in published} == TASKS
    for row in published:  # a harmonic mean is one of two rounded numbers
        if "seen_accuracy" in row:
            seen, unseen = row["seen_accuracy"], row["unseen_accuracy"]
            assert abs(2 * seen * unseen / (seen + unseen) - row["harmonic"]) < 0.1, row


@every_system
def test_parameter_counts(name: str) -> None:
    for row in CARDS[name].toml["expect"]:
        network = find(name).build(sizes_of(row))
        assert sum(p.numel() for p in network.parameters()) == row["parameters"], row


@every_system
def test_official_names_cover_the_networks(name: str) -> None:
    """Every entry of ours has an official name, and the way there and back changes nothing."""
    system, row = find(name), CARDS[name].toml["expect"][0]
    network = system.build(sizes_of(row))
    learned = official.to_official(system, network.state_dict(), network)
    theirs = learned | {name: torch.tensor(value) for name, value in official.constants(system, network).items()}
    back = official.from_official(system, theirs, network)
    assert back.keys() == network.state_dict().keys()
    assert all(torch.equal(value, back[key]) for key, value in network.state_dict().items())
