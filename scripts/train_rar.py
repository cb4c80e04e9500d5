"""Train RAR with its published command line; the same as train_ar.py.

accelerate launch scripts/train_rar.py config=configs/training/generator/rar.yaml experiment.output_dir=rar_b
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from train_ar import main  # noqa: E402

if __name__ == "__main__":
    main()
