"""The one definition of a run's settings: flags, `--help`, YAML keys, validation and the saved config all come from it.

A recipe is a flat YAML file of these keys; any flag beats the file. Flags are spelled with dashes (`--num-epoch`), keys with
underscores (`num_epoch`), as in the field's own trainers.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import yaml
from jsonargparse import ArgumentParser, Namespace

from engine import models
from engine.errors import ConfigError
from engine.losses import LossName
from engine.models import Stage
from engine.optimizers import OptimizerName
from engine.parsing import LabParser, lists_joined
from engine.signals import seconds
from engine.step import Precision
from shared_data import withheld
from shared_data.errors import MissingInputError, nearest

LARGE = float("inf")
DEBUG_CLIPS = 100  # of each split, under --debug
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("num_epoch", "batch_size", "test_batch_size", "forward_batch_size", "eval_interval",
                     "log_interval"), (1, LARGE)),
    **dict.fromkeys(("train_window_size", "test_window_size"), (-1, LARGE)),
    **dict.fromkeys(("hold_out", "max_clips", "save_interval", "save_steps", "num_worker", "upstream_seeding", "warm_up_epoch",
                     "base_lr", "encoder_lr_factor", "min_lr", "warm_up_lr", "weight_decay", "penalty_weight",
                     "eval_from"), (0, LARGE)),
    "repeat": (1, 10_000),
    "seed": (0, 2**32 - 1),
    "clip_grad": (1e-12, LARGE),
    **dict.fromkeys(("momentum", "label_smoothing", "lr_decay_rate", "layer_decay"), (0, 1)),
}  # fmt: skip
NUMBERS_TOO = ("fit", "time_limit")
"""Words that a recipe may also give as a number: `fit: 8`."""
MERGED = ("model_args", "objective_args", "segment_args", "train_feeder_args", "test_feeder_args")


def _key(default: Any, text: str, *, volatile: bool = False) -> Any:
    """A field with its help text; a `volatile` one may change between a run and its resumption."""
    metadata = {"help": text, "volatile": volatile}
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class RunConfig:
    """Every setting of a training or test run. Units: epochs and frames as counts, learning rate per step."""

    model: str = _key("", "model folder under models/")
    recipe: str = _key("", "recipe of the model (a file in its recipes/ folder), or use --config")
    phase: Literal["train", "test"] = _key("train", "train a model, or test --weights")
    data: str | None = _key(
        None, "data file or folder (Kaggle NPZ, 5-D NPZ, NW-UCLA folder or zip, prepared store)", volatile=True
    )
    layout: str = _key("auto", "how to read --data: auto, or a layout named in docs/your-data.md")
    on_bad: Literal["refuse", "drop"] = _key("refuse", "clips with NaN, infinity or no content: refuse the file, or drop")
    dataset: str = _key(
        "auto",
        "data set the recipe is for: ntu60, ntu120, nw_ucla, kinetics, ntu60_inter or ntu120_inter (two people), or auto",
    )
    split: str = _key(
        "", "official protocol of the recipe (xsub, xview, xset); divides the clips of data that is not divided yet"
    )
    protocol: Literal["upstream", "honest"] = _key(
        "upstream", "upstream: evaluate on the test set each epoch; honest: on people or views held out of training"
    )
    pipeline: str = _key("ctrgcn_ntu", "named input pipeline of shared_data")
    stream: Literal["j", "b", "jm", "bm"] = _key("j", "joint, bone, joint motion or bone motion")
    train_window_size: int = _key(64, "frames per clip in training; -1: whole clips, for pipelines that show them")
    test_window_size: int = _key(64, "frames per clip in evaluation; -1: whole clips")
    train_feeder_args: dict[str, Any] = _key({}, "further options of the training pipeline; merged into the recipe's")
    test_feeder_args: dict[str, Any] = _key({}, "further options of the test pipeline; merged into the recipe's")
    repeat: int = _key(1, "times each training clip is drawn in an epoch")
    model_args: dict[str, Any] = _key({}, "constructor arguments of the network; merged into the recipe's")
    weights: str | None = _key(None, "checkpoint to start from or to test: ours, or an official one")
    init: str | None = _key(
        None, "encoder to start from, with a new head: that of a pretraining run, or the encoder in any checkpoint of the model, "
        "also an official one"
    )  # fmt: skip
    stage: Stage = _key(
        "supervised", "what is trained: a classifier with labels; an encoder without (sal pretrain); one that is pretrained, "
        "further (sal tune); a network that segments sequences (sal segment)"
    )  # fmt: skip
    objective_args: dict[str, Any] = _key({}, "arguments of the objective of pretraining or tuning; merged into the recipe's")
    segment_args: dict[str, Any] = _key({}, "how sequences are segmented (docs/segmentation.md); merged into the recipe's")
    labelled: str = _key(
        "", "learn from some of the training clips alone: 10% of every class (draw 0), 10%/3 is draw 3; mamp:10%/0 draws from "
        "all clips together, as MAMP's code does; or a file with a list of names"
    )  # fmt: skip
    trust_pickle: bool = _key(False, "allow opening a pickled checkpoint (.pt); it can run code", volatile=True)
    num_epoch: int = _key(65, "epochs")
    batch_size: int = _key(64, "clips per optimizer step, of all processes together")
    forward_batch_size: int | None = _key(None, "clips per forward pass; gradients accumulate to --batch-size")
    test_batch_size: int = _key(64, "clips per evaluation pass, of each process", volatile=True)
    sync_batchnorm: bool = _key(
        False, "BatchNorm sees the clips of all processes that torchrun started, as with one; without, each sees its share alone"
    )  # fmt: skip
    memory_friendly: bool = _key(False, "micro-batches of 8 and small evaluation batches; BatchNorm sees the pieces")
    recompute: Literal["auto", "none", "cheap", "blocks"] = _key(
        "auto", "what the backward pass computes again instead of keeping it: nothing, cheap values, or whole blocks (activation "
        "checkpointing); the numbers stay the same. auto: cheap on a GPU, none on a CPU", volatile=True
    )  # fmt: skip
    fit: str = _key(
        "", "memory of the GPU that the run is to fit: 8GiB, 7.5GiB ..., or auto for that of the run's GPU. Pulls the cheapest "
        "sufficient levers, says which, and leaves alone what else is given on the command line", volatile=True
    )  # fmt: skip
    cuda_graphs: bool = _key(
        False, "capture the forward and backward passes of a step in a CUDA graph and replay them; the numbers stay the same. "
        "Needs a GPU; not yet measured on a GPU, so off unless asked for", volatile=True
    )  # fmt: skip
    compile: bool = _key(
        False, "run the network through torch.compile in training: other rounding, the first step takes minutes, and what is "
        "recomputed is its own choice. Needs a compiler"
    )  # fmt: skip
    optimizer: OptimizerName = _key("SGD", "optimizer")
    base_lr: float = _key(0.1, "learning rate after the warm-up")
    momentum: float = _key(0.9, "momentum of SGD")
    nesterov: bool = _key(True, "Nesterov momentum")
    weight_decay: float = _key(0.0004, "weight decay")
    decay_vectors: bool = _key(True, "weight decay on biases and normalisations, too")
    betas: list[float] = _key([0.9, 0.999], "decay rates of Adam's two averages")
    layer_decay: float = _key(
        1.0, "factor of the learning rate from each block of the encoder to the one below it, for models that number their blocks"
    )
    encoder_lr_factor: float = _key(
        1.0, "learning rate of the encoder over that of the head, which is --base-lr: 0.1 for 0.01 and 0.1; for models that also "
        "learn without labels"
    )  # fmt: skip
    lr_schedule: Literal["step", "cosine", "cosine_iteration", "cosine_fraction"] = _key(
        "step", "drops at the epochs in --step; half a cosine by epoch; SkateFormer's cosine by iteration; that of masked "
        "autoencoders, by the fraction of an epoch, whose warm-up begins at 0"
    )  # fmt: skip
    warm_up_epoch: int = _key(5, "epochs of linear warm-up")
    warm_up_lr: float = _key(0.0, "learning rate of the first step (cosine_iteration)")
    step: list[int] = _key([35, 55], "epochs (from 0) at which the learning rate drops")
    lr_decay_rate: float = _key(0.1, "factor of each drop")
    min_lr: float = _key(0.0, "learning rate that the cosine falls towards")
    loss_type: LossName = _key("CE", "training loss")
    label_smoothing: float = _key(0.0, "share of the target spread over all classes")
    penalty_weight: float = _key(0.0, "weight of the model's own penalty in the loss (Hyper-GCN: divergence of virtual joints)")
    clip_grad: float | None = _key(None, "largest L2 norm of the gradient")
    clip_each: bool = _key(False, "clip the gradient of each parameter by itself, not all together")
    precision: Precision = _key("fp32", "arithmetic of the forward pass: fp32, or autocast to bf16 or fp16")
    seed: int = _key(1, "seed of initialisation, order and augmentation")
    eval_interval: int = _key(1, "evaluate every so many epochs (the last one always)")
    eval_from: int = _key(0, "first epoch (from 0) to evaluate; the last one always is")
    save_interval: int = _key(0, "also keep the weights of every so many epochs (0: only last and best)", volatile=True)
    save_steps: int = _key(0, "also save the full state every so many steps inside an epoch (0: no)", volatile=True)
    num_worker: int = _key(1, "threads that make batches ahead; 0: the training thread makes them itself", volatile=True)
    augment_on: Literal["cpu", "device"] = _key(
        "cpu", "where batches are made; device keeps the training clips in GPU memory (1.5 GB for NTU-60)", volatile=True
    )
    upstream_seeding: int = _key(
        0,
        "repeat the official random numbers of so many workers in each epoch (their bug; NTU readers of CTR-GCN's kind); 0: off",
    )
    device: str = _key("auto", "auto, cpu, cuda, or a GPU's number", volatile=True)
    work_dir: str | None = _key(
        None, "folder of the run (default: work_dir/MODEL/RECIPE_STREAM, or below $SAL_WORK_DIR)", volatile=True
    )
    time_limit: str = _key(
        "", "stop after so long, with the state saved and exit code 85, and go on when started again: 3h50m, 90m, or seconds. "
        "Counted from the start of training's process; leave time for one step and one save", volatile=True
    )  # fmt: skip
    resume: Literal["auto", "never"] = _key("auto", "auto: go on with an interrupted run in --work-dir", volatile=True)
    force: bool = _key(False, "go on even though the settings changed, or start over an existing folder", volatile=True)
    log_interval: int = _key(20, "write a log line every so many steps", volatile=True)
    tensorboard: bool = _key(False, "also write TensorBoard events (needs the extra)", volatile=True)
    deterministic: bool = _key(True, "ask for deterministic kernels")
    leave_out: str = _key(
        "", "classes that the run never sees: numbers from 0 with commas, or a published zero-shot task: 60/5, 60/5-val; "
        "docs/features.md"
    )  # fmt: skip
    hold_out: int = _key(0, "keep the first so many training clips of each class, by name, from being trained on")
    max_clips: int = _key(0, "use at most so many clips of each split, evenly spaced (0: all)")
    debug: bool = _key(False, "use 100 clips of each split only")

    def identity(self) -> dict[str, Any]:
        """The settings that make two runs the same run; a resumed run must agree in all of them."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if not f.metadata["volatile"]}

    def differences(self, other: dict[str, Any]) -> list[str]:
        """Lines `key: theirs -> ours` for every identity key in which a saved config differs."""
        mine = self.identity()
        return [f"{k}: {other.get(k)!r} -> {v!r}" for k, v in mine.items() if k in other and other[k] != v]

    def to_yaml(self) -> str:
        return yaml.safe_dump(dataclasses.asdict(self), sort_keys=False)


