"""Which published figures stand beside an evaluation."""

from __future__ import annotations

from engine.config import parse
from engine.downstream.judging import published


def test_published_figures_are_of_the_variant() -> None:
    for backbone, top1 in (("sttr", 0.842), ("dste", 0.852)):
        (row,) = published(parse(["--recipe", f"{backbone}_ntu60_xsub"], model="usdrl"))
        assert (row.evaluation, row.setting, round(row.top1, 6)) == ("linear", f"usdrl_{backbone}", top1)
    rows = published(parse(["--recipe", "finetune_ntu60_xsub"], model="mamp"))
    assert sorted(round(row.top1, 6) for row in rows) == [0.631, 0.799, 0.85, 0.871]
