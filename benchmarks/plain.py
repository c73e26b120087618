"""The plain networks: `tests/models/M/naive.py`, written from the specification, nothing fused, as something to compare with.

They are not the official code. They judge the networks' numbers in the tests, where speed is nothing. Loops in them that no
network would go through in each step are replaced here, so that the comparison is with a plain network and not with those: over
the frames of MS-G3D's windows (by unfold), over every entry of SkateFormer's position bias and every token of its windows (by
indexing).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from engine import models
from engine.errors import ConfigError
from engine.models import ModelCard
from shared_data.skeletons import Skeleton

Arguments = dict[str, Any]


def plain_network(
    card: ModelCard, ours: nn.Module, size: tuple[int, Skeleton, tuple[int, ...]], arguments: Arguments
) -> nn.Module:
    """The plain form of `ours`, with its weights, on the CPU.

    size       classes, joint layout and clip (C, T, V, M) for which `ours` was built, with `arguments`

    Raises `ConfigError` for a model without one.
    """
    if card.name not in BUILDERS:
        raise ConfigError(f"{card.name} has no plain form", where="--plain", expected=", ".join(BUILDERS))
    naive = importlib.import_module(f"tests.models.{card.name}.naive")
    network: nn.Module = BUILDERS[card.name](naive, *size, arguments)
    network.load_state_dict(models.official_module(card).to_official(ours.state_dict(), ours))
    return network


def _ctrgcn(naive: Any, classes: int, skeleton: Skeleton, clip: tuple[int, ...], given: Arguments) -> Any:
    return naive.NaiveCTRGCN(classes, skeleton, clip[3], given.get("adaptive", True))


def _msg3d(naive: Any, classes: int, skeleton: Skeleton, clip: tuple[int, ...], given: Arguments) -> Any:
    scales = given.get("gcn_scales", 13), given.get("g3d_scales", 6)
    network = naive.NaiveMSG3D(classes, skeleton, clip[3], scales, given.get("windows", (3, 5)), given.get("width", 96))
    for module in network.modules():
        if isinstance(module, naive.Unfold):
            module.forward = partial(_unfolded, module.window, module.stride)
    return network


def _unfolded(window: int, stride: int, x: Tensor) -> Tensor:
    """(B, C, T, V) -> (B, C, T', W * V), w slowest."""
    b, c, _, v = x.shape
    rows = nn.functional.unfold(x, (window, 1), padding=((window - 1) // 2, 0), stride=(stride, 1))
    return rows.view(b, c, window, -1, v).transpose(2, 3).flatten(3)


def _freqmixformer(naive: Any, classes: int, skeleton: Skeleton, clip: tuple[int, ...], given: Arguments) -> Any:
    split = given.get("split") or (clip[2] + 1) // 2
    return naive.NaiveFreqMixFormer(classes, clip[2], clip[3], clip[1], hop=given.get("hop", 8), split=split)


def _hypergcn(naive: Any, classes: int, skeleton: Skeleton, clip: tuple[int, ...], given: Arguments) -> Any:
    network = naive.NaiveHyperGCN(classes, skeleton, clip[3], given.get("size", "base"), given.get("hyper_joints", 3))
    network.penalty = network.divergence
    return network


def _skateformer(naive: Any, classes: int, skeleton: Skeleton, clip: tuple[int, ...], given: Arguments) -> Any:
    same = ("kernel_size", "num_heads", "mlp_ratio", "rel", "index_t", *(f"type_{i}_size" for i in (1, 2, 3, 4)))
    network = naive.NaiveSkateFormer(classes, clip[3], clip[2], clip[1], **{name: given[name] for name in same if name in given})
    network.takes_positions = True
    if not hasattr(naive.token_grid, "cache_info"):
        naive.token_grid = cache(partial(_on_cpu, naive.token_grid))
    for module in network.modules():
        if isinstance(module, naive.NaiveAttention):
            module.bias = _indexed_bias(module)
    return network


def _on_cpu(make: Callable[..., Tensor], *given: Any) -> Tensor:
    with torch.device("cpu"):
        return make(*given)


def _indexed_bias(attention: Any) -> Callable[[], Tensor]:
    """(heads, P, P) by one indexing of the table, with indices made once."""
    a, b = attention.size
    p = torch.arange(a * b)
    frames, joints = (p % a, None) if attention.kind in (0, 2) else (p // b, p % b)
    rows = frames[:, None] - frames[None] + a - 1

    def bias() -> Tensor:
        table = attention.relative_position_bias_table
        entries = table[rows] if joints is None else table[rows, joints[:, None], joints[None]]
        return entries.permute(2, 0, 1)  # type: ignore[no-any-return]

    return bias


BUILDERS: dict[str, Callable[..., Any]] = {
    "ctrgcn": _ctrgcn,
    "msg3d": _msg3d,
    "freqmixformer": _freqmixformer,
    "skateformer": _skateformer,
    "hypergcn": _hypergcn,
}
