"""The predictor against sums done by hand, against torch's own tracker, and on the cases that break naive estimates."""

import gc
import itertools
import math
import weakref
from typing import get_args

import pytest
import torch
from torch import nn

from engine.step import Precision
from layers.device import as_if_on_gpu, on_gpu
from layers.recompute import Level, normalised, segment
from planner.steps.affine import MIB
from planner.steps.lifetimes import Lifetimes, rounded
from planner.steps.peak import Steps, predict
from planner.steps.tracing import Kernels, Phase, StepSettings, Task, TooFewValues
from shared_data.errors import LabError

SHAPE = (1, 1, 16, 1)
PARAMETERS = 2048 + 512 + 1536 + 512  # W1 (32,16), b1 (32,), W2 (10,32), b2 (10,) in float32, each rounded up to 512


def two_layers() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 10))


class SmallGraphNet(nn.Module):
    """Convolutions, BatchNorm, a residual and a graph product: the operations of the field in small."""

    def __init__(self, *, frozen: bool = False) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, 16, 1)
        self.bn = nn.BatchNorm2d(16)
        self.time = nn.Conv2d(16, 16, (5, 1), padding=(2, 0))
        self.graph = nn.Parameter(torch.eye(25))
        self.fc = nn.Linear(16, 60)
        if frozen:
            for parameter in (*self.enter.parameters(), *self.bn.parameters(), *self.time.parameters(), self.graph):
                parameter.requires_grad = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, c, t, v, m = x.shape
        x = x.permute(0, 4, 1, 2, 3).reshape(n * m, c, t, v)
        x = torch.relu(self.bn(self.enter(x))) @ self.graph
        x = torch.relu(self.time(x) + x)
        return self.fc(x.mean((2, 3)).view(n, m, -1).mean(1))


CLIP = (3, 32, 25, 2)


@pytest.mark.parametrize(("size", "block"), [(0, 0), (1, 512), (511, 512), (512, 512), (513, 1024), (40, 512)])
def test_sizes_are_rounded_as_the_cuda_allocator_does(size: int, block: int) -> None:
    assert rounded(size) == block


def test_lifetimes_count_each_storage_once_and_until_its_last_view_dies() -> None:
    with Lifetimes() as memory:
        first = torch.empty(1000, device="meta")  # 4000 -> 4096
        view = first.view(10, 100)[2:]
        assert memory.live == 4096
        second = first + 1
        assert memory.live == memory.peak == 8192
        del first
        assert memory.live == 8192  # the view holds it
        del view
        assert memory.live == 4096
        second.add_(1)
        assert memory.live == 4096
        memory.reset_peak()
        assert memory.peak == 4096
    assert second.shape == (1000,)


def test_lifetimes_count_what_is_read_as_if_it_had_been_there_all_the_time() -> None:
    table, other = torch.empty(1000, device="meta"), torch.empty(1000, device="meta")
    with Lifetimes(reads=True) as memory:
        large = torch.empty(4000, device="meta")  # 16384
        del large
        result = torch.cat([table, other]) + 1  # 8192 twice
        assert memory.peak == 2 * 4096 + 16384
        assert memory.live == 2 * 4096 + 8192
        del other
        assert memory.live == 4096 + 8192
    assert memory.timeline.events[:4] == (0, 1, 2, -1)  # the large one, and what was read after it, before its death
    assert result.shape == (2000,)


def test_lifetimes_follow_a_storage_resized_in_place() -> None:
    with Lifetimes() as memory:
        tensor = torch.empty(128, device="meta")
        assert memory.live == 512
        tensor.resize_(1024)
        assert memory.live == 4096


def test_training_peak_of_two_layers_by_hand() -> None:
    """Second step, 64 clips. The peak is in the backward of ReLU: its output, the gradients on both sides of it."""
    batch = 64
    hidden = batch * 32 * 4
    standing = 2 * PARAMETERS + batch * 16 * 4 + 512  # parameters, momentum, clips, labels
    sums = 2 * 512 + batch * 10 * 4  # the trainer's sums of loss and correct clips; the logits, which it counts afterwards
    in_relu_backward = standing + sums + 2 * 512 + (1536 + 512) + 3 * hidden  # loss, the 1 it starts from; dW2, db2; r, dr, dh
    law = predict(two_layers, SHAPE, 10, probes=(32, 64, 128))
    assert law.trace("train", batch, None) * MIB == in_relu_backward == 45056


