"""MS-G3D: multi-scale disentangled graph convolutions over joints and over windows of frames (Liu et al., CVPR 2020).

Letters in the shapes: N clips, M people, B = N*M, C channels, T frames (T' after a stride), V joints, K scales (numbers of hops),
W frames of a window. To be read beside the paper.

The network is lean by construction: it computes the paper's formulas in another order, all of them exact identities.

1. The spatial graph convolution is the spatial-temporal one with a window of one frame: there is one class for both.
2. A window is never unfolded. Joints of all scales are the channels of an ordinary convolution over time whose kernel is the
   graph, W frames long: it pads with zeros and strides as the unfolded windows do.
3. Mixing channels and gathering joints commute. Where mixing first needs fewer operations (`gathers_first`), it runs on the
   T frames instead of on the T'*W frames of the windows.
4. The 1x1 convolutions that open the temporal branches are one convolution with one BatchNorm, and the BatchNorms that end
   the branches are one: BatchNorm works channel by channel.
5. A sum over scales is one of sums over some of the scales: the widest tensor, K times the input, is there in two parts.
6. A bias in front of a BatchNorm moves its running mean and nothing else: in training no kernel adds it (`layers/bias.py`).

What costs little to compute again is marked `cheap`, so that a training step may let go of it (`layers/recompute.py`): what lies
between gathering and mixing; graph convolutions that widen, those of the three coordinates; the 1x1 convolutions that open the
temporal branches; all that BatchNorms, ReLUs, sums and pools make. Left are the windows' graph convolutions and the collapsed
windows, the branches side by side, and the residuals that change width.

Activations are (B, C, V, T) inside, time innermost: every change between "channels" and "joints as channels" is then a view.
`official.py` tells where each entry of an official checkpoint lives in the joined parameters.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn

from layers.bias import convolved, move_mean
from layers.convolution import conv_bn, peaks, relu_of_parts, relu_of_sum
from layers.disentangled import DisentangledConv
from layers.recompute import cheap, normalised, segment
from shared_data.errors import LabError, require
from shared_data.skeletons import Skeleton
from shared_data.skeletons import skeleton as skeleton_named
from shared_data.skeletons.hops import diameter, disentangled_adjacency

BRANCHES = 6  # of a multi-scale temporal convolution
DILATIONS = (1, 2, 3, 4)


class WindowPath(nn.Module):
    """G3D over windows of W frames: graph convolution, then the W frames of each window collapse into one (section 3.3).

    The BatchNorm between them sees a frame once for each window that it is in, and the zeros beyond both ends, as officially.
    """

    def __init__(self, c_in: int, c_out: int, skeleton: Skeleton, scales: int, *, window: int, stride: int) -> None:
        super().__init__()
        inner = c_out if c_in == 3 else c_in  # officially it is the three coordinates that widen at once, no other number
        self.graph = DisentangledConv(c_in, inner, hops(skeleton, scales, window), window=window, stride=stride)
        self.graph_bn = nn.BatchNorm2d(inner)
        self.collapse = nn.Conv2d(inner * window, c_out, 1)  # channel c*W + w: channel c of the window's frame w
        self.bn = nn.BatchNorm2d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, V, T) -> (B, C_out, V, T')."""
        b, _, v, _ = x.shape
        tokens = self.graph.activated(x, self.graph_bn)
        y = convolved(self.collapse, tokens.reshape(b, -1, v, tokens.shape[3]), self.bn)
        y = normalised(self.bn, y)
        move_mean(self.bn, self.collapse)
        return y


class MultiScaleTemporalConv(nn.Module):
    """Six parallel branches over time, C/6 channels each: kernel 3 dilated by 1, 2, 3, 4; max pool 3; 1x1 (section 3.4).

    `enter` opens the first five (1x1 convolution, BatchNorm, ReLU), `skip` is the sixth, `bn` ends all six. ReLU follows the sum
    with a residual and with whatever else is added.
    """

    def __init__(self, c_in: int, c_out: int, *, stride: int = 1) -> None:
        super().__init__()
        c = c_out // BRANCHES
        self.stride = stride
        self.enter = nn.Conv2d(c_in, (BRANCHES - 1) * c, 1)
        self.enter_bn = nn.BatchNorm2d((BRANCHES - 1) * c)
        self.dilated = nn.ModuleList(
            nn.Conv2d(c, c, (1, 3), stride=(1, stride), padding=(0, d), dilation=(1, d)) for d in DILATIONS
        )
        self.skip = nn.Conv2d(c_in, c, 1, stride=(1, stride))
        self.bn = nn.BatchNorm2d(c_out)
        self.residual: nn.Module = nn.Identity()
        if c_in != c_out or stride != 1:
            self.residual = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride=(1, stride)), nn.BatchNorm2d(c_out))

    def forward(self, x: Tensor, *more: Tensor) -> Tensor:
        """(B, C_in, V, T) -> (B, C_out, V, T'); `more` has the shape of the result."""
        *parts, peak = conv_bn(self.enter, self.enter_bn, x, relu_of_parts(BRANCHES - 1))
        branches = [convolved(conv, part, self.bn) for conv, part in zip(self.dilated, parts, strict=True)]
        branches.append(cheap(peaks, peak, 3, self.stride)[0])
        branches.append(convolved(self.skip, x, self.bn))
        residual = x
        if isinstance(self.residual, nn.Sequential):
            residual = conv_bn(*self.residual, x)
        y = normalised(self.bn, torch.cat(branches, 1), relu_of_sum, residual, *more)
        move_mean(self.bn, *self.dilated, None, self.skip)
        return y


