"""`cheap`, `normalised` and `segment`: the same bits as keeping everything, the memory really gone, misuse refused."""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layers.recompute import Level, cheap, normalised, recomputing, segment
from planner.steps.lifetimes import Lifetimes

MIB = 2**20
LEVELS: tuple[Level, ...] = ("none", "cheap", "blocks")


class Block(nn.Module):
    """All that a block may be made of: cheap values of cheap values, BatchNorm, several results, dropout, an unused parameter."""

    def __init__(self, channels: int = 4, dropout: float = 0.5) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 2 * channels, 1)
        self.bn = nn.BatchNorm2d(2 * channels)
        self.back = nn.Conv2d(2 * channels, channels, (3, 1), padding=(1, 0))
        self.dropout = nn.Dropout(dropout)
        self.unused = nn.Parameter(torch.ones(1))
        self.fixed = nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        wide = normalised(self.bn, self.conv(x), F.relu_)
        largest, _ = cheap(lambda y: F.max_pool2d(y, (3, 1), 1, (1, 0), return_indices=True), wide)
        gate = cheap(torch.sigmoid, cheap(torch.tanh, largest))
        return F.relu(self.dropout(self.back(gate * wide)) * self.fixed + x)


class Net(nn.Module):
    def __init__(self, dropout: float = 0.5) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(dropout=dropout) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = segment(block, x)
        return x.mean((2, 3))