def parser(prog: str = "sal train") -> ArgumentParser:
    """The parser of a run, generated from `RunConfig`."""
    result = LabParser(prog=prog, description="Settings of a run. Any flag beats the recipe.", exit_on_error=True)
    result.add_argument("--config", action="config", help="recipe file (YAML)")
    hints, defaults = get_type_hints(RunConfig), RunConfig()
    for entry in dataclasses.fields(RunConfig):
        default = getattr(defaults, entry.name)
        kind = str | float if entry.name in NUMBERS_TOO else hints[entry.name]
        result.add_argument(_flag(entry.name), type=kind, default=default, help=entry.metadata["help"])
    return result


def _flag(key: str) -> str:
    return "--" + key.replace("_", "-")


def parse(
    argv: Sequence[str], *, model: str = "", phase: str = "", prog: str = "sal train", stage: Stage = "supervised"
) -> RunConfig:
    """Settings from a command line; a model's name or its recipe's path may be left to the other.

    argv   flags; bare words are `key=value` free, a recipe is `--recipe NAME` or `--config FILE`
    raises `ConfigError` (exit 2) with the nearest right flag, key or value
    """
    argv = _expand(list(argv))
    spoken = parser(prog)
    config_file, argv = _recipe_file(argv, model, stage)
    prefix = ["--config", str(config_file)] if config_file else []
    try:
        recipe = spoken.parse_args(prefix)
    except ConfigError as error:
        raise ConfigError(error.what, where=str(config_file or ""), next_step=error.next_step) from None
    try:
        final = spoken.parse_args([*prefix, *argv])
    except ConfigError as error:
        if config_file is not None and "in the config file" in error.what:
            raise ConfigError(error.what, where=str(config_file), next_step=error.next_step) from None
        raise
    written, values = _values(recipe), _values(final)
    for name, kind in get_type_hints(RunConfig).items():
        if values[name] is None and type(None) not in get_args(kind):
            raise ConfigError(f"{name} is empty (null)", where=str(config_file or "the command line"))
        if name in MERGED and not all(isinstance(key, str) for key in values[name]):
            raise ConfigError(f"{name} has a key that is no word", where=str(config_file or "the command line"))
    _merge(written, values)
    if model:
        if values["model"] not in ("", model):
            raise ConfigError(f"the settings are for {values['model']}, not for {model}", where=str(config_file or "--model"))
        values["model"] = model
    if phase:
        values["phase"] = phase
    if stage != "supervised":
        values["stage"] = stage
    if config_file and not values["recipe"]:
        values["recipe"] = config_file.stem
    return _checked(RunConfig(**values))


