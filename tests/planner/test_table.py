"""The table over a folder of models made for the test: every recipe gets a row, broken ones too."""

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from engine import models as registry
from engine.errors import ConfigError
from planner.table import Row, bar, plan, render
from planner.verdict import FITS

NETWORK = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, *, skeleton, people, width: int = 16):
        super().__init__()
        self.enter = nn.Conv2d(3, width, 1)
        self.bn = nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, num_classes)

    def forward(self, x):
        n, c, t, v, m = x.shape
        x = x.permute(0, 4, 1, 2, 3).reshape(n * m, c, t, v)
        return self.fc(torch.relu(self.bn(self.enter(x))).mean((2, 3)).view(n, m, -1).mean(1))
"""
READS_VALUES = NETWORK.replace("return self.fc(", "assert x.sum().item() < 1e9\n        return self.fc(")


def write_model(folder: Path, name: str, network: str, **recipes: str) -> None:
    (folder / name / "recipes").mkdir(parents=True)
    (folder / name / "__init__.py").touch()
    (folder / name / "model.toml").write_text(f'title = "{name}"\nentry = "network:Net"\nstatus = "experimental"\n')
    (folder / name / "network.py").write_text(network)
    for recipe, text in recipes.items():
        (folder / name / "recipes" / f"{recipe}.yaml").write_text(f"model: {name}\n{text}")


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    monkeypatch.setenv(registry.MODELS_VARIABLE, str(folder))
    write_model(
        folder, "planted_small", NETWORK,
        ntu60="dataset: ntu60\nbatch_size: 64\n",
        ntu60_wide="dataset: ntu60\nbatch_size: 64\nmodel_args: {width: 4096}\n",
        ntu60_wide_pieces="dataset: ntu60\nbatch_size: 64\nforward_batch_size: 8\nmodel_args: {width: 4096}\n",
        nw_ucla="dataset: nw_ucla\nbatch_size: 16\ntrain_window_size: 52\ntest_window_size: 52\n",
    )  # fmt: skip
    return folder


def rows_by_recipe(rows: list[Row]) -> dict[str, Row]:
    return {row.recipe: row for row in rows}


def test_every_recipe_of_every_model_is_judged(house: Path) -> None:
    write_model(house, "planted_other", NETWORK, ntu120="dataset: ntu120\nbatch_size: 32\n")
    rows = plan(8)
    assert [(row.model, row.recipe) for row in rows] == [
        ("planted_other", "ntu120"),
        *(("planted_small", name) for name in ("ntu60", "ntu60_wide", "ntu60_wide_pieces", "nw_ucla")),
    ]
    assert all(row.verdict is not None and row.linear for row in rows)
    assert plan(8, registry.discover(), ["planted_other"]) == [rows[0]]


def test_figures_follow_from_the_recipe(house: Path) -> None:
    rows = rows_by_recipe(plan(8))
    small, wide, pieces, ucla = (rows[name].verdict for name in ("ntu60", "ntu60_wide", "ntu60_wide_pieces", "nw_ucla"))
    assert small and wide and pieces and ucla
    # one (N*M, width, T, V) float32 map is 64 * 2 * 4096 * 64 * 25 * 4 B = 3200 MiB; convolution output, BatchNorm output
    # (which ReLU's backward needs as its own result) and gradients make it several
    assert small.word == "comfortable"
    assert wide.word == "tight"
    assert 3 * 3200 < wide.train < 5 * 3200
    assert pieces.train < 0.15 * wide.train
    assert "--forward-batch-size" in wide.lever
    piece = int(wide.lever.split("--forward-batch-size ")[1].split()[0])
    assert 64 % piece == 0
    assert ucla.train < small.train * (16 * 1 * 52 * 20) / (64 * 2 * 64 * 25) * 1.5


def test_the_named_lever_makes_it_fit(house: Path) -> None:
    wide = rows_by_recipe(plan(8))["ntu60_wide"].verdict
    assert wide is not None
    pieces = wide.lever.split("--forward-batch-size ")[1].split()[0]
    evaluation = wide.lever.split("--test-batch-size ")[1].split()[0] if "--test-batch-size" in wide.lever else "64"
    (house / "planted_small" / "recipes" / "mended.yaml").write_text(
        f"model: planted_small\ndataset: ntu60\nbatch_size: 64\nforward_batch_size: {pieces}\n"
        f"test_batch_size: {evaluation}\nmodel_args: {{width: 4096}}\n"
    )
    mended = rows_by_recipe(plan(8))["mended"].verdict
    assert mended is not None
    assert mended.word in ("comfortable", "fits")
    assert mended.lever == ""
    assert mended.share <= FITS


def test_what_cannot_be_judged_has_a_row_that_says_why(house: Path) -> None:
    write_model(house, "planted_values", READS_VALUES, ntu60="dataset: ntu60\n")
    write_model(house, "planted_broken", "import no_such_module_anywhere\n", ntu60="dataset: ntu60\n")
    write_model(house, "planted_recipe", NETWORK, wrong="dataset: ntu60\nbatch_sise: 3\n", where="dataset: mars\n")
    found = {(row.model, row.recipe): row for row in plan(8)}
    expected = {
        ("planted_values", "ntu60"): "without values",
        ("planted_broken", "ntu60"): "no_such_module_anywhere",
        ("planted_recipe", "wrong"): "batch_sise",
        ("planted_recipe", "where"): "mars",
    }
    for key, words in expected.items():
        assert found[key].verdict is None
        assert words in found[key].problem
    assert found["planted_small", "ntu60"].verdict is not None
    text = rendered(list(found.values()))
    assert text.count(" not judged ") == 4


def test_an_unknown_model_is_refused(house: Path) -> None:
    with pytest.raises(ConfigError, match="planted_small"):
        plan(8, models=["planted_smal"])


def rendered(rows: list[Row]) -> str:
    console = Console(file=StringIO(), width=200)
    render(rows, console)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_the_table_marks_itself_as_a_prediction_and_states_its_allowance(house: Path) -> None:
    text = rendered(plan(8))
    flat = " ".join(text.split())
    assert "prediction, first cut: tensors only + allowance" in flat
    assert "Usable 6912 MiB = 8 GiB - 1280 MiB allowance" in flat
    for word in ("ntu60_wide_pieces", "comfortable", "no ", "--forward-batch-size"):
        assert word in flat


def test_the_table_fits_eighty_columns_and_says_levers_and_problems_below(house: Path) -> None:
    write_model(house, "planted_values", READS_VALUES, ntu60="dataset: ntu60\n")
    console = Console(file=StringIO(), width=80)
    render(plan(8), console)
    assert isinstance(console.file, StringIO)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    (line,) = (line for line in lines if "ntu60_wide_pieces" in line and "64/8" in line)
    assert " tight 9" in line  # its evaluation
    flat = " ".join(" ".join(lines).split())
    assert "planted_small ntu60_wide: fits with --" in flat and "--forward-batch-size" in flat
    assert "planted_values ntu60: not judged: the train step of Net cannot be traced without values" in flat
    assert "…" not in flat


def test_no_recipes_is_said(house: Path) -> None:
    assert "no recipes" in rendered([])


def test_bars_are_full_at_the_whole_and_point_beyond_it() -> None:
    assert bar(0.5, "comfortable").plain == "█" * 5 + "░" * 5 + " "
    assert bar(1.0, "tight").plain == "█" * 10 + " "
    assert bar(2.5, "no").plain == "█" * 10 + "▶"
