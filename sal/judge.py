"""`sal judge`, and `sal probe`, `sal knn` and `sal fewshot`, which are it with one protocol: an encoder and its features."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from engine.errors import ConfigError

if TYPE_CHECKING:
    from engine.config import RunConfig
    from engine.downstream.judging import Wishes

VERBS = {"probe": ("linear",), "knn": ("knn",), "fewshot": ("gallery", "prototypes")}
"""Verb -> what it does unless --protocols says another thing."""


def verb(word: str) -> Callable[[list[str]], int]:
    """`sal WORD MODEL --recipe NAME --data F --init ENCODER`: flags of its own, and those of a run, that is of `sal train`."""

    def work(argv: list[str]) -> int:
        named = bool(argv) and not argv[0].startswith("-")
        return _judge(word, argv[0] if named else "", argv[named:])

    return work


def asked(word: str, model: str, argv: Sequence[str]) -> tuple[RunConfig, Wishes]:
    """What the verb `word` is to judge, and how. Raises `ConfigError`."""
    own, rest = _parser(word).parse_known_args(list(argv))
    from engine.config import parse
    from engine.downstream.judging import Wishes

    config = parse(rest, model=model, prog=f"sal {word} MODEL")
    if config.init and config.weights:
        raise ConfigError("an encoder and a whole classifier", where="--init and --weights", expected="one of the two")
    changes = {"lr": own.probe_lr, "batch": own.probe_batch, "epochs": own.probe_epochs, "drops": own.probe_drops}
    wishes = Wishes(
        own.protocols, tuple(own.k), own.temperature, own.probe, own.crops, tuple(own.seeds), tuple(own.shots), own.pretrained_on,
        {name: tuple(value) if name == "drops" else value for name, value in changes.items() if value is not None},
    )  # fmt: skip
    return config, wishes


def _judge(word: str, model: str, argv: Sequence[str]) -> int:
    config, wishes = asked(word, model, argv)
    from engine.downstream.judging import judge
    from engine.downstream.suite import text

    folder, judged = judge(config, wishes, lambda line: print(line, flush=True))
    print(text(judged))
    print(f"record and page: {folder}")
    return 0


def flags() -> list[str]:
    """The flags that are not those of a run."""
    return [flag for action in _parser("judge")._actions for flag in action.option_strings if flag.startswith("--")]


def _parser(word: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"sal {word} MODEL", allow_abbrev=False, description="Judge an encoder by its features. Beside these, the flags of "
        "sal train MODEL (--recipe, --data, --init, --weights, --stream, --device ...); without --init and --weights the encoder "
        "is a fresh one.",
    )  # fmt: skip
    parser.add_argument(
        "--protocols", nargs="+", metavar="NAME", default=VERBS.get(word, ("linear", "knn")), type=str,
        help="linear, knn, bottleneck, gallery, prototypes, one_shot: docs/self-supervised.md",
    )  # fmt: skip
    parser.add_argument("--k", "--knn-neighbours", nargs="+", type=int, default=[1, 2, 5, 10], help="neighbours that vote")
    parser.add_argument("--temperature", type=float, help="weigh the votes by likeness at this temperature")
    parser.add_argument("--probe", default="", help="whose linear probe: isc, scdnet, mamp, usdrl_sttr ... (the model's own)")
    parser.add_argument(
        "--crops", choices=["official", "fixed", "random"], default="official",
        help="what the probe learns from: features made once, or again of new crops in every epoch",
    )  # fmt: skip
    parser.add_argument("--probe-lr", type=float, help="learning rate of the probe, if not its own")
    parser.add_argument("--probe-batch", type=int, help="clips of a step of the probe, if not its own")
    parser.add_argument("--probe-epochs", type=int, help="epochs of the probe, if not its own")
    parser.add_argument("--probe-drops", nargs="*", type=int, help="epochs at which the probe's rate drops, if not its own")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="of probes and autoencoders")
    parser.add_argument("--shots", nargs="+", type=int, default=[1, 2, 5], help="clips of a class, for prototypes")
    parser.add_argument("--pretrained-on", default="", help="ntu60: say that the encoder has seen half of the one-shot classes")
    return parser
