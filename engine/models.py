"""Finding models: a folder under `models/` with a `model.toml` is a model, and nothing else lists them.

A model is of one kind: a classifier of clips or a segmenter of sequences, which this module also builds, or a zero-shot system
(`engine.zeroshot`).

Listing needs no torch; building imports the model's own modules.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, cast

from engine.errors import ConfigError
from shared_data.errors import LabError, nearest, require
from shared_data.skeletons import skeleton as skeleton_named

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from torch import nn

    from engine.official import OfficialNames
    from shared_data.skeletons import Skeleton

MODELS_VARIABLE = "SAL_MODELS"
Kind = Literal["classifier", "segmenter", "zeroshot"]
Stage = Literal["supervised", "pretrain", "tune", "segment"]
STAGES: dict[Stage, tuple[str, str]] = {
    "supervised": ("recipes", "entry"), "pretrain": ("pretrain", "pretraining"), "tune": ("tune", "tuning"),
    "segment": ("segment", "entry"),
}  # fmt: skip
"""What is trained: a classifier; an encoder without labels, or one that is pretrained, further; a network that segments
sequences, its own or a head on a classifier's encoder. The folder of its recipes in the model's, and the key of its class."""
KINDS: dict[Kind, tuple[str, str]] = {
    "classifier": ("a classifier of clips", "sal train {0} and sal test {0} are for it"),
    "segmenter": ("a network that segments untrimmed sequences", "sal segment train {0} and sal segment test {0} are for it"),
    "zeroshot": ("a zero-shot system", "sal zeroshot run --model {0} is for it"),
}
"""What a kind is called, and which verbs are for a model of it."""
REQUIRED: dict[Kind, tuple[str, ...]] = {
    "classifier": ("title", "entry", "status"), "segmenter": ("title", "entry", "status"), "zeroshot": ("title", "status"),
}  # fmt: skip
_WORDS: dict[Stage, str] = {
    "supervised": "model_args", "segment": "model_args", "pretrain": "objective_args", "tune": "objective_args",
}  # fmt: skip
DATA_DECIDE = ("num_classes", "skeleton", "people")  # arguments that every model takes and no recipe sets
COUNTS = ("num_classes", "people", "in_channels")  # arguments that are whole numbers from 1 in every model that takes them
RATES = ("dropout", "drop_path")


class ModelError(LabError):
    """A model folder that cannot be used as it is: a fault of the folder, not of the user's data."""

    exit_code = 78


@dataclass(frozen=True)
class ModelCard:
    """One model, as its `model.toml` describes it.

    name    folder name = command name = image tag
    folder  models/<name>
    toml    the parsed file
    """

    name: str
    folder: Path
    toml: Mapping[str, Any]

    @property
    def title(self) -> str:
        return str(self.toml["title"])

    @property
    def kind(self) -> Kind:
        """What it is; a toml that says nothing is of a classifier."""
        return cast(Kind, self.toml.get("kind", "classifier"))

    @property
    def status(self) -> str:
        """ "verified" (parity with the official code is tested) or "experimental"."""
        return str(self.toml["status"])

    @property
    def recipes(self) -> dict[str, Path]:
        """Recipe name -> its YAML file, of those that train a classifier."""
        return self.recipes_of("supervised")

    def recipes_of(self, stage: Stage) -> dict[str, Path]:
        """Recipe name -> its YAML file, of those of a `stage`."""
        return {path.stem: path for path in sorted((self.folder / STAGES[stage][0]).glob("*.yaml"))}

    def require_stage(self, stage: Stage) -> None:
        """Raises `ConfigError` unless the toml names a class for `stage`."""
        key = STAGES[stage][1]
        if key not in self.toml:
            able = [name for name, card in discover().items() if key in card.toml]
            raise ConfigError(
                f"{self.name} has nothing to {stage} with", where=str(self.folder / "model.toml"),
                expected=", ".join(able) or "a model whose model.toml names an objective",
            )  # fmt: skip

    def unused_parameters(self, names: Iterable[str]) -> set[str]:
        """Those of `names` that the toml lists (fnmatch patterns) as parameters which never get a gradient."""
        return {name for name in names for pattern in self.toml.get("unused_parameters", []) if fnmatch(name, pattern)}

    def recipe(self, name: str, stage: Stage = "supervised") -> Path:
        """The file of recipe `name`; raises `ConfigError` naming the nearest one."""
        recipes = self.recipes_of(stage)
        if name not in recipes:
            raise ConfigError(
                f"{self.name} has no recipe {name!r}{nearest(name, recipes)}",
                where=str(self.folder / STAGES[stage][0]),
                expected=", ".join(recipes) or "a YAML file there",
            )
        return recipes[name]


