"""A function's signature as its command line: required parameters are words, the others flags, a bool is a switch."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

from engine.parsing import LabParser


def call(function: Callable[..., int], argv: list[str], prog: str) -> int:
    """Parse `argv` by the signature and docstring of `function` (``name: text`` lines under ``Args:``) and call it."""
    return function(**vars(parser(function, prog).parse_args(argv)))


def parser(function: Callable[..., int], prog: str) -> LabParser:
    text = inspect.getdoc(function) or ""
    helps = dict(re.findall(r"^ {4}(\w+): (.+)$", text, re.MULTILINE))
    result = LabParser(prog=prog, description=text.split("\n\nArgs:")[0])
    hints = get_type_hints(function)
    for name, parameter in inspect.signature(function).parameters.items():
        hint, default, said = hints[name], parameter.default, helps[name]
        options: dict[str, Any] = {"help": said}
        if hint is bool:
            options |= {"action": "store_true"}
        elif default is inspect.Parameter.empty:
            options |= {"type": Path, "nargs": "+"} if hint == list[Path] else {"type": hint}
        else:
            options |= {"type": hint, "default": default}
        result.add_argument(name if default is inspect.Parameter.empty else "--" + name.replace("_", "-"), **options)
    return result
