"""Hyper-GCN against the specification: graphs, hyper-graphs, sizes, start values, and a slow network that fuses nothing."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine import models
from layers.recompute import Level, recomputing
from models.hypergcn import network as lean
from models.hypergcn.graph import ensemble_adjacency
from models.hypergcn.network import HyperGCN
from planner.steps.lifetimes import Lifetimes
from shared_data.errors import LabError
from shared_data.skeletons import COCO17, NTU25, UCLA20, Skeleton
from tests.models.against_slow import assert_same_training, randomise
from tests.models.hypergcn.naive import NaiveGraph, NaiveHyperGCN, NaiveTemporal, adjacency

CARD = models.find("hypergcn")
NAMES = models.official_module(CARD)


def rand(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


CASES = {
    "base": (60, NTU25, 2, "base", 3, 16),
    "large": (12, NTU25, 2, "large", 3, 8),
    "ucla, odd length": (10, UCLA20, 1, "base", 3, 13),
    "no virtual joints": (7, UCLA20, 1, "base", 0, 8),
    "one virtual joint, three people, one frame": (5, UCLA20, 3, "base", 1, 1),
    "two frames": (5, UCLA20, 2, "large", 2, 2),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_equals_the_slow_network(case: tuple[int, Skeleton, int, str, int, int]) -> None:
    classes, skeleton, people, size, h, frames = case
    naive = randomise(NaiveHyperGCN(classes, skeleton, people, size, h))
    ours = HyperGCN(classes, skeleton=skeleton, people=people, size=size, hyper_joints=h)
    clips = rand(3, 3, frames, skeleton.joints, people)
    if people > 1:
        clips[1, ..., -1] = 0.0
    divergence = naive.divergence if h > 1 else lambda: torch.zeros((), dtype=torch.float64)
    assert_same_training(ours, naive, NAMES, clips, penalties=(ours.penalty, divergence))


@pytest.mark.parametrize(("skeleton", "h"), [(NTU25, 3), (NTU25, 0), (UCLA20, 3)])
def test_graph(skeleton: Skeleton, h: int) -> None:
    graph = torch.from_numpy(ensemble_adjacency(skeleton, h, 8))
    assert graph.dtype == torch.float32 and torch.equal(graph, adjacency(skeleton, h))
    assert torch.equal(graph, graph.transpose(1, 2)) and torch.equal(graph, graph[:1].expand(8, -1, -1))
    sums, v = graph[0].sum(0), skeleton.joints
    assert sums[v:].tolist() == [v + 1] * h  # a virtual joint: itself and all real ones
    assert torch.equal(graph[0, v:, v:], torch.eye(h))
    assert graph[0, :v, :v].sum() == v + 2 * (v - 1)  # a tree
    if skeleton is NTU25:
        assert sums[20] == 5 + h and graph[0, 21, 7] == graph[0, 22, 7] == graph[0, 23, 11] == graph[0, 24, 11] == 1
        assert graph[0, 21, 22] == 0  # the finger hangs on the hand, not on the thumb


def test_graph_of_a_layout_without_published_pairs() -> None:
    graph = ensemble_adjacency(COCO17, 2, 8)
    assert graph.shape == (8, 19, 19) and graph[0, :17, :17].sum() == 17 + 2 * 16
    assert HyperGCN(3, skeleton=COCO17, people=1)(torch.randn(2, 3, 4, 17, 1)).shape == (2, 3)


def test_fixed_part_of_the_graph() -> None:
    """Rows of absolute sum 1, zeros of the skeleton stay zero, and importance may change a sign."""
    network = HyperGCN(3).double()
    gcn, x = network.blocks[0].gcn, rand(2, 128, 4, 25)
    nn.init.normal_(gcn.importance)
    nn.init.zeros_(gcn.alpha)
    fixed = network.fixed_graphs()[0]
    graph = gcn.graph(x, fixed, gcn.virtual)
    torch.testing.assert_close(graph.abs().sum(3), torch.ones(2, 8, 25, dtype=torch.float64), rtol=0, atol=1e-6)
    assert torch.equal(graph[0] != 0, gcn.adjacency[:, :25] != 0) and (graph < 0).any()
    assert torch.equal(graph[0], graph[1]) and torch.equal(graph[0], fixed)
    nn.init.constant_(gcn.alpha, -1.0)  # ReLU(alpha): a negative one switches the hyper-graph off too
    assert torch.equal(gcn.graph(x, fixed, gcn.virtual), graph)
    nn.init.ones_(gcn.alpha)
    assert not torch.allclose(gcn.graph(x, fixed, gcn.virtual), graph)


def test_incidence() -> None:
    places = rand(2, 8, 4, 28)
    memberships = lean.incidence(places, 9)
    torch.testing.assert_close(memberships.sum(3), torch.ones(2, 8, 28, dtype=torch.float64))
    assert ((memberships > 0).sum(3) == 9).all() and (memberships.diagonal(dim1=2, dim2=3) > 0).all()
    assert torch.equal(memberships.argmax(3), torch.arange(28).expand(2, 8, 28))  # nothing is nearer than itself
    slow = NaiveGraph(128, 128, adjacency(NTU25, 3), 3).incidence(places.transpose(2, 3))
    torch.testing.assert_close(memberships, slow, rtol=1e-12, atol=1e-12)
    assert ((lean.incidence(places, 3) > 0).sum(3) == 3).all()


def test_distance_zero_has_gradient_zero() -> None:
    """Nodes at the same place, as virtual joints are at the start; all nodes, as those of absent people can be."""
    for places in (rand(1, 8, 4, 28), torch.zeros(1, 8, 4, 28, dtype=torch.float64)):
        places[..., 25:] = places[..., 25:26]
        places.requires_grad_()
        (lean.incidence(places, 9) * rand(1, 8, 28, 28)).sum().backward()
        assert torch.isfinite(places.grad).all()
    assert not places.grad.any()


def test_float32_distances_are_exact() -> None:
    """A common offset, as the bias of the places is, must not change the hyper-graph; the matrix-product formula would."""
    places = rand(2, 8, 4, 28).float().mul(64).round().div(64)
    assert torch.equal(lean.incidence(places + 64, 9), lean.incidence(places, 9))


def test_hyper_graph_equals_explicit_matrices() -> None:
    memberships = lean.incidence(rand(2, 8, 4, 28), 9)
    weights = torch.tanh(rand(2, 8, 28, seed=2))
    assert (weights < 0).any()
    slow = NaiveGraph(128, 128, adjacency(NTU25, 3), 3).hyper_graph(memberships, weights)
    torch.testing.assert_close(lean.hyper_graph(memberships, weights, 25), slow[:, :, :25], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(lean.hyper_graph(memberships, weights, 28), slow, rtol=1e-10, atol=1e-12)


def test_mixed() -> None:
    """Against the plain formula with virtual joints standing beside the real ones in every frame."""
    gcn = randomise(lean.HyperGraphConv(32, 24, torch.ones(8, 6, 6), 2, 3, independent=True)).double()
    x, graph = rand(2, 32, 3, 4), rand(2, 8, 4, 6, seed=2)
    nodes = torch.cat([x, gcn.virtual.t()[None, :, None].expand(2, -1, 3, -1)], 3).view(2, 8, 4, 3, 6)
    values = torch.einsum("soi,bsitv->bsotv", gcn.value, nodes) + gcn.value_bias[:, :, None, None]
    plain = torch.einsum("bsuv,bsotv->bsotu", graph, values).flatten(1, 2)
    torch.testing.assert_close(gcn.mixed(x, graph, gcn.virtual), plain)


@pytest.mark.parametrize("stride", [1, 2])
def test_peaks(stride: int) -> None:
    """Joints as channels, as on a CPU: the same frame is the largest as in the plain form, also among equals and at the ends."""
    x, weights = rand(2, 6, 9, 5), rand(2, 2, 5 if stride == 2 else 9, 5, seed=2)
    x[:, :, 3:6] = x[:, :, 3:4]
    x.requires_grad_()
    branch = x.chunk(3, 1)[2]
    pooled = F.max_pool2d(branch, (3, 1), (stride, 1), (1, 0))
    found, _ = lean.MultiScaleTemporalConv(8, stride).peaks(branch)
    assert torch.equal(found, pooled)
    grads = [torch.autograd.grad((y * weights).sum(), x, retain_graph=True)[0] for y in (found, pooled)]
    assert torch.equal(*grads)


@pytest.mark.parametrize("apart", [0.0, 1.0])
def test_distances_of_a_cpu_are_those_of_a_gpu(monkeypatch: pytest.MonkeyPatch, apart: float) -> None:
    """Both forms, values and gradients, also where nodes coincide."""
    places, weights = rand(2, 8, 4, 28) * apart, rand(2, 8, 28, 28, seed=2)
    places[..., 25:] = places[..., 25:26]
    places.requires_grad_()
    found = []
    for compiling in (False, True):
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda compiling=compiling: compiling)
        distance = lean.distances(places)
        found.append((distance, *torch.autograd.grad((distance * weights).sum(), places)))
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("frames", [1, 2, 3, 9])
def test_repeated_ends_are_replicate_padding(frames: int) -> None:
    x = rand(2, 3, frames, 5).requires_grad_()
    weights = rand(2, 3, frames + 8, 5, seed=2)
    ours, padded = lean.repeat_ends(x, 4), F.pad(x, (0, 0, 4, 4), mode="replicate")
    assert torch.equal(ours, padded)
    grads = [torch.autograd.grad((y * weights).sum(), x)[0] for y in (ours, padded)]
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("stride", [1, 2])
def test_borders_of_the_temporal_branches(stride: int) -> None:
    """The kernels of 5 see the end frames repeated (zero padding would differ, at the borders alone); the pool sees nothing."""
    tcn = lean.MultiScaleTemporalConv(16, stride).double().eval()
    x = rand(2, 16, 12, 5)
    opened = F.relu(tcn.enter_bn(tcn.enter(x)))
    near, far, peak = opened.chunk(3, 1)

    def branches(mode: str) -> Tensor:
        def padded(y: Tensor, frames: int) -> Tensor:
            return F.pad(y, (0, 0, frames, frames), mode=mode)

        pooled = F.max_pool2d(peak, (3, 1), (stride, 1), (1, 0))
        return tcn.bn(torch.cat([tcn.near(padded(near, 2)), tcn.far(padded(far, 4)), pooled, tcn.skip(x)], 1))

    torch.testing.assert_close(tcn(x), branches("replicate"), rtol=1e-12, atol=1e-12)
    differs = (tcn(x) - branches("constant")).abs().amax((0, 1, 3)) > 1e-9
    edge = 4 // stride
    assert differs[:edge].any() and differs[-edge:].any() and not differs[edge:-edge].any()
    slow = NaiveTemporal(16, stride)
    assert slow.branches[2][3].padding == (1, 0) and slow.branches[0][3].conv.padding_mode == "replicate"


@pytest.mark.parametrize("size", ["base", "large"])
def test_biases_in_front_of_a_batchnorm_are_left_out_in_training_alone(size: str) -> None:
    """All of them: they change no logit, have a gradient of 0, and move the running mean as if they had been added."""
    generator = torch.Generator().manual_seed(0)
    network = randomise(HyperGCN(3, skeleton="ucla20", people=1, size=size)).double()
    clips = rand(2, 3, 6, 20, 1)
    biases = {f"{name}.bias": m.bias for name, m in network.named_modules() if isinstance(m, nn.Conv2d)}
    assert len(biases) == 9 * 4 + 2 + (1 if size == "base" else 2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    shifts = {name: torch.randn(bias.shape, dtype=torch.float64, generator=generator) for name, bias in biases.items()}
    means, logits = [], []
    for shift in (0.0, 1.0):
        network.load_state_dict(before)
        with torch.no_grad():
            for name, bias in biases.items():
                bias.add_(shift * shifts[name])
        network.zero_grad()
        logits.append(network(clips))
        logits[-1].square().sum().backward()
        assert all(bias.grad is not None and not bias.grad.any() for bias in biases.values())
        means.append({name: value.clone() for name, value in network.state_dict().items() if name.endswith("running_mean")})
    assert torch.equal(*logits)
    moved = {name: means[1][name] - means[0][name] for name in means[0]}
    for name, value in shifts.items():
        layer, _, kind = name.removesuffix(".bias").rpartition(".")
        bn, part = {"enter": ("enter_bn", 0), "near": ("bn", 0), "far": ("bn", 1), "skip": ("bn", 3), "0": ("1", 0)}[kind]
        rows = moved[f"{layer}.{bn}.running_mean"][part * len(value) : (part + 1) * len(value)]
        torch.testing.assert_close(rows, 0.1 * value, rtol=1e-9, atol=1e-12)
    evaluated = network.eval()(clips)
    nn.init.zeros_(network.blocks[3].residual[0].bias)
    assert not torch.allclose(network(clips), evaluated)


def test_frozen_batchnorms_see_the_biases() -> None:
    """In training with statistics that stay: the network is that of evaluation, and the biases have their gradients."""
    network = randomise(HyperGCN(3, skeleton="ucla20", people=1)).double()
    clips = rand(2, 3, 6, 20, 1)
    evaluated = network.eval()(clips)
    for module in network.train().modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    logits = network(clips)
    logits.square().sum().backward()
    torch.testing.assert_close(logits, evaluated)
    assert all(module.bias.grad.any() for module in network.modules() if isinstance(module, nn.Conv2d))


def trained(level: Level, precision: torch.dtype, size: str) -> dict[str, Tensor]:
    """Loss, gradients and running statistics of one step on clips of a few frames, one person of which is absent."""
    torch.manual_seed(0)
    network = randomise(HyperGCN(5, skeleton="ucla20", people=2, size=size, hyper_joints=2, dropout=0.3))
    clips = torch.randn(3, 3, 7, 20, 2)
    clips[1, ..., 1] = 0.0
    with recomputing(level), torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        loss = F.cross_entropy(network(clips).float(), torch.arange(3)) + network.penalty()
    loss.backward()
    gradients = {f"gradient of {name}": p.grad for name, p in network.named_parameters() if p.requires_grad}
    return {"loss": loss.detach(), **gradients, **network.state_dict()}


@pytest.mark.parametrize(("size", "precision"), [("base", torch.float32), ("base", torch.bfloat16), ("large", torch.float32)])
def test_levels_of_recomputing_have_the_same_bits(size: str, precision: torch.dtype) -> None:
    plain, *others = (trained(level, precision, size) for level in ("none", "cheap", "blocks"))
    for other in others:
        assert [name for name, value in plain.items() if not torch.equal(value, other[name])] == []


BOUNDS = {("base", "cheap"): (39, 43), ("base", "blocks"): (12, 27), ("large", "cheap"): (53, 57), ("large", "blocks"): (15, 32)}


@pytest.mark.parametrize(("case", "bounds"), BOUNDS.items(), ids=map(" ".join, BOUNDS))
def test_memory_of_a_clip(case: tuple[str, Level], bounds: tuple[int, int]) -> None:
    """MiB per clip kept between forward and backward pass, and at the peak, of 64 frames and two people."""
    size, level = case
    with torch.device("meta"):
        network, found = HyperGCN(60, size=size), []
        for clips in (4, 8):
            x, labels = torch.empty(clips, 3, 64, 25, 2), torch.empty(clips, dtype=torch.int64)
            with Lifetimes() as memory:
                with recomputing(level):
                    loss = F.cross_entropy(network(x), labels)
                kept = memory.live
                loss.backward()
            network.zero_grad()
            found.append((kept, memory.peak))
    kept, peak = ((more - less) / 4 / 2**20 for less, more in zip(*found, strict=True))
    assert kept < bounds[0] and peak < bounds[1], (kept, peak)


def test_no_grouped_convolution() -> None:
    """They are slow on a GPU, above all backwards: groups are mixed by batched products."""
    assert all(module.groups == 1 for module in HyperGCN(3).modules() if isinstance(module, nn.Conv2d))


def test_long_skips() -> None:
    """l3, l6 and l9 read the sum of the two blocks before; all others their predecessor alone."""
    network = randomise(HyperGCN(3, skeleton="ucla20", people=1)).eval()
    read: list[Tensor] = []
    made: list[Tensor] = []

    def watch(block: nn.Module, given: tuple[Tensor, ...], result: Tensor) -> None:
        read.append(given[0])
        made.append(result)

    for block in network.blocks:
        block.register_forward_hook(watch)
    network(torch.randn(2, 3, 8, 20, 1))
    for i in range(1, 9):
        expected = made[i - 1] + made[i - 2] if i in (2, 5, 8) else made[i - 1]
        assert torch.equal(read[i], expected), i
    assert [tuple(y.shape[1:3]) for y in made] == [(128, 8)] * 3 + [(256, 4)] * 3 + [(256, 2)] * 3


@pytest.mark.parametrize(("size", "h", "keys"), [("base", 3, 607), ("large", 3, 614), ("base", 0, 607)])
def test_official_entries(size: str, h: int, keys: int) -> None:
    network = HyperGCN(60, size=size, hyper_joints=h)
    official = NAMES.to_official(network.state_dict(), network)
    assert len(official) == keys
    naive = NaiveHyperGCN(60, NTU25, 2, size, h)
    assert {k: v.shape for k, v in official.items()} == {k: v.shape for k, v in naive.state_dict().items()}
    assert any(key.startswith("l7.gcn1.down") for key in official) == (size == "large")  # base keeps its width there


def test_the_skeleton_graph_is_saved_but_neither_trained_nor_decayed() -> None:
    network = HyperGCN(3, skeleton="ucla20", people=1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=0.5, nesterov=True)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for _ in range(2):
        optimizer.zero_grad()
        network(torch.randn(2, 3, 4, 20, 1)).square().sum().backward()
        optimizer.step()
    for name, value in network.named_parameters():
        assert torch.equal(value, before[name]) == name.endswith("adjacency") or not before[name].any(), name
    assert sum(name.endswith("adjacency") for name in before) == 9


def test_start_values() -> None:
    torch.manual_seed(0)
    network = HyperGCN(60, size="large")
    state = NAMES.to_official(network.state_dict(), network)
    assert torch.equal(state["l4.gcn1.PA"], torch.from_numpy(ensemble_adjacency(NTU25, 3, 8)))
    spread = {"pos_embedding": 1.0, "to_joint_embedding.weight": 1 / 3, "fc.weight": math.sqrt(2 / 60)}
    for name, value in state.items():
        last = name.rsplit(".", 1)[-1]
        if name.endswith("hyper_joint"):
            assert torch.equal(value, value[:1].expand(3, -1)), name
            assert float(value[0].std()) == pytest.approx(1.0, rel=0.3), name
        elif name.endswith(("alpha", "edge_importance")):
            assert torch.equal(value, torch.ones_like(value)), name
        elif name in ("fc.bias", "to_joint_embedding.bias"):
            bound = 1 / math.sqrt(512 if name == "fc.bias" else 3)
            assert value.abs().max() <= bound, name
            assert float(value.std()) == pytest.approx(bound / math.sqrt(3), rel=0.3), name
        elif last in ("bias", "running_mean", "num_batches_tracked"):
            assert not value.any(), name
        elif last == "weight" and name.endswith("gcn1.bn.weight"):
            assert torch.equal(value, torch.full_like(value, 1e-6)), name
        elif last == "weight" and value.dim() == 1:
            noise = 0.02 if ".tcn1." in name else 0.0
            assert abs(float(value.mean()) - 1.0) <= 6 * noise / math.sqrt(len(value)), name
            assert float(value.std()) == pytest.approx(noise, rel=0.6), name
        elif last == "weight" or name == "pos_embedding":
            std = spread.get(name, math.sqrt(2.0 / (len(value) * math.prod(value.shape[2:]))))
            assert float(value.std()) == pytest.approx(std, rel=6 / math.sqrt(2 * value.numel())), name
            assert abs(float(value.mean())) < 6 * std / math.sqrt(value.numel()), name
    assert network.embed.weight.abs().max() <= 1 / math.sqrt(3)


def test_penalty() -> None:
    """1 for rows that are alike, 0 for orthogonal or opposite ones; between 0 and 1 for others."""
    network = HyperGCN(3, skeleton="ucla20", people=1).double()
    torch.testing.assert_close(network.penalty(), torch.ones((), dtype=torch.float64))
    for block in network.blocks:
        with torch.no_grad():
            block.gcn.virtual.copy_(torch.eye(3, block.gcn.virtual.shape[1]) * 2)
    assert float(network.penalty().detach()) == pytest.approx(0, abs=1e-8)
    for block in network.blocks:
        with torch.no_grad():
            block.gcn.virtual[0], block.gcn.virtual[1] = 1.0, -1.0
            block.gcn.virtual[2] = 0.0  # no direction: cosine 0, and no NaN
    penalty = network.penalty()
    penalty.backward()
    assert float(penalty.detach()) == pytest.approx(-1 / 6, abs=1e-8)  # the diagonal counts, and a row of zeros lacks its 1
    assert all(torch.isfinite(block.gcn.virtual.grad).all() for block in network.blocks)
    independent = HyperGCN(3, skeleton="ucla20", people=1, virtual_init="independent")
    assert 0 < independent.penalty() < 0.5


def test_penalty_is_a_stationary_point_at_the_start() -> None:
    """Known behaviour: virtual joints that start alike stay alike; their penalty is 1 and has no gradient to speak of."""
    alike, drawn = (HyperGCN(3, skeleton="ucla20", people=1, virtual_init=start) for start in ("repeated", "independent"))
    for network in (alike, drawn):
        network.penalty().backward()
    steep = max(float(block.gcn.virtual.grad.norm()) for block in drawn.blocks)
    flat = max(float(block.gcn.virtual.grad.norm()) for block in alike.blocks)
    assert flat < 1e-6 < 1e-4 < steep


@pytest.mark.parametrize("h", [0, 1])
def test_penalty_without_pairs_is_zero(h: int) -> None:
    """Officially 0 / 0: a run without virtual joints could not train."""
    network = HyperGCN(3, skeleton="ucla20", people=1, hyper_joints=h)
    loss = network(torch.randn(2, 3, 4, 20, 1)).square().sum() + network.penalty()
    loss.backward()
    assert network.penalty() == 0 and torch.isfinite(loss)
    for block in network.blocks:
        assert block.gcn.virtual.grad is not None and block.gcn.virtual.grad.shape == (h, block.gcn.virtual.shape[1])


def test_virtual_joints_reach_the_output() -> None:
    network = randomise(HyperGCN(3, skeleton="ucla20", people=1)).eval()
    clips = torch.randn(2, 3, 4, 20, 1)
    before = network(clips)
    nn.init.normal_(network.blocks[8].gcn.virtual)
    assert not torch.allclose(network(clips), before)


def test_graph_is_not_rounded_under_autocast() -> None:
    network = randomise(HyperGCN(3))
    gcn, fixed = network.blocks[0].gcn, network.fixed_graphs()[0]
    x = torch.randn(2, 128, 8, 25)
    exact = gcn.graph(x, fixed, gcn.virtual)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(gcn.graph(x, fixed, gcn.virtual), exact)
        y = gcn(x.bfloat16(), fixed)
        y.float().sum().backward()
    assert y.dtype == torch.bfloat16 and gcn.value.grad.dtype == torch.float32
    torch.testing.assert_close(y.float(), gcn(x, fixed), rtol=0.1, atol=0.3)


REFUSED = {
    "size": ({"size": "bas"}, "did you mean base"),
    "virtual_init": ({"virtual_init": "random"}, "repeated, independent"),
    "too few virtual joints": ({"hyper_joints": -1}, "0 or more"),
    "too few neighbours": ({"neighbours": 0}, "1 or more"),
    "too many neighbours": ({"neighbours": 29}, "at most 28, or 4 virtual joints or more"),
}


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_work_is_refused_at_construction(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(LabError, match=message):
        HyperGCN(4, **arguments)


def test_dropout() -> None:
    network = HyperGCN(4, skeleton="ucla20", people=1, dropout=0.9).train()
    clips = torch.randn(2, 3, 4, 20, 1)
    assert not torch.equal(network(clips), network(clips))
