"""Readers for learning without labels: views, downstream crops, detection clips, vectors, subsets of training clips."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.parity.pipelines import examine
from shared_data.batches.combinations import random_set
from shared_data.batches.frames import centre_crop
from shared_data.batches.representations import graph, sequence, space, time
from shared_data.clips import Clips
from shared_data.errors import LabError, UsageError
from shared_data.formats.ragged import RaggedBuilder, in_memory
from shared_data.loader import Loader
from shared_data.pipelines import pipeline, rows_of
from shared_data.pipelines.scdnet import joint_totals, rotations, spatial_mask
from shared_data.pipelines.usdrl import DetectionDraws, background, detection_clips, detection_draws, draw_detection
from shared_data.pipelines.views import Views, only_cropped
from shared_data.skeletons import NTU25
from shared_data.subsets import per_class, semi_supervised

PRETRAIN = {"isc_pretrain": 2, "scdnet_pretrain": 2, "usdrl_pretrain": 4}
LENGTHS = [1, 2, 40, 64, 65, 127, 300, 0]  # the last has no frame at all
PEOPLE = [1, 2, 1, 2, 1, 2, 2, 1]


def ragged(padded: np.ndarray) -> Clips:
    """`padded` (N, T, M, V, 3) as clips."""
    _, frames, people, joints, _ = padded.shape
    builder = RaggedBuilder(in_memory("train", joints, padded.dtype), joints=joints, max_people=people, dtype=padded.dtype)
    builder.add(padded)
    return builder.finish(np.arange(len(padded)) % 3, np.array([f"train_{i}" for i in range(len(padded))]), frames=frames)


@pytest.fixture(scope="module")
def made() -> tuple[np.ndarray, Clips]:
    """Clips of any values, one and two people, one of one frame and one empty; the padded array and the clips."""
    rng = np.random.default_rng(0)
    padded = np.zeros((len(LENGTHS), 300, 2, 25, 3), np.float32)
    for n, (length, people) in enumerate(zip(LENGTHS, PEOPLE, strict=True)):
        padded[n, :length, :people] = rng.standard_normal((length, people, 25, 3))
    return padded, ragged(padded)


def crop_of(clip: np.ndarray, start: int, length: int, window: int) -> np.ndarray:
    """Frames of `clip` (T, M, V, 3) resized with torch -> (3, window, V, M) float64."""
    if length == 0:
        return np.zeros((3, window, clip.shape[2], clip.shape[1]))
    columns = torch.from_numpy(np.ascontiguousarray(clip[start : start + length].reshape(length, -1).T))[None, None]
    resized = torch.nn.functional.interpolate(columns, size=(columns.shape[2], window), mode="bilinear", align_corners=False)
    return resized[0, 0].numpy().T.reshape(window, *clip.shape[1:]).transpose(3, 0, 2, 1).astype(np.float64)


def stream_of(x: np.ndarray, representation: str) -> np.ndarray:
    """(3, T, V, M): motion or bones."""
    if representation == "motion":
        return np.concatenate([x[:, 1:] - x[:, :-1], np.zeros_like(x[:, :1])], axis=1)
    if representation == "bone":
        return x - x[:, :, [dict(NTU25.bones)[joint] for joint in range(25)]]
    return x


def naive_view(clip: np.ndarray, views: Views, at: tuple[int, int], representation: str) -> np.ndarray:
    """View `at` (clip row, view) made step by step, each operation on its own."""
    x = crop_of(clip, views.start[at], views.length[at], views.hidden.shape[-1])
    x = stream_of(x, representation)
    if views.swapped[at]:
        order = [0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 16, 17, 18, 19, 12, 13, 14, 15, 20, 23, 24, 21, 22]
        x = x[:, :, order]
    y = np.einsum("ij,jtvm->itvm", views.matrix[at], x)
    for joint in np.flatnonzero(views.chosen[at]):
        y[:, :, joint] = np.einsum("ij,jtm->itm", views.other[at], x[:, :, joint])
    y[:, views.hidden[at]] = 0
    return y


# ---- the official outputs


@pytest.mark.parametrize("name", ["isc_views", "scdnet_views", "usdrl_views"])
def test_the_official_outputs_are_reproduced(name: str, parity_clips: Path) -> None:
    found = examine(parity_clips / f"{name}.npz")
    assert not [line for line in found.lines if not line.ok]
    judged = {line.quantity for line in found.lines}
    meta = json.loads(str(np.load(parity_clips / f"{name}.npz")["meta"]))
    for group in meta["groups"]:
        assert f"{group} wsum" in judged
    expected = {
        "isc_views": {"intra_graph/view1 crop length", "downstream_test/seq labels", "downstream_train/graph frame count"},
        "scdnet_views": {"op/spatial_mask spatial mask joints", "views/bone/view2 spatial mask totals"},
        "usdrl_views": {"detection_clip frame labels", "downstream test order", "views/view4 crop length"},
    }
    assert expected[name] <= judged


def test_wrong_draws_are_seen(parity_clips: Path, tmp_path: Path) -> None:
    shutil.copy(parity_clips / "clips_ntu.npz", tmp_path)

    def failures(name: str, change: Any) -> set[str]:
        with np.load(parity_clips / f"{name}.npz") as file:
            arrays = {key: file[key] for key in file.files}
        meta = json.loads(str(arrays.pop("meta")))
        change(meta)
        np.savez(tmp_path / f"{name}.npz", meta=np.array(json.dumps(meta)), **arrays)
        return {line.quantity for line in examine(tmp_path / f"{name}.npz").lines if not line.ok}

    def isc(meta: Any) -> None:
        meta["num_frame"]["val"][4] += 1
        draw = next(row for row in meta["groups"]["intra_graph/view2"]["draws"][9:] if row["op"] == "joint_corruption")
        draw["joints"].pop()

    failed = failures("isc_views", isc)
    assert {"intra_graph/view2 wsum", "downstream_test/seq frame count"} <= failed
    assert not [quantity for quantity in failed if quantity.startswith(("intra_graph/view1", "intra_seq"))]

    def scdnet(meta: Any) -> None:
        meta["groups"]["op/rotate"]["draws"][1]["angles_deg"][0] *= -1
        meta["groups"]["op/spatial_mask"]["draws"][0]["seed_joints"][0] = 11
        meta["groups"]["op/temporal_mask"]["draws"][2]["blocks"][0] = 1

    failed = failures("scdnet_views", scdnet)
    assert {"op/rotate wsum", "op/spatial_mask spatial mask totals", "op/temporal_mask wsum"} <= failed
    assert not [quantity for quantity in failed if quantity.startswith(("views", "downstream", "op/swap", "op/shear"))]

    def usdrl(meta: Any) -> None:
        meta["groups"]["detection_clip"]["draws"][0]["segment"][1] += 1
        meta["downstream_test_order"]["rows"].reverse()

    failed = failures("usdrl_views", usdrl)
    assert {"detection_clip wsum", "downstream test order"} <= failed


# ---- views


@pytest.mark.parametrize("name", PRETRAIN)
@pytest.mark.parametrize("representation", ["joint", "motion", "bone"])
def test_views_are_what_the_draws_say(made: tuple[np.ndarray, Clips], name: str, representation: str) -> None:
    padded, clips = made
    ours = pipeline(name, representation=representation)
    index = np.array([6, 0, 3, 7, 5, 1, 2, 4, 6])
    draws = ours.draw(clips, index, seed=3, epoch=1, repeat_number=np.arange(9))
    batch = ours.train(clips, index, draws)
    assert batch.shape == (9, PRETRAIN[name], 3, 64, 25, 2)
    assert batch.dtype == torch.float32
    assert batch.is_contiguous()
    for row, n in enumerate(index):
        for view in range(PRETRAIN[name]):
            expected = naive_view(padded[n], draws, (row, view), representation)
            assert np.abs(batch[row, view].numpy() - expected).max() <= 3e-6
        if PEOPLE[n] == 1:
            assert not batch[row, ..., 1].any(), "an absent person is zero"
    assert not batch[3].any(), "an empty clip is zero"


@pytest.mark.parametrize("name", PRETRAIN)
def test_a_clip_gets_the_same_bits_in_any_batch(made: tuple[np.ndarray, Clips], name: str) -> None:
    _, clips = made
    ours = pipeline(name)
    index, repeat = np.tile(np.arange(8), 12), np.arange(96) // 8  # more than is made at once
    draws = ours.draw(clips, index, 5, 6, repeat)
    batch = ours.train(clips, index, draws)
    some = np.array([90, 3, 41])
    again = ours.draw(clips, index[some], 5, 6, repeat[some])
    for field in dataclasses.fields(draws):
        np.testing.assert_array_equal(getattr(again, field.name), getattr(draws, field.name)[some])
    out = torch.full((3, *batch.shape[1:]), torch.nan)
    assert ours.train(clips, index[some], rows_of(draws, some), out).data_ptr() == out.data_ptr()
    assert torch.equal(out, batch[some])
    changed = ours.draw(clips, index, 5, 7, repeat)
    assert not np.array_equal(changed.matrix, draws.matrix)
    long = index == 6
    assert len(np.unique(draws.start[long])) > 10, "each repeat and each view has its own crop"


@pytest.mark.parametrize("name", PRETRAIN)
def test_views_of_clips_on_a_device_are_the_same(made: tuple[np.ndarray, Clips], name: str) -> None:
    _, clips = made
    ours = pipeline(name, representation="motion")
    index = np.arange(8)
    draws = ours.draw(clips, index, 1, 1)
    there = ours.train(clips.on_device(torch.device("cpu")), index, draws)
    assert (there - ours.train(clips, index, draws)).abs().max() <= 1e-6


def test_without_draws_every_view_is_the_whole_clip(made: tuple[np.ndarray, Clips]) -> None:
    padded, clips = made
    batch = pipeline("usdrl_pretrain", window=32, views=3).test(clips, np.array([5, 0]))
    assert batch.shape == (2, 3, 3, 32, 25, 2)
    expected = crop_of(padded[5], 0, 127, 32)
    assert np.abs(batch[0].numpy() - expected).max() <= 1e-6
    assert torch.equal(batch[1, 2, :, 0], batch[1, 0, :, 31])


def test_the_loader_serves_views(made: tuple[np.ndarray, Clips]) -> None:
    loader = Loader(made[1], pipeline("usdrl_pretrain", window=16), batch_size=4, train=True, seed=2)
    batches = list(loader.epoch(0))
    assert [tuple(batch.clips.shape) for batch in batches] == [(4, 4, 3, 16, 25, 2)] * 2
    assert torch.equal(next(iter(loader.epoch(0, start=1))).clips, batches[1].clips)


def shares(flags: np.ndarray) -> np.ndarray:
    """How often each is true, over all but the last axis."""
    return flags.reshape(-1, flags.shape[-1]).mean(0)


def is_uniform(values: np.ndarray, low: float, high: float) -> bool:
    """Kolmogorov-Smirnov at about 0.1 %."""
    place = (np.sort(values.ravel()) - low) / (high - low)
    return bool(np.abs(place - (np.arange(place.size) + 0.5) / place.size).max() < 1.95 / np.sqrt(place.size))


@pytest.mark.parametrize("name", ["isc_pretrain", "usdrl_pretrain"])
def test_how_often_views_are_sheared_or_corrupted(made: tuple[np.ndarray, Clips], name: str) -> None:
    ours = pipeline(name)
    draws = ours.draw(made[1], np.full(10_000, 6), 0, 0, np.arange(10_000))
    corrupted = draws.chosen.any(-1)
    mapped = corrupted & draws.other.any((-1, -2))
    assert abs(corrupted.mean() - 0.5) < 0.012
    assert abs(mapped[corrupted].mean() - 0.5) < 0.017
    assert (draws.chosen.sum(-1)[corrupted] == 15).all()
    assert (np.abs(shares(draws.chosen[corrupted]) - 0.6) < 0.02).all()
    assert (draws.matrix[corrupted] == np.eye(3)).all()
    shear = draws.matrix[~corrupted]
    off = ~np.eye(3, dtype=bool)
    assert (shear[:, ~off] == 1).all()
    assert is_uniform(shear[:, off], -1, 1)
    assert is_uniform(draws.other[mapped], -1, 1)
    assert not draws.swapped.any()
    assert not draws.hidden.any()
    # 300 frames: at least 64, floor(300 p) for p uniform in [0.1, 1]
    assert draws.length.min() == 64
    assert draws.length.max() == 299
    assert abs((draws.length == 64).mean() - 35 / 270) < 0.01
    assert is_uniform(draws.length[draws.length > 64] + 0.5, 65, 300)
    assert (draws.start + draws.length).max() <= 300
    at_64 = draws.start[draws.length == 64]
    assert is_uniform(at_64 + 0.5, 0, 237)


def test_how_often_scdnet_changes_a_view(made: tuple[np.ndarray, Clips]) -> None:
    ours = pipeline("scdnet_pretrain")
    draws = ours.draw(made[1], np.full(10_000, 6), 1, 0, np.arange(10_000))
    masked, blocked = draws.chosen.any(-1), draws.hidden.any(-1)
    still = (draws.matrix == np.eye(3)).all((-1, -2))
    turned = ~still & (np.abs(draws.matrix @ draws.matrix.swapaxes(-1, -2) - np.eye(3)).max((-1, -2)) < 1e-9)
    assert abs(still.mean() - 0.25) < 0.011
    assert abs(turned.mean() - 0.25) < 0.011
    for flags in (draws.swapped, masked, blocked):
        assert abs(flags.mean() - 0.5) < 0.012
    together = [a & b for a in (still, turned) for b in (masked, blocked, draws.swapped)]
    assert all(abs(flags.mean() - 0.125) < 0.01 for flags in together), "independent of each other"
    assert abs((masked & blocked & draws.swapped).mean() - 0.125) < 0.01
    assert set(draws.chosen.sum(-1)[masked]) == {8}
    assert set(draws.hidden.sum(-1)[blocked]) == {24}
    blocks = draws.hidden.reshape(10_000, 2, 16, 4)
    assert (blocks.any(-1) == blocks.all(-1)).all(), "whole blocks of four frames"
    assert (np.abs(shares(blocks[blocked][..., 0]) - 6 / 16) < 0.02).all()
    assert not draws.other.any()
    # Of a turned view the angle about the axis R turns around is nearly the main one: uniform in 0 .. 30 degrees.
    angle = np.degrees(np.arccos((np.trace(draws.matrix[turned], axis1=-2, axis2=-1) - 1) / 2))
    assert is_uniform(angle[angle > 3], 3, 30)
    axis = np.abs(draws.matrix[turned] - draws.matrix[turned].swapaxes(-1, -2))[:, [1, 0, 0], [2, 2, 1]].argmax(-1)
    counts = np.bincount(axis, minlength=3)
    assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 13.8  # chi square, 2 degrees of freedom, 0.1 %


def test_masked_joints_are_as_likely_as_five_seeds_make_them(made: tuple[np.ndarray, Clips]) -> None:
    """The distribution of the masked joints against a plain imitation with NumPy's stable sort and other random numbers."""
    draws = pipeline("scdnet_pretrain").draw(made[1], np.full(10_000, 6), 2, 0, np.arange(10_000))
    ours = draws.chosen[draws.chosen.any(-1)]
    linked = np.eye(25, dtype=int)
    for child, parent in NTU25.edges:
        linked[child, parent] = linked[parent, child] = 1
    totals = np.linalg.matrix_power(linked, 2)[np.random.default_rng(7).integers(0, 25, (10_000, 5))].sum(1)
    naive = np.zeros((10_000, 25), bool)
    np.put_along_axis(naive, np.argsort(totals, axis=1, kind="stable")[:, -8:], True, axis=1)
    np.testing.assert_array_equal(spatial_mask(totals), naive)
    assert (np.abs(shares(ours) - shares(naive)) < 0.03).all()
    assert np.ptp(shares(naive)) > 0.2, "the trunk is masked far more often than the feet"


