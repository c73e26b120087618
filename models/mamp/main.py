"""Train or test MAMP: ``python3 main.py --config recipes/scratch_ntu60_xsub.yaml --data NTU60_CS.npz``; see ``--help``.

STARS: ``python3 main.py pretrain_clrtuning --config config/ntu60/pretext/clrtuning_xsub_merged.yaml --data NTU60_CS.npz``.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)  # the repository, not this folder

from sal.selfsupervised_scripts import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main("mamp"))
