"""Networks that segment, made of the lab's encoders of clips: whole sequences in, scores of every frame out.

A network of the lab may say what it finds frame by frame:

    frames(clips (N, C, T, V, M)) -> (N, D, T') and (N, E)      T' positions in the clip, and what holds for all of it
    dense(clips (N, C, T, V, M)) -> (N, D, T)                   for windows by themselves; else it is made of `frames`

Either of the first two may be None. Of any other classifier what goes into its head is taken, which holds for the whole clip.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine import models
from engine.encode import head_of
from engine.errors import ConfigError
from engine.models import ModelCard
from engine.segmentation import windows
from engine.segmentation.head import Head
from engine.segmentation.scores import FrameScores
from engine.segmentation.settings import WHERE, Settings
from engine.step import takes_positions
from shared_data.errors import require
from shared_data.skeletons import Skeleton


class FrameEncoder(Protocol):
    """What a classifier offers that knows more of a clip than one vector. An `nn.Module`."""

    def frames(self, clips: Tensor) -> tuple[Tensor | None, Tensor | None]: ...


class Pooled(nn.Module):
    """Any classifier of clips without its head: it says one thing about all of a clip."""

    def __init__(self, network: nn.Module, head: str) -> None:
        super().__init__()
        self.network = network
        owner, _, name = head.rpartition(".")
        setattr(network.get_submodule(owner), name, nn.Identity())

    def frames(self, clips: Tensor) -> tuple[None, Tensor]:
        """(N, C, T, V, M) -> (N, E)."""
        return None, self.network(clips)


Kind = TypeVar("Kind", bound="_OnEncoder")


class _OnEncoder(nn.Module):
    """What stands on an encoder of clips (C, W, V, M): it learns at a rate of its own, or not at all."""

    def __init__(self, encoder: nn.Module, clip: tuple[int, ...], chosen: Settings) -> None:
        super().__init__()
        self.encoder = encoder
        self.window, self.people = clip[1], clip[3]
        self.encoder_scale, self.frozen = chosen.encoder_scale, chosen.frozen
        if chosen.frozen:
            encoder.requires_grad_(False)

    def train(self: Kind, mode: bool = True) -> Kind:
        """A frozen encoder stays as it is evaluated: no dropout, and its BatchNorm keeps the statistics that it came with."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def parameter_scales(self) -> dict[str, float]:
        """Factors of the learning rate by parameter name."""
        return {f"encoder.{name}": self.encoder_scale for name, _ in self.encoder.named_parameters()}


