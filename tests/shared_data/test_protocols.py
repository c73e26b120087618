"""Known protocols are recognised by their counts, and the honest split of each holds out whole people or views."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from shared_data.check import check
from shared_data.classes import NTU60
from shared_data.datasets import honest, open_data
from shared_data.errors import LabError
from shared_data.protocols import PROTOCOLS, nearly, recognise


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
    with pytest.raises(LabError, match="refuse, drop"):
        open_data(synthetic_file, on_bad="ignore")
