"""The two baselines: their graph, their statistics, what they refuse, and that they learn."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from engine import models
from engine.losses import build_loss
from engine.optimizers import build_optimizer
from engine.step import TrainStep
from models.baselines.mlp import MLP, SEGMENTS
from models.baselines.network import ARCHITECTURES, Baseline
from models.baselines.stgcn import BLOCKS, STGCN, GraphConv, spatial_partition
from shared_data.errors import LabError
from shared_data.skeletons import NTU25, SKELETONS, UCLA20

CARD = models.find("baselines")


def every_architecture(test):
    return pytest.mark.parametrize("architecture", ARCHITECTURES)(test)


def clips_of(n: int, frames: int, joints: int, people: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 3, frames, joints, people, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("layout", SKELETONS.values(), ids=SKELETONS)
def test_partition_puts_every_neighbour_in_one_subset(layout) -> None:
    """Self, one step inwards, one step outwards, by hop distance to the centre; each subset is averaged."""
    linked = {(a, b) for a, b in layout.edges} | {(b, a) for a, b in layout.edges}
    hops, frontier = {layout.centre: 0}, [layout.centre]
    while frontier:
        joint = frontier.pop(0)
        for u, v in linked:
            if u == joint and v not in hops:
                hops[v] = hops[u] + 1
                frontier.append(v)
    adjacency = spatial_partition(layout)
    for u in range(layout.joints):
        subsets = [
            {u},
            {v for a, v in linked if a == u and hops[v] < hops[u]},
            {v for a, v in linked if a == u and hops[v] > hops[u]},
        ]
        for s, subset in enumerate(subsets):
            expected = torch.zeros(layout.joints)
            expected[sorted(subset)] = 1.0 / max(len(subset), 1)
            torch.testing.assert_close(adjacency[s, u], expected)
    assert adjacency[1, layout.centre].sum() == 0.0  # nothing is nearer to the centre than the centre
    assert int((adjacency > 0).sum()) == layout.joints + 2 * len(layout.edges)


def test_graph_convolution_is_the_formula_of_the_paper() -> None:
    layer = GraphConv(4, 6, spatial_partition(UCLA20)).double()
    layer.adjacency = spatial_partition(UCLA20).double()
    nn.init.uniform_(layer.importance, 0.5, 1.5)
    x = clips_of(2, 7, 20, 1)[:, :1].squeeze(-1).double().expand(2, 4, 7, 20) * torch.arange(1, 5).view(4, 1, 1)
    weight = layer.weight.weight[:, :, :, 0]  # (out, in, subset)
    expected = sum(
        torch.einsum("uv,oc,bctv->botu", layer.adjacency[s] * layer.importance[s], weight[:, :, s], x) for s in range(3)
    )
    torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-10)


def test_statistics_of_the_mlp() -> None:
    """A clip that counts its frames: means of the eighths, mean absolute deviation, change of one per frame."""
    network = MLP(2, coordinates=1, dropout=0.0).eval()
    seen: list[torch.Tensor] = []
    network.layers[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    frames = 16
    network(torch.arange(float(frames)).view(1, 1, frames, 1, 1))
    scale = 1.0 / math.sqrt(1.0 + network.standardise.eps)
    eighths = [0.5 + 2 * i for i in range(SEGMENTS)]
    torch.testing.assert_close(seen[0], scale * torch.tensor([[*eighths, 4.0, 1.0]]))


def test_mlp_standardises_each_coordinate() -> None:
    """Trained on clips in millimetres or in metres, it computes the same."""
    clips = clips_of(8, 20, 20, 1)
    logits = []
    for unit in (1.0, 1000.0):
        torch.manual_seed(3)
        network = Baseline(5, skeleton="ucla20", people=1, architecture="mlp").train()
        logits.append(network(unit * clips))
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-3, atol=1e-4)
    assert not any("standardise" in name for name, _ in network.named_parameters())


@every_architecture
@pytest.mark.parametrize("layout", SKELETONS.values(), ids=SKELETONS)
@pytest.mark.parametrize(("people", "frames"), [(1, 1), (2, 5), (3, 33)])
def test_any_skeleton_people_and_frames(architecture: str, layout, people: int, frames: int) -> None:
    network = Baseline(7, skeleton=layout, people=people, architecture=architecture).train()
    logits = network(clips_of(2, frames, layout.joints, people))
    assert logits.shape == (2, 7) and torch.isfinite(logits).all()
    logits.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


@every_architecture
def test_one_clip_trains(architecture: str) -> None:
    """The last piece of a batch may be a single clip."""
    network = Baseline(3, skeleton="ucla20", people=1, architecture=architecture).train()
    network(clips_of(1, 8, 20, 1)).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


@every_architecture
def test_contracts_of_the_card_that_name_no_architecture(architecture: str) -> None:
    """What tests/contract checks of the default, of both: batch independence, absent people, bf16, meta device, safe input."""
    torch.manual_seed(0)
    network = Baseline(60, architecture=architecture).eval()
    clips = clips_of(3, 64, 25, 2, seed=1)
    before = clips.clone()
    with torch.no_grad():
        exact = network(clips)
        alone = torch.cat([network(clip[None]) for clip in clips])
        absent = clips.clone()
        absent[..., 1] = 0.0
        with torch.autocast("cpu", torch.bfloat16):
            rounded = network(clips)
        assert not torch.allclose(network(absent), exact)
        assert torch.isfinite(network(torch.zeros_like(clips))).all()
        swapped = network(clips.flip(-1))
    torch.testing.assert_close(alone, exact, rtol=1e-4, atol=1e-5)
    assert torch.equal(clips, before)
    assert float((rounded.float() - exact).norm() / exact.norm()) < 0.1
    assert torch.allclose(swapped, exact, rtol=1e-4, atol=1e-5) == (architecture == "stgcn")
    with torch.device("meta"):
        shell = Baseline(60, architecture=architecture)
        assert shell(torch.empty(2, 3, 64, 25, 2)).shape == (2, 60)
    assert all(value.is_meta for value in (*shell.parameters(), *shell.buffers()))


def test_small_as_promised() -> None:
    assert all(row["parameters"] < 550_000 for row in CARD.toml["expect"])


def test_start_values_of_the_stgcn() -> None:
    torch.manual_seed(0)
    network = STGCN(60, skeleton=NTU25, people=2, coordinates=150, dropout=0.0)
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            weight = module.weight.detach()
            fan_out = weight.shape[0] * weight.shape[2] * weight.shape[3]
            assert module.bias is None, name
            assert float(weight.std()) == pytest.approx(math.sqrt(2.0 / fan_out), rel=6 / math.sqrt(2 * weight.numel())), name
        if isinstance(module, GraphConv):
            assert torch.equal(module.importance, torch.ones(3, 25, 25)), name
            assert torch.equal(module.adjacency, spatial_partition(NTU25)), name
    assert network.blocks[0].residual is None
    assert [len(block.residual) for block in network.blocks[1:]] == [0, 2, 0, 2, 0]
    assert len(network.blocks) == len(BLOCKS)
    assert not any("adjacency" in key for key in network.state_dict())


@every_architecture
def test_dropout(architecture: str) -> None:
    clips = clips_of(4, 8, 20, 1)
    network = Baseline(3, skeleton="ucla20", people=1, architecture=architecture, dropout=0.5)
    assert not torch.equal(network.train()(clips), network(clips))
    assert torch.equal(network.eval()(clips), network(clips))


@every_architecture
def test_it_learns(architecture: str) -> None:
    """Eight clips of noise, two labels: a network that trains at all knows them by heart in 30 steps."""
    torch.manual_seed(0)
    network = Baseline(2, skeleton="ucla20", people=1, architecture=architecture).train()
    step = TrainStep(network, build_optimizer(network.parameters(), lr=0.02), build_loss())
    clips, labels = clips_of(8, 16, 20, 1), torch.arange(8) % 2
    losses = [float(step(clips, labels).loss) for _ in range(30)]
    assert losses[0] > 0.4 > 0.1 > losses[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"architecture": "stgnc"}, "did you mean stgcn"),
        ({"architecture": "transformer"}, "expected: mlp, stgcn"),
        ({"dropout": 1.0}, "below 1"),
        ({"dropout": -0.1}, "dropout is -0.1"),
    ],
)
def test_impossible_settings_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(LabError, match=message):
        models.build(CARD, num_classes=4, skeleton="ntu25", people=2, **arguments)
