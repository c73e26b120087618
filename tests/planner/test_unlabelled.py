"""Whether pretraining fits: the objective's own step is traced, whole batches and pieces, and `sal plan` has its recipes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from engine import models
from engine.pretraining.step import PretrainStep
from planner.answers import recipe_config
from planner.costs import costs_of, size_of
from planner.levers import Settings
from planner.measure import built, made_up
from planner.steps.lifetimes import Lifetimes
from sal.__main__ import main
from tests.engine.pretraining.conftest import toy  # noqa: F401
from tests.engine.pretraining.toys import Together


def test_plan_answers_for_every_stage(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    assert main(["plan", "planted_toy", "--vram", "8", "--json", "--all"]) == 0
    told = json.loads(capsys.readouterr().out)
    found = {one["recipe"]: one for one in told["cards"][0]["answers"]}
    assert set(found) == {"small", "pretrain/small", "tune/small"}
    assert {one["word"] for one in found.values()} == {"comfortable"}, found
    assert main(["plan", "planted_toy", "--vram", "8", "--recipe", "pretrain/small"]) == 0
    assert "sal pretrain planted_toy --recipe small --data FILE --fit 8GiB" in capsys.readouterr().out


@pytest.mark.parametrize("stage", ["pretrain", "tune"])
def test_the_peak_is_that_of_the_step(toy: Path, stage: str) -> None:  # noqa: F811
    """Traced by hand on the meta device, the second step of the objective has the peak that is told."""
    card = models.find("planted_toy")
    config, size = recipe_config(card, f"{stage}/small"), size_of("auto")
    costs = costs_of(card, config, size)
    told = costs.train(Settings(64, 64, None, "none", "fp32"))
    with torch.device("meta"):
        objective = built(config, card, size)
        clips, ids, _ = made_up(0, 64, costs.steps.clip_shape, 2)
        clips, ids = clips.to("meta"), ids.to("meta")
        parameters = [p for p in objective.parameters() if p.requires_grad]
        step = PretrainStep(objective, torch.optim.SGD(parameters, lr=0.1, momentum=0.9))
        step(clips, ids)
        with Lifetimes() as memory:
            memory.hold([clips, ids, *objective.parameters(), *objective.buffers()])
            memory.hold(v for s in step.optimizer.state.values() for v in s.values() if isinstance(v, torch.Tensor))
            step(clips, ids)
    assert told == pytest.approx(memory.peak / 2**20, rel=0.02)


def test_a_loss_of_the_whole_batch_is_traced_with_all_its_pieces(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    card = models.find("planted_toy")
    costs = costs_of(card, recipe_config(card, "tune/small"), size_of("auto"))
    seen = []
    loss = Together.loss
    monkeypatch.setattr(Together, "loss", lambda self, embedded: seen.append(len(embedded["one"])) or loss(self, embedded))
    costs.train(Settings(48, 48, 8, "none", "fp32"))
    assert max(seen) == 48
