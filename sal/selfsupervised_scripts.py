"""The scripts in a self-supervised model's folder, with the names and flags of the official ones; each is one call of these.

What official flags and configuration files mean for a model stands in the table ``[scripts]`` of its model.toml. Flags of ours
(`--data`, `--device`, `--trust-pickle` ...) may stand beside the official ones.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from engine import environment, models
from engine.errors import ConfigError
from engine.launch import guarded
from sal import judge, official_files, train
from shared_data.errors import nearest

SPLITS = {"cross_subject": "xsub", "cross_view": "xview", "cross_setup": "xset"}
DATASETS = {"ntu60": "ntu60", "ntu120": "ntu120", "pku_v1": "pku_mmd1", "pku_v2": "pku_mmd2"}
LOGS = "the log is log.jsonl in the run's folder; --tensorboard adds TensorBoard's events. There is no Weights & Biases here"


def pretraining(model: str, argv: Sequence[str] | None = None, *, script: str = "pretraining.py") -> int:
    """`python3 pretraining.py …`: `sal pretrain` of this model."""

    def work() -> int:
        given, rest = _given(script, model, "pretrain", argv, own=_run_flags)
        recipe = _recipe(model, "pretrain", given, given.pre_dataset)
        words = ["--recipe", recipe.name, *_chosen(model, "pretrain", given), *_told(given, RUN), *_data(recipe, rest)]
        words += _objective(model, given)
        if given.schedule:
            words += ["--lr-schedule", "step", "--step", *map(str, given.schedule)]
        folder = given.checkpoint_path or str(environment.work_dir() / model / recipe.name)
        official_files.require_own(given.resume, folder)
        words += ["--work-dir", folder, *rest]
        return train.launch(words, model=model, phase="train", prog=_prog(script), stage="pretrain")

    return guarded(work)


def action_classification(model: str, argv: Sequence[str] | None = None) -> int:
    """`python3 action_classification.py …`: a linear probe, `sal probe` of this model."""

    def work() -> int:
        given, rest = _given("action_classification.py", model, "classify", argv, own=_judge_flags)
        words = _told(given, PROBE)
        if given.schedule:
            words += ["--probe-drops", *map(str, given.schedule)]
        return _judged("probe", "action_classification.py", model, given, [*words, *rest])

    return guarded(work)


def action_retrieval(model: str, argv: Sequence[str] | None = None) -> int:
    """`python3 action_retrieval.py …`: nearest neighbours, `sal knn` of this model."""

    def work() -> int:
        given, rest = _given("action_retrieval.py", model, "classify", argv, own=_judge_flags)
        if unused := [flag for flag in ("lr", "batch_size", "epochs", "schedule") if getattr(given, flag) is not None]:
            print(f"--{unused[0].replace('_', '-')}: nothing is trained here, as in the official script", flush=True)
        words = ["--protocols", *_scripts(model)["retrieve"], "--k", str(given.knn_neighbours)]
        return _judged("knn", "action_retrieval.py", model, given, [*words, *rest])

    return guarded(work)


def action_segmentation(model: str, argv: Sequence[str] | None = None) -> int:
    """`python3 action_segmentation.py …`: `sal segment train`, or with `--evaluate WEIGHTS` `sal segment test`, of this model.

    The script itself was never published; its command line was.
    """

    def work() -> int:
        given, rest = _given("action_segmentation.py", model, "segment", argv, own=_run_flags)
        recipe = _recipe(model, "segment", given, given.finetune_dataset)
        folder = given.checkpoint_path or str(environment.work_dir() / model / f"segment_{recipe.name}")
        official_files.require_own(given.resume, folder)
        words = ["--recipe", recipe.name, *_chosen(model, "segment", given), *_told(given, RUN), *rest]
        words += [] if given.checkpoint_path is None else ["--work-dir", folder]
        prog = _prog("action_segmentation.py")
        if given.evaluate not in (None, "None", ""):
            words += ["--weights", given.evaluate]
            return train.launch(words, model=model, phase="test", prog=prog, stage="segment")
        if given.pretrained:
            words += ["--init", official_files.encoder(given.pretrained)]
        return train.launch(words, model=model, phase="train", prog=prog, stage="segment")

    return guarded(work)


def main_finetune(model: str, argv: Sequence[str] | None = None) -> int:
    """`python3 main_finetune.py …`: `sal finetune`, or `sal semi`, of this model by the name of an official configuration."""

    def work() -> int:
        given, rest = _given("main_finetune.py", model, "finetune", argv, own=_run_flags)
        recipe = _configured(model, given.config, "finetune")
        folder = given.output_dir or str(environment.work_dir() / model / Path(given.config).stem)
        official_files.require_own(given.resume, folder)
        if given.log_dir:
            print(f"--log_dir: {LOGS}", flush=True)
        start = official_files.encoder(given.finetune) if given.finetune else ""
        words = [*recipe.words, *(["--init", start] if start else []), *_told(given, RUN), *_data(recipe, rest)]
        words += ["--work-dir", folder, *rest]
        return train.launch(words, model=model, phase="train", prog=_prog("main_finetune.py"))

    return guarded(work)


def main(model: str, argv: Sequence[str] | None = None) -> int:
    """`python3 main.py pretrain_clrtuning …`: `sal tune` of this model; anything else is `sal train`."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0].startswith("-"):
        return train.main(model, words)
    return guarded(lambda: _tune(model, words))


