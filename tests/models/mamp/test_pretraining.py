"""Masked motion prediction against loops over its tokens, and what training by it does."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.pretraining.step import PretrainStep
from layers.recompute import recomputing
from models.mamp import official
from models.mamp.pretraining import MaskedMotion, kept_tokens, motion, stirred
from shared_data.errors import UsageError

SMALL = {
    "skeleton": "ucla20", "people": 2, "frames": 12, "width": 16, "depth": 2, "heads": 2, "decoder_width": 8, "decoder_depth": 1,
}  # fmt: skip


def small(**given: object) -> MaskedMotion:
    torch.manual_seed(0)
    return MaskedMotion(**{**SMALL, **given}).double()


def clips(n: int = 3, *, views: int = 1, people: int = 2) -> Tensor:
    drawn = torch.randn(n, views, 3, 12, 20, people, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return drawn.cumsum(3)


def naive(objective: MaskedMotion, clips: Tensor, noise: Tensor) -> Tensor:
    """The loss of clips (N, C, T, V, M), token by token, in the official names of the weights."""
    w = {row.official: row.part(objective.state_dict()[row.ours]) for row in official.pretraining_table(objective)}
    n, c, t, v, m = clips.shape
    errors = []
    for sequence in range(n * m):
        x = clips[sequence // m, ..., sequence % m]  # (C, T, V)
        places = [(step, joint) for step in range(t // 4) for joint in range(v)]
        moves = {
            (step, joint): float((x[:, 4 * step : 4 * step + 4, joint] - x[:, 4 * step - 4 : 4 * step, joint]).abs().mean())
            for step, joint in places if step
        }  # fmt: skip
        moves |= {(0, joint): moves[1, joint] for joint in range(v)}
        scores = [float(r) for r in noise[sequence]]
        if objective.tau:
            units = [moves[place] / (objective.tau * max(moves.values()) + 1e-10) for place in places]
            total = sum(math.exp(unit) for unit in units)
            gumbel = [-math.log(-math.log(r + 1e-10) + 1e-10) for r in scores]
            scores = [math.log(math.exp(unit) / total) + g for unit, g in zip(units, gumbel, strict=True)]
        kept = sorted(range(len(places)), key=lambda i: scores[i])[: int(len(places) * (1 - 0.9))]
        tokens = []
        for i in kept:
            step, joint = places[i]
            token = w["joints_embed.proj.bias"].clone()
            for f in range(4):
                token = token + w["joints_embed.proj.weight"].view(-1, c, 4)[..., f] @ x[:, 4 * step + f, joint]
            tokens.append(token + w["temp_embed"].view(-1, 16)[step] + w["pos_embed"].view(-1, 16)[joint])
        encoded = objective.encoder.norm(nn.Sequential(*objective.encoder.blocks)(torch.stack(tokens)[None]))[0]
        decoded = objective.decoder.embed(encoded)
        full = []
        for i, (step, joint) in enumerate(places):
            token = decoded[kept.index(i)] if i in kept else w["mask_token"].view(-1)
            full.append(token + w["decoder_temp_embed"].view(-1, 8)[step] + w["decoder_pos_embed"].view(-1, 8)[joint])
        predicted = objective.decoder.predict(objective.decoder.norm(objective.decoder.blocks[0](torch.stack(full)[None])))[0]
        for i, (step, joint) in enumerate(places):
            if i in kept:
                continue
            values = []
            for f in range(4 * step, 4 * step + 4):
                later = f + objective.stride
                values += [float(x[a, later, joint] - x[a, f, joint]) if later < t else 0.0 for a in range(c)]
            target = torch.tensor(values, dtype=torch.float64)
            target = (target - target.mean()) / (target.var(unbiased=True) + 1e-6).sqrt()
            errors.append((predicted[i] - target).square().mean())
    return torch.stack(errors).mean()


@pytest.mark.parametrize("given", [{}, {"tau": 0.0}, {"stride": 2}, {"tau": 0.3}])
def test_loss_and_gradients_are_the_loops(given):
    objective = small(**given)
    views = clips()
    views[1, ..., 1] = 0.0  # an absent person
    noise = torch.rand(6, 60, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    loss, _ = objective.loss(objective.embed(views, torch.arange(3), noise))
    parameters = [p for name, p in objective.named_parameters() if "blocks" in name or "predict" in name]
    gradients = torch.autograd.grad(loss, parameters)
    expected = naive(objective, views[:, 0], noise)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
    for ours, theirs in zip(gradients, torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-10)


def test_74_of_750_tokens_are_kept():
    with torch.device("meta"):
        objective = MaskedMotion()
        found = objective.predicted(torch.empty(2, 3, 120, 25, 2))
    assert found.encoded.shape == (4, 74, 256) and found.predicted.shape == found.target.shape == (4, 750, 12)
    objective = small()
    mask = objective.predicted(clips(2)[:, 0]).mask
    assert mask.unique().tolist() == [0, 1] and mask.sum(1).tolist() == [55] * 4


def test_what_moves_is_masked_more_often():
    x = torch.zeros(400, 3, 12, 20, 1)
    x[:, :, :, 7] = torch.linspace(0, 1, 12).view(1, 1, -1, 1)
    patches = x.permute(0, 4, 2, 3, 1).reshape(400, 3, 4, 20, 3).transpose(2, 3).reshape(400, 60, 12)
    moves = stirred(patches, 3)
    assert moves.view(400, 3, 20)[:, :, 7].amin() > 0 and moves.view(400, 3, 20)[..., :7].amax() == 0
    noise = torch.rand(400, 60, generator=torch.Generator().manual_seed(0))
    for tau, least in ((0.2, 2.0), (0.8, 1.2)):
        kept = torch.zeros(400, 60).scatter_(1, kept_tokens(moves, noise, 6, tau), 1.0).mean(0).view(3, 20)
        assert kept.sum() == pytest.approx(6)
        assert kept[:, 7].mean() * least < kept[:, [0, 19]].mean()
    uniform = torch.zeros(400, 60).scatter_(1, kept_tokens(moves, noise, 6, 0.0), 1.0).mean(0)
    assert abs(uniform - 0.1).max() < 0.06


def test_how_much_a_token_moves_by_hand():
    patches = torch.tensor([[[0.0, 0], [1, 1]], [[2, 4], [1, 0]], [[2, 4], [0, 2]]]).reshape(1, 6, 2)  # 3 steps of 2 joints
    assert stirred(patches, 3).tolist() == [[3.0, 0.5, 3.0, 0.5, 0.0, 1.5]]


def test_motion():
    x = torch.arange(5.0).square().view(1, 1, 5, 1, 1)
    assert motion(x).flatten().tolist() == [1, 3, 5, 7, 0] and motion(x, 3).flatten().tolist() == [9, 15, 0, 0, 0]


def test_targets():
    """Nothing moves: 0. All 12 numbers of a patch alike: 0. Otherwise mean 0 and unbiased variance 1."""
    objective = small()
    still = torch.ones(1, 3, 12, 20, 2, dtype=torch.float64)
    assert not objective.predicted(still).target.any()
    even = still * torch.arange(12).view(1, 1, -1, 1, 1)
    target = objective.predicted(even).target.unflatten(1, (3, 20))
    assert not target[:, :2].any()
    last = torch.tensor([1.0] * 9 + [0.0] * 3, dtype=torch.float64)  # nothing follows the last frame
    torch.testing.assert_close(target[0, 2, 0], (last - last.mean()) / (last.var() + 1e-6).sqrt())
    target = objective.predicted(clips(1)[:, 0]).target
    torch.testing.assert_close(target.var(-1), torch.ones_like(target[..., 0]), rtol=1e-3, atol=0)
    plain = small(target="position", norm_target=False, tau=0.0).predicted(clips(1)[:, 0]).target
    assert torch.equal(plain[1, 21].view(4, 3), clips(1)[0, 0, :, 4:8, 1, 1].T)


def test_pieces_and_views_add_up():
    objective = small()
    views, ids = clips(4, views=2), torch.arange(4)
    noise = torch.rand(16, 60, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    whole = objective.embed(views, ids, noise)
    assert whole["error"].shape == (4,) and whole["features"].shape == (4, 16) and not whole["features"].requires_grad
    parts = [objective.embed(views[i : i + 2], ids[i : i + 2], noise[4 * i : 4 * i + 8]) for i in (0, 2)]
    torch.testing.assert_close(torch.cat([part["error"] for part in parts]), whole["error"], rtol=1e-12, atol=0)
    apart = objective.embed(views.flatten(0, 1).unsqueeze(1), torch.arange(8), noise)["error"]
    torch.testing.assert_close(apart.view(4, 2).mean(1), whole["error"], rtol=1e-12, atol=0)
    assert torch.equal(objective.features(whole), whole["features"])


def test_noise_is_torch_s():
    objective = small()
    torch.manual_seed(5)
    drawn = torch.rand(6, 60)
    torch.manual_seed(5)
    one, other = objective.embed(clips(), torch.arange(3)), objective.embed(clips(), torch.arange(3), drawn)
    assert torch.equal(one["error"], other["error"])


def trained(objective: MaskedMotion, steps: int, *, first: int = 0) -> list[float]:
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    step, losses = PretrainStep(objective.train(), optimizer), []
    for i in range(first, first + steps):
        torch.manual_seed(i)
        losses.append(float(step(clips(6)[:, 0], torch.arange(6)).loss))
    return losses


def test_training_learns_and_every_parameter_with_it():
    objective = small()
    before = copy.deepcopy(objective.state_dict())
    losses = trained(objective, 60)
    assert sum(losses[-10:]) < 0.93 * sum(losses[:10])
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in objective.parameters())
    assert not any(torch.equal(value, before[name]) for name, value in objective.state_dict().items())


def test_state_makes_the_next_step():
    objective = small()
    trained(objective, 2)
    other = small(mask_ratio=0.9)
    other.load_state_dict(copy.deepcopy(objective.state_dict()))
    assert trained(objective, 1, first=9) == trained(other, 1, first=9)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in objective.state_dict().items())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_levels_have_the_same_bits(precision):
    def gradients(level):
        objective = small().float().train()
        torch.manual_seed(3)
        with recomputing(level), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss, _ = objective.loss(objective.embed(clips().float(), torch.arange(3)))
        loss.backward()
        return [loss.detach(), *(p.grad for p in objective.parameters())]

    kept = gradients("none")
    for level in ("cheap", "blocks"):
        assert all(map(torch.equal, gradients(level), kept)), level


def test_start_values():
    torch.manual_seed(0)
    objective = MaskedMotion(decoder_depth=1, depth=1)
    state = {row.official: row.part(objective.state_dict()[row.ours]) for row in official.pretraining_table(objective)}
    for name, value in state.items():
        if name.endswith(("embed", "mask_token")):
            assert float(value.std()) == pytest.approx(0.02, rel=0.15), name
        elif name.startswith("joints_embed"):
            assert float(value.abs().max()) <= 12**-0.5 and float(value.std()) == pytest.approx((1 / 36) ** 0.5, rel=0.2), name
        elif name.endswith("bias"):
            assert not value.any(), name
        elif value.dim() == 1:
            assert torch.equal(value, torch.ones_like(value)), name
        else:
            bound = math.sqrt(6 / sum(value.shape))
            assert float(value.abs().max()) <= bound and float(value.std()) == pytest.approx(bound / 3**0.5, rel=0.05), name


@pytest.mark.parametrize(
    "given",
    [
        {"mask_ratio": 0.999}, {"mask_ratio": 0.0}, {"decoder_depth": 0}, {"decoder_width": 7}, {"stride": 12}, {"tau": -1.0},
        {"target": "velocity"}, {"frames": 4}, {"frames": 10}, {"width": 15},
    ],
)  # fmt: skip
def test_what_does_not_work_is_refused(given):
    with pytest.raises(UsageError):
        small(**given)


def test_the_encoder_is_the_classifier_s():
    objective = small()
    assert objective.encoders() == {"": objective.encoder}
    assert F.cosine_similarity(objective.encoder(clips()[:, 0]), objective.encoder(clips()[:, 0])).min() > 0.999
