"""Settings that reach the parts of a run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine import assembly, environment, models
from engine.config import parse
from engine.errors import ConfigError
from engine.optimizers import set_learning_rate
from engine.parity import fixture
from shared_data import inplace, store
from shared_data.datasets import open_data
from shared_data.errors import LabError, MissingInputError, UsageError
from shared_data.skeletons import NTU25

CPU = torch.device("cpu")
PARITY = Path(__file__).resolve().parents[1] / "parity"


def config(*flags: str):
    return parse(["--recipe", "smoke", "--train-window-size", "16", "--test-window-size", "16", *flags], model="ctrgcn")


def test_the_test_feeders_crop_is_used(tiny_data: Path) -> None:
    batches = {}
    for p in ("0.95", "0.5"):
        run = config("--data", str(tiny_data), "--test-feeder-args", f"{{p_interval: [{p}]}}")
        batches[p] = next(assembly.test_loader(assembly.load_data(run), run, CPU).epoch(0)).clips
    assert not torch.equal(batches["0.95"], batches["0.5"])


def test_window_size_is_the_fields_word_for_window(tiny_data: Path) -> None:
    words = ["--recipe", "smoke", "--data", str(tiny_data), "--train-feeder-args", "{'window_size': 24}", "--batch-size", "4"]
    run = parse(words, model="ctrgcn")
    assert next(assembly.train_loader(assembly.load_data(run), run, CPU).epoch(0)).clips.shape == (4, 3, 24, 25, 2)


def test_thinning_is_even_and_keeps_all_classes(tiny_data: Path) -> None:
    run = config("--data", str(tiny_data), "--max-clips", "8")
    data = assembly.load_data(run)
    assert (len(data.train), len(data.test)) == (8, 8)
    assert len(np.unique(data.train.labels)) == 4
    few = config("--data", str(tiny_data), "--max-clips", "20")
    assert [len(split) for split in (assembly.load_data(few).train, assembly.load_data(few).test)] == [20, 12]


@pytest.mark.parametrize(
    "words",
    ["{num_classes: 3}", "{num_class: 3}", "{num_class: 60}", "{num_person: 1}", "{graph: graph.ucla.Graph, num_point: 20}"],
)
def test_what_follows_from_the_data_cannot_be_set(tiny_data: Path, words: str) -> None:
    run = config("--data", str(tiny_data), "--model-args", words)
    with pytest.raises(ConfigError, match="in the data and cannot be set"):
        assembly.build_model(run, assembly.load_data(run), CPU)


def test_official_words_for_model_arguments_are_understood(tiny_data: Path) -> None:
    words = "{num_class: 4, num_point: 25, num_person: 2, graph: graph.ntu_rgb_d.Graph, drop_out: 0.5, adaptive: false}"
    run = config("--data", str(tiny_data), "--model-args", words)
    network = assembly.build_model(run, assembly.load_data(run), CPU)
    assert network.dropout.p == 0.5 and not any(name.endswith("gcn.graph") for name, _ in network.named_parameters())
    wrong = config("--data", str(tiny_data), "--model-args", "{adaptiv: true}")
    with pytest.raises(ConfigError, match="did you mean adaptive"):
        assembly.build_model(wrong, assembly.load_data(wrong), CPU)


def official_words() -> dict[str, tuple[str, dict[str, Any]]]:
    """Case -> official name of a model and the constructor arguments that its configurations and its users give."""
    cases = {path.stem: fixture.load(path).meta for path in sorted(PARITY.glob("*.npz"))}
    others = models.discover("zeroshot")
    cases = {case: meta for case, meta in cases.items() if "logits" in meta["outputs"]}  # the others are of pretraining
    found = {case: (meta["model"], meta["constructor_args"]) for case, meta in cases.items() if meta["model"] not in others}
    found["scdnet, downstream"] = ("scdnet", {"hidden_size": 2048, "num_head": 8, "num_layer": 1, "num_class": 60})
    labeling = {"labeling_mode": "virtual_ensemble", "hyper_joints": 3}
    found["hypergcn with its graph's count"] = ("hypergcn_base", {**found["hypergcn_base_ntu60"][1], "graph_args": labeling})
    trimmed = {"num_heads": 8, "drop_path": 0.05}
    trimmed |= {"type_1_size": [4, 6], "type_2_size": [4, 8], "type_3_size": [4, 6], "type_4_size": [4, 8]}
    shape = {"num_classes": 60, "num_people": 2, "num_points": 24, "kernel_size": 7, "mlp_ratio": 4.0, "index_t": True}
    return found | {"skateformer, a few": ("skateformer", trimmed), "skateformer, all": ("skateformer", shape | trimmed)}


OFFICIAL = official_words()


@pytest.mark.parametrize(("name", "words"), OFFICIAL.values(), ids=OFFICIAL)
def test_official_model_arguments_give_the_official_network(name: str, words: dict[str, Any]) -> None:
    card, variant = models.find_official(name)
    flags = ["--recipe", "smoke", "--train-window-size", "64", "--test-window-size", "64", "--model-args"]
    run = parse([*flags, json.dumps({**words, **variant})], model=card.name)
    with torch.device("meta"):
        given = assembly.model_arguments(run, 60, NTU25, 2)
        network = models.build(card, num_classes=60, skeleton=NTU25, people=2, **given)
        wanted = models.build(card, **{**models.official_module(card).constructor(words), **variant})
    shapes = [{key: value.shape for key, value in each.state_dict().items()} for each in (network, wanted)]
    assert shapes[0] == shapes[1] and str(network) == str(wanted)


def test_all_models_with_official_names_are_tried() -> None:
    tried = {models.find_official(name)[0].name for name, _ in OFFICIAL.values()}
    assert tried == {name for name, card in models.discover().items() if (card.folder / "official.py").exists()}


def hyper_arguments(words: str) -> dict[str, Any]:
    run = parse(["--train-window-size", "16", "--test-window-size", "16", "--model-args", words], model="hypergcn")
    return assembly.model_arguments(run, 60, NTU25, 2)


def test_a_word_of_both_vocabularies_means_the_official_argument_beside_official_words() -> None:
    assert hyper_arguments("{num_class: 60, hyper_joints: 0, size: large}") == {"hyper_joints": 0, "size": "large"}
    assert hyper_arguments("{hyper_joints: 2, neighbours: 5}") == {"hyper_joints": 2, "neighbours": 5}
    assert hyper_arguments("{num_class: 60, drop_out: 0.5}") == {"dropout": 0.5}  # what is not said keeps our default
    with pytest.raises(UsageError, match="hyper_joints \\(2\\)"):
        hyper_arguments("{hyper_joints: 2, graph_args: {hyper_joints: 3}}")


@pytest.mark.parametrize(
    ("model", "words", "message"),
    [
        ("hypergcn", "{num_pont: 25}", "did you mean num_point"), ("hypergcn", "{hyper_joint: 2}", "did you mean hyper_joints"),
        ("hypergcn", "{num_class: 60, neighbour: 2}", "takes no model argument 'neighbour'; did you mean neighbours"),
        ("msg3d", "{num_point: 20}", "num_point is 20(.|\n)*25, the joints of"),
        ("baselines", "{num_class: 60}", "takes no model argument 'num_class'(.|\n)*architecture, dropout"),
    ],
)  # fmt: skip
def test_a_word_of_neither_vocabulary_is_refused(model: str, words: str, message: str) -> None:
    run = parse(["--recipe", "smoke", "--model-args", words], model=model)
    with pytest.raises(LabError, match=message) as caught:
        assembly.model_arguments(run, 60, NTU25, 2)
    assert caught.value.exit_code == 2


def test_a_network_that_needs_the_window_is_told(tiny_data: Path) -> None:
    run = parse(["--recipe", "smoke", "--data", str(tiny_data), "--train-window-size", "48", "--test-window-size", "48"],
                model="freqmixformer")  # fmt: skip
    assert assembly.build_model(run, assembly.load_data(run), CPU).frames == 48


def test_a_batch_larger_than_the_data(tiny_data: Path) -> None:
    run = config("--data", str(tiny_data), "--batch-size", "25")
    with pytest.raises(ConfigError, match="24 training clips"):
        assembly.train_loader(assembly.load_data(run), run, CPU)


def test_no_data_named() -> None:
    with pytest.raises(MissingInputError, match="no data"):
        assembly.load_data(config())


@pytest.mark.parametrize("name", ["99", "cuda:99", "warp", "meta"])
def test_a_device_that_is_not_there(name: str) -> None:
    with pytest.raises(ConfigError):
        assembly.choose_device(name)


def test_the_shape_of_a_clip_is_the_pipelines() -> None:
    run = config()
    assert assembly.clip_shape(run, NTU25, 2, train=True) == (3, 16, 25, 2)
    whole = parse(["--pipeline", "msg3d_ntu", "--train-window-size=-1", "--test-window-size=64"], model="ctrgcn")
    assert assembly.clip_shape(whole, NTU25, 2, train=True) == (3, 300, 25, 2)
    by_part = parse(["--pipeline", "skateformer_ntu", "--train-window-size=64"], model="ctrgcn")
    assert assembly.clip_shape(by_part, NTU25, 2, train=True) == (3, 64, 24, 2)
    with pytest.raises(ConfigError, match="window of 0 frames"):
        config("--test-window-size=0")


def test_the_batches_have_that_shape(tiny_data: Path) -> None:
    for pipeline in ("ctrgcn_ntu", "skateformer_ntu", "msg3d_ntu"):
        run = config("--data", str(tiny_data), "--pipeline", pipeline)
        data = assembly.load_data(run)
        for train, loader in ((True, assembly.train_loader), (False, assembly.test_loader)):
            batch = next(loader(data, run, CPU).epoch(0))
            assert batch.clips.shape[1:] == assembly.clip_shape(run, data.skeleton, data.train.max_people, train=train)


def test_two_person_actions_are_a_data_set_of_their_own(tmp_path: Path) -> None:
    from shared_data.synthetic import write_synthetic

    file = write_synthetic(tmp_path / "synthetic.npz", classes=60, train_per_class=2, test_per_class=1, frames=40)
    run = config("--data", str(file), "--dataset", "ntu60_inter")
    whole, data = assembly.load_data(config("--data", str(file), "--dataset", "ntu60")), assembly.load_data(run)
    assert (data.num_classes, len(data.train), len(data.test)) == (11, 22, 11)
    assert sorted(set(data.train.labels.tolist())) == list(range(11))
    first = data.train.ids[data.train.labels == 0]
    assert sorted(first) == sorted(whole.train.ids[whole.train.labels == 49])
    assert data.class_names == whole.class_names[49:]


class ReadsPositions(torch.nn.Module):
    takes_positions = True

    def __init__(self, num_classes: int, *, skeleton: object, people: int) -> None:
        super().__init__()


def test_positions_that_no_pipeline_tells_are_refused(tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembly.models, "entry_class", lambda card, stage: ReadsPositions)
    run = config("--data", str(tiny_data))
    with pytest.raises(ConfigError, match="ctrgcn_ntu does not tell"):
        assembly.build_model(run, assembly.load_data(run), CPU)
    told = config("--data", str(tiny_data), "--pipeline", "skateformer_ntu")
    assert isinstance(assembly.build_model(told, assembly.load_data(told), CPU), ReadsPositions)


def test_a_window_without_effect_is_told(tiny_data: Path) -> None:
    run = config("--data", str(tiny_data), "--pipeline", "msg3d_ntu", "--train-feeder-args", "{random_choose: true}")
    (told,) = assembly.remarks(run, assembly.load_data(run))
    assert "test clips of 300 frames, not of 16" in told
    assert assembly.remarks(config("--data", str(tiny_data)), assembly.load_data(run)) == []


def test_where_runs_go(monkeypatch):
    asked = parse(["--recipe", "ntu60_xsub", "--stream", "b"], model="ctrgcn")
    monkeypatch.delenv("SAL_WORK_DIR", raising=False)
    assert assembly.work_dir(asked) == Path("work_dir/ctrgcn/ntu60_xsub_b")
    monkeypatch.setenv("SAL_WORK_DIR", "/workspace/work_dir")
    assert environment.work_dir() == Path("/workspace/work_dir")
    assert assembly.work_dir(asked) == Path("/workspace/work_dir/ctrgcn/ntu60_xsub_b")
    tested = dataclasses.replace(asked, phase="test")
    assert assembly.work_dir(tested).name == "ntu60_xsub_b_test"
    assert assembly.work_dir(dataclasses.replace(asked, work_dir="mine")) == Path("mine")


def test_the_fingerprint_is_of_the_clips_and_not_of_their_file(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = open_data(tiny_data)
    mark = assembly.fingerprint(data)
    assert mark == assembly.fingerprint(open_data(store.prepare(tiny_data, tmp_path / "store.h5")))
    monkeypatch.setattr(inplace, "SMALLEST", 0)
    placed = open_data(tiny_data)
    assert placed.train.frame_step > 1 and mark == assembly.fingerprint(placed)


@pytest.mark.parametrize("column", ["rows", "extent", "people", "labels", "ids"])
def test_the_fingerprint_notices(tiny_data: Path, column: str) -> None:
    data = open_data(tiny_data)
    old = getattr(data.test, column)
    new = old[::-1] if column == "ids" else np.maximum(old - 1, 0) if column != "rows" else 3 * old
    other = dataclasses.replace(data, test=dataclasses.replace(data.test, **{column: new}))
    assert assembly.fingerprint(other) != assembly.fingerprint(data)


def test_encoder_and_head_learn_at_two_rates() -> None:
    """A step of plain SGD moves the encoder by a tenth of its gradient, the head by all of it; a schedule scales both."""
    run = parse(
        ["--recipe", "smoke", "--base-lr", "0.1", "--encoder-lr-factor", "0.1", "--momentum", "0", "--weight-decay", "0"],
        model="isc",
    )
    network = models.build(models.find("isc"), num_classes=4, skeleton=NTU25, people=2, representation="graph", width=8)
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    step = assembly.train_step(run, network.train(), CPU)
    set_learning_rate(step.optimizer, 0.5)
    step(torch.randn(3, 3, 16, 25, 2), torch.arange(3), None)
    for name, value in network.named_parameters():
        rate = 0.05 if name.startswith("encoder.") else 0.5
        torch.testing.assert_close(value, before[name] - rate * value.grad, msg=name)


def test_the_factor_of_the_encoder_is_on_top_of_the_decay_by_layers() -> None:
    words = ["--recipe", "finetune_ntu60_xsub", "--layer-decay", "0.5", "--encoder-lr-factor", "0.1", "--base-lr", "1"]
    network = models.build(models.find("mamp"), num_classes=4, skeleton=NTU25, people=2, frames=8, width=8, heads=2, depth=2)
    optimizer = assembly.new_optimizer(parse(words, model="mamp"), network)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    found = {name: rates[id(p)] for name, p in network.named_parameters()}
    assert found["fc.weight"] == 1.0 and found["encoder.norm.weight"] == pytest.approx(0.1)
    assert found["encoder.blocks.1.norm1.weight"] == pytest.approx(0.05)
    assert found["encoder.embed.weight"] == pytest.approx(0.1 * 0.5**3)


def test_a_network_without_an_encoder_has_one_rate() -> None:
    network = torch.nn.Linear(2, 2)
    with pytest.raises(ConfigError, match="no encoder"):
        assembly.new_optimizer(config("--encoder-lr-factor", "0.1"), network)
    assert len(assembly.new_optimizer(config(), network).param_groups) == 1
