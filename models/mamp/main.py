"""Train or test MAMP: ``python3 main.py --config recipes/ntu60_xsub.yaml --data NTU60_CS.npz``; see ``--help``."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)  # the repository, not this folder

from sal.train import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main("mamp"))
