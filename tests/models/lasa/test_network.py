"""LaSA's own formulas against naive ones, number by number in float64; what padding changes and what it does not."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from engine.parity.network import without_dropout
from layers.dilated import DilatedLayer, Stage
from layers.recompute import recomputing
from models.lasa.layouts import LARA19, tree
from models.lasa.network import AttentionLayer, Focus, JointAttention, LaSA, LinearAttention, over_frames
from shared_data.errors import DataError, LabError, MissingInputError, UsageError
from shared_data.skeletons import NTU25, UCLA20
from shared_data.skeletons.hops import diameter, disentangled_adjacency

SMALL = {"skeleton": "ucla20", "people": 1, "width": 8, "layers": 4, "refine_layers": 3, "scales": 4}


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def small(**changes: object) -> LaSA:
    torch.manual_seed(0)
    return LaSA(5, **{**SMALL, **changes})  # type: ignore[arg-type]


def affine(layer: nn.Module, x: Tensor) -> Tensor:
    """A linear layer or a 1x1 convolution on one vector of channels."""
    return layer.weight.reshape(len(layer.weight), -1) @ x + layer.bias


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


@torch.no_grad()
def linear_attention(layer: LinearAttention, x: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """(d, T) of one sequence, frame by frame and head by head."""
    width, frames = x.shape
    size = width // 4
    queries, keys, told = [], [], []
    for t in range(frames):
        both = affine(layer.query_key, x[:, t])
        queries.append(sigmoid(both[:width]))
        keys.append(sigmoid(both[width:]))
        told.append(affine(layer.value, values[:, t]))
    out = torch.zeros_like(x)
    for t in range(frames):
        heads = []
        for head in range(4):
            part = slice(head * size, (head + 1) * size)
            weights = [float(queries[t][part] @ keys[s][part]) for s in range(frames)]
            total = sum(weights) + 1e-6 * float(queries[t][part].sum())
            heads.append(sum(weight * told[s][part] for s, weight in enumerate(weights)) / total)
        out[:, t] = affine(layer.out, torch.cat(heads)) * float(mask[0, t])
    return out


def test_linear_attention_is_a_weighted_mean_over_all_frames() -> None:
    layer = LinearAttention(8).double().eval()
    x, values, mask = numbers(2, 8, 6), numbers(2, 8, 6, seed=1), torch.ones(2, 1, 6, dtype=torch.bool)
    mask[1, :, 4:] = False
    expected = torch.stack([linear_attention(layer, *one) for one in zip(x, values, mask, strict=True)])
    torch.testing.assert_close(layer(x, values, mask), expected, rtol=1e-12, atol=1e-12)


def test_a_padded_frame_speaks_and_does_not_hear() -> None:
    layer = LinearAttention(8).double().eval()
    x, mask = numbers(1, 8, 6), torch.tensor([[[True] * 4 + [False] * 2]])
    before = layer(x, x, mask)
    x[..., 5] += 1.0
    after = layer(x, x, mask)
    assert not after[..., 4:].any() and not torch.allclose(before[..., :4], after[..., :4])


@pytest.mark.parametrize("alpha", [1.0, math.exp(-3)])
def test_a_layer_with_attention(alpha: float) -> None:
    layer = AttentionLayer(8, 2, alpha=alpha).double().eval()
    x, encoded, mask = numbers(1, 8, 7), numbers(1, 8, 7, seed=1), torch.ones(1, 1, 7, dtype=torch.bool)
    mask[..., 5:] = False
    layer.requires_grad_(False)
    o = torch.zeros(8, 7, dtype=torch.float64)
    for t in range(7):
        o[:, t] = layer.dilated.bias
        for tap, away in enumerate((-2, 0, 2)):
            if 0 <= t + away < 7:
                o[:, t] += layer.dilated.weight[:, :, tap] @ x[0, :, t + away]
    o = o.clamp(min=0)
    n = torch.stack([(row - row.mean()) / math.sqrt(float(((row - row.mean()) ** 2).mean()) + 1e-5) for row in o])
    for told, given in ((n, ()), (encoded[0], (encoded,))):
        mixed = o + alpha * linear_attention(layer.attention, n, told, mask[0])
        expected = torch.stack([x[0, :, t] + affine(layer.mix, mixed[:, t]) for t in range(7)], 1) * mask[0]
        torch.testing.assert_close(layer(x, mask, *given)[0], expected, rtol=1e-11, atol=1e-12)


def test_frames_are_normalised_as_instance_norm_does_and_one_frame_becomes_zero() -> None:
    x = numbers(3, 4, 9)
    torch.testing.assert_close(over_frames(x), nn.InstanceNorm1d(4)(x), rtol=1e-10, atol=1e-12)
    assert not over_frames(x[..., :1]).any()


def test_spatial_focus() -> None:
    layer = Focus(6, 5).double().eval()
    joints, h, mask = numbers(1, 5, 4), numbers(1, 6, 4, seed=1), torch.tensor([[[True, True, True, False]]])
    s = torch.stack([affine(layer.joints, joints[0, :, t]) for t in range(4)], 1)
    shared = torch.zeros(6, 4, dtype=torch.float64)
    for c in range(6):
        scores = torch.stack([(s[c] * h[0, d]).sum() / 4 for d in range(6)])  # 4 frames, the padded one too
        weights = torch.exp(scores) / torch.exp(scores).sum()
        shared[c] = sum(weights[d] * h[0, d] for d in range(6)) + h[0, c]
    expected = torch.zeros(6, 4, dtype=torch.float64)
    for t in range(3):
        hidden = affine(layer.fc1, shared[:, t])
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        expected[:, t] = affine(layer.fc2, hidden) + h[0, :, t]
    torch.testing.assert_close(layer(joints, h, mask)[0], expected, rtol=1e-12, atol=1e-12)


def test_attention_between_joints_is_normalised_over_those_that_hear() -> None:
    layer = JointAttention(3, 10, 2).double()
    x, text = numbers(2, 3, 4, 5), numbers(4, 10, seed=1)
    both = torch.stack([affine(layer.query_key, one) for one in text])  # (V, 2 * 4 heads * 2), the queries first
    expected = x.clone()
    for b in range(2):
        for t in range(5):
            values = torch.stack([affine(layer.value, x[b, :, u, t]) for u in range(4)])
            for hears in range(4):
                heard = []
                for head in range(4):
                    q, k = both[:, 2 * head : 2 * head + 2], both[:, 8 + 2 * head : 8 + 2 * head + 2]
                    total = torch.zeros(3, dtype=torch.float64)
                    for speaks in range(4):
                        scores = torch.exp(k @ q[speaks] / math.sqrt(2))
                        total += values[speaks] * scores[hears] / scores.sum()
                    heard.append(total)
                expected[b, :, hears, t] += affine(layer.out, torch.cat(heard))
    torch.testing.assert_close(layer(x, text), expected, rtol=1e-12, atol=1e-12)


def test_the_trees_of_the_graph() -> None:
    assert (diameter(tree(NTU25)), diameter(tree(LARA19)), diameter(tree(UCLA20))) == (11, 9, 10)
    links = {frozenset(pair) for pair in tree(NTU25).edges}
    assert len(links) == 24 and {frozenset((21, 7)), frozenset((22, 6)), frozenset((24, 10)), frozenset((23, 11))} < links
    assert frozenset((22, 7)) not in links and links - {frozenset(pair) for pair in NTU25.edges}
    assert len({frozenset(pair) for pair in tree(LARA19).edges}) == 18
    tables = disentangled_adjacency(tree(LARA19), 13).reshape(13, 19, 19)
    assert np.array_equal(tables[10], np.eye(19)) and not np.array_equal(
        tables[9], np.eye(19)
    )  # beyond the furthest: itself alone


@pytest.mark.parametrize("architecture", ["lasa", "dest_tcn"])
def test_padded_frames_may_hold_anything_but_their_number_counts(architecture: str) -> None:
    network = small(architecture=architecture).double().eval()
    features, mask = numbers(2, 6, 20, 12), torch.ones(2, 1, 12, dtype=torch.bool)
    mask[1, :, 8:] = False
    together = network(features, mask)
    features[1, ..., 8:] = 100.0
    noisy = network(features, mask)
    alone = network(features[1:, ..., :8], mask[1:, :, :8])
    for same, other, single in zip(
        together.classes + together.boundaries, noisy.classes + noisy.boundaries, alone.classes + alone.boundaries, strict=True
    ):
        assert torch.equal(same[0], other[0]) and torch.equal(same[1, :, :8], other[1, :, :8])
        assert not torch.allclose(same[1, :, :8], single[0], rtol=1e-9)  # as officially: see the README


def test_boundaries_are_masked_behind_the_first_stage_and_classes_hold_their_bias() -> None:
    network = small().double().eval()
    mask = torch.ones(1, 1, 12, dtype=torch.bool)
    mask[..., 8:] = False
    scores = network(numbers(1, 6, 20, 12), mask)
    assert torch.equal(scores.classes[0][0, :, 9], network.class_head.bias)
    assert torch.equal(scores.classes[1][0, :, 9], network.action_stages[0].leave.bias)
    assert scores.boundaries[0][..., 8:].all() and not any(one[..., 8:].any() for one in scores.boundaries[1:])


def test_later_action_stages_are_told_the_hidden_state_in_training_and_the_encoders_in_evaluation() -> None:
    network = without_dropout(small(action_stages=3)).double()
    assert [layer.alpha for stage in network.action_stages for layer in stage.layers] == [1.0] * 3 + [math.exp(-3)] * 3
    features, mask, told = numbers(2, 6, 20, 9), torch.ones(2, 1, 9, dtype=torch.bool), []
    network.action_stages[1].register_forward_pre_hook(lambda _, given: told.append(given[2]))
    network.action_stages[0].register_forward_hook(lambda module, given, found: told.append(found[1]))
    for training in (True, False):
        told.clear()
        network.train(training)(features, mask)
        hidden, given = told
        assert torch.equal(hidden, given) is training


def test_the_features_for_texts_are_of_every_stage() -> None:
    network = small(action_stages=3).eval()
    features, mask = torch.randn(2, 6, 20, 9), torch.ones(2, 1, 9, dtype=torch.bool)
    scores, told = network.with_text(features, mask)
    assert [tuple(one.shape) for one in (*told.actions, told.split)] == [(2, 512, 9)] * 4
    assert all(torch.equal(a, b) for a, b in zip(scores.classes, network(features, mask).classes, strict=True))


def test_dest_has_no_text_and_no_attention_and_the_published_size() -> None:
    network = LaSA(52, architecture="dest_tcn")
    assert sum(p.numel() for p in network.parameters()) == 785_714  # published: .786 M
    assert not any(isinstance(module, LinearAttention | JointAttention) for module in network.modules())
    assert all(type(layer) is DilatedLayer for layer in network.fusion.layers)
    assert [type(stage) for stage in (*network.action_stages, *network.boundary_stages)] == [Stage] * 3
    assert len(network.fusion.foci) == 9


def test_text_from_a_file_is_no_weight_and_changes_the_scores(tmp_path: Path) -> None:
    found = []
    for number in range(2):
        file = tmp_path / f"{number}.npy"
        np.save(file, np.random.default_rng(number).normal(size=(20, 12)))
        network = small(joint_text=str(file)).eval()
        assert "text" not in network.state_dict() and network.text_layer.in_features == 12
        found.append(network(torch.ones(1, 6, 20, 3), torch.ones(1, 1, 3, dtype=torch.bool)).classes[-1])
    assert not torch.allclose(*found)
    learned = small()
    assert learned.text.requires_grad and learned.state_dict()["text"].shape == (20, 512)


@pytest.mark.parametrize(
    "table",
    [np.zeros((19, 12)), np.zeros(20), np.zeros((20, 12), int), np.full((20, 12), np.nan), np.zeros((20, 0))],
    ids=["joints", "axes", "whole numbers", "nan", "empty"],
)
def test_a_wrong_table_of_texts_is_refused(tmp_path: Path, table: np.ndarray) -> None:
    file = tmp_path / "text.npy"
    np.save(file, table)
    with pytest.raises(DataError, match="no text embedding"):
        small(joint_text=str(file))


def test_a_file_that_is_no_table_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "text.npy"
    with pytest.raises(MissingInputError):
        small(joint_text=str(file))
    for content in (b"", b"words", b"\x93NUMPY"):
        file.write_bytes(content)
        with pytest.raises(DataError, match="cannot read"):
            small(joint_text=str(file))


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"architecture": "dest"}, "dest_tcn"),
        ({"architecture": "dest_tcn", "joint_text": "x.npy"}, "takes no text"),
        ({"width": 10}, "width"),
        ({"layers": 0}, "layers"),
        ({"boundary_stages": True}, "boundary_stages"),
        ({"focus": [4]}, "focus"),
        ({"focus": [1, 1]}, "focus"),
    ],
)
def test_settings_that_cannot_work_are_refused(given: dict[str, object], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        small(**given)


@pytest.mark.parametrize(
    ("features", "mask"),
    [((2, 6, 25, 5), (2, 1, 5)), ((2, 12, 20, 5), (2, 1, 5)), ((2, 6, 20, 5), (2, 1, 4)), ((2, 6, 20, 0), (2, 1, 0)),
     ((6, 20, 5), (1, 5))],
)  # fmt: skip
def test_other_shapes_are_refused(features: tuple[int, ...], mask: tuple[int, ...]) -> None:
    with pytest.raises(LabError, match="features of shape"):
        small()(torch.zeros(features), torch.ones(mask, dtype=torch.bool))


def test_no_focus_at_all() -> None:
    network = small(focus=[]).eval()
    assert not len(network.fusion.foci)
    assert network(torch.zeros(1, 6, 20, 3), torch.ones(1, 1, 3, dtype=torch.bool)).classes[-1].isfinite().all()


@pytest.mark.parametrize("architecture", ["lasa", "dest_tcn"])
@pytest.mark.parametrize("level", ["cheap", "blocks"])
def test_computing_again_gives_the_same_bits(architecture: str, level: str) -> None:
    features, mask = torch.randn(2, 6, 20, 11), torch.ones(2, 1, 11, dtype=torch.bool)
    mask[1, :, 7:] = False
    found = []
    for kept in ("none", level):
        network = small(architecture=architecture)
        torch.manual_seed(1)
        with recomputing(kept):  # type: ignore[arg-type]
            scores = network(features, mask)
        sum(one.square().sum() for one in scores.classes + scores.boundaries).backward()
        found.append({name: p.grad for name, p in network.named_parameters() if p.grad is not None})
    kept, again = found
    assert kept.keys() == again.keys() and all(torch.equal(kept[name], again[name]) for name in kept)