def _tune(model: str, argv: Sequence[str]) -> int:
    verb, *flags = argv
    if verb != "pretrain_clrtuning":
        close = nearest(verb, ["pretrain_clrtuning"])
        raise ConfigError(f"no processor {verb!r}{close}", where="main.py", expected="pretrain_clrtuning, or flags")
    given, rest = _given(f"main.py {verb}", model, "tune", flags, own=_run_flags)
    if given.use_wandb or given.wandb_name:
        print(f"--use-wandb: {LOGS}", flush=True)
    recipe = _configured(model, given.config, "tune")
    words = [*recipe.words, *_told(given, RUN), *_data(recipe, rest), *rest]
    if recipe.init and "--init" not in {word.partition("=")[0] for word in rest}:
        words += ["--init", official_files.encoder(recipe.init)]
    return train.launch(words, model=model, phase="train", prog=_prog("main.py pretrain_clrtuning"), stage="tune", needs=["init"])


def knn_eval(model: str, argv: Sequence[str] | None = None) -> int:
    """`python3 knn_eval.py --data-path F --checkpoint W`: `sal knn` of this model."""

    def work() -> int:
        given, rest = _given("knn_eval.py", model, "knn", argv, own=_judge_flags)
        dataset, split = official_files.told_by_name(given.data_path) or ("ntu60", "xsub")
        recipe = _Recipe(_scripts(model)["classify"].format(dataset=dataset, split=split), dataset, split)
        data = ["--data", given.data_path] if given.data_path else _data(recipe, rest)
        words = ["--recipe", recipe.name, *data]
        if given.checkpoint:
            words += ["--init", official_files.encoder(given.checkpoint)]
        words += ["--work-dir", str(environment.work_dir() / model / f"{recipe.name}_knn_eval")]
        return judge.verb("knn")([model, *words, *rest])

    return guarded(work)


@dataclasses.dataclass(frozen=True)
class _Recipe:
    """A recipe of ours, what it is for, and what an official configuration of that name has besides."""

    name: str
    dataset: str
    split: str
    more: tuple[str, ...] = ()
    init: str = ""

    @property
    def words(self) -> list[str]:
        return ["--recipe", self.name, *self.more]


