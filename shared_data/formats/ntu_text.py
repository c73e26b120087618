"""One NTU RGB+D ``.skeleton`` text file as arrays.

Line 1 is the number of frames. A frame is a line with its number of bodies; a body is a line of 10 fields, the first its
id, a line with the number of joints (25), and 25 lines of 12 fields, the first three xyz in metres. Nothing is allocated
by a claimed number: lines are walked, and a claim that they do not bear out is an error.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shared_data.errors import DataError

JOINTS = 25
BODY_FIELDS, JOINT_FIELDS = 10, 12
MAX_FRAMES, MAX_BODIES = 20_000, 1_000  # the sensor tracks 6 people
MAX_BYTES = 32 << 20  # 300 frames of 6 bodies are below 10 MB
_LONGEST = 20  # digits of a 64-bit number


@dataclass(frozen=True)
class Recording:
    """What the sensor wrote: B bodies, counted once per frame they are seen in, in file order.

    frames    number of frames, those without a body included
    frame     (B,) int64, ascending
    body      (B,) uint64 ids as the sensor gave them (17 digits)
    joints    (B, 25, 3) float32, metres in the camera's frame
    trailing  lines after the last declared frame; official readers do not look at them
    """

    frames: int
    frame: np.ndarray
    body: np.ndarray
    joints: np.ndarray
    trailing: int = 0


def parse(text: bytes, where: str) -> Recording:
    """Read the text of one file. Raises `DataError` naming the line (from 1) for anything that does not fit the format.

    Of a body's lines only id and xyz are read as numbers; NaN and infinite coordinates are kept for the caller to judge.
    """
    if not text.strip():
        raise DataError("the file is empty", where=where, expected="a .skeleton text")
    if not text.isascii() or b"_" in text:  # Python reads 1_000 and digits of other scripts as numbers
        raise DataError("not plain text: characters that no number has", where=where, expected="a .skeleton text")
    lines = text.rstrip().split(b"\n")
    frames = _count(lines, 0, where, "frames", MAX_FRAMES)
    frame_of: list[int] = []
    body_of: list[int] = []
    values: list[bytes] = []
    at = 1
    for frame in range(frames):
        bodies = _count(lines, at, where, "bodies", MAX_BODIES)
        at += 1
        first = len(body_of)
        for _ in range(bodies):
            body_of.append(_body(lines, at, where))
            frame_of.append(frame)
            for number, line in enumerate(lines[at + 2 : at + 2 + JOINTS]):
                fields = line.split()
                if len(fields) != JOINT_FIELDS:
                    raise _bad(where, at + 2 + number, f"{len(fields)} fields", f"{JOINT_FIELDS} fields of a joint")
                values += fields[:3]
            at += 2 + JOINTS
        if bodies > 1 and len(set(body_of[first:])) < bodies:
            raise _bad(where, at - 1, f"a body id occurs twice in frame {frame + 1}", "each body once per frame")
    if at > len(lines):
        raise _bad(where, len(lines), "the file ends in the middle of a body", f"{JOINTS} joints of each body")
    joints = _numbers(values, where).reshape(-1, JOINTS, 3)
    return Recording(frames, np.array(frame_of, np.int64), np.array(body_of, np.uint64), joints, len(lines) - at)


def _body(lines: list[bytes], at: int, where: str) -> int:
    """The id in the body line `at`, whose joint count must follow."""
    fields = lines[at].split() if at < len(lines) else []
    if len(fields) != BODY_FIELDS or not fields[0].isdigit() or len(fields[0]) > _LONGEST or int(fields[0]) >= 1 << 64:
        told = f"{len(fields)} fields, the first {fields[0][:24].decode()!r}" if fields else "the file ends"
        raise _bad(where, at, told, f"{BODY_FIELDS} fields of a body, the first its id")
    joints = _count(lines, at + 1, where, "joints", JOINTS)
    if joints != JOINTS:
        raise _bad(where, at + 1, f"{joints} joints", f"{JOINTS} joints, as Kinect v2 has")
    return int(fields[0])


def _count(lines: list[bytes], at: int, where: str, what: str, largest: int) -> int:
    """The number that is alone in line `at`, between 0 and `largest`."""
    if at >= len(lines):
        raise _bad(where, at, "the file ends", f"the number of {what}")
    line = lines[at].strip()
    if not line.isdigit() or len(line) > _LONGEST or int(line) > largest:
        raise _bad(where, at, f"{line[:40].decode()!r} is no number of {what} here", f"0 to {largest}")
    return int(line)


def _numbers(values: list[bytes], where: str) -> np.ndarray:
    """The coordinates as float32, rounded from float64. Raises `DataError` naming the first that is not a number."""
    try:
        numbers = np.fromiter(map(float, values), np.float64, len(values))
    except ValueError:
        wrong = next(value for value in values if not _is_number(value))
        raise DataError(
            f"a coordinate is {wrong[:40].decode()!r}", where=where, expected="numbers", next_step="copy the file again"
        ) from None
    with np.errstate(over="ignore"):
        return numbers.astype(np.float32)


def _is_number(value: bytes) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def _bad(where: str, at: int, what: str, expected: str) -> DataError:
    return DataError(what, where=f"{where}, line {at + 1}", expected=expected, next_step="copy the file again")
