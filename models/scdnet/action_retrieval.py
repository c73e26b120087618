"""Nearest neighbours among SCD-Net's features: ``python3 action_retrieval.py --pretrained FILE --data F``."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)  # the repository, not this folder

from sal.selfsupervised_scripts import action_retrieval  # noqa: E402

if __name__ == "__main__":
    sys.exit(action_retrieval("scdnet"))
