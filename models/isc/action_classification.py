"""A linear classifier on Skeleton-Contrastive's features: ``python3 action_classification.py --pretrained FILE --data F``."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)  # the repository, not this folder

from sal.selfsupervised_scripts import action_classification  # noqa: E402

if __name__ == "__main__":
    sys.exit(action_classification("isc"))
