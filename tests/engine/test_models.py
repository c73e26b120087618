"""Finding and building models."""

from __future__ import annotations

import subprocess
import sys
import typing
from pathlib import Path

import pytest
import torch

from engine import models
from engine.errors import ConfigError
from engine.models import ModelError
from shared_data.errors import UsageError

NETWORK = """
from torch import nn
from models.NAME.size import WIDTH

class Net(nn.Linear):
    def __init__(self, num_classes: int, *, skeleton, people: int, depth: int = 1, rate: float = 0.0):
        super().__init__(WIDTH, num_classes)
        self.depth, self.rate, self.step = depth, rate, 1 / depth
"""
SIZES = {"num_classes": 3, "skeleton": "ntu25", "people": 2}


def write(
    folder: Path, name: str, *, width: int = 5, toml: str = 'title = "T"\nentry = "network:Net"\nstatus = "experimental"\n'
) -> None:
    (folder / name / "recipes").mkdir(parents=True)
    for file, text in {
        "__init__.py": "", "model.toml": toml, "size.py": f"WIDTH = {width}\n", "network.py": NETWORK.replace("NAME", name),
        "recipes/fast.yaml": "", "recipes/slow.yaml": "", "recipes/notes.txt": "",
    }.items():  # fmt: skip
        (folder / name / file).write_text(text)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(models.MODELS_VARIABLE, str(tmp_path))
    return tmp_path


def test_discovery_lists_folders_with_a_description(folder: Path) -> None:
    write(folder, "planted_b")
    write(folder, "planted_a")
    (folder / "notes").mkdir()
    assert list(models.discover()) == ["planted_a", "planted_b"]
    card = models.find("planted_a")
    assert (card.title, card.status, card.folder) == ("T", "experimental", folder / "planted_a")
    assert list(card.recipes) == ["fast", "slow"]
    assert card.recipe("fast") == folder / "planted_a" / "recipes" / "fast.yaml"


def test_listing_needs_no_torch() -> None:
    code = "import sys; from engine import models; assert 'ctrgcn' in models.discover(); assert 'torch' not in sys.modules"
    root = Path(models.__file__).parent.parent
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


def test_wrong_names_get_the_nearest(folder: Path) -> None:
    write(folder, "planted_b")
    with pytest.raises(ConfigError, match="did you mean planted_b") as caught:
        models.find("plantedb")
    assert caught.value.exit_code == 2
    with pytest.raises(ConfigError, match="did you mean slow"):
        models.find("planted_b").recipe("slw")


def test_kinds_are_kept_apart(folder: Path) -> None:
    write(folder, "planted_b")
    (folder / "planted_z").mkdir()
    (folder / "planted_z" / "model.toml").write_text('kind = "zeroshot"\ntitle = "Z"\nstatus = "verified"\n')
    assert list(models.discover()) == ["planted_b"] and list(models.discover("zeroshot")) == ["planted_z"]
    assert list(models.discover(None)) == ["planted_b", "planted_z"]
    with pytest.raises(
        ConfigError, match=r"planted_z is a zero-shot system(.|\n)*planted_b(.|\n)*sal zeroshot run --model planted_z"
    ):
        models.find("planted_z")
    with pytest.raises(ConfigError, match=r"planted_b is a classifier(.|\n)*sal train planted_b"):
        models.find("planted_b", "zeroshot")
    assert models.find("planted_z", None).kind == "zeroshot" and models.find("planted_b").kind == "classifier"


def test_no_models(folder: Path) -> None:
    assert models.discover() == {}
    with pytest.raises(ConfigError, match=r"expected: a folder with a model\.toml"):
        models.find("x")


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("title = ", "cannot read"),
        ('title = "T"\n', "entry, status missing"),
        ('title = "T"\nkind = "zeroshot"\n', "status missing"),
        ('title = "T"\nkind = "oracle"\n', "kind = 'oracle'"),
        ('title = "T"\nkind = []\n', "kind = "),
        ("\xff", "cannot read"),
    ],
)
def test_a_broken_description_is_named(folder: Path, toml: str, message: str) -> None:
    write(folder, "planted_b")
    (folder / "planted_b" / "model.toml").write_text(toml, encoding="latin-1")
    with pytest.raises(ModelError, match=message) as caught:
        models.discover()
    assert "planted_b" in str(caught.value) and caught.value.exit_code == 78


