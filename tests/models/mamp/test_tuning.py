"""STARS' tuning against loops over the batch and the queue, what it freezes, and what training by it does."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from engine.pretraining.contrast import NOBODY
from engine.pretraining.step import PretrainStep
from models.mamp.tuning import Neighbours
from shared_data.errors import LabError, UsageError

SMALL = {"skeleton": "ucla20", "people": 2, "frames": 8, "width": 16, "depth": 4, "heads": 2, "hidden": 24, "queue_size": 12}


def small(**given: object) -> Neighbours:
    torch.manual_seed(0)
    return Neighbours(**{**SMALL, **given}).double().train()


def clips(n: int = 5, views: int = 1) -> Tensor:
    return torch.randn(n, views, 3, 8, 20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def unit(x: Tensor) -> Tensor:
    return x / x.norm()


def normalised(x: Tensor, bn: nn.BatchNorm1d) -> Tensor:
    return (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt() * bn.weight + bn.bias


def keys(objective: Neighbours, views: Tensor) -> Tensor:
    """What goes into the queue."""
    features = torch.stack([objective.encoder(view[None])[0] for view in views[:, 0]])
    return torch.stack([unit(row) for row in normalised(features, objective.head.projector)]).detach()


def naive(objective: Neighbours, views: Tensor, ids: Tensor) -> Tensor:
    """The loss of one view or two, clip by clip."""
    head, queue, n = objective.head, objective.queue, len(views)
    z, p = [], []
    for k in range(views.shape[1]):
        features = torch.stack([objective.encoder(view[None])[0] for view in views[:, k]])
        projected = normalised(features, head.projector)
        hidden = normalised(projected @ head.fc1.weight.T, head.bn).clamp(min=0)
        z.append([unit(row) for row in projected])
        p.append([unit(row) for row in hidden @ head.fc2.weight.T + head.fc2.bias])
    terms = []
    for of, by in ((1, 0), (0, 1)) if len(z) == 2 else ((0, 0),):
        for i in range(n):
            alike = [
                -1.0 if queue.ids[j] == ids[i] else float(z[of][i].detach() @ queue.features[:, j]) for j in range(len(queue.ids))
            ]
            neighbour = queue.features[:, alike.index(max(alike))]
            logits = torch.stack([neighbour @ p[by][j] / objective.temperature for j in range(n)])
            terms.append(logits.logsumexp(0) - logits[i])
    return torch.stack(terms).mean()


@pytest.mark.parametrize("views", [1, 2])
def test_loss_and_gradients_are_the_loops(views):
    objective = small(learns="full")
    given, ids = clips(views=views), torch.tensor([4, 7, 2, 9, 1])
    objective.queue.ids[:5] = ids
    objective.queue.features[:, :5] = keys(objective, given).T  # the clips of an epoch before
    loss, terms = objective.loss(objective.embed(given, ids))
    expected = naive(objective, given, ids)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
    assert terms == {"neighbour_entropy": loss}
    parameters = list(objective.parameters())
    ours, theirs = (torch.autograd.grad(value, parameters) for value in (loss, expected))
    for (name, _), one, other in zip(objective.named_parameters(), ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-10, msg=name)


def test_one_view_is_two_that_are_the_same():
    one, two = small(), small()
    given, ids = clips(), torch.arange(5)
    (single, _), (double, _) = (m.loss(m.embed(x, ids)) for m, x in ((one, given), (two, given.expand(-1, 2, *[-1] * 4))))
    torch.testing.assert_close(single, double, rtol=1e-12, atol=0)
    learned = [[p for p in m.parameters() if p.requires_grad] for m in (one, two)]
    for a, b in zip(torch.autograd.grad(single, learned[0]), torch.autograd.grad(double, learned[1]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-12)


def test_a_clip_is_not_its_own_neighbour():
    objective, ids = small(), torch.arange(5)
    embedded = objective.embed(clips(), ids)
    objective.loss(embedded)
    objective.finish(embedded)
    own = keys(objective, clips())
    assert objective.queue.ids.tolist() == [0, 1, 2, 3, 4] + [NOBODY] * 7 and objective.queue.pointer.tolist() == [5]
    torch.testing.assert_close(objective.queue.features[:, :5].T, own)
    torch.testing.assert_close(objective.queue.nearest(own, ids + 5), own)
    again = objective.queue.nearest(own, ids)
    assert not any(torch.allclose(row, key) for row, key in zip(again, own, strict=True))


def test_two_views_leave_the_first_in_the_queue():
    objective, given = small(), clips(views=2)
    embedded = objective.embed(given, torch.arange(5))
    objective.loss(embedded)
    objective.finish(embedded)
    torch.testing.assert_close(objective.queue.features[:, :5].T, keys(objective, given))
    assert objective.features(embedded).shape == (5, 2, 16)


@pytest.mark.parametrize("learns", ["head", "upper", "full"])
@pytest.mark.parametrize("micro", [1, 4])
def test_pieces_are_the_whole(learns, micro):
    """BatchNorm and the negatives are those of the batch, however it goes through the encoder."""
    one, other = small(learns=learns), small(learns=learns)
    (losses, again) = (trained(m, 3, lr=0.05, micro=size) for m, size in ((one, None), (other, micro)))
    assert again == pytest.approx(losses, rel=1e-10)
    for name, value in one.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, rtol=1e-8, atol=1e-10, msg=name)


@pytest.mark.parametrize(
    ("learns", "depth", "learning"), [("head", 4, ()), ("upper", 4, (2, 3)), ("upper", 3, (2,)), ("full", 4, (0, 1, 2, 3))]
)
def test_what_does_not_learn_keeps_nothing(learns, depth, learning):
    objective = small(learns=learns, depth=depth)
    seen: dict[int, bool] = {}
    for i, block in enumerate(objective.encoder.blocks):
        block.register_forward_hook(lambda _, __, out, i=i: seen.update({i: out.requires_grad}))
    before = copy.deepcopy(objective.state_dict())
    step = PretrainStep(objective, torch.optim.SGD([p for p in objective.parameters() if p.requires_grad], lr=0.1))
    step(clips()[:, 0], torch.arange(5))
    assert seen == {i: i in learning for i in range(depth)}
    moved = {name.rsplit(".", 1)[0] for name, value in objective.named_parameters() if not torch.equal(value, before[name])}
    for name, p in objective.named_parameters():
        owner, rest = name.split(".", 1)
        expected = owner == "head" or (rest.startswith("norm.") and learns != "head") or learns == "full"
        expected |= any(rest.startswith(f"blocks.{i}.") for i in learning)
        assert p.requires_grad == (p.grad is not None) == expected == (name.rsplit(".", 1)[0] in moved), name


def test_sizes_and_learning_rates_of_the_paper():
    with torch.device("meta"):
        upper, head, full = (Neighbours(learns=part) for part in ("upper", "head", "full"))

    def millions(module, learning=False):
        return round(sum(p.numel() for p in module.parameters() if p.requires_grad or not learning) / 1e6, 2)

    assert (millions(upper), millions(upper.head), millions(upper, True), millions(head, True)) == (8.44, 2.11, 5.27, 2.11)
    scales = upper.parameter_scales()
    assert scales.keys() == {name for name, p in upper.named_parameters() if p.requires_grad}
    rates = [1e-3 * scales[f"encoder.blocks.{i}.attn.qkv.weight"] for i in (4, 5, 6, 7)]
    assert rates == pytest.approx([4.1e-5, 9.1e-5, 2.0e-4, 4.5e-4], rel=0.02)
    assert {scales[name] for name in scales if "blocks" not in name} == {1.0}
    assert set(head.parameter_scales().values()) == {1.0}
    assert full.parameter_scales()["encoder.blocks.0.norm1.bias"] == pytest.approx(0.45**8)
    assert full.parameter_scales()["encoder.embed.weight"] == pytest.approx(0.45**9)


def trained(objective: Neighbours, steps: int, *, lr: float = 1e-3, micro: int | None = None) -> list[float]:
    optimizer = torch.optim.SGD([p for p in objective.parameters() if p.requires_grad], lr=lr)
    step = PretrainStep(objective, optimizer, micro_batch=micro)
    return [float(step(clips(6)[:, 0], torch.arange(6)).loss) for _ in range(steps)]


def test_training_learns():
    losses = trained(small(queue_size=6), 40, lr=0.05)  # from the second step on the neighbours are other clips
    assert all(map(math.isfinite, losses)) and sum(losses[-5:]) < 0.8 * sum(losses[1:6])


def test_state_makes_the_next_step():
    objective = small()
    trained(objective, 3)
    other = small()
    other.load_state_dict(copy.deepcopy(objective.state_dict()))
    assert trained(objective, 1) == trained(other, 1)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in objective.state_dict().items())
    assert objective.queue.pointer.tolist() == [0]


def test_a_lone_clip():
    """A batch of one: BatchNorm has no spread to take."""
    objective = small()
    embedded = objective.embed(clips(1), torch.zeros(1, dtype=torch.int64))
    assert torch.isfinite(objective.loss(embedded)[0]) and objective.features(embedded).shape == (1, 16)


def test_what_does_not_work_is_refused():
    for given in ({"learns": "third"}, {"block_decay": 0.0}, {"hidden": 0}, {"temperature": 0.0}, {"queue_size": 0}):
        with pytest.raises(UsageError):
            small(**given)
    with pytest.raises(LabError, match="3 views"):
        small().embed(clips(views=3), torch.arange(5))
