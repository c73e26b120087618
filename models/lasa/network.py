"""LaSA and DeST: a class and a boundary for every frame of a skeleton sequence of any length.

Letters in the shapes: B sequences, T frames of the longest, V joints, C' = people x channels, d the width (64), K classes, D the
width of a text (512). `mask` (B, 1, T) says which frames are there: a sequence gets other scores in a padded batch than alone,
officially, because BatchNorm, the attention over frames and the spatial focus count padded frames.

LaSA (Ji et al., ECCV 2024) is DeST (Li et al., 2023: a decoupled spatio-temporal framework) whose joints are described: the
attention between joints comes from the text of their descriptions alone.

    spatial scales -> [attention between joints] -> fusion over ten frames' layers -> class head, boundary head
                                                                              |-> action stage(s) on the classes
                                                                              |-> boundary stages on the boundaries

"lasa" is the published graph, exactly; `official.py` says where each entry of its checkpoints lives. "dest_tcn" is this
project's reconstruction of DeST with plain temporal convolutions: no text, and the plain dilated layer wherever LaSA has one with
attention. It has the published number of parameters; nobody has compared its numbers with official ones.

What costs little to compute again is marked `cheap` and every layer is a segment (`layers/recompute.py`). Activations with joints
are (B, C, V, T), time innermost: gathering joints is then a product of matrices, and nothing is transposed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from engine.segmentation.scores import FrameScores
from layers.dilated import DilatedLayer, Stage
from layers.disentangled import DisentangledConv
from layers.recompute import cheap, segment
from models.lasa.layouts import tree
from shared_data.errors import DataError, LabError, MissingInputError, UsageError, require, require_known
from shared_data.skeletons import Skeleton
from shared_data.skeletons import skeleton as skeleton_named
from shared_data.skeletons.hops import disentangled_adjacency

ARCHITECTURES = ("lasa", "dest_tcn")
HEADS = 4  # of every attention
TEXT = 512  # numbers of a text in CLIP's ViT-B/32 and ViT-B/16, and of the features that are held against texts
TEMPERATURE = math.log(1 / 0.07)


class SpatialScales(nn.Module):
    """A graph convolution over 0, 1, ... hops (SP), BatchNorm, ReLU. Padded frames are 0 afterwards; its statistics see them."""

    def __init__(self, c_in: int, width: int, layout: Skeleton, scales: int) -> None:
        super().__init__()
        self.graph = DisentangledConv(c_in, width, torch.tensor(disentangled_adjacency(layout, scales)))
        self.bn = nn.BatchNorm2d(width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, C', V, T) -> (B, d, V, T)."""
        return self.graph.activated(x, self.bn) * mask.unsqueeze(2)


class JointAttention(nn.Module):
    """x + attention between joints whose weights come from their texts alone: the same for every sequence and frame.

    A joint's weights add to 1 over the joints that hear it, not over those that it hears. All heads share the values.
    """

    def __init__(self, width: int, text: int, head_width: int) -> None:
        super().__init__()
        self.query_key = nn.Linear(text, 2 * HEADS * head_width)
        self.value = nn.Conv2d(width, width, 1)
        self.out = nn.Conv2d(HEADS * width, width, 1)  # its input channels are (head, channel), the channel fastest

    def weights(self, text: Tensor) -> Tensor:
        """(V, D) -> (heads, V that speak, V that hear)."""
        queries, keys = rearrange(self.query_key(text), "v (two h c) -> two h v c", two=2, h=HEADS)
        return torch.softmax(queries @ keys.mT / math.sqrt(queries.shape[-1]), -1)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        """x (B, d, V, T), text (V, D) -> (B, d, V, T)."""
        heard = cheap(self.heard, x, self.weights(text))
        mix = rearrange(self.out.weight, "o (h c) 1 1 -> o (c h) 1 1", h=HEADS)
        return x + F.conv2d(heard, mix, self.out.bias)

    def heard(self, x: Tensor, weights: Tensor) -> Tensor:
        """(B, d, V, T) -> (B, d * heads, V, T), the heads of a channel in a row."""
        gather = rearrange(weights, "h u v -> (h v) u")
        b, _, v, t = x.shape
        return (gather @ self.value(x)).reshape(b, -1, v, t)


class Focus(nn.Module):
    """Spatial focus (SFI): frames' channels gather from each other what a map of the joints says they share."""

    def __init__(self, width: int, joints: int, *, dropout: float = 0.3) -> None:
        super().__init__()
        self.joints = nn.Conv1d(joints, width, 1)
        self.fc1, self.fc2, self.dropout = nn.Linear(width, width), nn.Linear(width, width), nn.Dropout(dropout)

    def forward(self, joints: Tensor, h: Tensor, mask: Tensor) -> Tensor:
        """joints (B, V, T), h (B, d, T), mask (B, 1, T) -> (B, d, T). T, padding and all, divides the scores."""
        scores = self.joints(joints) @ h.mT / h.shape[-1]
        shared = torch.softmax(scores, -1) @ h + h
        hidden = self.dropout(cheap(F.gelu, self.fc1(shared.mT)))
        return (self.fc2(hidden).mT + h) * mask


