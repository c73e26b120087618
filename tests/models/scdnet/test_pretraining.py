"""SCD-Net's objective: against a slow one in several steps, who learns and who follows, what enters which queue, resuming."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine import models
from engine.official import to_official
from engine.pretraining.contrast import info_nce
from models.scdnet import official
from models.scdnet.pretraining import TERMS, Disentanglement
from shared_data.errors import UsageError
from shared_data.skeletons import NTU25, UCLA20
from tests.models.against_slow import randomise
from tests.models.scdnet.naive import NaiveObjective, uniform_bound

SIZE: dict[str, Any] = {"width": 16, "heads": 4, "dim": 6, "queue_size": 7, "key_momentum": 0.9, "temperature": 0.5}
FRAMES = 4


def small(**changed: Any) -> Disentanglement:
    torch.manual_seed(0)
    return Disentanglement(skeleton=UCLA20, people=1, frames=FRAMES, **{**SIZE, **changed}).train()


def made_up(seed: int, clips: int = 3) -> Tensor:
    """Two views of each clip, (N, 2, 3, T, V, M): the same movement, with a little noise of each view's own."""
    draw = torch.Generator().manual_seed(seed)
    same, own = torch.randn(clips, 1, 3, 1, 20, 1, generator=draw), torch.randn(clips, 2, 3, FRAMES, 20, 1, generator=draw)
    return same + 0.1 * own


def step(objective: Disentanglement, optimizer: torch.optim.Optimizer, views: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """One step as the engine makes it."""
    objective.begin()
    embedded = objective.embed(views, torch.arange(len(views)))
    loss, terms = objective.loss(embedded)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    objective.finish({name: value.detach() for name, value in embedded.items()})
    return loss.detach(), terms


def trained(objective: Disentanglement) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for p in objective.parameters() if p.requires_grad], lr=0.05, momentum=0.9)


def test_it_is_what_the_card_names() -> None:
    card = models.find("scdnet")
    module, _, name = card.toml["pretraining"].partition(":")
    assert getattr(models.import_module(card, module), name) is Disentanglement
    objective = small()
    assert not objective.in_batch
    assert objective.encoders() == {"": objective.query.encoder}
    classifier = models.build(card, num_classes=4, skeleton="ucla20", people=1, frames=FRAMES, width=16, heads=4)
    named = {f"encoder.{name}": value for name, value in objective.encoders()[""].state_dict().items()}
    missing, unexpected = classifier.load_state_dict(named, strict=False)
    assert sorted(missing) == ["fc.bias", "fc.weight"] and not unexpected


