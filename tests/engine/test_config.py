from pathlib import Path

import pytest
import yaml

from engine.config import parse
from engine.errors import ConfigError


def test_any_flag_beats_the_recipe() -> None:
    recipe = parse(["--recipe", "ntu60_xsub"], model="ctrgcn")
    assert (recipe.num_epoch, recipe.batch_size, recipe.base_lr, recipe.step) == (65, 64, 0.1, [35, 55])
    assert (recipe.weight_decay, recipe.warm_up_epoch, recipe.recipe) == (4e-4, 5, "ntu60_xsub")
    changed = parse(["--recipe", "ntu60_xsub", "--num-epoch", "3", "--step", "[1, 2]", "--base-lr=1e-3"], model="ctrgcn")
    assert (changed.num_epoch, changed.step, changed.base_lr, changed.batch_size) == (3, [1, 2], 1e-3, 64)


def test_dictionaries_are_merged_not_replaced() -> None:
    config = parse(["--recipe", "ntu60_xsub", "--train-feeder-args", "{'window_size':32}"], model="ctrgcn")
    assert config.train_window_size == 32  # the field's word for it
    assert config.train_feeder_args["p_interval"] == [0.5, 1.0]


def test_the_windows_own_flag_beats_a_recipes_window_size(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("model: ctrgcn\ntrain_feeder_args: {window_size: 48}\n")
    assert parse(["--config", str(file)]).train_window_size == 48
    assert parse(["--config", str(file), "--train-window-size", "16"]).train_window_size == 16


def test_a_switch_needs_no_value() -> None:
    config = parse(["--recipe", "ntu60_xsub", "--memory-friendly", "--num-epoch", "1"], model="ctrgcn")
    assert config.memory_friendly and config.forward_batch_size == 8 and config.test_batch_size == 8
    assert not parse(["--recipe", "ntu60_xsub", "--nesterov", "false"], model="ctrgcn").nesterov


def test_a_list_may_be_spelled_as_words() -> None:
    assert parse(["--recipe", "ntu60_xsub", "--step", "20", "30", "--seed", "3"], model="ctrgcn").step == [20, 30]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--num-epok", "3"], "did you mean --num-epoch?"),
        (["--precision", "fp8"], "fp32"),
        (["--num-epoch", "many"], "--num-epoch"),
        (["--recipe", "ntu60_xsubb"], "did you mean ntu60_xsub?"),
        (["--batch-size", "0"], "batch_size is 0"),
        (["--seed", "-1"], "seed is -1"),
        (["--base-lr", "-1"], "base_lr is -1"),
        (["--base-lr", "nan"], "--base-lr"),
        (["--label-smoothing", "2"], "label_smoothing is 2"),
        (["--max-clips", "-5"], "max_clips is -5"),
        (["--momentum", "0"], "--nesterov false"),
        (["--seed", str(2**40)], "seed is"),
        (["--clip-grad", "0"], "clip_grad is 0"),
        (["--config", "x.yaml", "--recipe", "demo"], "both name a recipe"),
        (["--batch-size", "1", "--train-window-size", "1"], "BatchNorm"),
        (["--model", "msg3d"], "not for ctrgcn"),
    ],
)
def test_wrong_words_name_the_nearest_right_one(flags: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(flags, model="ctrgcn")
    assert said in str(caught.value)
    assert caught.value.exit_code == 2


def test_wrong_key_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("model: ctrgcn\nnum_epochs: 3\n")
    with pytest.raises(ConfigError) as caught:
        parse(["--config", str(file)])
    assert "did you mean num_epoch?" in str(caught.value)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("num_epoch: null", "num_epoch is empty"),
        ("model_args: null", "model_args is empty"),
        ("train_feeder_args: {1: 2}", "no word"),
        ("\xff\xfe", "cannot be read"),
    ],
)
def test_odd_files(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes(f"model: ctrgcn\n{text}\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=said):
        parse(["--config", str(file)])


def test_yaml_tags_build_nothing(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    trap = tmp_path / "sprung"
    file.write_text(f"model: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{trap}']]\n")
    with pytest.raises(ConfigError):
        parse(["--config", str(file)])
    assert not trap.exists()


def test_saved_config_reads_back_as_itself() -> None:
    config = parse(["--recipe", "nw_ucla", "--data", "x.zip"], model="ctrgcn")
    saved = yaml.safe_load(config.to_yaml())
    assert config.differences(saved) == []
    other = parse(["--recipe", "nw_ucla", "--data", "x.zip", "--seed", "2", "--device", "cpu"], model="ctrgcn")
    assert other.differences(saved) == ["seed: 1 -> 2"]