class LinearAttention(nn.Module):
    """Attention of all frames to all frames in time linear in their number: the kernel is the product of sigmoids.

    Padded frames speak as well; they hear nothing.
    """

    def __init__(self, width: int, *, dropout: float = 0.05) -> None:
        super().__init__()
        self.query_key, self.value = nn.Conv1d(width, 2 * width, 1), nn.Conv1d(width, width, 1)
        self.out, self.dropout = nn.Conv1d(width, width, 1), nn.Dropout(dropout)

    def forward(self, x: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """x that asks and is asked, what is told: (B, d, T) both -> (B, d, T)."""
        both = cheap(torch.sigmoid, self.query_key(x))
        queries, keys = both.unflatten(1, (2, HEADS, -1)).unbind(1)  # (B, heads, d / heads, T)
        told = keys @ self.value(values).unflatten(1, (HEADS, -1)).mT
        weight = (queries * (keys.sum(-1, keepdim=True) + 1e-6)).sum(2, keepdim=True)
        heard = (told.mT @ queries / weight).flatten(1, 2)
        return self.dropout(self.out(heard)) * mask


class AttentionLayer(nn.Module):
    """Dilated convolution, ReLU, then linear attention on top of the normalised result, 1x1, and the input added.

    alpha   how much of the attention counts
    """

    def __init__(self, width: int, dilation: int, *, alpha: float = 1.0, dropout: float = 0.5) -> None:
        super().__init__()
        self.alpha = alpha
        self.dilated = nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation)
        self.attention = LinearAttention(width)
        self.mix, self.dropout = nn.Conv1d(width, width, 1), nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor, encoded: Tensor | None = None) -> Tensor:
        """(B, d, T) -> (B, d, T). What is told is `encoded` (B, d, T), or the frames themselves."""
        o = cheap(torch.relu, self.dilated(x))
        n = cheap(over_frames, o)
        o = o + self.alpha * self.attention(n, n if encoded is None else encoded, mask)
        out: Tensor = (x + self.dropout(self.mix(o))) * mask
        return out


def over_frames(x: Tensor) -> Tensor:
    """Each channel of each sequence with mean 0 and variance 1 over all its frames, padded ones too; (B, C, T).

    What InstanceNorm1d without weights does, but also for one frame, whose result is 0.
    """
    return F.layer_norm(x, x.shape[-1:])


class Fusion(nn.Module):
    """Joints to frames (STI): one map of the joints opens the frames' layers, the others focus in front of some of them.

    layers   the frames' layers, called with (h, mask)
    focus    numbers of the layers, from 0, that have a focus in front
    text     numbers of a joint's text, which is added to the maps; 0 where there is none
    """

    def __init__(self, width: int, joints: int, layers: Sequence[nn.Module], focus: Sequence[int], text: int) -> None:
        super().__init__()
        self.focus = tuple(focus)
        maps = len(self.focus) + 1
        self.dropout = nn.Dropout2d(0.3)
        self.maps = nn.Conv2d(width, maps, 1)
        self.enter = nn.Conv1d(joints, width, 1)
        self.foci = nn.ModuleList(Focus(width, joints) for _ in self.focus)
        self.layers = nn.ModuleList(layers)
        self.leave = nn.Conv1d(width, width, 1)
        if text:
            self.text, self.text_scale = nn.Linear(text, maps), nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor, mask: Tensor, *text: Tensor) -> Tensor:
        """x (B, d, V, T), mask (B, 1, T), and (V, D) where there is text -> (B, d, T)."""
        maps = self.maps(self.dropout(x))
        if text:
            maps = maps + self.text(*text).mT.unsqueeze(-1) * self.text_scale
        *joints, first = maps.unbind(1)
        h = self.enter(first)
        foci = iter(zip(self.foci, joints, strict=True))
        for number, layer in enumerate(self.layers):
            if number in self.focus:
                focus, seen = next(foci)
                h = segment(focus, seen, h, mask)
            h = segment(layer, h, mask)
        out: Tensor = self.leave(h) * mask
        return out


