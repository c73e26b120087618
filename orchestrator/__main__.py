"""`python -m orchestrator smoke …` (as smoke_test_all.py), `run MODEL -- COMMAND…` and `sweep FILE`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from orchestrator.needed import refuse_without_packages

_USAGE = """usage: python -m orchestrator VERB …   (VERB --help)

  smoke     run every model's smoke test inside its image, as smoke_test_all.py
  run       run a command in a model's image: run ctrgcn -- train --recipe ntu60_xsub --data NTU60_CS.npz
  sweep     run many runs over several GPUs and Docker hosts: sweep FILE.yaml"""


def main(argv: Sequence[str]) -> int:
    """Run a verb; returns its exit code."""
    refuse_without_packages()
    from orchestrator import run_command, smoke_command, sweep_command
    from orchestrator.errors import guarded

    verb, *rest = argv or ["--help"]
    if verb == "smoke":
        return smoke_command.main(rest, "python -m orchestrator smoke")
    if verb == "run":
        return guarded(lambda: run_command.main(rest))
    if verb == "sweep":
        return guarded(lambda: sweep_command.main(rest))
    asked = verb in ("-h", "--help")
    print(_USAGE if asked else f"error: no verb {verb!r}\n{_USAGE}", file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