def test_evaluation_peak_of_two_layers_by_hand() -> None:
    """Inside a training run: parameters, gradients and momentum stand; ReLU's input and output are alive together."""
    batch = 64
    expected = 3 * PARAMETERS + batch * 16 * 4 + 512 + 2 * batch * 32 * 4
    law = predict(two_layers, SHAPE, 10, probes=(32, 64, 128))
    assert law.trace("eval", batch, None) * MIB == expected == 34816


def test_optimizer_state_is_two_moments_for_adamw_and_one_for_sgd() -> None:
    sgd = predict(two_layers, SHAPE, 10, probes=(32, 64, 128))
    adamw = predict(two_layers, SHAPE, 10, optimizer="AdamW", probes=(32, 64, 128))
    for phase in ("train", "eval"):
        # Two moments against one momentum. The step counters stay on the CPU, where fake tensors (torch 2.3) count them too.
        counters = 4 * 512 if torch.__version__ < "2.4" else 0
        assert (adamw.trace(phase, 64, None) - sgd.trace(phase, 64, None)) * MIB == PARAMETERS + counters


def test_frozen_parameters_have_no_gradient_no_state_and_save_nothing() -> None:
    full = predict(SmallGraphNet, CLIP, 60)
    frozen = predict(lambda: SmallGraphNet(frozen=True), CLIP, 60)
    assert frozen.gradients * MIB == rounded(60 * 16 * 4) + 512
    assert frozen.train.slope < 0.6 * full.train.slope
    assert frozen.eval.intercept < full.eval.intercept


def test_tied_weights_are_counted_once() -> None:
    class Tied(nn.Module):
        def __init__(self, *, tie: bool) -> None:
            super().__init__()
            self.a, self.b, self.out = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 10)
            if tie:
                self.b.weight = self.a.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(self.b(self.a(x.flatten(1))))

    tied, free = (predict(lambda tie=tie: Tied(tie=tie), SHAPE, 10) for tie in (True, False))  # type: ignore[misc]
    assert (free.gradients - tied.gradients) * MIB == 16 * 16 * 4
    assert (free.eval.intercept - tied.eval.intercept) * MIB == pytest.approx(3 * 16 * 16 * 4)


def test_law_is_affine_and_agrees_with_a_trace_far_outside_the_probes() -> None:
    law = predict(SmallGraphNet, CLIP, 60)
    assert law.linear
    for phase in ("train", "eval"):
        for batch in (4, 200, 1000):
            assert law.peak(batch, phase) == pytest.approx(law.trace(phase, batch, None), rel=0.01)


def test_peak_grows_with_batch_and_evaluation_needs_less_than_training() -> None:
    law = predict(SmallGraphNet, CLIP, 60)
    peaks = [law.peak(batch) for batch in range(1, 200)]
    assert all(small < large for small, large in itertools.pairwise(peaks))
    assert all(law.peak(batch, "eval") < law.peak(batch) for batch in (8, 64, 256))


def test_largest_batch_fits_and_the_next_one_does_not() -> None:
    law = predict(SmallGraphNet, CLIP, 60)
    for phase in ("train", "eval"):
        largest = law.largest_batch(300, phase)
        assert law.trace(phase, largest, None) <= 300 < law.trace(phase, largest + 1, None)
    assert law.largest_batch(0.001) == 0


def test_a_micro_batch_costs_its_piece_the_gradients_and_the_clips_that_wait() -> None:
    law = predict(SmallGraphNet, CLIP, 60)
    traced, one = law.peak(64, micro_batch=16), law.trace("train", 16, None)
    clip = math.prod(CLIP) * 4 / MIB
    gradients = law.gradients  # beside everything else, where a single piece has none yet at its peak
    assert one < traced - 48 * clip <= one + gradients + 48 * 8 / MIB + 0.01
    assert law.peak(64, micro_batch=64) == law.peak(64)
    assert law.peak(24, micro_batch=16) < traced < law.peak(64)