PLACE = {"workers": "--num-worker", "gpu": "--device"}
RUN = {"lr": "--base-lr", "min_lr": "--min-lr", "batch_size": "--batch-size", "epochs": "--num-epoch", **PLACE}
"""Flags of official training scripts -> ours."""
PROBE = {"lr": "--probe-lr", "batch_size": "--probe-batch", "epochs": "--probe-epochs"}
PLAIN: dict[str, dict[str, Any]] = {
    "lr": {"type": float, "help": "learning rate"}, "min-lr": {"type": float, "help": "learning rate at the end"},
    "batch-size": {"type": int, "help": "clips of a step"}, "epochs": {"type": int, "help": "epochs"},
    "schedule": {"type": int, "nargs": "*", "help": "epochs at which the rate falls to a tenth"},
    "workers": {"type": int, "help": "threads that make batches"}, "gpu": {"help": "number of the GPU, or cpu"},
    "resume": {"help": "a file of the run itself, which goes on anyway"}, "checkpoint-path": {"help": "folder of the run"},
    "pre-dataset": {"default": "ntu60", "help": f"data set to learn from: {', '.join(DATASETS)} (%(default)s)"},
    "finetune-dataset": {"default": "ntu60", "help": f"data set to be judged on: {', '.join(DATASETS)} (%(default)s)"},
    "protocol": {"default": "cross_subject", "help": f"how it is divided: {', '.join(SPLITS)} (%(default)s)"},
    "pretrained": {"help": "checkpoint with the encoder"},
    "knn-neighbours": {"type": int, "default": 1, "help": "neighbours that vote (%(default)s)"},
    "pretrain-skeleton-representation": {"help": "what the checkpoint is of; it says so itself"},
    "config": {"required": True, "help": "an official configuration, by its name"}, "output-dir": {"help": "folder of the run"},
    "log-dir": {"help": "nothing: the log lies in the run's folder"}, "finetune": {"help": "checkpoint with the encoder"},
    "dist-eval": {"action": "store_true", "help": "nothing: processes share evaluation anyway"},
    "evaluate": {"help": "weights to be judged; None trains"},
    "use-wandb": {"action": "store_true", "help": "nothing: there is no Weights & Biases here"},
    "wandb-name": {"help": "nothing, as --use-wandb"}, "data-path": {"help": "the data file"},
    "checkpoint": {"help": "checkpoint with the encoder"}, "local-rank": {"help": "what torch.distributed.launch adds"},
}  # fmt: skip
"""Official flags that mean the same for every model; also with underscores. torch.distributed.launch adds --local-rank."""
_TRAINS = ("lr", "batch-size", "epochs", "workers", "gpu", "resume", "local-rank")
FLAGS: dict[str, tuple[str, ...]] = {
    "pretrain": (*_TRAINS, "schedule", "checkpoint-path", "pre-dataset", "protocol"),
    "classify": (*_TRAINS, "schedule", "checkpoint-path", "pretrained", "finetune-dataset", "protocol", "knn-neighbours",
                 "pretrain-skeleton-representation"),
    "segment": (*_TRAINS, "checkpoint-path", "pretrained", "finetune-dataset", "protocol", "evaluate"),
    "finetune": (*_TRAINS, "config", "output-dir", "log-dir", "finetune", "dist-eval", "min-lr"),
    "tune": (*_TRAINS, "config", "use-wandb", "wandb-name"),
    "knn": ("data-path", "checkpoint"),
}  # fmt: skip


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(message, where=self.prog, next_step=f"see `{self.prog} --help`")


def _given(
    script: str, model: str, kind: str, argv: Sequence[str] | None, *, own: Callable[[], Collection[str]]
) -> tuple[argparse.Namespace, list[str]]:
    """The official flags of a script, and the words that follow `own` flags of ours; `ConfigError` for flags of neither."""
    title = models.find(model).title
    parser = _Parser(
        prog=_prog(script), allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"{title}: the official script's flags, and below them those of `sal`, which may stand beside them.",
    )  # fmt: skip
    settings = {flag: PLAIN[flag] for flag in FLAGS[kind]}
    for flag, values in _choices(model, kind).items():
        settings[flag] = {"default": next(iter(values)), "help": f"{', '.join(values)} (%(default)s)"}
    if kind == "pretrain":
        for flag, ours in _scripts(model)["objective"].items():
            settings[flag] = {"action": "store_true"} if flag == "mlp" else {}
            settings[flag] |= {"help": f"argument {ours} of the objective"}
    for flag, how in settings.items():
        parser.add_argument(*dict.fromkeys((f"--{flag}", f"--{flag.replace('-', '_')}")), **how)
    words = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(words):
        beside = " ".join(sorted({*own()} - {"--help", *(f"--{flag}" for flag in settings)}))
        parser.epilog = "\n".join(["of `sal`:", *textwrap.wrap(beside, width=78, break_on_hyphens=False)])
    given, rest = parser.parse_known_args(words)
    official = [f"--{flag}" for flag in settings]
    flags = [word.partition("=")[0].partition(".")[0] for word in rest if word.startswith("--")]
    for flag in flags:
        if flag not in (ours := own()):
            raise ConfigError(
                f"unknown flag {flag}{nearest(flag, [*official, *ours])}", where=script, next_step=f"see `{_prog(script)} --help`"
            )
    allowed: dict[str, list[str]] = {flag: list(values) for flag, values in _choices(model, kind).items()}
    allowed |= {"protocol": list(SPLITS), "pre-dataset": list(DATASETS), "finetune-dataset": list(DATASETS)}
    for flag, known in allowed.items():
        value = getattr(given, flag.replace("-", "_"), None)
        if value is not None and value not in known:
            raise ConfigError(f"--{flag} is {value!r}{nearest(value, known)}", where=script, expected=", ".join(known))
    return given, rest


