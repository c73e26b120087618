"""Published lists of labelled clips: the same whatever the order of the file, the same as ever, and refused when changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.labelled import DRAWS, SHARES, Labelled, draw, read, write
from engine.records import fingerprint
from shared_data.errors import DataError, MissingInputError, UsageError
from shared_data.protocols import split_rule
from shared_data.subsets import semi_supervised


def names() -> tuple[np.ndarray, np.ndarray]:
    """Training clips of NTU-60 cross-subject by the rule, of a few people: names and labels, ordered as the raw files are."""
    rule = split_rule("xsub", 60)
    subjects = sorted(rule.train)[:4]
    found = [
        (f"S{s:03d}C{c:03d}P{p:03d}R{r:03d}A{a:03d}", a - 1)
        for s in (1, 2) for p in subjects for c in (1, 2, 3) for r in (1, 2) for a in range(1, 61)
    ]  # fmt: skip
    ids, labels = zip(*found, strict=True)
    return np.array(ids), np.array(labels)


def published(ids: np.ndarray, labels: np.ndarray, share: float) -> list[Labelled]:
    return [draw(ids, labels, share, seed) for seed in DRAWS]


def test_the_order_of_the_file_does_not_count() -> None:
    ids, labels = names()
    order = np.random.default_rng(0).permutation(len(ids))
    for share in SHARES:
        for one, other in zip(published(ids, labels, share), published(ids[order], labels[order], share), strict=True):
            assert one == other
            assert set(ids[one.rows(ids)]) == set(one.ids) == set(ids[order][one.rows(ids[order])])


def test_a_share_of_each_class_and_at_least_one() -> None:
    ids, labels = names()
    assert len(ids) == 48 * 60
    for share, each in ((0.01, 1), (0.05, 2), (0.1, 5), (0.2, 10)):
        lists = published(ids, labels, share)
        assert len({one.sha256 for one in lists}) == 5, "five draws"
        for one in lists:
            assert np.bincount(labels[one.rows(ids)], minlength=60).tolist() == [each] * 60
    small, large = (set(draw(ids, labels, share, 2).ids) for share in (0.05, 0.2))
    assert small < large


def test_the_lists_are_what_they_have_always_been() -> None:
    """A published list may never change: whoever has its share and seed has its clips."""
    ids, labels = names()
    lists = [one.sha256 for share in SHARES for one in published(ids, labels, share)]
    assert fingerprint(lists) == "578b773a537632484004fe054d0f3dbb3f0088fa4812490d902303f6312b0d98"


def test_mamp_draws_without_regard_to_classes() -> None:
    ids, labels = names()
    chosen = draw(ids, labels, 0.1, 7, "mamp")
    assert chosen.ids == tuple(ids[semi_supervised(len(ids), 0.1, 7)])
    assert len(set(np.bincount(labels[chosen.rows(ids)], minlength=60))) > 1


def test_a_list_is_read_as_it_was_written(tmp_path: Path) -> None:
    ids, labels = names()
    for how in ("per_class", "mamp"):
        chosen = draw(ids, labels, 0.1, 3, how)  # type: ignore[arg-type]
        write(tmp_path / "list.txt", chosen)
        assert read(tmp_path / "list.txt") == chosen
    lines = (tmp_path / "list.txt").read_text().splitlines()
    assert lines[1:4] == ["# share 0.1 of 2880 clips", "# seed 3", "# chosen mamp"]
    assert tuple(lines[5:]) == chosen.ids


@pytest.mark.parametrize("change", ["a name", "the seed", "a line less", "no list", "nothing", "no text"])
def test_a_changed_list_is_refused(tmp_path: Path, change: str) -> None:
    ids, labels = names()
    file = tmp_path / "list.txt"
    write(file, draw(ids, labels, 0.1, 3))
    content = file.read_bytes()
    file.write_bytes({
        "a name": content.replace(b"A017\n", b"A018\n", 1), "the seed": content.replace(b"seed 3", b"seed 4"),
        "a line less": content[:-21], "no list": b"hello\n", "nothing": b"", "no text": b"\xff\xfe\x00",
    }[change])  # fmt: skip
    assert file.read_bytes() != content
    with pytest.raises(DataError, match=r"no list of labelled clips|no text"):
        read(file)


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="cannot be read"):
        read(tmp_path / "nowhere.txt")
    ids, labels = names()
    with pytest.raises(DataError, match="1 of 2 labelled clips are not in the data, such as x"):
        Labelled(0.1, 0, "per_class", 3, (str(ids[0]), "x")).rows(ids)
    with pytest.raises(UsageError, match="ratio"):
        draw(ids, labels, 0, 1)
