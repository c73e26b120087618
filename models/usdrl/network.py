"""USDRL's backbones (Weng et al., AAAI 2025): STTR, two plain transformers, and DSTE, two dense spatio-temporal encoders.

Letters in the shapes: N clips, C coordinates, T frames, V joints, M people, L tokens, W channels.

A clip is read twice: as T tokens, the skeletons of its frames, and as M V tokens, the paths of its joints. Each reading has an
encoder of its own; what they find is pooled over the tokens and put side by side. Nothing is normalised over the batch, so that
clips, and views of clips, may share a forward pass with any others.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layers.recompute import segment
from layers.transformer import Attention, Embedding, PostNormLayer
from models.usdrl.dste import DenseLayer
from shared_data.batches.representations import space, time
from shared_data.batches.shape import require_clips
from shared_data.errors import require, require_known
from shared_data.skeletons import Skeleton
from shared_data.skeletons import skeleton as skeleton_named

BACKBONES = ("sttr", "dste")
MODALITIES = ("joint", "motion", "bone")
DSTE_LAYERS = 2
TABLE = 200
"""Frames that the official table of the sine code has room for."""
NEXT_STEP = "build the model for the window (model argument frames), the skeleton and the people of the data"
BASE = 10_000.0  # of the sine code's wavelengths


def sine_code(frames: int, width: int) -> Tensor:
    """(T, W) float32: sine and cosine of t / 10000^(2i/W), channels 2i and 2i + 1, computed in float64."""
    frequencies = BASE ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    phase = torch.arange(frames, dtype=torch.float64).unsqueeze(1) * frequencies
    return torch.stack([phase.sin(), phase.cos()], -1).flatten(1).float()


class Stream(nn.Module):
    """One reading of a clip: tokens embedded, told apart by a code, and encoded by layers.

    code     (L or more, W) which token it is: a parameter, or a table that is not trained
    always   whether the code is added before each layer, and not before the first alone
    """

    code: Tensor

    def __init__(self, c_in: int, code: Tensor, layers: Sequence[nn.Module], *, always: bool) -> None:
        super().__init__()
        self.embedding = Embedding(c_in, code.shape[1])
        if isinstance(code, nn.Parameter):
            self.code = code
        else:
            self.register_buffer("code", code)
        self.layers = nn.ModuleList(layers)
        self.always = always

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, L, C_in) -> (N, L, W)."""
        code = self.code[: tokens.shape[1]]
        x = segment(self.embedding, tokens)
        for i, layer in enumerate(self.layers):
            x = segment(layer, x + code if self.always or i == 0 else x)
        return x


