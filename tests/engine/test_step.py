import pytest
import torch
from torch import nn

from engine.errors import ConfigError
from engine.losses import build_loss
from engine.optimizers import build_optimizer
from engine.step import TrainStep, forward, takes_positions

CLIPS = torch.randn(8, 3, 4, 5, 2, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(8) % 3
POSITIONS = torch.linspace(-1, 1, 32).view(8, 4)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(120, 16), nn.Tanh(), nn.Linear(16, 3))


def stepped(**options: object) -> tuple[nn.Module, TrainStep]:
    model = network()
    step = TrainStep(model, build_optimizer(model.parameters(), lr=0.1, weight_decay=1e-3), build_loss(), **options)  # type: ignore[arg-type]
    return model, step


def test_micro_batches_give_the_update_of_the_whole_batch() -> None:
    whole, step = stepped()
    result = step(CLIPS, LABELS)
    pieces, micro = stepped(micro_batch=3)  # 3 + 3 + 2: the last piece is smaller
    other = micro(CLIPS, LABELS)
    assert float(other.loss) == pytest.approx(float(result.loss), rel=1e-6)
    assert int(other.correct) == int(result.correct)
    assert float(other.grad_norm) == pytest.approx(float(result.grad_norm), rel=1e-5)
    for a, b in zip(whole.parameters(), pieces.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_clipping_bounds_the_update_and_reports_the_norm_before_it() -> None:
    model, step = stepped(clip_grad=0.01)
    before = [p.detach().clone() for p in model.parameters()]
    result = step(CLIPS, LABELS)
    assert float(result.grad_norm) > 0.01
    norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    assert float(norm) == pytest.approx(0.01, rel=1e-3)
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_bf16_trains_close_to_fp32() -> None:
    _, exact = stepped()
    _, rough = stepped(precision="bf16")
    for _ in range(5):
        a, b = exact(CLIPS, LABELS), rough(CLIPS, LABELS)
    assert float(b.loss) == pytest.approx(float(a.loss), rel=0.02)
    assert float(b.loss) != float(a.loss)  # autocast did act


class Penalised(nn.Module):
    """Reads positions, and has a penalty of its own on its weights."""

    takes_positions = True

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()

    def forward(self, clips: torch.Tensor, positions: torch.Tensor | None = None) -> torch.Tensor:
        assert positions is not None
        return self.inner(clips) + positions.mean(1, keepdim=True)

    def penalty(self) -> torch.Tensor:
        return self.inner[3].weight.square().sum()


def test_the_models_own_penalty_is_part_of_the_loss_in_any_number_of_pieces() -> None:
    results = []
    for micro in (None, 3):
        torch.manual_seed(0)
        model = Penalised()
        optimizer = build_optimizer(model.parameters(), lr=0.1)
        plain = build_loss()(model(CLIPS, POSITIONS), LABELS) + 0.5 * model.penalty()
        step = TrainStep(model, optimizer, build_loss(), penalty=0.5, micro_batch=micro)
        result = step(CLIPS, LABELS, POSITIONS)
        assert float(result.loss) == pytest.approx(float(plain.detach()), rel=1e-6)
        results.append(result)
    assert float(results[0].grad_norm) == pytest.approx(float(results[1].grad_norm), rel=1e-5)


def test_a_penalty_that_the_model_lacks_is_refused() -> None:
    with pytest.raises(ConfigError, match="no penalty"):
        stepped(penalty=1.0)


def test_positions_reach_only_the_networks_that_read_them() -> None:
    model = Penalised()
    assert takes_positions(model) and not takes_positions(network())
    moved = forward(model, CLIPS, POSITIONS + 1.0) - forward(model, CLIPS, POSITIONS)
    torch.testing.assert_close(moved, torch.ones(8, 3))
    assert torch.equal(forward(network(), CLIPS, POSITIONS), network()(CLIPS))
