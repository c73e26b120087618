"""The flags of zero-shot runs, and the plan and the files that they name. Heavy imports stay inside.

Flags of the official scripts are taken in their spelling too: ``--num_cycles`` is ``--num-cycles``, ``--gpu`` is ``--device``.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from engine.errors import ConfigError
from engine.parsing import lists_joined
from shared_data.errors import nearest

if TYPE_CHECKING:
    from engine.zeroshot.chain import Backbone
    from engine.zeroshot.plan import Plan
    from engine.zeroshot.settings import Settings
    from engine.zeroshot.sources import Source
    from engine.zeroshot.text.clip_text import Architecture
    from engine.zeroshot.text.source import TextSource
    from shared_data.zeroshot_splits import Phase

LISTS = ("--seeds", "--unseen", "--val-unseen")
OFFICIAL = {"--gpu": "--device", "--ntu": "--classes"}  # the same flag by another name
PERCENT = 100
WEIGHTS = {"ViT-B/32": "ViT-B-32.pt", "ViT-B/16": "ViT-B-16.pt"}  # OpenAI's names of the files
ALL_TEXTS = "lb_ad_md"
WEIGHTS_FOLDER = Path("text_extractor")  # where the official scripts look for them


def spelled(argv: Sequence[str]) -> list[str]:
    """The words as the parser takes them: flags with hyphens and by our name, the numbers of a list in one word."""
    words = []
    for word in argv:
        flag, equals, value = word.partition("=")
        if re.fullmatch(r"--[\w-]+", flag):
            flag = flag.replace("_", "-")
            flag = OFFICIAL.get(flag, flag)
        words.append(f"{flag}{equals}{value}")
    return lists_joined(words, LISTS)


@dataclass(frozen=True)
class TaskFlags:
    """Which classes are unseen.

    Args:
        classes: classes of the data set, or --ntu: 60, 120, or another number with --unseen.
        ss: unseen classes of a published split: 5 or 12 of 60, 10 or 24 of 120.
        st: kind of the published split: r (random).
        unseen: unseen classes of your own split, numbers from 0, in place of --ss.
        val_unseen: those of its validation split, as many and none of --unseen.
        full_validation_list: all 100 seen classes in validation of 120/10; the official list has 81.
    """

    classes: int = 60
    ss: int | None = None
    st: str = "r"
    unseen: list[int] | None = None
    val_unseen: list[int] | None = None
    full_validation_list: bool = False


@dataclass(frozen=True)
class InputFlags:
    """Which files are read.

    Args:
        root: folder that holds sk_feats/ and text_feats/ (default: where you are).
        dataset: a folder of skeleton features such as sk_feats/shift_5_r/, in place of those below --root.
        ve: what made the skeleton features, first part of their folders' names (default shift).
        le: what made the text features, their folder below text_feats/.
        tm: texts of a class that count: lb, ad, md, ad_md or lb_ad_md (default: all three; published: each of the five).
    """

    root: Path | None = None
    dataset: Path | None = None
    ve: str | None = None
    le: str = "ViT-B/32"
    tm: str | None = None


@dataclass(frozen=True)
class BackboneFlags:
    """What makes the features first, in place of files.

    Args:
        backbone: a classifier of the lab that is trained on the seen classes and makes the skeleton features.
        data: its skeletons: a data file of any layout.
        recipe: its recipe.
        backbone_flags: further flags of sal train for it, such as --backbone-flags="--stream b --num-epoch 30".
        backbone_weights: of its last epoch, or the best on test clips of seen classes.
        weights: CLIP's weights for the text (default: those in text_extractor/).
        descriptions: folder of your descriptions (default: the project's own).
        without_clip: text features of shared words, which know no meaning.
    """

    backbone: str | None = None
    data: Path | None = None
    recipe: str | None = None
    backbone_flags: str = ""
    backbone_weights: Literal["last", "best"] = "last"
    weights: Path | None = None
    descriptions: Path | None = None
    without_clip: bool = False


@dataclass(frozen=True)
class TrainingFlags:
    """How it is trained; whatever is not given is as published for the number of classes.

    Args:
        num_cycles: cycles (10).
        num_epoch_per_cycle: steps of a cycle, officially called epochs (1700; 1900 for 120 classes).
        latent_size: width of the latents (100; 200 for 120 classes).
        batch_size: clips in a step (64).
        lr: learning rate (0.0001).
        samples: latents of each unseen class that the classifier learns from (500).
        classifier_steps: steps of the classifier (300).
        classifier_lr: its learning rate (0.001).
        noise: per_sample (official, one number for all latent dimensions of a clip) or per_dimension.
        no_relu_output: without the official ReLU behind the decoders.
        no_relu_logits: without the official ReLU behind the classifier.
        corrected: --noise per_dimension and --no-relu-logits.
    """

    num_cycles: int | None = None
    num_epoch_per_cycle: int | None = None
    latent_size: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    samples: int | None = None
    classifier_steps: int | None = None
    classifier_lr: float | None = None
    noise: Literal["per_sample", "per_dimension"] | None = None
    no_relu_output: bool = False
    no_relu_logits: bool = False
    corrected: bool = False


@dataclass(frozen=True)
class JudgingFlags:
    """What counts.

    Args:
        seeds: one run each, such as 1 2 3 4 5 (default: the published 5 alone).
        select: cycle that counts: oracle (official, the best on test clips), val (the best in validation) or last.
        t: temperature of the gate; 0: searched.
        th: threshold of the gate in percent; 0: searched.
    """

    seeds: list[int] | None = None
    select: Literal["last", "val", "oracle"] = "oracle"
    t: float = 2.0
    th: float = 50.0


def plan_of(task: TaskFlags, training: TrainingFlags, judging: JudgingFlags) -> Plan:
    """The plan that the flags are for. Raises `UsageError` for what cannot be."""
    from engine.zeroshot import plan as plans
    from shared_data import zeroshot_splits as splits

    if task.st != "r":
        raise ConfigError(f"--st {task.st}: no such splits are published", expected="r", next_step="own splits: --unseen 1 4 7")
    if 0 < judging.th < 1:
        raise ConfigError(f"--th {judging.th:g} is in percent", expected=f"--th {PERCENT * judging.th:g} for {judging.th:g}")
    settings = _settings(task.classes, training)
    choices: dict[str, Any] = {
        "seeds": tuple(judging.seeds) if judging.seeds is not None else (plans.PUBLISHED_SEED,),
        "selection": judging.select,
        "temperature": judging.t or None,
        "threshold": judging.th / PERCENT or None,
    }
    if task.unseen is None:
        if task.val_unseen is not None:
            raise ConfigError(
                "--val-unseen without --unseen", expected="both for a split of your own, or --ss for a published one"
            )
        if task.ss is None:
            raise ConfigError(
                "no task named", expected=f"--ss: {', '.join(f'{k} of {n}' for n, k in splits.UNSEEN)}",
                next_step="or a split of your own: --unseen 1 4 7 --val-unseen 2 3 5",
            )  # fmt: skip
        truncated = not task.full_validation_list
        return plans.published(task.classes, task.ss, truncated=truncated, settings=settings, **choices)
    if task.ss not in (None, len(task.unseen)):
        raise ConfigError(f"--ss {task.ss}, and {len(task.unseen)} classes in --unseen", expected="--unseen alone")
    if task.val_unseen is None:
        raise ConfigError(
            "--unseen without --val-unseen", expected=f"{len(task.unseen)} other classes, unseen in validation",
            next_step="the gate learns on them, and must not learn on those of the test",
        )  # fmt: skip
    test = splits.split_of(task.classes, task.unseen)
    plan = plans.Plan(test, splits.split_of(task.classes, task.val_unseen, without=task.unseen), settings, **choices)
    plans.require_sound(plan)
    return plan


def _settings(classes: int, training: TrainingFlags) -> Settings:
    from engine.zeroshot import plan as plans
    from engine.zeroshot import settings as published

    found = published.published(classes)
    if training.corrected:
        found = plans.corrected(found)
    given: dict[str, Any] = {
        "cycles": training.num_cycles, "steps": training.num_epoch_per_cycle, "latent": training.latent_size,
        "batch": training.batch_size, "lr": training.lr, "samples": training.samples,
        "classifier_steps": training.classifier_steps, "classifier_lr": training.classifier_lr, "noise": training.noise,
        "relu_output": False if training.no_relu_output else None, "relu_logits": False if training.no_relu_logits else None,
    }  # fmt: skip
    return replace(found, **{name: value for name, value in given.items() if value is not None})


def source_of(inputs: InputFlags, unseen: int, phase: Phase | None) -> Source:
    """The files that the flags name, for a task with so many `unseen` classes; None: both phases are read.

    Raises `UsageError` where `--dataset` names a folder that the phases cannot be found by.
    """
    from engine.zeroshot import features
    from engine.zeroshot.sources import Source

    root, mode = inputs.root or Path(), inputs.tm or ALL_TEXTS
    if inputs.ve is not None and not re.fullmatch(r"[\w.-]+", inputs.ve):
        raise ConfigError(f"--ve {inputs.ve!r} is no name", expected="the first part of a folder's name, such as shift")
    if inputs.dataset is None:
        return Source(root, inputs.le, mode, inputs.ve or features.EXTRACTOR)
    folder = inputs.dataset.absolute()
    match = re.fullmatch(r"(?P<extractor>.+?)_(?P<val>val_)?(?P<unseen>\d+)_r", folder.name)
    expected = features.folder_name(unseen, phase or "test", extractor=inputs.ve or features.EXTRACTOR)
    if match is None or int(match["unseen"]) != unseen:
        raise ConfigError(
            f"--dataset {inputs.dataset} is not named as one with {unseen} unseen classes", expected=f"…/{expected}",
            next_step="give the folder that name, or a link of that name",
        )  # fmt: skip
    if phase is not None and (match["val"] is None) != (phase == "test"):
        said = {"test": "train", "val": "val"}[phase]
        raise ConfigError(f"--dataset {inputs.dataset} is not of --phase {said}", expected=f"…/{expected}")
    if inputs.ve not in (None, match["extractor"]):
        raise ConfigError(
            f"--dataset {inputs.dataset} and --ve {inputs.ve}", expected=f"…/{expected}, or --ve {match['extractor']}"
        )
    return Source(root, inputs.le, mode, match["extractor"], skeletons=folder.parent)


def chain_of(made: BackboneFlags, inputs: InputFlags) -> tuple[Backbone, TextSource] | None:
    """What makes the features first; None: they are read from files. Raises `UsageError` for flags of both ways."""
    from engine.zeroshot.chain import Backbone

    if made.backbone is None:
        if made != BackboneFlags():
            raise ConfigError("flags of a backbone without --backbone", expected="--backbone ctrgcn --recipe … --data …")
        return None
    if (inputs.root, inputs.dataset, inputs.ve) != (None, None, None):
        raise ConfigError("--backbone makes the features", expected="no --root, --dataset or --ve")
    if made.data is None:
        raise ConfigError("no skeletons named", expected="--data FILE", next_step="see docs/your-data.md")
    try:
        flags = (*(("--recipe", made.recipe) if made.recipe else ()), *shlex.split(made.backbone_flags))
    except ValueError as error:
        raise ConfigError(f"--backbone-flags: {error}", where=made.backbone_flags) from None
    text = text_of(made.weights, inputs.le, made.descriptions, inputs.tm or ALL_TEXTS, without_clip=made.without_clip)
    return Backbone(made.backbone, made.data, flags, made.backbone_weights), text


def chain_source(backbone: Backbone, text: TextSource) -> Source:
    """What the features that are made first will be called, wherever the work folder is."""
    from engine.zeroshot import chain

    return chain.source(Path(), backbone, text)


def text_of(weights: Path | None, le: str, descriptions: Path | None, tm: str, *, without_clip: bool) -> TextSource:
    """What makes text features, the weights as named or where the official scripts have them. Raises `UsageError`."""
    from engine.zeroshot.text.source import TextSource

    if le not in WEIGHTS:
        raise ConfigError(f"no text tower is called {le!r}{nearest(le, WEIGHTS)}", expected=", ".join(WEIGHTS))
    if without_clip:
        if weights is not None:
            raise ConfigError("--without-clip with --weights", expected="one or the other")
        return TextSource(tm, descriptions=descriptions)
    usual = WEIGHTS_FOLDER / WEIGHTS[le]
    if weights is None and not usual.is_file():
        raise ConfigError(
            "no weights of CLIP named", expected=f"--weights {usual.name}, or that file in {WEIGHTS_FOLDER}/ where you are",
            next_step="download OpenAI's file once, on any machine; or --without-clip for features of shared words",
        )  # fmt: skip
    return TextSource(tm, weights or usual, cast("Architecture", le), descriptions)


def work_folder(model: str, plan: Plan, source: Source, work_dir: Path | None, wdir: Path | None, phase: str) -> Path:
    """Where a run is kept: as named; below the official ``--wdir``, by text as officially; or MODEL/TASK where runs go.

    One folder holds both phases: the ``_val`` at the end of a ``--wdir`` of the validation is dropped.
    """
    from engine import environment

    if work_dir is not None and wdir is not None:
        raise ConfigError("both --work-dir and --wdir", expected="one of them")
    if work_dir is not None:
        return work_dir
    if wdir is not None:
        base = wdir.with_name(wdir.name.removesuffix("_val")) if phase == "val" and wdir.name != "_val" else wdir
        return base / source.arch / source.mode
    from shared_data import zeroshot_splits as splits

    task = (plan.test.classes, len(plan.test.unseen))
    known = task in splits.UNSEEN and splits.published(*task).unseen == plan.test.unseen
    last = str(task[1]) if known else "-".join(map(str, plan.test.unseen))
    name = f"{task[0]}_{last}_{source.extractor}_{source.arch.replace('/', '-')}_{source.mode}"
    return environment.work_dir() / model / name
