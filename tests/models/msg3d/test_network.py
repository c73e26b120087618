"""MS-G3D against the specification: its graphs, its sizes, its start values, and a slow network that joins nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from engine import models
from engine.parity import fixture as fixtures
from layers.disentangled import DisentangledConv, gathers_first
from models.msg3d.network import MSG3D, Stage, WindowPath, hops
from shared_data.errors import LabError
from shared_data.skeletons import COCO17, KINETICS18, NTU25, UCLA20, Skeleton
from shared_data.skeletons.hops import diameter, disentangled_adjacency, hop_distance
from tests.models.against_slow import assert_same_training, randomise
from tests.models.msg3d.naive import NaiveMSG3D, Unfold, tables

NAMES = models.official_module(models.find("msg3d"))
ROOT = models.find("msg3d").folder.parents[1]


def clips_of(network: MSG3D, frames: int, n: int = 3) -> torch.Tensor:
    shape = (n, network.in_channels, frames, network.joints, network.people)
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


# classes, skeleton, people, scales, windows, coordinates, frames
CASES = {
    "ntu": (60, NTU25, 2, (13, 6), (3, 5), 3, 12),
    "kinetics": (400, KINETICS18, 2, (8, 8), (3, 5), 3, 9),
    "ucla": (10, UCLA20, 1, (11, 6), (3, 5), 3, 13),
    "one-frame": (4, COCO17, 3, (2, 1), (3, 5), 3, 1),
    "other-windows": (5, NTU25, 1, (4, 3), (1, 3, 7), 3, 10),
    "two-coordinates": (5, UCLA20, 2, (3, 2), (5,), 2, 11),
    "more-scales-than-hops": (5, COCO17, 1, (15, 11), (3,), 3, 6),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_equals_the_slow_network(case: tuple[int, Skeleton, int, tuple[int, int], tuple[int, ...], int, int]) -> None:
    classes, skeleton, people, scales, windows, coordinates, frames = case
    naive = NaiveMSG3D(classes, skeleton, people, scales, windows, width=12, in_channels=coordinates)
    ours = MSG3D(
        classes, skeleton=skeleton, people=people, gcn_scales=scales[0], g3d_scales=scales[1], windows=windows, width=12,
        in_channels=coordinates,
    )  # fmt: skip
    clips = clips_of(ours, frames)
    clips[1, ..., -1] = 0.0
    assert_same_training(ours, randomise(naive), NAMES, clips)


@pytest.mark.parametrize(("skeleton", "furthest"), [(NTU25, 12), (UCLA20, 10), (KINETICS18, 8)])
def test_every_pair_of_joints_has_one_number_of_hops(skeleton: Skeleton, furthest: int) -> None:
    distance = hop_distance(skeleton)
    assert diameter(skeleton) == furthest and (distance == distance.T).all() and not distance.diagonal().any()
    tables = disentangled_adjacency(skeleton, furthest + 1).reshape(-1, skeleton.joints, skeleton.joints)
    away = (tables != 0) & ~np.eye(skeleton.joints, dtype=bool)
    assert (away.sum(0) + np.eye(skeleton.joints) == 1).all()
    if skeleton is NTU25:
        assert away.sum((1, 2)).tolist() == [0, 48, 54, 60, 66, 72, 72, 72, 56, 40, 30, 20, 10]


def test_normalised_row() -> None:
    """Joint 21 has four neighbours, so 5 links with itself; its neighbours 2, 5, 9 have two others, joint 3 one besides 4."""
    row = disentangled_adjacency(NTU25, 2)[25 + 20]
    assert set(row.nonzero()[0]) == {1, 2, 4, 8, 20}
    assert row[[20, 1, 2, 4, 8]] == pytest.approx([1 / 5] + 4 * [1 / math.sqrt(15)], rel=1e-6)
    assert row.dtype == np.float32


@pytest.mark.parametrize("skeleton", [NTU25, UCLA20, KINETICS18])
@pytest.mark.parametrize("window", [1, 3, 5])
def test_graphs_of_a_window(skeleton: Skeleton, window: int) -> None:
    """Powers of the matrix of all tied frames, and the closed form: k hops in every frame; for k = 1 also one's own copies."""
    ours = disentangled_adjacency(skeleton, 6, window)
    size = window * skeleton.joints
    assert torch.allclose(torch.from_numpy(ours), tables(skeleton, 6, window), rtol=0, atol=1e-7)
    links = ours.reshape(6, size, size) != 0
    distance, frames = hop_distance(skeleton), np.ones((window, window), dtype=bool)
    assert (links[0] == np.eye(size, dtype=bool)).all()
    assert (links[1] == np.kron(frames, distance <= 1)).all()
    for k in range(2, 6):
        assert (links[k] == np.kron(frames, distance == k) | np.eye(size, dtype=bool)).all()


def test_official_table() -> None:
    """The recorded spatial graphs bit for bit, and the row sums of the windows."""
    fixture = fixtures.load(ROOT / "tests/parity/msg3d_ntu60.npz")
    assert np.array_equal(disentangled_adjacency(NTU25, 13), fixture["graph/A_powers"])
    for window in (3, 5):
        sums = disentangled_adjacency(NTU25, 6, window).sum(1)
        assert sums == pytest.approx(fixture[f"graph/A_scales_window{window}_row_sums"], rel=1e-6)