def test_totals_of_one_seed_are_walks_of_two_steps() -> None:
    """From the head (joint 3) one comes in two steps to the neck (2), its neighbour, and to itself."""
    totals = joint_totals(np.array([3]), NTU25)
    assert {int(joint): int(totals[joint]) for joint in np.flatnonzero(totals)} == {2: 2, 3: 2, 20: 1}


def test_rotations_turn_about_x_first_and_keep_lengths() -> None:
    quarter = rotations(np.array([[90.0, 0, 0], [0, 90, 0], [0, 0, 90], [90, 90, 0]]))
    np.testing.assert_allclose(quarter[0] @ [0, 1, 0], [0, 0, -1], atol=1e-12)
    np.testing.assert_allclose(quarter[1] @ [1, 0, 0], [0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(quarter[2] @ [0, 1, 0], [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(quarter[3], quarter[1] @ quarter[0], atol=1e-12)


def test_every_set_is_equally_likely() -> None:
    for size, count, sets in ((16, 6, 8008), (7, 3, 35), (4, 0, 1), (5, 5, 1), (1, 1, 1), (9, 8, 9)):
        found = random_set((np.arange(sets) + 0.5) / sets, size, count)
        assert (found.sum(1) == count).all()
        assert len(np.unique(found, axis=0)) == sets, "one number in the middle of each rank, every set once"
    assert random_set(np.array([[0.0, 1 - 2**-53]]), 25, 15).sum(-1).tolist() == [[15, 15]]
    with pytest.raises(ValueError, match="6 of 5"):
        random_set(np.zeros(1), 5, 6)


def test_crops_alone_change_nothing_else(made: tuple[np.ndarray, Clips]) -> None:
    padded, clips = made
    plain = only_cropped(np.array([[3, 0]]), np.array([[100, 127]]), 25, 64)
    batch = pipeline("isc_pretrain").train(clips, np.array([5]), plain)
    for view, (start, length) in enumerate(((3, 100), (0, 127))):
        assert np.array_equal(batch[0, view].numpy(), crop_of(padded[5], start, length, 64).astype(np.float32))


# ---- downstream


@pytest.mark.parametrize(
    ("name", "ratio", "test_ratio"),
    [("isc_downstream", None, 0.95), ("scdnet_downstream", 0.95, 0.95), ("usdrl_downstream", 1.0, 1.0)],
)
def test_downstream_crops(made: tuple[np.ndarray, Clips], name: str, ratio: float | None, test_ratio: float) -> None:
    padded, clips = made
    ours = pipeline(name, representation="bone")
    index = np.array([5, 6, 2, 7])
    batch = ours.test(clips, index)
    assert batch.shape == (4, 3, 64, 25, 2)
    start, length = centre_crop(clips.extent[index], test_ratio)
    for row, n in enumerate(index):
        expected = stream_of(crop_of(padded[n], start[row], length[row], 64), "bone")
        assert np.abs(batch[row].numpy() - expected).max() <= 1e-6
    trained = ours.train(clips, index, ours.draw(clips, index, 0, 0))
    assert torch.equal(trained, batch) == (ratio is not None)


def test_which_ratios_make_a_downstream_crop_random(made: tuple[np.ndarray, Clips]) -> None:
    _, clips = made
    index = np.full(2000, 6)

    def lengths(name: str, ratio: list[float]) -> set[int]:
        return set(pipeline(name, ratio=ratio).draw(clips, index, 0, 0, np.arange(2000)).length.tolist())

    for name, random, fixed in (("isc", [0.5, 1], [0.1, 1]), ("scdnet", [0.5, 1], [0.6, 1]), ("usdrl", [0.1, 1], [0.5, 1])):
        assert len(lengths(f"{name}_downstream", random)) > 100
        expected = 300 - 2 * int((1 - fixed[0]) * 300 / 2)
        assert lengths(f"{name}_downstream", fixed) == {expected}
    assert min(lengths("isc_downstream", [0.5, 1])) == 150
    assert min(lengths("usdrl_downstream", [0.1, 1])) == 64


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("isc_pretrain", {"views": 0}, "option views is 0"),
        ("isc_pretrain", {"views": True}, "option views is True"),
        ("isc_pretrain", {"ratio": [0.5]}, "option ratio"),
        ("isc_pretrain", {"ratio": [1, 0.1]}, "option ratio"),
        ("isc_pretrain", {"ratio": 0.1}, "option ratio"),
        ("isc_pretrain", {"window": 0}, "option window is 0"),
        ("isc_pretrain", {"rato": [0.1, 1]}, "did you mean ratio"),
        ("scdnet_pretrain", {"window": 60}, "multiple of 16"),
        ("scdnet_pretrain", {"representation": "bones"}, "did you mean bone"),
        ("usdrl_pretrain", {"skeleton": "ntu52"}, "unknown skeleton layout"),
        ("usdrl_downstream", {"ratio": [0, 1]}, "option ratio"),
        ("usdrl_downstream", {"test_ratio": "1"}, "option test_ratio"),
        ("usdrl_downstream", {"representation": "velocity"}, "option representation is 'velocity'"),
    ],
)
def test_wrong_options_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(LabError, match=message):
        pipeline(name, **options)


def test_clips_of_another_layout_are_refused(made: tuple[np.ndarray, Clips]) -> None:
    for name in ("isc_pretrain", "usdrl_downstream"):
        with pytest.raises(LabError, match="25 joints"):
            pipeline(name, skeleton="ucla20").accept(made[1])


# ---- clips for action detection


def test_detection_clips_frame_by_frame(made: tuple[np.ndarray, Clips]) -> None:
    """A long segment is cut out; background repeats the first and the last frame of the sequence."""
    padded, clips = made
    draws = DetectionDraws(front=np.array([20, 4]), back=np.array([15, 30]), start=np.array([11, 0]), length=np.array([100, 300]))
    segments = np.array([[9, 10, 125], [7, 40, 60]])
    labels = np.zeros((2, 300), np.int64)
    labels[0, 5:10], labels[1, 62:64] = 3, 4
    batch, found = detection_clips(clips, np.array([5, 6]), segments, labels, draws)
    for row, (n, before, after) in enumerate(((5, range(-10, 10), range(125, 140)), (6, range(36, 40), range(60, 90)))):
        front = np.clip(list(before), 0, LENGTHS[n] - 1)
        back = np.clip(list(after), 0, LENGTHS[n] - 1)
        action = 64 - len(front) - len(back)
        middle = crop_of(padded[n], draws.start[row], draws.length[row], action)
        expected = [padded[n, front].transpose(3, 0, 2, 1), middle, padded[n, back].transpose(3, 0, 2, 1)]
        assert np.abs(batch[row].numpy() - np.concatenate(expected, axis=1)).max() <= 1e-6
        assert found[row].tolist() == [*labels[row, front], *[segments[row, 0]] * action, *labels[row, back]]
    assert {0, 3, 9} <= set(found[0].tolist())
    assert {0, 4, 7} <= set(found[1].tolist())
    with pytest.raises(UsageError, match="299 labels for sequences of up to 300 frames"):
        detection_clips(clips, np.array([5, 6]), segments, labels[:, :299], draws)


def test_detection_draws(made: tuple[np.ndarray, Clips]) -> None:
    _, clips = made
    many = 4000
    segments = np.tile([5, 50, 150], (many, 1))
    draws = draw_detection(clips, np.full(many, 6), segments, seed=0, epoch=0, repeat_number=np.arange(many))
    frames, action = draws.front + draws.back, 64 - draws.front - draws.back
    assert set(frames.tolist()) == set(range(32, 39))
    assert is_uniform(frames[frames < 38] + np.random.default_rng(0).random((frames < 38).sum()), 32, 38)
    assert is_uniform(draws.front + np.random.default_rng(1).random(many), 0, 32)
    assert draws.start.min() == 50
    assert (draws.start < 100 - action // 2).all()
    end = draws.start + draws.length
    assert (end > 100 + action // 2).all()
    assert end.max() == 149
    again = draw_detection(clips, np.array([6]), segments[:1], seed=0, epoch=0, repeat_number=17)
    assert [getattr(again, name)[0] for name in ("front", "back", "start", "length")] == [
        draws.front[17], draws.back[17], draws.start[17], draws.length[17]
    ]  # fmt: skip
    # A short segment is not cut out: the whole padded sequence takes its place.
    short = np.array([[5, 50, 50 + 26 + 10], [5, 50, 50 + 26 + 11]])
    around = (np.array([10, 10]), np.array([28, 28]))
    made_draws = detection_draws(clips, np.array([5, 5]), short, around, (np.array([51, 51]), np.array([80, 80])))
    assert made_draws.start.tolist() == [0, 51]
    assert made_draws.length.tolist() == [300, 29]
    front, back = background(np.array([0.5, 0.59]), np.array([0.0, 0.49]), 64)
    assert (front.tolist(), back.tolist()) == ([0, 31], [32, 6])


# ---- vectors


def test_vectors_are_reordered_clips() -> None:
    """A one at (coordinate, frame, joint, person) is found where the papers' readers put it."""
    clips = torch.zeros(2, 4, 3, 8, 25, 2)
    c, t, v, m = 2, 5, 17, 1
    clips[1, 3, c, t, v, m] = 1
    assert graph(clips) is clips
    for vectors, shape, place in (
        (sequence, (8, 150), (t, v * 6 + c * 2 + m)),
        (time, (8, 150), (t, m * 75 + v * 3 + c)),
        (space, (50, 24), (m * 25 + v, t * 3 + c)),
    ):
        found = vectors(clips)
        assert found.shape == (2, 4, *shape)
        assert found.nonzero().tolist() == [[1, 3, *place]]


# ---- subsets


def test_semi_supervised_rows_are_the_official_ones() -> None:
    assert semi_supervised(24, 0.1, 1007).tolist() == [11, 9]
    assert semi_supervised(24, 0.5, 1007).tolist() == [11, 9, 0, 20, 10, 13, 16, 23, 6, 3, 12, 5]
    for ratio in (0, -0.1, 1.5):
        with pytest.raises(UsageError, match="ratio"):
            semi_supervised(24, ratio, 0)
    with pytest.raises(UsageError, match="no clip"):
        semi_supervised(24, 0.01, 0)


def test_a_share_of_every_class() -> None:
    labels = np.repeat([4, 0, 2], [50, 7, 100])
    rows = per_class(labels, 0.1, seed=3)
    assert np.bincount(labels[rows]).tolist() == [1, 0, 10, 0, 5]
    assert (np.diff(rows) > 0).all()
    assert not np.array_equal(rows, per_class(labels, 0.1, seed=4))
    np.testing.assert_array_equal(per_class(labels, 1.0, seed=0), np.arange(157))
    picked = np.bincount(np.concatenate([per_class(labels, 0.1, seed) for seed in range(300)]), minlength=157)
    assert picked[50:57].min() > 20, "any clip of a class may be the one"
