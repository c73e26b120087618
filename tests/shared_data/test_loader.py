"""Batches: order, repeats, resume, the background thread, memory that is used again."""

from __future__ import annotations

import dataclasses
import itertools
import threading
from typing import Any

import numpy as np
import pytest
import torch

from shared_data.batches.memory import Recycled
from shared_data.clips import Clips
from shared_data.errors import LabError
from shared_data.formats.ragged import RaggedBuilder, in_memory
from shared_data.loader import Batch, Loader
from shared_data.pipelines import Pipeline, pipeline


@pytest.fixture(scope="module")
def clips() -> Clips:
    rng = np.random.default_rng(0)
    padded = np.zeros((23, 90, 2, 25, 3), dtype=np.float32)
    for n in range(23):
        length = int(rng.integers(5, 91))
        padded[n, :length, : 1 + n % 2] = rng.standard_normal((length, 1 + n % 2, 25, 3))
    builder = RaggedBuilder(in_memory("train", 25, padded.dtype), joints=25, max_people=2, dtype=np.float32)
    builder.add(padded)
    return builder.finish(rng.integers(0, 5, 23), np.array([f"train_{i}" for i in range(23)]), frames=90)


def loader(clips: Clips, **options: Any) -> Loader:
    return Loader(clips, pipeline("ctrgcn_ntu", window=16), **{"batch_size": 4, "train": True, **options})


def same(ours: list[Batch], theirs: list[Batch]) -> bool:
    """Equal bit for bit, in content and order."""
    return len(ours) == len(theirs) and all(
        torch.equal(a.clips, b.clips)
        and torch.equal(a.labels, b.labels)
        and np.array_equal(a.ids, b.ids)
        and np.array_equal(a.index, b.index)
        for a, b in zip(ours, theirs, strict=True)
    )


def test_batches_have_the_promised_form(clips: Clips) -> None:
    batches = list(loader(clips).epoch(0))
    assert [len(batch.labels) for batch in batches] == [4, 4, 4, 4, 4, 3]
    for batch in batches:
        assert batch.clips.shape == (len(batch.labels), 3, 16, 25, 2)
        assert batch.clips.dtype == torch.float32
        assert batch.clips.is_contiguous()
        assert batch.labels.dtype == torch.int64
        np.testing.assert_array_equal(batch.labels.numpy(), clips.labels[batch.index])
        np.testing.assert_array_equal(batch.ids, clips.ids[batch.index])
    shown = np.concatenate([batch.index for batch in batches])
    np.testing.assert_array_equal(np.sort(shown), np.arange(23))
    assert not np.array_equal(shown, np.arange(23))


def test_drop_last_and_length(clips: Clips) -> None:
    assert len(loader(clips)) == 6
    short = loader(clips, drop_last=True)
    assert len(short) == 5
    assert [len(batch.labels) for batch in short.epoch(0)] == [4] * 5


def test_test_batches_are_in_order_and_the_same_every_epoch(clips: Clips) -> None:
    tested = loader(clips, train=False)
    batches = list(tested.epoch(0))
    np.testing.assert_array_equal(np.concatenate([batch.index for batch in batches]), np.arange(23))
    assert same(batches, list(tested.epoch(9)))
    assert same(batches, list(loader(clips, train=False, seed=5).epoch(0)))
    whole = pipeline("ctrgcn_ntu", window=16).test(clips, np.arange(23))
    np.testing.assert_array_equal(torch.cat([batch.clips for batch in batches]).numpy(), whole)


@pytest.mark.parametrize("train", [True, False])
def test_the_same_bits_whatever_the_workers(clips: Clips, train: bool) -> None:
    base = list(loader(clips, workers=0, train=train).epoch(3))
    for workers, prefetch in ((1, 1), (1, 5), (2, 2), (4, 2)):
        assert same(base, list(loader(clips, workers=workers, prefetch=prefetch, train=train).epoch(3)))