@pytest.mark.parametrize(
    ("classes", "skeleton", "scales", "parameters"),
    [(60, "ntu25", (13, 6), 3_194_595), (120, "ntu25", (13, 6), 3_217_695), (400, "kinetics18", (8, 8), 3_144_328)],
)
def test_sizes(classes: int, skeleton: str, scales: tuple[int, int], parameters: int) -> None:
    network = MSG3D(classes, skeleton=skeleton, gcn_scales=scales[0], g3d_scales=scales[1])
    assert sum(p.numel() for p in network.parameters()) == parameters
    official = NAMES.to_official(network.state_dict(), network)
    assert len(official) == 810
    naive = NaiveMSG3D(classes, NTU25 if skeleton == "ntu25" else KINETICS18, 2, scales)
    assert [(k, v.shape) for k, v in official.items()] == [(k, v.shape) for k, v in naive.state_dict().items()]
    assert not any(key.endswith(".graph") for key in network.state_dict())


@pytest.mark.parametrize(("skeleton", "scales"), [("ntu25", (13, 6)), ("ucla20", (11, 6)), ("coco17", (9, 6))])
def test_default_scales_are_all_hops_and_six(skeleton: str, scales: tuple[int, int]) -> None:
    stage = MSG3D(3, skeleton=skeleton, width=6).stages[0]
    assert (stage.factorised[0].scales, stage.windows[0].graph.scales) == scales


def test_start_values() -> None:
    """PyTorch's default for convolutions, of the fan-in of each *official* one, biases too; learned graphs U(-1e-6, 1e-6)."""
    torch.manual_seed(0)
    network = MSG3D(60)
    state = NAMES.to_official(network.state_dict(), network)
    drawn = 0
    for name, value in state.items():
        layer, last = name.rsplit(".", 1)
        weight = state.get(f"{layer}.weight")
        if last == "A_res":
            bound = 1e-6
        elif last in ("weight", "bias") and weight is not None and weight.dim() > 1:
            bound = 1.0 / math.sqrt(weight[0].numel())
        else:
            expected = 1.0 if last in ("weight", "running_var") else 0.0
            assert torch.equal(value, torch.full_like(value, expected)), name
            continue
        drawn += 1
        assert float(value.abs().max()) <= bound, name
        assert float(value.std()) == pytest.approx(bound / math.sqrt(3), rel=max(0.01, 3 / math.sqrt(value.numel()))), name
        assert abs(float(value.mean())) < 5 * bound / math.sqrt(3 * value.numel()), name
    convolutions = 9 * 10 + 2 + 9 + 6  # in temporal convolutions and their two residuals; mixing and collapsing of graphs
    assert drawn == 2 * convolutions + 2 + 9  # and the classifier, and the learned graphs


def random_graph(c_in: int, c_out: int, window: int, stride: int, order: bool) -> DisentangledConv:
    torch.manual_seed(2)
    conv = DisentangledConv(c_in, c_out, hops(UCLA20, 4, window), window=window, stride=stride).double()
    nn.init.normal_(conv.residual, 0.0, 0.02)
    conv.gathers_first = order
    return conv


