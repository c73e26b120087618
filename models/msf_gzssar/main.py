"""MSF-GZSSAR, all stages: ``python3 main.py run --ntu 60 --ss 5``; verbs: run, text, published; see ``--help``."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)  # the repository, not this folder

from sal.zeroshot_scripts import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main("msf_gzssar"))
