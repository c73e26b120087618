"""STTR and DSTE against their slow forms, what they read of a clip, and what they refuse."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from engine import models
from layers.transformer import PostNormLayer
from models.usdrl.network import Classifier, Encoder, sine_code
from shared_data.batches.augment import stream_of
from shared_data.errors import LabError, UsageError
from shared_data.pipelines.selfsupervised import REPRESENTATIONS
from shared_data.skeletons import NTU25
from tests.models.against_slow import assert_same_training, randomise
from tests.models.usdrl.naive import NaiveUSDRL

NAMES = models.official_module(models.find("usdrl"))
SMALL: dict[str, Any] = {"people": 2, "frames": 6, "width": 8}


@pytest.mark.parametrize("backbone", ["sttr", "dste"])
@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"people": 1, "frames": 9, "heads": 2, "gap": 3, "alpha": 0.3, "modality": "bone"},
        {"layers": 3, "heads": 4, "gap": 1, "modality": "motion"},
    ],
    ids=["as published", "one person", "deep"],
)
def test_against_the_slow_form(backbone: str, sizes: dict[str, Any]) -> None:
    given = {**SMALL, **sizes}
    slow = randomise(NaiveUSDRL(backbone, 5, **given))
    ours = Classifier(5, backbone=backbone, drop_path=0.0, **given)
    clips = torch.randn(3, 3, given["frames"], 25, given["people"], dtype=torch.float64)
    assert_same_training(ours, slow, NAMES, clips)


def test_sine_code() -> None:
    code = sine_code(300, 12)
    assert code.shape == (300, 12) and code.dtype == torch.float32
    for frame, channel in ((0, 0), (0, 1), (7, 4), (7, 5), (250, 10), (250, 11)):
        phase = frame * 10000 ** (-(channel // 2 * 2) / 12)
        assert code[frame, channel] == pytest.approx((math.cos if channel % 2 else math.sin)(phase), abs=1e-7)


def test_tokens_read_frames_and_joints() -> None:
    """One number of a clip is in one row of each reading; a network of more frames than the official table has room for works."""
    encoder = Encoder(frames=210, width=8).eval()
    clip = torch.zeros(1, 3, 210, 25, 2)
    clip[0, 2, 205, 7, 1] = 1.0
    with torch.no_grad():
        for stream in (encoder.time, encoder.space):
            stream.layers = nn.ModuleList()  # they let tokens see each other
        for row, with_it, without in zip((205, 25 + 7), encoder.tokens(clip), encoder.tokens(0 * clip), strict=True):
            assert (with_it != without).any(-1)[0].nonzero().flatten().tolist() == [row]
    time, space = encoder.tokens(clip)
    assert time.shape == (1, 210, 8) and space.shape == (1, 50, 8)


def test_features_are_maxima_over_tokens() -> None:
    encoder = Encoder(**SMALL).eval()
    clips = torch.randn(2, 3, 6, 25, 2)
    time, space = encoder.tokens(clips)
    assert torch.equal(encoder(clips), torch.cat([time.amax(1), space.amax(1)], 1))


@pytest.mark.parametrize("modality", ["joint", "motion", "bone"])
def test_modality_is_the_pipelines_stream(modality: str) -> None:
    """What the network makes of raw clips is what a pipeline makes of them."""
    torch.manual_seed(0)
    raw, made = Encoder(**SMALL, modality=modality).eval(), Encoder(**SMALL).eval()
    made.load_state_dict(raw.state_dict())
    clips = torch.randn(2, 3, 6, 25, 2)
    stream = stream_of(clips.movedim(-1, 1), REPRESENTATIONS[modality], NTU25.bone_table("ctrgcn")).movedim(1, -1)
    assert torch.equal(raw(clips), made(stream))


def test_initialisation() -> None:
    """As torch's own transformer layers; the learned code is a truncated normal of deviation 0.02."""
    torch.manual_seed(0)
    encoder = Encoder()
    layer = encoder.time.layers[0]
    assert isinstance(layer, PostNormLayer)
    assert float(layer.attn.qkv.weight.detach().abs().max()) == pytest.approx(math.sqrt(6 / 4096), rel=1e-2)
    assert not layer.attn.qkv.bias.any() and not layer.attn.proj.bias.any()
    assert float(encoder.space.code.detach().std()) == pytest.approx(0.02, rel=0.05)
    assert "time.code" in dict(encoder.named_buffers()) and "space.code" in dict(encoder.named_parameters())


def test_drop_path_is_of_dste_alone_and_in_training_alone() -> None:
    clips = torch.randn(8, 3, 6, 25, 2)
    for backbone, random in (("sttr", False), ("dste", True)):
        encoder = Encoder(backbone=backbone, drop_path=0.5, **SMALL)
        assert torch.equal(encoder.train()(clips), encoder(clips)) != random
        assert torch.equal(encoder.eval()(clips), encoder(clips))


@pytest.mark.parametrize(
    "wrong",
    [{"backbone": "str"}, {"modality": "bones"}, {"width": 7}, {"width": 8, "heads": 3}, {"gap": 0}, {"alpha": 1.5},
     {"frames": 0}, {"layers": 0}, {"drop_path": 1.0}],
    ids=str,
)  # fmt: skip
def test_refuses(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Encoder(**{**SMALL, **wrong})


def test_refuses_clips_of_another_length() -> None:
    with pytest.raises(LabError, match=r"\(2, 3, 7, 25, 2\)") as caught:
        Classifier(5, **SMALL)(torch.zeros(2, 3, 7, 25, 2))
    assert caught.value.expected.startswith("(N, 3, 6, 25, 2)")
