"""Official constructor arguments and checkpoints of SCD-Net, after pretraining and during it."""

from __future__ import annotations

from fnmatch import fnmatch

import pytest
import torch
from torch import Tensor

from engine import models
from engine.errors import WeightsError
from engine.official import from_official, to_official
from models.scdnet import official
from models.scdnet.network import Classifier
from models.scdnet.pretraining import Disentanglement
from shared_data.errors import UsageError
from shared_data.skeletons import NTU25
from tests.models.against_slow import assert_there_and_back, randomise
from tests.models.scdnet.naive import NaiveBranch, NaiveClassifier, NaiveObjective, official_sizes

CARD = models.find("scdnet")
NAMES = models.official_module(CARD)
SMALL = (NTU25, 2, 64, 16, 4, 2)  # skeleton, people, frames, width, heads, layers
HYPER = {"dim": 12, "queue_size": 6, "key_momentum": 0.9, "temperature": 0.5}


def objective() -> Disentanglement:
    """Ours, by the official words for `SMALL` and `HYPER`."""
    return Disentanglement(**official.pretraining_arguments(official_sizes(16, 4, 2, 12), {**HYPER, "base_lr": 0.01}))


def naive() -> NaiveObjective:
    return NaiveObjective(12, 6, 0.9, 0.5, *SMALL)


def test_constructor() -> None:
    given = official_sizes(16, 4, 2, 7)
    assert NAMES.constructor({}) == {"num_classes": 60, "skeleton": "ntu25", "people": 2, "frames": 64}
    network = models.build(CARD, **NAMES.constructor(given))
    assert network(torch.zeros(2, 3, 64, 25, 2)).shape == (2, 7)
    assert len(network.encoder.temporal.layers) == 2 and network.encoder.spatial.layers[1].attn.heads == 4
    with pytest.raises(UsageError, match="hidden_sise"):
        NAMES.constructor({"hidden_sise": 16})


def test_pretraining_arguments() -> None:
    said = official.pretraining_arguments(official_sizes(16, 4, 2, 12), HYPER)
    assert said == {"skeleton": NTU25, "people": 2, "frames": 64, "width": 16, "heads": 4, "layers": 2, **HYPER}
    assert official.pretraining_arguments({"num_class": 32}, {})["dim"] == 32
    with pytest.raises(UsageError, match="dim"):
        official.pretraining_arguments({"num_class": 32}, {"dim": 128})


def test_checkpoint_there_and_back() -> None:
    sizes = official_sizes(16, 4, 2, 7)
    assert_there_and_back(models.build(CARD, **NAMES.constructor(sizes)), NaiveClassifier(7, *SMALL), NAMES)


def test_official_entries_of_the_published_size() -> None:
    with torch.device("meta"):
        network = Disentanglement(skeleton=NTU25, people=2)
    names = list(to_official(official.pretraining_table(network), network.state_dict()))
    assert len(names) == 2 * 596 + 6 and len(set(names)) == len(names)
    assert names[-2:] == ["i_queue", "i_queue_ptr"]
    assert sum(p.numel() for p in network.query.parameters()) == 92_017_840


def loaded(state: dict[str, Tensor]) -> Disentanglement:
    """Our objective, filled from an official pretraining checkpoint; what the file has not stays as it is."""
    ours = objective()
    own = {name: value for name, value in ours.state_dict().items() if any(fnmatch(name, p) for p in official.PRETRAINING_OURS)}
    rows = official.pretraining_table(ours) + [official.Entry(name, name) for name in own]
    ours.load_state_dict(from_official(rows, {**state, **own}, ours))
    return ours


def test_pretraining_checkpoint_there_and_back() -> None:
    state = randomise(naive()).state_dict()
    ours = loaded({f"module.{name}": value for name, value in state.items()})
    back = to_official(official.pretraining_table(ours), ours.state_dict())
    assert list(back) == [name for name in state if not name.endswith(("_queue", "_queue_ptr"))] + [
        f"{kind}_{what}" for kind in "tsi" for what in ("queue", "queue_ptr")
    ]
    assert all(torch.equal(back[name], value) for name, value in state.items())
    left = set(ours.state_dict()) - {row.ours for row in official.pretraining_table(ours)}
    assert left == {f"queues.{kind}.ids" for kind in "tsi"}


def test_a_pretrained_encoder_leaves_the_head_of_the_classifier_open() -> None:
    state = {f"module.{name}": value for name, value in randomise(naive()).state_dict().items()}
    given = official.encoder_entries(state)
    classifier = Classifier(5, frames=64, width=16, heads=4, layers=2)
    rows = NAMES.table(classifier)
    assert {row.official for row in rows} - set(given) == {"fc.weight", "fc.bias"}
    assert set(given) <= {row.official for row in rows}
    with pytest.raises(WeightsError, match=r"2 missing: fc.weight, fc.bias\n"):
        NAMES.from_official(given, classifier)
    full = {**given, "fc.weight": classifier.fc.weight.detach(), "fc.bias": classifier.fc.bias.detach()}
    classifier.load_state_dict(NAMES.from_official(full, classifier))
    query = loaded(state).query.encoder
    assert all(torch.equal(value, classifier.encoder.state_dict()[name]) for name, value in query.state_dict().items())
    with pytest.raises(UsageError, match="encoder"):
        official.encoder_entries(state, "other")


def test_a_branch_as_it_is_recorded() -> None:
    torch.manual_seed(0)
    slow = randomise(NaiveBranch(12, *SMALL)).double().eval()
    state = {f"encoder_{which}.{name}": value for which in "qk" for name, value in slow.state_dict().items()}
    rest = {name: value for name, value in naive().state_dict().items() if "queue" in name}
    ours = loaded({**state, **rest}).double().eval()
    arrays = {"input": torch.randn(2, 3, 64, 25, 2, dtype=torch.float64), "input_labels": torch.tensor([3, 11])}
    with torch.no_grad():
        found, expected = official.recorded(ours, arrays), slow(arrays["input"])
    assert list(found) == ["zt", "zs", "zi", "loss"]
    for value, other in zip(found.values(), expected, strict=False):
        torch.testing.assert_close(value, other, rtol=1e-6, atol=1e-6)  # the checkpoint is rounded to float32
    losses = [torch.nn.functional.cross_entropy(other, arrays["input_labels"]) for other in expected]
    assert float(found["loss"]) == pytest.approx(float(sum(losses)), rel=1e-6)
