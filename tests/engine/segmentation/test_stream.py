"""Sequences of any length, piece by piece, with the scores of one piece."""

import pytest
import torch

from engine.segmentation.stream import sequence_scores
from tests.engine.segmentation.test_network import network, sequence

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("model", "frames"), [*((model, t) for model in ("usdrl", "mamp") for t in (1, 15, 16, 17, 100, 333)), ("ctrgcn", 70)]
)
def test_streamed_scores_are_those_of_the_whole(model: str, frames: int) -> None:
    one, shown = network(model), sequence(frames, frames)
    mask = torch.ones(1, 1, frames, dtype=torch.bool)
    with torch.no_grad():
        whole = one(shown[None], mask)
    classes, boundary = sequence_scores(one, shown, device=CPU, clips=3, piece=20)
    assert boundary is not None
    torch.testing.assert_close(classes, whole.classes[-1][0], rtol=0, atol=1e-5)
    torch.testing.assert_close(boundary, whole.boundaries[-1][0], rtol=0, atol=1e-5)


def test_what_is_kept_does_not_grow_with_the_sequence() -> None:
    one = network(head_layers=2)
    widest = {}
    for frames in (1000, 4000):
        seen = []
        hook = one.head.register_forward_pre_hook(lambda _, given, seen=seen: seen.append(given[0].shape[-1]))
        clips = one.encoder.time.register_forward_pre_hook(lambda _, given, seen=seen: seen.append(len(given[0])))
        sequence_scores(one, sequence(frames), device=CPU, clips=4, piece=32)
        hook.remove()
        clips.remove()
        widest[frames] = max(seen)
    assert max(widest.values()) < 32 + 4 * 16 + 2 * one.head.reach


def test_windows_by_themselves_are_stitched() -> None:
    one, shown = network(mode="window"), sequence(40)
    classes, boundary = sequence_scores(one, shown, device=CPU, clips=2)
    assert boundary is None
    assert classes.shape == (5, 40)
    with torch.no_grad():
        mask = torch.ones(1, 1, 16, dtype=torch.bool)
        parts = [one(shown[None, ..., s : s + 16], mask).classes[0][0] for s in (0, 16, 24)]
    torch.testing.assert_close(classes[:, :24], torch.cat([parts[0], parts[1][:, :8]], 1))
    torch.testing.assert_close(classes[:, 24:32], (parts[1][:, 8:] + parts[2][:, :8]) / 2)
    torch.testing.assert_close(classes[:, 32:], parts[2][:, 8:])
