"""From settings to the parts of a run: device, data, batches, network, training step."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import nn

from engine import environment, graphs, labelled, models
from engine.config import DEBUG_CLIPS, RunConfig, parse
from engine.distributed import World, own_device
from engine.errors import ConfigError
from engine.losses import LossName, build_loss
from engine.models import ModelCard
from engine.optimizers import OptimizerName, build_optimizer
from engine.step import Precision, TrainStep, chosen_level, takes_positions
from layers.recompute import Level
from shared_data import withheld
from shared_data.clips import Clips
from shared_data.datasets import DataSet, honest, open_data
from shared_data.errors import DataError, MissingInputError
from shared_data.formats.options import ReadOptions
from shared_data.interaction import two_person_actions
from shared_data.loader import Loader
from shared_data.pipelines import Pipeline, Positioned, option_names, pipeline
from shared_data.pipelines.selfsupervised import REPRESENTATIONS
from shared_data.protocols import BENCHMARKS
from shared_data.skeletons import Skeleton
from shared_data.skeletons import skeleton as skeleton_named

LOOKED_AT = 256
"""Clips of each split whose coordinates are in the fingerprint."""


def choose_device(name: str) -> torch.device:
    """`auto`, `cpu`, `cuda`, `cuda:1` or the field's plain GPU number; raises `ConfigError` if there is no such GPU.

    Under torchrun, that of this process.
    """
    name = own_device(name)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    wanted = f"cuda:{name}" if name.isdigit() else name
    try:
        device = torch.device(wanted)
    except RuntimeError:
        raise ConfigError(f"unknown device {name!r}", expected="auto, cpu, cuda, or a GPU's number") from None
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device {name!r} is not supported", expected="auto, cpu, cuda, or a GPU's number")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"no GPU {device.index or 0}: torch sees {torch.cuda.device_count()}",
            next_step="`sal doctor` says why; --device cpu trains without one",
        )
    return device


def load_data(config: RunConfig) -> DataSet:
    """The data that the run may see."""
    return shown(whole_data(config), config)


def shown(data: DataSet, config: RunConfig) -> DataSet:
    """What the run may see of its `whole_data`: without what its settings leave out, hold out and thin."""
    data = withheld.without_classes(data, withheld.read(config.leave_out))
    data = withheld.without_held_out(data, config.hold_out)
    if config.labelled:
        chosen = labelled.chosen(config.labelled, data.train.ids, data.train.labels)
        data = dataclasses.replace(data, train=data.train.subset(chosen.rows(data.train.ids)))
    if limit := config.max_clips or (DEBUG_CLIPS if config.debug else 0):
        data = dataclasses.replace(data, train=_thinned(data.train, limit), test=_thinned(data.test, limit))
    return data


def whole_data(config: RunConfig) -> DataSet:
    """The data of the run with all its clips, checked against what the recipe is for."""
    if config.data is None:
        raise MissingInputError(
            "no data file named", expected="--data NTU60_CS.npz, a 5-D NPZ, an NW-UCLA folder or zip, or a prepared store",
            next_step="see docs/your-data.md, or try `make demo`, which makes its own",
        )  # fmt: skip
    benchmark = BENCHMARKS.get(config.dataset)
    expected = BENCHMARKS[benchmark.part_of] if benchmark and benchmark.part_of else benchmark
    if config.dataset != "auto" and expected is None:
        raise ConfigError(f"unknown dataset {config.dataset!r}", expected=", ".join(["auto", *BENCHMARKS]))
    data = open_data(
        Path(config.data),
        layout=config.layout,
        options=ReadOptions(expected.classes if expected else None, config.split or "auto", on_bad=config.on_bad),
    )
    if expected and (data.num_classes, data.skeleton.name) != (expected.classes, expected.skeleton):
        raise DataError(
            f"the recipe is for {config.dataset}, the file is something else",
            where=str(config.data),
            expected=f"{expected.classes} classes on {expected.skeleton}; "
            f"found {data.num_classes} classes on {data.skeleton.name}",
            next_step="choose the recipe of this data set, or --dataset auto to use this recipe's settings anyway",
        )
    if benchmark and benchmark.part_of:
        data = two_person_actions(data)
    return data


def _thinned(clips: Clips, limit: int) -> Clips:
    """At most `limit` clips, evenly spaced."""
    return clips.subset(np.linspace(0, len(clips) - 1, min(limit, len(clips))).round().astype(np.int64))


def validation(data: DataSet, config: RunConfig) -> DataSet:
    """The data that training sees: under `--protocol honest` its `test` is held out of train."""
    return honest(data) if config.protocol == "honest" else data


def train_loader(data: DataSet, config: RunConfig, device: torch.device, world: World | None = None) -> Loader:
    """The training batches; of several processes, this one's share of each."""
    world = world or World()
    if len(data.train) < config.batch_size:
        raise ConfigError(
            f"the batch of {config.batch_size} is larger than the {len(data.train)} training clips",
            next_step=f"--batch-size {len(data.train)} or less",
        )
    return Loader(
        data.train, input_pipeline(config, data.skeleton.name, train=True), batch_size=config.batch_size, train=True,
        seed=config.seed, repeat=config.repeat, drop_last=True, upstream=config.upstream_seeding,
        share=(world.rank, world.size), **_where(config, device),
    )  # fmt: skip


