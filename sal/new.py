"""`sal new NAME`: the folder and the Dockerfile of a new model that works from its first minute.

The text is that of `sal/templates`. What a `model.toml` says in figures is measured on the network that was written.
"""

from __future__ import annotations

import datetime
import keyword
import re
import shutil
import tempfile
from pathlib import Path
from string import Template
from typing import Any

from engine import models
from engine.errors import ConfigError
from engine.models import ModelCard
from shared_data.atomic import WriteError

TEMPLATES = Path(__file__).resolve().parent / "templates"
SUFFIX = ".template"
NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
RESERVED = ("base",)  # skeleton-lab:base and dockerfiles/base.Dockerfile are those of all models
SIZE: dict[str, Any] = {"classes": 60, "skeleton": "ntu25", "people": 2, "window": 64, "smoke_window": 32, "smoke_batch": 2}
"""What the figures are measured at, by the placeholders of the templates."""


def new(name: str) -> int:
    """Write models/NAME and dockerfiles/NAME.Dockerfile: a small network that trains and passes every contract, to be replaced.

    Args:
        name: folder, command and image: lower-case letters, digits and underscores.
    """
    folder, dockerfile = scaffold(name)
    print(f"{folder}\n{dockerfile}\n")
    print(f"next: replace {folder / 'network.py'}; docs/adding-a-model.md goes on from here")
    print(f"      sal train {name} --recipe tiny_cpu --data FILE --device cpu")
    print(f"      pytest tests/contract/test_models.py -k {name}")
    return 0


def scaffold(name: str) -> tuple[Path, Path]:
    """Write the folder and the Dockerfile of model `name`, both or neither; returns their paths.

    Raises `ConfigError` for a name that no model can have or that is taken, `WriteError` if they cannot be written.
    """
    check(name)
    home = models.models_folder()
    folder, dockerfile = home / name, home.parent / "dockerfiles" / f"{name}.Dockerfile"
    for place in (folder, dockerfile):
        if place.exists() or place.is_symlink():
            raise ConfigError(f"{place.name} exists already", where=str(place), next_step="choose another name, or remove it")
    try:
        if not home.exists():
            home.mkdir(parents=True)
            (home / "__init__.py").write_text('"""Models, one folder each."""\n', encoding="utf-8")
        dockerfile.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=home) as staging:  # beside its place: the last step is a rename
            draft, image = Path(staging) / name, Path(staging) / dockerfile.name
            write(draft, name)
            image.write_text(filled(TEMPLATES / f"Dockerfile{SUFFIX}", {"name": name}), encoding="utf-8")
            draft.rename(folder)
            try:
                image.rename(dockerfile)
            except OSError:
                shutil.rmtree(folder)
                raise
    except OSError as error:
        raise WriteError(
            f"could not write the model: {error.strerror or error}", where=str(error.filename or folder),
            next_step="free some space or mend the permissions, then run the same command again",
        ) from error  # fmt: skip
    return folder, dockerfile


def check(name: str) -> None:
    """Raises `ConfigError` unless a model can be called `name`: a Python package, a command's word and an image tag at once."""
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"a model cannot be called {name!r}",
            expected="a lower-case letter, then at most 31 lower-case letters, digits and underscores, such as my_gcn",
        )
    if keyword.iskeyword(name) or name in RESERVED:
        what = "a word of Python" if keyword.iskeyword(name) else "the image that all models share"
        raise ConfigError(f"a model cannot be called {name!r}: that is {what}", next_step="choose another name")


def write(folder: Path, name: str) -> None:
    """Every file of the model's `folder`; its `model.toml` last, with what was measured on the others."""
    values: dict[str, Any] = {**SIZE, "name": name, "year": datetime.datetime.now(datetime.timezone.utc).year}
    sources = sorted((TEMPLATES / "model").rglob(f"*{SUFFIX}"))
    description = TEMPLATES / "model" / f"model.toml{SUFFIX}"
    for source in sources:
        if source != description:
            _write(source, folder, values)
    values |= measured(ModelCard(name, folder, {"title": name, "entry": "network:Network", "status": "experimental"}))
    for cache in folder.rglob("__pycache__"):
        shutil.rmtree(cache)
    _write(description, folder, values)


def _write(source: Path, folder: Path, values: dict[str, Any]) -> None:
    target = folder / source.relative_to(TEMPLATES / "model").with_suffix("")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(filled(source, values), encoding="utf-8")


def filled(template: Path, values: dict[str, Any]) -> str:
    """The text of `template` with its placeholders filled; one without a value is a `KeyError`."""
    return Template(template.read_text(encoding="utf-8")).substitute(values)


def measured(card: ModelCard) -> dict[str, str]:
    """Parameters, GFLOPs of a clip and the smoke test's loss of the network of `card` at `SIZE`, as TOML writes them."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from shared_data.skeletons import skeleton
    from smoke_tests.classifier import Smoke, check_network

    size = {"skeleton": SIZE["skeleton"], "people": SIZE["people"]}
    with torch.device("meta"):
        network = models.build(card, num_classes=SIZE["classes"], **size).eval()
        clip = torch.empty(1, 3, SIZE["window"], skeleton(SIZE["skeleton"]).joints, SIZE["people"])
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(clip)
    spec = Smoke(
        classes=SIZE["classes"], window=SIZE["smoke_window"], batch=SIZE["smoke_batch"], parameters=0, loss=0.0,
        loss_tolerance=0.0, recipe="smoke", model_args={}, **size,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        _, figures = check_network(card, spec, "cpu", Path(scratch))
    return {
        "parameters": f"{figures['parameters']:_}",
        "gflops": f"{counter.get_total_flops() / 1e9:.4g}",
        "loss": f"{figures['loss']:.6f}",
    }
