"""Settings that reach the parts of a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from engine import assembly
from engine.config import parse
from engine.errors import ConfigError
from shared_data.errors import MissingInputError
from shared_data.skeletons import NTU25

CPU = torch.device("cpu")


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


@pytest.mark.parametrize("words", ["{num_classes: 3}", "{num_class: 3}", "{num_person: 1}", "{graph: graph.ucla.Graph}"])
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
    monkeypatch.setattr(assembly.models, "entry_class", lambda card: ReadsPositions)
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
