"""What closes a supervised training run: its metrics, the untouched test set of an honest run, examples and the report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine import assembly
from engine.examples import save_examples
from engine.metrics import measure
from engine.report import write_report
from engine.score_files import BEST, HONEST_TEST, LAST, write_scores
from engine.weights import load_weights

if TYPE_CHECKING:
    from engine.supervised import Supervised


def close(learning: Supervised) -> None:
    """Write `metrics.json`, examples and the report of a run whose last epoch is closed, and tell the user."""
    run, held_out = learning.run, learning.held_out
    assert run.last is not None and run.best is not None  # the last epoch is always evaluated
    values = _summary(learning)
    if run.config.protocol == "honest":
        values["test"] = _test_untouched(learning)
    run.world.by_first(run.folder.write_json, "metrics.json", values)
    run.world.by_first(save_examples, run.folder, learning.clips)
    run.log("end", last=run.last["top1"], best=run.best["top1"], seconds=run.seconds)
    report = run.world.from_first(lambda: write_report(run.folder.path))
    best = f"best on {held_out} {run.best['top1']:.1%} (epoch {run.best['epoch'] + 1})"
    habit = "; best-on-test picks the epoch by the test set, as the field does" if held_out == "test" else ""
    run.console.print(f"last epoch {run.last['top1']:.1%}, {best}{habit}", highlight=False)
    run.console.print(f"report: {report}", highlight=False, soft_wrap=True)


def _summary(learning: Supervised) -> dict[str, Any]:
    run, data = learning.run, learning.clips
    config = run.config
    return {
        "model": config.model, "recipe": config.recipe, "dataset": data.name, "split": config.split,
        "stream": config.stream, "protocol": config.protocol,
        "selection": {"last": run.last, f"best_on_{learning.held_out}": run.best},
        "num_classes": data.num_classes, "class_names": list(data.class_names),
        "parameters": run.parameters, "clips_train": len(data.train), "clips_test": len(data.test),
        "seconds": run.seconds,
    }  # fmt: skip


def _test_untouched(learning: Supervised) -> dict[str, Any]:
    """After an honest run: the real test set, looked at once, with the last weights and with the validation's choice."""
    run = learning.run
    batches = assembly.test_loader(learning.given, run.config, run.device, run.world)
    result = {}
    for name, file, kept in (("last", None, LAST), ("best_on_validation", run.folder.best, BEST)):
        if file is not None:
            run.world.by_first(load_weights, file, run.model, run.config.model)
            run.world.share(run.model)
        # The state was saved when the last epoch closed; the network may hold other weights by now.
        scores = learning.scores(batches, lambda: run.stop_if_asked(saved=True))
        result[name] = measure(scores, run.epoch - 1).as_dict()
        run.world.by_first(write_scores, run.folder.path / HONEST_TEST[kept], scores)
        run.console.print(f"test set, {name} weights: {result[name]['top1']:.1%}", highlight=False)
    return result
