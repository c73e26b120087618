"""Known protocols are recognised by their counts, and the honest split of each holds out whole people or views."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from shared_data.check import check
from shared_data.classes import NTU60
from shared_data.datasets import honest, open_data
from shared_data.errors import LabError, UsageError
from shared_data.formats.options import ReadOptions
from shared_data.protocols import (
    NOVEL_ACTIONS,
    PROTOCOLS,
    SPLIT_RULES,
    NtuName,
    nearly,
    ntu_name,
    one_shot,
    recognise,
    split_rule,
)


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda p: p.name)
def test_exact_and_nearly_exact_counts(protocol):
    k, train, test = protocol.classes, protocol.train, protocol.test
    assert recognise(k, train, test) == protocol and nearly(k, train, test) is None
    assert recognise(k, train - 2, test) is None and nearly(k, train - 2, test) == protocol
    assert recognise(k + 1, train, test) is None and nearly(k, train // 2, test) is None


def test_totals_are_the_published_ones():
    totals = {(p.classes, p.train + p.test) for p in PROTOCOLS}
    assert totals == {(60, 56_578), (120, 113_945), (10, 1_484)}
    assert len(NTU60) == len(set(NTU60)) == 60


def test_cross_view_holds_the_second_camera_out(synthetic_file):
    """The same performance occurs once per camera: a tail of 10 % would be trained on from the other camera."""
    data = open_data(synthetic_file)
    train = data.train.subset(np.zeros(37_646, int))
    train = replace(train, ids=np.array([f"train_{n}" for n in range(37_646)]))
    test = data.test.subset(np.zeros(18_932, int))
    held = honest(replace(data, num_classes=60, train=train, test=test))
    assert (len(held.train), len(held.test)) == (18_823, 18_823) and held.test.ids[0] == "train_18823"
    assert "camera 3" in held.findings[-1].message
    other = honest(replace(data, num_classes=60, train=train, test=data.test))
    assert len(other.test) == 3765


def test_report_names_missing_clips_and_unused_classes(arrays, save):
    arrays["y_train"][arrays["y_train"].argmax(-1) == 2] = np.eye(5)[0]
    report = check(save(arrays))
    unused = next(f for f in report.findings if f.code == "class-unused")
    assert report.ok and unused.where == "train" and "class 2" in unused.message
    assert report.splits["train"].histogram[2] == 0 and sum(report.splits["train"].histogram) == 40
    console = Console(record=True, width=160)
    report.render(console)
    text = console.export_text()
    assert "class 2" in text and report.sha256 in text and "none of the known" in text


def test_unknown_policy_is_refused(synthetic_file):
    with pytest.raises(LabError, match="refuse or drop"):
        open_data(synthetic_file, options=ReadOptions(on_bad="ignore"))


# As the papers print them.
SUBJECTS_60 = "1, 2, 4, 5, 8, 9, 13, 14, 15, 16, 17, 18, 19, 25, 27, 28, 31, 34, 35, 38"
SUBJECTS_120 = (
    "1, 2, 4, 5, 8, 9, 13, 14, 15, 16, 17, 18, 19, 25, 27, 28, 31, 34, 35, 38, 45, 46, 47, 49, 50, 52, 53, 54, 55, 56, 57, 58, "
    "59, 70, 74, 78, 80, 81, 82, 83, 84, 85, 86, 89, 91, 92, 93, 94, 95, 97, 98, 100, 103"
)
PEOPLE_60, PEOPLE_120 = ([int(n) for n in text.split(", ")] for text in (SUBJECTS_60, SUBJECTS_120))


@pytest.mark.parametrize(
    ("split", "classes", "part", "last", "train"),
    [
        ("xsub", 60, "performer", 40, PEOPLE_60),
        ("xview", 60, "camera", 3, [2, 3]),
        ("xsub", 120, "performer", 106, PEOPLE_120),
        ("xsub120", 120, "performer", 106, PEOPLE_120),
        ("xset", 120, "setup", 32, [2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32]),
    ],
)
def test_split_rules_over_every_number(split, classes, part, last, train):
    rule = split_rule(split, classes)
    everyone = NtuName(setup=1, camera=1, performer=1, repetition=1, action=1)
    sides = {number: rule.side(everyone._replace(**{part: number})) for number in range(200)}
    assert [number for number, side in sides.items() if side == "train"] == train
    assert [number for number, side in sides.items() if side == "test"] == sorted(set(range(1, last + 1)) - set(train))
    assert sides[0] is None and sides[last + 1] is None
    for other in set(NtuName._fields) - {part}:  # nothing else in a name decides
        assert rule.side(everyone._replace(**{part: train[0]})._replace(**{other: 99})) == "train"


def test_every_split_rule_has_its_sizes():
    assert [len(rule.train) for rule in SPLIT_RULES] == [20, 2, 53, 16]
    named = {(p.name, p.classes) for p in PROTOCOLS}
    assert {(rule.protocol, rule.classes) for rule in SPLIT_RULES} <= named and len(SPLIT_RULES) == 4


def test_rows_are_ordered_by_the_dividing_number_then_by_name():
    names = ["S002C003P001R001A002", "S001C002P009R002A001", "S001C003P001R001A010", "S001C002P009R001A060"]
    rule = split_rule("xview", 60)
    assert sorted(names, key=lambda name: rule.position(ntu_name(name))) == [names[3], names[1], names[2], names[0]]


def test_sample_names():
    assert ntu_name("S001C002P003R001A013") == (1, 2, 3, 1, 13)
    for wrong in (
        "S001C002P003R001A013.skeleton",
        "s001c002p003r001a013",
        "S1C2P3R1A13",
        "",
        "S001C002P003R001A0130",
        "S٠٠1C002P003R001A013",
    ):
        assert ntu_name(wrong) is None


def test_unknown_splits_name_the_known_ones():
    with pytest.raises(UsageError, match=r"divided in 2 ways[\s\S]*xsub, xset"):
        split_rule("auto", 120)
    for name, classes in (("xset", 60), ("xsub120", 60), ("xview", 120), ("cs", 60)):
        with pytest.raises(UsageError, match=f"no split '{name}' of NTU RGB\\+D with {classes} classes"):
            split_rule(name, classes)


def test_one_shot_parts():
    assert list(NOVEL_ACTIONS) == [1, 7, 13, 19, 25, 31, 37, 43, 49, 55, 61, 67, 73, 79, 85, 91, 97, 103, 109, 115]
    parts = {a: one_shot(NtuName(1 if a <= 60 else 18, 3, 8, 1, a)) for a in range(1, 121)}
    assert sorted(parts.values()) == ["auxiliary"] * 100 + ["exemplar"] * 20
    for other in ((2, 3, 8, 1, 7), (1, 2, 8, 1, 7), (1, 3, 7, 1, 7), (1, 3, 8, 2, 7), (18, 3, 8, 1, 55), (1, 3, 8, 1, 61)):
        assert one_shot(NtuName(*other)) == "evaluation"
