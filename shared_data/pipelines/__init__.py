"""Input pipelines by name: one per official reader. `pipeline("ctrgcn_ntu", stream="b")` is all a caller needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shared_data.errors import UsageError, nearest
from shared_data.pipelines.contract import Pipeline, options_of, rows_of
from shared_data.pipelines.ntu import CtrgcnNtu, NtuDraws, NtuOptions
from shared_data.pipelines.ucla import CtrgcnUcla, UclaDraws, UclaOptions

# name -> (options dataclass, builder); a new pipeline is one line here
PIPELINES: dict[str, tuple[type, Callable[[Any], Pipeline]]] = {
    "ctrgcn_ntu": (NtuOptions, CtrgcnNtu),
    "ctrgcn_ucla": (UclaOptions, CtrgcnUcla),
}


def pipeline(name: str, **options: Any) -> Pipeline:
    """The pipeline called `name` with its options. Raises `UsageError` naming the nearest known pipeline or option."""
    if name not in PIPELINES:
        raise UsageError(f"unknown pipeline {name!r}{nearest(name, PIPELINES)}", expected=", ".join(PIPELINES))
    kind, build = PIPELINES[name]
    return build(options_of(kind, name, options))


__all__ = [
    "PIPELINES",
    "NtuDraws",
    "NtuOptions",
    "Pipeline",
    "UclaDraws",
    "UclaOptions",
    "pipeline",
    "rows_of",
]