def test_every_piece_after_the_second_costs_what_the_second_does() -> None:
    """Two pieces are traced for any number; here eight are run, on tensors without values."""
    from engine.losses import build_loss
    from engine.step import TrainStep

    with torch.device("meta"):
        model, clips = SmallGraphNet().train(), torch.empty(32, *CLIP)
    labels = torch.empty(32, dtype=torch.int64, device="meta")
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9, nesterov=True, weight_decay=1e-4, foreach=True)
    step = TrainStep(model, optimizer, build_loss(), micro_batch=4, recompute="cheap")
    step(clips, labels)
    model.zero_grad(set_to_none=True)
    memory = Lifetimes()
    with memory:
        state = [value for each in optimizer.state.values() for value in each.values() if isinstance(value, torch.Tensor)]
        memory.hold([*model.parameters(), *model.buffers(), *state, clips, labels])
        step(clips, labels)
    assert predict(SmallGraphNet, CLIP, 60).trace("train", 32, 4) * MIB == memory.peak


class Blocks(nn.Module):
    """Nine blocks with cheap values inside."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"conv": nn.Conv2d(3, 3, 1), "bn": nn.BatchNorm2d(3), "last": nn.Conv2d(3, 3, 1)}) for _ in range(9)
        )
        self.fc = nn.Linear(3, 60)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(3)
        for block in self.blocks:
            x = segment(_Block(block), x)
        return self.fc(x.mean((2, 3)))


class _Block(nn.Module):
    def __init__(self, parts: nn.ModuleDict) -> None:
        super().__init__()
        self.parts = parts

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.parts["last"](normalised(self.parts["bn"], self.parts["conv"](x), torch.relu))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_each_level_keeps_less_than_the_one_before(precision: Precision) -> None:
    slopes = {level: predict(Blocks, CLIP, 60, precision=precision, recompute=level).train.slope for level in get_args(Level)}
    assert list(slopes) == ["none", "cheap", "blocks"]
    assert slopes["blocks"] < 0.9 * slopes["cheap"] < 0.8 * slopes["none"]


def test_evaluation_keeps_nothing_so_no_level_changes_it() -> None:
    laws = [predict(Blocks, CLIP, 60, recompute=level) for level in get_args(Level)]
    assert len({law.eval for law in laws}) == 1


def test_a_penalty_of_the_model_is_part_of_the_step() -> None:
    class WithPenalty(SmallGraphNet):
        def penalty(self) -> torch.Tensor:
            return (self.graph[None] * torch.ones(4000, 1, 1, device=self.graph.device)).square().mean()

    def peak(penalty_weight: float) -> float:
        return Steps(WithPenalty, CLIP, 60, StepSettings(penalty_weight=penalty_weight)).peak("train", 16)

    assert peak(1.0) > peak(0.0) + 4000 * 625 * 4 / MIB


def test_a_network_that_reads_positions_is_given_them() -> None:
    class Positioned(SmallGraphNet):
        takes_positions = True

        def forward(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
            return super().forward(x * positions[:, None, :, None, None])

    assert predict(Positioned, CLIP, 60).train.slope > predict(SmallGraphNet, CLIP, 60).train.slope


def test_batch_normalisation_is_noticed() -> None:
    assert Steps(SmallGraphNet, CLIP, 60).batch_norm
    assert not Steps(two_layers, SHAPE, 10).batch_norm


class PairwiseClips(nn.Module):
    """Compares every clip with every other (as contrastive losses do): memory grows with the square of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(1)
        near = torch.exp(-(x[:, None] - x[None]).square())  # (N, N, 16)
        return self.fc(torch.tanh(near * self.fc.weight.sum()).mean(1))


def test_a_network_that_is_not_affine_is_noticed_and_still_answered_exactly() -> None:
    law = predict(PairwiseClips, SHAPE, 10)
    assert not law.linear
    assert law.deviation > 0.2
    assert law.peak(300) == law.trace("train", 300, None)
    largest = law.largest_batch(100)
    assert law.trace("train", largest, None) <= 100 < law.trace("train", largest + 1, None)


def test_autocast_halves_what_is_saved_and_is_marked_approximate() -> None:
    full, half = (predict(SmallGraphNet, CLIP, 60, precision=precision) for precision in ("fp32", "bf16"))
    assert half.approximate
    assert not full.approximate
    assert 0.4 < half.train.slope / full.train.slope < 0.7


