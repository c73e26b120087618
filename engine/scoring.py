"""`--phase test`: scores of given weights, with no training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from engine import assembly
from engine.config import RunConfig
from engine.distributed import World
from engine.environment import describe
from engine.errors import ConfigError
from engine.evaluate import evaluate
from engine.examples import save_examples
from engine.metrics import measure
from engine.report import write_report
from engine.runfolder import FIT, RunFolder
from engine.score_files import LAST, write_scores
from engine.weights import load_weights


def score(config: RunConfig, console: Console, keep: Mapping[str, Any] | None = None, *, world: World | None = None) -> Path:
    """Evaluate `--weights` on the test clips; writes scores, metrics and a report into the run folder and returns it.

    keep    file name -> what the run folder keeps there as JSON, in place of what an earlier test left
    world   the processes that share the clips, of which this is one
    """
    world = world or World()
    if not config.weights:
        raise ConfigError("no weights named", next_step="--weights checkpoints/best.safetensors, or an official .pt file")
    with RunFolder(assembly.work_dir(config), force=config.force, writes=world.first) as folder:
        world.by_first(folder.claim, config)
        _score(config, console, folder, world)
        world.by_first(_keep, folder, keep or {})
    return folder.path


def _score(config: RunConfig, console: Console, folder: RunFolder, world: World) -> None:
    device = assembly.choose_device(config.device)
    data = assembly.load_data(config)
    world.require_same(**config.identity(), clips=assembly.fingerprint(data), device=device.type, torch=torch.__version__)
    model = assembly.build_model(config, data, device)
    weights = Path(str(config.weights))
    kind = world.from_first(lambda: load_weights(weights, model, config.model, trust_pickle=config.trust_pickle))
    world.share(model)
    console.print(f"{config.weights}: {kind} weights of {config.model}, every key used", highlight=False)
    world.by_first(folder.record, config)
    world.by_first(folder.write_json, "env.json", {**describe(), "processes": world.size})
    for remark in assembly.remarks(config, data):
        console.print(f"note: {remark}", highlight=False)
    batches = assembly.test_loader(data, config, device, world)
    scores = evaluate(model, batches, device=device, precision=config.precision, world=world)
    metrics = measure(scores, 0)
    world.by_first(write_scores, folder.path / LAST, scores)
    values = {
        "model": config.model, "recipe": config.recipe, "dataset": data.name, "stream": config.stream,
        "protocol": config.protocol, "selection": {"last": metrics.as_dict()}, "num_classes": data.num_classes,
        "class_names": list(data.class_names), "parameters": sum(p.numel() for p in model.parameters()),
        "clips_train": len(data.train), "clips_test": len(data.test), "weights": config.weights, "weights_kind": kind,
    }  # fmt: skip
    world.by_first(folder.write_json, "metrics.json", values)
    world.by_first(save_examples, folder, data)
    report = world.from_first(lambda: write_report(folder.path))
    console.print(f"top-1 {metrics.top1:.2%}  top-5 {metrics.top5:.2%}  ({len(scores.ids)} clips)", highlight=False)
    console.print(f"report: {report}", highlight=False, soft_wrap=True)


def _keep(folder: RunFolder, keep: Mapping[str, Any]) -> None:
    if FIT not in keep:
        (folder.path / FIT).unlink(missing_ok=True)
    for name, value in keep.items():
        folder.write_json(name, value)
