"""Evaluations of features that are ready: what a probe came to, votes of neighbours, retrieval."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from engine.downstream import autoencoder
from engine.downstream.autoencoder import AutoencoderSettings, bottleneck
from engine.downstream.features import Features
from engine.downstream.neighbours import MEMORY, Metric, accuracies, nearest
from engine.downstream.probe import Probed
from engine.downstream.results import Result
from engine.downstream.selection import RULES, Rule
from engine.metrics import measure
from engine.score_files import BEST, LAST, write_scores

LINEAR, NEIGHBOURS, WEIGHTED, BOTTLENECK = "linear", "k-NN", "k-NN weighted", "k-NN of autoencoder"
KS = (1, 2, 5, 10)
FILES: dict[Rule, str] = {"last": LAST, "best_on_test": BEST}


def linear(probed: Sequence[Probed], setting: str) -> list[Result]:
    """What probes of several seeds came to, one result for each rule of selection; `setting` is that of the probe, "isc" ..."""
    found = []
    for rule in RULES:
        chosen = [one.selected[rule] for one in probed if rule in one.selected]
        if len(chosen) == len(probed):
            metrics = [measure(one.scores, one.epoch) for one in chosen]
            epochs = ", ".join(str(one.epoch + 1) for one in chosen)
            found.append(
                Result(
                    LINEAR, setting, rule, tuple(m.top1 for m in metrics), tuple(m.top5 for m in metrics),
                    tuple(one.seed for one in probed), f"epoch {epochs} of {len(probed[0].loss)}",
                )
            )  # fmt: skip
    return found


def knn(
    train: Features,
    test: Features,
    ks: Sequence[int] = KS,
    *,
    metric: Metric = "cosine",
    temperature: float | None = None,
    device: torch.device | str = "cpu",
    memory: int = MEMORY,
) -> list[Result]:
    """Votes of the k nearest training clips, weighted where there is a `temperature`."""
    found = nearest(train.values, test.values, max(ks), metric=metric, device=device, memory=memory)
    name = WEIGHTED if temperature is not None else NEIGHBOURS
    more = ("" if metric == "cosine" else f", {metric}") + ("" if temperature is None else f", temperature {temperature:g}")
    top1 = accuracies(found, train.labels, test.labels, ks, temperature=temperature)
    return [Result(name, f"k = {k}{more}", "none", (top1[k],)) for k in ks]


def knn_of_bottleneck(
    train: Features,
    test: Features,
    ks: Sequence[int] = (1,),
    *,
    settings: AutoencoderSettings = autoencoder.OFFICIAL,
    seeds: Sequence[int] = (0,),
    device: torch.device | str = "cpu",
) -> list[Result]:
    """The same among what an autoencoder makes of the features, once for each of `seeds`; the setting names its width."""
    rows: list[dict[int, float]] = []
    for seed in seeds:
        keys, queries = bottleneck(train.values, test.values, settings=settings, seed=seed, device=device)
        rows.append(accuracies(nearest(keys, queries, max(ks), device=device), train.labels, test.labels, ks))
    width = settings.widths[-1]
    return [Result(BOTTLENECK, f"k = {k}, {width}-d", "last", tuple(row[k] for row in rows), seeds=tuple(seeds)) for k in ks]


def write_probe_scores(folder: Path, probed: Probed) -> None:
    """The test scores of a probe's last epoch and of the one that was best on these clips, as files that `sal ensemble` fuses.

    Raises `SaveError`.
    """
    for rule, name in FILES.items():
        write_scores(folder / name, probed.selected[rule].scores)
