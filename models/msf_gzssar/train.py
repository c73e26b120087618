"""Stage 1 of MSF-GZSSAR alone, or 2 with ``--phase val``: ``python3 train.py --ntu 60 --ss 5 --wdir results/5_r``."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)  # the repository, not this folder

from sal.zeroshot_scripts import train  # noqa: E402

if __name__ == "__main__":
    sys.exit(train("msf_gzssar"))