def test_batches_made_on_a_device_are_the_same(clips: Clips) -> None:
    """`--augment-on device` with the CPU as the device: no GPU is needed to see that the path is the same one."""
    there = loader(clips, device=torch.device("cpu"))
    assert same(list(there.epoch(1)), list(loader(clips).epoch(1)))
    assert there.workers == 0, "a device queues its own work"


def test_the_official_random_numbers_repeat_in_every_epoch_and_run(clips: Clips) -> None:
    def drawn(epoch: int, start: int = 0, **options: Any) -> list[Any]:
        running = loader(clips, upstream=2, **options)
        return list(running._upstream_plans(epoch, start))

    first, again, other = drawn(0), drawn(5), drawn(0, seed=9)
    full = [(index, draws) for index, draws in first if len(index) == 4]
    assert not np.array_equal(first[0][0], again[0][0]), "the order of the clips does change"
    for (_, ours), (_, theirs), (_, third) in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(ours.matrices, theirs.matrices)
        np.testing.assert_array_equal(ours.matrices, third.matrices)
    assert not np.array_equal(full[0][1].matrices, full[1][1].matrices), "two workers"
    assert not np.array_equal(full[0][1].matrices, full[2][1].matrices), "a worker goes on from batch to batch"
    assert same(list(loader(clips, upstream=2).epoch(0, 3)), list(loader(clips, upstream=2).epoch(0))[3:])
    with pytest.raises(LabError, match="no official stream"):
        Loader(clips, Broken(pipeline("ctrgcn_ntu"), np.zeros(0)), batch_size=4, train=True, upstream=1)


