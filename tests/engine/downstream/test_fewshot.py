"""Few-shot protocols on made-up lists of NTU RGB+D 120's names."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from engine.downstream.features import Features, together
from engine.downstream.fewshot import novel_gallery, one_shot, prototypes
from shared_data.errors import DataError, UsageError
from shared_data.protocols import ntu_name, split_rule


def made(*, apart: float, width: int = 160) -> tuple[Features, Features]:
    """Cross-subject training and test clips by the rule, of setups 1 (A001 ... A060) and 18 (A061 ... A120)."""
    rule, parts = split_rule("xsub", 120), {"train": [], "test": []}
    for setup, actions, people in ((1, range(1, 61), (3, 8)), (18, range(61, 121), (8, 41, 45, 51))):
        for action in actions:
            for person in people:
                for camera in (2, 3):
                    name = f"S{setup:03d}C{camera:03d}P{person:03d}R001A{action:03d}"
                    parts[rule.side(ntu_name(name))].append((name, action - 1))
    rng, found = np.random.default_rng(0), []
    for rows in (parts["train"], parts["test"]):
        ids, labels = (np.array(column) for column in zip(*rows, strict=True))
        values = rng.normal(size=(len(ids), width)) + apart * np.eye(120, width)[labels]
        found.append(Features(ids, labels, values.astype(np.float32)))
    return found[0], found[1]


def test_the_novel_gallery() -> None:
    found = novel_gallery(*made(apart=30), ks=(1, 4))
    assert [(one.setting, one.top1, one.rule) for one in found] == [("k = 1", (1.0,), "none"), ("k = 4", (1.0,), "none")]
    assert found[0].note == "240 clips in the gallery, 240 queries"
    assert novel_gallery(*made(apart=0), ks=(1,))[0].top1[0] < 0.1


def test_prototypes_over_draws() -> None:
    train, test = made(apart=4.5)
    one, two = (prototypes(train, test, shots) for shots in (1, 2))
    assert one.seeds == tuple(range(10)) == two.seeds
    assert one.setting == "K = 1, 60 classes"
    assert len(set(one.top1)) > 1
    assert one.spread is not None
    assert one.spread > 0
    assert 0.1 < one.mean < two.mean < 0.9, "two clips say more than one"
    order = np.random.default_rng(1).permutation(len(train))
    assert prototypes(train.at(order), test, 1) == one
    assert prototypes(train, test, 2, seeds=(3,)).top1[0] == two.top1[3]
    with pytest.raises(UsageError, match="5 clips of each class"):
        prototypes(train, test, 5)


def test_a_prototype_is_the_mean_of_unit_features() -> None:
    """A long feature counts no more than a short one of its class."""
    ids = np.array(["a", "b", "c", "d"])
    train = Features(ids, np.array([60, 60, 61, 61]), np.array([[9, 0], [0, 0.1], [1, -1], [1, -1]], np.float32))
    test = Features(ids[:2], np.array([60, 61]), np.array([[1, 1.5], [1, -0.4]], np.float32))
    assert prototypes(train, test, 2, seeds=(0,)).top1 == (1.0,)
    assert prototypes(replace(train, values=train.values / [[9], [1], [1], [1]]), test, 2, seeds=(0,)).top1 == (1.0,)


def test_one_shot_by_the_exemplars() -> None:
    clips = together(*made(apart=30))
    found = one_shot(clips, pretrained_on="ntu60")
    assert found.top1 == (1.0,)
    assert found.note == "100 queries; the weights have seen 10 of the 20 novel classes, without labels"
    assert one_shot(clips).note == "100 queries"
    shuffled = replace(clips, values=np.random.default_rng(2).permutation(clips.values))
    assert one_shot(shuffled).top1[0] < 0.3


def test_one_shot_needs_every_exemplar() -> None:
    clips = together(*made(apart=1))
    with pytest.raises(DataError, match="19 exemplars, none of A007"):
        one_shot(clips.at(clips.ids != "S001C003P008R001A007"))
