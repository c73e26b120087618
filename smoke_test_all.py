#!/usr/bin/env python3
"""Run every model's smoke test inside its image: `python smoke_test_all.py [NAME…] [--use-gpus]`; see --help."""

import sys

from orchestrator.needed import refuse_without_packages

if __name__ == "__main__":
    refuse_without_packages()
    from orchestrator.smoke_command import main

    sys.exit(main())
