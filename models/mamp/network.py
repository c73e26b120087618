"""MAMP: a vision transformer on the joints of skeleton clips (Mao et al., ICCV 2023), to be read beside the paper.

Letters in the shapes: N clips, C coordinates, T frames, V joints, M people, p frames of a patch, L = T/p * V tokens of a person
(time first, then joint), D channels, S = N * M sequences: each person of each clip is a sequence of its own, also an absent one.

Attention is fused and never stored. Without values that are cheap (`layers.recompute`) a block keeps, per token, what its four
products read and the sum in its middle.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from layers.recompute import cheap, segment
from layers.transformer import PreNormLayer
from shared_data.batches.shape import require_clips
from shared_data.errors import require, require_known
from shared_data.skeletons import Skeleton
from shared_data.skeletons import skeleton as skeleton_named

Protocol = Literal["finetune", "linprobe"]
HIDDEN = 2048  # channels between the two linear layers of the head for fine-tuning
TOKEN_DROPOUT = 0.3  # in front of it
NEXT_STEP = "build the model for the skeleton, the people and the window of the data (model_args.frames)"


class PositionCode(nn.Module):
    """A learned code for each time step plus one for each joint."""

    def __init__(self, steps: int, joints: int, width: int) -> None:
        super().__init__()
        self.time, self.joint = nn.Parameter(torch.empty(steps, width)), nn.Parameter(torch.empty(joints, width))
        nn.init.trunc_normal_(self.time, std=0.02)
        nn.init.trunc_normal_(self.joint, std=0.02)

    def forward(self) -> Tensor:
        """(L, D)."""
        return (self.time.unsqueeze(1) + self.joint).flatten(0, 1)


def start(module: nn.Module) -> None:
    """Start values of the linear layers inside: Xavier's uniform ones, biases 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)


def grouped(tokens: Tensor, keep: Tensor) -> Tensor:
    """Of (S, L, D) the tokens `keep` (S, k): (S, k, D)."""
    return tokens.gather(1, keep.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def over_batch(bn: nn.Module, x: Tensor) -> Tensor:
    """BatchNorm of (N, D); in training a lone clip, which has no spread, is normalised by the running statistics."""
    if type(bn) is nn.BatchNorm1d and bn.training and len(x) == 1:
        return F.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=bn.eps)
    out: Tensor = bn(x)
    return out


