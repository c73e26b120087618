"""What torch sees of this machine's GPUs: ``python3 check_gpu.py``. Without a GPU it says so and why, and that is no error.

Always leaves with exit code 0. `sal doctor` looks at more than the GPUs.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)  # the repository, not this folder

from engine.environment import describe  # noqa: E402
from engine.gpus import findings  # noqa: E402


def main() -> int:
    """Print the versions, the GPUs, and what keeps torch from using them."""
    machine = describe()
    print(f"torch:          {machine['torch']}")
    print(f"CUDA of torch:  {machine['cuda'] or 'none'}")
    print(f"cuDNN:          {machine['cudnn'] or 'not in use'}")
    print(f"CUDA available: {'yes' if machine['gpus'] else 'no'}")
    print(f"GPUs:           {len(machine['gpus'])}")
    for number, gpu in enumerate(machine["gpus"]):
        print(f"  {number}: {gpu['name']}, {gpu['memory_gib']} GiB, compute capability {gpu['capability']}")
    for finding in findings():
        print(f"{finding.severity}: {finding.message}\n  next: {finding.fix}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
