"""Judging a zero-shot system: one forward and backward pass, and twelve training steps, against the official numbers.

The four networks and the classifier of latents stand under the prefixes se, sd, te, td and cls. All numbers that were random
officially (noise, pairing) are recorded. Loss terms, factors and optimizer are those of `engine.zeroshot`.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from engine.parity.batches import feature_batches
from engine.parity.fixture import Fixture, FixtureError, start_weights, weights
from engine.parity.limits import FLOAT32, FLOAT64, Limits
from engine.parity.lines import NORM_FLOOR, Line, norm_error, relative_error, value_error
from engine.parity.network import norm
from engine.parity.trajectory import ADAM, EARLY, EXACT, FLOAT32_FLOOR, SINGLE, SPREAD
from engine.parity.trajectory import FLOAT32 as FLOAT32_TIMES
from engine.zeroshot import official
from engine.zeroshot.draws import Draw
from engine.zeroshot.losses import terms
from engine.zeroshot.network import AlignedVAE, LatentClassifier, reparameterised
from engine.zeroshot.optimizer import adam
from engine.zeroshot.schedule import Factors, factors
from engine.zeroshot.system import System, find
from shared_data.errors import LabError

NUMBER = r"([0-9.]+(?:e-?[0-9]+)?)"
DIVERGENCES = re.compile(rf"- \({NUMBER} \* s_kld \+ {NUMBER} \* t_kld\)")
CALIBRATED = re.compile(rf"{NUMBER} \* {NUMBER} \* \(mean 1/\(1\+exp")
CROSSED = "+ mse(s, sfromt) + mse(t, tfroms)"
STRIDE = re.compile(r"\[:, ::([0-9]+)\]")
OUTPUTS = ("smu", "slv", "sout", "tmu", "tlv", "tout", "sfromt", "tfroms", "cls")
CLASSIFIER = "cls."
SERIES = {  # official name of a term -> ours
    "s_recons": "skeleton_reconstruction", "t_recons": "text_reconstruction",
    "s_kld": "skeleton_divergence", "t_kld": "text_divergence",
    "t_cali": "text_alignment", "s_cali": "skeleton_alignment", "t_crecons": "text_alignment", "s_crecons": "skeleton_alignment",
}  # fmt: skip
NEGATIVE = ("s_kld", "t_kld")  # the official code computes these with the other sign, and subtracts them
FACTORS = {"k_fact": "skeleton", "k_fact2": "text", "cr_fact": "alignment"}


def is_zeroshot(fixture: Fixture) -> bool:
    """Whether a fixture is of one of the zero-shot systems."""
    return set(official.PARTS) <= set(fixture.meta.get("constructor_args") or ())


def judge(fixture: Fixture) -> list[Line]:
    """All lines; raises `FixtureError` if the model is not here, or the loss or the settings are not known."""
    try:
        system = find(str(fixture.need("model")))
    except LabError as error:
        raise FixtureError(
            f"this fixture is of a model that is not here: {fixture.meta['model']}", where=str(fixture.path), expected=error.what
        ) from error
    return (_trajectory if "steps" in fixture.meta else _forward)(system, fixture)


@dataclass(frozen=True)
class _Networks:
    """The autoencoders and the classifier with a fixture's weights, and the way to official names."""

    system: System
    vae: AlignedVAE
    classifier: LatentClassifier | None

    def modules(self) -> nn.ModuleList:
        return nn.ModuleList([self.vae, *([self.classifier] if self.classifier is not None else [])])

    def named(self, what: str) -> dict[str, Tensor]:
        """Official name -> "state" (with the constants), or "gradient" where there is one."""

        def of(network: nn.Module) -> dict[str, Tensor]:
            if what == "state":
                return {k: v.detach().clone() for k, v in network.state_dict().items()}
            return {k: p.grad for k, p in network.named_parameters() if p.grad is not None}

        found = official.to_official(self.system, of(self.vae), self.vae)
        if self.classifier is not None:
            inner = official.classifier_to_official(of(self.classifier))
            found |= {f"{CLASSIFIER}{name}": value for name, value in inner.items()}
        if what == "state":
            found |= {k: torch.tensor(v) for k, v in official.constants(self.system, self.vae).items()}
        return found


def _networks(system: System, fixture: Fixture, values: Mapping[str, Tensor]) -> _Networks:
    arguments = fixture.need("constructor_args")
    sizes = official.sizes_of(arguments, where=str(fixture.path))
    vae = system.build(sizes)
    theirs = {name: value for name, value in values.items() if not name.startswith(CLASSIFIER)}
    vae.load_state_dict(official.from_official(system, theirs, vae))
    classifier = None
    inner = {name.removeprefix(CLASSIFIER): value for name, value in values.items() if name.startswith(CLASSIFIER)}
    if inner:
        classifier = LatentClassifier(sizes.latent, int(arguments["cls"][1]))
        classifier.load_state_dict(official.classifier_from_official(inner, classifier))
    return _Networks(system, vae, classifier)


