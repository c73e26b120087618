"""One encoder, judged by whichever protocols are asked for: its features are made once, and everything is written down."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from engine import models
from engine.assembly import work_dir
from engine.config import RunConfig
from engine.downstream import evaluations, fewshot, probe, suite
from engine.downstream.collapse import collapse
from engine.downstream.encoders import Encoder, opened
from engine.downstream.features import Features, together
from engine.downstream.results import Published, Result
from engine.errors import ConfigError, WorkDirError
from engine.records import read_json
from shared_data.datasets import honest
from shared_data.errors import require_known

Protocol = Literal["knn", "bottleneck", "linear", "gallery", "prototypes", "one_shot"]
PROTOCOLS: dict[Protocol, str] = {
    "knn": "votes of the nearest training clips",
    "bottleneck": "the same among 125 numbers that an autoencoder makes of the features (Skeleton-Contrastive)",
    "linear": "a linear layer that learns from the features",
    "gallery": "NTU-120's actions A61 to A120: neighbours among their training clips",
    "prototypes": "the same actions from a few clips of each",
    "one_shot": "the official one-shot protocol of NTU-120",
}


@dataclass(frozen=True)
class Wishes:
    """How to judge.

    protocols   which
    ks          neighbours that vote, or are among those retrieved
    temperature of weighted votes; None: each counts as much
    probe       settings of the linear probe, by the name of a protocol in `probe.OFFICIAL`
    crops       "fixed": features made once; "random": encoded again each epoch; "official": as the probe's protocol has it
    seeds       of probes and bottlenecks
    shots       training clips of a class, for prototypes
    changes     settings of the linear probe (`probe.ProbeSettings`) that are not those of its protocol
    """

    protocols: Sequence[Protocol]
    ks: tuple[int, ...] = (1, 2, 5, 10)
    temperature: float | None = None
    probe: str = ""
    crops: Literal["official", "fixed", "random"] = "official"
    seeds: tuple[int, ...] = (0,)
    shots: tuple[int, ...] = (1, 2, 5)
    pretrained_on: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.protocols:
            require_known("protocols", name, list(PROTOCOLS))


def judge(config: RunConfig, wishes: Wishes, told: Callable[[str], None] = lambda _: None) -> tuple[Path, suite.Judged]:
    """Judge the encoder that `config` names; returns the folder with the record, its table and its page, and what it says.

    told   hears what is being done
    """
    encoder = opened(config)
    folder = _prepared(encoder, wishes)
    told(f"encoding {len(encoder.data.train)} and {len(encoder.data.test)} clips")
    train, test = encoder.features("train"), encoder.features("test")
    results: list[Result] = []
    for protocol in wishes.protocols:
        told(protocol)
        results += _found(protocol, encoder, wishes, train=train, test=test, folder=folder)
    judged = suite.Judged(
        {
            "model": config.model, "weights": encoder.source or f"start weights of seed {config.seed}", "sha256": encoder.sha256,
            "model_args": encoder.config.model_args, "width": int(train.values.shape[1]),
        },
        {
            "data": encoder.data.name, "split": config.split, "stream": config.stream, "recipe": config.recipe,
            "pipeline": config.pipeline, "clips": [len(train), len(test)],
        },
        tuple(results), published(encoder.config), suite.collapse_told(collapse(train.values)) if len(train) > 1 else None,
    )  # fmt: skip
    suite.write(folder, judged)
    return folder, judged


def _prepared(encoder: Encoder, wishes: Wishes) -> Path:
    """The folder of the evaluation, made; whatever can be seen to be wrong without features is refused before any are made."""
    clips, folder = len(encoder.data.train), folder_of(encoder)
    if "linear" in wishes.protocols:
        require_known("probe", wishes.probe or default_probe(encoder.config), list(probe.OFFICIAL))
    if "knn" in wishes.protocols and max(wishes.ks) > clips:
        raise ConfigError(
            f"{max(wishes.ks)} neighbours among {clips} training clips", where="--k", next_step=f"--k 1 ... {clips}"
        )
    there = read_json(folder / suite.RECORD)
    if there and there["encoder"].get("sha256") != encoder.sha256 and not encoder.config.force:
        raise WorkDirError(
            "the evaluation of another encoder is here",
            where=str(folder),
            next_step="another --work-dir, or --force",
        )
    if (folder / "config.yaml").exists():
        raise WorkDirError(
            "this is the folder of a run", where=str(folder), next_step="give the evaluation a --work-dir of its own"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkDirError(f"the folder cannot be made: {error.strerror}", where=str(folder)) from error
    return folder


def folder_of(encoder: Encoder) -> Path:
    """Where an evaluation goes: the work folder named, or MODEL/RECIPE_STREAM_judged_WEIGHTS where runs go."""
    config = encoder.config
    if config.work_dir:
        return Path(config.work_dir)
    usual = work_dir(config)
    return usual.with_name(f"{usual.name}_judged_{encoder.sha256[:8] if encoder.source else f'start_{config.seed}'}")


def published(config: RunConfig) -> tuple[Published, ...]:
    """Figures of the model's toml, by a protocol of the suite, for the data set, split and stream of `config`.

    Those of an official variant (USDRL's "sttr" and "dste") only for a classifier that is it.
    """
    wanted, toml = (config.dataset, config.split, config.stream), models.find(config.model).toml
    own = list(config.model_args.values())
    others = [value for args in toml.get("official_variants", {}).values() for value in args.values() if value not in own]
    rows = [row for row in toml.get("published", []) if row.get("by") in ("linear", "knn") and row.get("variant") not in others]
    rows = [row for row in rows if (row.get("dataset"), row.get("protocol"), row.get("stream")) == wanted]
    words = {"knn": (evaluations.NEIGHBOURS, "k = 1")}
    with contextlib.suppress(ConfigError):  # which of several probes it was is not known
        words["linear"] = (evaluations.LINEAR, default_probe(config))
    return tuple(
        Published(*words[row["by"]], row["top1"] / 100, _source(row), row.get("rule")) for row in rows if row["by"] in words
    )


def _source(row: Mapping[str, Any]) -> str:
    doubt = "from memory, not checked" if row.get("approximate") else ""
    return ", ".join(filter(None, (row.get("variant"), row["source"], doubt)))


def _found(
    protocol: Protocol, encoder: Encoder, wishes: Wishes, *, train: Features, test: Features, folder: Path
) -> Sequence[Result]:
    device: Any = encoder.device
    if protocol == "knn":
        return evaluations.knn(train, test, wishes.ks, temperature=wishes.temperature, device=device)
    if protocol == "bottleneck":
        return evaluations.knn_of_bottleneck(train, test, (1,), seeds=wishes.seeds, device=device)
    if protocol == "gallery":
        return fewshot.novel_gallery(train, test, wishes.ks, device=device)
    if protocol == "prototypes":
        return [fewshot.prototypes(train, test, shots) for shots in wishes.shots]
    if protocol == "one_shot":
        return [fewshot.one_shot(together(train, test), pretrained_on=wishes.pretrained_on)]
    name = wishes.probe or default_probe(encoder.config)
    require_known("probe", name, list(probe.OFFICIAL))
    own = probe.OFFICIAL[name]
    settings = dataclasses.replace(own, **wishes.changes)
    new = {key: value for key, value in wishes.changes.items() if value != getattr(own, key)}
    changed = [f"{key} {' '.join(map(str, value)) if isinstance(value, tuple) else value}" for key, value in new.items()]
    random = settings.random_crops if wishes.crops == "official" else wishes.crops == "random"
    validation = None
    if encoder.config.protocol == "honest":
        validation = np.flatnonzero(np.isin(train.ids, honest(encoder.data).test.ids))
    probed = probe.probe(
        train, test, encoder.data.num_classes, settings, seeds=wishes.seeds, validation=validation,
        each_epoch=encoder.each_epoch() if random else None, device=device,
    )  # fmt: skip
    evaluations.write_probe_scores(folder, probed[0])
    crops = [] if random == settings.random_crops else ["random crops" if random else "fixed crops"]
    return evaluations.linear(probed, ", ".join([name, *crops, *changed]))


def default_probe(config: RunConfig) -> str:
    """The probe of the model's own protocol. Raises `ConfigError` for a model that has none, or one for each part of the data."""
    variants = {f"{config.model}_{value}" for value in config.model_args.values() if isinstance(value, str)}
    parts = [name for name in probe.OFFICIAL if name.startswith(f"{config.model}_pku")]
    if parts and config.dataset.startswith("pku"):
        raise ConfigError("the parts of PKU-MMD have probes of their own", where="--probe", expected=", ".join(parts))
    for name in probe.OFFICIAL:
        if name == config.model or name in variants:
            return name
    found = next((name for name in probe.OFFICIAL if name.startswith(config.model)), None)
    if found is None:
        raise ConfigError(
            f"{config.model} has no linear probe of its own", where="--probe", expected=", ".join(probe.OFFICIAL)
        )  # fmt: skip
    return found
