"""Command-line parsing with errors that name the nearest right word. Needs no torch."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Sequence
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

from engine.errors import ConfigError
from shared_data.errors import nearest


def lists_joined(argv: Sequence[str], flags: Collection[str]) -> list[str]:
    """The numbers behind each of `flags` as one word: ``--step 35 55`` is ``--step=[35,55]``."""
    result: list[str] = []
    rest = list(argv)
    while rest:
        word, *rest = rest
        numbers = list(itertools.takewhile(_is_number, rest)) if word in flags else []
        result.append(f"{word}=[{','.join(numbers)}]" if numbers else word)
        rest = rest[len(numbers) :]
    return result


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


class LabParser(ArgumentParser):
    """An ArgumentParser that raises `ConfigError` (exit 2)."""

    def error(self, message: str, ex: Exception | None = None, **_: Any) -> NoReturn:
        raise ConfigError(self._explain(message), next_step=f"see `{self.prog} --help`")

    def _explain(self, message: str) -> str:
        flags = [option for action in self._actions for option in action.option_strings if option.startswith("--")]
        keys = [flag[2:].replace("-", "_") for flag in flags]
        if flag := re.search(r"unrecognized arguments: (--[\w-]+)", message):
            return f"unknown flag {flag[1]}{nearest(flag[1], flags)}"
        if key := re.search(r"(?:Key|Option) ['\"]([\w.]+)['\"] is not (?:expected|accepted)", message):
            return f"unknown key {key[1]!r} in the config file{nearest(key[1], keys)}"
        value = re.search(r'Parser key "(\w+)":\s*(.*)', message, re.DOTALL)
        if value:
            flag_name = "--" + value[1].replace("_", "-")
            return f"wrong value for {flag_name}: " + re.sub(r"\s+", " ", value[2]).replace("typing.", "")
        return re.sub(r"\s+", " ", message)
