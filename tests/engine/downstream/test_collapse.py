"""What shows a collapse, on features whose collapse is known, against naive formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.downstream import collapse as module
from engine.downstream.collapse import collapse, of_batch
from engine.errors import DivergedError


def gaussian(count: int = 600, width: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


def test_features_all_around() -> None:
    found = collapse(gaussian())
    assert found.spread == pytest.approx(1, abs=0.02)
    assert 29 < found.effective_rank <= 32
    assert found.uniformity == pytest.approx(-3.8, abs=0.15)
    assert found.alignment is None
    assert (found.state, found.clips, found.width) == ("spread out", 600, 32)
    assert found.verdict.startswith(f"no collapse: spread {found.spread:.3f} (")


def test_the_same_feature_of_every_clip() -> None:
    one = np.repeat(gaussian(1), 50, 0)
    found = collapse(one * np.linspace(1, 2, 50, dtype=np.float32)[:, None], one)
    assert (found.state, found.effective_rank) == ("collapsed", 0)
    assert found.spread == pytest.approx(0, abs=1e-6)
    assert found.uniformity == pytest.approx(0, abs=1e-6)
    assert found.alignment == pytest.approx(0, abs=1e-6)
    assert found.verdict.startswith("collapsed: spread 0.000")
    nearly = collapse(one + 0.01 * gaussian(50, seed=1))
    assert nearly.state == "collapsed"


def test_a_line_is_few_directions() -> None:
    found = collapse(np.sign(gaussian(100, 1)) * gaussian(1, seed=2))
    assert found.state == "few directions"
    assert found.effective_rank == pytest.approx(1)
    assert found.verdict.startswith("collapsed to few directions: effective rank 1.0 of 32 is below 2")


@pytest.mark.parametrize("width", [5, 64], ids=["more clips than dimensions", "fewer"])
def test_naive_formulas(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AT_A_TIME", 7)
    first, second = gaussian(30, width).astype(np.float64), gaussian(30, width, 1).astype(np.float64)
    x, y = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (first, second))
    found = collapse(first.astype(np.float32), torch.from_numpy(second.astype(np.float32)))
    pairs = [np.exp(-2 * ((x[i] - x[j]) ** 2).sum()) for i in range(30) for j in range(30) if i != j]
    assert found.uniformity == pytest.approx(np.log(np.mean(pairs)), rel=1e-5)
    assert found.alignment == pytest.approx(((x - y) ** 2).sum(1).mean(), rel=1e-5)
    assert found.spread == pytest.approx(x.std(0).mean() * width**0.5, rel=1e-5)
    shares = np.linalg.svd(x - x.mean(0), compute_uv=False)
    shares = shares[shares > 1e-6] / shares.sum()
    assert found.effective_rank == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-5)


def test_a_sample_is_drawn_by_its_seed() -> None:
    values = gaussian(300)
    one, same, other = (collapse(values, sample=40, seed=seed) for seed in (0, 0, 1))
    assert one == same != other
    assert one.clips == 40


def test_refusals() -> None:
    values = gaussian(10)
    values[2, 3] = np.inf
    with pytest.raises(DivergedError, match="1 of 10 clips"):
        collapse(values)
    with pytest.raises(ValueError, match="two clips"):
        collapse(values[:1])


def test_a_batch_is_looked_at_as_features_are() -> None:
    torch.manual_seed(0)
    views = torch.randn(40, 2, 6) * torch.tensor([3.0, 1, 1, 1, 1, 1])
    whole = collapse(views[:, 0], views[:, 1])
    found = {name: float(value) for name, value in of_batch(views).items()}
    assert found == pytest.approx({name: getattr(whole, name) for name in ("spread", "uniformity", "alignment")}, rel=1e-4)
    assert set(of_batch(views[:, 0])) == {"spread", "uniformity"}
    same = of_batch(torch.ones(5, 6))
    assert float(same["spread"]) == 0 and float(same["uniformity"]) == pytest.approx(0, abs=1e-5)