def test_a_network_of_known_extra_size_is_predicted_larger_by_that_size() -> None:
    class WithTable(nn.Module):
        def __init__(self, kib: int) -> None:
            super().__init__()
            self.net = two_layers()
            self.register_buffer("table", torch.zeros(kib * 256))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x)

    small, large = (predict(lambda kib=kib: WithTable(kib), SHAPE, 10) for kib in (1, 1025))  # type: ignore[misc]
    assert large.train.intercept - small.train.intercept == 1.0
    assert large.eval.intercept - small.eval.intercept == 1.0


def test_building_does_not_disturb_the_random_state_and_nothing_is_left_behind() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    built: list[weakref.ref[nn.Module]] = []

    def build() -> nn.Module:
        model = SmallGraphNet()
        built.append(weakref.ref(model))
        return model

    predict(build, CLIP, 60)
    assert torch.equal(torch.rand(1), expected)
    gc.collect()
    assert built[0]() is None


class ReadsValues(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.flatten(1)) * x.max().item()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"build": ReadsValues}, "without values"),
        ({"num_classes": 11}, "expected"),
        ({"optimizer": "Lion"}, "unknown optimizer"),
        ({"precision": "int8"}, "unknown precision"),
        ({"probes": (8, 8, 16)}, "ascend"),
        ({"build": nn.Flatten}, "no parameter"),
    ],
)
def test_what_cannot_be_predicted_is_said(arguments: dict, message: str) -> None:
    with pytest.raises(LabError, match=message):
        predict(**{"build": two_layers, "clip_shape": SHAPE, "num_classes": 10, **arguments})


def test_a_batch_below_one_is_refused() -> None:
    law = predict(two_layers, SHAPE, 10)
    with pytest.raises(LabError, match="not a number of clips"):
        law.peak(0)


def _tracked_by_torch(model: nn.Module, optimizer: torch.optim.Optimizer, batch: int) -> int:
    """Bytes by torch's own MemTracker on real CPU tensors, second of two steps."""
    from torch.distributed._tools.mem_tracker import MemTracker

    tracker = MemTracker()
    clips, labels = torch.zeros(batch, *CLIP), torch.zeros(batch, dtype=torch.int64)
    tracker.track_external(model, optimizer, clips, labels)
    with tracker as tracked:
        for step in range(2):
            optimizer.zero_grad(set_to_none=True)
            nn.functional.cross_entropy(model(clips), labels).backward()
            optimizer.step()
            if step == 0:
                tracked.reset_mod_stats()
    return int(tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"])


@pytest.mark.skipif(
    tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 5),
    reason="the independent tracker, torch.distributed._tools.mem_tracker, came with torch 2.5",
)
@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_agrees_with_torchs_own_tracker_on_real_tensors(name: str) -> None:
    model = SmallGraphNet()
    optimizer = (
        torch.optim.SGD(model.parameters(), 0.1, 0.9, nesterov=True, weight_decay=1e-4, foreach=True)
        if name == "SGD"
        else torch.optim.AdamW(model.parameters(), foreach=True)
    )
    predicted = predict(SmallGraphNet, CLIP, 60, optimizer=name).trace("train", 32, None) * MIB
    tracked = _tracked_by_torch(model, optimizer, 32)
    assert predicted == pytest.approx(tracked, rel=0.01)
    on_cpu = Steps(SmallGraphNet, CLIP, 60, StepSettings(optimizer=name), kernels="cpu")
    assert on_cpu.peak("train", 32, recompute="none") * MIB == pytest.approx(tracked, rel=0.01)


@pytest.mark.parametrize("recompute", get_args(Level))
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_law_is_exact_also_in_pieces(recompute: Level, precision: Precision) -> None:
    steps = Steps(Blocks, CLIP, 60)
    law = steps.law(precision=precision, recompute=recompute)
    assert law.linear and law.deviation == 0
    for batch in (3, 511):
        assert law.peak(batch) == law.trace("train", batch, None)
        assert law.peak(batch, "eval") == law.trace("eval", batch, None)
    for batch, piece in ((64, 16), (100, 7), (24, 16), (5, 1)):
        assert law.peak(batch, micro_batch=piece) == law.trace("train", batch, piece)


def test_a_law_is_asked_for_no_more_traces_than_three() -> None:
    steps = Steps(SmallGraphNet, CLIP, 60)
    traced: list[int] = []
    original = steps._trace
    steps._trace = lambda task: (traced.append(task.batch), original(task))[1]  # type: ignore[method-assign,func-returns-value]
    peaks = [steps.peak("train", batch) for batch in range(80, 40, -1)]
    assert sorted(traced) == [2, 32, 80]
    assert all(large > small for large, small in itertools.pairwise(peaks))
    steps.peak("train", 81)  # beyond what was traced
    steps.peak("train", 81)
    assert sorted(traced) == [2, 32, 80, 81]


