"""The table of official names, on a small model that joins two official convolutions and two BatchNorms."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn

from engine.errors import WeightsError
from engine.official import Entry, OfficialNames, known_words, layout_of, strip_prefix
from shared_data.errors import UsageError


class Joined(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Linear(3, 4)  # rows: a, b, a, b
        self.bn = nn.BatchNorm1d(4)


def table(model: nn.Module) -> list[Entry]:
    rows = []
    for i, name in enumerate("ab"):
        rows.append(Entry(f"{name}.conv.weight", "both.weight", slice(i, None, 2), (2, 3, 1)))
        rows.append(Entry(f"{name}.conv.bias", "both.bias", slice(i, None, 2)))
        for part in ("weight", "bias", "running_mean", "running_var"):
            rows.append(Entry(f"{name}.bn.{part}", f"bn.{part}", slice(2 * i, 2 * i + 2)))
        rows.append(Entry(f"{name}.bn.num_batches_tracked", "bn.num_batches_tracked"))
    return rows


NAMES = OfficialNames("the joined model", table, dict, unused=("extra.*",))


def official_state() -> dict[str, torch.Tensor]:
    branch = {name: nn.Sequential(OrderedDict(conv=nn.Conv1d(3, 2, 1), bn=nn.BatchNorm1d(2))) for name in "ab"}
    return dict(nn.ModuleDict(branch).state_dict())


def test_there_and_back() -> None:
    official, model = official_state(), Joined()
    model.load_state_dict(NAMES.from_official(official, model))
    assert torch.equal(model.both.weight[1::2], official["b.conv.weight"].squeeze(-1))
    back = NAMES.to_official(model.state_dict(), model)
    assert list(back) == list(official) and all(torch.equal(back[k], v) for k, v in official.items())


def test_gradients_get_official_names() -> None:
    model = Joined()
    model.both(torch.ones(1, 3))[:, 0].sum().backward()
    found = NAMES.to_official({k: p.grad for k, p in model.named_parameters() if p.grad is not None}, model)
    assert sorted(found) == ["a.conv.bias", "a.conv.weight", "b.conv.bias", "b.conv.weight"]
    assert found["a.conv.bias"].tolist() == [1, 0] and not found["b.conv.weight"].any()


def test_model_is_not_changed_and_dtype_is_kept() -> None:
    model = Joined().half()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    loaded = NAMES.from_official(official_state(), model)
    assert loaded["both.weight"].dtype == torch.half
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a.conv.bias": None}, "1 missing: a.conv.bias"),
        ({"c.conv.bias": torch.zeros(2)}, "1 unexpected: c.conv.bias"),
        ({"a.conv.bias": torch.zeros(3)}, "1 of another shape: a.conv.bias: 3 in the file, 2 in the model"),
        ({"a.conv.weight": torch.zeros(2, 3)}, "2x3 in the file, 2x3x1 in the model"),
    ],
)
def test_strict(change: dict[str, torch.Tensor | None], message: str) -> None:
    state = {k: v for k, v in {**official_state(), **change}.items() if v is not None}
    with pytest.raises(WeightsError, match=message) as caught:
        NAMES.from_official(state, Joined())
    assert caught.value.exit_code == 65


def test_unused_entries_and_absent_counters_are_fine() -> None:
    state = {k: v for k, v in official_state().items() if "num_batches" not in k}
    NAMES.from_official({**state, "extra.weight": torch.zeros(1)}, Joined())


def test_long_lists_are_cut() -> None:
    with pytest.raises(WeightsError, match="and 4 more"):
        NAMES.from_official({}, Joined())


def test_a_table_with_a_gap_is_refused() -> None:
    gap = OfficialNames("m", lambda model: [e for e in table(model) if e.official != "b.conv.bias"], dict)
    state = official_state()
    with pytest.raises(WeightsError, match=r"leaves both\.bias unfilled"):
        gap.from_official(state, Joined())


@pytest.mark.parametrize(
    ("key", "bare"),
    [("a.b", "a.b"), ("module.a.b", "a.b"), ("model.module.a", "a"), ("module.module.a", "a"), ("submodule.a", "submodule.a")],
)
def test_prefix(key: str, bare: str) -> None:
    assert strip_prefix(key) == bare


def test_an_entry_may_lie_in_another_order_of_dimensions() -> None:
    """Official (out, in, time, 1) is our (time, out, in), in rows 1 to 3 of a larger tensor."""

    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(4, 2, 3))

    def turned(model: nn.Module) -> list[Entry]:
        return [
            Entry("first", "weight", 0),
            Entry("rest", "weight", slice(1, None), (2, 3, 3, 1), (1, 2, 0)),
        ]

    names, model = OfficialNames("turned", turned, dict), Turned()
    official = {"first": torch.arange(6.0).view(2, 3), "rest": torch.arange(18.0).view(2, 3, 3, 1)}
    model.load_state_dict(names.from_official(official, model))
    assert model.weight[2, 1, 0] == official["rest"][1, 0, 1, 0]
    back = names.to_official(model.state_dict(), model)
    assert all(torch.equal(back[key], value) for key, value in official.items())


KNOWN = {"num_class": "num_classes", "num_point": None, "graph": "skeleton", "drop_out": "dropout"}
GRAPHS = {"graph.ntu": "ntu25", "graph.kinetics": "kinetics18"}


def test_official_words_in_ours() -> None:
    assert known_words({"num_class": 5, "num_point": 25, "drop_out": 0.5}, KNOWN) == {"num_classes": 5, "dropout": 0.5}
    with pytest.raises(UsageError, match=r"argument num_clas; did you mean num_class\?(.|\n)*num_point, graph") as caught:
        known_words({"num_class": 5, "num_clas": 5}, KNOWN)
    assert caught.value.exit_code == 2


def test_layout_of_the_official_graph() -> None:
    assert layout_of({}, GRAPHS) == layout_of({"graph": None, "num_point": 25}, GRAPHS) == "ntu25"
    assert layout_of({"graph": "graph.kinetics", "num_point": 18}, GRAPHS) == "kinetics18"


@pytest.mark.parametrize(
    ("official", "message"),
    [
        ({"graph": "graph.kinetic"}, r"did you mean graph\.kinetics"),
        ({"graph": {"name": "ntu"}}, "graph is {.name.: .ntu.}"),
        ({"num_point": 18}, "expected: 25, the joints of graph.ntu"),
        ({"graph": "graph.kinetics", "num_point": 25}, "num_point is 25(.|\n)*18, the joints"),
    ],
)
def test_an_official_graph_that_does_not_fit(official: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        layout_of(official, GRAPHS)
