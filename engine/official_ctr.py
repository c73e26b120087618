"""Where each entry of an official CTR-GCN block lives in `layers.ctr`, whichever official model it stands in."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from engine.official import Entry, affine, batch_norm
from layers.ctr import SUBSETS, Block, MultiScaleTemporalConv, RefinedGraphConv


def entries(official: str, ours: str, block: nn.Module) -> Iterator[Entry]:
    """Every entry of the official block called `official` ("l1"), in its order; ours is the `block` called `ours`."""
    assert isinstance(block, Block)
    yield from _graph(f"{official}.gcn1", f"{ours}.gcn", block.gcn)
    yield from _temporal(f"{official}.tcn1", f"{ours}.tcn", block.tcn)
    if isinstance(block.residual, nn.Sequential):
        yield from affine(f"{official}.residual.conv", f"{ours}.residual.0")
        yield from batch_norm(f"{official}.residual.bn", f"{ours}.residual.1")


def _graph(official: str, ours: str, gcn: RefinedGraphConv) -> Iterator[Entry]:
    _, c_out, r = gcn.refine.shape
    if isinstance(gcn.graph, nn.Parameter):
        yield Entry(f"{official}.PA", f"{ours}.graph")
    yield Entry(f"{official}.alpha", f"{ours}.alpha")
    for s in range(SUBSETS):
        yield from affine(f"{official}.convs.{s}.conv1", f"{ours}.relate", slice(s * r, (s + 1) * r))
        yield from affine(f"{official}.convs.{s}.conv2", f"{ours}.relate", slice((SUBSETS + s) * r, (SUBSETS + s + 1) * r))
        yield from affine(f"{official}.convs.{s}.conv3", f"{ours}.value", slice(s, None, SUBSETS))
        yield Entry(f"{official}.convs.{s}.conv4.weight", f"{ours}.refine", s, (c_out, r, 1, 1))
        yield Entry(f"{official}.convs.{s}.conv4.bias", f"{ours}.refine_bias", s)
    if isinstance(gcn.down, nn.Sequential):
        yield from affine(f"{official}.down.0", f"{ours}.down.0")
        yield from batch_norm(f"{official}.down.1", f"{ours}.down.1")
    yield from batch_norm(f"{official}.bn", f"{ours}.bn")


def _temporal(official: str, ours: str, tcn: MultiScaleTemporalConv) -> Iterator[Entry]:
    c = tcn.near.out_channels
    branch = [slice(i * c, (i + 1) * c) for i in range(4)]
    for i, rows in enumerate(branch[:3]):
        name = f"{official}.branches.{i}"
        yield from affine(f"{name}.0", f"{ours}.enter", rows)
        yield from batch_norm(f"{name}.1", f"{ours}.enter_bn", rows)
        if i < 2:
            yield from affine(f"{name}.3.conv", f"{ours}.{('near', 'far')[i]}", shape=(c, c, 5, 1))  # here (c, c, 1, 5)
        yield from batch_norm(f"{name}.{'3.bn' if i < 2 else '4'}", f"{ours}.bn", rows)
    yield from affine(f"{official}.branches.3.0", f"{ours}.skip")
    yield from batch_norm(f"{official}.branches.3.1", f"{ours}.bn", branch[3])
