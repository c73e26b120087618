"""Zero-shot systems in the planner: what is predicted for them, against runs with values where that can be had."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from engine import models
from engine.zeroshot import classifier, training
from engine.zeroshot.network import LatentClassifier
from engine.zeroshot.schedule import TEXT_CYCLE, factors
from engine.zeroshot.settings import Settings, published
from engine.zeroshot.system import find
from engine.zeroshot.task import Rows, Task
from planner import zeroshot
from planner.answers import Question, answers
from planner.card import cards
from planner.card.budget import Budget
from planner.show.page import page
from planner.show.sizes import markdown
from planner.show.table import render, render_one
from planner.steps import cache
from planner.steps.lifetimes import Lifetimes, rounded
from planner.steps.zeroshot import STEPS, Stages, shortened
from planner.verdict import judge
from sal.__main__ import main
from shared_data import zeroshot_splits as splits
from shared_data.errors import LabError, UsageError

SYSTEMS = models.discover("zeroshot")
MIB = 2**20
every_system = pytest.mark.parametrize("name", sorted(SYSTEMS))


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.SWITCH, "off")
    zeroshot._costs_of.cache_clear()


def costs(name: str = "msf_gzssar", task: str = "60/5") -> zeroshot.ZeroShotCosts:
    return zeroshot.costs_of(SYSTEMS[name], zeroshot.task_named(task))


def small() -> Task:
    """Ten classes with values; more clips than a batch."""
    split, rng = splits.split_of(10, (2, 5, 7)), np.random.default_rng(0)

    def rows(classes: tuple[int, ...], count: int) -> Rows:
        return Rows("rows", rng.random((count, 48), np.float32), np.resize(np.asarray(classes), count))

    return Task(split, rng.random((10, 64), np.float32), rows(split.seen, 700), rows(split.unseen, 300))


SETTINGS = Settings(latent=20, batch=32, samples=50)


def watched(held: list[torch.Tensor], run: Callable[[], object]) -> int:
    """Peak in bytes of `run` with values, on this CPU."""
    with Lifetimes("cpu") as memory:
        memory.hold(held)
        run()
    return memory.peak


def unfused(run: training.Run) -> training.Run:
    """With the update that is predicted; a fused one needs less."""
    return replace(run, optimizer=torch.optim.Adam(run.network.parameters(), lr=1e-4, foreach=True))


@every_system
def test_the_steps_take_what_is_predicted(name: str) -> None:
    task = small()
    predicted = Stages(find(name), task, SETTINGS).steps(SETTINGS.batch).peak
    run = unfused(training.start(find(name), task, shortened(SETTINGS), seed=0))
    parameters = list(run.network.parameters())
    held = [*parameters, *run.network.buffers()]
    real = watched(held, lambda: training.steps(run, TEXT_CYCLE))
    draws = sum(rounded(4 * STEPS * SETTINGS.batch * n) for n in (1, 2))  # made on the host for all steps at once
    counters = 512 * len(parameters)  # the optimizer's, of steps, lie on the host as well
    on_device = task.train.labels.nbytes  # their classes
    assert real - 2 * draws - counters <= predicted <= real + on_device


@every_system
def test_the_classifier_and_the_pass_take_what_is_predicted(name: str) -> None:
    task, system = small(), find(name)
    stages = Stages(system, task, SETTINGS)
    run = unfused(training.start(system, task, shortened(SETTINGS), seed=0))
    training.steps(run, TEXT_CYCLE)
    parameters = list(run.network.parameters())
    state = [v for one in run.optimizer.state.values() for v in one.values() if v.dim()]
    gradients = [p.grad for p in parameters if p.grad is not None]
    held = [*parameters, *run.network.buffers(), *state, *gradients]
    text = torch.from_numpy(task.text[list(task.split.unseen)])
    learning = watched([*held, text], lambda: classifier.train_classifier(run.network, text, run.settings, seed=0, cycle=0))
    assert stages.learning().peak == pytest.approx(learning, rel=0.1)
    assert stages.learning().peak >= 0.99 * learning
    judge_of, rows = LatentClassifier(20, 3), torch.rand(3000, 48)
    judging = watched([*held, *judge_of.parameters(), rows], lambda: classifier.judged(run.network, judge_of, rows))
    assert stages.judging(3000).peak == pytest.approx(judging, rel=0.01)


def test_a_traced_cycle_has_steps_of_every_kind() -> None:
    late = [factors(TEXT_CYCLE, step, steps=STEPS) for step in range(STEPS)]
    assert {bool(one.alignment) for one in late} == {True, False}
    assert late[-1].skeleton and late[-1].text
    for classes in (60, 120):
        settings = published(classes)
        official = sum(factors(TEXT_CYCLE, step, steps=settings.steps).alignment for step in range(settings.steps))
        traced = sum(one.alignment for one in late)
        assert traced / STEPS == pytest.approx(official / settings.steps, rel=0.25)


@every_system
@pytest.mark.parametrize("phase", ["train", "eval"])
def test_the_law_is_the_trace_of_any_number_of_rows(name: str, phase: str) -> None:
    of = costs(name)
    law = of._law(phase)  # type: ignore[arg-type]
    assert law is not None
    assert law.at(200) == of._trace(zeroshot._step(phase, 200)).peak  # type: ignore[arg-type]


def test_the_largest_batch_fits_and_one_more_does_not() -> None:
    of = costs()
    asked = of.task.asked
    room = of.train(replace(asked, batch_size=500))
    most = of.largest(asked, "train", room)
    assert of.train(replace(asked, batch_size=most)) <= room < of.train(replace(asked, batch_size=most + 1))
    assert of.largest(asked, "train", 1e6) == of.task.clips("test")[0]
    assert of.largest(asked, "eval", 1e6) == of.task.rows == asked.test_batch_size
    assert of.largest(asked, "train", 1.0) == of.largest(asked, "eval", 1.0) == 0


def test_nothing_is_said_without_a_law(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zeroshot, "envelope", lambda *a, **k: None)
    of = costs()
    asked = of.task.asked
    assert (of.largest(asked, "train", 1e6), of.largest(asked, "eval", 1e6)) == (asked.batch_size, asked.test_batch_size)
    assert of.largest(asked, "train", 1.0) == 0


def test_what_lies_on_the_device_is_counted() -> None:
    of = costs("fsvae", "120/10")
    row, rows, classes = SYSTEMS["fsvae"].toml["expect"][-1], of.task.clips("test")[0], of.task.unseen
    assert (row["text"], row["latent"]) == (zeroshot.TEXT, of.task.settings.latent)
    training_keeps = 4 * 4 * row["parameters"]  # weights, gradients and both moments, float32
    assert of.train(of.task.asked) * MIB > rows * zeroshot.SKELETON * 4 + training_keeps
    passed = of.task.rows * 4 * (zeroshot.SKELETON + 2 * of.task.settings.latent + classes)
    assert of.evaluation(of.task.asked) * MIB > passed + training_keeps


def test_every_published_task_of_every_system_is_judged() -> None:
    found = answers(Question(Budget(8)), SYSTEMS)
    assert [(one.model, one.recipe) for one in found] == [(name, task) for name in SYSTEMS for task in zeroshot.tasks()]
    assert zeroshot.tasks() == ["60/5", "60/12", "120/10", "120/24"]
    assert all(one.verdict and one.verdict.word == "comfortable" and not one.verdict.lever for one in found)
    by_name = {(one.model, one.recipe): one.verdict.train.low for one in found if one.verdict}
    assert all(by_name[name, "120/10"] > by_name[name, "60/5"] for name in SYSTEMS)


def test_a_card_without_room_is_a_no_that_says_what_helps() -> None:
    of = costs()
    verdict = zeroshot.judged(of, Budget(1.0))
    assert verdict.word == "no" and verdict.choice.flags == "" and verdict.largest_batch == 0
    assert "--device cpu" in verdict.note and "window" not in verdict.note
    enough = verdict.budget.card_for(max(verdict.choice.train, verdict.choice.eval))
    assert zeroshot.judged(of, Budget(enough + 0.001)).word == "fits"
    assert zeroshot.judged(of, Budget(enough - 0.001)).word == "no"


def test_no_lever_is_named_that_a_system_has_not() -> None:
    of = costs("fsvae", "120/10")
    asked = of.task.asked
    assert of.evaluation(asked) > of.train(asked)
    tight = Budget(Budget(8).card_for(of.evaluation(asked)) - 0.001)
    assert judge(of, tight, asked).lever.startswith("--test-batch-size")  # what a classifier would be told
    assert (zeroshot.judged(of, tight).word, zeroshot.judged(of, tight).lever) == ("no", "")


def test_a_batch_of_ones_own_and_flags_that_are_of_classifiers() -> None:
    plain, larger = (
        answers(Question(Budget(8), changes=changes), SYSTEMS, model="msf_gzssar", recipe="60/5")[0]
        for changes in ((), ("--batch-size", "4096"))
    )
    assert (
        plain.verdict and larger.verdict and larger.verdict.train.low > plain.verdict.train.low + 4096 * zeroshot.TEXT * 4 / MIB
    )
    assert (plain.batch, larger.batch) == ("64", "4096") and plain.cpu and larger.cpu is None
    (refused,) = answers(Question(Budget(8), changes=("--precision", "bf16")), SYSTEMS, model="fsvae", recipe="60/5")
    assert refused.verdict is None and "--precision is a flag of classifiers" in refused.problem
    with pytest.raises(UsageError, match="batch_size 0"):
        zeroshot.task_named("60/5", ("--batch-size", "0"))
    with pytest.raises(UsageError, match="60/6"):
        zeroshot.task_named("60/6")
    with pytest.raises(LabError, match="--train-window-size"):
        zeroshot.task_named("60/5", ("--train-window-size", "64"))


def test_a_named_card_gives_times_of_cycles() -> None:
    found = {}
    for name in ("RTX 3060 Ti", "RTX 4090"):
        card = cards.find(name)
        (answer,) = answers(Question(Budget(card.gib), card), SYSTEMS, model="fsvae", recipe="120/10")
        duration = answer.duration
        assert duration is not None and duration.unit == "cycle" and duration.epoch and duration.run
        settings = published(120)
        assert (duration.steps, duration.epochs) == (settings.steps, 2 * settings.cycles)
        assert duration.run.point == pytest.approx(duration.epochs * duration.epoch.point)
        assert duration.epoch.low <= duration.epoch.point <= duration.epoch.high
        assert duration.epoch.point > settings.steps * duration.step.point
        found[name] = duration.epoch.point
        told = json.loads(json.dumps(answer.as_dict()))
        assert told["settings"]["latent"] == 200 and told["cpu"]["cycles"] == 20 and told["time"]["run_s"][1] > 0
    assert found["RTX 4090"] < found["RTX 3060 Ti"]


@every_system
def test_the_figures_without_a_gpu_are_those_of_the_benchmark(name: str) -> None:
    table = Path(__file__).resolve().parents[2] / "benchmarks/results/zeroshot_cycles_cpu.csv"
    rows = [line.split(",") for line in table.read_text().splitlines() if line.startswith(f"{name},")]
    assert {row[1]: float(row[-1]) for row in rows} == SYSTEMS[name].toml["cpu"]["cycle_s"]
    for task in zeroshot.tasks():
        found = zeroshot.on_cpu(SYSTEMS[name], zeroshot.task_named(task))
        assert found is not None and found.run_s == pytest.approx(20 * found.cycle_s) and "AMD EPYC" in found.machine


def test_people_are_told_what_a_task_is_and_that_no_gpu_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    question = Question(Budget(8))
    found = answers(question, SYSTEMS, model="msf_gzssar")
    flat = printed(lambda console: render(found, question, console))
    assert all(task in flat for task in zeroshot.tasks()) and "published zero-shot tasks" in flat
    assert "sal zeroshot run --model msf_gzssar --ntu 60 --ss 5" in flat and "sal train" not in flat
    one = printed(lambda console: render_one(found[0], question, console))
    assert "without a GPU" in one and "20 cycles of" in one and "AMD EPYC" in one and "feature files" in one
    assert "sal zeroshot run --model msf_gzssar --ntu 60 --ss 5" in one and "window" not in one
    table = markdown([question], [found], "sal plan")
    assert "| msf_gzssar 60/12 | 64 | " in table and "They need no GPU" in table
    assert "msf_gzssar 60/5" in page(found, question)
    monkeypatch.setattr(zeroshot, "on_cpu", lambda card, task: None)
    silent = answers(question, SYSTEMS, model="msf_gzssar")
    assert "need no GPU" not in markdown([question], [silent], "sal plan")


def printed(show: Callable[[Console], None]) -> str:
    console = Console(file=StringIO(), width=200)
    show(console)
    assert isinstance(console.file, StringIO)
    return " ".join(console.file.getvalue().split())


def test_the_verb_answers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "fsvae", "--recipe", "60/5", "--gpu", "RTX 3070"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "fsvae 60/5 on RTX 3070 (8 GiB): comfortable" in out and "steps and the classifier" in out
    assert main(["plan", "fsvae", "--recipe", "60/5", "--vram", "1"]) == 1
    assert "it would need a card of" in " ".join(capsys.readouterr().out.split())


def test_what_was_traced_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(cache.SWITCH)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = answers(Question(Budget(8)), SYSTEMS, model="msf_gzssar", recipe="60/12")
    zeroshot._costs_of.cache_clear()
    monkeypatch.setattr(zeroshot, "Stages", None)
    assert answers(Question(Budget(8)), SYSTEMS, model="msf_gzssar", recipe="60/12") == first
    assert len(list(tmp_path.rglob("msf_gzssar-*.json"))) == 1


class Cpu:
    """A device that is a CPU, and says what it was asked."""

    torch = torch.device("cpu")
    full = False

    def release(self) -> None: ...

    def reset(self) -> None: ...

    def peaks(self) -> tuple[float, float]:
        return 10.0, 20.0

    def seconds(self, work: Callable[[], object]) -> float:
        if self.full:
            raise torch.cuda.OutOfMemoryError("full")
        work()
        return 6.0


def test_a_device_at_hand_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    of = costs()
    found = zeroshot.measured(of, Cpu())
    assert found.train is not None and found.eval is not None
    assert (found.train.reserved_mib, found.train.seconds) == (20.0, 6.0 / STEPS)
    monkeypatch.setattr(Cpu, "full", True)
    assert zeroshot.measured(of, Cpu()) == type(found)(None, None)


def test_classifiers_are_planned_without_what_only_zero_shot_images_hold() -> None:
    told = "import sys, planner.answers, planner.show.table; sys.exit('sklearn' in sys.modules or 'scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", told], check=False).returncode == 0
