"""Train a masked generator of TiTok with its published command line; the same as train_ar.py.

accelerate launch scripts/train_maskgit.py config=configs/training/generator/maskgit.yaml \\
    experiment.output_dir=titok_b64_maskgit experiment.tokenizer_checkpoint=tokenizer_titok_b64.bin
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from train_ar import main  # noqa: E402

if __name__ == "__main__":
    main()
