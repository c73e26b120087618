"""Input pipelines by name: one per official reader. `pipeline("ctrgcn_ntu", stream="b")` is all a caller needs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

from shared_data.errors import UsageError, nearest
from shared_data.pipelines.contract import Pipeline, Positioned, options_of, rows_of
from shared_data.pipelines.downstream import DownstreamOptions
from shared_data.pipelines.hypergcn import HypergcnNtu, HypergcnOptions
from shared_data.pipelines.isc import isc_downstream, isc_pretrain
from shared_data.pipelines.msg3d import Msg3dNtu, Msg3dOptions
from shared_data.pipelines.ntu import CtrgcnNtu, MampOptions, NtuDraws, NtuOptions
from shared_data.pipelines.scdnet import scdnet_downstream, scdnet_pretrain
from shared_data.pipelines.skateformer import SkateformerNtu
from shared_data.pipelines.skateformer_plan import SkateformerNtuOptions
from shared_data.pipelines.skateformer_ucla import SkateformerUcla, SkateformerUclaOptions
from shared_data.pipelines.ucla import CtrgcnUcla, DroppingUclaOptions, UclaDraws, UclaOptions
from shared_data.pipelines.usdrl import usdrl_downstream, usdrl_pretrain
from shared_data.pipelines.views import ViewOptions

# name -> (options dataclass, builder); a new pipeline is one line here
PIPELINES: dict[str, tuple[type, Callable[[Any], Pipeline]]] = {
    "ctrgcn_ntu": (NtuOptions, CtrgcnNtu),
    "freqmixformer_ntu": (NtuOptions, partial(CtrgcnNtu, name="freqmixformer_ntu")),
    "mamp_ntu": (MampOptions, partial(CtrgcnNtu, name="mamp_ntu")),
    "hypergcn_ntu": (HypergcnOptions, HypergcnNtu),
    "skateformer_ntu": (SkateformerNtuOptions, SkateformerNtu),
    "msg3d_ntu": (Msg3dOptions, Msg3dNtu),
    "ctrgcn_ucla": (UclaOptions, CtrgcnUcla),
    "freqmixformer_ucla": (UclaOptions, partial(CtrgcnUcla, name="freqmixformer_ucla")),
    "hypergcn_ucla": (DroppingUclaOptions, partial(CtrgcnUcla, name="hypergcn_ucla")),
    "skateformer_ucla": (SkateformerUclaOptions, SkateformerUcla),
    "isc_pretrain": (ViewOptions, isc_pretrain),
    "isc_downstream": (DownstreamOptions, isc_downstream),
    "scdnet_pretrain": (ViewOptions, scdnet_pretrain),
    "scdnet_downstream": (DownstreamOptions, scdnet_downstream),
    "usdrl_pretrain": (ViewOptions, usdrl_pretrain),
    "usdrl_downstream": (DownstreamOptions, usdrl_downstream),
}


def pipeline(name: str, **options: Any) -> Pipeline:
    """The pipeline called `name` with its options. Raises `UsageError` naming the nearest known pipeline or option."""
    kind, build = _entry(name)
    return build(options_of(kind, name, options))


def option_names(name: str) -> tuple[str, ...]:
    """The options that the pipeline called `name` has. Raises `UsageError` naming the nearest known pipeline."""
    return tuple(field.name for field in dataclasses.fields(_entry(name)[0]))


def _entry(name: str) -> tuple[type, Callable[[Any], Pipeline]]:
    if name not in PIPELINES:
        raise UsageError(f"unknown pipeline {name!r}{nearest(name, PIPELINES)}", expected=", ".join(PIPELINES))
    return PIPELINES[name]


__all__ = [
    "PIPELINES",
    "NtuDraws",
    "NtuOptions",
    "Pipeline",
    "Positioned",
    "UclaDraws",
    "UclaOptions",
    "option_names",
    "pipeline",
    "rows_of",
]
