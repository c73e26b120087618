"""The promises of docs/reliability.md stand on tests that exist."""

from __future__ import annotations

import ast
import errno
import re
from pathlib import Path

import pytest

from engine import errors
from engine.storage import PAUSES, TRANSIENT
from tests.engine.zygote import ROOT

PAGE = (ROOT / "docs/reliability.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[\w/.]+\.py)::(\w+)`", PAGE)))


def functions(file: Path) -> set[str]:
    return {node.name for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_a_test_that_is_named_exists(file: str, name: str) -> None:
    assert name.startswith("test_") and name in functions(ROOT / file)


def test_every_promise_is_there_once_with_a_proof_and_a_limit() -> None:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if re.match(r"\| R\d+ ", line)]
    assert [row[0] for row in rows] == [f"R{number}" for number in range(1, 16)]
    for number, promise, proof, limit in rows:
        assert promise and limit, number
        assert re.search(r"`tests/[\w/.]+::\w+`", proof), number
        assert not re.sub(r"`tests/[\w/.]+::\w+`|\([^)]*\)|[, ]", "", proof), f"{number}: more than tests in the proof"


def test_numbers_of_the_page_are_those_of_the_code() -> None:
    assert ", ".join(f"{pause:g}" for pause in PAUSES[:-1]) + f" and {PAUSES[-1]:g} seconds" in PAGE
    assert {errno.errorcode[number] for number in TRANSIENT} == set(re.findall(r"`(E[A-Z]+)`", PAGE))
    assert PAGE.count(f"**{errors.RESUME_ME}**") == 2
