"""Which windows, people, joints and heads fit SkateFormer's partitions, refused with those that do.

Each of the four attentions cuts the grid of T frames x V' person-joints into windows of a x b tokens. Frames are halved three
times, so that a has to divide four numbers of frames; b has to divide V'.
"""

from __future__ import annotations

from collections.abc import Sequence

from shared_data.errors import UsageError, require

DEPTH = 2
WIDTHS = (96, 192, 192, 192)  # channels of the four stages, each of DEPTH blocks
KINDS = 4  # of partitions: near or far joints in near or far frames
LONGEST = 512  # window up to which suggestions go

Size = tuple[int, int]


def stage_frames(frames: int) -> tuple[int, ...]:
    """Frames in each of the four stages: a stride of 2 opens all but the first."""
    counts = [frames]
    while len(counts) < len(WIDTHS):
        counts.append((counts[-1] + 1) // 2)
    return tuple(counts)


def check_frames(frames: int, sizes: Sequence[Size]) -> None:
    """Raises `UsageError` with the windows and the sizes that work unless every a divides the frames of every stage."""
    lengths = stage_frames(frames)
    if frames >= 1 and all(length % a == 0 for length in lengths for a, _ in sizes):
        return
    windows = [t for t in range(1, LONGEST + 1) if all(length % a == 0 for length in stage_frames(t) for a, _ in sizes)]
    nearest = ", ".join(map(str, sorted(sorted(windows, key=lambda t: abs(t - frames))[:4])))
    fitting = [a for a in range(1, max(frames, 1) + 1) if all(length % a == 0 for length in lengths)]
    raise UsageError(
        f"SkateFormer cannot cut a window of {frames} frames into partitions of {_listed(a for a, _ in sizes)} frames",
        where=f"frames in its four stages: {', '.join(map(str, lengths))}",
        expected=f"with these partitions a window of {nearest or 'no length'}"
        + (f"; with this window partitions of {_listed(fitting)} frames" if fitting else ""),
        next_step="change --train-window-size and --test-window-size, and model_args.frames with them, "
        "or the first numbers of model_args.type_1_size to type_4_size",
    )


def check_points(points: int, sizes: Sequence[Size]) -> None:
    """Raises `UsageError` with the sizes that work unless every b divides the V' person-joints."""
    if all(points % b == 0 for _, b in sizes):
        return
    raise UsageError(
        f"SkateFormer cannot cut {points} joints of all people into partitions of {_listed(b for _, b in sizes)}",
        where="second numbers of type_1_size to type_4_size",
        expected=f"numbers that divide {points}: {_listed(n for n in range(1, points + 1) if points % n == 0)}",
        next_step="set model_args.type_1_size to type_4_size",
    )


def check_heads(heads: int) -> None:
    """Raises `UsageError` unless `heads` divides into the branches of every stage."""
    fitting = [n for n in range(8, WIDTHS[0] + 1, 8) if all(width % n == 0 for width in WIDTHS)]
    require(heads in fitting, "num_heads", heads, _listed(fitting))


def partition_sizes(given: Sequence[Sequence[int]]) -> tuple[Size, ...]:
    """The four (frames, joints) as pairs of numbers; raises `UsageError` for anything else."""
    sizes = []
    for number, size in enumerate(given, 1):
        whole = isinstance(size, (list, tuple)) and all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in size)
        require(whole and len(size) == 2, f"type_{number}_size", size, "[frames, joints], such as [8, 8]")
        sizes.append((size[0], size[1]))
    return tuple(sizes)


def _listed(numbers: object) -> str:
    return ", ".join(map(str, dict.fromkeys(numbers)))  # type: ignore[call-overload]
