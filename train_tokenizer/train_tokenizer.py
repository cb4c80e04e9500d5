"""Train stage 1 or stage 2 of the tokenizer.

torchrun --nproc_per_node=8 train_tokenizer/train_tokenizer.py config=configs/tokenizer_stage1.yaml
"""

import sys
from pathlib import Path

# Python puts this script's folder first on the path, where `train_tokenizer` is this file, not the package.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from train_tokenizer.config import TokenizerConfig  # noqa: E402
from train_tokenizer.trainer import TokenizerTrainer  # noqa: E402
from utils.config import load_config  # noqa: E402
from utils.errors import entry_point  # noqa: E402


@entry_point
def main() -> None:
    TokenizerTrainer(load_config(TokenizerConfig, __doc__)).run()


if __name__ == "__main__":
    main()
