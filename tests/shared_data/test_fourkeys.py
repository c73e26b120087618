"""The optional keys of an NPZ: used if they fit, said to be ignored if they do not."""

from __future__ import annotations

import numpy as np
import pytest

from shared_data.check import check
from shared_data.classes import class_names
from shared_data.datasets import open_data

GOOD = [f"action {n}" for n in range(5)]


@pytest.mark.parametrize(
    "names",
    [
        np.array(GOOD[:4]),
        np.array([*GOOD, "action 5"]),
        np.array([GOOD]),
        np.arange(5),
        np.array("wave"),
        np.array(GOOD, "U60000"),
    ],
    ids=["too few", "too many", "two axes", "numbers", "one text", "too large"],
)
def test_names_that_do_not_fit_the_classes_are_a_warning(names, arrays, save):
    data = open_data(save({**arrays, "class_names": names}))
    (told,) = [finding for finding in data.findings if finding.code == "class-names"]
    assert told.severity == "warning" and "ignored" in told.message and str(names.shape) in told.message
    assert "5 classes" in told.message and told.where == "class_names" and told.next_step
    assert data.class_names == class_names(5)


def test_names_that_fit_are_used_and_nothing_is_said(arrays, save):
    data = open_data(save({**arrays, "class_names": np.array(GOOD)}))
    assert list(data.class_names) == GOOD and "class-names" not in {finding.code for finding in data.findings}
    assert "class-names" not in {finding.code for finding in check(save(arrays)).findings}, "without the key nothing is missing"
