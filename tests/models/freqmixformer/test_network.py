"""FreqMixFormer against the specification: its sizes, its start values, its parts, and a slow network that fuses nothing."""

from __future__ import annotations

import math

import pytest
import torch
import torch_dct
from torch import nn

from engine import models
from models.freqmixformer.network import FreqMixFormer, MixedAttention, TimeAttention, TimeGate
from shared_data.errors import LabError, UsageError
from tests.models.against_slow import assert_same_training, randomise
from tests.models.freqmixformer.naive import NaiveFreqMixFormer, adjacency

CARD = models.find("freqmixformer")
NAMES = models.official_module(CARD)
LAYOUTS = {25: "ntu25", 20: "ucla20"}


def clips(n: int, frames: int, joints: int, people: int) -> torch.Tensor:
    """Random clips; the last person of the second one is absent."""
    x = torch.randn(n, 3, frames, joints, people, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x[1, ..., -1] = 0.0
    return x


# classes, joints, people, frames, hop, split
CASES = {
    "ntu": (7, 25, 2, 8, 8, 13),
    "ntu-bones": (7, 25, 1, 8, 1, 13),
    "ntu-grandparents": (5, 25, 2, 4, 2, 5),
    "ucla": (10, 20, 1, 12, 8, 10),
    "ucla-6": (10, 20, 2, 4, 6, 10),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_equals_the_slow_network(case: tuple[int, int, int, int, int, int]) -> None:
    classes, joints, people, frames, hop, split = case
    naive = randomise(NaiveFreqMixFormer(classes, joints, people, frames, hop=hop, split=split))
    ours = FreqMixFormer(classes, skeleton=LAYOUTS[joints], people=people, frames=frames, hop=hop, split=split)
    assert_same_training(ours, naive, NAMES, clips(3, frames, joints, people))


def test_official_entries() -> None:
    network = FreqMixFormer(60)
    official = NAMES.to_official(network.state_dict(), network)
    assert len(official) == 942
    naive = NaiveFreqMixFormer(60, 25, 2, 64).state_dict()
    assert [(k, v.shape) for k, v in official.items()] == [(k, v.shape) for k, v in naive.items()]
    assert list(FreqMixFormer(60, hop=1).state_dict()) == list(network.state_dict())


def expected_start(name: str, shape: torch.Size) -> float | None:
    """Standard deviation of an official weight at the start; None where it starts from a uniform distribution."""
    if name in ("to_joint_embedding.weight",) or name.endswith(("linear.weight", "ChaRef_conv.weight")):
        return None
    return math.sqrt(2.0 / (shape[0] * math.prod(shape[2:])))  # fan-out; of the two-dimensional ones: rows


def test_start_values() -> None:
    torch.manual_seed(0)
    network = FreqMixFormer(60)
    state = NAMES.to_official(network.state_dict(), network)
    assert torch.equal(state["l4.spa_mixf.A_GEME"], adjacency(25).unsqueeze(1).expand(3, 8, 25, 25))
    position = state["pos_embedding"]
    assert abs(float(position.mean())) < 0.15 and float(position.std()) == pytest.approx(1.0, rel=0.1)
    linear = ("linear.bias", "spa_mixf.fc.bias", "to_joint_embedding.bias")
    for name, value in state.items():
        last = name.rsplit(".", 1)[-1]
        if name.endswith((*linear, "A_GEME", "pos_embedding")) or name == "fc.bias":
            continue
        if last in ("bias", "running_mean", "num_batches_tracked"):
            assert not value.any(), name
        elif last in ("running_var", "alpha") or (last == "weight" and value.dim() == 1):  # every BatchNorm scale is 1
            assert torch.equal(value, torch.ones_like(value)), name
        elif (spread := expected_start(name, value.shape)) is not None:
            assert float(value.square().mean().sqrt()) == pytest.approx(spread, rel=6 / math.sqrt(2 * value.numel())), name
            assert abs(float(value.mean())) < 6 * spread / math.sqrt(value.numel()), name
        else:
            bound = 1.0 / math.sqrt(math.prod(value.shape[1:]))
            assert float(value.abs().max()) <= bound, name
            assert float(value.square().mean().sqrt()) == pytest.approx(bound / math.sqrt(3), rel=2 / math.sqrt(value.numel())), (
                name
            )


def test_dead_weight_is_dead() -> None:
    network = FreqMixFormer(5, frames=4)
    unused = CARD.unused_parameters(dict(network.named_parameters()))
    per_block = 1 + 25 * 50 + 25  # alpha and fc; then two scales and two shifts
    assert sum(network.get_parameter(name).numel() for name in unused) == sum(
        per_block + 2 * (c // 4) + 2 * (c // 5) for c in [80] * 4 + [160] * 3 + [320] * 3
    )
    before = {name: value.clone() for name, value in network.state_dict().items()}
    x = clips(2, 4, 25, 2).float()
    nn.functional.cross_entropy(network.train()(x), torch.tensor([0, 1])).backward()
    assert {name for name, p in network.named_parameters() if p.grad is None} == unused
    dead = [name for name in before if "unused" in name]
    assert any(name.endswith("running_var") for name in dead)
    assert all(torch.equal(network.state_dict()[name], before[name]) for name in dead)
    logits = network.eval()(x)
    for name in unused:
        nn.init.normal_(network.get_parameter(name))
    assert torch.equal(network(x), logits)


def test_frequencies_are_scaled_in_mixed_attention_only() -> None:
    torch.manual_seed(0)
    one, pooled = MixedAttention(25, 13).double(), torch.randn(2, 4, 2, 3, 25, dtype=torch.float64)
    attention: dict[int, torch.Tensor] = {}
    for split in (0, 13, 25):
        other = MixedAttention(25, split).double()
        other.load_state_dict(one.state_dict())
        attention[split] = other(pooled).detach()
    # From all high to all low the factors change by 1: what is left is the mixed attention itself, in frequencies.
    mixed = torch_dct.dct(attention[0] - attention[25])
    rows = torch.tensor([1.0, 2.0, 2.0, 1.0], dtype=torch.float64).view(1, 4, 1, 1) / 8
    assert float(mixed.min()) > -1e-12
    torch.testing.assert_close(mixed.sum(-1), rows.expand(2, 4, 3, 25), rtol=1e-10, atol=1e-12)
    low = torch_dct.dct(attention[0] - attention[13])
    torch.testing.assert_close(low[..., :13], mixed[..., :13], rtol=1e-10, atol=1e-12)
    assert float(low[..., 13:].abs().max()) < 1e-12


def test_attention_over_time() -> None:
    torch.manual_seed(0)
    part, x = TimeAttention(6).double(), torch.randn(2, 4, 5, 6, dtype=torch.float64)
    q = part.linear(x[:, :2].mean((1, 2))).relu()
    k = part.linear(x[:, 2:].flatten(1, 2).max(1).values).relu()
    expected = torch.zeros_like(x)
    for source in range(6):
        for target in range(6):
            weight = torch.sigmoid(q[:, source] * k[:, target]).view(2, 1, 1)
            expected[..., target] += x[..., source] * weight
    found = part(x, x[:, :2].mean((1, 2))[:, None], x[:, 2:].amax((1, 2))[:, None])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_gate_over_time() -> None:
    part, x = TimeGate(), torch.randn(2, 4, 5, 6)
    with torch.no_grad():
        part.weight.copy_(torch.tensor([0.3, -0.7]))
        part.bias.fill_(0.1)
    frame = x[1, :, :, 2]
    gate = torch.sigmoid(0.3 * frame.mean() - 0.7 * frame.max() + 0.1)
    torch.testing.assert_close(part(x, x.mean((1, 2)), x.amax((1, 2)))[1, :, :, 2], frame * gate)


def test_hop() -> None:
    """Beyond the depth of the tree nothing changes; hop 1 does not see where a person stands, but for the root."""
    x = clips(2, 8, 20, 1).float()
    torch.manual_seed(0)
    networks = {hop: FreqMixFormer(4, skeleton="ucla20", people=1, frames=8, hop=hop).train() for hop in (1, 6, 7, 8, 10**9)}
    for network in networks.values():
        network.load_state_dict(networks[8].state_dict())
    logits = {hop: network(x) for hop, network in networks.items()}
    assert torch.equal(logits[7], logits[8]) and torch.equal(logits[10**9], logits[8])
    assert not torch.allclose(logits[6], logits[8]) and not torch.allclose(logits[1], logits[8])

    embedded = networks[1].eval().embed(x) - networks[1].embed(x + 5.0)
    moved = [joint for joint in range(20) if not torch.allclose(embedded[:, :, joint], torch.zeros(()), atol=1e-4)]
    assert moved == [2]


def test_other_lengths() -> None:
    network = FreqMixFormer(4, frames=48)
    assert network(clips(2, 48, 25, 2).float()).shape == (2, 4)
    with pytest.raises(LabError, match=r"shape \(2, 3, 64, 25, 2\)") as caught:
        network(clips(2, 64, 25, 2).float())
    assert "(N, 3, 48, 25, 2)" in str(caught.value) and "frames" in str(caught.value)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"frames": 50}, "multiple of 4, such as 48"),
        ({"frames": 2}, "multiple of 4, such as 4"),
        ({"frames": 0}, "multiple of 4"),
        ({"hop": 0}, "1 or more"),
        ({"split": 26}, "0 to 25"),
        ({"split": 0.5}, "whole number"),
    ],
)
def test_arguments_that_can_never_work_are_refused(given: dict[str, int], expected: str) -> None:
    with pytest.raises(UsageError, match=f"argument {next(iter(given))} is") as caught:
        FreqMixFormer(4, **given)
    assert expected in str(caught.value)