def test_four_steps_equal_those_of_a_slow_objective() -> None:
    """Losses, gradients, momentum and queues, which wrap around, in float64."""
    torch.manual_seed(1)
    naive = randomise(NaiveObjective(6, 7, 0.9, 0.5, UCLA20, 1, FRAMES, 16, 4, 1)).double()
    ours = small(dropout=0.0)
    rows = official.pretraining_table(ours)
    state, theirs = ours.double().state_dict(), naive.state_dict()
    for row in rows:
        row.part(state[row.ours]).copy_(theirs[row.official].reshape(row.part(state[row.ours]).shape))
    ours.load_state_dict(state)
    optimizers = [torch.optim.SGD([p for p in m.parameters() if p.requires_grad], lr=0.05, momentum=0.9) for m in (ours, naive)]
    for number in range(4):
        views = made_up(number).double()
        loss, terms = step(ours, optimizers[0], views)
        optimizers[1].zero_grad()
        expected, parts = naive(views[:, 0], views[:, 1])
        expected.backward()
        optimizers[1].step()
        torch.testing.assert_close(loss, expected.detach(), rtol=1e-10, atol=1e-10)
        assert list(terms) == ["loss_ti", "loss_si", "loss_it", "loss_is"]
        torch.testing.assert_close(torch.stack(list(terms.values())), torch.stack(parts), rtol=1e-10, atol=1e-10)
        gradients = to_official(rows, {name: p.grad for name, p in ours.named_parameters() if p.grad is not None})
        slow = {name: p.grad for name, p in naive.named_parameters() if p.grad is not None}
        assert list(gradients) == list(slow)
        largest = max(float(g.norm()) for g in slow.values())
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, slow[name], rtol=1e-7, atol=1e-9 * largest, msg=lambda m, n=name: f"{n}: {m}")
        back, kept = to_official(rows, ours.state_dict()), naive.state_dict()
        for name, value in kept.items():
            torch.testing.assert_close(back[name], value, rtol=1e-8, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")
    assert int(ours.queues["t"].pointer) == 12 % 7


def test_never_a_kind_with_itself() -> None:
    """The loss is the plain sum of the four contrasts across the kinds, each with the queue of its key."""
    objective = small(dropout=0.0)
    embedded = objective.embed(made_up(0), torch.arange(3))
    assert all(torch.allclose(value.norm(dim=1), torch.ones(3)) for value in embedded.values())
    loss, terms = objective.loss(embedded)
    assert {query + key for query, key, _ in TERMS.values()} == {"ti", "si", "it", "is"}
    by_hand = []
    for query, key in ("ti", "si", "it", "is"):
        negatives = objective.queues[key].features
        by_hand.append(info_nce(embedded[f"q_{query}"], embedded[f"k_{key}"], negatives, 0.5))
        assert torch.equal(by_hand[-1], terms[f"loss_{query}{key}"])
    torch.testing.assert_close(loss, sum(by_hand))


def test_gradients_reach_the_query_branch_and_nothing_else() -> None:
    objective = small()
    loss, _ = objective.loss(objective.embed(made_up(0), torch.arange(3)))
    loss.backward()
    reached = {name for name, p in objective.named_parameters() if p.grad is not None}
    assert reached == {f"query.{name}" for name, _ in objective.query.named_parameters()}
    assert not any(p.requires_grad for p in objective.key.parameters())
    assert not any(value.requires_grad for name, value in objective.embed(made_up(0), torch.arange(3)).items() if name[0] == "k")


def test_the_key_branch_starts_as_a_copy_and_follows() -> None:
    objective = small()
    assert all(map(torch.equal, objective.key.state_dict().values(), objective.query.state_dict().values()))
    before = [p.clone() for p in objective.key.parameters()]
    with torch.no_grad():
        for p in objective.query.parameters():
            p.add_(1.0)
    statistics = {name: value.clone() for name, value in objective.key.named_buffers()}
    objective.begin()
    for old, new in zip(before, objective.key.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.1)
    assert all(torch.equal(value, statistics[name]) for name, value in objective.key.named_buffers())
    objective.embed(made_up(0), torch.arange(3))  # its BatchNorm sees its own batches, the query's those of the first views
    assert not torch.equal(
        objective.key.encoder.temporal.data_bn.running_mean, objective.query.encoder.temporal.data_bn.running_mean
    )


def test_every_queue_takes_the_keys_of_its_kind() -> None:
    objective = small(queue_size=5)
    start = {kind: queue.features.clone() for kind, queue in objective.queues.items()}
    embedded = objective.embed(made_up(0), torch.arange(3))
    assert all(torch.equal(start[kind], queue.features) for kind, queue in objective.queues.items())
    objective.finish({name: value.detach() for name, value in embedded.items()})
    for kind, queue in objective.queues.items():
        assert torch.equal(queue.features[:, :3].T, embedded[f"k_{kind}"]) and int(queue.pointer) == 3
        assert torch.equal(queue.features[:, 3:], start[kind][:, 3:])
    features = objective.features(embedded)
    assert torch.equal(features[:, 0], embedded["q_i"]) and torch.equal(features[:, 1], embedded["k_i"])


def test_the_projectors_start_as_the_encoder_does() -> None:
    objective = small(width=64, dim=32)
    for projector in objective.query.projectors.values():
        for layer in (projector[0], projector[2]):
            assert 0.97 * uniform_bound(layer.weight) < float(layer.weight.detach().abs().max()) <= uniform_bound(layer.weight)
    assert not torch.equal(objective.query.projectors["t"][0].weight, objective.query.projectors["s"][0].weight)
    assert all(torch.allclose(queue.features.norm(dim=0), torch.ones(7)) for queue in objective.queues.values())


def test_the_loss_falls() -> None:
    """Once the queues hold keys of clips, which are harder to tell apart than the random ones of the start."""
    objective = small(width=32, dim=16, queue_size=16, temperature=0.2, dropout=0.0)
    optimizer = torch.optim.SGD([p for p in objective.parameters() if p.requires_grad], lr=0.01)
    batches = [made_up(number, clips=8) for number in range(3)]  # more clips than the queues hold
    losses = [float(step(objective, optimizer, batches[number % 3])[0]) for number in range(30)]
    assert sum(losses[-5:]) < 0.88 * sum(losses[4:9])


def test_a_state_goes_on_with_the_same_bits() -> None:
    one = small()
    optimizer = trained(one)
    for number in range(3):
        step(one, optimizer, made_up(number))
    other = small(key_momentum=0.9)
    with torch.no_grad():
        for value in (*other.parameters(), *other.buffers()):
            value.zero_()
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    again = trained(other)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    results = []
    for objective, its in ((one, optimizer), (other, again)):
        torch.manual_seed(5)  # dropout
        results.append([step(objective, its, made_up(9))[0], *objective.state_dict().values()])
    assert all(map(torch.equal, *results))


def test_dropout_acts_in_both_branches() -> None:
    """Officially the key branch is in training mode too."""
    objective = small(dropout=0.5)
    once, again = (objective.embed(made_up(0), torch.arange(3)) for _ in range(2))
    assert not any(torch.equal(once[name], again[name]) for name in once)


def test_without_values_and_with_two_people() -> None:
    with torch.device("meta"):
        objective = Disentanglement(skeleton=NTU25, people=2, frames=16, width=32, heads=2, layers=2, dim=8, queue_size=4)
        embedded = objective.embed(torch.empty(3, 2, 3, 16, 25, 2), torch.empty(3, dtype=torch.int64))
        loss, _ = objective.loss(embedded)
        assert loss.is_meta and embedded["q_i"].shape == (3, 8)


@pytest.mark.parametrize("wrong", [{"dim": 0}, {"queue_size": 0}, {"temperature": 0.0}, {"key_momentum": 1.5}, {"width": 30}])
def test_settings_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong)).replace("_", ".")):
        small(**wrong)


def test_another_number_of_views_is_refused() -> None:
    with pytest.raises(UsageError, match="views"):
        small().embed(torch.randn(2, 3, 3, FRAMES, 20, 1), torch.arange(2))


def test_under_autocast() -> None:
    objective = small()
    with torch.autocast("cpu", torch.bfloat16):
        embedded = objective.embed(made_up(0), torch.arange(3))
        loss, _ = objective.loss(embedded)
    loss.backward()
    objective.finish({name: value.detach() for name, value in embedded.items()})
    assert torch.isfinite(loss)
    assert all(
        isinstance(p, nn.Parameter) and p.grad is not None and torch.isfinite(p.grad).all() for p in objective.query.parameters()
    )