def test_loader(data: DataSet, config: RunConfig, device: torch.device, world: World | None = None) -> Loader:
    """The test clips in order; of several processes, this one's share of them. Raises `ConfigError` if a process has none."""
    world, clips = world or World(), data.test
    if len(clips) < world.size:
        raise ConfigError(
            f"{len(clips)} test clips for {world.size} processes", next_step=f"torchrun with at most {len(clips)} processes"
        )
    if world.size > 1:
        clips = clips.subset(np.arange(len(clips))[world.mine(len(clips))])
    return Loader(
        clips, input_pipeline(config, data.skeleton.name, train=False), batch_size=config.test_batch_size, train=False,
        **_where(config, device),
    )  # fmt: skip


def _where(config: RunConfig, device: torch.device) -> dict[str, Any]:
    """Where batches are made and by how many threads: more than there are processors would only wait for each other."""
    return {
        "workers": min(config.num_worker, os.cpu_count() or 1),
        "pin_memory": device.type == "cuda",
        "device": device if config.augment_on == "device" else None,
    }


def input_pipeline(config: RunConfig, skeleton: str, *, train: bool) -> Pipeline:
    """The run's pipeline for clips of `skeleton`: options that follow from the run, then the feeder arguments."""
    arguments = config.train_feeder_args if train else config.test_feeder_args
    window = config.train_window_size if train else config.test_window_size
    known = option_names(config.pipeline)
    if config.stream != "j" and not {"stream", "representation"} & set(known):
        raise ConfigError(
            f"pipeline {config.pipeline} has no streams", where="--stream", expected="j; see docs/pipelines.md for its options"
        )
    words = {stream: word for word, stream in REPRESENTATIONS.items()}
    run: dict[str, Any] = {"window": window, "stream": config.stream, "skeleton": skeleton}
    if config.stream != "j":  # else what the pipeline shows by itself
        run["representation"] = words.get(config.stream, config.stream)
    options = {**{name: value for name, value in run.items() if name in known}, **arguments}
    if not train and "p_interval" in options:  # a test feeder's own crop, which a pipeline that has both calls so:
        options["test_p_interval"] = options.pop("p_interval")
    return pipeline(config.pipeline, **options)


def clip_shape(config: RunConfig, skeleton: Skeleton, people: int, *, train: bool) -> tuple[int, ...]:
    """(C, T, V, M), or (K, C, T, V, M) of K views: one clip of up to `people` people in the run's batches, without any data."""
    none = np.zeros(0, np.int64)
    clips = Clips(np.zeros((1, skeleton.joints, 3), np.float32), none, none, none, none, none, none.astype(str), people)
    return input_pipeline(config, skeleton.name, train=train).item(clips)


def expected_shape(card: ModelCard, row: Mapping[str, Any], window: int | None = None) -> tuple[int, ...]:
    """(C, T, V, M) of a size that a model.toml expects, at its window or another.

    As the pipeline of the model's first recipe for such people and joints makes it; where there is none, all joints.
    """
    layout, people, window = skeleton_named(row["skeleton"]), row["people"], window or row["window"]
    for path in card.recipes.values():
        config = parse(["--config", str(path)], model=card.name)
        benchmark = BENCHMARKS["ntu60" if config.dataset == "auto" else config.dataset]
        if (benchmark.skeleton, benchmark.people) == (layout.name, people):
            return clip_shape(dataclasses.replace(config, train_window_size=window), layout, people, train=True)
    return 3, window, layout.joints, people


def remarks(config: RunConfig, data: DataSet) -> list[str]:
    """What a person should know about the run's settings before it begins."""
    told = []
    if left := withheld.read(config.leave_out).classes:
        told.append(f"{len(left)} of {data.num_classes} classes are left out and never seen: {', '.join(map(str, sorted(left)))}")
    if config.labelled:
        told.append(f"the labels of {len(data.train)} training clips are seen ({config.labelled}), those of all others are not")
    if config.hold_out:
        told.append(f"the first {config.hold_out} training clips of each class, by name, are held out and never seen")
    streams = models.find(config.model).toml.get("streams", [config.stream])
    if config.stream not in streams:
        told.append(f"{config.model} is published with the streams {', '.join(streams)}, not {config.stream}: see its README")
    for train, name, window in ((True, "training", config.train_window_size), (False, "test", config.test_window_size)):
        frames = clip_shape(config, data.skeleton, data.train.max_people, train=train)[-3]
        if window not in (-1, frames):
            told.append(f"{config.pipeline} makes {name} clips of {frames} frames, not of {window}: docs/pipelines.md says when")
    return told


