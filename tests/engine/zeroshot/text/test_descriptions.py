"""Descriptions of the classes: ours are complete, and a table that is not is refused with its row."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest

from engine.zeroshot.text import descriptions
from engine.zeroshot.text.clip_tokens import MERGES
from engine.zeroshot.text.descriptions import FOLDER, KINDS, OURS
from shared_data.classes import NTU60, NW_UCLA
from shared_data.errors import DataError, MissingInputError, UsageError
from shared_data.interaction import CLASSES as TWO_PERSON

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[4]


def test_labels_are_those_of_the_data_sets() -> None:
    assert descriptions.ours("lb", 60).texts == NTU60
    assert descriptions.ours("lb", 120).texts[:60] == NTU60
    assert descriptions.ours("lb", 10).texts == NW_UCLA


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("classes", OURS)
def test_ours_are_complete_and_plain(kind: descriptions.Kind, classes: int) -> None:
    texts = descriptions.ours(kind, classes).texts
    assert len(texts) == classes == len({text.lower() for text in texts})
    assert all(text.isascii() and text == " ".join(text.split()) for text in texts)
    if kind != "lb":
        assert all(text[0].isupper() and text.endswith(".") and len(text.split()) >= 6 for text in texts)


def test_two_person_actions_are_named_as_such() -> None:
    for k, text in enumerate(descriptions.ours("ad", 120).texts):
        assert text.startswith("Two people") == (k in TWO_PERSON), text


def test_the_package_holds_every_file() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["engine.zeroshot.text"]
    held = {file for pattern in patterns for file in (ROOT / "engine/zeroshot/text").glob(pattern)}
    texts = {FOLDER / f"{kind}_{n}.csv" for kind in KINDS for n in (10, 120)}
    assert texts == set(FOLDER.iterdir()) and held == texts | {MERGES, MERGES.with_name("LICENSE")}


def test_another_number_of_classes_is_refused() -> None:
    with pytest.raises(UsageError, match="55 classes"):
        descriptions.ours("lb", 55)


def written(path: Path, rows: list[list[object]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def test_commas_quotes_lines_and_any_order(tmp_path: Path) -> None:
    texts = ["a, b", 'the "second"', "two\nlines"]
    rows = [["idx", "dcp"], [3, texts[2]], [1, texts[0]], [2, f"  {texts[1]} "]]
    found = descriptions.read(written(tmp_path / "md.csv", rows), "md", 3)
    assert list(found.texts) == texts
    with_mark = tmp_path / "mark.csv"
    with_mark.write_bytes(b"\xef\xbb\xbf" + (tmp_path / "md.csv").read_bytes())
    assert descriptions.read(with_mark, "md", 3).texts == found.texts


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([["idx", "label"], [1, "a"]], "1 of 2 classes have no text: 2"),
        ([["idx", "label"], [1, "a"], [2, "  "]], "1 of 2 classes have no text: 2"),
        ([["idx", "label"], [1, "a"], [1, "b"]], r"class 1 stands twice\n.*row 3"),
        ([["idx", "label"], [1, "a"], [2, "a"]], "classes 1 and 2 have the same text"),
        ([["idx", "label"], [0, "a"], [1, "b"]], r"'0'\n.*row 2"),
        ([["idx", "label"], [1, "a"], [3, "b"]], r"'3'\n.*row 3"),
        ([["idx", "label"], [1, "a", "b"], [2, "b"]], "3 columns"),
        ([["idx", "label"], ["one", "a"], [2, "b"]], "'one'"),
        ([["idx", "label"], ["²", "a"], [2, "b"]], "'²'"),
        ([["idx", "dcp"], [1, "a"], [2, "b"]], "columns are idx,dcp"),
        ([], "columns are missing"),
    ],
)
def test_a_bad_table_is_refused(tmp_path: Path, rows: list[list[object]], message: str) -> None:
    path = written(tmp_path / "lb.csv", rows)
    with pytest.raises(DataError, match=message) as refusal:
        descriptions.read(path, "lb", 2)
    assert str(path) in str(refusal.value)


def test_no_table_at_all(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"lb\.csv"):
        descriptions.read(tmp_path / "lb.csv", "lb", 2)
    (tmp_path / "lb.csv").write_bytes(b"idx,label\n1,\xff\xfe\n")
    with pytest.raises(DataError, match="no CSV file"):
        descriptions.read(tmp_path / "lb.csv", "lb", 2)
    (tmp_path / "lb.csv").write_bytes(b"x" * (descriptions.LARGEST + 1))
    with pytest.raises(DataError, match="too large"):
        descriptions.read(tmp_path / "lb.csv", "lb", 2)
