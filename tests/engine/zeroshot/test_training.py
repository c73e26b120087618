"""Training on made-up features: it learns what can be learned, nothing else, and the same again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from engine.errors import DivergedError
from engine.zeroshot import metrics, synthetic, training
from engine.zeroshot.classifier import probabilities
from engine.zeroshot.gate import predicted, train_gate
from engine.zeroshot.settings import Settings, published
from engine.zeroshot.task import Rows, Task, joined_text
from shared_data import zeroshot_splits as splits
from shared_data.errors import DataError
from tests.engine.zeroshot.systems import SYSTEMS

TEST, VAL = splits.published(60, 5), splits.published(60, 5, "val")
QUICK = Settings(latent=20, cycles=4, steps=300, lr=1e-3, samples=100, classifier_steps=100, classifier_lr=1e-2)
SHORT = replace(QUICK, cycles=3, steps=17, samples=20, classifier_steps=5)
SEEDS = range(5)
CHANCE = 1 / 5


def learned(name: str, settings: Settings, split: splits.Split, seed: int, *, shuffled: bool = False) -> training.Run:
    """A trained run, its networks those of the last cycle."""
    world = synthetic.world(classes=60, seed=seed, shuffled=shuffled)
    run = training.start(SYSTEMS[name], world.task(split, per_class=20), settings, seed=seed)
    training.train(run)
    return run


def zero_shot(run: training.Run, cycle: training.Cycle) -> np.ndarray:
    return probabilities(*training.restored(run, cycle), run.task.test.features)


@pytest.mark.parametrize("name", SYSTEMS)
def test_unseen_classes_are_found_and_generalised(name: str) -> None:
    """Stages 1 to 4. Without the ReLU on its logits the classifier knows all classes, whatever its start weights."""
    settings = replace(QUICK, relu_logits=False)
    accuracies, harmonic = [], []
    for seed in SEEDS:
        world = synthetic.world(classes=60, seed=seed)
        last = {}
        for split in (TEST, VAL):
            run = training.start(SYSTEMS[name], world.task(split, per_class=20), settings, seed=seed)
            last[split] = training.restored(run, training.train(run)[-1]), run.task.test
        (network, classifier), unseen = last[TEST]
        accuracies.append(metrics.zero_shot(probabilities(network, classifier, unseen.features), unseen.labels, TEST.unseen))
        tuned, val_unseen = last[VAL]
        held = world.clips("val", VAL.seen, 8, part=2)
        pair = [world.evidence(rows, VAL.seen, probabilities(*tuned, rows.features)) for rows in (val_unseen, held)]
        gate = train_gate(*pair, seed=seed)
        everything = world.clips("gtest", tuple(range(60)), 10, part=3)
        known = world.evidence(everything, TEST.seen, probabilities(network, classifier, everything.features))
        harmonic.append(metrics.generalised(predicted(gate, known, TEST), everything.labels, TEST).harmonic)
    assert np.mean(accuracies) > 0.75 and min(accuracies) > 2 * CHANCE
    assert np.mean(harmonic) > 0.55


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_official_classifier_finds_them_too_but_loses_some(name: str) -> None:
    """A class whose score is negative for all its own latents at the start is not raised by them (ReLU): some are never found."""
    found = []
    for seed in SEEDS:
        world = synthetic.world(classes=60, seed=seed)
        run = training.start(SYSTEMS[name], world.task(TEST, per_class=20), QUICK, seed=seed)
        found.append([cycle.accuracy for cycle in training.train(run)])
    assert np.mean([max(accuracies) for accuracies in found]) > 0.75  # as officially: the best of the cycles, on the test
    assert np.mean([accuracies[-1] for accuracies in found]) > 2.5 * CHANCE


@pytest.mark.parametrize("name", SYSTEMS)
def test_shuffled_text_falls_to_chance(name: str) -> None:
    """Whatever text says of an unseen class is wrong then; anything above chance would be a leak of its clips."""
    settings = replace(QUICK, relu_logits=False)
    last = []
    for seed in SEEDS:
        world = synthetic.world(classes=60, seed=seed, shuffled=True)
        run = training.start(SYSTEMS[name], world.task(TEST, per_class=20), settings, seed=seed)
        last.append(training.train(run)[-1].accuracy)
    assert np.mean(last) < 1.5 * CHANCE


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("noise", ["per_sample", "per_dimension"])
def test_the_same_seed_gives_the_same_bits(name: str, noise: str) -> None:
    world = synthetic.world(classes=60, seed=0)

    def trained(seed: int) -> list[training.Cycle]:
        settings = replace(SHORT, noise=noise)
        return training.train(training.start(SYSTEMS[name], world.task(TEST, per_class=5), settings, seed=seed))

    first, again, other = trained(3), trained(3), trained(4)
    for a, b in zip(first, again, strict=True):
        assert (a.loss, a.accuracy) == (b.loss, b.accuracy)
        assert all(torch.equal(a.network[key], b.network[key]) for key in a.network)
        assert all(torch.equal(a.classifier[key], b.classifier[key]) for key in a.classifier)
    assert first[-1].loss != other[-1].loss


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_run_goes_on_after_a_cycle(name: str) -> None:
    task = synthetic.world(classes=60, seed=0).task(TEST, per_class=5)
    whole = training.train(training.start(SYSTEMS[name], task, SHORT, seed=3))
    before = training.start(SYSTEMS[name], task, SHORT, seed=3)
    training.train_cycle(before, 0)
    after = training.start(SYSTEMS[name], task, SHORT, seed=3)
    after.network.load_state_dict(before.network.state_dict())
    after.optimizer.load_state_dict(before.optimizer.state_dict())
    for number in (1, 2):
        cycle = training.train_cycle(after, number)
        assert cycle.loss == whole[number].loss
        assert all(torch.equal(cycle.network[key], whole[number].network[key]) for key in cycle.network)


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_cycle_is_kept_as_it_was(name: str) -> None:
    run = training.start(SYSTEMS[name], synthetic.world(classes=60, seed=0).task(TEST, per_class=5), SHORT, seed=3)
    cycles = training.train(run)
    labels, unseen = run.task.test.labels, run.task.split.unseen
    for cycle in cycles:
        assert metrics.zero_shot(zero_shot(run, cycle), labels, unseen) == cycle.accuracy
    assert np.allclose(zero_shot(run, cycles[0]).sum(1), 1, atol=1e-6)
    key = "skeleton_encoder.affine.weight"
    assert not torch.equal(cycles[0].network[key], cycles[1].network[key])


def test_published_settings() -> None:
    assert (published(60).latent, published(60).steps, published(60).cycles) == (100, 1700, 10)
    assert (published(120).latent, published(120).steps) == (200, 1900)
    assert published(60).noise_width == 1 and Settings(noise="per_dimension").noise_width == 100


def test_a_loss_that_is_no_number() -> None:
    task = synthetic.world(classes=60, seed=0).task(TEST, per_class=5)
    huge = replace(task, train=replace(task.train, features=task.train.features * np.float32(1e30)))
    with pytest.raises(DivergedError, match="cycle 0"):
        training.train(training.start(SYSTEMS["fsvae"], huge, SHORT, seed=1))


def spoiled(task: Task, **changes: object) -> Task:
    return replace(task, **changes)  # type: ignore[arg-type]


def leak(task: Task) -> Task:
    labels = task.train.labels.copy()
    labels[7] = task.split.unseen[0]
    return spoiled(task, train=replace(task.train, labels=labels))


def not_a_number(task: Task) -> Task:
    features = task.test.features.copy()
    features[2, 3] = np.nan
    return spoiled(task, test=replace(task.test, features=features))


def text_nan(task: Task) -> Task:
    text = task.text.copy()
    text[9, 0] = np.inf
    return spoiled(task, text=text)


REFUSED = {
    "an unseen class in train": (leak, r"class 10 where only seen(.|\n)*train: row 7"),
    "a NaN": (not_a_number, r"test: row 2"),
    "a NaN in the text": (text_nan, r"row 9"),
    "too few texts": (lambda t: spoiled(t, text=t.text[:59]), r"\(59, 48\)(.|\n)*\(60, width\)"),
    "another width": (lambda t: spoiled(t, test=replace(t.test, features=t.test.features[:, :60])), r"train: 64, test: 60"),
    "labels short": (lambda t: spoiled(t, train=replace(t.train, labels=t.train.labels[:-1])), r"do not belong together"),
    "no clips": (lambda t: spoiled(t, test=Rows("test", t.test.features[:0], t.test.labels[:0])), r"at least one"),
}


@pytest.mark.parametrize(("spoil", "message"), REFUSED.values(), ids=REFUSED)
def test_a_task_that_is_not_sound(spoil, message: str) -> None:  # type: ignore[no-untyped-def]
    task = synthetic.world(classes=60, seed=0).task(TEST, per_class=2)
    with pytest.raises(DataError, match=message):
        training.start(SYSTEMS["fsvae"], spoil(task), SHORT, seed=1)


def test_joined_text() -> None:
    a, b = np.array([[3.0, 0.0], [1.0, 1.0]], np.float32), np.array([[4.0], [0.0]], np.float32)
    assert np.allclose(joined_text([a, b]), [[0.6, 0.0, 0.8], [2**-0.5, 2**-0.5, 0.0]])
    with pytest.raises(DataError, match="row 0"):
        joined_text([np.zeros((1, 4), np.float32)])
