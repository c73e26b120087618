"""The graph convolution of FreqMixFormer, keeping neither its graph nor its features for the backward pass.

Its graph differs from channel to channel: C x 3V x V entries for every person, up to five times as many as the output. But it
is the sum of a part that only depends on the person and one of four groups of channels, and a part that only depends on the
channel. Its features, three times as many as the output, are a 1x1 convolution of the input, which is kept anyway. So only the
parts and the input are kept, and the backward pass computes the rest again: a third less memory for a few percent of time.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


class GraphConvolution(torch.autograd.Function):
    """``out[b, c, w, t] = gate[b, c] sum_sv (maps[b, g(c), sv, w] + shared[c, sv, w]) value[b, c, sv, t]``, sums over subsets
    s and sending joints v, with ``value[b, c, s, v, t] = sum_k weight[c * S + s, k] x[b, k, v, t] + bias[c * S + s]``.

    x             (B, C_in, V, T)
    weight, bias  (C*S, C_in, 1, 1), (C*S,)
    maps          (B, G, S*V, V), group g of C/G neighbouring channels each
    shared        (C, S*V, V)
    gate          (B, C), greater than 0
    out           (B, C, V, T), in the dtype in which the convolution computes: under autocast a less precise one
    """

    @staticmethod
    def forward(  # noqa: PLR0917, an autograd function has no keywords
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, maps: Tensor, shared: Tensor, gate: Tensor
    ) -> Tensor:
        ctx.save_for_backward(x, weight, bias, maps, shared, gate)
        value = _per_channel(F.conv2d(x, weight, bias), shared)
        graph = _gated_graph(maps, shared, gate, value.dtype)
        return torch.bmm(graph.transpose(1, 2), value).view(*gate.shape, *x.shape[2:])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        *linear, maps, shared, gate = ctx.saved_tensors
        x, weight, bias = (tensor.to(grad.dtype) for tensor in linear)
        b, c = gate.shape
        value = F.conv2d(x, weight, bias)
        size = value.shape
        value, grad = _per_channel(value, shared), grad.reshape(b * c, *grad.shape[2:])
        # The gradient of the graph before the gate; with it, that of the gate needs neither the ungated graph nor the output.
        d_graph = torch.bmm(value, grad.transpose(1, 2))
        del value
        graph = _gated_graph(maps, shared, gate, grad.dtype)
        d_gate = torch.bmm(d_graph.view(b * c, 1, -1), graph.view(b * c, -1, 1)).view(b, c).to(gate.dtype) / gate
        d_value = torch.bmm(graph, grad).view(size)
        del graph
        d_graph = d_graph.view(b, *shared.shape).mul_(gate.to(grad.dtype).view(b, c, 1, 1))
        d_maps = d_graph.view(b, maps.shape[1], -1, *maps.shape[2:]).sum(2, dtype=maps.dtype)
        d_shared = d_graph.sum(0, dtype=shared.dtype)
        del d_graph
        d_linear = torch.ops.aten.convolution_backward(
            d_value, x, weight, [len(bias)], [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [True, True, True]
        )
        d_x, d_weight, d_bias = (d.to(tensor.dtype) for d, tensor in zip(d_linear, linear, strict=True))
        return d_x, d_weight, d_bias, d_maps, d_shared, d_gate


def _per_channel(value: Tensor, shared: Tensor) -> Tensor:
    """(B, C*S, V, T) as (B*C, S*V, T)."""
    return value.view(-1, shared.shape[1], value.shape[3])


def _gated_graph(maps: Tensor, shared: Tensor, gate: Tensor, dtype: torch.dtype) -> Tensor:
    """(B*C, S*V, V) in `dtype`."""
    b, groups, senders, joints = maps.shape
    graph = maps.to(dtype).unsqueeze(2) + shared.to(dtype).view(groups, -1, senders, joints)
    return graph.mul_(gate.to(dtype).view(b, groups, -1, 1, 1)).view(-1, senders, joints)
