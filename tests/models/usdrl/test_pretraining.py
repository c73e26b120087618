"""Dense decorrelation: its terms against loops, its BatchNorms, its gradients, its state, and that it learns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from layers.recompute import Level, recomputing
from models.usdrl.pretraining import DenseDecorrelation, Projector, decorrelation
from shared_data.errors import LabError, UsageError
from tests.models.usdrl.naive import naive_terms

SMALL: dict[str, Any] = {"people": 2, "frames": 6, "width": 8}
IDS = torch.arange(5)


def views(clips: int = 5, *, k: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(clips, k, 3, 6, 25, 2, generator=torch.Generator().manual_seed(seed))


def step(objective: DenseDecorrelation, given: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    objective.begin()
    embedded = objective.embed(given, torch.arange(len(given)))
    loss, terms = objective.loss(embedded)
    loss.backward()
    objective.finish({key: value.detach() for key, value in embedded.items()})
    return loss, terms


@pytest.mark.parametrize(("n", "d"), [(5, 33), (40, 7), (2, 3)])
def test_terms_are_those_of_whole_matrices(n: int, d: int) -> None:
    """Without any D x D matrix, in float64: values and gradients."""
    z = (torch.randn(4, n, d, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 0.9 + 0.3).requires_grad_()
    ours, slow = decorrelation(z), naive_terms(z)
    assert list(ours) == list(slow) == ["sim", "vac", "xcorr"]
    for name, value in ours.items():
        torch.testing.assert_close(value, slow[name], rtol=1e-12, atol=0)
        gradients = [torch.autograd.grad(v, z, retain_graph=True)[0] for v in (value, slow[name])]
        torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-11)


def test_identities_of_gram_matrices() -> None:
    a, b = torch.randn(2, 6, 20, dtype=torch.float64)
    torch.testing.assert_close((a.T @ a).square().sum(), (a @ a.T).square().sum(), rtol=1e-13, atol=0)
    torch.testing.assert_close((a.T @ b).square().sum(), ((a @ a.T) * (b @ b.T)).sum(), rtol=1e-12, atol=0)


def test_equal_views_are_similar_and_independent_numbers_are_not_redundant() -> None:
    z = torch.linalg.qr(torch.randn(16, 5, dtype=torch.float64) - 0.5)[0]
    z = torch.linalg.qr(z - z.mean(0))[0] * 40  # centred, uncorrelated, wide
    terms = decorrelation(z.expand(4, -1, -1))
    assert abs(float(terms["sim"])) < 1e-12 and abs(float(terms["vac"])) < 1e-9
    assert float(terms["xcorr"]) == pytest.approx(6 * 5 / 16**2)  # (15 / 16 - 1)^2 of each number and pair


def test_terms_are_of_full_precision_under_autocast() -> None:
    z = torch.randn(4, 5, 9)
    with torch.autocast("cpu", torch.bfloat16):
        assert all(torch.equal(value, decorrelation(z)[name]) for name, value in decorrelation(z).items())
        rounded = decorrelation(z.bfloat16())
    assert all(value.dtype == torch.float32 for value in rounded.values())
    assert all(torch.equal(value, decorrelation(z.bfloat16().float())[name]) for name, value in rounded.items())


def test_sums_of_terms() -> None:
    torch.manual_seed(0)
    objective = DenseDecorrelation(**SMALL, sim_weight=2.0, vac_weight=3.0, xcorr_weight=0.5)
    loss, terms = step(objective, views())
    assert set(terms) == {f"{term}{name}" for term in ("sim", "vac", "xcorr") for name in ("", "_t", "_s", "_i")}
    assert all(value.shape == () for value in (loss, *terms.values()))
    for term in ("sim", "vac", "xcorr"):
        torch.testing.assert_close(terms[term], terms[f"{term}_i"] + 0.5 * (terms[f"{term}_t"] + terms[f"{term}_s"]))
    torch.testing.assert_close(loss, 2 * terms["sim"] + 3 * terms["vac"] + 0.5 * terms["xcorr"])


@pytest.mark.parametrize("backbone", ["sttr", "dste"])
def test_as_four_passes_one_after_the_other(backbone: str) -> None:
    """Features, losses and running statistics are those of the official way, view by view."""
    torch.manual_seed(0)
    ours = DenseDecorrelation(**SMALL, backbone=backbone, drop_path=0.0).double()
    slow = DenseDecorrelation(**SMALL, backbone=backbone, drop_path=0.0).double()
    slow.load_state_dict(ours.state_dict())
    given = views().double()
    _, terms = ours.loss(ours.embed(given, IDS))
    projected: dict[str, list[Tensor]] = {"t": [], "s": [], "i": []}
    for k in range(4):
        tokens = slow.encoder.tokens(given[:, k])
        t, s = (rows.max(1).values for rows in tokens)
        for name, features in (("t", t), ("s", s), ("i", torch.cat([t, s], 1))):
            x = features
            for linear, norm in zip(slow.projectors[name].hidden, slow.projectors[name].norms, strict=True):
                x = torch.relu(norm(linear(x)))
            projected[name].append(slow.projectors[name].out(x))
    for name, z in projected.items():
        for term, value in naive_terms(torch.stack(z)).items():
            torch.testing.assert_close(terms[f"{term}_{name}"], value, rtol=1e-9, atol=1e-12)
    for (name, mine), theirs in zip(ours.state_dict().items(), slow.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-14, msg=name)
    assert int(ours.projectors["i"].norms[1].num_batches_tracked) == 4


def test_pieces_of_a_batch_change_nothing() -> None:
    """What depends on other clips is in the loss alone."""
    torch.manual_seed(0)
    whole, pieces = DenseDecorrelation(**SMALL).double(), DenseDecorrelation(**SMALL).double()
    pieces.load_state_dict(whole.state_dict())
    given = views(6).double()
    one, _ = whole.loss(whole.embed(given, torch.arange(6)))
    parts = [pieces.embed(given[i : i + 2], torch.arange(i, i + 2))["features"] for i in (0, 2, 4)]
    other, _ = pieces.loss({"features": torch.cat(parts)})
    torch.testing.assert_close(one, other, rtol=1e-12, atol=0)
    assert whole.in_batch


def test_gradients_reach_everything() -> None:
    torch.manual_seed(0)
    objective = DenseDecorrelation(**SMALL, backbone="dste")
    step(objective, views())
    assert all(p.grad is not None and torch.isfinite(p.grad).all() and p.grad.any() for p in objective.parameters())


@pytest.mark.parametrize("level", ["cheap", "blocks"])
def test_levels_have_the_same_bits(level: Level) -> None:
    torch.manual_seed(0)
    one, other = (DenseDecorrelation(**SMALL, backbone="dste") for _ in range(2))
    other.load_state_dict(one.state_dict())
    for objective, how in ((one, "none"), (other, level)):
        torch.manual_seed(3)  # drop path
        with recomputing(how):
            loss, _ = objective.loss(objective.embed(views(), IDS))
        loss.backward()
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(one.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(p, q) for p, q in zip(one.buffers(), other.buffers(), strict=True))


def test_a_step_without_values() -> None:
    """On the meta device, where nothing can be looked at and nothing comes from another device."""
    with torch.device("meta"):
        objective = DenseDecorrelation(**SMALL)
        loss, _ = step(objective, torch.empty(5, 4, 3, 6, 25, 2))
    assert loss.is_meta and all(p.grad.is_meta for p in objective.parameters())


def test_initialisation_of_the_projectors() -> None:
    torch.manual_seed(0)
    objective = DenseDecorrelation()
    matrices = {name: [p for p in part.parameters() if p.dim() == 2] for name, part in objective.projectors.items()}
    assert {name: [tuple(p.shape) for p in some] for name, some in matrices.items()} == {
        "t": [(2048, 1024), (2048, 2048), (2048, 2048)], "s": [(2048, 1024), (2048, 2048), (2048, 2048)],
        "i": [(2048, 2048), (2048, 2048), (4096, 2048)],
    }  # fmt: skip
    for weight in (p.detach() for p in objective.projectors.parameters() if p.dim() == 2):
        assert float(weight.std()) == pytest.approx(0.02, rel=0.02) and float(weight.mean()) == pytest.approx(0, abs=1e-4)
    with torch.device("meta"):
        dste = DenseDecorrelation(backbone="dste")
    assert sum(p.numel() for p in objective.parameters()) == 65_507_328
    assert sum(p.numel() for p in dste.parameters()) == 94_931_160


def test_it_learns() -> None:
    """On a handful of made-up clips the loss falls, and views of a clip come nearer than clips are to each other."""
    torch.manual_seed(0)
    objective = DenseDecorrelation(**{**SMALL, "width": 16})
    optimizer = torch.optim.Adam(objective.parameters(), 1e-3, weight_decay=1e-5)
    clips = torch.randn(8, 1, 3, 6, 25, 2)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        loss, _ = step(objective, clips + 0.1 * torch.randn(8, 4, 3, 6, 25, 2))
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    features = objective.features(objective.embed(clips + 0.1 * torch.randn(8, 4, 3, 6, 25, 2), torch.arange(8))).detach()
    assert features.shape == (8, 2, 32)
    one, other = features.unbind(1)
    assert float((one - other).norm(dim=1).mean()) < float((one - other.roll(1, 0)).norm(dim=1).mean())


def test_state_there_and_back_gives_the_same_step() -> None:
    torch.manual_seed(0)
    one, other = (DenseDecorrelation(**SMALL, backbone="dste") for _ in range(2))
    step(one, views(seed=1))
    one.zero_grad()
    other.load_state_dict(one.state_dict())
    results = []
    for objective in (one, other):
        torch.manual_seed(3)  # drop path
        loss, _ = step(objective, views(seed=2))
        results.append([loss, *(p.grad for p in objective.parameters()), *objective.buffers()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_one_encoder_which_is_the_classifiers() -> None:
    objective = DenseDecorrelation(**SMALL)
    assert list(objective.encoders()) == [""] and objective.encoders()[""] is objective.encoder


def test_refuses() -> None:
    objective = DenseDecorrelation(**SMALL)
    with pytest.raises(UsageError, match="4 views of a clip and was given 2"):
        objective.embed(views(k=2), IDS)
    with pytest.raises(LabError, match="one clip"):
        objective.loss(objective.embed(views(1), IDS[:1]))


def test_projector_keeps_views_apart() -> None:
    """A view's projections do not change with the others'."""
    torch.manual_seed(0)
    projector = Projector(4, 6, 6)
    x = torch.randn(4, 5, 4)
    changed = torch.cat([x[:2], 3 * x[2:] + 1])
    assert torch.equal(projector(x)[:2], projector(changed)[:2]) and not torch.allclose(projector(x)[2:], projector(changed)[2:])
