"""Train or test LaSA or DeST: ``python3 main.py --config segment/smoke.yaml --data FOLDER``; see ``--help``."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)  # the repository, not this folder

from sal.segment import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main("lasa"))
