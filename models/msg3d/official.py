"""Where each entry of an official MS-G3D checkpoint lives in `network.py`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from engine.official import Entry, affine, batch_norm, known_words, layout_of
from engine.parity.limits import Allowance
from layers.disentangled import DisentangledConv
from models.msg3d.network import BRANCHES, DILATIONS, MSG3D, MultiScaleTemporalConv, Stage, WindowPath

GRAPHS = {"graph.ntu_rgb_d.AdjMatrixGraph": "ntu25", "graph.kinetics.AdjMatrixGraph": "kinetics18"}

KNOWN = {
    "num_class": "num_classes",
    "num_point": None,
    "num_person": "people",
    "num_gcn_scales": "gcn_scales",
    "num_g3d_scales": "g3d_scales",
    "graph": "skeleton",
    "in_channels": "in_channels",
}


def constructor(official: Mapping[str, Any]) -> dict[str, Any]:
    """Official ``Model(num_class, num_point, num_person, num_gcn_scales, num_g3d_scales, graph, in_channels)`` -> ours.

    What is left out is taken as in the official configurations for NTU RGB+D 60.
    """
    usual = {"num_classes": 60, "people": 2, "gcn_scales": 13, "g3d_scales": 6}
    return {**usual, **known_words(official, KNOWN), "skeleton": layout_of(official, GRAPHS)}


def allowance(official: Mapping[str, Any]) -> Allowance:
    """How far recorded numbers may be off: the last float32 bit of the official graphs depends on the processor.

    That of ours does not (`shared_data/skeletons/hops.py`).
    """
    del official  # all graphs alike
    return Allowance(
        "the official graphs are normalised with NumPy's float32 power, whose last bit depends on the processor",
        early=1e-8,
        late={"loss": 1e-3, "grad_norm": 1e-3, "param_norm": 1e-3, "change_norms_end": 1e-2, "end": 1e-2, "bn_end": 1e-2},
    )


def table(model: nn.Module) -> list[Entry]:
    """Every entry of the official state dict, in its order."""
    assert isinstance(model, MSG3D)
    rows = list(batch_norm("data_bn", "data_bn"))
    for number, stage in enumerate(model.stages):
        assert isinstance(stage, Stage)
        rows += _stage(number + 1, f"stages.{number}", stage)
    return [*rows, *affine("fc", "fc")]


def _stage(number: int, ours: str, stage: Stage) -> Iterator[Entry]:
    for i, path in enumerate(stage.windows):
        assert isinstance(path, WindowPath)
        yield from _window(f"gcn3d{number}.gcn3d.{i}", f"{ours}.windows.{i}", path)
    graph, _, _, *temporal = stage.factorised
    assert isinstance(graph, DisentangledConv)
    yield from _graph(f"sgcn{number}.0", f"{ours}.factorised.0", graph, f"{ours}.factorised.1")
    for i, tcn in enumerate(temporal):
        assert isinstance(tcn, MultiScaleTemporalConv)
        yield from _temporal(f"sgcn{number}.{i + 1}", f"{ours}.factorised.{i + 3}", tcn)
    yield from _temporal(f"tcn{number}", f"{ours}.temporal", stage.temporal)


def _window(official: str, ours: str, path: WindowPath) -> Iterator[Entry]:
    yield from _graph(f"{official}.gcn3d.1", f"{ours}.graph", path.graph, f"{ours}.graph_bn")
    window, (c_out, c_in) = path.graph.window, path.collapse.weight.shape[:2]
    yield from affine(f"{official}.out_conv", f"{ours}.collapse", shape=(c_out, c_in // window, 1, window, 1))
    yield from batch_norm(f"{official}.out_bn", f"{ours}.bn")


def _graph(official: str, ours: str, graph: DisentangledConv, bn: str) -> Iterator[Entry]:
    c_out, scales, c_in = graph.mix.shape
    _, tokens, joints, window = graph.residual.shape
    yield Entry(f"{official}.A_res", f"{ours}.residual", None, (scales * tokens, window * joints), order=(0, 1, 3, 2))
    yield Entry(f"{official}.mlp.layers.0.weight", f"{ours}.mix", None, (c_out, scales * c_in, 1, 1))
    yield Entry(f"{official}.mlp.layers.0.bias", f"{ours}.bias")
    yield from batch_norm(f"{official}.mlp.layers.1", bn)


def _temporal(official: str, ours: str, tcn: MultiScaleTemporalConv) -> Iterator[Entry]:
    c = tcn.skip.out_channels
    branch = [slice(i * c, (i + 1) * c) for i in range(BRANCHES)]
    for i, rows in enumerate(branch[:-1]):
        name, dilated = f"{official}.branches.{i}", i < len(DILATIONS)
        yield from affine(f"{name}.0", f"{ours}.enter", rows)
        yield from batch_norm(f"{name}.1", f"{ours}.enter_bn", rows)
        if dilated:  # kernels over time: (c, c, 3, 1) officially, (c, c, 1, 3) here where time is innermost
            yield from affine(f"{name}.3.conv", f"{ours}.dilated.{i}", shape=(c, c, 3, 1))
        yield from batch_norm(f"{name}.3.bn" if dilated else f"{name}.4", f"{ours}.bn", rows)
    name = f"{official}.branches.{BRANCHES - 1}"
    yield from affine(f"{name}.0", f"{ours}.skip")
    yield from batch_norm(f"{name}.1", f"{ours}.bn", branch[-1])
    if isinstance(tcn.residual, nn.Sequential):
        yield from affine(f"{official}.residual.conv", f"{ours}.residual.0")
        yield from batch_norm(f"{official}.residual.bn", f"{ours}.residual.1")
