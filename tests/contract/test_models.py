"""What every model found under models/ must do, whatever it is. A new model is covered by being there."""

from __future__ import annotations

from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from engine import models
from engine.config import RunConfig, parse
from shared_data.pipelines import pipeline
from shared_data.protocols import BENCHMARKS
from shared_data.skeletons import skeleton

SIZES = {name: astuple(benchmark) for name, benchmark in BENCHMARKS.items()}
SIZES["auto"] = SIZES["ntu60"]
CARDS = models.discover()
RECIPES = [(name, recipe) for name, card in CARDS.items() for recipe in card.recipes]
Size = tuple[int, str, int]


def config_of(name: str, recipe: str) -> RunConfig:
    return parse(["--config", str(CARDS[name].recipes[recipe])], model=name)


def built(name: str, size: Size, **model_args: Any) -> nn.Module:
    torch.manual_seed(0)
    return models.build(CARDS[name], num_classes=size[0], skeleton=size[1], people=size[2], **model_args)


def size_of(name: str) -> tuple[Size, int]:
    """The first expected size of a model and its window."""
    row = CARDS[name].toml["expect"][0]
    return (row["classes"], row["skeleton"], row["people"]), row["window"]


def clips_of(size: Size, window: int, n: int = 2) -> Tensor:
    return torch.randn(n, 3, window, skeleton(size[1]).joints, size[2], generator=torch.Generator().manual_seed(1))


def every_model(test: Any) -> Any:
    return pytest.mark.parametrize("name", sorted(CARDS))(test)


def test_there_are_models() -> None:
    assert CARDS and RECIPES


@every_model
def test_card_is_complete(name: str) -> None:
    card = CARDS[name]
    assert card.status in ("verified", "experimental")
    assert {"title", "venue", "year", "url"} <= set(card.toml["paper"])
    assert card.toml["provenance"] and card.toml["input"] and card.toml["expect"] and card.toml["smoke"]
    assert all({"dataset", "protocol", "stream", "top1", "source"} <= set(row) for row in card.toml.get("published", []))
    for file in ("README.md", "main.py", "requirements.txt", "__init__.py"):
        assert (card.folder / file).is_file(), file
    readme = (card.folder / "README.md").read_text(encoding="utf-8")
    assert all(f"`{recipe}`" in readme for recipe in card.recipes)
    assert CARDS[name].toml["smoke"]["recipe"] in card.recipes


@every_model
def test_main_knows_its_model(name: str) -> None:
    assert f'main("{name}")' in (CARDS[name].folder / "main.py").read_text(encoding="utf-8")


@every_model
def test_parameter_counts(name: str) -> None:
    for row in CARDS[name].toml["expect"]:
        network = built(name, (row["classes"], row["skeleton"], row["people"]))
        assert sum(p.numel() for p in network.parameters()) == row["parameters"], row


@pytest.mark.parametrize(("name", "recipe"), RECIPES)
def test_every_recipe_builds_and_runs(name: str, recipe: str) -> None:
    config = config_of(name, recipe)
    size = SIZES[config.dataset]
    with torch.device("meta"):
        network = built(name, size, **config.model_args)
        clips = torch.empty(2, 3, config.train_window_size, skeleton(size[1]).joints, size[2])
        assert network(clips).shape == (2, size[0])


@pytest.mark.parametrize(("name", "recipe"), RECIPES)
def test_every_recipe_is_flat_and_says_how_to_run_it(name: str, recipe: str) -> None:
    text = CARDS[name].recipes[recipe].read_text(encoding="utf-8")
    assert f"sal train {name} --recipe {recipe}" in text.split("model:")[0]
    settings, config = yaml.safe_load(text), config_of(name, recipe)
    assert settings["model"] == name
    assert {key: getattr(config, key) for key in settings} == settings


@pytest.mark.parametrize(("name", "recipe"), RECIPES)
def test_every_recipe_names_a_pipeline_that_takes_its_options(name: str, recipe: str) -> None:
    config = config_of(name, recipe)
    for window, options in (
        (config.train_window_size, config.train_feeder_args),
        (config.test_window_size, config.test_feeder_args),
    ):
        made = pipeline(config.pipeline, stream=config.stream, window=window, **options)
        assert made.options.window == window


@every_model
def test_gradients_reach_every_parameter(name: str) -> None:
    size, window = size_of(name)
    network = built(name, size).train()
    logits = network(clips_of(size, window))
    assert logits.shape == (2, size[0]) and torch.isfinite(logits).all()
    nn.functional.cross_entropy(logits, torch.tensor([0, 1])).backward()
    untouched = {k for k, p in network.named_parameters() if p.requires_grad and p.grad is None}
    assert untouched == set(CARDS[name].toml.get("unused_parameters", []))
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


@every_model
def test_building_is_deterministic(name: str) -> None:
    size, window = size_of(name)
    one, two = built(name, size).eval(), built(name, size).eval()
    clips = clips_of(size, window)
    assert torch.equal(one(clips), two(clips)) and torch.equal(one(clips), one(clips))


@every_model
def test_evaluation_does_not_depend_on_the_batch(name: str) -> None:
    size, window = size_of(name)
    network, clips = built(name, size).eval().double(), clips_of(size, window, 3).double()
    with torch.no_grad():
        together, alone = network(clips), torch.cat([network(clip[None]) for clip in clips])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(together[0], together[1])


@every_model
def test_absent_people_are_harmless(name: str) -> None:
    size, window = size_of(name)
    network, clips = built(name, size).train(), clips_of(size, window)
    clips[..., -1] = 0.0
    logits = network(clips)
    logits.square().sum().backward()
    assert torch.isfinite(logits).all()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)
    assert torch.isfinite(network.eval()(torch.zeros_like(clips))).all()


@every_model
def test_input_is_not_changed(name: str) -> None:
    size, window = size_of(name)
    clips = clips_of(size, window)
    before = clips.clone()
    built(name, size).train()(clips).sum().backward()
    assert torch.equal(clips, before)


@every_model
def test_weights_survive_safetensors(name: str, tmp_path: Path) -> None:
    size, window = size_of(name)
    network, clips = built(name, size), clips_of(size, window)
    network.train()(clips)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    torch.manual_seed(9)
    other = models.build(CARDS[name], num_classes=size[0], skeleton=size[1], people=size[2])
    other.load_state_dict(load_file(tmp_path / "w.safetensors"))
    assert torch.equal(network.eval()(clips), other.eval()(clips))


@every_model
def test_autocast(name: str) -> None:
    """bf16 stays near fp32, forward and backward; parameters and their gradients stay fp32."""
    size, window = size_of(name)
    network, clips = built(name, size).eval(), clips_of(size, window)
    with torch.no_grad():
        exact = network(clips)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = network(clips)
        nn.functional.cross_entropy(rounded, torch.tensor([0, 1])).backward()
    assert torch.isfinite(rounded).all()
    assert float((rounded.detach().float() - exact).norm() / exact.norm()) < 0.1
    assert all(p.grad.dtype == torch.float32 and torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


@every_model
def test_official_names_cover_the_model(name: str) -> None:
    """Every entry of ours has an official name (but what is named as ours alone), and the way there and back changes nothing."""
    if CARDS[name].status != "verified":
        assert not (CARDS[name].folder / "official.py").exists()
        return
    network = built(name, size_of(name)[0])
    names = models.official_module(CARDS[name])
    official = names.to_official(network.state_dict(), network)
    back = names.from_official(official, network)
    assert {k: v.shape for k, v in back.items()} == {k: v.shape for k, v in network.state_dict().items()}
    assert all(torch.equal(back[k], v) for k, v in network.state_dict().items())
