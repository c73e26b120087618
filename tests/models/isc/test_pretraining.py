"""The objective against its formula, clip by clip; who gets gradients; queues, momentum and resumption."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine.pretraining.objective import Objective
from models.isc.pretraining import Branch, MoCo
from shared_data.errors import LabError, UsageError
from shared_data.skeletons import NTU25
from smoke_tests import fingerprint

SIZES = {"seq": {"width": 6, "layers": 2}, "image": {"width": 4, "dropout": 0.0}, "graph": {"width": 8}}
CASES = [("seq",), ("image",), ("graph",), ("seq", "graph"), ("seq", "image"), ("graph", "image")]


def objective(*names: str, **given: Any) -> MoCo:
    torch.manual_seed(0)
    options = {"frames": 16, "moco_k": 8, "dim": 5, "encoders": {name: SIZES[name] for name in names}, **given}
    return MoCo(skeleton=NTU25, people=2, representations=names, **options)


def views(n: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(n, 2, 3, 16, 25, 2, generator=torch.Generator().manual_seed(seed))


def step(model: MoCo, batch: Tensor, optimizer: torch.optim.Optimizer | None = None) -> float:
    model.begin()
    embedded = model.embed(batch, torch.arange(len(batch)))
    loss, _ = model.loss(embedded)
    if optimizer:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.finish(embedded)
    return loss.item()


def descent(model: MoCo, **given: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], **{"lr": 0.1, **given})


@torch.no_grad()
def naive_loss(model: MoCo, batch: Tensor) -> float:
    """Sum over the representations of the mean of -log(e^(q.k/t) / (e^(q.k/t) + sum e^(q.n/t)))."""
    names, total = model.representations, 0.0
    for name in names:
        other = name if len(names) == 1 else next(n for n in names if n != name)
        for i in range(len(batch)):
            q = model.query[name].eval()(batch[:, 0])[i]
            k = model.key[other].eval()(batch[:, 1])[i]
            positive = math.exp(float(q @ k) / model.temperature)
            negatives = [math.exp(float(q @ n) / model.temperature) for n in model.queue[other].features.T]
            total -= math.log(positive / (positive + sum(negatives))) / len(batch)
    return total


@pytest.mark.parametrize("names", CASES, ids="-".join)
def test_loss_is_the_formula(names: tuple[str, ...]) -> None:
    model = objective(*names, moco_t=0.2).double().eval()
    for key in model.key.parameters():  # so that it matters which is the key
        key.data.add_(0.1 * torch.randn_like(key))
    batch = views().double()
    loss, terms = model.loss(model.embed(batch, torch.arange(4)))
    assert loss.item() == pytest.approx(naive_loss(model, batch), rel=1e-12)
    assert terms.keys() == set(names) and loss.item() == pytest.approx(sum(t.item() for t in terms.values()))
    assert all(t.shape == () and not t.requires_grad for t in terms.values())


@pytest.mark.parametrize("names", CASES, ids="-".join)
def test_gradients_reach_the_queries_and_nothing_else(names: tuple[str, ...]) -> None:
    model = objective(*names).train()
    embedded = model.embed(views(), torch.arange(4))
    assert {key for key, value in embedded.items() if value.requires_grad} == {f"query {name}" for name in names}
    assert all(value.shape == (4, 5) and torch.allclose(value.norm(dim=1), torch.ones(4)) for value in embedded.values())
    model.loss(embedded)[0].backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None}
    assert reached == {name for name, _ in model.named_parameters() if name.startswith("query.")}
    assert {name for name, p in model.named_parameters() if p.requires_grad} == reached


def test_keys_follow_before_the_pass_and_enter_after_the_loss() -> None:
    """One step by hand: the key encoder moves a share of the way, the queue is read as it was, then takes the keys."""
    model = objective("seq", moco_m=0.75).train()
    for p in model.query.parameters():
        p.data.add_(0.5)
    before = [p.clone() for p in model.key.parameters()]
    queue = model.queue["seq"].features.clone()
    model.begin()
    for key, was, query in zip(model.key.parameters(), before, model.query.parameters(), strict=True):
        torch.testing.assert_close(key.data, 0.75 * was + 0.25 * query.data)
    batch = views()
    embedded = model.embed(batch, torch.arange(4))
    assert torch.equal(model.queue["seq"].features, queue)
    assert torch.equal(embedded["key seq"], model.key["seq"](batch[:, 1]))
    model.loss(embedded)
    assert torch.equal(model.queue["seq"].features, queue)
    model.finish(embedded)
    assert torch.equal(model.queue["seq"].features[:, :4], embedded["key seq"].T) and int(model.queue["seq"].pointer) == 4
    assert torch.equal(model.queue["seq"].features[:, 4:], queue[:, 4:])


def test_each_queue_takes_the_keys_of_its_own_representation() -> None:
    model = objective("seq", "graph").eval()
    embedded = model.embed(views(), torch.arange(4))
    model.finish(embedded)
    for name in ("seq", "graph"):
        assert torch.equal(model.queue[name].features[:, :4], embedded[f"key {name}"].T)


def test_statistics_of_the_key_encoder_are_its_own() -> None:
    model, batch = objective("graph", moco_m=0.5).train(), views()
    model.begin()
    model.embed(batch, torch.arange(4))
    query, key = (branch["graph"].encoder.data_bn.running_mean for branch in (model.query, model.key))
    flat = batch.permute(1, 0, 5, 4, 2, 3).reshape(2, 4, 150, 16).mean((1, 3))
    torch.testing.assert_close(query, 0.1 * flat[0])
    torch.testing.assert_close(key, 0.1 * flat[1])


def test_a_step_in_pieces_is_the_step() -> None:
    """Without BatchNorm: embedded piece by piece, then one loss; and the mean of the pieces' losses."""
    model = objective("seq", "image").double()
    batch, ids = views(6).double(), torch.arange(6)
    whole = model.embed(batch, ids)
    pieces = [model.embed(batch[i : i + 2], ids[i : i + 2]) for i in (0, 2, 4)]
    joined = {key: torch.cat([piece[key] for piece in pieces]) for key in whole}
    for key, value in whole.items():
        torch.testing.assert_close(joined[key], value)
    assert not model.in_batch
    mean = torch.stack([model.loss(piece)[0] for piece in pieces]).mean()
    torch.testing.assert_close(mean, model.loss(whole)[0])


