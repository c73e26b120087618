"""An action for every frame: ``python3 action_segmentation.py --pretrained FILE --finetune-dataset pku_v2 --data F``."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)  # the repository, not this folder

from sal.selfsupervised_scripts import action_segmentation  # noqa: E402

if __name__ == "__main__":
    sys.exit(action_segmentation("usdrl"))
