"""Encode the images of a data set once into a packed token cache of MaskGIT-VQ's codes, or check a cache.

torchrun --nproc_per_node=8 scripts/pretokenization.py --ten_crop --data_path IMAGENET --cached_path cache_maskgit_vq

As pretokenization.py in the root, with other defaults. The weights lie in the working directory, as published.
"""

import sys
from pathlib import Path

# The file in the root has the name of this one: the repository must come before this folder.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from pretokenization import Defaults, main  # noqa: E402

if __name__ == "__main__":
    defaults = Defaults("configs/maskgit_vq.yaml", "maskgit-vqgan-imagenet-f16-256.bin", cached_path="cache_maskgit_vq")
    main(defaults, __doc__.splitlines()[0])
