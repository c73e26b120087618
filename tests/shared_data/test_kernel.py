"""The compiled kernels: the bits of the torch path, and nothing missing without it."""

from __future__ import annotations

import dataclasses
import functools
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from shared_data.batches import kernel
from shared_data.batches.augment import rotation_matrices
from shared_data.batches.frames import NOTHING, Frames, crop_resize
from shared_data.batches.gather import channels, present_people
from shared_data.batches.kernel import Kernel
from shared_data.clips import Clips
from shared_data.formats.ragged import RaggedBuilder, in_memory
from shared_data.pipelines import pipeline
from shared_data.pipelines import views as views_module
from shared_data.pipelines.views import Views, make_views
from shared_data.skeletons import NTU25, Skeleton

pytest.importorskip("numba", reason="the optional package numba is not installed: pip install '.[fast]'")


@pytest.fixture
def clips() -> Clips:
    rng = np.random.default_rng(0)
    padded = np.zeros((9, 120, 2, 25, 3), np.float32)
    for n, length in enumerate((120, 1, 64, 0, 100, 77, 30, 119, 2)):
        padded[n, :length, : 1 + n % 2] = rng.standard_normal((length, 1 + n % 2, 25, 3))
    builder = RaggedBuilder(in_memory("train", 25, padded.dtype), joints=25, max_people=2)
    builder.add(padded)
    return builder.finish(np.zeros(9, np.int64), np.array([f"train_{n}" for n in range(9)]), frames=120)


