"""The page of a run without labels: what its loss is made of, and whether the encoder still tells clips apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.pretraining import COLLAPSED
from engine.report.charts import Series, line_chart
from engine.report.course import STREAMS, cost_charts, facts, flat, points, rate_chart, text, thinned
from engine.report.parts import document, header, notice, pairs, section
from engine.report.reading import Run, number

SPREAD = "spread"
MEASURES = {
    SPREAD: "Spread of the embeddings", "uniformity": "Uniformity of the embeddings",
    "alignment": "Distance of two views, squared",
}  # fmt: skip
"""What every objective's embeddings are looked at for (`engine.downstream.collapse`)."""
NOT_A_TERM = ("event", "epoch", "step", "loss", "lr", "clips_per_s", "grad_norm", *MEASURES)
"""What a log entry holds beside the terms of the objective."""
KINDS = {"pretrain": "Pretraining run, without labels", "tune": "Tuning run, without labels"}


ABOUT = (
    "Terms and measures are of logged steps; the loss is the mean of an epoch. The spread is that of the embeddings, scaled to "
    f"unit length: 1 where they point everywhere, 0 where all clips have the same; below {COLLAPSED:g} an encoder has collapsed. "
    "Uniformity is 0 where all are the same and about -4 where they point everywhere. No accuracy is measured here: what the "
    "features are worth is asked by <code>sal judge</code>."
)


def page(run: Run) -> str:
    """The document of `run`."""
    title = f"{text(run, 'model')} on {text(run, 'dataset')}"
    stream = text(run, "stream")
    tags = {
        "data": text(run, "dataset"), "recipe": text(run, "recipe"), "stream": STREAMS.get(stream, stream),
        "epochs": run.config.get("num_epoch"), "batch": run.config.get("batch_size"),
        "precision": run.config.get("precision"), "seed": run.config.get("seed"),
    }  # fmt: skip
    drawn = "".join(_charts(run))
    sections = [
        header(KINDS[run.stage], title, tags), notice([*_collapse(run), *run.notes]), facts(run),
        section("Where it ended", pairs(_ended(run))),
        section("Curves", f'<p class="soft lead">{ABOUT}</p><div class="charts">{drawn}</div>' if drawn else ""),
        section("Encoders", pairs({str(name): run.folder / str(name) for name in run.metrics.get("encoders") or []})),
        section("Configuration", pairs(run.config)), section("Environment", pairs(flat(run.environment))),
    ]  # fmt: skip
    return document(title, sections)


def _last(run: Run) -> Mapping[str, Any]:
    """Terms and spread at the end: of the results or, in a run stopped early, of the newest log entry."""
    last = run.metrics.get("last")
    terms = last.get("terms") if isinstance(last, dict) else None
    if isinstance(terms, dict) and terms:
        return terms
    newest = [*run.steps[-1:], *run.evals[-1:]]
    entry = max(newest, key=lambda e: (number(e.get("epoch")) or 0, e["event"] == "eval"), default={})  # which ends an epoch
    return {name: value for name, value in entry.items() if name in MEASURES or name not in NOT_A_TERM}


def _collapse(run: Run) -> list[str]:
    spread = number(_last(run).get(SPREAD))
    if spread is None or spread >= COLLAPSED:
        return []
    return [f"The encoder has collapsed: the embeddings of all clips of the last step are nearly the same (spread {spread:.3f})."]


def _ended(run: Run) -> dict[str, Any]:
    """The loss of the last epoch, and what the last step said of it."""
    loss = points(run.epochs, "loss")[-1:]
    told = {f"loss, mean of epoch {epoch:g}": f"{value:.4g}" for epoch, value in loss}
    found = {name: value for name, given in _last(run).items() if (value := number(given)) is not None}
    return told | {f"{name}, last step": f"{value:.4g}" for name, value in found.items()}


def _charts(run: Run) -> list[str]:
    names = list(dict.fromkeys(name for e in [*run.steps, *run.evals] for name in e if name not in NOT_A_TERM))
    many = len(run.steps) > 1  # short epochs may end before a step is logged
    axis = "step" if many else "epoch"

    def over(name: str) -> list[tuple[float, float]]:
        if not many:
            return points(run.evals, name)
        return thinned([(float(e["step"]), y) for e in run.steps if (y := number(e.get(name))) is not None])

    def chart(title: str, name: str) -> str:
        return line_chart(title, [Series(name, "one", over(name))], lambda y: f"{y:.3g}", axis=axis)

    return [
        line_chart("Loss", [Series("training", "one", points(run.epochs, "loss"))], lambda y: f"{y:.4g}"),
        *(chart(title, name) for name, title in MEASURES.items()), *(chart(f"Term {name}", name) for name in names),
        chart("Norm of the gradient", "grad_norm"), rate_chart(run), *cost_charts(run),
    ]  # fmt: skip
