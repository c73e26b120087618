"""`sal recipe run MODEL/CHAIN` and `sal recipe list`: chains of stages, from pretraining to one table of all evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import ConfigError
from sal import judge, train
from shared_data.errors import nearest

if TYPE_CHECKING:
    from engine.downstream.chain import Asked, Chain, Stage
    from engine.models import Stage as Learns

WORDS = ("run", "list")


def run(argv: list[str]) -> int:
    """`sal recipe`, with the words behind it."""
    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__)
        print("\nusage: sal recipe run MODEL/CHAIN --data F [--work-dir D] [flags of sal train for all stages]")
        print("                                  [--STAGE.FLAG VALUE: for one stage alone]\n       sal recipe list [MODEL]")
        return 0
    word, *rest = argv
    if word not in WORDS:
        raise ConfigError(f"no verb {word!r}{nearest(word, WORDS)}", where="sal recipe", expected=", ".join(WORDS))
    return _list(rest) if word == "list" else _run(rest)


def _list(argv: Sequence[str]) -> int:
    from engine import models
    from engine.downstream import chain

    cards = [models.find(name) for name in argv] or list(models.discover().values())
    for card in cards:
        for file in chain.chains(card).values():
            of = chain.read(card.name, file)
            print(f"{card.name}/{of.name}: {' -> '.join(stage.name for stage in of.stages)}\n    {of.about}")
    return 0


def _run(argv: Sequence[str]) -> int:
    if not argv or argv[0].startswith("-"):
        raise ConfigError("no chain named", next_step="sal recipe run MODEL/CHAIN --data F; `sal recipe list` has them")
    from engine import distributed, environment
    from engine.downstream import chain, chain_report

    of = chain.find(argv[0])
    distributed.require_alone("sal recipe run", "its evaluations are of one process", "each stage by its own verb")
    given = _grouped(argv[1:])
    folder = Path(_taken(given, "--work-dir") or environment.work_dir() / of.model / f"{of.name}_chain")
    if of.synthetic and not any(group[0].partition("=")[0] == "--data" for group in given):
        given.append(["--data", str(_made_up(of, folder))])
    words = {stage.name: [*stage.words(folder), *_for(stage, of, given)] for stage in of.stages}
    asked = [_asked(of, stage, words[stage.name]) for stage in of.stages]

    def work(one: Asked) -> None:
        _work(of, one.stage, words[one.stage.name])

    chain.go(of, asked, folder, work, lambda line: print(line, flush=True))
    print(chain_report.write(folder, of))
    print(f"record and page: {folder / chain_report.RECORD}, {folder / chain_report.PAGE}")
    return 0


def _asked(of: Chain, stage: Stage, words: list[str]) -> Asked:
    """What a stage will do, known before the first one begins. Raises `ConfigError` for flags and recipes that are none."""
    from engine.config import parse
    from engine.downstream.chain import JUDGES, Asked

    if stage.verb in JUDGES:
        config, wishes = judge.asked(stage.verb, of.model, words)
        return Asked(stage, config, wishes)
    return Asked(stage, parse(words, model=of.model, phase="train", prog=f"sal {stage.verb} MODEL", stage=_learns(stage)), None)


def _work(of: Chain, stage: Stage, words: list[str]) -> None:
    from engine.downstream.chain import JUDGES

    if stage.verb in JUDGES:
        judge.verb(stage.verb)([of.model, *words])
    else:
        train.launch(words, model=of.model, phase="train", prog=f"sal {stage.verb} MODEL", stage=_learns(stage))


def _learns(stage: Stage) -> Learns:
    return "pretrain" if stage.verb == "pretrain" else "tune" if stage.verb == "tune" else "supervised"


def _made_up(of: Chain, folder: Path) -> Path:
    """The chain's own made-up data in its folder, made unless they are there."""
    from shared_data.synthetic import write_synthetic

    file = folder / "synthetic.npz"
    if not file.exists():
        print(f"no --data: made-up clips in {file}", flush=True)
        write_synthetic(file, **dict[str, Any](of.synthetic))
    return file


def _grouped(argv: Sequence[str]) -> list[list[str]]:
    """Each flag with the words behind it."""
    groups: list[list[str]] = []
    for word in argv:
        if word.startswith("--") or not groups:
            groups.append([word])
        else:
            groups[-1].append(word)
    return groups


def _taken(groups: list[list[str]], flag: str) -> str:
    """The value of `flag`, which is taken out of `groups`; "" where it is not given."""
    for group in groups:
        name, _, value = group[0].partition("=")
        if name == flag:
            groups.remove(group)
            return value or " ".join(group[1:])
    return ""


def _for(stage: Stage, of: Chain, groups: Sequence[Sequence[str]]) -> list[str]:
    """The words for `stage`: those for all, then its own."""
    own = f"--{stage.name}."
    others = tuple(f"--{other.name}." for other in of.stages)
    common = [word for group in groups if not group[0].startswith(others) for word in group]
    return common + [
        word for group in groups if group[0].startswith(own) for word in (f"--{group[0].removeprefix(own)}", *group[1:])
    ]
