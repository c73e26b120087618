"""What every model found under models/ must do, whatever it is. A new model is covered by being there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from engine import models
from engine.assembly import clip_shape, expected_shape, model_arguments
from engine.config import RunConfig, parse
from engine.errors import ConfigError
from engine.export import export_onnx
from engine.step import forward, takes_positions
from shared_data.errors import LabError
from shared_data.protocols import BENCHMARKS
from shared_data.skeletons import skeleton
from smoke_tests.fingerprint import fill, settle

SIZES = {name: (b.classes, b.skeleton, b.people) for name, b in BENCHMARKS.items()}
SIZES["auto"] = SIZES["ntu60"]
CARDS = models.discover()
RECIPES = [(name, recipe) for name, card in CARDS.items() for recipe in card.recipes]
Size = tuple[int, str, int]
ROUNDED = 0.05  # relative error of bf16 with all branches on: 0.004 to 0.021 under autocast, to 0.032 with weights in bf16


def config_of(name: str, recipe: str) -> RunConfig:
    return parse(["--config", str(CARDS[name].recipes[recipe])], model=name)


def built(name: str, size: Size, /, **model_args: Any) -> nn.Module:
    torch.manual_seed(0)
    return models.build(CARDS[name], num_classes=size[0], skeleton=size[1], people=size[2], **model_args)


def sample(name: str, n: int = 2, **model_args: Any) -> tuple[nn.Module, Tensor]:
    """The model of the first expected size, and n clips for it, short ones where it takes them."""
    row = CARDS[name].toml["expect"][0]
    network = built(name, (row["classes"], row["skeleton"], row["people"]), **row.get("model_args", {}), **model_args)
    shape = expected_shape(CARDS[name], row, min(row["window"], CARDS[name].toml["smoke"]["window"]))
    return network, torch.randn(n, *shape, generator=torch.Generator().manual_seed(1))


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
    assert set(card.toml["streams"]) <= {"j", "b", "jm", "bm"} and card.toml["streams"] and card.toml["summary"]
    for row in card.toml.get("published", []):
        scores = {"accuracy", "edit"} if row.get("by") == "segmentation" else {"top1"}
        assert {"dataset", "protocol", "stream", "source", *scores} <= set(row), row
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
        network = built(name, (row["classes"], row["skeleton"], row["people"]), **row.get("model_args", {}))
        assert sum(p.numel() for p in network.parameters()) == row["parameters"], row


@pytest.mark.parametrize("sizes", ["one", pytest.param("all", marks=pytest.mark.slow)])
@every_model
def test_flops_per_clip(name: str, sizes: str) -> None:
    """GFLOPs of one clip forward, two per multiply-add, to the three digits of the card."""
    rows = [row for row in CARDS[name].toml["expect"] if "gflops" in row]
    assert rows, "no expected size tells gflops"
    for row in rows if sizes == "all" else rows[:1]:
        with torch.device("meta"):
            network = built(name, (row["classes"], row["skeleton"], row["people"]), **row.get("model_args", {})).eval()
            clip = torch.empty(1, *expected_shape(CARDS[name], row))
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(clip)
        assert counter.get_total_flops() / 1e9 == pytest.approx(row["gflops"], rel=5e-3), row


@every_model
def test_every_recipe_builds_and_runs(name: str) -> None:
    """Each network and shape once: many recipes share theirs."""
    done = set()
    for recipe in CARDS[name].recipes:
        config = config_of(name, recipe)
        size = SIZES[config.dataset]
        given = model_arguments(config, size[0], skeleton(size[1]), size[2])
        shapes = {clip_shape(config, skeleton(size[1]), size[2], train=train) for train in (True, False)}
        if (key := repr((size, given, sorted(shapes)))) in done:
            continue
        done.add(key)
        with torch.device("meta"):
            network = built(name, size, **given)
            assert all(value.is_meta for value in (*network.parameters(), *network.buffers())), recipe
            assert {network(torch.empty(2, *shape)).shape for shape in shapes} == {(2, size[0])}, recipe
    assert done


@pytest.mark.parametrize(("name", "recipe"), RECIPES)
def test_every_recipe_is_flat_and_says_how_to_run_it(name: str, recipe: str) -> None:
    text = CARDS[name].recipes[recipe].read_text(encoding="utf-8")
    assert f"sal train {name} --recipe {recipe}" in text.split("model:")[0]
    settings, config = yaml.safe_load(text), config_of(name, recipe)
    assert settings["model"] == name
    assert {key: getattr(config, key) for key in settings} == settings


@every_model
def test_gradients_reach_every_parameter(name: str) -> None:
    """Every parameter gets one, but those that the card lists as unused; what is listed must be unused."""
    network, clips = sample(name)
    logits = network.train()(clips)
    assert logits.shape == (2, CARDS[name].toml["expect"][0]["classes"]) and torch.isfinite(logits).all()
    nn.functional.cross_entropy(logits, torch.tensor([0, 1])).backward()
    untouched = {k for k, p in network.named_parameters() if p.requires_grad and p.grad is None}
    assert untouched == CARDS[name].unused_parameters(dict(network.named_parameters()))
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


@every_model
def test_building_is_deterministic(name: str) -> None:
    (one, clips), (two, _) = sample(name), sample(name)
    one, two = one.eval(), two.eval()
    assert torch.equal(one(clips), two(clips)) and torch.equal(one(clips), one(clips))


@every_model
def test_evaluation_does_not_depend_on_the_batch(name: str) -> None:
    network, clips = sample(name, 3)
    network, clips = network.eval().double(), clips.double()
    with torch.no_grad():
        together, alone = network(clips), torch.cat([network(clip[None]) for clip in clips])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(together[0], together[1])


@every_model
def test_absent_people_are_harmless(name: str) -> None:
    network, clips = sample(name)
    network.train()
    clips[..., -1] = 0.0
    logits = network(clips)
    logits.square().sum().backward()
    assert torch.isfinite(logits).all()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)
    assert torch.isfinite(network.eval()(torch.zeros_like(clips))).all()


@every_model
def test_input_is_not_changed(name: str) -> None:
    network, clips = sample(name)
    before = clips.clone()
    network.train()(clips).sum().backward()
    assert torch.equal(clips, before)


@every_model
def test_weights_survive_safetensors(name: str, tmp_path: Path) -> None:
    network, clips = sample(name)
    network.train()(clips)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    other, _ = sample(name)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.load_state_dict(load_file(tmp_path / "w.safetensors"))
    assert torch.equal(network.eval()(clips), other.eval()(clips))


@every_model
def test_autocast(name: str) -> None:
    """bf16 stays near fp32, forward and backward; parameters and their gradients stay fp32."""
    network, clips = sample(name)
    fill(network)
    settle(network, clips)
    with torch.no_grad():
        exact = network(clips)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = network(clips)
        nn.functional.cross_entropy(rounded, torch.tensor([0, 1])).backward()
    assert torch.isfinite(rounded).all()
    assert float((rounded.detach().float() - exact).norm() / exact.norm()) < ROUNDED
    assert all(p.grad.dtype == torch.float32 and torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


@every_model
def test_half_precision_weights(name: str) -> None:
    """Evaluation with the weights themselves in bf16 (half the memory) stays near fp32."""
    network, clips = sample(name)
    fill(network)
    settle(network, clips)
    with torch.no_grad():
        exact = network(clips)
        rounded = network.bfloat16()(clips.bfloat16())
    assert rounded.dtype == torch.bfloat16 and torch.isfinite(rounded).all()
    assert float((rounded.float() - exact).norm() / exact.norm()) < ROUNDED


@every_model
def test_people_are_exchangeable_as_the_card_says(name: str) -> None:
    """`person_order`: "free" (a fresh model gives the same logits for people in another order) or "matters"."""
    network, clips = sample(name)
    network, clips = network.eval().double(), clips.double()
    with torch.no_grad():
        same = torch.allclose(network(clips), network(clips.flip(-1)), rtol=1e-9, atol=1e-9)
    assert same == (CARDS[name].toml["input"]["person_order"] == "free")


@every_model
def test_absent_people_and_empty_clips_make_a_difference(name: str) -> None:
    network, clips = sample(name)
    present, absent, empty = clips.clone(), clips.clone(), torch.zeros_like(clips)
    absent[..., -1] = 0.0
    with torch.no_grad():
        one, two, none = (network.eval()(x) for x in (present, absent, empty))
    assert torch.isfinite(torch.stack([one, two, none])).all()
    assert not torch.allclose(one, two) and not torch.allclose(two, none)


@every_model
def test_clips_of_another_shape_are_refused(name: str) -> None:
    """Other coordinates, joints or people, or no axes for them: the message has the shape given and the one expected."""
    row = CARDS[name].toml["expect"][0]
    c, t, v, m = expected_shape(CARDS[name], row)
    with torch.device("meta"):
        network = built(name, (row["classes"], row["skeleton"], row["people"]), **row.get("model_args", {}))
        wrong = [(c - 1, t, v, m), (c, t, v - 5, m), (c, t, v, m + 1), (c, t, v, m - 1), (c, t, v * m), (t, v * m * c)]
        for shape in wrong:
            with pytest.raises(LabError, match=re.escape(str((2, *shape)))) as caught:
                network(torch.empty(2, *shape))
            assert re.match(rf"\(N, {c}, (T|{t}), {v}, {m}\)", caught.value.expected), shape


@pytest.mark.slow
@every_model
def test_onnx(name: str, tmp_path: Path) -> None:
    """The file gives the network's logits for another number of clips; where a card says why it cannot be written, it cannot."""
    network, _ = sample(name)
    row = CARDS[name].toml["expect"][0]
    shape = expected_shape(CARDS[name], row)
    reason = CARDS[name].toml.get("onnx", "")
    if reason:
        with pytest.raises(ConfigError, match="cannot be written"):
            export_onnx(network, shape, tmp_path / "model.onnx")
        return
    session = onnxruntime.InferenceSession(str(export_onnx(network, shape, tmp_path / "model.onnx")))
    inputs = {"clips": torch.randn(3, *shape)}
    if takes_positions(network):
        inputs["positions"] = torch.linspace(-1, 0.9, shape[1]).expand(3, -1).contiguous()
    with torch.no_grad():
        ours = forward(network, inputs["clips"], inputs.get("positions"))
    (theirs,) = session.run(None, {key: value.numpy() for key, value in inputs.items()})
    assert float((torch.from_numpy(theirs) - ours).norm() / ours.norm()) < 1e-4


@every_model
def test_official_names_cover_the_model(name: str) -> None:
    """Every entry of ours has an official name (but what is named as ours alone), and the way there and back changes nothing."""
    if CARDS[name].status != "verified":
        assert not (CARDS[name].folder / "official.py").exists()
        return
    network, _ = sample(name)
    names = models.official_module(CARDS[name])
    official = names.to_official(network.state_dict(), network)
    back = names.from_official(official, network)
    assert {k: v.shape for k, v in back.items()} == {k: v.shape for k, v in network.state_dict().items()}
    assert all(torch.equal(back[k], v) for k, v in network.state_dict().items())
