"""NPZ files with the keys x_train, y_train, x_test, y_test: the part that all layouts of such files share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from shared_data.classes import class_names
from shared_data.errors import DataError
from shared_data.findings import ERROR, INFO, WARNING, Finding
from shared_data.formats import labels as label_rows
from shared_data.formats.fingerprint import Decode, Fingerprint, Verdict, judge, verdict
from shared_data.formats.npz import Npz
from shared_data.formats.ragged import RaggedBuilder
from shared_data.formats.source import Reading, Source, Split, Tick, ticker
from shared_data.skeletons import Skeleton

SPLITS = ("train", "test")
KEYS = ("x_train", "y_train", "x_test", "y_test")
MAX_FRAMES = 20_000
MAX_LABEL_BYTES = 512 << 20
MAX_NAME_BYTES = 1 << 20


def read_four_keys(
    path: Path,
    npz: Npz,
    how: Reading,
    *,
    layout: str,
    skeleton: Skeleton,
    people: int,
    time_axis: int,
    orders: Mapping[str, Decode],
) -> Source:
    """Stream both splits of an open archive whose x shapes are already checked.

    people, time_axis  M, and the axis of x that is T
    orders             how a block becomes (B, T, M, V, 3), the right way first; the others serve the fingerprint
    """
    findings = list(_about_archive(npz))
    decoded: dict[str, tuple[np.ndarray, int | None]] = {}
    for split in SPLITS:
        key = f"y_{split}"
        shape, count = npz.members[key].shape, npz.members[f"x_{split}"].shape[0]
        if shape and shape[0] > 2 * count + 1000:  # not worth unpacking
            raise DataError(f"{shape[0]:,} labels for {count:,} clips", where=f"{path}, key {key}", expected="one for each clip")
        try:
            ids, width, found = label_rows.decode(npz.read(key, limit=MAX_LABEL_BYTES), key, npz.members[f"x_{split}"].shape[0])
        except DataError as error:
            if str(path) in error.where:
                raise
            raise DataError(error.what, where=f"{path}, {error.where}", expected=error.expected) from None
        decoded[key] = ids, width
        findings += found
    classes, found = label_rows.class_count(decoded, how.options.num_classes or _named_classes(npz, decoded))
    findings += found

    splits: dict[str, Split] = {}
    passes = 2 if how.options.repair else 1
    tick = ticker(how.progress, sum(npz.members[f"x_{split}"].shape[0] for split in SPLITS) * passes)
    order = next(iter(orders))
    if how.options.repair:
        order, found = _order_of(npz, orders, skeleton, time_axis, tick)
        findings += found
    for split in SPLITS:
        key = f"x_{split}"
        shape = npz.members[key].shape
        sink = how.sinks(split, skeleton.joints, np.dtype(np.float32))
        builder = RaggedBuilder(sink, joints=skeleton.joints, max_people=people)
        fingerprint = Fingerprint(orders, skeleton, shape[0], time_axis)
        for start, block in npz.blocks(key):
            builder.add(orders[order](block))
            fingerprint.add(start, block)
            tick(len(block))
        ids = np.array([f"{split}_{n}" for n in range(shape[0])], dtype="U")
        labels = _fitted(decoded[f"y_{split}"][0], shape[0])
        clips = builder.finish(labels, ids, frames=shape[time_axis])
        measured = fingerprint.decodings()
        if order == next(iter(orders)):
            told = judge(measured, key)
            findings += [told] if told else []
        splits[split] = Split(clips, shape, builder.scan, tuple(d.as_dict() for d in measured))
    names, found = _names(npz, classes)
    return Source(layout, how.reason, skeleton, classes, names, splits, findings + found, _about(npz))


def _order_of(
    npz: Npz, orders: Mapping[str, Decode], skeleton: Skeleton, time_axis: int, tick: Tick
) -> tuple[str, list[Finding]]:
    """Read everything once to learn in which of `orders` the values are: the order to decode by, and what to say about it.

    Only an order that both splits prove is undone. If they do not agree, or one of them proves nothing, that is an error
    finding: whoever asks for a repair must not get a guess.
    """
    right = next(iter(orders))
    verdicts: dict[str, Verdict] = {}
    for split in SPLITS:
        key = f"x_{split}"
        fingerprint = Fingerprint(orders, skeleton, npz.members[key].shape[0], time_axis)
        for start, block in npz.blocks(key):
            fingerprint.add(start, block)
            tick(len(block))
        measured = fingerprint.decodings()
        verdicts[key] = verdict(measured) if len(measured) > 1 else Verdict(None, "")
    found = {told.order for told in verdicts.values()}
    if None in found or len(found) > 1:
        said = ", ".join(f"{key} {told.order or 'cannot be told'}" for key, told in verdicts.items())
        return right, [
            Finding(
                "repair-unclear", ERROR, f"nothing was repaired: not every split proves the same order of its values ({said})",
                next_step="repair is only for files that were written in one wrong order throughout; draw a clip and look at it",
            )
        ]  # fmt: skip
    (order,) = found
    if order is None or order == right:
        return right, []
    return order, [
        Finding("layout-repaired", WARNING, f"the values were ordered {order}, not {right}; undone: {told.evidence}", key)
        for key, told in verdicts.items()
    ]


def check_x(path: Path, npz: Npz, *, dimensions: int, time_axis: int, expected: str) -> None:
    """Raise `DataError` unless x_train and x_test hold numbers and have `dimensions` axes, equal but for N and T."""
    npz.require(*KEYS)
    shapes = {}
    for key in ("x_train", "x_test"):
        member = npz.members[key]
        where = f"{path}, key {key}"
        if member.dtype.kind not in "biuf":
            raise DataError(f"elements of type {member.dtype}", where=where, expected="numbers")
        if len(member.shape) != dimensions:
            raise DataError(f"shape {member.shape}", where=where, expected=expected)
        if not 1 <= member.shape[time_axis] <= MAX_FRAMES:
            raise DataError(
                f"shape {member.shape}: {member.shape[time_axis]} frames",
                where=where,
                expected=f"1 to {MAX_FRAMES} frames",
            )
        shapes[key] = tuple(n for axis, n in enumerate(member.shape) if axis not in (0, time_axis))
    if shapes["x_train"] != shapes["x_test"]:
        raise DataError(
            "x_train and x_test differ in joints or people",
            where=f"{path}, shapes {npz.members['x_train'].shape} and {npz.members['x_test'].shape}",
            expected="the same skeleton in both",
        )


def _fitted(labels: np.ndarray, clips: int) -> np.ndarray:
    """`labels` with exactly `clips` entries; a wrong number of them is already an error finding."""
    return np.concatenate([labels[:clips], np.full(max(0, clips - len(labels)), -1, np.int64)])


def _about_archive(npz: Npz) -> Iterable[Finding]:
    if npz.ignored:
        names = ", ".join(name[:60] for name in npz.ignored[:4])
        yield Finding("member-ignored", WARNING, f"zip members that are not arrays were ignored: {names}", count=len(npz.ignored))
    extra = [key for key in npz.members if key not in (*KEYS, "about", "class_names")]
    if extra:
        yield Finding("key-extra", INFO, f"keys that nothing reads: {', '.join(extra[:8])}", count=len(extra))


def _named_classes(npz: Npz, decoded: dict[str, tuple[np.ndarray, int | None]]) -> int | None:
    """The number of classes by the key ``class_names``, where integer labels cannot tell it: a class may have no clip."""
    member = npz.members.get("class_names")
    integers = all(width is None for _, width in decoded.values())
    if not integers or member is None or member.dtype.kind != "U" or len(member.shape) != 1:
        return None
    largest = max((int(labels.max()) for labels, _ in decoded.values() if len(labels)), default=-1)
    return member.shape[0] if member.shape[0] > largest else None


def _names(npz: Npz, classes: int) -> tuple[tuple[str, ...], list[Finding]]:
    """The names under the optional key ``class_names`` if it has one for each class, else the usual ones, with a warning."""
    member = npz.members.get("class_names")
    if member is None:
        return class_names(classes), []
    if member.dtype.kind == "U" and member.shape == (classes,) and member.nbytes <= MAX_NAME_BYTES:
        return tuple(str(name) for name in npz.read("class_names")), []
    what = f"{member.dtype} of shape {member.shape}" + (f", {member.nbytes:,} bytes" if member.nbytes > MAX_NAME_BYTES else "")
    return class_names(classes), [
        Finding(
            "class-names", WARNING, f"the class names are ignored: {what}, for {classes} classes", "class_names",
            next_step=f"write one text per class, an array of shape ({classes},) and at most {MAX_NAME_BYTES:,} bytes",
        )
    ]  # fmt: skip


def _about(npz: Npz) -> str:
    """The text under the key ``about``, if the file carries one."""
    member = npz.members.get("about")
    if member is None or member.dtype.kind != "U" or member.shape != () or member.nbytes > 1 << 16:
        return ""
    return str(npz.read("about"))
