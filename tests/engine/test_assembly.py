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


def test_what_follows_from_the_data_cannot_be_set(tiny_data: Path) -> None:
    run = config("--data", str(tiny_data), "--model-args", "{num_classes: 3}")
    with pytest.raises(ConfigError, match="num_classes follows from the data"):
        assembly.build_model(run, assembly.load_data(run), CPU)


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