class Encoder(nn.Module):
    """Clips (N, C, T, V, M) to features (N, 2 W), the maxima over the tokens of both readings.

    skeleton     joint layout, by name or as an object
    people       M of the clips
    frames       T: one reading has a token's worth of weights per frame
    in_channels  C
    backbone     "sttr" (post-norm transformer layers) or "dste" (`DenseLayer`, two of them)
    modality     what is read of the clips: "joint", the coordinates as they are; "motion", the next frame minus this one, the
                 last 0; "bone", each joint minus the one that it hangs on. Leave it at joint where the pipeline made the stream
    width        W
    heads        of the attention
    layers       of STTR
    alpha, gap   of DSTE: share of the convolutional attention, and every which token is not moved
    drop_path    rate at which DSTE leaves a branch out of a clip in training
    """

    parents: Tensor

    def __init__(
        self,
        *,
        skeleton: str | Skeleton = "ntu25",
        people: int = 2,
        frames: int = 64,
        in_channels: int = 3,
        backbone: str = "sttr",
        modality: str = "joint",
        width: int = 1024,
        heads: int = 1,
        layers: int = 2,
        alpha: float = 0.5,
        gap: int = 4,
        drop_path: float = 0.1,
    ) -> None:
        super().__init__()
        layout = skeleton_named(skeleton) if isinstance(skeleton, str) else skeleton
        require_known("backbone", backbone, BACKBONES)
        require_known("modality", modality, MODALITIES)
        require(frames >= 1, "frames", frames, "1 or more")
        require(heads >= 1, "heads", heads, "1 or more")
        require(width >= 2 and width % 2 == 0 and width % heads == 0, "width", width, f"an even multiple of the {heads} heads")
        require(layers >= 1, "layers", layers, "1 or more")
        require(gap >= 1, "gap", gap, "1 or more tokens")
        require(0 <= alpha <= 1, "alpha", alpha, "a share, 0 to 1")
        require(0 <= drop_path < 1, "drop_path", drop_path, "a rate, 0 or more and below 1")
        self.clip = (in_channels, frames, layout.joints, people)
        self.modality = modality
        self.width = 2 * width
        parents = dict(layout.bones)
        self.register_buffer("parents", torch.tensor([parents[v] for v in range(layout.joints)]), persistent=False)

        def encoders(tokens: int) -> list[nn.Module]:
            if backbone == "sttr":
                return [PostNormLayer(width, heads, width) for _ in range(layers)]
            return [DenseLayer(width, heads, tokens, alpha=alpha, gap=gap, drop_path=drop_path) for _ in range(DSTE_LAYERS)]

        points = layout.joints * people
        path = nn.Parameter(torch.empty(points, width))
        nn.init.trunc_normal_(path, std=0.02)
        always = backbone == "dste"
        table = sine_code(max(TABLE, frames), width)
        self.time = Stream(points * in_channels, table, encoders(frames), always=always)
        self.space = Stream(frames * in_channels, path, encoders(points), always=always)
        for module in self.modules():
            if isinstance(module, Attention):
                nn.init.xavier_uniform_(module.qkv.weight)  # as that of torch's `nn.MultiheadAttention`

    def forward(self, clips: Tensor) -> Tensor:
        """(N, C, T, V, M) -> (N, 2 W), first what the frames gave. Raises `LabError` for clips of another shape."""
        return torch.cat([tokens.max(1).values for tokens in self.tokens(clips)], 1)

    def frames(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, T, V, M) -> a column per frame (N, W, T), and one of the clip (N, W), the maxima over the joints.

        The maxima are what pretraining shapes (`forward`). Their means, which the specification has (7.3), are a weaker start: by
        four points of accuracy in docs/segmentation.md's study of made-up sequences.
        """
        time, space = self.tokens(clips)
        return time.transpose(1, 2), space.max(1).values

    def dense(self, clips: Tensor) -> Tensor:
        """(N, C, T, V, M) -> (N, 2 W, T): per frame its token, and a mean of neighbouring joints' tokens.

        As the published detection code has it: the M V joints are pooled to T places, so that the second half of a column is the
        same mixture of joints in every clip, and says nothing about its frame.
        """
        time, space = self.tokens(clips)
        return torch.cat([time.transpose(1, 2), F.adaptive_avg_pool1d(space.transpose(1, 2), time.shape[1])], 1)

    def tokens(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, T, V, M) -> a row per frame (N, T, W) and a row per joint, person after person, (N, M V, W)."""
        require_clips("USDRL", clips, self.clip, next_step=NEXT_STEP)
        if self.modality == "motion":
            clips = F.pad(clips.diff(dim=2), (0, 0, 0, 0, 0, 1))
        elif self.modality == "bone":
            clips = clips - clips.index_select(3, self.parents)
        return self.time(time(clips)), self.space(space(clips))


class Classifier(nn.Module):
    """Clips (N, C, T, V, M) to class scores (N, K): an `Encoder`, whose arguments are all but the first, and a linear layer."""

    def __init__(
        self,
        num_classes: int,
        *,
        skeleton: str | Skeleton = "ntu25",
        people: int = 2,
        frames: int = 64,
        in_channels: int = 3,
        backbone: str = "sttr",
        modality: str = "joint",
        width: int = 1024,
        heads: int = 1,
        layers: int = 2,
        alpha: float = 0.5,
        gap: int = 4,
        drop_path: float = 0.1,
    ) -> None:
        super().__init__()
        self.encoder = Encoder(
            skeleton=skeleton, people=people, frames=frames, in_channels=in_channels, backbone=backbone, modality=modality,
            width=width, heads=heads, layers=layers, alpha=alpha, gap=gap, drop_path=drop_path,
        )  # fmt: skip
        self.fc = nn.Linear(self.encoder.width, num_classes)

    def forward(self, clips: Tensor) -> Tensor:
        """(N, C, T, V, M) -> (N, K)."""
        return self.fc(self.encoder(clips))
