"""What every model that pretrains owes: recipes whose steps run, encoders that fit its classifier, a complete table of names."""

from __future__ import annotations

from fnmatch import fnmatch
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from engine import models
from engine.assembly import clip_shape, new_optimizer, objective_arguments
from engine.config import RunConfig, parse
from engine.models import STAGES, Stage
from engine.pretraining.objective import is_objective
from engine.pretraining.step import PretrainStep
from engine.weights import ENCODER
from planner.costs import size_of
from shared_data.skeletons import skeleton

CARDS = models.discover()
UNLABELLED: tuple[Stage, ...] = ("pretrain", "tune")
RECIPES = [(name, stage, recipe) for name, card in CARDS.items() for stage in UNLABELLED for recipe in card.recipes_of(stage)]
SMOKE = [(name, stage, recipe) for name, stage, recipe in RECIPES if recipe == "smoke"]


def config_of(name: str, stage: Stage, recipe: str) -> RunConfig:
    return parse(["--config", str(CARDS[name].recipe(recipe, stage))], model=name, stage=stage)


def made(config: RunConfig, stage: Stage, batch: int) -> tuple[Any, torch.Tensor]:
    """The objective of a recipe and a batch of made-up clips for it, on the default device."""
    size = size_of(config.dataset)
    layout = skeleton(size.skeleton)
    given = objective_arguments(config, layout, size.people)
    torch.manual_seed(0)
    objective = models.build_objective(CARDS[config.model], stage, skeleton=layout, people=size.people, **given)
    return objective.train(), torch.randn(batch, *clip_shape(config, layout, size.people, train=True))


def test_who_pretrains_has_recipes_and_a_smoke_one() -> None:
    for name, card in CARDS.items():
        for stage in UNLABELLED:
            recipes = card.recipes_of(stage)
            assert (STAGES[stage][1] in card.toml) == bool(recipes), (name, stage)
            assert not recipes or "smoke" in recipes, (name, stage)
    assert {name for name, _, _ in SMOKE} >= {"isc", "mamp", "scdnet", "usdrl"}


@pytest.mark.parametrize(("name", "stage", "recipe"), RECIPES)
def test_every_recipe_is_flat_and_says_how_to_run_it(name: str, stage: Stage, recipe: str) -> None:
    text = CARDS[name].recipe(recipe, stage).read_text(encoding="utf-8")
    assert f"sal {stage} {name} --recipe {recipe} " in text.split("model:")[0]
    settings, config = yaml.safe_load(text), config_of(name, stage, recipe)
    assert settings["model"] == name
    assert {key: getattr(config, key) for key in settings} == settings


STEPS = sorted({(name, stage) for name, stage, _ in RECIPES})


@pytest.mark.parametrize(("name", "stage"), STEPS)
def test_every_recipe_s_step_runs_without_values(name: str, stage: Stage) -> None:
    """As `sal plan` runs it; whatever takes part is on the device that it is built on. Many recipes share an objective."""
    done = set()
    for recipe in CARDS[name].recipes_of(stage):
        config = config_of(name, stage, recipe)
        size = size_of(config.dataset)
        layout = skeleton(size.skeleton)
        given, shape = objective_arguments(config, layout, size.people), clip_shape(config, layout, size.people, train=True)
        rates = config.optimizer, config.betas, config.decay_vectors, config.layer_decay, config.clip_grad, config.clip_each
        if (key := repr((size, given, shape, rates))) not in done:
            done.add(key)
            step_runs(config, stage)
    assert done


def step_runs(config: RunConfig, stage: Stage) -> None:
    with torch.device("meta"):
        objective, clips = made(config, stage, 4)
        assert is_objective(objective) and all(value.is_meta for value in (*objective.parameters(), *objective.buffers())), (
            config.recipe
        )
        step = PretrainStep(objective, new_optimizer(config, objective), clip_grad=config.clip_grad, clip_each=config.clip_each)
        result = step(clips, torch.arange(4))
    assert result.loss.shape == () and {"spread"} < set(result.terms), config.recipe


@pytest.mark.parametrize(("name", "stage", "recipe"), SMOKE)
def test_encoders_are_those_of_the_classifier(name: str, stage: Stage, recipe: str) -> None:
    config = config_of(name, stage, recipe)
    objective, clips = made(config, stage, 2)
    size = size_of(config.dataset)
    for which, encoder in objective.encoders().items():
        classifier = models.build(
            CARDS[name], num_classes=3, skeleton=size.skeleton, people=size.people, **objective.classifier(which)
        ).eval()
        getattr(classifier, ENCODER).load_state_dict(encoder.state_dict())
        view = clips if clips.dim() == 5 else clips[:, 0]
        with torch.no_grad():
            features = encoder.eval()(view)
            assert features.shape[0] == 2 and torch.equal(getattr(classifier, ENCODER)(view), features)
            assert classifier(view).shape == (2, 3)


@pytest.mark.parametrize(("name", "stage", "recipe"), SMOKE)
def test_every_entry_of_the_state_has_an_official_name_or_is_ours_alone(name: str, stage: Stage, recipe: str) -> None:
    objective, _ = made(config_of(name, stage, recipe), stage, 1)
    official = models.import_module(CARDS[name], "official")
    rows = official.pretraining_table(objective)
    named = {row.ours for row in rows}
    ours = {key for key in objective.state_dict() if any(fnmatch(key, pattern) for pattern in official.PRETRAINING_OURS)}
    assert set(objective.state_dict()) == named | ours and not named & ours
    assert len({row.official for row in rows}) == len(rows)


@pytest.mark.parametrize(("name", "stage", "recipe"), SMOKE)
def test_a_step_is_the_same_again_from_its_state(name: str, stage: Stage, recipe: str) -> None:
    """Queues, followers and statistics are in the state dict: from there the next step has the same bits."""
    config = config_of(name, stage, recipe)
    objective, clips = made(config, stage, 4)

    def step(network: nn.Module) -> dict[str, torch.Tensor]:
        torch.manual_seed(3)
        PretrainStep(network, torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.01))(
            clips, torch.arange(4)
        )
        return {key: value.clone() for key, value in network.state_dict().items()}

    saved = step(objective)
    other, _ = made(config, stage, 4)
    other.load_state_dict(saved)
    one, two = step(objective), step(other)
    assert [key for key in one if not torch.equal(one[key], two[key])] == []
    assert any(not torch.equal(one[key], saved[key]) for key in one)