class Stage(nn.Module):
    """One STGC block: the factorised path plus the window paths, ReLU, one more temporal convolution (section 3.4)."""

    def __init__(
        self,
        c_in: int,
        c_graph: int,
        c_out: int,
        skeleton: Skeleton,
        *,
        scales: tuple[int, int],
        windows: Sequence[int],
        stride: int,
    ) -> None:
        """`scales`: K of the factorised path, and of the window paths."""
        super().__init__()
        self.windows = nn.ModuleList(
            WindowPath(c_in, c_out, skeleton, scales[1], window=window, stride=stride) for window in windows
        )
        self.factorised = nn.Sequential(
            DisentangledConv(c_in, c_graph, hops(skeleton, scales[0])),
            nn.BatchNorm2d(c_graph),
            nn.ReLU(inplace=True),
            MultiScaleTemporalConv(c_graph, c_out, stride=stride),
            MultiScaleTemporalConv(c_out, c_out),
        )
        self.temporal = MultiScaleTemporalConv(c_out, c_out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, V, T) -> (B, C_out, V, T')."""
        graph, bn, _, first, second = self.factorised
        y = first(graph.activated(x, bn))
        return self.temporal(second(y, *(path(x) for path in self.windows)))


class MSG3D(nn.Module):
    """Skeleton clips to class scores.

    num_classes  K
    skeleton     joint layout, by name or as an object: V and the edges of the graph
    people       M of the clips; absent people are zero and are averaged in, as officially
    gcn_scales   scales of the spatial graph convolutions (official: 13 for ntu25, 8 for kinetics18); default: all hops there are
    g3d_scales   scales of the window paths (official: 6 and 8); default: 6, or all hops where there are fewer
    windows      frames of the window paths, odd numbers
    width        channels of the first stage, a multiple of 6; the next ones have twice and four times as many
    in_channels  coordinates per joint (3)
    """

    def __init__(
        self,
        num_classes: int,
        *,
        skeleton: str | Skeleton = "ntu25",
        people: int = 2,
        gcn_scales: int | None = None,
        g3d_scales: int | None = None,
        windows: Sequence[int] = (3, 5),
        width: int = 96,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        layout = skeleton_named(skeleton) if isinstance(skeleton, str) else skeleton
        every_hop = diameter(layout) + 1
        scales = (
            every_hop if gcn_scales is None else gcn_scales,
            min(6, every_hop) if g3d_scales is None else g3d_scales,
        )
        for name, value in zip(("gcn_scales", "g3d_scales"), scales, strict=True):
            require(_whole(value), name, value, "a whole number from 1")
        odd = isinstance(windows, Sequence) and not isinstance(windows, str) and all(_whole(w) and w % 2 for w in windows)
        require(odd, "windows", windows, "a list of odd numbers of frames, such as [3, 5]: a window has a middle frame")
        require(_whole(width) and width % BRANCHES == 0, "width", width, "a multiple of 6, for the six branches over time")
        self.people, self.joints, self.in_channels = people, layout.joints, in_channels
        self.data_bn = nn.BatchNorm1d(people * layout.joints * in_channels)
        plan = ((in_channels, width, width, 1), (width, width, 2 * width, 2), (2 * width, 2 * width, 4 * width, 2))
        self.stages = nn.Sequential(
            *(
                Stage(c_in, c_graph, c_out, layout, scales=scales, windows=windows, stride=stride)
                for c_in, c_graph, c_out, stride in plan
            )
        )
        self.fc = nn.Linear(4 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Clips (N, C, T, V, M) to logits (N, K). Raises `LabError` for another shape."""
        if x.dim() != 5 or (x.shape[1], *x.shape[3:]) != (self.in_channels, self.joints, self.people) or not x.shape[2]:
            raise LabError(
                f"MS-G3D was given clips of shape {tuple(x.shape)}",
                expected=f"(N, {self.in_channels}, T, {self.joints}, {self.people}): coordinates, frames, joints, people",
                next_step="build the model for the skeleton and the people of the data",
            )
        n, _, _, v, m = x.shape
        x = self.data_bn(rearrange(x, "n c t v m -> n (m v c) t"))
        x = rearrange(x, "n (m v c) t -> (n m) c v t", m=m, v=v)
        for stage in self.stages:
            x = segment(stage, x)
        x = x.mean((2, 3))
        return self.fc(x.view(n, m, -1).mean(1))


def hops(skeleton: Skeleton, scales: int, window: int = 1) -> Tensor:
    """The fixed graphs of a `DisentangledConv`."""
    return torch.tensor(disentangled_adjacency(skeleton, scales, window))


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