def both(clips: Clips, frames: Frames, matrices: np.ndarray | None, monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """`channels` without and with the kernel."""
    present = present_people(clips, np.arange(len(clips)))
    made = []
    for wish in ("off", "now"):
        monkeypatch.setenv("SAL_KERNEL", wish)
        monkeypatch.setattr(kernel, "CHANNELS", kernel.Compiled(kernel._channels) if wish == "off" else CHANNELS)
        made.append(channels(clips, present, frames, matrices).clone())
    return made


def both_views(clips: Clips, draws: Views, monkeypatch: pytest.MonkeyPatch, layout: Skeleton = NTU25) -> list[torch.Tensor]:
    """`make_views` of all clips without and with the kernel, and how often it ran."""
    made, calls = [], []
    compiled = VIEWS()

    def counted(*arguments: object) -> None:
        calls.append(len(arguments))
        compiled(*arguments)

    for found in (None, counted):
        monkeypatch.setattr(views_module, "fused", lambda rows, which, found=found: found)
        monkeypatch.setenv("SAL_KERNEL", "off")  # of `channels`
        out = torch.full((*draws.start.shape, 3, draws.hidden.shape[-1], clips.joints, clips.max_people), torch.nan)
        made.append(make_views(clips, np.arange(len(clips)), draws, "joint", layout, out=out))
    assert len(calls) == 1
    return made


CHANNELS = kernel.Compiled(kernel._channels)
VIEWS = functools.cache(kernel._views)


def in_place(clips: Clips) -> Clips:
    """The same clips with rows that begin at an odd byte and may not be written, as in a zip."""
    memory = np.zeros(clips.rows.nbytes + 64, np.uint8)
    begin = -memory.ctypes.data % 64 + 7
    rows = memory[begin : begin + clips.rows.nbytes].view(np.float32).reshape(clips.rows.shape)
    rows[:] = clips.rows
    rows.flags.writeable = False
    return dataclasses.replace(clips, rows=rows)


def frame_by_frame(clips: Clips) -> Clips:
    """The same clips with the people of a frame side by side, and the row of zeros behind them."""
    padded = np.zeros((len(clips), 120, clips.max_people, clips.joints, 3), np.float32)
    for n in range(len(clips)):
        padded[n, : clips.extent[n], : clips.people[n]] = clips.clip(n)
    rows = np.concatenate([padded.reshape(-1, clips.joints, 3), np.zeros((1, clips.joints, 3), np.float32)])
    offset = np.arange(len(clips)) * 120 * clips.max_people
    return dataclasses.replace(clips, rows=rows, offset=offset, frame_step=clips.max_people, zero=len(rows) - 1)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("kind", ["resized", "single", "in place"])
def test_the_kernel_has_the_bits_of_the_torch_path(
    clips: Clips, kind: str, turned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(1)
    if kind == "single":
        number = rng.integers(0, 130, (9, 40))  # some beyond the end
        number[:, 3] = NOTHING
        frames = Frames(number)
    else:
        frames = crop_resize(np.minimum(3, clips.valid), np.maximum(clips.valid - 3, 0), 64)
    if kind == "in place":
        clips = in_place(clips)
    matrices = rotation_matrices(rng.uniform(-0.3, 0.3, (9, 3))) if turned else None
    torch_path, fused = both(clips, frames, matrices, monkeypatch)
    assert torch_path.shape[1] == 3 and torch_path.any()
    assert torch.equal(torch_path, fused)


def test_float64_rows_take_the_torch_path(clips: Clips, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAL_KERNEL", "now")
    assert kernel.fused(clips.rows.astype(np.float64)) is None
    assert kernel.fused(clips.rows) is not None


def any_views(clips: Clips, kind: str, window: int) -> Views:
    """Seven views of each clip to which everything happens at once, with exact zeros of both signs among the numbers."""
    rng = np.random.default_rng(5)
    shape = (len(clips), 7)
    start = rng.integers(0, 40, shape)
    length = np.maximum(clips.valid[:, None] - start, 0)
    length[:, 1] += 9  # beyond what is stored
    entries = rng.uniform(-1, 1, (2, *shape, 3, 3))
    entries[rng.random(entries.shape) < 0.2] = -0.0
    entries[1, rng.random(shape) < 0.4] = 0.0
    share = {"none": 0.0, "some": 0.5, "all": 1.0}[kind]
    swapped, chosen, hidden = (rng.random((*shape, *more)) < share for more in ((), (clips.joints,), (window,)))
    return Views(start, length, swapped, entries[0], entries[1], chosen, hidden)


@pytest.mark.parametrize("kind", ["none", "some", "all"])
@pytest.mark.parametrize("rows", ["ragged", "in place", "frame by frame", "mapped"])
def test_the_kernel_of_views_has_the_bits_of_the_torch_path(
    clips: Clips, rows: str, kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clips = dataclasses.replace(clips, rows=clips.rows.copy())
    clips.rows[3:300:7] = -0.0
    clips.rows[::5, 3] = 0.0
    if rows == "in place":
        clips = in_place(clips)
    elif rows == "frame by frame":
        clips = in_place(frame_by_frame(clips))
    elif rows == "mapped":
        np.save(tmp_path / "rows.npy", clips.rows)
        clips = dataclasses.replace(clips, rows=np.load(tmp_path / "rows.npy", mmap_mode="r"))
    draws = any_views(clips, kind, window=33)
    torch_path, fused = both_views(clips, draws, monkeypatch)
    assert torch_path.any() == (kind != "all")
    assert torch.equal(torch_path, fused)
    hidden = torch.from_numpy(draws.hidden)
    for made in (torch_path, fused):
        assert not made.transpose(2, 3)[hidden].view(torch.int32).any(), "hidden frames are zero, without a sign"
        assert not made[3].any(), "an empty clip is zero"


@pytest.mark.parametrize("people", [1, 2, 3])
def test_the_kernel_of_views_serves_any_number_of_people(people: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    builder = RaggedBuilder(in_memory("train", 25, np.dtype(np.float32)), joints=25, max_people=people)
    padded = rng.standard_normal((6, 20, people, 25, 3)).astype(np.float32)
    for n in range(6):
        padded[n, :, 1 + n % people :] = 0
    builder.add(padded)
    clips = builder.finish(np.zeros(6, np.int64), np.array([f"train_{n}" for n in range(6)]), frames=20)
    assert clips.people.max() == people
    torch_path, fused = both_views(clips, any_views(clips, "some", window=16), monkeypatch)
    assert torch.equal(torch_path, fused)
    assert fused[0, ..., :1].any() and not fused[0, ..., 1:].any()
    assert fused[people - 1, ..., -1].any()


@pytest.mark.parametrize("name", ["isc_pretrain", "scdnet_pretrain", "usdrl_pretrain"])
def test_what_pipelines_draw_has_the_bits_of_the_torch_path(clips: Clips, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for epoch in range(4):
        torch_path, fused = both_views(clips, pipeline(name).draw(clips, np.arange(9), 3, epoch), monkeypatch)
        assert torch_path.any() and torch.equal(torch_path, fused)


def test_views_the_kernel_is_not_made_for_take_the_torch_path(clips: Clips, monkeypatch: pytest.MonkeyPatch) -> None:
    draws = any_views(clips, "some", window=16)
    asked = []
    monkeypatch.setattr(views_module, "fused", lambda rows, which: asked.append(which))
    for representation in ("motion", "bone"):
        make_views(clips, np.arange(9), draws, representation, NTU25)
    make_views(clips.on_device(torch.device("cpu")), np.arange(9), draws, "joint", NTU25)
    assert asked == []
    make_views(clips, np.arange(9), draws, "joint", NTU25)
    assert asked == [kernel.VIEWS]


@pytest.mark.parametrize("compile_it", [kernel._channels, kernel._views])
def test_it_is_compiled_in_a_thread_after_some_batches(compile_it: Callable[[], Kernel], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SAL_KERNEL", raising=False)
    fresh = kernel.Compiled(compile_it)
    assert [fresh.get() for _ in range(kernel.AFTER_BATCHES - 1)] == [None] * (kernel.AFTER_BATCHES - 1)
    fresh.get()
    deadline = time.monotonic() + 60
    while fresh.get() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert fresh.get() is not None


def test_nothing_is_missing_without_numba() -> None:
    """In a process that cannot import numba a batch is made all the same."""
    program = """
import sys
sys.modules["numba"] = None
sys.path.insert(0, ".")
import numpy as np
from shared_data.batches import kernel
kernel.importlib.util.find_spec = lambda name: None
for _ in range(20):
    assert kernel.fused(np.zeros((1, 3), np.float32)) is None
    assert kernel.fused(np.zeros((1, 3), np.float32), kernel.VIEWS) is None
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