def _judged(verb: str, script: str, model: str, given: argparse.Namespace, more: list[str]) -> int:
    """The encoder of `--pretrained` judged by one of `sal`'s verbs, on the data set and split of the official flags."""
    if not given.pretrained:
        raise ConfigError("no encoder named", where=script, next_step="--pretrained ./checkpoints/.../checkpoint_0450.pth.tar")
    recipe = _recipe(model, "classify", given, given.finetune_dataset)
    chosen = _chosen(model, "classify", given)
    name = f"{recipe.name}_{Path(script).stem}"
    words = ["--recipe", recipe.name, *chosen, *_told(given, PLACE), *_data(recipe, more)]
    words += ["--init", official_files.encoder(given.pretrained, chosen[1::2])]
    words += ["--work-dir", given.checkpoint_path or str(environment.work_dir() / model / name)]
    return judge.verb(verb)([model, *words, *more])


def _recipe(model: str, kind: str, given: argparse.Namespace, dataset: str) -> _Recipe:
    """The recipe for `--pre-dataset` or `--finetune-dataset` and `--protocol`."""
    dataset, split = DATASETS[dataset], SPLITS[given.protocol]
    words = {flag.replace("-", "_"): str(getattr(given, flag.replace("-", "_"))).lower() for flag in _choices(model, kind)}
    name = _scripts(model)[kind].format(dataset=dataset, split=split, **words)
    stages: dict[str, models.Stage] = {"pretrain": "pretrain", "segment": "segment"}
    models.find(model).recipe(name, stages.get(kind, "supervised"))  # names the nearest
    return _Recipe(name, dataset, split)


def _configured(model: str, config: str, kind: str) -> _Recipe:
    """The recipe for an official configuration file, by its name. Raises `ConfigError` with the files that are known."""
    known = [row for row in _scripts(model)["config"] if row["kind"] == kind]
    for row in known:
        if found := official_files.configuration(row["file"], config):
            renamed = _scripts(model).get("init", {}).get(f"{found['dataset']}_{found['split']}", row.get("init", ""))
            return _Recipe(
                row["recipe"].format(**found), found["part"], found["split"],
                tuple(word.format(**found) for word in row.get("words", [])), renamed.format(**found) if "init" in row else "",
            )  # fmt: skip
    raise ConfigError(
        f"{config!r} is no official configuration of this script", where="--config",
        expected=", ".join(row["file"] for row in known), next_step=f"sal {kind} {model} --recipe NAME for a recipe of this lab",
    )  # fmt: skip


def _chosen(model: str, kind: str, given: argparse.Namespace) -> list[str]:
    """Our flags for the official flags whose values are words: representation, modality ..."""
    settings: list[str] = []
    for flag, values in _choices(model, kind).items():
        for key, value in values[getattr(given, flag.replace("-", "_"))].items():
            settings += [f"--{key}", value]
    return settings


def _objective(model: str, given: argparse.Namespace) -> list[str]:
    """Our flags for those of the objective, such as --moco-t, that were given."""
    flags = {flag: getattr(given, flag.replace("-", "_")) for flag in _scripts(model)["objective"]}
    found = {_scripts(model)["objective"][flag]: value for flag, value in flags.items() if value not in (None, False)}
    return [word for name, value in found.items() for word in (f"--objective-args.{name}", str(value).lower())]


def _told(given: argparse.Namespace, ours: Mapping[str, str]) -> list[str]:
    values = {flag: getattr(given, name, None) for name, flag in ours.items()}
    return [word for flag, value in values.items() if value is not None for word in (flag, str(value))]


def _data(recipe: _Recipe, rest: Sequence[str]) -> list[str]:
    """Words for the data in an official place, unless the rest of the command names a file."""
    if any(word.partition("=")[0] == "--data" for word in rest):
        return []
    return ["--data", official_files.data(recipe.dataset, recipe.split)]


def _choices(model: str, kind: str) -> dict[str, dict[str, dict[str, str]]]:
    """Official flag -> its values -> our settings, dotted, and their values. The first one is the default."""
    found: dict[str, dict[str, dict[str, str]]] = _scripts(model).get("choices", {}).get(kind, {})
    return found


def _scripts(model: str) -> dict[str, Any]:
    found: dict[str, Any] = models.find(model).toml["scripts"]
    return found


def _run_flags() -> list[str]:
    from engine.config import RunConfig

    return ["--help", *(f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(RunConfig))]


def _judge_flags() -> list[str]:
    return [*_run_flags(), *judge.flags()]


def _prog(script: str) -> str:
    return f"python3 {script}"
