"""Nearest neighbours among MAMP's or STARS' features: ``python3 knn_eval.py --data-path F --checkpoint FILE``."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)  # the repository, not this folder

from sal.selfsupervised_scripts import knn_eval  # noqa: E402

if __name__ == "__main__":
    sys.exit(knn_eval("mamp"))