def models_folder() -> Path:
    """The folder of the models: beside this package, or where SAL_MODELS points."""
    return Path(os.environ.get(MODELS_VARIABLE) or Path(__file__).resolve().parent.parent / "models").resolve()


def discover(kind: Kind | None = "classifier") -> dict[str, ModelCard]:
    """All models of a `kind` by name, in alphabetical order; None: of every kind.

    Raises `ModelError` for a `model.toml` that cannot be used.
    """
    cards = (_read_card(path) for path in sorted(models_folder().glob("*/model.toml")))
    return {card.name: card for card in cards if kind in (None, card.kind)}


def find(name: str, kind: Kind | None = "classifier") -> ModelCard:
    """The model called `name`, which must be of that `kind` unless it is None.

    Raises `ConfigError`, naming the nearest model or the verbs that are for this one.
    """
    cards = discover(None)
    offered = {other: card for other, card in cards.items() if kind in (None, card.kind)}
    if name not in cards:
        raise ConfigError(
            f"there is no model {name!r}{nearest(name, cards)}",
            where=str(models_folder()),
            expected=", ".join(offered) or "a folder with a model.toml",
        )
    if name not in offered:
        called, verbs = KINDS[cards[name].kind]
        raise ConfigError(
            f"{name} is {called}", where=str(cards[name].folder), expected=", ".join(offered), next_step=verbs.format(name)
        )
    return cards[name]


def find_for(name: str, stage: Stage) -> ModelCard:
    """The model called `name`, of a kind that can be trained in `stage`; raises as `find`."""
    if stage == "segment" and find(name, None).kind == "segmenter":
        return find(name, "segmenter")
    return find(name)


def find_official(name: str, kind: Kind | None = "classifier") -> tuple[ModelCard, dict[str, Any]]:
    """The model of a `kind` that official numbers under `name` are of, and the arguments that stand for that official class.

    A model whose official code has several classes lists them in its toml: ``[official_variants] name = { size = "base" }``.
    """
    for card in discover(kind).values():
        variants = card.toml.get("official_variants", {})
        if name in variants:
            return card, dict(variants[name])
    return find(name, kind), {}


def build(card: ModelCard, *, num_classes: int, skeleton: str | Skeleton, people: int, **model_args: Any) -> nn.Module:
    """The network of `card` on the CPU, freshly initialised.

    Raises `UsageError` for an argument that the model does not take and for a value that it cannot be built with.
    """
    return _made(card, "supervised", {"num_classes": num_classes, "skeleton": _layout(skeleton), "people": people}, model_args)


def build_objective(card: ModelCard, stage: Stage, *, skeleton: str | Skeleton, people: int, **given: Any) -> nn.Module:
    """The objective (`engine.pretraining.objective`) by which `card` learns in `stage`, on the CPU, freshly initialised.

    Raises `ConfigError` where it has none, and what `build` raises.
    """
    card.require_stage(stage)
    return _made(card, stage, {"skeleton": _layout(skeleton), "people": people}, given)


def _layout(skeleton: str | Skeleton) -> Skeleton:
    return skeleton_named(skeleton) if isinstance(skeleton, str) else skeleton


def _made(card: ModelCard, stage: Stage, taken: dict[str, Any], model_args: dict[str, Any]) -> nn.Module:
    """An object of the class for `stage`, from what the data decide (`taken`) and what the user may choose."""
    entry = entry_class(card, stage)
    hints = typing.get_type_hints(inspect.getattr_static(entry, "__init__"))
    parameters = {k: p for k, p in inspect.signature(entry).parameters.items() if p.kind is not p.VAR_KEYWORD}
    for key, value in model_args.items():
        if key not in parameters:
            raise _not_taken(card, key, stage=stage)
        _check_type(card, key, value, hints.get(key))
    try:
        for key, value in {**taken, **model_args}.items():
            _check_range(key, value)
        network: nn.Module = entry(**taken, **model_args)
    except (ArithmeticError, TypeError, ValueError) as error:
        if not model_args:  # nothing that a user chose: a fault of the model, to be seen with its traceback
            raise
        raise ConfigError(
            f"{card.name} cannot be built: {error}",
            where=f"{_WORDS[stage]}: " + ", ".join(f"{key} {value!r}" for key, value in model_args.items()),
            expected=f"values that {card.title} works with, see {card.folder / 'README.md'}",
        ) from error
    return network


def arguments(card: ModelCard, stage: Stage = "supervised") -> list[str]:
    """The keywords that the class of `card` for `stage` takes."""
    return [name for name, p in inspect.signature(entry_class(card, stage)).parameters.items() if p.kind is not p.VAR_KEYWORD]