def _merge(written: dict[str, Any], values: dict[str, Any]) -> None:
    """Add the recipe's arguments to those of the command line; its feeder arguments are for its own pipeline only."""
    for name in MERGED:
        if not name.endswith("feeder_args") or values["pipeline"] == written["pipeline"]:
            values[name] = {**written[name], **values[name]}
        elif values[name] == written[name]:
            values[name] = {}
    for split in ("train", "test"):  # the field's window_size is our window; the flag made for it wins
        window = values[f"{split}_feeder_args"].pop("window_size", None)
        if window is not None and values[f"{split}_window_size"] == written[f"{split}_window_size"]:
            values[f"{split}_window_size"] = window


def _expand(argv: list[str]) -> list[str]:
    """The field's spellings: `--memory-friendly` is `--memory-friendly=true`, `--step 35 55` is `--step=[35,55]`."""
    kinds = {_flag(name): kind for name, kind in get_type_hints(RunConfig).items()}
    argv = lists_joined(argv, [flag for flag, kind in kinds.items() if kind in (list[int], list[float])])
    followed = itertools.zip_longest(argv, argv[1:], fillvalue="--")
    return [f"{word}=true" if kinds.get(word) is bool and follower.startswith("--") else word for word, follower in followed]


def _recipe_file(argv: list[str], model: str, stage: Stage) -> tuple[Path | None, list[str]]:
    """Take `--config FILE` or `--recipe NAME` out of argv; return the file and the rest."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    finder.add_argument("--config")
    finder.add_argument("--recipe")
    finder.add_argument("--model", default=model)
    try:
        known, _ = finder.parse_known_args(argv)
        if known.config is None and known.recipe is None:
            return None, argv
        rest = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
        rest.add_argument("--config")
        rest.add_argument("--recipe")
        _, others = rest.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise ConfigError(str(error), next_step="give --config FILE or --recipe NAME") from None
    if known.config is not None and known.recipe is not None:
        raise ConfigError("--config and --recipe both name a recipe", next_step="leave one of them out")
    if known.config is not None:
        file = Path(known.config)
        try:
            file.read_text(encoding="utf-8")
        except FileNotFoundError:
            known_recipes = models.find_for(known.model, stage).recipes_of(stage) if known.model else {}
            raise MissingInputError(
                f"no such recipe file{nearest(file.stem, known_recipes)}", where=str(file),
                expected=", ".join(f"--recipe {name}" for name in known_recipes),
                next_step=f"`sal models {known.model or 'NAME'}` says what each is for; a stream is the flag --stream",
            ) from None  # fmt: skip
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"the recipe file cannot be read: {error}", where=str(file)) from error
        return file, others
    if not known.model:
        raise ConfigError("--recipe needs a model", next_step="sal train MODEL --recipe NAME")
    return models.find_for(known.model, stage).recipe(known.recipe, stage), others


def _values(namespace: Namespace) -> dict[str, Any]:
    values = {entry.name: namespace[entry.name] for entry in dataclasses.fields(RunConfig)}
    numbers = {name: f"{values[name]:.10g}" for name in NUMBERS_TOO if isinstance(values[name], float)}
    return {**values, **numbers}


def _checked(config: RunConfig) -> RunConfig:
    """Refuse values that no run can have; apply --memory-friendly."""
    if not config.model:
        raise ConfigError("no model named", next_step="sal train MODEL --recipe NAME; `sal models` lists them")
    for name, (least, most) in RANGES.items():
        value = getattr(config, name)
        if value is not None and not least <= value <= most:
            raise ConfigError(f"{name} is {value}", expected=f"{least} to {most}" if most < LARGE else f"{least} or more")
    if config.stage != "supervised":
        models.find_for(config.model, config.stage).require_stage(config.stage)
    withheld.read(config.leave_out)
    pieces = min(config.batch_size, config.forward_batch_size or config.batch_size)
    if config.train_window_size == 0 or config.test_window_size == 0:
        raise ConfigError("a window of 0 frames", expected="1 or more, or -1 for whole clips")
    if config.train_window_size * pieces in (0, 1):
        raise ConfigError("one frame of one clip at a time", expected="more, as BatchNorm needs more than one value")
    if config.time_limit:
        seconds(config.time_limit)
    if config.optimizer == "SGD" and config.nesterov and config.momentum == 0:
        raise ConfigError("momentum is 0", expected="more than 0 with Nesterov momentum", next_step="--nesterov false")
    if config.debug and not config.max_clips:
        config = dataclasses.replace(config, batch_size=min(config.batch_size, DEBUG_CLIPS))
    if config.memory_friendly:
        micro = min(config.forward_batch_size or 8, 8)
        config = dataclasses.replace(config, forward_batch_size=micro, test_batch_size=min(config.test_batch_size, 8))
    return config