def test_build(folder: Path) -> None:
    write(folder, "planted_b")
    network = models.build(models.find("planted_b"), num_classes=3, skeleton="ntu25", people=2, depth=4, rate=1)
    assert (network.out_features, network.in_features, network.depth, network.rate) == (3, 5, 4, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dept": 4}, "did you mean depth"),
        ({"depth": "four"}, "expected: int"),
        ({"depth": True}, "expected: int"),
        ({"rate": "x"}, "expected: float"),
    ],
)
def test_wrong_model_arguments(folder: Path, arguments: dict[str, object], message: str) -> None:
    write(folder, "planted_b")
    card = models.find("planted_b")
    with pytest.raises(ConfigError, match=message):
        models.build(card, num_classes=3, skeleton="ntu25", people=2, **arguments)


def test_an_argument_that_the_network_breaks_on(folder: Path) -> None:
    write(folder, "planted_b")
    with pytest.raises(ConfigError, match=r"planted_b cannot be built: .*division by zero\n.*depth 0") as caught:
        models.build(models.find("planted_b"), **SIZES, depth=0)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_network_that_breaks_by_itself_is_seen_as_it_is(folder: Path) -> None:
    write(folder, "planted_b")
    (folder / "planted_b" / "size.py").write_text("WIDTH = 'five'\n")
    with pytest.raises(TypeError):
        models.build(models.find("planted_b"), **SIZES)


@pytest.mark.parametrize("name", models.discover())
def test_numbers_that_no_network_can_have_are_refused_alike(name: str) -> None:
    """Every number that a model takes refuses -1; counts refuse 0 and rates 1, each by name and with exit code 2."""
    card = models.find(name)
    hints = typing.get_type_hints(models.entry_class(card).__init__)
    numbers = [key for key, hint in hints.items() if hint in (int, float, int | None, float | None)]
    assert {"num_classes", "people"} < set(numbers)
    wrong = [(key, -1) for key in numbers]
    wrong += [(key, 0) for key in models.COUNTS if key in numbers] + [(key, 1.0) for key in models.RATES if key in numbers]
    for key, value in wrong:
        with torch.device("meta"), pytest.raises(UsageError) as caught:
            models.build(card, **{**SIZES, key: value})
        said = str(caught.value)
        assert key in said and str(value) in said and caught.value.expected and caught.value.exit_code == 2, said


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("hypergcn", "neighbours", 0), ("msg3d", "width", 7), ("freqmixformer", "hop", 0), ("ctrgcn", "dropout", 2.0),
        ("skateformer", "head_drop", 1.5), ("baselines", "architecture", "mpl"), ("hypergcn", "size", "huge"),
    ],
)  # fmt: skip
def test_a_value_that_cannot_work_is_refused_alike(name: str, key: str, value: object) -> None:
    with torch.device("meta"), pytest.raises(UsageError, match=f"model argument {key} is {value!r}") as caught:
        models.build(models.find(name), **SIZES, **{key: value})
    assert caught.value.exit_code == 2 and caught.value.expected


def test_entry_that_names_nothing(folder: Path) -> None:
    write(folder, "planted_b", toml='title = "T"\nentry = "network:Nought"\nstatus = "experimental"\n')
    with pytest.raises(ModelError, match="names no class"):
        models.build(models.find("planted_b"), num_classes=3, skeleton="ntu25", people=2)
    write(folder, "planted_c", toml='title = "T"\nentry = "netwrk:Net"\nstatus = "experimental"\n')
    with pytest.raises(ModelError, match=r"has no netwrk\.py"):
        models.build(models.find("planted_c"), num_classes=3, skeleton="ntu25", people=2)
    with pytest.raises(ModelError, match=r"has no official\.py"):
        models.official_module(models.find("planted_c"))


def test_the_folder_asked_for_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for width in (5, 6):
        folder = tmp_path / str(width)
        write(folder, "planted_twin", width=width)
        monkeypatch.setenv(models.MODELS_VARIABLE, str(folder))
        network = models.build(models.find("planted_twin"), num_classes=3, skeleton="ntu25", people=2)
        assert network.in_features == width
    monkeypatch.delenv(models.MODELS_VARIABLE)
    assert "ctrgcn" in models.discover()
