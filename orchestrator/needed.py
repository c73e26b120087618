"""What the host side needs besides Python, asked for before anything of it is imported. This module needs nothing itself."""

from __future__ import annotations

import importlib.util
import sys

PACKAGES = ("docker", "requests", "rich", "yaml")
_USAGE = 2  # orchestrator.errors cannot be imported without these


def refuse_without_packages() -> None:
    """Leave with a sentence and exit code 2 where one of them is not installed."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        told = f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed for {sys.executable}"
        print(f"error: {told}\n  next: `. .venv/bin/activate`, or `pip install -e .`, in the checkout", file=sys.stderr)
        sys.exit(_USAGE)
