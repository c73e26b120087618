"""Fine-tune MAMP's or STARS' encoder: ``python3 main_finetune.py --config NAME --finetune FILE --data F``; see ``--help``."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)  # the repository, not this folder

from sal.selfsupervised_scripts import main_finetune  # noqa: E402

if __name__ == "__main__":
    sys.exit(main_finetune("mamp"))
