"""Which models have an image: the folders of models/ with a model.toml and a Dockerfile. Nothing is imported."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path

from orchestrator.errors import EXIT_USAGE, OrchestratorError

ROOT = Path(__file__).resolve().parent.parent
IMAGE = "skeleton-lab"
"""Name of all images before the colon, unless SAL_IMAGE gives another: a second set beside the first."""


def discover(root: Path = ROOT) -> list[str]:
    """Names of all models with a Dockerfile, sorted."""
    found = (file.parent.name for file in sorted(root.glob("models/*/model.toml")))
    return [name for name in found if (root / "dockerfiles" / f"{name}.Dockerfile").is_file()]


def choose(names: Sequence[str], root: Path = ROOT) -> list[str]:
    """The named models, each once, in the order given, or all; an unknown name raises and tells the nearest.

    A hyphen may stand for an underscore: msf-gzssar is msf_gzssar.
    """
    known = discover(root)
    names = [name.replace("-", "_") if name.replace("-", "_") in known else name for name in names]
    for name in names:
        if name in known:
            continue
        if (root / "models" / name / "model.toml").is_file():
            raise OrchestratorError(
                f"models/{name} has no dockerfiles/{name}.Dockerfile",
                "add one (docs/docker.md shows how)",
                exit_code=EXIT_USAGE,
            )
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise OrchestratorError(f"no model is called {name!r}{hint}", f"models: {', '.join(known)}", exit_code=EXIT_USAGE)
    if not known:
        raise OrchestratorError(f"no models with a Dockerfile under {root}", "run this in a checkout of the repository")
    return list(dict.fromkeys(names)) or known


def image_of(name: str) -> str:
    """The image tag of a model."""
    return f"{os.environ.get('SAL_IMAGE') or IMAGE}:{name}"
