"""MAMP's encoder and its heads against the specification."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from layers.recompute import Level, recomputing
from models.mamp.network import MAMP, Encoder
from planner.steps.kernels import FusedAttention
from planner.steps.lifetimes import Lifetimes
from shared_data.errors import LabError, UsageError

SMALL = {"skeleton": "ucla20", "people": 2, "frames": 8, "width": 16, "depth": 3, "heads": 2}


def small(**given: object) -> MAMP:
    torch.manual_seed(0)
    return MAMP(5, **{**SMALL, **given})


def clips(n: int = 3, frames: int = 8, people: int = 2) -> Tensor:
    return torch.randn(n, 3, frames, 20, people, generator=torch.Generator().manual_seed(1))


def test_features_are_the_mean_of_the_tokens():
    encoder, given = small().encoder.eval(), clips()
    tokens = encoder.tokens(given)
    assert tokens.shape == (3, 2, 2, 20, 16)
    torch.testing.assert_close(encoder(given), tokens.mean((1, 2, 3)))
    alone = encoder.tokens(torch.stack([given[1, ..., 1]] * 2, -1)[None])  # each person is a sequence of its own
    torch.testing.assert_close(alone[0, 0], tokens[1, 1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(alone[0, 1], tokens[1, 1], rtol=1e-4, atol=1e-5)


def test_kept_tokens_are_those_of_the_whole():
    encoder, keep = small().encoder, torch.tensor([[3, 0, 39], [21, 7, 8]])
    patches = encoder.patches(clips(1))
    every, some = encoder.embedded(patches), encoder.embedded(patches, keep)
    for sequence in range(2):
        torch.testing.assert_close(some[sequence], every[sequence, keep[sequence]])


def test_a_token_is_a_patch_and_its_place():
    encoder, given = small().encoder, clips(1)
    stem = nn.Conv2d(3, 16, (4, 1), (4, 1))
    stem.load_state_dict({"weight": encoder.embed.weight.view(16, 3, 4, 1), "bias": encoder.embed.bias})
    expected = stem(given[..., 1]).permute(0, 2, 3, 1) + encoder.position.time[:, None] + encoder.position.joint
    torch.testing.assert_close(encoder.embedded(encoder.patches(given))[1], expected.flatten(1, 2)[0], rtol=1e-4, atol=1e-5)


def test_branches_are_dropped_more_often_from_block_to_block():
    rates = [block.drop_path.drop_prob for block in MAMP(5, **SMALL | {"depth": 4}).encoder.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert Encoder(depth=1, drop_path=0.3).blocks[0].drop_path.drop_prob == 0.0


def test_heads():
    """Fine-tuning: means over time, then people, joints side by side; the probe: features, normalised over the batch if asked."""
    network, given = small(drop_path=0.0), clips()
    network.dropout.p = 0.0
    joints = network.encoder.tokens(given).mean(2).flatten(2).mean(1)
    expected = network.fc(torch.relu(copy.deepcopy(network.bn)(network.hidden(joints))))
    torch.testing.assert_close(network.train()(given), expected, rtol=1e-4, atol=1e-5)
    probe = small(protocol="linprobe", probe_norm=True, drop_path=0.0).train()
    features = probe.encoder(given)
    centred = (features - features.mean(0)) / (features.var(0, unbiased=False) + 1e-6).sqrt()
    torch.testing.assert_close(probe(given), probe.fc(centred), rtol=1e-3, atol=1e-4)
    assert not list(probe.bn.parameters())
    plain = small(protocol="linprobe").eval()
    assert torch.equal(plain(given), plain.fc(plain.encoder(given)))


def test_start_values_of_the_heads():
    assert float(small(protocol="linprobe").fc.weight.detach().std()) == pytest.approx(0.01, rel=0.3)
    network = small()
    for layer in (network.hidden, network.fc):
        bound = (6 / sum(layer.weight.shape)) ** 0.5
        assert 0.95 * bound < float(layer.weight.detach().abs().max()) <= bound and not layer.bias.any()


def test_layers():
    network = small()
    layers = network.layer_ids()
    assert layers.keys() == dict(network.named_parameters()).keys()
    for name, layer in layers.items():
        if name.startswith("encoder.blocks."):
            assert layer == int(name.split(".")[2]) + 1
        else:
            assert layer == (0 if name.startswith(("encoder.position", "encoder.embed")) else 4), name


def trained(level: Level, precision: str) -> list[Tensor]:
    """Loss, gradients and statistics of one step, branches and tokens being dropped."""
    network = small().train()
    torch.manual_seed(1)
    with recomputing(level), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        loss = cross_entropy(network(clips()).float(), torch.tensor([0, 1, 2]))
    loss.backward()
    return [loss.detach(), *(p.grad for p in network.parameters()), *network.buffers()]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_levels_have_the_same_bits(precision):
    kept = trained("none", precision)
    for level in ("cheap", "blocks"):
        assert all(map(torch.equal, trained(level, precision), kept)), level


def test_a_lone_clip_is_normalised_by_what_was_seen_before():
    network = small(drop_path=0.0)
    network.dropout.p = 0.0
    network.train()(clips())
    seen = copy.deepcopy(dict(network.named_buffers()))
    lone = network(clips(1))
    assert all(torch.equal(value, seen[name]) for name, value in network.named_buffers())
    torch.testing.assert_close(lone, network.eval()(clips(1)))


@pytest.mark.parametrize(("level", "kept", "peak"), [("none", 193, 200), ("cheap", 121, 133), ("blocks", 14, 41)])
def test_memory(level, kept, peak):
    """MiB per clip at the official size with fused attention, between forward and backward and at most."""

    def measured(clips: int) -> tuple[float, float]:
        with torch.device("meta"):
            network = MAMP(60).train()
            with Lifetimes() as memory, FusedAttention():
                with recomputing(level):
                    loss = cross_entropy(network(torch.empty(clips, 3, 120, 25, 2)), torch.empty(clips, dtype=torch.int64))
                between = memory.live
                loss.backward()
            return between / 2**20, memory.peak / 2**20

    few, many = measured(4), measured(8)
    assert (many[0] - few[0]) / 4 < kept
    assert (many[1] - few[1]) / 4 < peak


@pytest.mark.parametrize(
    "given",
    [
        {"frames": 10}, {"patch": 0}, {"width": 15}, {"heads": 0}, {"depth": 0}, {"mlp_ratio": 0.0}, {"drop_path": 1.0},
        {"protocol": "probe"}, {"probe_norm": True},
    ],
)  # fmt: skip
def test_what_does_not_work_is_refused(given):
    with pytest.raises(UsageError):
        small(**given)


def test_other_windows_are_refused():
    with pytest.raises(LabError, match=r"clips of shape \(3, 3, 12, 20, 2\)") as caught:
        small()(clips(frames=12))
    assert "(N, 3, 8, 20, 2)" in caught.value.expected and "model_args.frames" in caught.value.next_step