class Threshold(nn.Module):
    """From 100 clips on it takes eight times as much, as a network with another way for large batches does."""

    def __init__(self) -> None:
        super().__init__()
        self.net = two_layers()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.net[1](x.flatten(1))
        if len(x) >= 100:
            x = torch.cat([x] * 64, 1).exp().view(len(x), 64, -1).mean(1)
        return self.net[3](x)


Question = tuple[str, int]


@pytest.mark.parametrize("order", list(itertools.permutations([("peak", 50), ("peak", 3000), ("largest", 20)])))
def test_answers_do_not_depend_on_the_order_of_the_questions(order: tuple[Question, ...]) -> None:
    steps = Steps(Threshold, SHAPE, 10)
    law = steps.law()
    assert law.linear
    found = {(what, of): law.peak(of) if what == "peak" else law.largest_batch(of) for what, of in order}
    right = Steps(Threshold, SHAPE, 10)
    for (what, of), answer in found.items():
        if what == "peak":
            assert answer == right.traced("train", of)
        else:
            assert right.traced("train", int(answer)) <= of < right.traced("train", int(answer) + 1)
    assert not steps.law().linear


@pytest.mark.parametrize(
    ("phase", "precision"),
    [
        ("train", "bf16"),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("train", "fp32"), ("eval", "fp32"), ("eval", "bf16"))),
    ],
)
def test_a_table_made_once_and_kept_anywhere_is_counted(phase: Phase, precision: Precision) -> None:
    class Lazy(nn.Module):
        def __init__(self, numbers: int) -> None:
            super().__init__()
            self.net, self.numbers = two_layers(), numbers
            self.tables: list[torch.Tensor] = []

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if not self.tables:
                self.tables.append(torch.zeros(self.numbers, device=x.device))
            return self.net(x) * self.tables[0].sum()

    small, large = (
        Steps(lambda numbers=numbers: Lazy(numbers), SHAPE, 10).law(precision=precision)  # type: ignore[misc]
        for numbers in (1024, 1024 + 2**20)
    )
    assert large.linear
    for batch in (8, 64, 500):
        assert large.peak(batch, phase) - small.peak(batch, phase) == 4


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("phase", ["train", "eval"])
def test_a_network_that_keeps_more_with_each_step_is_refused(phase: Phase, precision: Precision) -> None:
    class Keeps(nn.Module):
        def __init__(self, most: int | None) -> None:
            super().__init__()
            self.net, self.most = two_layers(), most
            self.kept: list[object] = []

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.kept.append(x.detach() + 1)
            if self.most is not None:
                del self.kept[: -self.most]
            return self.net(x)

    with pytest.raises(LabError, match="memory grows"):
        Steps(lambda: Keeps(None), SHAPE, 10).peak(phase, 64, precision=precision)
    assert Steps(lambda: Keeps(1), SHAPE, 10).peak(phase, 64, precision=precision) > 0


def test_what_hangs_in_a_cycle_is_not_kept_and_hides_nothing() -> None:
    class Cyclic(nn.Module):
        def __init__(self, most: int) -> None:
            super().__init__()
            self.net, self.most = two_layers(), most
            self.kept: list[object] = []

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            cycle: list[object] = [torch.cat([x, x]).detach()]
            cycle.append(cycle)
            self.kept = [*self.kept, x.detach() + 1][-self.most :] if self.most else []
            return self.net(x)

    for most in (0, 1):
        assert Steps(lambda most=most: Cyclic(most), SHAPE, 10).law().linear  # type: ignore[misc]
    with pytest.raises(LabError, match="memory grows"):
        Steps(lambda: Cyclic(1000), SHAPE, 10).peak("train", 64)