def test_the_same_bits_from_any_start(clips: Clips, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = list(loader(clips, repeat=3).epoch(2))
    for ahead in (4096, 8, 1):  # how far random numbers are made in advance must not matter either
        monkeypatch.setattr("shared_data.loader._DRAWN_AHEAD", ahead)
        for start in (0, 1, 7, len(whole) - 1, len(whole), len(whole) + 3):
            assert same(whole[start:], list(loader(clips, repeat=3).epoch(2, start)))
    with pytest.raises(LabError, match="first batch is -1"):
        loader(clips).epoch(0, -1)


def test_epochs_and_seeds_differ_in_order_and_augmentation(clips: Clips) -> None:
    def by_clip(batches: list[Batch]) -> torch.Tensor:
        order = np.argsort(np.concatenate([batch.index for batch in batches]))
        return torch.cat([batch.clips for batch in batches])[order]

    base = list(loader(clips).epoch(0))
    for other in (list(loader(clips).epoch(1)), list(loader(clips, seed=1).epoch(0))):
        assert any(not np.array_equal(a.index, b.index) for a, b in zip(base, other, strict=True))
        assert (by_clip(base) != by_clip(other)).flatten(1).any(1).all(), "every clip has other augmentations"


def test_a_clip_has_the_same_augmentation_in_any_batch_size(clips: Clips) -> None:
    small = {int(i): row for batch in loader(clips).epoch(0) for i, row in zip(batch.index, batch.clips, strict=True)}
    for batch in loader(clips, batch_size=23).epoch(0):
        for i, row in zip(batch.index, batch.clips, strict=True):
            assert torch.equal(row, small[int(i)])


def test_repeats_show_each_clip_so_many_times_each_time_another_way(clips: Clips) -> None:
    batches = list(loader(clips, repeat=5).epoch(0))
    index = np.concatenate([batch.index for batch in batches])
    np.testing.assert_array_equal(np.bincount(index), np.full(23, 5))
    showings = torch.cat([batch.clips for batch in batches])[torch.from_numpy(np.flatnonzero(index == 4))]
    for a, b in itertools.combinations(showings, 2):
        assert not torch.equal(a, b)


@pytest.mark.parametrize("options", [{}, {"upstream": 2}, {"repeat": 3, "drop_last": True}])
def test_shares_of_a_batch_have_its_bits_and_leave_nothing_out(clips: Clips, options: dict[str, Any]) -> None:
    """Batches of five for two processes: three clips and two."""
    whole = list(loader(clips, batch_size=5, **options).epoch(3, 1))
    parts = [list(loader(clips, batch_size=5, share=(rank, 2), **options).epoch(3, 1)) for rank in range(2)]
    for number, batch in enumerate(whole):
        for rank in range(2):
            share = parts[rank][number]
            assert torch.equal(share.clips, batch.clips[rank::2]) and torch.equal(share.labels, batch.labels[rank::2])
            assert np.array_equal(share.ids, batch.ids[rank::2])
        assert np.array_equal(loader(clips, batch_size=5, **options).ids(3, number + 1), batch.ids)


def test_a_batch_stays_its_holders(clips: Clips) -> None:
    """Memory is used again only when nobody holds a tensor or a view of it."""
    running = loader(clips, workers=0, repeat=20)
    kept: list[tuple[torch.Tensor, torch.Tensor]] = []
    addresses = set()
    for batch in running.epoch(0):
        kept.append((batch.clips[:, 1], batch.clips[:, 1].clone()))  # a view, the tensor itself goes
        addresses.add(batch.clips.data_ptr())
    del batch
    assert all(torch.equal(view, copy) for view, copy in kept)
    assert len(addresses) == len(kept)
    kept.clear()
    assert len({batch.clips.data_ptr() for batch in running.epoch(0)}) <= 4


def test_recycled_memory_is_given_once_at_a_time() -> None:
    memory = Recycled(keep=2)
    first = memory.take((2, 3))
    second = memory.take((2, 3))
    third = memory.take((2, 3))
    assert len({first.data_ptr(), second.data_ptr(), third.data_ptr()}) == 3
    del first
    assert memory.take((1, 3)).data_ptr() != second.data_ptr()
    assert memory.take((5, 5)).shape == (5, 5)


class Broken:
    """A pipeline that fails at the batch of the clips `broken`."""

    def __init__(self, inner: Pipeline, broken: np.ndarray) -> None:
        self._inner, self.name, self.item, self.broken = inner, inner.name, inner.item, broken

    def accept(self, clips: Clips) -> None: ...

    def draw(self, *given: Any) -> Any:
        return self._inner.draw(*given)

    def train(self, clips: Clips, index: np.ndarray, draws: Any, out: torch.Tensor | None = None) -> torch.Tensor:
        if np.array_equal(index, self.broken):
            raise LabError("the third batch is broken")
        return self._inner.train(clips, index, draws, out)

    def test(self, clips: Clips, index: np.ndarray, out: torch.Tensor | None = None) -> torch.Tensor:
        return self._inner.test(clips, index, out)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_an_error_in_the_thread_reaches_the_caller(clips: Clips, workers: int) -> None:
    running = Loader(
        clips,
        Broken(pipeline("ctrgcn_ntu", window=16), loader(clips).order(0)[0][8:12]),
        batch_size=4,
        train=True,
        workers=workers,
    )
    epoch = running.epoch(0)
    good = [next(epoch), next(epoch)]
    with pytest.raises(LabError, match="the third batch is broken"):
        next(epoch)
    assert same(good, list(itertools.islice(loader(clips).epoch(0), 2)))
    assert not ahead_threads()


def ahead_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("batches ahead")]


def test_the_thread_ends_with_the_epoch_and_with_its_holder(clips: Clips) -> None:
    list(loader(clips).epoch(0))
    assert not ahead_threads()
    epoch = loader(clips, repeat=50).epoch(0)
    next(epoch)
    assert len(ahead_threads()) == 1
    epoch.close()  # type: ignore[attr-defined]
    assert not ahead_threads()
    epoch = loader(clips, repeat=50).epoch(0)
    next(epoch)
    del epoch
    assert not ahead_threads()