@pytest.mark.parametrize(("layout", "split"), [("ntu25", 13), ("ucla20", 10)])
def test_the_usual_split(layout: str, split: int) -> None:
    ours, named = (FreqMixFormer(4, skeleton=layout, frames=4, **given) for given in ({}, {"split": split}))
    one, two = ours.blocks[0].spatial.attention.back, named.blocks[0].spatial.attention.back
    assert torch.equal(one, two) and one.dtype == torch.float64


def test_autocast_with_trained_like_statistics() -> None:
    """A fresh network normalises nothing in evaluation mode and runs to 1e19: here BatchNorm knows its clips."""
    torch.manual_seed(0)
    network, x = FreqMixFormer(10, frames=16), torch.randn(6, 3, 16, 25, 2)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None
    with torch.no_grad():
        network.train()(x)
    exact = network.eval()(x)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = network(x)
        nn.functional.cross_entropy(rounded, torch.arange(6)).backward()
    assert float((rounded.float() - exact).detach().norm() / exact.detach().norm()) < 0.03
    assert all(p.grad.dtype == torch.float32 and torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


def test_dropout() -> None:
    network = FreqMixFormer(4, skeleton="ucla20", people=1, frames=4, dropout=0.9).train()
    x = torch.randn(2, 3, 4, 20, 1)
    assert not torch.equal(network(x), network(x))
