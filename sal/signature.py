"""A function's signature as its command line.

Required parameters are words, those after ``*`` required flags, the others flags; a bool is a switch. A parameter before ``/``
that has a default is a word that may be left out.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

from engine.parsing import LabParser


def call(function: Callable[..., int], argv: list[str], prog: str) -> int:
    """Parse `argv` by the signature and docstring of `function` (``name: text`` lines under ``Args:``) and call it.

    A parameter that is a dataclass stands for flags that several verbs share: one for each of its fields.
    """
    given = vars(parser(function, prog).parse_args(argv))
    for name, hint in _parameters(function).items():
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            given[name] = hint(**{field.name: given.pop(field.name) for field in dataclasses.fields(hint)})
    optional = [name for name, p in inspect.signature(function).parameters.items() if p.kind is p.POSITIONAL_ONLY]
    words = [given.pop(name) for name in optional]
    return function(*words, **given)


def parser(function: Callable[..., int], prog: str) -> LabParser:
    result = LabParser(prog=prog, description=(inspect.getdoc(function) or "").split("\n\nArgs:")[0])
    hints = _parameters(function)
    for name, parameter in inspect.signature(function).parameters.items():
        if dataclasses.is_dataclass(hints[name]):
            shared = get_type_hints(hints[name])
            for field in dataclasses.fields(hints[name]):
                _add(result, field.name, shared[field.name], field.default, _said(hints[name])[field.name])
        elif parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            result.add_argument(name, type=hints[name], nargs="?", default=parameter.default, help=_said(function)[name])
        elif parameter.default is not inspect.Parameter.empty:
            _add(result, name, hints[name], parameter.default, _said(function)[name])
        elif parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            result.add_argument(_flag(name), type=hints[name], required=True, help=_said(function)[name])
        elif hints[name] == list[Path]:
            result.add_argument(name, type=Path, nargs="+", help=_said(function)[name])
        else:
            result.add_argument(name, type=hints[name], help=_said(function)[name])
    return result


def _parameters(function: Callable[..., int]) -> dict[str, Any]:
    hints = get_type_hints(function)
    return {name: hints[name] for name in inspect.signature(function).parameters}


def _said(documented: Any) -> dict[str, str]:
    """The ``name: text`` lines of a docstring."""
    return dict(re.findall(r"^ {4}(\w+): (.+)$", inspect.getdoc(documented) or "", re.MULTILINE))


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _add(result: LabParser, name: str, hint: Any, default: Any, text: str) -> None:
    if hint is bool:
        result.add_argument(_flag(name), action="store_true", help=text)
    else:
        result.add_argument(_flag(name), type=hint, default=default, help=text)