@pytest.mark.parametrize("names", [("image",), ("seq", "graph")], ids="-".join)
def test_loss_falls(names: tuple[str, ...]) -> None:
    """On the same clips, towards keys and away from a queue that stay what they are."""
    model = objective(*names, moco_t=0.2, moco_m=1.0).train()
    optimizer = descent(model, lr=0.05, momentum=0.9)
    batch, losses = fingerprint.clips(8, 16, 25, 2).view(4, 2, 3, 16, 25, 2), []
    for _ in range(15):
        model.begin()
        loss, _ = model.loss(model.embed(batch, torch.arange(4)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0], losses


@pytest.mark.parametrize("names", [("image",), ("seq", "graph")], ids="-".join)
def test_a_state_dict_goes_on_bit_for_bit(names: tuple[str, ...]) -> None:
    model = objective(*names).train()
    for i in range(3):  # the queue wraps
        step(model, views(seed=i), descent(model))
    other = objective(*names).train()
    state = copy.deepcopy(model.state_dict())
    other.load_state_dict(state)
    assert not any(p.requires_grad for p in other.key.parameters())
    assert len({step(m, views(seed=9), descent(m)) for m in (model, other)}) == 1
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in model.state_dict().items())
    assert not torch.equal(model.state_dict()[f"queue.{names[0]}.features"], state[f"queue.{names[0]}.features"])


def test_encoders_and_features() -> None:
    one, two = objective("graph"), objective("seq", "image")
    checked: Objective = one
    assert checked.encoders() == {"": one.query["graph"].encoder}
    assert two.encoders() == {name: two.query[name].encoder for name in ("seq", "image")}
    embedded = two.embed(views(), torch.arange(4))
    assert torch.equal(two.features(embedded), torch.stack([embedded["query seq"], embedded["key image"]], 1))


def test_heads_and_start() -> None:
    two_layers, one_layer = objective("seq"), objective("seq", mlp=False)
    assert [type(layer) for layer in two_layers.query["seq"].fc] == [nn.Linear, nn.ReLU, nn.Linear]
    assert isinstance(one_layer.query["seq"].fc, nn.Linear)
    for model in (two_layers, one_layer):
        for query, key in zip(model.query.parameters(), model.key.parameters(), strict=True):
            assert torch.equal(query, key) and query is not key
    model = MoCo(skeleton="ntu25", people=2, encoders={"seq": {"width": 8}})
    assert model.representations == ("seq",) and model.queue["seq"].features.shape == (128, 16384)
    assert (model.momentum, model.temperature) == (0.999, 0.07)
    torch.testing.assert_close(model.queue["seq"].features.norm(dim=0), torch.ones(16384))


def test_embeddings_under_autocast_are_float32() -> None:
    branch = Branch(nn.Flatten(), 24, 6, mlp=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert branch(torch.randn(2, 2, 3, 2, 2)).dtype == torch.float32


def test_official_sizes() -> None:
    """Section 4 of the specification, with heads of two layers: millions of parameters to train."""
    with torch.device("meta"):
        counts = {}
        for name in ("seq", "image", "graph"):
            model = MoCo(skeleton=NTU25, people=2, representations=[name], moco_k=64)
            counts[name] = sum(p.numel() for p in model.parameters() if p.requires_grad) / 1e6
    assert counts == pytest.approx({"seq": 49.457, "image": 17.825, "graph": 3.553}, abs=0.01)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"representations": "seq"}, "representations is 'seq'"),
        ({"representations": []}, "representations"),
        ({"representations": ["seq", "seq"]}, "representations"),
        ({"representations": ["seq", "image", "graph"]}, "representations"),
        ({"representations": ["depth"]}, "representation is 'depth'"),
        ({"encoders": {"graph": {"width": 8}}}, "encoders"),
        ({"moco_t": 0.0}, "moco_t"),
        ({"moco_m": 1.5}, "moco_m"),
        ({"moco_k": 0}, "queue size"),
        ({"dim": 0}, "dim is 0"),
    ],
)
def test_what_cannot_be_is_refused(given: dict[str, Any], message: str) -> None:
    with torch.device("meta"), pytest.raises(UsageError, match=message):
        MoCo(skeleton=NTU25, people=2, **given)


def test_views_of_another_number_are_refused() -> None:
    with pytest.raises(LabError, match=r"\(2, 3, 3, 16, 25, 2\)"):
        objective("seq").embed(torch.zeros(2, 3, 3, 16, 25, 2), torch.arange(2))