def described(data: DataSet) -> dict[str, Any]:
    """What a file of weights says of the data that they fit."""
    return {"num_classes": data.num_classes, "skeleton": data.skeleton.name, "people": data.train.max_people}


def build_model(config: RunConfig, data: DataSet, device: torch.device) -> nn.Module:
    """The network of `config.model` for the classes, joints and people of `data`, seeded, on `device`."""
    card, size = models.find(config.model), (data.num_classes, data.skeleton, data.train.max_people)
    given = model_arguments(config, *size)

    def made() -> nn.Module:
        return models.build(card, num_classes=size[0], skeleton=size[1], people=size[2], **given)

    with torch.device("meta"):  # a network that cannot take the run's clips says so before any work
        shadow = made().eval()
        for train in (True, False):
            with contextlib.suppress(NotImplementedError):  # an operation without a meta kernel
                shadow(torch.empty(1, *clip_shape(config, size[1], size[2], train=train)))
    torch.manual_seed(config.seed)
    network = made()
    if takes_positions(network) and not isinstance(input_pipeline(config, data.skeleton.name, train=True), Positioned):
        raise ConfigError(
            f"{config.model} reads where in its clip each frame lies, which pipeline {config.pipeline} does not tell",
            where="--pipeline", expected="one that tells positions, such as skateformer_ntu or skateformer_ucla",
        )  # fmt: skip
    return network.to(device)


class StepConfig(Protocol):
    """The settings that a training step is made of, named as in `engine.config.RunConfig`, which is one of these."""

    @property
    def optimizer(self) -> OptimizerName: ...
    @property
    def base_lr(self) -> float: ...
    @property
    def momentum(self) -> float: ...
    @property
    def nesterov(self) -> bool: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def decay_vectors(self) -> bool: ...
    @property
    def betas(self) -> Sequence[float]: ...
    @property
    def layer_decay(self) -> float: ...
    @property
    def encoder_lr_factor(self) -> float: ...
    @property
    def loss_type(self) -> LossName: ...
    @property
    def label_smoothing(self) -> float: ...
    @property
    def penalty_weight(self) -> float: ...
    @property
    def clip_grad(self) -> float | None: ...
    @property
    def clip_each(self) -> bool: ...
    @property
    def precision(self) -> Precision: ...
    @property
    def forward_batch_size(self) -> int | None: ...
    @property
    def recompute(self) -> Level | Literal["auto"]: ...
    @property
    def cuda_graphs(self) -> bool: ...
    @property
    def compile(self) -> bool: ...