def _forward(system: System, fixture: Fixture) -> list[Line]:
    values = weights(fixture)
    networks = _networks(system, fixture, values)
    if networks.classifier is None or set(fixture.need("outputs")) - {""} != set(OUTPUTS):
        raise FixtureError(
            "this fixture has outputs that the judge does not know", where=str(fixture.path), expected=str(OUTPUTS)
        )
    back = networks.named("state")
    shared = [name for name in values if name in back and torch.equal(back[name].float(), values[name].float())]
    count = sum(value.numel() for value in back.values())
    lines = [
        Line(f"official numbers: {count}", abs(count - int(fixture.need("num_params"))), 0.0),
        Line(f"official entries there and back: {len(shared)}", len(values) + len(back) - 2 * len(shared), 0.0),
    ]
    for precision, limits in (("float64", FLOAT64), ("float32", FLOAT32)):
        lines += _pass(fixture, copy.deepcopy(networks), precision, limits)
    return lines


def _pass(fixture: Fixture, networks: _Networks, precision: str, limits: Limits) -> list[Line]:
    """One forward and backward pass; outputs are the same in evaluation and in training."""
    dtype = getattr(torch, precision)
    modules = networks.modules().to(dtype)
    vae, classifier = networks.vae, networks.classifier
    assert classifier is not None
    skeleton, text = (torch.from_numpy(fixture[name]).to(dtype) for name in ("input", "input_text"))
    draw = _recorded(fixture, dtype)
    with torch.no_grad():
        smu, slv = vae.skeleton_encoder.eval()(skeleton)
        tmu, tlv = vae.text_encoder.eval()(text)
        sz, tz = reparameterised(smu, slv, draw.skeleton_noise), reparameterised(tmu, tlv, draw.text_noise)
        outputs = {
            "smu": smu, "slv": slv, "sout": vae.skeleton_decoder(sz), "tmu": tmu, "tlv": tlv, "tout": vae.text_decoder(tz),
            "sfromt": vae.skeleton_decoder(tz), "tfroms": vae.text_decoder(sz), "cls": classifier(smu),
        }  # fmt: skip
    lines = []
    for name, about in fixture.need("outputs").items():
        if name:
            value = outputs[name][:, :: int(stride[1])] if (stride := STRIDE.search(about)) else outputs[name]
            lines.append(Line(f"{precision} {name}", relative_error(value, fixture[f"{name}_eval_f64"]), limits.output))
    modules.train()
    found = terms(vae, skeleton, text, draw, networks.system.alignment)
    factor, weight = _fixed_factors(fixture)
    scores = classifier(vae.skeleton_encoder(skeleton)[0])
    loss = found.total(factor, weight) + cross_entropy(scores, torch.from_numpy(fixture["input_labels"]))
    torch.autograd.backward(loss)
    gradients = networks.named("gradient")
    norms = [norm(gradients[name]) if name in gradients else math.nan for name in fixture.need("param_names")]
    lines += [
        Line(f"{precision} loss", relative_error(loss.reshape(()), fixture["loss_train_f64"]), limits.loss),
        Line(f"{precision} gradient norms ({len(norms)})", norm_error(norms, fixture["grad_norms_f64"]), limits.gradient),
    ]
    noise = NORM_FLOOR * float(np.nanmax(fixture["grad_norms_f64"]))
    for name, reference in fixture.named("grad_f64").items():
        error = relative_error(gradients[name], reference, noise=noise) if name in gradients else math.inf
        lines.append(Line(f"{precision} gradient of {name}", error, limits.gradient))
    return lines


def _recorded(fixture: Fixture, dtype: torch.dtype) -> Draw:
    """The recorded noise and pairing of a forward fixture; all its rows are the batch."""
    skeleton, text = (torch.from_numpy(fixture[f"input_{which}_eps"]).to(dtype) for which in "st")
    pairing = torch.from_numpy(fixture["input_t_perm"]) if "input_t_perm" in fixture.arrays else None
    return Draw(torch.arange(len(skeleton)), skeleton, text, pairing)


def _fixed_factors(fixture: Fixture) -> tuple[Factors, float]:
    """The factors of the divergences and the weight of the alignment, from the words that describe the loss."""
    words = str(fixture.need("loss"))
    divergences, calibrated = DIVERGENCES.search(words), CALIBRATED.search(words)
    if divergences is None or (calibrated is None) == (CROSSED not in words):
        raise FixtureError("this fixture has a loss that the judge does not know", where=f"{fixture.path}: {words!r}")
    weight = float(calibrated[1]) * float(calibrated[2]) if calibrated else 1.0
    return Factors(float(divergences[1]), float(divergences[2]), 1.0), weight


@dataclass
class _Run:
    """What the steps left behind, one number per step in each series."""

    series: dict[str, list[float]] = field(default_factory=dict)
    first: list[float] = field(default_factory=list)
    changes: list[float] = field(default_factory=list)
    end: dict[str, Tensor] = field(default_factory=dict)

    def note(self, name: str, value: float) -> None:
        self.series.setdefault(name, []).append(value)


