"""A chain: stages of one model, each what a verb of `sal` does with a recipe, some going on from others' encoders.

A chain is a YAML file in ``models/NAME/chains/``. What a stage came to is recorded, sealed, with its settings and a fingerprint
of its data: a stage that is done is not done again, and one that was cut off goes on by its own states.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from engine import assembly, checkpoint, labelled, models, records
from engine.config import RunConfig
from engine.downstream import suite
from engine.downstream.judging import Wishes
from engine.downstream.results import Published, Result, published_of, result_of
from engine.errors import ConfigError, WorkDirError
from engine.models import ModelCard
from engine.weights import ENCODER
from shared_data.errors import nearest
from shared_data.store import sha256

FOLDER = "chains"
VERBS = ("pretrain", "tune", "judge", "probe", "knn", "fewshot", "finetune", "semi")
"""What a stage can do; the first two leave encoders that later stages go on from."""
MAKERS = VERBS[:2]
JUDGES = ("judge", "probe", "knn", "fewshot")


@dataclass(frozen=True)
class Stage:
    """One step of a chain.

    init      name of the earlier stage whose encoder it goes on from, "" for none
    encoder   which of its encoders, where it leaves several, "" for the only one
    flags     setting -> value, besides those of the recipe
    """

    name: str
    verb: str
    recipe: str
    init: str = ""
    encoder: str = ""
    flags: Mapping[str, Any] = field(default_factory=dict)

    def words(self, folder: Path) -> list[str]:
        """The command line of the verb, in a chain whose stages lie in `folder`; without the model, and data."""
        words = ["--recipe", self.recipe, "--work-dir", str(folder / self.name)]
        if self.init:
            ending = f"_{self.encoder}" if self.encoder else ""
            words += ["--init", str(folder / self.init / f"{ENCODER}{ending}.safetensors")]
        for key, value in self.flags.items():
            words += [f"--{key.replace('_', '-')}", *map(_word, value if isinstance(value, list) else [value])]
        return words


@dataclass(frozen=True)
class Chain:
    """Stages in their order.

    about       the comment on top of the file
    synthetic   sizes of made-up data (`shared_data.synthetic`) for a chain that can do without any file; empty for others
    """

    model: str
    name: str
    stages: tuple[Stage, ...]
    about: str
    synthetic: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """What a stage will do: the settings of its run, and those of an evaluation (None for a training)."""

    stage: Stage
    config: RunConfig
    wishes: Wishes | None


def chains(card: ModelCard) -> dict[str, Path]:
    """Name -> file of the chains of a model."""
    return {path.stem: path for path in sorted((card.folder / FOLDER).glob("*.yaml"))}


def find(title: str) -> Chain:
    """The chain called MODEL/NAME. Raises `ConfigError` with the nearest one, and for a file that is none."""
    model, _, name = title.partition("/")
    known = chains(models.find(model))
    if name not in known:
        raise ConfigError(
            f"{model} has no chain {name!r}{nearest(name, known)}", where=str(models.find(model).folder / FOLDER),
            expected=", ".join(f"{model}/{other}" for other in known) or "a YAML file there",
        )  # fmt: skip
    return read(model, known[name])


def read(model: str, file: Path) -> Chain:
    """Raises `ConfigError` for a file that is no chain, with what is wrong in it."""
    text = file.read_text(encoding="utf-8")
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"no YAML: {error}", where=str(file)) from error
    if not isinstance(found, dict) or not isinstance(found.get("stages"), list) or not set(found) <= {"stages", "synthetic"}:
        raise ConfigError("no chain", where=str(file), expected="a list `stages`, and sizes of made-up data as `synthetic`")
    stages: list[Stage] = []
    for row in found["stages"]:
        stages.append(_stage(row, stages, file))
    about = " ".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
    return Chain(model, file.stem, tuple(stages), about, found.get("synthetic", {}))


def _stage(row: Any, before: Sequence[Stage], file: Path) -> Stage:
    try:
        stage = Stage(**row)
    except TypeError as error:
        raise ConfigError(
            f"no stage of a chain: {row}", where=str(file), expected="name, verb and recipe; init, encoder, flags"
        ) from error
    where = f"{file}, stage {stage.name!r}"
    if not isinstance(stage.name, str) or not re.fullmatch(r"\w+", stage.name) or stage.name in [other.name for other in before]:
        raise ConfigError("its name", where=where, expected="a word that no stage before it has")
    if stage.verb not in VERBS:
        raise ConfigError(f"verb {stage.verb!r}{nearest(str(stage.verb), VERBS)}", where=where, expected=", ".join(VERBS))
    makers = [other.name for other in before if other.verb in MAKERS]
    if stage.init and stage.init not in makers:
        raise ConfigError(
            f"init {stage.init!r}{nearest(stage.init, makers)}", where=where,
            expected=", ".join(makers) or "nothing: no stage before it leaves an encoder",
        )  # fmt: skip
    return stage


def go(chain: Chain, asked: Sequence[Asked], folder: Path, work: Callable[[Asked], None], told: Callable[[str], None]) -> None:
    """Go through the stages that are not done yet, and write the report.

    work   does what a stage asks for, in its folder; it may be one that was cut off
    told   hears what comes
    Raises what a stage raises, and `WorkDirError` where one that is done was done with other settings or data.
    """
    prints: dict[str, int] = {}
    for at, one in enumerate(asked):
        title = f"stage {at + 1} of {len(asked)}, {one.stage.name}"
        file, made_from = folder / f"{one.stage.name}.json", _made_from(one, prints)
        if records.read_record(file, made_from) is not None:
            told(f"{title}: done before")
            continue
        _require_same(file, made_from, one.config.force)
        told(f"{title}: sal {one.stage.verb} {chain.model} --recipe {one.stage.recipe}")
        work(one)
        files, found = _came_to(one)
        records.write_record(file, made_from, [f"{one.stage.name}/{name}" for name in files], found)


def found(chain: Chain, folder: Path) -> dict[str, dict[str, Any]]:
    """Stage name -> what it came to, of those that are done."""
    told = {stage.name: records.read_json(folder / f"{stage.name}.json") for stage in chain.stages}
    return {name: record["found"] for name, record in told.items() if record is not None and records.is_sealed(record)}


def _made_from(asked: Asked, prints: dict[str, int]) -> dict[str, Any]:
    """All that decides what a stage comes to: settings, wishes, clips, and the encoder that it goes on from."""
    config, settings = asked.config, asked.config.identity()
    source = (config.data, config.layout, config.dataset, config.split, config.on_bad)
    if str(source) not in prints:
        prints[str(source)] = assembly.fingerprint(assembly.whole_data(config))
    settings["init"] = weights(Path(config.init)) if config.init else None
    wishes = vars(asked.wishes) if asked.wishes else {}
    return dict(
        records.plain({"verb": asked.stage.verb, "settings": settings, "wishes": _plain(wishes), "clips": prints[str(source)]})
    )


def _require_same(file: Path, made_from: Mapping[str, Any], force: bool) -> None:
    record = records.read_json(file)
    if record is None or force:
        return
    saved, asked = records.flat(record.get("made_from", {})), records.flat(dict(made_from))
    changed = [f"{name}: {saved.get(name)} -> {value}" for name, value in asked.items() if saved.get(name) != value]
    if changed:
        raise WorkDirError(
            "this stage was done with other settings or data (saved -> asked):\n    " + "\n    ".join(changed), where=str(file),
            next_step="give another --work-dir, or --force to do it again",
        )  # fmt: skip


def _came_to(asked: Asked) -> tuple[list[str], dict[str, Any]]:
    """The files of a stage that is done, and what it has to say; no times, which are other ones each time."""
    folder, config = assembly.work_dir(asked.config), asked.config
    if asked.wishes is not None:
        judged = suite.as_json(suite.read(folder))
        return [suite.RECORD], {name: judged[name] for name in ("results", "published", "collapse")}
    metrics = records.read_json(folder / "metrics.json") or {}
    if config.stage != "supervised":
        encoders = {name: weights(folder / name) for name in metrics["encoders"]}
        return list(encoders), {"last": metrics["last"], "clips": metrics["clips_train"], "encoders": encoders}
    results = [result.as_dict() for result in trained(config, metrics)]
    published = [vars(row) for row in published_of_training(config)]
    return ["checkpoints/best.safetensors"], {"results": results, "published": published, "clips": metrics["clips_train"]}


def weights(file: Path) -> str:
    """Fingerprint of the tensors in a file of ours, whatever the order in its header, which is another one each time.

    Of another file, which is no safetensors file, that of its bytes. Raises what reading it raises.
    """
    if file.suffix != ".safetensors":
        return sha256(file)
    tensors, _ = checkpoint.read(file)
    return records.fingerprint({name: records.array_fingerprint(tensor.numpy()) for name, tensor in tensors.items()})


def trained(config: RunConfig, metrics: Mapping[str, Any]) -> list[Result]:
    """What `metrics.json` of a fine-tuned classifier says, as results: of the last epoch, and of the best by its rule."""
    rows = metrics.get("test", metrics["selection"])
    setting = _share(config) or "all labels"
    return [
        Result(
            "fine-tuned", setting, rule, (row["top1"],), (row["top5"],), (config.seed,),
            f"epoch {row['epoch'] + 1} of {config.num_epoch}",
        )
        for rule, row in rows.items()
    ]  # fmt: skip


def published_of_training(config: RunConfig) -> list[Published]:
    """Figures of the model's toml of fine-tuning with as many labels, for the data set, split and stream of `config`."""
    by = f"semi-{_share(config).removesuffix('% of the labels')}" if config.labelled else "finetune"
    wanted = (config.dataset, config.split, config.stream, by)
    rows = models.find(config.model).toml.get("published", [])
    setting = _share(config) or "all labels"
    return [
        Published("fine-tuned", setting, row["top1"] / 100, ", ".join(filter(None, (row.get("variant"), row["source"]))))
        for row in rows
        if (row.get("dataset"), row.get("protocol"), row.get("stream"), row.get("by")) == wanted
    ]


def rows(chain: Chain, done: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """The lines of the table of all results: the stage, and the cells of `suite.TITLES`."""
    lines: list[tuple[str, ...]] = []
    for stage in chain.stages:
        if "results" in (said := done.get(stage.name, {})):
            results, published = tuple(map(result_of, said["results"])), tuple(map(published_of, said["published"]))
            lines += [(stage.name, *row) for row in suite.rows(suite.Judged({}, {}, results, published))]
    return lines


def _share(config: RunConfig) -> str:
    """ "10% of the labels", or "" for all; a list's name where there is one."""
    if not config.labelled:
        return ""
    asked = labelled.asked(config.labelled)
    return f"labels of {asked.name}" if isinstance(asked, Path) else f"{100 * asked[0]:g}% of the labels"


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(records.plain(value)).replace("'", '"') if isinstance(value, dict) else str(value)


def _plain(wishes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, (tuple, list)) else value for name, value in wishes.items()}
