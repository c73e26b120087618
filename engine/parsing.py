"""Command-line parsing with errors that name the nearest right word. Needs no torch."""

from __future__ import annotations

import re
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

from engine.errors import ConfigError
from shared_data.errors import nearest


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
