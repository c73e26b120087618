"""Learn Skeleton-Contrastive's encoders without labels: ``python3 main_moco_inter_skeleton.py --data F``; see ``--help``."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)  # the repository, not this folder

from sal.selfsupervised_scripts import pretraining  # noqa: E402

if __name__ == "__main__":
    sys.exit(pretraining("isc", script="main_moco_inter_skeleton.py"))
