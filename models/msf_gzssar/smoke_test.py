"""Does MSF-GZSSAR work here? ``python3 smoke_test.py --device cpu``; no data is read."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)  # the repository, not this folder

from sal.zeroshot_scripts import smoke  # noqa: E402

if __name__ == "__main__":
    sys.exit(smoke("msf_gzssar"))
