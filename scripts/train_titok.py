"""Train a stage of TiTok's tokenizer with its published command line; the same as train_tokenizer/train_tokenizer.py.

accelerate launch scripts/train_titok.py config=configs/training/TiTok/stage1/titok_b64.yaml
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from train_tokenizer.train_tokenizer import main  # noqa: E402

if __name__ == "__main__":
    main()
