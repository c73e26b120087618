"""Clips written in the formats that other projects read: the Kaggle NPZ, the five-dimensional NPZ, pyskl's pickle.

Each writer streams: it makes one block of padded clips at a time, so that a file of 10 GB needs some tens of MB.
"""

from __future__ import annotations

import contextlib
import math
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO

import numpy as np

from shared_data.clips import Clips
from shared_data.skeletons import Skeleton

SPLITS = ("train", "test")
BLOCK = 16 << 20  # bytes of padded clips made at a time
_DATE = (2020, 1, 1, 0, 0, 0)  # the same content gives the same bytes
Tick = Callable[[int], None]  # clips written since the last call


@dataclass(frozen=True)
class Content:
    """What a file is to hold.

    clips   "train" and "test"
    frames  T of each split in a padded format, at least its longest clip
    people  M in the five-dimensional format
    """

    clips: Mapping[str, Clips]
    frames: Mapping[str, int]
    people: int
    skeleton: Skeleton
    class_names: tuple[str, ...]
    about: str
    protocol: str


def write_kaggle(file: IO[bytes], content: Content, tick: Tick) -> None:
    """x (N, T, 150) float32, ordered person (always 2), joint, xyz; y (N, K) one-hot float64."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for split in SPLITS:
            clips, frames = content.clips[split], content.frames[split]
            with npz_member(archive, f"x_{split}", (len(clips), frames, 150), "<f4") as stream:
                for block in padded(clips, frames, 2):
                    stream.write(block.data)
                    tick(len(block))
            classes = len(content.class_names)
            with npz_member(archive, f"y_{split}", (len(clips), classes), "<f8") as stream:
                for start in range(0, len(clips), 1024):
                    labels = clips.labels[start : start + 1024]
                    stream.write((labels[:, None] == np.arange(classes)).astype("<f8").data)
        _write_names(archive, content)


def write_skeleton5d(file: IO[bytes], content: Content, tick: Tick) -> None:
    """x (N, 3, T, V, M) float32; y (N,) int64, from 0."""
    joints, people = content.skeleton.joints, content.people
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for split in SPLITS:
            clips, frames = content.clips[split], content.frames[split]
            with npz_member(archive, f"x_{split}", (len(clips), 3, frames, joints, people), "<f4") as stream:
                for block in padded(clips, frames, people):
                    stream.write(np.ascontiguousarray(block.transpose(0, 4, 1, 3, 2)).data)
                    tick(len(block))
            with npz_member(archive, f"y_{split}", (len(clips),), "<i8") as stream:
                stream.write(clips.labels.astype("<i8").data)
        _write_names(archive, content)


def padded(clips: Clips, frames: int, people: int) -> Iterator[np.ndarray]:
    """All clips in blocks (B, T, M, V, 3) float32, zero where there is no frame or person; the buffer is reused."""
    clip_bytes = math.prod((frames, people, clips.joints, 3)) * 4
    buffer = np.empty((max(1, min(len(clips), BLOCK // clip_bytes)), frames, people, clips.joints, 3), "<f4")
    for start in range(0, len(clips), len(buffer)):
        block = buffer[: min(len(buffer), len(clips) - start)]
        block[:] = 0
        for n, target in enumerate(block, start):
            clip = clips.clip(n)
            target[: clip.shape[0], : clip.shape[1]] = clip
        yield block


@contextlib.contextmanager
def npz_member(archive: zipfile.ZipFile, key: str, shape: tuple[int, ...], descr: str) -> Iterator[IO[bytes]]:
    """An .npy member of an open archive, header written; the data follow in C order. A fixed date: same data, same bytes."""
    info = zipfile.ZipInfo(f"{key}.npy", _DATE)
    info.compress_type = archive.compression
    with archive.open(info, "w", force_zip64=True) as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": shape})
        yield stream


def _write_names(archive: zipfile.ZipFile, content: Content) -> None:
    """The optional keys of both NPZ layouts: where the clips are from, and the names of the classes."""
    for key, text in (("about", np.array(content.about)), ("class_names", np.array(content.class_names))):
        with npz_member(archive, key, text.shape, text.dtype.newbyteorder("<").str) as stream:
            stream.write(text.astype(text.dtype.newbyteorder("<")).tobytes())


def write_pyskl(file: IO[bytes], content: Content, tick: Tick) -> None:
    """A pickle (protocol 4) of plain dicts, lists, text, integers and float32 arrays, as pyskl and mmaction2 load it.

    The published files hold float16; its steps are 2 mm at 2 to 4 m, so float32 is kept. Every clip has the people and frames
    that it has. Written operation by operation, because the standard pickler keeps all it has written until it is done. Arrays
    are named as NumPy 1 did, which NumPy 2 reads as well.
    """
    put = file.write
    put(b"\x80\x04")  # protocol 4
    # Operations 0 to 2 of the memo: the function and the two types that every array needs. Read, numbered, set aside.
    put(_global("numpy.core.multiarray", "_reconstruct") + b"\x94" + b"0")
    put(_global("numpy", "ndarray") + b"\x94" + b"0")
    kind = _global("numpy", "dtype") + _text("f4") + b"\x89\x88\x87R" + b"\x94"  # dtype("f4", False, True)
    put(kind + b"(K\x03" + _text("<") + b"NNN" + 2 * _whole(-1) + b"K\x00t" + b"b" + b"0")
    put(b"}(" + _text("split") + b"}(")
    words = (f"{content.protocol}_train", f"{content.protocol}_val") if content.protocol else ("train", "val")
    for split, word in zip(SPLITS, words, strict=True):
        put(_text(word))
        _write_list(put, map(_text, content.clips[split].ids.tolist()))
    put(b"u" + _text("annotations"))
    flat = content.skeleton.name == "coco17"  # its rows are x, y and score
    parts = [content.clips[split] for split in SPLITS]
    _write_list(put, (_annotation(clips, n, flat, tick) for clips in parts for n in range(len(clips))))
    put(_text("class_names"))
    _write_list(put, map(_text, content.class_names))
    put(_text("about") + _text(content.about) + b"u.")


def _write_list(put: Callable[[bytes], object], items: Iterable[bytes]) -> None:
    put(b"](")
    for item in items:
        put(item)
    put(b"e")


def _annotation(clips: Clips, n: int, flat: bool, tick: Tick) -> bytes:
    clip = np.asarray(clips.clip(n).transpose(1, 0, 2, 3), "<f4")  # (M, T, V, 3)
    entries = {
        "frame_dir": _text(str(clips.ids[n])),
        "label": _whole(int(clips.labels[n])),
        "total_frames": _whole(clip.shape[1]),
    }
    if flat:
        entries["keypoint"], entries["keypoint_score"] = _array(clip[..., :2]), _array(clip[..., 2])
    else:
        entries["keypoint"] = _array(clip)
    tick(1)
    return b"}(" + b"".join(_text(key) + value for key, value in entries.items()) + b"u"


def _array(values: np.ndarray) -> bytes:
    """The call of `_reconstruct` with placeholders, then the state: version, shape, type, C order, bytes."""
    shape = b"(" + b"".join(map(_whole, values.shape)) + b"t"
    data = values.tobytes()
    content = b"\x8e" + struct.pack("<Q", len(data)) + data
    return b"h\x00h\x01K\x00\x85C\x01b\x87R" + b"(K\x01" + shape + b"h\x02\x89" + content + b"tb"


def _global(module: str, name: str) -> bytes:
    return _text(module) + _text(name) + b"\x93"


def _text(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def _whole(value: int) -> bytes:
    """An integer of at most 32 bits."""
    return b"J" + struct.pack("<i", value)