@pytest.mark.parametrize("window", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("frames", [1, 4, 9])
def test_both_orders_are_the_unfolded_sum(window: int, stride: int, frames: int) -> None:
    """Gather then mix, mix then gather, and the formula on unfolded windows; zeros beyond both ends."""
    orders = [random_graph(5, 7, window, stride, order) for order in (True, False)]
    x = torch.randn(2, 5, 20, frames, dtype=torch.float64)
    graph = (orders[0].graph + orders[0].residual).permute(0, 1, 3, 2).reshape(4, window * 20, window * 20)
    unfolded = Unfold(window, stride)(x.transpose(2, 3))
    expected = torch.einsum("kru,okc,bctu->bort", graph, orders[0].mix, unfolded) + orders[0].bias.view(-1, 1, 1)
    for conv in orders:
        torch.testing.assert_close(conv(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("order", [True, False])
def test_each_scale_mixes_with_its_own_weights(order: bool) -> None:
    """Weights of scale 2 and channel 1 see that channel of joints two hops away (and one's own) and nothing else."""
    conv = random_graph(3, 4, 1, 1, order)
    with torch.no_grad():
        conv.residual.zero_()
        before = conv(x := torch.randn(1, 3, 20, 5, dtype=torch.float64))
        conv.mix[:, 2, 1] += 1.0
        change = conv(x) - before
    seen = torch.from_numpy(disentangled_adjacency(UCLA20, 4)).double().view(4, 20, 20)[2]
    torch.testing.assert_close(change, torch.einsum("uv,vt->ut", seen, x[0, 1]).expand(1, 4, -1, -1), rtol=1e-9, atol=1e-12)


def test_order_of_the_cheaper_product() -> None:
    """Officially: stage 1 gathers first everywhere, the spatial graphs may do either, the windows of stages 2 and 3 mix first."""
    first, *later = MSG3D(60).stages
    assert all(path.graph.gathers_first for path in first.windows) and first.factorised[0].gathers_first
    assert not any(path.graph.gathers_first for stage in later for path in stage.windows)
    for c_in, c_out, window, stride in [(3, 96, 5, 1), (96, 96, 3, 2), (192, 192, 5, 2), (64, 8, 1, 1), (8, 64, 3, 1)]:
        frames, scales = 20, 4
        gathering = scales * 25 * window * 25 * window * frames
        gather_then_mix = gathering * c_in + scales * c_in * c_out * window * 25 * frames
        mix_then_gather = scales * c_in * c_out * 25 * frames * stride + gathering * c_out
        assert gathers_first(c_in, c_out, 25, window, stride) == (gather_then_mix <= mix_then_gather)


def test_where_relu_is() -> None:
    """The factorised path ends without ReLU, so does each window path; their sum has one, and so does the last convolution."""
    torch.manual_seed(0)
    stage = Stage(6, 6, 12, UCLA20, scales=(3, 2), windows=(3, 5), stride=2)
    x = torch.randn(2, 6, 20, 9)
    seen: dict[str, tuple[torch.Tensor, ...]] = {}
    stage.factorised[4].register_forward_hook(lambda module, given, result: seen.update(given=given, sums=(result,)))
    out = stage(x)
    (y, *paths), (sums,) = seen["given"], seen["sums"]
    assert len(paths) == 2 and all(torch.allclose(given, path(x)) for given, path in zip(paths, stage.windows, strict=True))
    assert all((path < 0).any() for path in paths)
    assert ((stage.factorised[4](y, torch.full_like(sums, 100.0)) - 100.0) < 0).any()
    torch.testing.assert_close(out, stage.temporal(sums))
    assert not (sums < 0).any() and not (out < 0).any()


def test_batch_norm_of_a_window_counts_frames_as_often_as_windows_show_them() -> None:
    """W*V tokens in each of the T' windows, those of the zeros beyond both ends included."""
    path = WindowPath(3, 6, UCLA20, 2, window=5, stride=1).train()
    x = torch.randn(2, 3, 20, 4)
    path(x)
    seen = path.graph(x)
    assert seen.shape == (2, 6, 5 * 20, 4)
    torch.testing.assert_close(path.graph_bn.running_mean, 0.1 * seen.mean((0, 2, 3)))
    count = seen[:, 0].numel()
    torch.testing.assert_close(path.graph_bn.running_var, 0.9 + 0.1 * seen.var((0, 2, 3), unbiased=False) * count / (count - 1))


@pytest.mark.parametrize("frames", [1, 2, 64, 300])
def test_any_number_of_frames(frames: int) -> None:
    with torch.device("meta"):
        network = MSG3D(60)
        assert network(torch.empty(2, 3, frames, 25, 2)).shape == (2, 60)
        assert network.stages(torch.empty(4, 3, 25, frames)).shape == (4, 384, 25, math.ceil(math.ceil(frames / 2) / 2))
    assert all(tensor.is_meta for tensor in (*network.parameters(), *network.buffers()))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("gcn_scales", 0), ("gcn_scales", 2.5), ("g3d_scales", -1), ("g3d_scales", True), ("windows", (3, 4)), ("windows", (0,)),
        ("windows", "35"), ("windows", 3), ("width", 100), ("width", 0),
    ],
)  # fmt: skip
def test_sizes_that_cannot_work_are_refused(key: str, value: object) -> None:
    with pytest.raises(LabError, match=f"argument {key} is") as caught:
        MSG3D(**{"num_classes": 4, key: value})
    assert caught.value.expected


def test_clips_without_frames_are_refused() -> None:
    with pytest.raises(LabError, match="shape"):
        MSG3D(4, width=6)(torch.zeros(2, 3, 0, 25, 2))


def test_joints_may_be_numbered_in_another_way() -> None:
    """A skeleton with its joints renamed, and everything that belongs to a joint renamed with them, gives the same logits."""
    order = np.random.default_rng(0).permutation(20)
    place = np.argsort(order)
    renamed = Skeleton(**{**vars(UCLA20), "edges": tuple((int(place[a]), int(place[b])) for a, b in UCLA20.edges)})
    ours, other = (MSG3D(5, skeleton=s, people=1, width=6).double().eval() for s in (UCLA20, renamed))
    randomise(ours)
    state = {key: value.clone() for key, value in ours.state_dict().items()}
    for key, value in state.items():
        if key.startswith("data_bn") and value.dim():
            state[key] = value.view(20, 3)[order].reshape(-1)
        if key.endswith("graph.residual") or key.endswith("factorised.0.residual"):
            k, tokens, v, w = value.shape
            state[key] = value.view(k, tokens // v, v, v, w)[:, :, order][:, :, :, order].reshape(value.shape)
    other.load_state_dict(state)
    clips = clips_of(ours, 8)
    torch.testing.assert_close(other(clips[:, :, :, order]), ours(clips), rtol=1e-10, atol=1e-10)