def new_optimizer(config: StepConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The recipe's optimizer of `model`, before its first step. Raises `ValueError` where no parameter needs a gradient."""
    return build_optimizer(
        model.parameters(), name=config.optimizer, lr=config.base_lr, weight_decay=config.weight_decay,
        momentum=config.momentum, nesterov=config.nesterov, betas=config.betas, decay_vectors=config.decay_vectors,
        scales=_learning_rate_scales(config, model),
    )  # fmt: skip


def _learning_rate_scales(config: StepConfig, model: nn.Module) -> dict[nn.Parameter, float]:
    """Factors of the learning rate: those of the model itself (``parameter_scales()``), or by the decay from layer to layer;
    times that of the encoder, for what is called ``encoder.*``.

    A model that numbers its layers says so in ``layer_ids()``, parameter name -> 0 for what is nearest to the input.
    Raises `ConfigError` for a decay without layers, and for the factor of an encoder that is not there.
    """
    own: Callable[[], Mapping[str, float]] | None = getattr(model, "parameter_scales", None)
    layers: Callable[[], Mapping[str, int]] | None = getattr(model, "layer_ids", None)
    if config.layer_decay == 1.0:
        scales = own() if own else {}
    elif layers is None:
        raise ConfigError(f"{type(model).__name__} does not number its layers", where="layer_decay", expected="1")
    else:
        numbers = layers()
        top = max(numbers.values())
        scales = {name: config.layer_decay ** (top - number) for name, number in numbers.items()}
    parameters = dict(model.named_parameters())
    if config.encoder_lr_factor != 1.0:
        inside = [name for name in parameters if name.startswith("encoder.")]
        if not inside:
            raise ConfigError(f"{type(model).__name__} has no encoder and a head", where="encoder_lr_factor", expected="1")
        scales = {**scales, **{name: scales.get(name, 1.0) * config.encoder_lr_factor for name in inside}}
    return {parameters[name]: scale for name, scale in scales.items() if scale != 1.0}


def train_step(
    config: StepConfig,
    model: nn.Module,
    device: torch.device,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    note: Callable[[str], None] = print,
    world: World | None = None,
    whole: int | None = None,
) -> TrainStep:
    """The run's training step of `model`, which is on `device`.

    optimizer   the one to go on with; None: a new one of the recipe (`TrainStep.optimizer`)
    note        is told, in words for the user, what the step decides about itself
    world       the processes that share each batch, which has `whole` clips
    Raises `ConfigError` for CUDA graphs without a GPU, or a penalty that the model does not have.
    """
    return TrainStep(
        model, optimizer or new_optimizer(config, model), build_loss(config.loss_type, label_smoothing=config.label_smoothing),
        precision=config.precision, clip_grad=config.clip_grad, clip_each=config.clip_each, micro_batch=config.forward_batch_size,
        penalty=config.penalty_weight, recompute=chosen_level(config.recompute, device), device=device,
        backend=graphs.on_device(device) if config.cuda_graphs else None, compiled=config.compile, note=note, world=world,
        whole=whole,
    )  # fmt: skip


def choose_kernels(config: RunConfig) -> None:
    """Tell torch which kernels the run is to have, for the whole process: those that repeat themselves, if it asks for them."""
    torch.use_deterministic_algorithms(config.deterministic, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # ours is always written before it is read
    warnings.filterwarnings("ignore", message=".*does not have a deterministic implementation.*")
    torch.backends.cudnn.benchmark = False


def model_arguments(config: RunConfig, num_classes: int, skeleton: Skeleton, people: int) -> dict[str, Any]:
    """The model arguments of the run in the words of our class, without what follows from the data.

    Official words (num_person, num_points ...) are translated. A class that has to know the window as `frames` is told.
    Raises `UsageError` for what contradicts the data or is no argument in either vocabulary.
    """
    card = models.find(config.model)
    given = models.translated(card, config.model_args)
    for key, value in (("num_classes", num_classes), ("skeleton", skeleton.name), ("people", people)):
        if given.pop(key, value) != value:
            raise ConfigError(f"{key} is {value} in the data and cannot be set to something else", where="model_args")
    if "frames" in models.arguments(card):
        given.setdefault("frames", clip_shape(config, skeleton, people, train=True)[1])
    return given


def build_objective(config: RunConfig, data: DataSet, device: torch.device) -> nn.Module:
    """The objective of `config.model` for `config.stage` and the joints and people of `data`, seeded, on `device`."""
    card, layout, people = models.find(config.model), data.skeleton, data.train.max_people
    torch.manual_seed(config.seed)
    given = objective_arguments(config, layout, people)
    return models.build_objective(card, config.stage, skeleton=layout, people=people, **given).to(device)


def objective_arguments(config: RunConfig, skeleton: Skeleton, people: int) -> dict[str, Any]:
    """The objective arguments of the run; a class that has to know the window as `frames` is told."""
    given = dict(config.objective_args)
    if "frames" in models.arguments(models.find(config.model), config.stage):
        given.setdefault("frames", clip_shape(config, skeleton, people, train=True)[-3])
    return given


def work_dir(config: RunConfig) -> Path:
    """The run folder: as named, or MODEL/RECIPE_STREAM where runs go.

    With _test behind it for scores of given weights, and the stage in front, where that is not training with labels.
    """
    if config.work_dir:
        return Path(config.work_dir)
    ending = "_test" if config.phase == "test" else ""
    stage = "" if config.stage == "supervised" else f"{config.stage}_"
    name = f"{stage}{config.recipe or 'custom'}_{config.stream}{ending}"
    return environment.work_dir() / config.model / name


def fingerprint(data: DataSet) -> int:
    """CRC-32 of both splits: whether a resumed run reads the same clips, wherever the file is now.

    It covers id, label, frames and people of every clip, and the coordinates, rounded to float32, of `LOOKED_AT` clips of each
    split, evenly spaced, which takes tens of milliseconds. So it notices other clips, another order, another length anywhere, and
    coordinates that were changed throughout; it cannot notice a change of coordinates that is confined to clips between those.
    The same clips give the same number from their file, in place or not, and from a store made of it.
    """
    crc = 0
    for clips in (data.train, data.test):
        for column in (clips.labels, clips.extent, clips.people):
            crc = zlib.crc32(np.ascontiguousarray(column, "<i8").data, crc)
        crc = zlib.crc32("\n".join(clips.ids.tolist()).encode(), crc)
        some = _thinned(clips, LOOKED_AT)
        for n in range(len(some)):
            crc = zlib.crc32(np.ascontiguousarray(some.clip(n), "<f4").data, crc)
    return crc
