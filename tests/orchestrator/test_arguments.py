"""Kinds of values: what each takes, and the sentence with which it refuses all else."""

from __future__ import annotations

import argparse
import re

import pytest

from orchestrator.arguments import LARGEST_GIB, Parser, amount, count, gib, positive
from orchestrator.errors import OrchestratorError

KINDS = {"positive": positive, "count": count, "gib": gib, "amount": amount}


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (positive, "0.5", 0.5), (positive, " 600 ", 600.0), (count, "1", 1), (gib, "8", 8.0), (gib, str(LARGEST_GIB), 4096.0),
        (amount, "4g", "4g"), (amount, " 1k ", "1k"), (amount, "\t512MB\n", "512MB"), (amount, "1048576", "1048576"),
    ],
)  # fmt: skip
def test_what_is_taken(kind, text, value):
    assert kind(text) == value


@pytest.mark.parametrize(
    ("kind", "texts", "expected"),
    [
        (positive, ("abc", "0", "-1", "nan", ""), "number above 0"),
        (count, ("x", "0", "-2", "1.5", ""), "whole number of 1 or more"),
        (gib, ("eight", "0", "inf", "nan", "4097", ""), "GPU's memory in GiB, above 0 and at most 4096"),
        (amount, ("lots", "0", "0g", "-1g", "1.5g", "4t", ""), "amount of memory above 0, such as 512m or 4g"),
    ],
)
def test_what_is_refused_and_how(kind, texts, expected):
    for text in texts:
        with pytest.raises(argparse.ArgumentTypeError, match=re.escape(expected)) as caught:
            kind(text)
        assert str(caught.value).startswith(repr(text))


@pytest.mark.parametrize("kind", KINDS)
def test_the_flag_is_named(kind):
    parser = Parser(prog="prog")
    parser.add_argument("--flag", type=KINDS[kind])
    with pytest.raises(OrchestratorError, match="argument --flag: 'abc' is no") as caught:
        parser.parse_args(["--flag", "abc"])
    assert caught.value.exit_code == 2 and caught.value.next_step == "see `prog --help`"