def translated(card: ModelCard, given: Mapping[str, Any]) -> dict[str, Any]:
    """Model arguments in our words, where some of the `given` ones are the official constructor's.

    A word of both vocabularies is read as the official one if an official word stands beside it. What the official arguments do
    not say keeps our default. Raises `UsageError` for a word of neither and for official arguments that do not fit each other.
    """
    ours = arguments(card)
    foreign = [key for key in given if key not in ours]
    if not foreign:
        return dict(given)
    names = official_module(card) if (card.folder / "official.py").exists() else None
    known = names.known if names else {}
    unknown = [key for key in foreign if key not in known]
    if names is None or unknown:
        raise _not_taken(card, unknown[0], known)
    official = {key: value for key, value in given.items() if key in known}
    said = {known[key] for key in official}
    own = {key: value for key, value in given.items() if key not in known}
    return own | {key: value for key, value in names.constructor(official).items() if key in said}


def entry_class(card: ModelCard, stage: Stage = "supervised") -> type:
    """The class that the model's toml names for `stage`: by `entry` ("network:CTRGCN"), `pretraining` or `tuning`."""
    key = STAGES[stage][1]
    module, _, name = str(card.toml[key]).partition(":")
    found = getattr(import_module(card, module), name, None)
    if not isinstance(found, type):
        raise ModelError(
            f"{key} {card.toml[key]!r} names no class", where=str(card.folder / "model.toml"), expected="module:Class"
        )
    return found


def official_module(card: ModelCard) -> OfficialNames:
    """The official names of `card`, from its `official.py`."""
    from engine.official import OfficialNames

    module = import_module(card, "official")
    unused, allowance = tuple(getattr(module, "UNUSED", ())), getattr(module, "allowance", lambda arguments: None)
    entries = getattr(module, "encoder_entries", None)
    return OfficialNames(card.title, module.table, module.constructor, module.KNOWN, unused, allowance, entries)


def import_module(card: ModelCard, module: str) -> ModuleType:
    """``models.<name>.<module>`` from the folder of `card`, also when that folder is not beside this package."""
    models = importlib.import_module("models")
    parent, name = str(card.folder.parent), f"models.{card.name}"
    models.__path__ = [parent, *(p for p in models.__path__ if p != parent)]  # the folder asked for wins where two hold the model
    loaded = sys.modules.get(name)
    if loaded is not None and str(card.folder) not in list(getattr(loaded, "__path__", [])):
        for stale in [key for key in sys.modules if key == name or key.startswith(f"{name}.")]:
            del sys.modules[stale]
    importlib.invalidate_caches()
    try:
        return importlib.import_module(f"{name}.{module}")
    except ModuleNotFoundError as error:
        if error.name != f"{name}.{module}":
            raise
        raise ModelError(f"{card.name} has no {module}.py", where=str(card.folder)) from error


def _read_card(path: Path) -> ModelCard:
    try:
        toml = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ModelError(f"cannot read the model description: {error}", where=str(path), expected="TOML") from error
    kind = toml.get("kind", "classifier")
    if kind not in list(KINDS):
        raise ModelError(f"kind = {kind!r}", where=str(path), expected=", ".join(KINDS))
    required = REQUIRED[kind]
    if absent := [key for key in required if key not in toml]:
        raise ModelError(f"{', '.join(absent)} missing", where=str(path), expected=", ".join(required))
    return ModelCard(path.parent.name, path.parent, toml)


def _not_taken(card: ModelCard, key: str, official: Iterable[str] = (), *, stage: Stage = "supervised") -> ConfigError:
    """That `key` is no argument of the model, neither in our words nor in the `official` ones."""
    offered = [name for name in arguments(card, stage) if name not in DATA_DECIDE]
    return ConfigError(
        f"{card.name} takes no model argument {key!r}{nearest(key, [*offered, *official])}",
        where=_WORDS[stage],
        expected=", ".join(offered) or "no arguments",
    )


def _check_range(key: str, value: Any) -> None:
    """What these names mean in every model; a model's own arguments are the model's to check."""
    if key in COUNTS:
        require(value >= 1, key, value, "1 or more")
    if key in RATES:
        require(0 <= value < 1, key, value, "a rate, 0 or more and below 1")


def _check_type(card: ModelCard, key: str, value: object, hint: object) -> None:
    """Plain annotations (int, float, bool, str) are held; anything else is left to the class."""
    allowed = {int: (int,), float: (int, float), bool: (bool,), str: (str,)}.get(typing.cast(type, hint))
    if allowed and (not isinstance(value, allowed) or (isinstance(value, bool) and hint is not bool)):
        raise ConfigError(
            f"model argument {key} of {card.name} is {value!r}",
            where="model_args",
            expected=getattr(hint, "__name__", str(hint)),
        )
