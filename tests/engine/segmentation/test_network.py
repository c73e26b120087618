"""Networks that segment: encoders of clips under one head, whole sequences and windows."""

import numpy as np
import pytest
import torch

from engine import models
from engine.errors import ConfigError
from engine.segmentation import windows
from engine.segmentation.network import Segmenter, WindowSegmenter, build, dense
from engine.segmentation.settings import settings
from shared_data.skeletons import NTU25

SMALL = {"usdrl": {"width": 16}, "mamp": {"width": 16, "depth": 2, "heads": 2}, "ctrgcn": {}}
HEAD = {"head_width": 8, "head_layers": 3, "dropout": 0.0}


def network(model: str = "usdrl", *, window: int = 16, people: int = 2, **given: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return build(
        models.find(model), classes=5, skeleton=NTU25, people=people, window=window, chosen=settings({**HEAD, **given}),
        **SMALL[model],
    ).eval()  # fmt: skip


def sequence(frames: int, seed: int = 0, people: int = 2) -> torch.Tensor:
    return torch.randn(3 * people, 25, frames, generator=torch.Generator().manual_seed(seed))


def padded(*sequences: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(s.shape[-1] for s in sequences)
    features = torch.stack([torch.nn.functional.pad(s, (0, longest - s.shape[-1])) for s in sequences])
    mask = torch.stack([torch.arange(longest) < s.shape[-1] for s in sequences]).unsqueeze(1)
    return features, mask


def test_windows_show_the_frames_and_the_end_stands_still() -> None:
    features, mask = padded(sequence(10, 1), sequence(5, 2))
    clips = windows.cut(features, mask, people=2, window=4, hop=4)
    assert clips.shape == (6, 3, 4, 25, 2)
    for row, length in ((0, 10), (1, 5)):
        for t in range(12):
            clip = clips[row * 3 + t // 4, :, t % 4]  # (C, V, M)
            assert torch.equal(clip, features[row, :, :, min(t, length - 1)].unflatten(0, (2, 3)).permute(1, 2, 0))


def test_overlapping_windows_begin_a_hop_apart() -> None:
    features, mask = padded(sequence(10))
    clips = windows.cut(features, mask, people=2, window=4, hop=2)
    assert len(clips) == 5
    assert torch.equal(clips[2, :, 1, :, 1], features[0, 3:, :, 5])


def test_between_windows_is_linear_between_their_middles() -> None:
    mask = torch.ones(1, 1, 12, dtype=torch.bool)
    found = windows.between(torch.tensor([[[0.0, 4.0, 12.0]]]), mask, window=4, hop=4)
    assert found[0, 0].tolist() == [0, 0, 0.5, 1.5, 2.5, 3.5, 5, 7, 9, 11, 12, 12]


@pytest.mark.parametrize("model", list(SMALL))
@pytest.mark.parametrize("mode", ["full", "window"])
def test_a_sequence_in_a_padded_batch_has_the_scores_it_has_alone(model: str, mode: str) -> None:
    one = network(model, mode=mode)
    lengths = (16, 9) if mode == "window" else (37, 21, 1)
    parts = [sequence(t, t) for t in lengths]
    with torch.no_grad():
        together = one(*padded(*parts))
        for row, part in enumerate(parts):
            pad = (0, max(lengths) - part.shape[-1]) if mode == "window" else (0, 0)  # a window is of one length
            alone = one(torch.nn.functional.pad(part, pad)[None], padded(part, parts[0])[1][:1] if mode == "window"
                        else torch.ones(1, 1, part.shape[-1], dtype=torch.bool))  # fmt: skip
            for a, b in zip((*together.classes, *together.boundaries), (*alone.classes, *alone.boundaries), strict=True):
                torch.testing.assert_close(a[row, :, : part.shape[-1]], b[0, :, : part.shape[-1]], rtol=1e-4, atol=1e-5)


def test_one_window_is_the_encoder_and_the_head_alone() -> None:
    """The 1x1 into the head is shared out between columns of frames and of clips: the same as one over both side by side."""
    one = network()
    assert isinstance(one, Segmenter)
    part = sequence(16)
    mask = torch.ones(1, 1, 16, dtype=torch.bool)
    with torch.no_grad():
        clip = part.unflatten(0, (2, 3)).permute(1, 3, 2, 0)[None]
        time, space = one.encoder.tokens(clip)
        both = torch.cat([time, space.amax(1, keepdim=True).expand(-1, 16, -1)], 2).transpose(1, 2)
        expected = one.head(one.head.hidden.enter(both), mask)
        torch.testing.assert_close(one(part[None], mask).classes[-1], expected.classes[-1], rtol=1e-5, atol=1e-6)


def test_window_mode_pools_joints_to_frames_as_published() -> None:
    one = network(mode="window")
    assert isinstance(one, WindowSegmenter)
    clip = torch.randn(2, 3, 16, 25, 2)
    with torch.no_grad():
        columns = dense(one.encoder, clip)
        time, space = one.encoder.tokens(clip)
    assert columns.shape == (2, 32, 16)
    torch.testing.assert_close(columns[:, :16], time.transpose(1, 2))
    for place in range(16):  # place i of 16 is the mean of joints floor(50 i / 16) to ceil(50 (i + 1) / 16)
        first, last = 50 * place // 16, -(-50 * (place + 1) // 16)
        torch.testing.assert_close(columns[:, 16:, place], space[:, first:last].mean(1))


def test_the_encoder_learns_slower_or_not_at_all() -> None:
    scales = network(encoder_scale=0.25).parameter_scales()
    assert set(scales.values()) == {0.25}
    assert all(name.startswith("encoder.") for name in scales)
    frozen = network(frozen=True)
    assert not any(p.requires_grad for p in frozen.encoder.parameters())
    assert all(p.requires_grad for p in frozen.head.parameters())
    for one in (frozen.train(), network(mode="window", frozen=True).train()):  # not its statistics either, nor by dropout
        assert not any(part.training for part in one.encoder.modules()) and one.training
    assert frozen.head.training and network().train().encoder.training


def test_the_head_sees_as_far_as_it_says() -> None:
    one = network(head_layers=3, class_stages=1, boundary_stages=2)
    assert one.head.reach == 7 * 3
    entered = torch.randn(64, 8, 101, generator=torch.Generator().manual_seed(3), requires_grad=True)
    scores = one.head(entered, torch.ones(1, 1, 101, dtype=torch.bool))
    (gradient,) = torch.autograd.grad(scores.boundaries[-1][:, 0, 50].sum(), entered)
    touched = np.flatnonzero(gradient.abs().sum((0, 1)).numpy())
    assert (touched.min(), touched.max()) == (50 - 21, 50 + 21)


def test_a_network_that_is_shown_more_than_clips_is_refused() -> None:
    with pytest.raises(ConfigError, match="SkateFormer cannot be under the head"):
        build(models.find("skateformer"), classes=5, skeleton=NTU25, people=2, window=64, chosen=settings({}))