class Encoder(nn.Module):
    """Clips to features: the mean of the encoded tokens of all people.

    skeleton     joint layout, by name or as an object
    people       M of the clips
    frames       T of the clips, a multiple of `patch`
    in_channels  coordinates per joint
    width        D, a multiple of `heads`
    depth        blocks
    mlp_ratio    hidden channels of a block's MLP per channel
    patch        p
    drop_path    rate at which the branches of the last block are left out in training; earlier blocks have less, the first none
    """

    def __init__(
        self,
        *,
        skeleton: str | Skeleton = "ntu25",
        people: int = 2,
        frames: int = 120,
        in_channels: int = 3,
        width: int = 256,
        depth: int = 8,
        heads: int = 8,
        mlp_ratio: float = 4.0,
        patch: int = 4,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        layout = skeleton_named(skeleton) if isinstance(skeleton, str) else skeleton
        require(patch >= 1, "patch", patch, "1 or more frames")
        require(frames >= patch and frames % patch == 0, "frames", frames, f"a multiple of the {patch} frames of a patch")
        require(heads >= 1 and width >= heads and width % heads == 0, "width", width, f"a multiple of the {heads} heads")
        require(depth >= 1, "depth", depth, "1 or more blocks")
        require(mlp_ratio * width >= 1, "mlp_ratio", mlp_ratio, f"at least 1/{width}")
        require(0 <= drop_path < 1, "drop_path", drop_path, "a rate, 0 or more and below 1")
        self.arguments = {
            "frames": frames, "in_channels": in_channels, "width": width, "depth": depth, "heads": heads, "mlp_ratio": mlp_ratio,
            "patch": patch,
        }  # fmt: skip
        """Those of the network that do not follow from the data."""
        self.shape, self.people, self.patch = (in_channels, frames, layout.joints), people, patch
        self.width, self.steps, self.joints = width, frames // patch, layout.joints
        self.position = PositionCode(self.steps, self.joints, width)
        self.blocks = nn.ModuleList(
            PreNormLayer(width, heads, mlp_ratio=mlp_ratio, drop_path=drop_path * i / max(depth - 1, 1)) for i in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        start(self)
        self.embed = nn.Linear(in_channels * patch, width)  # officially a convolution: it keeps torch's start values

    def forward(self, clips: Tensor) -> Tensor:
        """Clips (N, C, T, V, M) to features (N, D)."""
        return self.tokens(clips).mean((1, 2, 3))

    def frames(self, clips: Tensor) -> tuple[Tensor, None]:
        """Clips (N, C, T, V, M) to a column per patch of frames (N, D, T/p), the mean over people and joints."""
        return self.tokens(clips).mean((1, 3)).transpose(1, 2), None

    def tokens(self, clips: Tensor) -> Tensor:
        """Clips (N, C, T, V, M) to encoded tokens (N, M, T/p, V, D). Raises `LabError` for clips of another shape."""
        require_clips("MAMP", clips, (*self.shape, self.people), next_step=NEXT_STEP)
        tokens = self.encoded(cheap(self.embedded, self.patches(clips)))
        return tokens.unflatten(0, (-1, self.people)).unflatten(2, (self.steps, self.joints))

    def patches(self, clips: Tensor) -> Tensor:
        """Clips (N, C, T, V, M) of any number of people -> (S, L, C * p). Raises `LabError` for clips of another shape."""
        require_clips("MAMP", clips, (*self.shape, None), next_step=NEXT_STEP)
        return rearrange(clips, "n c (t p) v m -> (n m) (t v) (c p)", p=self.patch)

    def embedded(self, patches: Tensor, keep: Tensor | None = None) -> Tensor:
        """Patches (S, L, C * p) to tokens (S, L, D) that know where they are; of tokens `keep` (S, k) alone, (S, k, D)."""
        code = self.position()
        if keep is None:
            return self.embed(patches) + code
        return self.embed(grouped(patches, keep)) + code[keep]

    def encoded(self, tokens: Tensor, *, first: int = 0) -> Tensor:
        """(S, k, D) -> (S, k, D), through the blocks from block `first` on, and normalised."""
        for block in self.blocks[first:]:
            tokens = segment(block, tokens)
        normal: Tensor = self.norm(tokens)
        return normal

    def layer_ids(self) -> dict[str, int]:
        """Parameter name -> 0 for what makes tokens, i + 1 in block i, depth + 1 behind the blocks."""
        return {name: self._layer(name) for name, _ in self.named_parameters()}

    def _layer(self, name: str) -> int:
        owner, number, *_ = name.split(".")
        if owner == "blocks":
            return int(number) + 1
        return len(self.blocks) + 1 if owner == "norm" else 0


class MAMP(nn.Module):
    """Skeleton clips to class scores: an encoder and a head.

    num_classes  K
    protocol     the head: "finetune", two linear layers on the means over time of each joint's tokens, or "linprobe", one on the
                 features
    probe_norm   "linprobe" alone: features are normalised over the batch first, as MAMP's probe does
    others       see `Encoder`
    """

    def __init__(
        self,
        num_classes: int,
        *,
        skeleton: str | Skeleton = "ntu25",
        people: int = 2,
        frames: int = 120,
        in_channels: int = 3,
        protocol: str = "finetune",
        probe_norm: bool = False,
        width: int = 256,
        depth: int = 8,
        heads: int = 8,
        mlp_ratio: float = 4.0,
        patch: int = 4,
        drop_path: float = 0.3,
    ) -> None:
        super().__init__()
        require_known("protocol", protocol, get_args(Protocol))
        require(protocol == "linprobe" or not probe_norm, "probe_norm", probe_norm, "false, unless protocol is linprobe")
        self.protocol = protocol
        self.encoder = Encoder(
            skeleton=skeleton, people=people, frames=frames, in_channels=in_channels, width=width, depth=depth, heads=heads,
            mlp_ratio=mlp_ratio, patch=patch, drop_path=drop_path,
        )  # fmt: skip
        if protocol == "finetune":
            self.dropout = nn.Dropout(TOKEN_DROPOUT)
            self.hidden = nn.Linear(self.encoder.joints * width, HIDDEN)
            self.bn = nn.BatchNorm1d(HIDDEN)
            self.fc = nn.Linear(HIDDEN, num_classes)
            start(self.hidden)
            start(self.fc)
        else:
            self.bn = nn.BatchNorm1d(width, affine=False, eps=1e-6) if probe_norm else nn.Identity()
            self.fc = nn.Linear(width, num_classes)
            nn.init.trunc_normal_(self.fc.weight, std=0.01)
            nn.init.zeros_(self.fc.bias)

    def forward(self, clips: Tensor) -> Tensor:
        """Clips (N, C, T, V, M) to logits (N, K). Raises `LabError` for clips of another shape."""
        finetune = self.protocol == "finetune"
        logits: Tensor = self.fc(self._of_joints(clips) if finetune else over_batch(self.bn, self.encoder(clips)))
        return logits

    def _of_joints(self, clips: Tensor) -> Tensor:
        """(N, 2048), from the tokens' means over time and people, all joints side by side."""
        joints = self.dropout(self.encoder.tokens(clips)).mean((1, 2)).flatten(1)
        return torch.relu(over_batch(self.bn, self.hidden(joints)))

    def layer_ids(self) -> dict[str, int]:
        """Parameter name -> its layer, from 0 for what makes tokens to depth + 1 for what is behind the blocks."""
        numbers = {f"encoder.{name}": number for name, number in self.encoder.layer_ids().items()}
        return {name: numbers.get(name, len(self.encoder.blocks) + 1) for name, _ in self.named_parameters()}
