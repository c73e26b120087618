"""The plain stage of dilated layers against a naive one, frame by frame, and what padding may not change."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from layers.dilated import DilatedLayers, Stage


def naive(stage: Stage, x: Tensor) -> Tensor:
    """(C_in, T) -> (C_out, T), every tap of every layer by itself; frames that are not there are 0."""

    def linear(conv: torch.nn.Conv1d, v: Tensor, tap: int = 0) -> Tensor:
        return conv.weight[:, :, tap] @ v

    frames = [linear(stage.hidden.enter, x[:, t]) + stage.hidden.enter.bias for t in range(x.shape[1])]
    for i, layer in enumerate(stage.hidden.layers):
        after = []
        for t, here in enumerate(frames):
            y = layer.dilated.bias.clone()
            for tap, away in enumerate((-(2**i), 0, 2**i)):
                if 0 <= t + away < len(frames):
                    y = y + linear(layer.dilated, frames[t + away], tap)
            after.append(here + linear(layer.mix, torch.relu(y)) + layer.mix.bias)
        frames = after
    return torch.stack([linear(stage.leave, v) + stage.leave.bias for v in frames], 1)


def whole(x: Tensor) -> Tensor:
    return torch.ones(len(x), 1, x.shape[2], dtype=torch.bool)


@pytest.mark.parametrize("frames", [1, 2, 7, 40])
def test_a_stage_is_the_naive_one(frames: int) -> None:
    torch.manual_seed(0)
    stage = Stage(3, 5, width=4, layers=4).double().eval()
    x = torch.randn(2, 3, frames, dtype=torch.float64)
    expected = torch.stack([naive(stage, one) for one in x])
    torch.testing.assert_close(stage(x, whole(x)), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("entry_masked", [True, False])
def test_a_padded_batch_gives_what_the_sequences_give_alone(entry_masked: bool) -> None:
    torch.manual_seed(0)
    stage = Stage(3, 5, width=8, layers=5, entry_masked=entry_masked).double().eval()
    x = torch.randn(3, 3, 20, dtype=torch.float64)
    lengths = torch.tensor([20, 13, 1])
    mask = (torch.arange(20) < lengths[:, None])[:, None]
    padded = torch.where(mask, x, torch.full_like(x, 7.0))  # whatever stands there
    together = stage(padded, mask)
    same = [
        torch.allclose(together[i, :, :n], stage(x[i : i + 1, :, :n], whole(x[:1, :, :n]))[0], rtol=1e-10, atol=1e-12)
        for i, n in enumerate(lengths)
    ]
    assert same == [True, entry_masked, entry_masked]


def test_the_hidden_state_is_zero_at_padded_frames_and_has_the_stage_s_width() -> None:
    mask = torch.tensor([[[True, True, False]]])
    hidden = DilatedLayers(3, width=6, layers=2)(torch.randn(1, 3, 3), mask)
    assert hidden.shape == (1, 6, 3)
    assert not hidden[..., 2].any() and hidden[..., :2].any()


def test_ten_layers_of_64_have_the_published_size_and_see_1023_frames_to_each_side() -> None:
    stage = Stage(1, 1)
    assert sum(p.numel() for p in stage.parameters()) == 2 * 64 + 10 * (3 * 64 * 64 + 64 + 64 * 64 + 64) + 64 + 1
    torch.manual_seed(0)
    stage = stage.double().eval()
    x = torch.zeros(1, 1, 1030, dtype=torch.float64, requires_grad=True)
    stage(x, whole(x))[0, 0, 0].backward()
    seen = x.grad[0, 0].nonzero().flatten()
    assert seen.min() == 0 and seen.max() <= 1023 and seen.max() > 511


def test_dropout_only_in_training() -> None:
    torch.manual_seed(0)
    stage, x = Stage(3, 5, width=8, layers=3), torch.randn(1, 3, 9)
    assert not torch.equal(stage(x, whole(x)), stage(x, whole(x)))
    stage.eval()
    assert torch.equal(stage(x, whole(x)), stage(x, whole(x)))
