"""Probes against torch's own layers, step by step; several seeds at once; which epoch counts; official settings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from engine.downstream.features import Features
from engine.downstream.probe import OFFICIAL, ProbeSettings, probe
from engine.errors import DivergedError
from engine.schedules import iteration_learning_rate
from shared_data.batches.randomness import permutation
from shared_data.errors import DataError, UsageError

QUICK = ProbeSettings(0.1, 16, 6, drops=(3, 5))
MAMP = ProbeSettings(0.1, 16, 6, cosine=True, batch_norm=True, init="trunc_normal")
CLASSES, WIDTH = 4, 10


def made(count: int, seed: int = 0, *, apart: float = 1.0) -> Features:
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    values = rng.normal(size=(count, WIDTH)) + apart * np.eye(CLASSES, WIDTH)[labels]
    return Features(np.array([f"clip_{seed}_{n}" for n in range(count)]), labels, values.astype(np.float32))


def naive(train: Features, test: Features, settings: ProbeSettings, seed: int) -> tuple[np.ndarray, list[float]]:
    """Logits of the last epoch and mean loss of every one, by torch's modules."""
    layer = nn.Linear(WIDTH, CLASSES)
    torch.manual_seed(seed)
    start = nn.init.normal_ if settings.init == "normal" else nn.init.trunc_normal_
    start(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)
    network = nn.Sequential(nn.BatchNorm1d(WIDTH, eps=1e-6, affine=False), layer) if settings.batch_norm else layer
    optimizer = torch.optim.SGD(layer.parameters(), settings.lr, momentum=0.9)
    x, y = torch.from_numpy(train.values), torch.from_numpy(train.labels)
    steps, losses, step = -(-len(train) // settings.batch), [], 0
    for epoch in range(settings.epochs):
        total = 0.0
        for rows in torch.from_numpy(permutation(seed, epoch, len(train))).split(settings.batch):
            rate = settings.lr * 0.1 ** sum(epoch >= drop for drop in settings.drops)
            if settings.cosine:
                rate = iteration_learning_rate(step, base_lr=settings.lr, iterations=settings.epochs * steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(network(x[rows]), y[rows])
            loss.backward()
            optimizer.step()
            total, step = total + loss.item() * len(rows), step + 1
        losses.append(total / len(train))
    with torch.no_grad():
        return network.eval()(torch.from_numpy(test.values)).numpy(), losses


@pytest.mark.parametrize("settings", [QUICK, MAMP], ids=["drops", "cosine and BatchNorm"])
def test_each_of_several_seeds_learns_as_alone_and_as_torch_has_it(settings: ProbeSettings) -> None:
    train, test = made(56), made(20, 1)
    found = probe(train, test, CLASSES, settings, seeds=(3, 11))
    for one in found:
        logits, losses = naive(train, test, settings, one.seed)
        np.testing.assert_allclose(one.selected["last"].scores.logits, logits, atol=2e-6)
        np.testing.assert_allclose(one.loss, losses, atol=2e-6)
        alone = probe(train, test, CLASSES, settings, seeds=(one.seed,))[0]
        np.testing.assert_allclose(alone.weight, one.weight, atol=2e-6)
    assert not np.allclose(found[0].weight, found[1].weight, atol=1e-3)
    again = probe(train, test, CLASSES, settings, seeds=(3, 11))
    np.testing.assert_array_equal(again[1].weight, found[1].weight)


def test_which_epoch_counts() -> None:
    train, test = made(60, apart=0.3), made(40, 1, apart=0.3)
    held = np.arange(0, 60, 5)
    settings = replace(QUICK, epochs=15, drops=(), lr=2.0)
    (found,) = probe(train, test, CLASSES, settings, validation=held)
    assert found.selected.keys() == {"last", "best_on_validation", "best_on_test"}
    assert found.selected["last"].epoch == 14
    assert found.selected["best_on_test"].epoch == found.test.argmax()
    assert found.selected["best_on_validation"].epoch == found.validation.argmax()
    assert len({chosen.epoch for chosen in found.selected.values()}) == 3, "data in which the rules differ"
    for rule in found.selected.values():
        assert (rule.scores.logits.argmax(1) == test.labels).mean() == found.test[rule.epoch]
        np.testing.assert_array_equal(rule.scores.ids, test.ids)


def test_what_is_held_out_is_not_trained_on() -> None:
    train, test, held = made(60), made(20, 1), np.arange(0, 60, 5)
    rest = train.at(~np.isin(np.arange(60), held))
    np.testing.assert_array_equal(
        probe(train, test, CLASSES, QUICK, validation=held)[0].weight, probe(rest, test, CLASSES, QUICK)[0].weight
    )


def test_intervals_of_looking() -> None:
    (found,) = probe(made(40), made(20, 1), CLASSES, replace(QUICK, epochs=7, eval_interval=3))
    assert np.flatnonzero(~np.isnan(found.test)).tolist() == [2, 5, 6]
    assert np.isnan(found.validation).all()
    assert found.selected.keys() == {"last", "best_on_test"}


def test_features_of_each_epoch_come_from_a_callable() -> None:
    train, test = made(40), made(20, 1)
    asked = []

    def same(epoch: int) -> np.ndarray:
        asked.append(epoch)
        return train.values

    np.testing.assert_array_equal(
        probe(train, test, CLASSES, QUICK, each_epoch=same)[0].weight, probe(train, test, CLASSES, QUICK)[0].weight
    )
    assert asked == list(range(6))
    crops = probe(train, test, CLASSES, QUICK, each_epoch=lambda epoch: train.values * (1 + epoch / 10))
    assert not np.array_equal(crops[0].weight, probe(train, test, CLASSES, QUICK)[0].weight)
    with pytest.raises(DataError, match="features of 39 clips"):
        probe(train, test, CLASSES, QUICK, each_epoch=lambda _: train.values[1:])


def test_the_single_clip_of_a_last_batch_has_no_variance() -> None:
    (found,) = probe(made(33), made(20, 1), CLASSES, MAMP)
    assert np.isfinite(found.loss).all()


def test_one_clip_cannot_be_normalised_by_its_batch() -> None:
    with pytest.raises(UsageError, match="batch of one clip") as error:
        replace(OFFICIAL["mamp"], batch=1)
    assert "--probe-batch 2" in str(error.value)
    assert replace(OFFICIAL["isc"], batch=1).batch == 1
    train, test = made(2, 0), made(4, 1)
    with pytest.raises(DataError, match="one clip to learn from"):
        probe(train, test, CLASSES, replace(OFFICIAL["mamp"], epochs=1), validation=np.array([0]))


def test_official_settings() -> None:
    table = {name: (s.lr, s.batch, s.epochs, s.drops, s.cosine, s.batch_norm) for name, s in OFFICIAL.items()}
    assert table["isc"] == (0.1, 64, 80, (50, 70), False, False)
    assert table["scdnet"] == (2.0, 1024, 80, (50, 70), False, False)
    assert table["mamp"] == (0.1, 256, 100, (), True, True)
    assert table["usdrl_sttr"] == (0.03, 512, 160, (120, 140), False, False)
    assert OFFICIAL["usdrl_dste"] == replace(OFFICIAL["usdrl_sttr"], lr=0.006)
    isc, mamp = OFFICIAL["isc"], OFFICIAL["mamp"]
    assert [isc.rate(epoch, 0, 5) for epoch in (0, 49, 50, 69, 70)] == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001])
    assert mamp.rate(50, 0, 10) == pytest.approx(0.05)
    assert mamp.rate(99, 9, 10) < 1e-6


def test_refusals() -> None:
    train, test = made(20), made(8, 1)
    with pytest.raises(DataError, match=r"labels from 0 to 3\n.*training"):
        probe(train, test, 3, QUICK)
    with pytest.raises(DataError, match="no clip is left"):
        probe(train, test, CLASSES, QUICK, validation=np.arange(20))
    with pytest.raises(DataError, match=r"\(20, 10\) to learn from"):
        probe(train, replace(test, values=test.values[:, :4]), CLASSES, QUICK)
    with pytest.raises(DivergedError, match="a linear probe is"):
        probe(replace(train, values=train.values * 1e18), test, CLASSES, replace(QUICK, lr=1e30))
    with pytest.raises(UsageError, match="a rate above 0"):
        replace(QUICK, lr=0)
    with pytest.raises(UsageError, match="drops of the rate and a cosine"):
        replace(QUICK, cosine=True)
