"""What is judged of an encoder: its features as they are, and the published figures of its variant."""

from __future__ import annotations

from pathlib import Path

from engine.config import parse
from engine.downstream.encoders import opened
from engine.downstream.judging import published


def test_features_are_the_encoders_own(tiny_data: Path) -> None:
    """MAMP's head for fine-tuning begins with layers of its own, which an encoder that was never fine-tuned has not learned."""
    flags = ["--recipe", "smoke", "--data", str(tiny_data), "--max-clips", "4", "--device", "cpu"]
    encoder = opened(parse(flags, model="mamp"))
    assert encoder.features("test").values.shape == (4, 64)
    asked = opened(parse([*flags, "--model-args.protocol", "finetune"], model="mamp"))
    assert asked.head.in_features == 2048


def test_published_figures_are_of_the_variant() -> None:
    for backbone, top1 in (("sttr", 0.842), ("dste", 0.852)):
        (row,) = published(parse(["--recipe", f"{backbone}_ntu60_xsub"], model="usdrl"))
        assert (row.evaluation, row.setting, row.top1) == ("linear", f"usdrl_{backbone}", top1)
    rows = published(parse(["--recipe", "finetune_ntu60_xsub"], model="mamp"))
    assert sorted(row.top1 for row in rows) == [0.631, 0.799, 0.85, 0.871]