class Segmenter(_OnEncoder):
    """`features (B, M C, V, T)` with `mask (B, 1, T)` to `FrameScores`, over whole sequences (mode "full").

    encoder   a `FrameEncoder` for clips of `clip` (C, W, V, M)
    widths    D and E of its columns, 0 for None
    hop       frames from one window to the next; that of an encoder with columns per position is W
    """

    def __init__(
        self, encoder: nn.Module, classes: int, *, clip: tuple[int, ...], widths: tuple[int, int], hop: int, chosen: Settings
    ) -> None:
        super().__init__(encoder, clip, chosen)
        self.hop, self.widths = hop, widths
        self.head = Head(
            sum(widths), classes, width=chosen.head_width, layers=chosen.head_layers, class_stages=chosen.class_stages,
            boundary_stages=chosen.boundary_stages, dropout=chosen.dropout,
        )  # fmt: skip

    def forward(self, features: Tensor, mask: Tensor) -> FrameScores:
        """The scores of B sequences; those of a sequence do not depend on the others, nor on the padding."""
        clips = windows.cut(features, mask, people=self.people, window=self.window, hop=self.hop)
        frame, clip = self.entering(clips)
        scores: FrameScores = self.head(self.laid_out(frame, clip, mask), mask)
        return scores

    def entering(self, clips: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Clips (N, C, W, V, M) -> (N, width, T') and (N, width), each with its share of the head's first 1x1.

        That is linear, and so is the laying out over frames: what would be wide first and narrow then is narrow at once.
        """
        frame, clip = cast(FrameEncoder, self.encoder).frames(clips)
        weight, split = self.head.hidden.enter.weight, self.widths[0]
        return (
            None if frame is None else F.conv1d(frame, weight[:, :split]),
            None if clip is None else F.linear(clip, weight[:, split:, 0]),
        )

    def laid_out(self, frame: Tensor | None, clip: Tensor | None, mask: Tensor) -> Tensor:
        """Columns of all windows of B sequences, as `entering` gives them, with mask (B, 1, T) to (B, width, T)."""
        batch, frames = len(mask), mask.shape[-1]
        bias = self.head.hidden.enter.bias
        assert bias is not None
        entered = bias.unsqueeze(1)
        if frame is not None:
            entered = entered + windows.by_frame(frame, batch, frames, self.window)
        if clip is not None:
            columns = clip.unflatten(0, (batch, -1)).transpose(1, 2)
            entered = entered + windows.between(columns, mask, window=self.window, hop=self.hop)
        return entered


class WindowSegmenter(_OnEncoder):
    """The same for windows by themselves (mode "window"): a linear layer on the encoder's columns, no boundaries.

    As the published detection code has it, after which the segmentation of the seed is modelled.
    """

    def __init__(
        self, encoder: nn.Module, classes: int, *, clip: tuple[int, ...], widths: tuple[int, int], chosen: Settings
    ) -> None:
        super().__init__(encoder, clip, chosen)
        self.fc = nn.Linear(sum(widths), classes)

    def forward(self, features: Tensor, mask: Tensor) -> FrameScores:
        """(B, M C, V, W), mask (B, 1, W)."""
        clips = windows.cut(features, mask, people=self.people, window=self.window, hop=self.window)
        scores: Tensor = self.fc(dense(self.encoder, clips).transpose(1, 2)).transpose(1, 2)
        return FrameScores((scores,), ())


def dense(encoder: nn.Module, clips: Tensor) -> Tensor:
    """Clips (N, C, W, V, M) -> (N, D, W): what `encoder` says itself, or its columns side by side."""
    own: Callable[[Tensor], Tensor] | None = getattr(encoder, "dense", None)
    if own is not None:
        return own(clips)
    frame, clip = cast(FrameEncoder, encoder).frames(clips)
    window = clips.shape[2]
    parts = [] if frame is None else [windows.by_frame(frame, len(clips), window, window)]
    parts += [] if clip is None else [clip.unsqueeze(2).expand(-1, -1, window)]
    return torch.cat(parts, 1)


def build(
    card: ModelCard, *, classes: int, skeleton: Skeleton, people: int, window: int, chosen: Settings, **model_args: Any
) -> nn.Module:
    """The segmenting network of `card` on the CPU, freshly initialised: its own, or a head on what it makes of windows.

    Raises what `engine.models.build` raises, `ConfigError` for a network that is shown more than clips, and `LabError` for a
    window that the encoder cannot take.
    """
    if card.kind == "segmenter":
        return models.build(card, num_classes=classes, skeleton=skeleton, people=people, **model_args)
    if "frames" in models.arguments(card):
        model_args = {"frames": window, **model_args}
    network = models.build(card, num_classes=2, skeleton=skeleton, people=people, **model_args)
    encoder = getattr(network, "encoder", None)
    if not isinstance(encoder, nn.Module) or not hasattr(encoder, "frames"):
        head_of(card, network)
        if takes_positions(network):
            raise ConfigError(
                f"{card.title} cannot be under the head: it reads joints in an order of its own and a frame's place in its clip",
                where=f"sal segment train {card.name}", expected="a network that is shown clips alone",
            )  # fmt: skip
        encoder = Pooled(network, str(card.toml["head"]))
    clip = (3, window, skeleton.joints, people)
    widths, pooled = _widths(encoder, clip, chosen.mode)
    if chosen.mode == "window":
        return WindowSegmenter(encoder, classes, clip=clip, widths=widths, chosen=chosen)
    require(chosen.hop <= window, f"{WHERE}: hop", chosen.hop, f"at most the window of {window}: no frame may go unseen")
    hop = (chosen.hop or max(1, window // 4)) if pooled else window
    return Segmenter(encoder, classes, clip=clip, widths=widths, hop=hop, chosen=chosen)


def _widths(encoder: nn.Module, clip: tuple[int, ...], mode: Literal["full", "window"]) -> tuple[tuple[int, int], bool]:
    """Channels of the columns per position and of those per clip, and whether there are only the latter; by a clip of zeros."""
    learning = encoder.training
    encoder.eval()
    with torch.no_grad():
        zeros = torch.zeros(1, *clip)
        if mode == "window":
            found = (dense(encoder, zeros).shape[1], 0), False
        else:
            frame, whole = cast(FrameEncoder, encoder).frames(zeros)
            found = (0 if frame is None else frame.shape[1], 0 if whole is None else whole.shape[1]), frame is None
    encoder.train(learning)
    return found