class Decoder(nn.Module):
    """An action stage (ASB) of LaSA: class probabilities through layers whose attention tells what the encoder saw."""

    def __init__(self, num_classes: int, width: int, layers: int, alpha: float) -> None:
        super().__init__()
        self.enter = nn.Conv1d(num_classes, width, 1)
        self.layers = nn.ModuleList(AttentionLayer(width, 2**i, alpha=alpha) for i in range(layers))
        self.leave = nn.Conv1d(width, num_classes, 1)

    def forward(self, probabilities: Tensor, mask: Tensor, encoded: Tensor) -> tuple[Tensor, Tensor]:
        """(B, K, T), (B, 1, T), (B, d, T) -> scores (B, K, T), which are not masked, and the last hidden state (B, d, T)."""
        h = self.enter(probabilities)
        for layer in self.layers:
            h = segment(layer, h, mask, encoded)
        return self.leave(h), h


@dataclass(frozen=True)
class TextFeatures:
    """What LaSA's losses hold against texts, of every frame, (B, 512, T) each; padded frames are not masked.

    actions   of the encoder, then of each action stage
    split     of the encoder, for pairs of neighbouring actions
    """

    actions: tuple[Tensor, ...]
    split: Tensor


class LaSA(nn.Module):
    """Features of frames (B, C', V, T) to class and boundary scores of every frame.

    num_classes      K, background among them
    skeleton         joint layout, by name or as an object: V and the tree of the graph (`layouts.py`)
    people           C' is people x in_channels
    in_channels      channels of a joint of one person: 6 are 3 of its motion and 3 of its place (`shared_data/pipelines/lasa.py`)
    architecture     "lasa", or "dest_tcn": without text, and with plain dilated layers
    joint_text       .npy file with an embedding of each joint's description, (V, D): officially of CLIP's frozen text tower. It
                     is not part of the weights, so it is needed wherever they are. "": an embedding (V, 512) that is learned,
                     which is this project's own and part of the weights
    width, layers, refine_layers   d; layers of the fusion; layers of each stage
    focus            numbers of the fusion's layers, from 0, with a spatial focus in front; None: all but the first
    action_stages, boundary_stages   how many stages of each, the heads' own first: 2 is one refinement
    scales           numbers of hops of the graph
    head_width       queries and keys of a head of the attention between joints

    The losses against texts are not here; what they need is (`with_text`), so that official checkpoints find all their entries.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        skeleton: str | Skeleton = "pku25",
        people: int = 2,
        in_channels: int = 6,
        architecture: str = "lasa",
        joint_text: str = "",
        width: int = 64,
        layers: int = 10,
        refine_layers: int = 10,
        focus: Sequence[int] | None = None,
        action_stages: int = 2,
        boundary_stages: int = 3,
        scales: int = 13,
        head_width: int = 32,
    ) -> None:
        super().__init__()
        layout = tree(skeleton_named(skeleton) if isinstance(skeleton, str) else skeleton)
        require_known("architecture", architecture, ARCHITECTURES)
        wide = {"width": width, "layers": layers, "refine_layers": refine_layers, "scales": scales, "head_width": head_width}
        for name, value in {**wide, "action_stages": action_stages, "boundary_stages": boundary_stages}.items():
            require(_whole(value), name, value, "a whole number from 1")
        require(width % HEADS == 0, "width", width, f"a multiple of {HEADS}, for the heads of the attention")
        chosen = range(1, layers) if focus is None else focus
        known = isinstance(chosen, Sequence) and not isinstance(chosen, str) and len({*chosen}) == len(chosen)
        require(known and {*chosen} <= {*range(layers)}, "focus", focus, f"different numbers of layers, 0 to {layers - 1}")
        self.people, self.joints, self.channels = people, layout.joints, people * in_channels
        self.with_attention = architecture == "lasa"
        if joint_text and not self.with_attention:
            raise UsageError(f"{architecture} takes no text", where="model_args: joint_text", expected="architecture lasa")

        self.spatial = SpatialScales(self.channels, width, layout, scales)
        text_width = 0
        if self.with_attention:
            text_width = self._take_text(joint_text)
            self.text_layer = nn.Linear(text_width, text_width)
            self.joint_attention = JointAttention(width, text_width, head_width)
        layer = AttentionLayer if self.with_attention else DilatedLayer
        of_fusion = [layer(width, 2**i) for i in range(layers)]
        self.fusion = Fusion(width, layout.joints, of_fusion, sorted(chosen), text_width)
        self.class_head, self.boundary_head = nn.Conv1d(width, num_classes, 1), nn.Conv1d(width, 1, 1)
        later = range(action_stages - 1)
        if self.with_attention:
            self.text_heads = nn.ModuleList(nn.Conv1d(width, TEXT, 1) for _ in range(action_stages))
            self.split_head = nn.Conv1d(width, TEXT, 1)
            self.logit_scale = nn.Parameter(torch.full((2,), TEMPERATURE))  # of the losses against texts
            self.action_stages = nn.ModuleList(Decoder(num_classes, width, refine_layers, math.exp(-3.0 * s)) for s in later)
        else:
            self.action_stages = nn.ModuleList(Stage(num_classes, num_classes, width=width, layers=refine_layers) for _ in later)
        masked = not self.with_attention  # officially the probabilities of padded frames go in
        self.boundary_stages = nn.ModuleList(
            Stage(1, 1, width=width, layers=refine_layers, entry_masked=masked) for _ in range(boundary_stages - 1)
        )

    def forward(self, features: Tensor, mask: Tensor) -> FrameScores:
        """features (B, C', V, T), 0 where padded; mask (B, 1, T) bool. Raises `LabError` for other shapes."""
        encoded = self._encoded(features, mask)
        classes, _ = self._classes(encoded, mask)
        return FrameScores(classes, self._boundaries(encoded, mask))

    def with_text(self, features: Tensor, mask: Tensor) -> tuple[FrameScores, TextFeatures]:
        """`forward`, and what the losses against texts need; "lasa" only."""
        encoded = self._encoded(features, mask)
        classes, hidden = self._classes(encoded, mask)
        told = tuple(head(h) for head, h in zip(self.text_heads, (encoded, *hidden), strict=True))
        return FrameScores(classes, self._boundaries(encoded, mask)), TextFeatures(told, self.split_head(encoded))

    def _encoded(self, features: Tensor, mask: Tensor) -> Tensor:
        """(B, C', V, T) -> (B, d, T), 0 where padded."""
        wanted = (self.channels, self.joints)
        fits = features.dim() == 4 and features.shape[1:3] == wanted and features.shape[3]
        if not fits or mask.shape != (len(features), 1, features.shape[3]):
            raise LabError(
                f"LaSA was given features of shape {tuple(features.shape)} and a mask of shape {tuple(mask.shape)}",
                expected=f"(B, {wanted[0]}, {wanted[1]}, T): channels of {self.people} people, a frame or more; and (B, 1, T)",
                next_step="build the model for the skeleton, the people and the channels of the data",
            )
        x = segment(self.spatial, features, mask)
        if not self.with_attention:
            return self.fusion(x, mask)  # type: ignore[no-any-return]
        text = self.text_layer(self.text)
        x = segment(self.joint_attention, x, text)
        return self.fusion(x, mask, text)  # type: ignore[no-any-return]

    def _classes(self, encoded: Tensor, mask: Tensor) -> tuple[tuple[Tensor, ...], list[Tensor]]:
        """The class scores of each stage, and the last hidden states of LaSA's refinements.

        In training a refinement's hidden state is what the next one is told; in evaluation all are told the encoder's.
        """
        scores, hidden, told = [self.class_head(encoded)], [], encoded
        for stage in self.action_stages:
            probabilities = torch.softmax(scores[-1], 1) * mask
            if isinstance(stage, Decoder):
                refined, last = stage(probabilities, mask, told)
                hidden.append(last)
                told = last if self.training else told
            else:
                refined = stage(probabilities, mask)
            scores.append(refined)
        return tuple(scores), hidden

    def _boundaries(self, encoded: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        scores = [self.boundary_head(encoded)]
        for stage in self.boundary_stages:
            scores.append(stage(torch.sigmoid(scores[-1]), mask) * mask)
        return tuple(scores)

    def _take_text(self, path: str) -> int:
        """The joints' text: what the file holds, or an embedding to be learned. Returns the length of a text."""
        if not path:
            self.text = nn.Parameter(torch.randn(self.joints, TEXT) / math.sqrt(TEXT))
            return TEXT
        found = _read_text(Path(path), self.joints)
        self.register_buffer("text", found, persistent=False)
        return found.shape[1]


def _read_text(path: Path, joints: int) -> Tensor:
    """(V, D) float32. Raises `MissingInputError`, and `DataError` for what is no such table."""
    try:
        table = np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise MissingInputError(
            "the joints' text embedding is not there", where=f"model_args: joint_text {path}", expected="a .npy file"
        ) from error
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"cannot read the joints' text embedding: {error}", where=str(path), expected="a .npy file") from error
    sound = (
        isinstance(table, np.ndarray) and table.ndim == 2 and len(table) == joints and table.shape[1] and table.dtype.kind == "f"
    )
    if not sound or not np.isfinite(table).all():
        what = f"{table.dtype} {table.shape}" if isinstance(table, np.ndarray) else "an archive"
        raise DataError(
            f"this is no text embedding of the joints: {what}",
            where=str(path),
            expected=f"finite numbers ({joints}, D): a row per joint",
        )
    return torch.from_numpy(table.astype(np.float32))


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
