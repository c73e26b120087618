"""The scripts in a zero-shot system's folder, with the names and flags of the official ones; each is one call of these."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from engine.launch import guarded
from sal import zeroshot

SMOKE_TEST = Path(__file__).resolve().parent.parent / "smoke_tests" / "smoke.py"


def main(model: str, argv: Sequence[str] | None = None) -> int:
    """`python3 main.py VERB …`: `sal zeroshot VERB …` of this model."""
    return guarded(lambda: zeroshot.run(_words(argv), model=model, prog="python3 main.py"))


def train(model: str, argv: Sequence[str] | None = None) -> int:
    """`python3 train.py …`: stage 1 of training alone, or stage 2 with ``--phase val``."""
    given = _words(argv)
    words = given if any(word.partition("=")[0] == "--phase" for word in given) else ["--phase", "train", *given]
    return guarded(lambda: zeroshot.run(words, model=model, prog="python3 train.py", verb="run"))


def text(model: str, argv: Sequence[str] | None = None) -> int:
    """`python3 gen_text_feat.py …`: `sal zeroshot text …`."""
    return guarded(lambda: zeroshot.run(_words(argv), model=model, prog="python3 gen_text_feat.py", verb="text"))


def smoke(model: str, argv: Sequence[str] | None = None) -> int:
    """`python3 smoke_test.py …`: the repository's smoke test of this model, in place of this process."""
    os.execv(sys.executable, [sys.executable, str(SMOKE_TEST), "--model", model, *_words(argv)])  # noqa: S606


def _words(argv: Sequence[str] | None) -> list[str]:
    return list(sys.argv[1:] if argv is None else argv)
