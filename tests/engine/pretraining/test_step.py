"""A step of an objective: pieces of a batch add up to the whole, with the same random numbers, and queues take all of it."""

from __future__ import annotations

import copy

import pytest
import torch

from engine.pretraining.step import PretrainStep
from tests.engine.pretraining.toys import Together, Toy


def views(n: int = 6) -> torch.Tensor:
    return torch.randn(n, 2, 3, 5, 4, 1, generator=torch.Generator().manual_seed(3))


def stepped(objective: torch.nn.Module, micro: int | None, steps: int = 3, recompute: str = "none") -> tuple[list[float], dict]:
    objective = copy.deepcopy(objective).train()
    parameters = [p for p in objective.parameters() if p.requires_grad]
    step = PretrainStep(
        objective, torch.optim.SGD(parameters, lr=0.1), micro_batch=micro, clip_grad=1.0, recompute=recompute  # type: ignore[arg-type]
    )  # fmt: skip
    losses = []
    for i in range(steps):
        torch.manual_seed(i)
        losses.append(float(step(views(), torch.arange(6) + 6 * i).loss))
    return losses, objective.state_dict()


@pytest.mark.parametrize("kind", [Toy, Together])
@pytest.mark.parametrize("micro", [1, 2, 4])
def test_pieces_are_the_whole(kind, micro):
    torch.manual_seed(0)
    objective = kind()
    (one, whole), (other, pieces) = stepped(objective, None), stepped(objective, micro)
    assert other == pytest.approx(one, rel=1e-5)
    assert one[0] != one[-1]
    for name, value in whole.items():
        torch.testing.assert_close(pieces[name], value, rtol=1e-4, atol=1e-6, msg=name)
        assert not torch.equal(objective.state_dict()[name], value), name


def test_the_second_pass_draws_what_the_first_drew():
    """Otherwise gradients belong to other embeddings than those of the loss: a piece taken twice must be a plain step."""
    torch.manual_seed(0)
    objective = Together(dropout=0.5)

    class AsIfSeveral(PretrainStep):
        def _added(self, *given):
            return self._cached(*given)

    def trained(kind):
        copied = copy.deepcopy(objective).train()
        step = kind(copied, torch.optim.SGD(copied.parameters(), lr=0.1))
        torch.manual_seed(7)
        loss = float(step(views(), torch.arange(6)).loss)
        return loss, copied.state_dict(), torch.rand(1)

    (one, plain, after), (two, cached, later) = trained(PretrainStep), trained(AsIfSeveral)
    assert one == pytest.approx(two, rel=1e-6) and torch.equal(after, later)
    for name, value in plain.items():
        torch.testing.assert_close(cached[name], value, rtol=1e-5, atol=1e-7)


def test_a_step_says_its_terms_and_the_spread():
    torch.manual_seed(0)
    objective = Together()
    step = PretrainStep(objective, torch.optim.SGD(objective.parameters(), lr=0.0))
    result = step(views(), torch.arange(6))
    assert set(result.terms) == {"alike", "covariance", "spread", "uniformity"}
    assert float(result.loss) == pytest.approx(float(result.terms["alike"] + result.terms["covariance"]), rel=1e-6)
    assert 0.1 < float(result.terms["spread"]) < 2
    same = step(views()[:1].expand(6, -1, -1, -1, -1, -1), torch.arange(6))
    assert float(same.terms["spread"]) < 1e-6


def test_keys_have_no_gradient_and_follow():
    torch.manual_seed(0)
    objective = Toy()
    before = objective.key.linear.weight.clone()
    step = PretrainStep(objective, torch.optim.SGD([p for p in objective.parameters() if p.requires_grad], lr=0.1))
    step(views(), torch.arange(6))
    torch.testing.assert_close(objective.key.linear.weight, before)  # the query was still the same when it followed
    query = objective.query.linear.weight.clone()
    step(views(), torch.arange(6))
    torch.testing.assert_close(objective.key.linear.weight, 0.9 * before + 0.1 * query)
    assert objective.key.linear.weight.grad is None and set(objective.queue.ids.tolist()) == set(range(6))


def test_each_gradient_is_clipped_by_itself_where_asked():
    torch.manual_seed(0)
    objective = Together()
    before = {k: v.clone() for k, v in objective.state_dict().items()}
    step = PretrainStep(objective, torch.optim.SGD(objective.parameters(), lr=1.0), clip_grad=1e-3, clip_each=True)
    step(views(), torch.arange(6))
    for name, value in objective.state_dict().items():
        assert float((value - before[name]).norm()) == pytest.approx(1e-3, rel=1e-2), name