def test_what_fails_on_meta_tensors_is_tried_once_with_fake_ones() -> None:
    class AsksItsDevice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = two_layers()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.autocast(x.device.type, torch.bfloat16):
                return self.net(x).float()

    assert Steps(AsksItsDevice, SHAPE, 10).law().linear

    class FailsOnBoth(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(16, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("first" if x.is_meta else "second")

    with pytest.raises(LabError, match="first"):
        Steps(FailsOnBoth, SHAPE, 10).peak("train", 8)


def test_only_a_batch_too_small_for_batch_norm_does_not_fit_for_another_reason() -> None:
    class Picky(nn.Module):
        """Memory grows with the square, and batches above 100 are not taken."""

        def __init__(self) -> None:
            super().__init__()
            self.net = PairwiseClips()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if len(x) > 100:
                raise RuntimeError("too many clips for this network")
            return self.net(x)

    with pytest.raises(LabError, match="too many clips"):
        predict(Picky, SHAPE, 10).largest_batch(10_000)


@pytest.mark.parametrize("micro_batch", [None, 8])
@pytest.mark.parametrize("phase", ["train", "eval"])
def test_work_between_two_counts_is_what_would_be_counted(phase: Phase, micro_batch: int | None) -> None:
    steps = Steps(SmallGraphNet, CLIP, 60)
    reckoned = steps.work(48, phase=phase, micro_batch=micro_batch)
    task = Task(phase, 48, "fp32", "cheap", micro_batch if phase == "train" else None)
    assert dict(reckoned.by_call) == dict(steps._counted(task).by_call)
    assert reckoned.matrix_flops > 0


def test_a_cpu_has_other_kernels_and_recomputes_as_asked() -> None:
    class Dropped(SmallGraphNet):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(nn.functional.dropout(x * self.graph[0, 0], 0.5, self.training))

    cuda, cpu = (Steps(Dropped, CLIP, 60, kernels=kernels).law(recompute="none") for kernels in get_args(Kernels))
    more = (cpu.train.slope - cuda.train.slope) * MIB / math.prod(CLIP)
    assert more == pytest.approx(3)  # a mask of 4 bytes in place of 1
    assert cpu.eval.slope == cuda.eval.slope


class Attention(nn.Module):
    """One head over W tokens: probabilities would take W * W numbers a clip, queries, keys and values W * 3 * 8."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, 1, 256, 256))
        self.fc = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q = x.flatten(2).transpose(1, 2)[:, None, :, :1].expand(-1, -1, -1, 8) * self.fc.weight[0]
        y = nn.functional.scaled_dot_product_attention(q, q, q, self.bias, 0.1 if self.training else 0.0)
        return self.fc(y.mean((1, 2)))


def test_a_channel_of_one_value_is_told_from_other_refusals() -> None:
    def normalised_twice() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 10), nn.BatchNorm1d(10))

    with pytest.raises(TooFewValues, match="more than 1 value"):
        Steps(normalised_twice, SHAPE, 10).peak("train", 1)
    with pytest.raises(LabError) as other:
        Steps(ReadsValues, SHAPE, 10).peak("train", 1)
    assert not isinstance(other.value, TooFewValues)


def test_a_cpu_is_none_unless_it_stands_for_a_gpu() -> None:
    cpu, meta = torch.empty(1), torch.empty(1, device="meta")
    assert on_gpu(meta) and not on_gpu(cpu)
    with as_if_on_gpu():
        with as_if_on_gpu():
            pass
        assert on_gpu(cpu)
    assert not on_gpu(cpu)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("phase", ["train", "eval"])
def test_a_trace_stands_for_a_gpu(phase: Phase, precision: Precision) -> None:
    """Also that of autocast, whose tensors say that they are on a CPU; what a backward pass makes again included."""
    asked: list[bool] = []

    class Asks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(16, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            asked.append(on_gpu(x))
            return self.fc(x)

    class Segmented(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.asks = Asks()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return segment(self.asks, x.flatten(1))

    Steps(Segmented, SHAPE, 10).peak(phase, 4, precision=precision, recompute="blocks")
    assert asked and all(asked)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("level", ["none", "blocks"])
def test_attention_is_fused_as_on_a_gpu(level: Level, precision: Precision) -> None:
    """Also where a backward pass computes it again."""

    class Segmented(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = Attention()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return segment(self.attention, x)

    kept = predict(Segmented, (3, 256, 1, 1), 4, recompute=level, precision=precision).peak(64)
    apart = (4 if precision == "fp32" else 2) * 64 * 256 * 256 / 2**20  # MiB of one tensor of probabilities; several otherwise
    assert kept < 2.5 * apart