def _trajectory(system: System, fixture: Fixture) -> list[Line]:
    hyper = _settings(fixture)
    values = start_weights(fixture)
    steps = int(fixture.need("steps"))
    networks = _networks(system, fixture, values)
    exact = _train(fixture, hyper, copy.deepcopy(networks), torch.float64, steps)
    smoke = _train(fixture, hyper, networks, torch.float32, min(EARLY, steps))
    measured = fixture.meta.get("measured", {})
    spread = measured.get("f64_permuted_last_bit", {}).get("loss", [0.0])
    later = max(EXACT, SPREAD * max(spread))
    lines = []
    for name in exact.series:
        recorded = fixture[f"{name}_f64" if f"{name}_f64" in fixture.arrays else name]
        ours = exact.series[name]
        lines.append(Line(f"float64 {name}, step 1", value_error(ours[:1], recorded[:1]), EXACT))
        lines.append(Line(f"float64 {name}, all {steps} steps", value_error(ours, recorded), later))
    lines.append(Line("float64 change_norms_first", norm_error(exact.first, fixture["change_norms_first"]), SINGLE * EXACT))
    lines.append(Line("float64 change_norms_end", norm_error(exact.changes, fixture["change_norms_end"]), SINGLE * later))
    for name, reference in fixture.named("end").items():
        error = relative_error(exact.end[name], reference) if name in exact.end else math.inf
        lines.append(Line(f"float64 {name} at the end", error, SINGLE * later))
    for name in ("loss", "param_norm"):
        off, ours, recorded = measured.get("f32", {}).get(name, [0.0]), smoke.series[name], fixture[f"{name}_f64"]
        for what, n in (("step 1", 1), (f"steps 1 to {len(ours)}", len(ours))):
            limit = max(FLOAT32_TIMES * max(off[:n]), FLOAT32_FLOOR)
            lines.append(Line(f"float32 {name}, {what}", value_error(ours[:n], recorded[:n]), limit))
    return lines


def _settings(fixture: Fixture) -> dict[str, Any]:
    hyper = dict(fixture.need("hyper"))
    known = {**ADAM, "optimizer": "Adam", "weight_decay": 0.0, "use_cr_fact": 1}
    free = {"lr", "alpha", "lmd", "cycle_length", "epochs_visited"}
    wrong = [key for key in hyper if key not in free and (key not in known or hyper[key] != known[key])]
    needed = {"lr", "cycle_length", "epochs_visited"} | ({"alpha", "lmd"} if "t_cali" in fixture.need("series") else set())
    wrong += sorted(needed - set(hyper))
    if wrong:
        raise FixtureError(
            "this trajectory has settings that the judge does not know",
            where=f"{fixture.path}: {', '.join(wrong)}",
            expected=f"{known}, and {', '.join(sorted(free))}",
        )
    return hyper


def _train(fixture: Fixture, hyper: dict[str, Any], networks: _Networks, dtype: torch.dtype, steps: int) -> _Run:
    """The first `steps` of the recorded steps: step i has the factors of step ``epochs_visited[i]`` of the official schedule."""
    vae, cycle_length = networks.vae.to(dtype).train(), int(hyper["cycle_length"])
    weight = float(hyper.get("alpha", 1.0)) * float(hyper.get("lmd", 1.0))
    optimizer = adam(vae, float(hyper["lr"]))
    start, run = networks.named("state"), _Run()
    for epoch, (skeleton, text, draw) in zip(hyper["epochs_visited"][:steps], _batches(fixture, dtype), strict=False):
        factor = factors(*divmod(epoch, cycle_length), steps=cycle_length)
        with torch.no_grad():  # all terms are recorded, also those that do not count yet
            every = terms(vae, skeleton, text, draw, networks.system.alignment)
        optimizer.zero_grad()
        counted = terms(vae, skeleton, text, draw, networks.system.alignment, crossed=bool(factor.alignment))
        loss = counted.total(factor, weight)
        torch.autograd.backward(loss)
        run.note("loss", float(loss.detach()))
        run.note("lr", optimizer.param_groups[0]["lr"])
        run.note("grad_norm", math.sqrt(sum(norm(p.grad) ** 2 for p in vae.parameters() if p.grad is not None)))
        for name, ours in FACTORS.items():
            run.note(name, getattr(factor, ours))
        for name in fixture.need("series"):
            if name in SERIES:
                run.note(name, float(getattr(every, SERIES[name])) * (-1 if name in NEGATIVE else 1))
        optimizer.step()
        run.end = networks.named("state")
        run.note("param_norm", math.sqrt(sum(norm(p) ** 2 for p in run.end.values())))
        run.changes = [norm(run.end[n] - start[n]) if n in start else math.nan for n in fixture.need("param_names")]
        run.first = run.first or run.changes
    return run


def _batches(fixture: Fixture, dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor, Draw]]:
    for batch in feature_batches(fixture):
        skeleton, text, s_noise, t_noise = (torch.from_numpy(value).to(dtype) for value in batch[:4])
        yield skeleton, text, Draw(torch.arange(len(skeleton)), s_noise, t_noise, torch.from_numpy(batch.pairing))
