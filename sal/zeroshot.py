"""`sal zeroshot …`: actions that were never seen in training. Heavy imports stay inside; docs/zero-shot.md."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from engine.errors import ConfigError, WorkDirError
from sal import signature
from sal.zeroshot_flags import (
    BackboneFlags,
    InputFlags,
    JudgingFlags,
    TaskFlags,
    TrainingFlags,
    chain_of,
    chain_source,
    plan_of,
    source_of,
    spelled,
    text_of,
    work_folder,
)  # fmt: skip
from shared_data.errors import LabError, nearest

if TYPE_CHECKING:
    import torch

    from engine.zeroshot.chain import Backbone
    from engine.zeroshot.plan import Plan
    from engine.zeroshot.sources import Source
    from engine.zeroshot.text.source import TextSource
    from engine.zeroshot.training import Cycle
    from shared_data.zeroshot_splits import Phase

GO_ON = "run the same command again: it goes on after the last cycle that was done"
NO_MEANING = (
    'These text features know no meaning: texts are alike if they share words, so "sit down" and "take a seat" have nothing\n'
    "in common. They show that a run works; figures with them are a lower bound."
)
MODES = ("lb", "ad", "md", "ad_md", "lb_ad_md")


def run_(
    task: TaskFlags,
    inputs: InputFlags,
    made: BackboneFlags,
    training: TrainingFlags,
    judging: JudgingFlags,
    model: str = "",
    phase: Literal["all", "train", "val"] = "all",
    mode: str = "train",
    work_dir: Path | None = None,
    wdir: Path | None = None,
    device: str | None = None,
    force: bool = False,
    official_log: bool = False,
) -> int:
    """Train, tune on the validation split, train and apply the gate, report: everything, or one stage of training alone.

    Args:
        model: the zero-shot system: fsvae or msf_gzssar.
        phase: all five stages, or train (stage 1) or val (stage 2) alone.
        mode: train; what is not trained yet is trained, all else is skipped.
        work_dir: folder of the run, which goes on where it was stopped (default MODEL/TASK in $SAL_WORK_DIR or ./work_dir).
        wdir: the official scripts' folder, below which the run lies by its text: results/5_r -> results/5_r/ViT-B/32/lb_ad_md.
        device: cpu, auto, cuda, or a GPU's number (or --gpu); a CPU needs minutes (default: cpu, with --backbone auto).
        force: replace what the folder holds of another run.
        official_log: write ZSL, S, U and H as the official text file too.
    """
    _require_model(model)
    if mode != "train":
        raise ConfigError(
            f"--mode {mode}: there is no other mode than train, since what is trained already is not trained again",
            expected="--mode train", next_step="results: all stages, --phase all; what is done of them is skipped",
        )  # fmt: skip
    plan = plan_of(task, training, judging)
    chosen: Phase | None = None if phase == "all" else "test" if phase == "train" else "val"
    chain = chain_of(made, inputs)
    if chain is not None and chosen is not None:
        raise ConfigError(f"--backbone with --phase {phase}", expected="--phase all")
    source = chain_source(*chain) if chain else source_of(inputs, len(plan.test.unseen), chosen)
    folder = work_folder(model, plan, source, work_dir, wdir, phase)
    given: dict[str, Any] = {"device": _device(device or ("auto" if chain else "cpu")), "force": force}
    with _named("--work-dir" if wdir is None else "--wdir"):
        if chosen is not None:
            return _train_alone(model, plan, source, folder, chosen, given)
        _whole(model, plan, source, folder, {**given, "official_log": official_log}, chain)
    return 0


def text(
    weights: Path | None = None,
    le: Literal["ViT-B/32", "ViT-B/16"] = "ViT-B/32",
    classes: int = 60,
    descriptions: Path | None = None,
    tm: str = "lb_ad_md",
    without_clip: bool = False,
    out: Path = Path(),
    force: bool = False,
) -> int:
    """Make text features of all classes with CLIP's text tower, from a file of weights on this machine, on the CPU.

    Args:
        weights: OpenAI's ViT-B-32.pt or ViT-B-16.pt, or a .safetensors with its names (default: that in text_extractor/).
        le: the tower that the weights are of, ViT-B/32 or ViT-B/16.
        classes: classes of the data set, or --ntu: 60, 120, 10 (NW-UCLA), or as many as your --descriptions have.
        descriptions: folder of your lb_60.csv, ad_60.csv, md_60.csv (default: the project's own texts).
        tm: texts to make: lb, ad, md, ad_md or lb_ad_md (default: all three).
        without_clip: from shared words instead, without a language model; such features know no meaning.
        out: folder in which text_feats/ is made (default: where you are).
        force: also replace features that were made from something else.
    """
    from engine.zeroshot.text.source import write

    source = text_of(weights, le, descriptions, tm, without_clip=without_clip)
    for file in write(out, source, classes, force=force):
        print(file)
    if without_clip:
        print(f"{NO_MEANING} To use them: --le {source.arch}")
    return 0


def published(
    inputs: InputFlags,
    training: TrainingFlags,
    judging: JudgingFlags,
    model: str = "",
    classes: int = 60,
    wdir: Path = Path("results"),
    device: str = "cpu",
    force: bool = False,
) -> int:
    """All five stages for every published task of a data set and every choice of texts, one after the other.

    With --tm for this one alone. A task whose files are missing or wrong is left out, and told at the end with its exit code.

    Args:
        model: the zero-shot system: fsvae or msf_gzssar.
        classes: 60 or 120, or --ntu.
        wdir: folder below which each run lies: results/5_r/ViT-B/32/lb_ad_md.
        device: cpu, auto, cuda, or a GPU's number (or --gpu).
        force: replace what the folders hold of other runs.
    """
    from engine.zeroshot import COLUMNS
    from shared_data import zeroshot_splits as splits

    _require_model(model)
    if inputs.dataset is not None:
        raise ConfigError("--dataset names one folder", expected="--root, or --ve, for all tasks")
    tasks = [unseen for n, unseen in splits.UNSEEN if n == classes]
    if not tasks:
        raise ConfigError(f"no published tasks of {classes} classes", expected="60 or 120")
    given: dict[str, Any] = {"device": _device(device), "force": force, "official_log": True}
    rows, failed = [], []
    for unseen in tasks:
        plan = plan_of(TaskFlags(classes, unseen), training, judging)
        for mode in MODES if inputs.tm is None else (inputs.tm,):
            source = source_of(InputFlags(inputs.root, None, inputs.ve, inputs.le, mode), unseen, None)
            folder = work_folder(model, plan, source, None, wdir / f"{unseen}_r", "all")
            name = f"{classes}/{unseen} {mode}"
            print(f"== {name}", flush=True)
            try:
                with _named("--wdir"):
                    rows.append((name, _whole(model, plan, source, folder, given)["mean"]))
            except LabError as error:
                if error.exit_code not in SKIPPED:
                    raise
                print(f"left out: {error}", flush=True)
                failed.append((name, error))
    print("\n".join(f"{name:20}" + "".join(f"{c} {100 * mean[c]:6.2f}  " for c in COLUMNS) for name, mean in rows))
    print(
        "\n".join(f"{name:20}left out (exit code {error.exit_code}): {error.what} [{error.where}]" for name, error in failed),
        end="\n" if failed else "",
    )
    return failed[0][1].exit_code if failed else 0


SKIPPED = (65, 66)  # what is wrong with the files of one task may be right with those of another

VERBS: dict[str, tuple[str, Callable[..., int]]] = {
    "run": ("the five stages, or one of training alone", run_),
    "text": ("text features from descriptions, with CLIP or without", text),
    "published": ("every published task of a data set", published),
}  # fmt: skip


def run(argv: list[str], *, model: str = "", prog: str = "sal zeroshot", verb: str = "") -> int:
    """`sal zeroshot VERB …`, or with a `model` its `main.py VERB …`, in which `run` may be left out.

    verb  of a script that has this one alone, and is not told it
    """
    if verb:
        return _called(verb, argv, model, prog)
    if not argv or argv[0] in ("-h", "--help"):
        print(f"usage: {prog} VERB …   ({prog} run --help)\n")
        print("\n".join(f"  {name:10} {about}" for name, (about, _) in VERBS.items()))
        return 0
    verb, rest = ("run", argv) if model and argv[0].startswith("-") else (argv[0], argv[1:])
    if verb not in VERBS:
        raise ConfigError(f"no verb 'zeroshot {verb}'{nearest(verb, VERBS)}", expected=", ".join(VERBS))
    return _called(verb, rest, model, f"{prog} {verb}")


def _called(verb: str, rest: list[str], model: str, prog: str) -> int:
    words = spelled(rest)
    if model and verb != "text" and not {"-h", "--help"} & set(words):
        if any(word == "--model" or word.startswith("--model=") for word in words):
            raise ConfigError(f"this script is of {model}", expected="no --model", next_step="sal zeroshot takes any --model")
        words += ["--model", model]
    return signature.call(VERBS[verb][1], words, prog)


@contextmanager
def _named(flag: str) -> Iterator[None]:
    """A refused work folder is told by the `flag` that named it."""
    try:
        yield
    except WorkDirError as error:
        step = error.next_step.replace("--work-dir", flag)
        raise type(error)(error.what, where=error.where, expected=error.expected, next_step=step) from error


def _require_model(model: str) -> None:
    from engine import models

    if not model:
        raise ConfigError("no model named", expected=f"--model {' or '.join(models.discover('zeroshot'))}")
    models.find(model, "zeroshot")


def _device(name: str) -> torch.device:
    """As everywhere; where there is no such GPU, the way without one is named as the official scripts would write it."""
    from engine.assembly import choose_device

    try:
        return choose_device(name)
    except ConfigError as error:
        raise ConfigError(
            error.what, where=error.where, expected=error.expected or "a GPU that torch sees",
            next_step="--gpu cpu, or no --gpu at all: these networks are so small that a CPU trains them in minutes",
        ) from None  # fmt: skip


def _whole(
    model: str,
    plan: Plan,
    source: Source,
    folder: Path,
    given: dict[str, Any],
    chain: tuple[Backbone, TextSource] | None = None,
) -> dict[str, Any]:
    """All stages, after the features have been made where there is a `chain`; returns the summary."""
    from engine.signals import stopped_at_once
    from engine.zeroshot import results, system
    from engine.zeroshot.run import run as run_stages

    _announce(model, plan, source, folder, given)
    with stopped_at_once(GO_ON):
        if chain is None:
            summary = run_stages(folder, model, system.find(model), plan, source, after=_progress(plan), **given)
        else:
            summary = _from_skeletons(model, plan, folder, given, *chain)
    print(results.table(summary), end="")
    print(f"report: {folder / 'report.html'}", flush=True)
    return summary


def _from_skeletons(
    model: str, plan: Plan, folder: Path, given: dict[str, Any], backbone: Backbone, text: TextSource
) -> dict[str, Any]:
    """The features first: backbones as `sal train` trains them."""
    from engine.zeroshot import chain, system
    from sal.train import launch

    if text.weights is None:
        print(NO_MEANING)
    return chain.run(
        folder, model, system.find(model), plan, backbone=backbone, text=text,
        train=lambda name, flags: launch(flags, model=name, phase="train"),
        note=lambda line: print(line, flush=True), after=_progress(plan), **{**given, "device": str(given["device"])},
    )  # fmt: skip


def _train_alone(model: str, plan: Plan, source: Source, folder: Path, phase: Phase, given: dict[str, Any]) -> int:
    from engine.signals import stopped_at_once
    from engine.zeroshot import system
    from engine.zeroshot.run import train_alone

    _announce(model, plan, source, folder, given)
    with stopped_at_once(GO_ON):
        kept = train_alone(folder, model, system.find(model), plan, source, phase=phase, after=_progress(plan), **given)
    kind = "unseen classes" if phase == "test" else "the validation's unseen classes, which are others than the test's,"
    for seed, cycles in kept.items():
        best = max(cycles, key=lambda cycle: cycle.accuracy)
        print(
            f"seed {seed}: accuracy on {kind} {cycles[-1].accuracy:.2%} after the last cycle, "
            f"{best.accuracy:.2%} after the best ({best.number + 1}), chosen by these clips themselves"
        )
    print("the other stages: the same command with --phase all; nothing is trained twice", flush=True)
    return 0


def _announce(model: str, plan: Plan, source: Source, folder: Path, given: dict[str, Any]) -> None:
    """What is to be done, and every setting that is not the published one, before anything is read."""
    from engine.zeroshot.plan import deviations
    from engine.zeroshot.results import deviation_line
    from engine.zeroshot.text import descriptions

    names = descriptions.names(plan.test.classes)
    unseen = ", ".join(f"{k} {names[k]}" for k in plan.test.unseen)
    print(f"{model}: {plan.test.classes} classes, {len(plan.test.unseen)} unseen: {unseen}")
    seeds = f"seed{'s' if len(plan.seeds) > 1 else ''} {', '.join(map(str, plan.seeds))}"
    print(
        f"text {source.arch} {source.mode}, skeleton features {source.extractor}, {seeds}, "
        f"{given['device']}, work folder {folder}"
    )
    for deviation in deviations(plan):
        print(deviation_line(deviation))
    print(end="", flush=True)


def _progress(plan: Plan) -> Callable[[int, Phase, Cycle], None]:
    def after(seed: int, phase: Phase, cycle: Cycle) -> None:
        done = f"{cycle.number + 1} of {plan.settings.cycles}"
        accuracy = f"unseen classes {cycle.accuracy:.2%}"
        print(f"seed {seed}, {phase}: cycle {done}, loss {cycle.loss:.4g}, {accuracy}", flush=True)

    return after
