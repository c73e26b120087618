"""Partitions, their relative bias and their attention, against the index formulas of the specification."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from models.skateformer.attention import (
    NEAR_JOINTS,
    Cut,
    Join,
    PartitionedAttention,
    Pieces,
    RelativeBias,
    relative_biases,
    windows,
)
from tests.models.skateformer.naive import NaiveAttention, token_grid

NTU = ((8, 8), (8, 12), (8, 8), (8, 12))
UCLA = ((8, 4), (8, 5), (8, 4), (8, 5))


@pytest.mark.parametrize("frames", [64, 32, 16, 8])
@pytest.mark.parametrize(("points", "sizes"), [(48, NTU), (20, UCLA)])
def test_partitions_are_those_of_the_formulas(frames: int, points: int, sizes: tuple[tuple[int, int], ...]) -> None:
    tokens = torch.arange(frames * points).view(1, frames, points, 1)
    for kind, size in enumerate(sizes):
        cut = windows(tokens, kind, size)
        assert cut.shape == (1, frames // size[0], points // size[1], *size, 1)
        assert torch.equal(cut.reshape(-1, size[0] * size[1]), token_grid(kind, size, frames, points))


def test_near_and_far_kinds_coincide_where_a_window_has_all_frames() -> None:
    tokens = torch.arange(8 * 48).view(1, 8, 48, 1)
    assert torch.equal(windows(tokens, 0, (8, 8)), windows(tokens, 2, (8, 8)))
    assert not torch.equal(windows(tokens, 0, (8, 8)), windows(tokens, 3, (8, 8)))


@pytest.mark.parametrize("size", [(8, 8), (8, 4), (4, 6)])
def test_bias_of_near_joints_counts_tokens_modulo_a(size: tuple[int, int]) -> None:
    a, b = size
    tables = torch.randn(6, 2 * a - 1, 4)
    parts = relative_biases(tables, size, 3, near_joints=True)
    assert [part.shape for part in parts] == [(8, a * b, a * b)] * 3
    made = parts[1][4:]
    for p in range(0, a * b, 3):
        for q in range(a * b):
            assert torch.equal(made[:, p, q], tables[3, p % a - q % a + a - 1])
    frame = torch.arange(a * b) // b
    intended = tables[3, frame[:, None] - frame[None, :] + a - 1].permute(2, 0, 1)
    assert not torch.allclose(made, intended)


def test_bias_of_far_joints() -> None:
    tables = torch.randn(2, 7, 3, 3, 2)
    for table, made in zip(tables, relative_biases(tables, (4, 3), 2, near_joints=False), strict=True):
        for p in range(12):
            for q in range(12):
                assert torch.equal(made[:, p, q], table[p // 3 - q // 3 + 3, p % 3, q % 3])


def test_a_loaded_index_is_kept_but_not_read() -> None:
    bias = RelativeBias((8, 8), 4, near_joints=True)
    assert bias.index[5, 2] == 5 - 2 + 7 and bias.index.dtype == torch.int64
    bias.load_state_dict({"table": bias.table.detach().clone(), "index": torch.zeros(8, 8, dtype=torch.int64)})
    assert not bias.index.any()


def pieces_of(sizes: tuple[tuple[int, int], ...], heads: int, width: int, rows: int) -> Pieces:
    return Pieces(sizes, graphs=2, heads=heads, width=width, rows=rows)


@pytest.mark.parametrize(
    ("sizes", "width", "spare", "points"),
    [(NTU, 3, 0, 48), (NTU, 3, 5, 48), (UCLA, 6, 2, 20), (((8, 4), (8, 4), (4, 2), (2, 5)), 3, 1, 20)],
)
@pytest.mark.parametrize("rows", [1, 3])
def test_cut_and_join_are_each_others_way_back_and_gradient(
    sizes: tuple[tuple[int, int], ...], width: int, spare: int, points: int, rows: int
) -> None:
    pieces = pieces_of(sizes, 2, width, rows)
    grid = torch.randn(2, 16, points, 2 * 6 + pieces.attended, dtype=torch.float64)
    cut = pieces.cut(grid, spare)
    assert torch.equal(pieces.join(cut), grid)
    assert sum(piece.numel() for piece in cut) == grid.numel() + sum(p.numel() * spare // (width + spare) for p in cut[2:])
    assert all(not piece[..., width:].any() for piece in cut[2:])
    # both are linear and rearrange: <cut(x), y> = <x, join(y)> is all that their gradients have to say
    x, others = grid.clone().requires_grad_(), [torch.randn_like(piece) for piece in cut]
    torch.autograd.backward(Cut.apply(pieces, spare, x), others)
    assert torch.equal(x.grad, pieces.join(others))
    given = [piece.clone().requires_grad_() for piece in others]
    Join.apply(pieces, spare, *given).backward(grid)
    assert all(torch.equal(one.grad, two) for one, two in zip(given, cut, strict=True))


@torch.no_grad()
def attended(sizes: tuple[tuple[int, int], ...], width: int, spare: int, frames: int, points: int) -> tuple[list, list]:
    """Outputs of the fused attention on rows filled up by `spare` zeros, and of the slow one, kind by kind."""
    torch.manual_seed(3)
    heads = 4
    fused = PartitionedAttention(heads, sizes, relative=True, dropout=0.5).double().eval()
    qkv = 2 * torch.randn(2, frames, points, 4, 3, heads, width, dtype=torch.float64)
    slow = []
    for kind, size in enumerate(sizes):
        naive = NaiveAttention(kind, size, heads, True).double()
        table = torch.randn_like(naive.relative_position_bias_table)
        naive.relative_position_bias_table.data.copy_(table)
        fused.bias[kind].table.data.copy_(table)
        slow.append(naive(qkv[:, :, :, kind].flatten(3)))
    given, found = (pieces_of(sizes, heads, width, rows) for rows in (3, 1))
    graph, temporal, *rows = given.cut(F.pad(qkv.flatten(3), (12, 0)), spare)
    biases = [
        relative_biases([fused.bias[kind].table for kind in kinds], size, 1, near_joints=NEAR_JOINTS[kinds[0]])[0]
        for size, kinds in given.groups()
    ]
    joined = found.join([graph, temporal, *fused(rows, biases)])
    return list(joined[..., 12:].chunk(4, -1)), slow


@pytest.mark.parametrize(
    ("sizes", "width", "spare", "points"),
    [(NTU, 3, 0, 48), (NTU, 3, 5, 48), (UCLA, 6, 2, 20), (((8, 4), (8, 4), (4, 2), (2, 5)), 3, 1, 20)],
)
def test_fused_attention_equals_the_explicit_one(
    sizes: tuple[tuple[int, int], ...], width: int, spare: int, points: int
) -> None:  # fmt: skip
    fused, slow = attended(sizes, width, spare, 16, points)
    for one, two in zip(fused, slow, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-10)


def test_attention_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    attention = PartitionedAttention(2, NTU, relative=False, dropout=0.5)
    _, _, *rows = pieces_of(NTU, 2, 3, 3).cut(torch.randn(1, 8, 48, 4 * 3 * 2 * 3), 0)
    one, two = attention.train()(rows, [])[0], attention(rows, [])[0]
    assert not torch.equal(one, two)
    mean = torch.stack([attention(rows, [])[0] for _ in range(100)]).mean(0)
    plain = attention.eval()(rows, [])[0]
    assert torch.equal(plain, attention(rows, [])[0])
    assert float((mean - plain).norm() / plain.norm()) < 0.2  # its rate is 1/2 and the rest is doubled: the same on average
    attention.train().dropout.p = 0.0
    assert torch.allclose(attention(rows, [])[0], plain, atol=1e-6)
