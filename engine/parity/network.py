"""The model of a fixture, with the fixture's weights, and what its official.py says about what was recorded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from engine import models
from engine.errors import ConfigError
from engine.official import OfficialNames
from engine.parity.fixture import Fixture, FixtureError


def model_of(fixture: Fixture, kind: models.Kind = "classifier") -> tuple[models.ModelCard, dict[str, Any]]:
    """The model of a fixture, and the arguments that stand for its official class. Raises `FixtureError` if there is none."""
    try:
        return models.find_official(str(fixture.need("model")), kind)
    except ConfigError as error:
        raise FixtureError(
            f"this fixture is of a model that is not here: {fixture.meta['model']}", where=str(fixture.path), expected=str(error)
        ) from error


def build(
    fixture: Fixture, weights: Mapping[str, Tensor], *, kind: models.Kind = "classifier", **more: Any
) -> tuple[nn.Module, OfficialNames]:
    """Our network for the *official* constructor arguments of the fixture, loaded strictly, on the CPU.

    `more` are arguments of ours that no official one stands for. Dropout and drop path get rate 0, as in the recorded runs.
    Raises `FixtureError` if there is no such model.
    """
    card, variant = model_of(fixture, kind)
    names = models.official_module(card)
    arguments = {**names.constructor(fixture.need("constructor_args")), **variant, **more}
    if "people" not in names.known.values():  # officially any number goes
        arguments.update(_people(fixture))
    network = models.build(card, **arguments)
    network.load_state_dict(names.from_official(weights, network))
    return without_dropout(network), names


def without_dropout(network: nn.Module) -> nn.Module:
    """`network`, with every rate of dropout and drop path 0."""
    for module in network.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        if isinstance(getattr(module, "drop_prob", None), float):
            vars(module)["drop_prob"] = 0.0
    return network


def clips_of(fixture: Fixture, network: nn.Module) -> Tensor:
    """The recorded input as clips (N, C, T, V, M).

    For official classes that read something else, what ``recorded_clips(input, network)`` of the model's official.py makes of it.
    """
    read = getattr(models.import_module(model_of(fixture)[0], "official"), "recorded_clips", None)
    recorded = torch.from_numpy(fixture["input"])
    clips: Tensor = recorded if read is None else read(recorded, network)
    return clips


def constants(fixture: Fixture) -> dict[str, Tensor]:
    """What the model of a forward fixture computes in place of constants that are too large to be stored, by official name.

    Such a model has ``constants(constructor_args)`` in its official.py. Raises `FixtureError` if there is no such model.
    """
    if None not in (fixture.meta.get("constants") or {}).values():
        return {}
    own = getattr(models.import_module(model_of(fixture)[0], "official"), "constants", None)
    return dict(own(fixture.need("constructor_args"))) if own else {}


def _people(fixture: Fixture) -> dict[str, int]:
    """The people of the recorded clips, or of the batches of a training run, if these are (N, C, T, V, M)."""
    shape = [fixture.need("batch").get(axis) for axis in "NCTVM"] if "steps" in fixture.meta else fixture["input"].shape
    return {"people": int(shape[-1])} if len(shape) == 5 and shape[-1] else {}


def has_batch_norm(network: nn.Module) -> bool:
    return any(isinstance(module, _BatchNorm) for module in network.modules())


def official_gradients(network: nn.Module, names: OfficialNames) -> dict[str, Tensor]:
    """Gradients by official name; a parameter without one is left out."""
    return names.to_official({k: p.grad for k, p in network.named_parameters() if p.grad is not None}, network)


def official_parameters(network: nn.Module, names: OfficialNames) -> dict[str, Tensor]:
    """Copies of the parameters by official name."""
    parameters = names.to_official(dict(network.named_parameters()), network)
    return {name: value.detach().clone() for name, value in parameters.items()}


def norm(value: Tensor) -> float:
    """L2 norm taken in float64: that of a large float32 tensor is itself off by up to 1e-4."""
    return float(torch.linalg.vector_norm(value.detach().double()))
