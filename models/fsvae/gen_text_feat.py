"""Text features on the CPU: ``python3 gen_text_feat.py --weights ViT-B-32.pt``; see ``--help``."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)  # the repository, not this folder

from sal.zeroshot_scripts import text  # noqa: E402

if __name__ == "__main__":
    sys.exit(text("fsvae"))
