"""The compiled kernel: the bits of the torch path, and nothing missing without it."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from shared_data.batches import kernel
from shared_data.batches.augment import rotation_matrices
from shared_data.batches.frames import NOTHING, Frames, crop_resize
from shared_data.batches.gather import channels, present_people
from shared_data.clips import Clips
from shared_data.formats.ragged import RaggedBuilder, in_memory

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
        monkeypatch.setattr(kernel, "_COMPILED", kernel._Compiled() if wish == "off" else COMPILED)
        made.append(channels(clips, present, frames, matrices).clone())
    return made


COMPILED = kernel._Compiled()


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
    if kind == "in place":  # rows begin at an odd byte and may not be written, as in a zip
        memory = np.zeros(clips.rows.nbytes + 64, np.uint8)
        begin = -memory.ctypes.data % 64 + 7
        rows = memory[begin : begin + clips.rows.nbytes].view(np.float32).reshape(clips.rows.shape)
        rows[:] = clips.rows
        rows.flags.writeable = False
        clips = dataclasses.replace(clips, rows=rows)
    matrices = rotation_matrices(rng.uniform(-0.3, 0.3, (9, 3))) if turned else None
    torch_path, fused = both(clips, frames, matrices, monkeypatch)
    assert torch_path.shape[1] == 3 and torch_path.any()
    assert torch.equal(torch_path, fused)


def test_float64_rows_take_the_torch_path(clips: Clips, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAL_KERNEL", "now")
    assert kernel.fused(clips.rows.astype(np.float64)) is None
    assert kernel.fused(clips.rows) is not None


def test_it_is_compiled_in_a_thread_after_some_batches(clips: Clips, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SAL_KERNEL", raising=False)
    fresh = kernel._Compiled()
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
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