def trained(level: Level, make: Callable[[], nn.Module] = Net, *, steps: int = 3, dtype: torch.dtype | None = None) -> list[Any]:
    """Losses, gradients of the last step, and all values after `steps` steps from the same start."""
    torch.manual_seed(0)
    net = make().train()
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
    losses = []
    for step in range(steps):
        clips = torch.randn(2, 4, 8, 5, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        with recomputing(level), torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
            loss = F.cross_entropy(net(clips).float(), torch.tensor([0, 1]))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return [losses, [p.grad for p in net.parameters()], list(net.state_dict().values()), torch.rand(1)]


def assert_equal_bits(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, list):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_equal_bits(a, b)
    elif isinstance(one, Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("level", ["cheap", "blocks"])
def test_every_level_gives_the_same_bits(level: Level, dtype: torch.dtype | None) -> None:
    """Losses, gradients, weights, running statistics, and the random numbers that come afterwards."""
    assert_equal_bits(trained(level, dtype=dtype), trained("none", dtype=dtype))


@pytest.mark.parametrize("level", ["cheap", "blocks"])
def test_frozen_batchnorm_and_batchnorm_without_momentum(level: Level) -> None:
    def make() -> nn.Module:
        net = Net()
        net.blocks[0].bn.momentum = None
        net.train = lambda mode=True: nn.Module.train(net, mode) and net.blocks[1].bn.eval() and net  # type: ignore[method-assign]
        return net

    assert_equal_bits(trained(level, make), trained("none", make))


def test_shared_parameters_get_the_sum_of_their_gradients() -> None:
    def make() -> nn.Module:
        net = Net(dropout=0.0)
        net.blocks[2] = net.blocks[0]
        return net

    expected = trained("none", make)
    assert_equal_bits(trained("blocks", make), expected)
    assert_equal_bits(trained("cheap", make), expected)


def kept(level: Level) -> int:
    """Bytes that a forward pass leaves for the backward pass."""
    with torch.device("meta"):
        net, clips = Net(dropout=0.0).train(), torch.empty(64, 4, 64, 25)
        with Lifetimes() as memory, recomputing(level):
            loss = net(clips).sum()
            left = memory.live
        del loss
        return left


def test_less_is_kept_level_by_level() -> None:
    """A block keeps its input (1), `conv` (2), the product (2) and the dropped sum; without recomputing also what is cheap."""
    unit = 4 * 64 * 64 * 4 * 25
    nothing, cheaply, blocks = (kept(level) for level in LEVELS)
    assert blocks <= 3.1 * unit
    assert cheaply <= 3 * 6.1 * unit
    assert nothing > 3 * 12 * unit


def test_memory_of_a_cheap_value_is_gone_before_and_after_its_last_use() -> None:
    runs = []

    def double(x: Tensor) -> Tensor:
        result = 2 * x
        runs.append(weakref.ref(result.untyped_storage()))
        return result

    gc.disable()
    try:
        x = torch.randn(8, requires_grad=True)
        with recomputing("cheap"):
            y = cheap(double, x)
            z = torch.tanh(y * y).sum()
            del y
        assert runs[0]() is None, "kept for the backward pass"
        z.backward()
        assert len(runs) == 2, "computed again once, for both of its uses"
        assert runs[1]() is None, "held after its last use"
    finally:
        gc.enable()


def test_a_plain_graph_is_freed_without_the_garbage_collector_too() -> None:
    """A hook that holds a node's result holds the node: such a graph would never be freed."""
    gc.disable()
    try:
        x = torch.randn(8, requires_grad=True)
        with recomputing("cheap"):
            z = torch.tanh(x)
            watch = weakref.ref(z.untyped_storage())
            z = z.sum()
        del z
        assert watch() is None
    finally:
        gc.enable()


def test_a_forgotten_graph_is_freed_without_the_garbage_collector() -> None:
    gc.disable()
    try:
        x = torch.randn(8, requires_grad=True)
        kept_for_it = torch.randn(8)
        watch = weakref.ref(kept_for_it.untyped_storage())
        with recomputing("cheap"):
            z = cheap(torch.mul, x, kept_for_it).tanh().sum()
        del kept_for_it, z
        assert watch() is None
    finally:
        gc.enable()


def test_a_chain_is_computed_again_once() -> None:
    counts = dict.fromkeys("abc", 0)

    def counted(name: str) -> Callable[[Tensor], Tensor]:
        def run(x: Tensor) -> Tensor:
            counts[name] += 1
            return torch.sin(x)

        return run

    x = torch.randn(5, requires_grad=True)

    def product() -> Tensor:
        a = cheap(counted("a"), x)
        b = cheap(counted("b"), a)
        c = cheap(counted("c"), b)
        return (a * b * c).sum()

    with recomputing("cheap"):
        loss = product()
    got = torch.autograd.grad(loss, x)[0]
    assert counts == dict.fromkeys("abc", 2)
    assert torch.equal(got, torch.autograd.grad(product(), x)[0])


def test_a_retained_graph_is_walked_again() -> None:
    x = torch.randn(5, requires_grad=True)
    with recomputing("cheap"):
        a = cheap(torch.sin, x)
        loss = (a * cheap(torch.cos, a)).sum()
    first = torch.autograd.grad(loss, x, retain_graph=True)[0]
    second = torch.autograd.grad(loss, x, retain_graph=True)[0]
    third = torch.autograd.grad(loss, x)[0]
    assert torch.equal(first, second)
    assert torch.equal(first, third)


def test_heads_may_go_back_one_by_one() -> None:
    x = torch.randn(5, requires_grad=True)

    def heads() -> tuple[Tensor, Tensor]:
        a = cheap(torch.sin, x)
        return (a * a).sum(), torch.exp(a).sum()

    with recomputing("cheap"):
        one, other = heads()
    expected = torch.autograd.grad(sum(heads()), x)[0]
    one.backward(retain_graph=True)
    other.backward()
    torch.testing.assert_close(x.grad, expected)


def test_views_of_a_result_and_several_views_of_one_storage() -> None:
    def run(x: Tensor) -> tuple[Tensor, ...]:
        return torch.sin(x).unbind(0)

    x = torch.randn(3, 4, requires_grad=True)
    with recomputing("cheap"):
        a, b, c = cheap(run, x)
        loss = (a[1:] * b[:-1] * c.flip(0)[1:]).sum()
    got = torch.autograd.grad(loss, x)[0]
    a, b, c = run(x)
    expected = torch.autograd.grad((a[1:] * b[:-1] * c.flip(0)[1:]).sum(), x)[0]
    assert torch.equal(got, expected)


def test_an_address_that_is_used_again_is_another_value() -> None:
    """Storages come and go at the same addresses: none may be taken for one before it."""
    x = torch.randn(1000, requires_grad=True)

    def loss() -> Tensor:
        total = torch.zeros(())
        for i in range(50):
            y = cheap(torch.sin, x * i)
            total = total + y.sum()  # saves nothing: the storage dies
            total = total + torch.tanh(x + i).square().sum()
        return total

    with recomputing("cheap"):
        ours = loss()
    assert torch.equal(torch.autograd.grad(ours, x)[0], torch.autograd.grad(loss(), x)[0])


def changed_result(x: Tensor) -> Tensor:
    return (cheap(torch.sin, x).mul_(2) ** 2).sum()


def changed_argument(x: Tensor) -> Tensor:
    y = x * 1
    loss = cheap(torch.sin, y).square().sum()
    y.add_(1)
    return loss


def changed_kept(x: Tensor) -> Tensor:
    y = x * 1
    loss = torch.sin(y).sum()
    y.add_(1)
    return loss


def returned_view(x: Tensor) -> Tensor:
    return cheap(lambda y: y[1:], x * 1).square().sum()


@pytest.mark.parametrize(
    ("misuse", "message"),
    [
        (changed_result, "changed in place"),
        (changed_argument, "changed in place"),
        (changed_kept, "changed in place"),
        (returned_view, "nothing to compute again"),
    ],
)
def test_misuse_is_refused(misuse: Callable[[Tensor], Tensor], message: str) -> None:
    with pytest.raises(RuntimeError, match=message), recomputing("cheap"):
        misuse(torch.randn(5, requires_grad=True)).backward()


def weights_change(net: nn.Module) -> None:
    with torch.no_grad():
        net.get_parameter("blocks.1.bn.bias").add_(1)


def evaluation_begins(net: nn.Module) -> None:
    net.eval()


@pytest.mark.parametrize("level", ["cheap", "blocks"])
@pytest.mark.parametrize("meanwhile", [weights_change, evaluation_begins])
def test_a_network_that_is_another_by_then_is_refused(meanwhile: Callable[[nn.Module], None], level: Level) -> None:
    net = Net(dropout=0.0).train()
    with recomputing(level):
        loss = net(torch.randn(2, 4, 8, 5)).sum()
    meanwhile(net)
    with pytest.raises(RuntimeError, match="between its forward and its backward pass"):
        loss.backward()


@pytest.mark.parametrize("level", ["cheap", "blocks"])
def test_borrowed_weights_are_refused(level: Level) -> None:
    net = Net(dropout=0.0).train()
    others = {name: 2 * value.detach() for name, value in net.named_parameters()}
    with recomputing(level):
        loss = torch.func.functional_call(net, others, (torch.randn(2, 4, 8, 5, requires_grad=True),)).sum()
    with pytest.raises(RuntimeError, match="replaced"):
        loss.backward()


def test_an_exception_leaves_nothing_behind() -> None:
    def broken(x: Tensor) -> Tensor:
        torch.sin(x)
        raise ValueError("broken")

    x = torch.randn(5, requires_grad=True)
    with recomputing("cheap"):
        with contextlib.suppress(ValueError):
            cheap(broken, x)
        loss = (cheap(torch.sin, x) ** 2).sum()
    assert torch.equal(torch.autograd.grad(loss, x)[0], torch.autograd.grad((x.sin() ** 2).sum(), x)[0])
    with pytest.raises(ValueError, match="broken"), recomputing("cheap"):
        cheap(broken, x)
    runs = [0]

    def counted(x: Tensor) -> Tensor:
        runs[0] += 1
        return x.sin()

    cheap(counted, x).square().sum().backward()
    assert runs == [1], "the context is closed"


def test_nothing_is_computed_again_without_gradients_or_outside() -> None:
    net = Net().eval()
    clips = torch.randn(2, 4, 8, 5)
    with torch.no_grad():
        expected = net(clips)
        for level in LEVELS:
            with recomputing(level):
                assert torch.equal(net(clips), expected)


def test_running_statistics_move_once_and_come_back_after_an_error() -> None:
    class Fails(Block):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            result = super().forward(x)
            self.calls += 1
            if self.calls == 2:
                raise ValueError("the second time")
            return result

    block = Fails().train()
    with recomputing("blocks"):
        loss = segment(block, torch.randn(2, 4, 8, 5, requires_grad=True)).sum()
    with pytest.raises(ValueError, match="the second time"):
        loss.backward()
    assert block.bn.track_running_stats
    assert int(block.bn.num_batches_tracked) == 1


def test_a_block_whose_input_needs_no_gradient_still_trains() -> None:
    block = Block(dropout=0.0).train()
    x = torch.randn(2, 4, 8, 5)
    with recomputing("blocks"):
        segment(block, x).sum().backward()
    assert block.conv.weight.grad is not None
    assert block.unused.grad is None


@pytest.fixture
def compiled_away() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def test_a_compiler_sees_plain_calls(compiled_away: None) -> None:
    net = Net(dropout=0.0).train()
    clips = torch.randn(2, 4, 8, 5)
    expected = torch.autograd.grad(net(clips).sum(), net.blocks[0].conv.weight)[0]
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    got = torch.autograd.grad(compiled(clips).sum(), net.blocks[0].conv.weight)[0]
    torch.testing.assert_close(got, expected)


def test_a_training_step_inside_a_thread() -> None:
    """The backward pass of a GPU runs in a thread of autograd's own, where no context is open."""
    import threading

    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(trained("blocks", lambda: Net(dropout=0.0))))
    thread.start()
    thread.join()
    assert_equal_bits(results[0][:3], trained("none", lambda: Net(dropout=0.0))[:3])