def test_memory_used_under_inference_mode_can_be_used_again_outside(clips: Clips) -> None:
    """Evaluation reads batches under inference mode, training in between does not."""
    running = loader(clips, workers=0)
    with torch.inference_mode():
        first = [batch.clips.clone() for batch in running.epoch(0)]
    again = [batch.clips for batch in running.epoch(0)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(batch.is_inference() for batch in again)


def test_two_epochs_of_one_loader_at_a_time(clips: Clips) -> None:
    running = loader(clips)
    pairs = list(zip(running.epoch(0), running.epoch(1), strict=True))
    assert same([a for a, _ in pairs], list(loader(clips).epoch(0)))
    assert same([b for _, b in pairs], list(loader(clips).epoch(1)))


def test_the_threads_of_torch_stay_as_they_were(clips: Clips) -> None:
    before = torch.get_num_threads()
    list(loader(clips, workers=2).epoch(0))
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": 1.5}, "batch_size is '1.5', of type float"),
        ({"batch_size": "4"}, "batch_size is '4', of type str"),
        ({"batch_size": None}, "batch_size is 'None'"),
        ({"batch_size": True}, "batch_size is 'True', of type bool"),
        ({"batch_size": np.float64(4)}, "of type float64"),
        ({"workers": None}, "workers is 'None'"),
        ({"prefetch": 2.0}, "prefetch is '2.0'"),
        ({"repeat": [1]}, "repeat is '\\[1\\]'"),
        ({"repeat": 0}, "repeat is 0"),
        ({"prefetch": 0}, "prefetch is 0"),
        ({"workers": -1}, "workers is -1"),
        ({"repeat": 2, "train": False}, "repeat is 2 for a test split"),
        ({"batch_size": 24, "drop_last": True}, "do not fill one batch of 24"),
    ],
)
def test_settings_that_make_no_batch_are_refused(clips: Clips, options: dict[str, Any], message: str) -> None:
    with pytest.raises(LabError, match=message):
        loader(clips, **options)


def test_whole_numbers_of_numpy_are_whole_numbers(clips: Clips) -> None:
    ours, theirs = loader(clips, batch_size=4), loader(clips, batch_size=np.int16(4))
    assert same(list(ours.epoch(2, start=1)), list(theirs.epoch(np.uint8(2), start=np.int64(1))))


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("epoch", [-1, 2**32, 1.0, "1", None])
def test_epochs_that_cannot_be_are_refused_at_once(clips: Clips, train: bool, epoch: Any) -> None:
    made = loader(clips, train=train)
    for ask in (made.epoch, made.order):
        with pytest.raises(LabError, match=r"epoch is .*\n.*\n.*from 0 to 4294967295"):
            ask(epoch)
    assert len(made.order(2**32 - 1)[0]) == len(clips)


@pytest.mark.parametrize("start", [1.5, "1", None])
def test_starts_that_cannot_be_are_refused_at_once(clips: Clips, start: Any) -> None:
    with pytest.raises(LabError, match="the first batch is"):
        loader(clips).epoch(0, start=start)


def test_clips_the_pipeline_cannot_read_are_refused(clips: Clips) -> None:
    with pytest.raises(LabError, match="there are no clips"):
        loader(clips.subset(np.arange(0)))
    with pytest.raises(LabError, match="25 joints"):
        Loader(clips, pipeline("ctrgcn_ucla"), batch_size=4, train=True)


def test_page_locked_memory_needs_a_gpu(clips: Clips) -> None:
    if torch.cuda.is_available():
        assert next(loader(clips, pin_memory=True).epoch(0)).clips.is_pinned()
    else:
        with pytest.raises(LabError, match="CUDA"):
            loader(clips, pin_memory=True)


def test_labels_of_any_integer_type_become_int64(clips: Clips) -> None:
    narrow = dataclasses.replace(clips, labels=clips.labels.astype(np.int16))
    assert next(loader(narrow).epoch(0)).labels.dtype == torch.int64
