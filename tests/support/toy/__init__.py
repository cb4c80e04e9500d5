"""Models, images, token caches and configurations of toy size."""

from tests.support.toy.caches import write_jsonl, write_token_cache
from tests.support.toy.configs import MASKGIT_VQ, NO_DROPOUT, write_ar_config, write_tokenizer_config
from tests.support.toy.images import write_images
from tests.support.toy.models import generator, maskgit_vq, tokenizer
from tests.support.toy.sizes import CODEBOOK_SIZE, IMAGE_SIZE, NUM_CLASSES, NUM_CODES, PATCH_SIZE

__all__ = [
    "CODEBOOK_SIZE",
    "IMAGE_SIZE",
    "MASKGIT_VQ",
    "NO_DROPOUT",
    "NUM_CLASSES",
    "NUM_CODES",
    "PATCH_SIZE",
    "generator",
    "maskgit_vq",
    "tokenizer",
    "write_ar_config",
    "write_images",
    "write_jsonl",
    "write_token_cache",
    "write_tokenizer_config",
]
