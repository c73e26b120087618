"""The graph convolution over exact numbers of hops, of MS-G3D (Liu et al., CVPR 2020) and of what builds on it.

Nothing is unfolded and nothing is mixed that need not be: joints of all scales are the channels of an ordinary convolution over
time whose kernel is the graph, and where mixing channels first needs fewer operations, it comes first.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from layers.bias import before, move_mean
from layers.recompute import cheap, normalised

SCALES_AT_ONCE = 7  # that are gathered: half of the official 13, and all 6 of a window


class DisentangledConv(nn.Module):
    """Multi-scale graph convolution over the joints of W neighbouring frames (MS-G3D, sections 3.2 and 3.3).

    ``out = sum_k W_k x (A_k + R_k) + bias`` with the k-hop graph A_k and a learned R_k. Every joint of every frame of a window
    receives: the output has W*V tokens for each of the T' windows. Zeros stand for the frames before the first and after the
    last.

    graph   (K * W * V, W * V) float32, the A_k one below the other (`shared_data.skeletons.hops.disentangled_adjacency`)
    """

    def __init__(self, c_in: int, c_out: int, graph: Tensor, *, window: int = 1, stride: int = 1) -> None:
        super().__init__()
        scales, tokens = graph.shape[0] // graph.shape[1], graph.shape[1]
        self.scales, self.window, self.stride = scales, window, stride
        self.gathers_first = gathers_first(c_in, c_out, tokens // window, window, stride)
        self.widens = scales * c_in < c_out  # then the result costs more to keep than to compute again
        kernels = rearrange(graph, "(k r) (w v) -> k r v w", k=scales, w=window).contiguous()
        self.graph: Tensor
        self.register_buffer("graph", kernels, persistent=False)
        self.residual = nn.Parameter(torch.empty_like(kernels).uniform_(-1e-6, 1e-6))  # (K, W*V receiving tokens, V, W) as A_k
        bound = 1.0 / math.sqrt(scales * c_in)
        self.mix = nn.Parameter(torch.empty(c_out, scales, c_in).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(c_out).uniform_(-bound, bound))

    def forward(self, x: Tensor, bn: nn.Module | None = None) -> Tensor:
        """(B, C_in, V, T) -> (B, C_out, W*V, T'), tokens (frame, joint) with the joint fastest; `bn` comes next, if any."""
        mix, bias = before(bn, self.mix, self.bias)
        order = self.gather_then_mix if self.gathers_first else self.mix_then_gather
        return cheap(order, x, mix, bias) if self.widens else order(x, mix, bias)

    def activated(self, x: Tensor, bn: nn.Module) -> Tensor:
        """``relu(bn(self(x)))``."""
        y = normalised(bn, self(x, bn), F.relu_)
        move_mean(bn, self.bias)
        return y

    def gather_then_mix(self, x: Tensor, mix: Tensor, bias: Tensor | None) -> Tensor:
        """Each channel by itself: V joints -> K*W*V tokens; then C_in*K -> C_out channels."""
        groups = zip(self.kernels().split(SCALES_AT_ONCE), mix.split(SCALES_AT_ONCE, 1), strict=True)
        first, *others = (F.conv2d(cheap(self.gathered, x, some), rearrange(m, "o k c -> o (c k) 1 1")) for some, m in groups)
        for z in others:
            first = first.add_(z)
        return first if bias is None else first.add_(bias.view(-1, 1, 1))

    def mix_then_gather(self, x: Tensor, mix: Tensor, bias: Tensor | None) -> Tensor:
        """C_in -> C_out*K channels; then each channel of C_out by itself: K*V joints -> W*V tokens."""
        z = self.over_time(cheap(self.mixed, x, mix), rearrange(self.kernels(), "k r v w -> r (k v) 1 w"))
        z = z.reshape(x.shape[0], -1, self.window * x.shape[2], z.shape[3])
        return z if bias is None else z.add_(bias.view(-1, 1, 1))

    def gathered(self, x: Tensor, kernels: Tensor) -> Tensor:
        """(B, C_in, V, T) -> (B, C_in*k, W*V, T'), the scales of a channel in a row; `kernels` are those of k scales."""
        b, c, v, t = x.shape
        y = self.over_time(x.reshape(b * c, v, 1, t), kernels.reshape(-1, v, 1, self.window))
        return y.reshape(b, c * kernels.shape[0], self.window * v, -1)

    def mixed(self, x: Tensor, mix: Tensor) -> Tensor:
        """(B, C_in, V, T) -> (B*C_out, K*V, 1, T)."""
        y = F.conv2d(x, rearrange(mix, "o k c -> (o k) c 1 1"))
        return y.reshape(-1, self.scales * x.shape[2], 1, x.shape[3])

    def kernels(self) -> Tensor:
        """A_k + R_k."""
        return self.graph + self.residual

    def over_time(self, x: Tensor, kernels: Tensor) -> Tensor:
        """Joints are the channels, the frames of a window the extent of the kernel: (.., V, 1, T) -> (.., V', 1, T')."""
        if self.window == self.stride == 1:  # then batched products take half the time of a convolution
            return torch.bmm(kernels.view(1, -1, x.shape[1]).expand(x.shape[0], -1, -1), x.squeeze(2)).unsqueeze(2)
        return F.conv2d(x, kernels, stride=(1, self.stride), padding=(0, self.window // 2))


def gathers_first(c_in: int, c_out: int, joints: int, window: int, stride: int) -> bool:
    """Whether gathering joints before mixing channels needs no more multiply-adds than the other order.

    Per scale, joint and output frame: gathering takes ``W^2 V`` per channel gathered, mixing ``c_in c_out`` per frame mixed; the
    W frames of a window are mixed after the gathering, or the `stride` frames it moves on by before it.
    """
    gathering, mixing = window * window * joints, c_in * c_out
    return gathering * c_in + mixing * window <= mixing * stride + gathering * c_out
