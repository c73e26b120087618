"""Train, test or predict with LaSA or DeST: what `sal segment` does, with the model filled in; see ``--help``."""

import sys
from importlib import import_module
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)  # the repository, not this folder


def run() -> int:
    """`sal segment` of this model; returns its exit code."""
    return int(import_module("sal.segment").main("lasa"))


if __name__ == "__main__":
    sys.exit(run())
